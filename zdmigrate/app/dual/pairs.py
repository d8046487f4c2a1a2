"""Two columns of one table that hold the same in two shapes, and how the value of one becomes the other's."""

from __future__ import annotations

import copy
import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.ext.mutable import MutableBase
from sqlalchemy.sql.elements import ClauseElement, Null
from sqlalchemy.sql.expression import FunctionElement

from zdmigrate.app.ignoring import is_ignored
from zdmigrate.sqltext import replace_columns

Function = Callable[[Any], Any] | str
"""From one value to the other: Python, or a SQL expression over the columns of the row."""
Other = Callable[[sa.Column[Any]], ClauseElement | None]
"""Another column of the row in a statement; None where it cannot be said."""


class Absent(enum.Enum):
    """Where no value is: None is one."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT
_CHANGEABLE = (dict, list, set, bytearray, MutableBase)


class FunctionFailed(Exception):
    """What a function of the application raised is the cause: it reaches the caller, whatever else is kept from him."""


class Unsayable(Exception):
    """A value for which the other side's cannot be said. The message goes to the log."""


class Over(FunctionElement[Any]):
    """A migration's SQL expression, with values in the place of columns. The pieces are its cache key."""

    name = "zdmigrate_over"
    inherit_cache = True

    def __init__(self, type_: Any, *pieces: Any) -> None:
        super().__init__(*pieces)
        self.type = type_


@compiles(Over)
def _over(element: Over, compiler: Any, **kw: Any) -> str:
    return f"({''.join(compiler.process(piece, **kw) for piece in element.clauses)})"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """From the `source` column to the `target`. Without a function and a text the value is the same.

    `text` calls the source `called`, and the others by their names in the database.
    """

    source: sa.Column[Any]
    target: sa.Column[Any]
    function: Callable[[Any], Any] | None = None
    text: str | None = None
    called: str = ""

    @property
    def same(self) -> bool:
        """Whether the target's value is the source's."""
        return self.function is None and self.text is None

    @property
    def in_python(self) -> bool:
        """Whether values can be converted here."""
        return self.function is not None or self.text is None

    def of(self, value: Any, other: Other) -> Any:
        """The target's value for a source's: both may be SQL expressions.

        Raises:
            Unsayable: it cannot be said.
            FunctionFailed: the application's function raised.
        """
        if not is_sql(value):
            return self.plain(value) if self.in_python else self.over(sa.cast(value, self.source.type), other)
        if isinstance(value, Null) and self.function is not None:
            return self.plain(None)
        if self.text is not None:
            return self.over(value, other)
        if self.function is None:
            return value
        raise Unsayable(f"{self.source} is set to a SQL expression, and only a Python function is known for it")

    def plain(self, value: Any) -> Any:
        """The target's value for one that is no SQL expression. Where the function cannot take None, None stays None.

        Raises:
            FunctionFailed: the application's function raised.
        """
        if self.function is None:
            # Of its own: who changes the one in place must not change the other unseen.
            return copy.deepcopy(value) if isinstance(value, _CHANGEABLE) else value
        try:
            return self.function(value)
        except Exception as error:
            if value is None and isinstance(error, TypeError | AttributeError):
                return None
            raise FunctionFailed from error

    def over(self, value: Any, other: Other) -> Over:
        """The expression, with `value` for the source and `other` for what else it reads.

        Raises:
            Unsayable: it reads what cannot be said.
        """
        assert self.text is not None
        columns = {column.name: column for column in self.source.table.columns}
        found: list[Any] = []

        def note(name: str) -> str | None:
            if name != self.called and name not in columns:
                return None
            piece = value if name == self.called else other(columns[name])
            if piece is None:
                raise Unsayable(f"{self.target} is computed from {name} as well, and the statement does not set it")
            found.append(piece)
            return "\0"

        first, *rest = replace_columns(self.text, note).split("\0")
        pieces: list[Any] = [first]
        for piece, text in zip(found, rest, strict=True):
            pieces += [piece, text]
        made = [sa.literal_column(piece) if isinstance(piece, str) else piece for piece in pieces if piece != ""]
        return Over(self.target.type, *made)


