"""What every change is."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from zdmigrate.errors import UsageError
from zdmigrate.plan import RowWork
from zdmigrate.planning.parts import ChangePlan, Scope, Target
from zdmigrate.sqltext import tokens, unfinished


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class OneShot:
    """The equivalent DDL of a change for a fresh database.

    `there` says whether the new shape is there already (then nothing is to do), or the old one; None: it cannot be
    told, and the migration's other changes decide, unless `probe` can: a boolean query. `functions` are called with the
    connection, after the statements. `fills` are rows whose values functions compute; then come the `last` statements.
    """

    statements: tuple[str, ...]
    there: bool | None
    probe: str | None
    functions: tuple[Callable[[Any], Any], ...]
    fills: tuple[RowWork, ...]
    last: tuple[str, ...]

    def __init__(
        self,
        *statements: str,
        there: bool | None,
        probe: str | None = None,
        functions: tuple[Callable[[Any], Any], ...] = (),
        fills: tuple[RowWork, ...] = (),
        last: tuple[str, ...] = (),
    ) -> None:
        object.__setattr__(self, "statements", statements)
        object.__setattr__(self, "there", there)
        object.__setattr__(self, "probe", probe)
        object.__setattr__(self, "functions", functions)
        object.__setattr__(self, "fills", fills)
        object.__setattr__(self, "last", last)


class Change(abc.ABC):
    """One declarative schema change.

    Subclasses are frozen values. `plan` decides, purely, from a catalog snapshot; it never connects to anything.
    """

    @abc.abstractmethod
    def targets(self) -> tuple[Target, ...]:
        """What the change claims. Two changes in flight must not overlap."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """The normalised change as JSON values: the migration's checksum is made from it."""

    @abc.abstractmethod
    def plan(self, scope: Scope) -> ChangePlan:
        """Declare the new shape to ``scope.table(…)``, and return what else the change needs.

        What it asks of the server (``scope.expression``, ``scope.type_name``, ``scope.trial``) may be unknown at first:
        it is then planned again with the answers, so it must not decide anything for good by them.

        Raises:
            zdmigrate.errors.Unsafe: the change does not fit the live catalog.
        """

    @abc.abstractmethod
    def one_shot(self, scope: Scope) -> OneShot:
        """The equivalent DDL for a fresh database, in which the changes before this one are done.

        Raises:
            zdmigrate.errors.Drift: the database holds a mixture of both shapes.
        """

    def functions(self) -> Mapping[str, Callable[[Any], Any]]:
        """The functions that its steps call, by the references that the steps hold."""
        return {}


def require_name(value: object, what: str) -> str:
    """`value`, if it can be an identifier of PostgreSQL (1 to 63 bytes, no NUL)."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise UsageError(f"{what} must be a name, got {value!r}")
    if len(value.encode()) > 63:
        raise UsageError(f"{what} {value!r} is longer than 63 bytes")
    return value


def declared_sql(text: object, what: str) -> str | None:
    """`text`, if it is one SQL expression over a row (no query, no second statement); None stays None."""
    if text is None:
        return None
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise UsageError(f"{what} must be a SQL expression, got {text!r}")
    words = {token.name for token in tokens(text) if token.kind == "word"}
    if "select" in words or any(token.text == ";" for token in tokens(text) if token.kind == "other"):
        raise UsageError(f"{what} must be an expression over the row's own columns, without SELECT or ';'")
    return finished(text, what)


def finished(text: str, what: str) -> str:
    """SQL that can be put between brackets: it neither closes them nor hides what follows in a comment."""
    problem = unfinished(text)
    if problem is not None:
        raise UsageError(f"{what} must be SQL that is complete in itself, and in {text!r} {problem}")
    return text


def type_text(type_: object, what: str) -> str:
    """A type as SQL: what SQLAlchemy compiles its types to, or text that is declared to be SQL."""
    if isinstance(type_, str) and type_.strip():
        return finished(type_, f"{what}: the type")
    import sqlalchemy as sa
    from sqlalchemy.dialects import postgresql

    made = type_() if isinstance(type_, type) and issubclass(type_, sa.types.TypeEngine) else type_
    if not isinstance(made, sa.types.TypeEngine) or isinstance(made, sa.types.NullType):
        raise UsageError(f"{what}: the type must be a SQLAlchemy type or the text of one, got {type_!r}")
    # Not the paramstyle of a driver, for which every percent sign would be doubled.
    return made.compile(dialect=postgresql.dialect(paramstyle="named"))  # type: ignore[no-untyped-call]


def require_flag(value: object, what: str) -> bool:
    """`value`, if it is True or False: any text would be true."""
    if not isinstance(value, bool):
        raise UsageError(f"{what} must be True or False, got {value!r}")
    return value


def text_or_none(value: object, what: str) -> str | None:
    """`value`, if it is text (without NUL, which no server takes) or None."""
    if value is not None and (not isinstance(value, str) or "\0" in value):
        raise UsageError(f"{what} must be text, got {value!r}")
    return value
