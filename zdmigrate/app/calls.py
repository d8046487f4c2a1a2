"""The functions of the control schema that applications call, as statements for any driver. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from zdmigrate.sqltext import ident

Kind = Literal["text", "integer", "interval", "jsonb", "text[]"]

_CASTS: dict[Kind, str] = {
    "text": "CAST({} AS text)",
    "integer": "CAST({} AS integer)",
    "interval": "make_interval(secs => CAST({} AS double precision))",
    "jsonb": "CAST(CAST({} AS text) AS jsonb)",
    "text[]": "ARRAY(SELECT jsonb_array_elements_text(CAST(CAST({} AS text) AS jsonb)))",
}


class Argument(NamedTuple):
    """An argument. Intervals are seconds; what is ``jsonb`` or an array is given as Python has it."""

    kind: Kind
    value: Any

    def sent(self) -> Any:
        """As a driver takes it: text, a number or None."""
        if self.kind in ("jsonb", "text[]"):
            return None if self.value is None else json.dumps(self.value)
        return float(self.value) if self.kind == "interval" else self.value


class Call(NamedTuple):
    """A call of one function, which returns text, or nothing."""

    schema: str
    function: str
    arguments: Sequence[Argument]

    @property
    def formatted(self) -> str:
        """The statement with ``%s`` for each argument (psycopg, psycopg2, pg8000)."""
        return self._sql(ident(self.schema, self.function).replace("%", "%%"), lambda _: "%s")

    @property
    def numbered(self) -> str:
        """The statement with ``$1``, ``$2``, … (asyncpg)."""
        return self._sql(ident(self.schema, self.function), lambda index: f"${index + 1}")

    @property
    def values(self) -> list[Any]:
        """What is sent for the arguments."""
        return [argument.sent() for argument in self.arguments]

    def _sql(self, function: str, place: Callable[[int], str]) -> str:
        given = (_CASTS[argument.kind].format(place(index)) for index, argument in enumerate(self.arguments))
        return f"SELECT CAST({function}({', '.join(given)}) AS text)"