class Pair:
    """An old and a new column side by side, and the ways between them."""

    __slots__ = ("closely", "down", "inserts", "new", "old", "table", "up", "updates")

    def __init__(self, up: Way, down: Way) -> None:
        self.up, self.down = up, down
        self.old, self.new = up.source, up.target
        self.table = self.old.table
        both = (self.old, self.new)
        self.inserts = any(column.default is not None for column in both)
        self.updates = any(column.onupdate is not None for column in both)
        self.closely = self.inserts or any(column.type.should_evaluate_none for column in both)
        """Whether None means something else than nothing."""

    def inserted(self, old: Any, new: Any, other: Other) -> tuple[Any, Any]:
        """What a new row that is given these gets as well; `ABSENT`: nothing.

        The side that differs from its default is the one that was written, as in the database's own triggers: models
        that are dataclasses set every attribute. Where both were, both stay.
        """
        if old is ABSENT and new is ABSENT:
            return self._unset(other, "default") if self.inserts else (ABSENT, ABSENT)
        if new is ABSENT:
            return ABSENT, self.up.of(old, other)
        if old is ABSENT:
            return self.down.of(new, other), ABSENT
        blank = is_blank(new, self.new)
        if blank != is_blank(old, self.old):
            return (ABSENT, self.up.of(old, other)) if blank else (self.down.of(new, other), ABSENT)
        if blank and (old is None) != (new is None):
            return (ABSENT, self.up.of(old, other)) if new is None else (self.down.of(new, other), ABSENT)
        return ABSENT, ABSENT

    def updated(self, old: Any, new: Any, other: Other) -> tuple[Any, Any]:
        """What a row gets as well whose columns are set to these; `ABSENT`: nothing."""
        if old is ABSENT and new is ABSENT:
            return self._unset(other, "onupdate") if self.updates else (ABSENT, ABSENT)
        if new is ABSENT:
            return ABSENT, self.up.of(old, other)
        return (self.down.of(new, other), ABSENT) if old is ABSENT else (ABSENT, ABSENT)

    def _unset(self, other: Other, kind: Literal["default", "onupdate"]) -> tuple[Any, Any]:
        """One value for both sides: their own defaults would be called once for each, and differ."""
        value = _called(getattr(self.old, kind))
        if value is not ABSENT:
            return value, self.up.of(value, other)
        value = _called(getattr(self.new, kind))
        return (ABSENT, ABSENT) if value is ABSENT else (self.down.of(value, other), value)


def is_sql(value: Any) -> bool:
    """Whether a value is an expression that the server computes."""
    return isinstance(value, ClauseElement) or hasattr(value, "__clause_element__")


def as_sql(value: Any, column: sa.Column[Any]) -> Any:
    """A column's value within an expression."""
    return value if isinstance(value, ClauseElement) else sa.cast(value, column.type)


def without_value(column: sa.Column[Any]) -> ClauseElement | None:
    """A column of a new row that no value is given for: NULL, if it has no default."""
    if column.default is not None or column.server_default is not None or column.identity is not None:
        return None
    return sa.cast(sa.null(), column.type)


def is_blank(value: Any, column: sa.Column[Any]) -> bool:
    """Whether a value is what a new row has without being told: NULL, or the column's constant default."""
    if value is None or isinstance(value, Null):
        return True
    default = column.default
    if default is None or not getattr(default, "is_scalar", False) or is_sql(value):
        return False
    return bool(column.type.compare_values(value, getattr(default, "arg", None)))


