"""A client as an application's driver is one: it prepares, executes, and keeps what it has prepared.

Through libpq's own calls, because drivers hide just what matters here: which types are declared for the parameters,
and what is prepared when (manual, sections 34.3 and 55.2.3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Self

import psycopg
from psycopg import postgres, pq
from psycopg.conninfo import make_conninfo

from zdmigrate.errors import ServerUnavailable

__all__ = ["Answer", "Client", "Failure", "Rows"]

_OPTIONS = "-c statement_timeout=10000 -c lock_timeout=10000 -c idle_in_transaction_session_timeout=0 -c jit=off"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What the server said."""

    sqlstate: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A result: the columns' names, the rows as text, how many rows were returned or touched, and how many columns a
    COPY transfers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]
    count: int
    copied: int = 0


Answer = Rows | Failure
_EXPLAINED = "zd_explained"
_KEPT_ROWS = 50


class Client:
    """One connection. Everything happens in one transaction, behind a savepoint, unless it is committed."""

    def __init__(self, conninfo: str) -> None:
        self._connection = psycopg.connect(
            make_conninfo(conninfo, options=_OPTIONS, application_name="zdmigrate check", client_encoding="UTF8"),
            autocommit=True,
        )
        self._pq = self._connection.pgconn
        self.executions = 0
        self._defers: bool | None = None
        self._depth = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @property
    def connection(self) -> psycopg.Connection[tuple[object, ...]]:
        """The same session, for other questions."""
        return self._connection

    def run(self, sql: str) -> Answer:
        """A command without parameters."""
        return self._answer(self._pq.exec_(sql.encode()))

    @property
    def defers(self) -> bool:
        """Whether anything may be checked at COMMIT only."""
        if self._defers is None:
            answer = self.run(
                "SELECT FROM pg_constraint WHERE condeferrable UNION ALL SELECT FROM pg_trigger WHERE tgdeferrable LIMIT 1"
            )
            self._defers = isinstance(answer, Failure) or answer.count > 0
        return self._defers

    def begin(self) -> None:
        """A transaction whose start `back` returns to; inside of one, a part of it."""
        self.run(f"SAVEPOINT zd_{self._depth}" if self._depth else "BEGIN; SAVEPOINT zd_0")
        self._depth += 1

    def back(self) -> None:
        """Undo everything since `begin`. The unnamed statement is gone then, as after every `run`."""
        if isinstance(self.run(f"ROLLBACK TO SAVEPOINT zd_{self._depth - 1}"), Failure):
            self._begin_again()

    def _begin_again(self) -> None:
        """After a statement that has ended the transaction itself."""
        depth, self._depth = self._depth, 0
        self.run("ROLLBACK")
        for _ in range(depth):
            self.begin()

    def end(self) -> None:
        """Undo everything since `begin`, and end it."""
        self._depth -= 1
        self.run(f"ROLLBACK TO SAVEPOINT zd_{self._depth}" if self._depth else "ROLLBACK")

    def prepare(self, name: str, sql: str, types: Sequence[str] = ()) -> Failure | None:
        """Keep `sql` prepared under `name`; `types` are declared types by their names in pg_type."""
        self.executions += 1
        answer = self._answer(self._pq.prepare(name.encode(), sql.encode(), [oid(type_) for type_ in types]))
        return answer if isinstance(answer, Failure) else None

    def parameter_types(self, name: str) -> tuple[int, ...]:
        """What the server takes a prepared statement's parameters for."""
        described = self._pq.describe_prepared(name.encode())
        return tuple(described.param_type(number) for number in range(described.nparams))

    def execute(self, name: str, values: Sequence[str | None] = ()) -> Answer:
        """Execute what was prepared."""
        self.executions += 1
        encoded = [None if value is None else value.encode() for value in values]
        return self._answer(self._pq.exec_prepared(name.encode(), encoded))  # type: ignore[arg-type]  # NULLs are fine

    def explain(self, sql: str, types: Sequence[str] = ()) -> Failure | None:
        """Plan a statement for any values, and look whether this role may execute it."""
        self.run("SET LOCAL plan_cache_mode = force_generic_plan")
        refused = self.prepare(_EXPLAINED, sql, types)
        if refused is not None:
            return refused
        nulls = ", ".join(["NULL"] * len(self.parameter_types(_EXPLAINED)))
        answer = self.run(f"EXPLAIN EXECUTE {_EXPLAINED}{f' ({nulls})' if nulls else ''}")
        if isinstance(answer, Failure):
            self.back()
        self.forget(_EXPLAINED)
        return answer if isinstance(answer, Failure) else None

    def forget(self, name: str) -> None:
        """The statement is not prepared any more."""
        self.run(f'DEALLOCATE "{name}"')

    def _answer(self, result: pq.abc.PGresult) -> Answer:
        if result.status in (pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT):
            return self._end_copy(result)
        if result.status in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.EMPTY_QUERY):
            columns = tuple((result.fname(i) or b"").decode() for i in range(result.nfields))
            kept = range(min(result.ntuples, _KEPT_ROWS))
            rows = tuple(tuple(_text(result.get_value(row, i)) for i in range(result.nfields)) for row in kept)
            return Rows(columns=columns, rows=rows, count=max(result.ntuples, result.command_tuples or 0))
        if self._pq.status != pq.ConnStatus.OK:
            raise ServerUnavailable(
                "the scratch server went away in the middle of the check",
                hint="look at its log, and run the check again",
            )
        return Failure(
            sqlstate=(result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode() or "08006",
            message=(result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or self._pq.error_message).decode().strip(),
        )

    def _end_copy(self, result: pq.abc.PGresult) -> Answer:
        """COPY was accepted; nothing is sent, and what is received is read to its end."""
        if result.status == pq.ExecStatus.COPY_IN:
            self._pq.put_copy_end()
        else:
            while self._pq.get_copy_data(0)[0] > 0:
                pass
        answers = [self._answer(each) for each in self._results()]
        transferred = Rows(columns=(), rows=(), count=0, copied=result.nfields)
        return next((a for a in answers if isinstance(a, Failure)), transferred)

    def _results(self) -> Iterator[pq.abc.PGresult]:
        while (result := self._pq.get_result()) is not None:
            yield result


def oid(name: str) -> int:
    """The type's number; 0, "let the server decide", for one that drivers do not know either."""
    base = name.removeprefix("_")
    info = postgres.types.get(base)
    if info is None or base == "unknown":
        return 0
    return info.oid if base == name else info.array_oid


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")