def _called(default: Any) -> Any:
    """The value of a default. One that looks at the rest of the row, or is a sequence's, is SQLAlchemy's business."""
    if default is None or default.is_sequence:
        return ABSENT
    if not default.is_callable:
        return default.arg
    try:
        return default.arg(None)
    except (AttributeError, TypeError):
        return ABSENT


def way(source: sa.Column[Any], target: sa.Column[Any], function: Function | None) -> Way:
    """By a Python function, a SQL expression, or the value as it is."""
    if isinstance(function, str):
        return Way(source=source, target=target, text=function, called=source.name)
    return Way(source=source, target=target, function=function)


def column_of(given: Any) -> sa.Column[Any]:
    """The column of a table that an attribute maps, or that is given itself.

    Raises:
        ValueError: it is something else.
    """
    found = given.property.columns[0] if isinstance(given, orm.InstrumentedAttribute) else given
    if not isinstance(found, sa.Column) or not isinstance(found.table, sa.Table):
        raise ValueError(  # noqa: TRY004  # as whatever else is wrong with a declaration
            f"{given!r} is neither an attribute that maps a column nor a column of a table"
        )
    return found


def alike(one: sa.types.TypeEngine[Any], other: sa.types.TypeEngine[Any]) -> bool:
    """Whether a value of the one is the same in Python as one of the other, so that the server at most rounds it."""
    if isinstance(one, sa.ARRAY) and isinstance(other, sa.ARRAY):
        return alike(one.item_type, other.item_type)
    known = _python(one)
    if known is not _python(other):
        return False
    if known is None:
        decorated = isinstance(one, sa.TypeDecorator) or isinstance(other, sa.TypeDecorator)
        related = isinstance(one, type(other)) or isinstance(other, type(one))
        return type(one) is type(other) if decorated else related
    return getattr(one, "timezone", False) == getattr(other, "timezone", False)


def _python(type_: sa.types.TypeEngine[Any]) -> type[Any] | None:
    """The class of a type's values; None where nobody knows."""
    try:
        found = type_.python_type
    except NotImplementedError:  # up to 2.0
        return None
    return None if found in (object, dict) else found  # of JSON one or the other


def paired(up: Way, down: Way) -> Pair:
    """A pair, if both can be written in one statement.

    Raises:
        ValueError: they cannot.
    """
    old, new = up.source, up.target
    if old.table is not new.table or old is new:
        raise ValueError(f"{old} and {new} must be two columns of one table")
    for column in (old, new):
        if is_ignored(column):
            raise ValueError(f"{column} is ignored (info=IGNORED), so nothing is written to it: map it")
        if column.computed is not None:
            raise ValueError(f"{column} is a generated column, which nobody can write")
        if column.identity is not None or isinstance(column.default, sa.Sequence) or _numbered(column):
            raise ValueError(
                f"{column} is numbered by the server, which tells the number only when the row is there: nobody can write it "
                'to another column in the same statement. Leave sync="app" out of the migration'
            )
    untyped = isinstance(old.type, sa.types.NullType) or isinstance(new.type, sa.types.NullType)
    if (up.same or down.same) and not untyped and not alike(old.type, new.type):
        raise ValueError(
            f"{old} ({old.type!r}) and {new} ({new.type!r}) have different values in Python, and what the one is written with "
            "cannot be written to the other: give up= and down="
        )
    return Pair(up, down)


def _numbered(column: sa.Column[Any]) -> bool:
    """Whether it is a key that SQLAlchemy makes a ``serial``."""
    alone = len(column.table.primary_key) == 1 and column.primary_key
    given = column.default is not None or bool(column.foreign_keys) or column.autoincrement is False
    return alone and not given and isinstance(column.type, sa.Integer)


def by_table(pairs: Iterable[Pair]) -> Mapping[Any, tuple[Pair, ...]]:
    """The pairs of each table."""
    found: dict[Any, tuple[Pair, ...]] = {}
    for pair in pairs:
        found[pair.table] = (*found.get(pair.table, ()), pair)
    return found
