"""Footprints: what one version of an application needs of the database.

A footprint is a file that is committed or kept as a build artifact, so that proving something about a version does not
need its code. It is sorted and versioned, so that two of them can be compared, and holds no literal of a statement and
no value of a parameter unless somebody asked for them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from zdmigrate.errors import UsageError

__all__ = ["FORMAT", "Footprint", "MappedColumn", "MappedTable", "Parameter", "Reference", "Statement"]

FORMAT = 1
PLACES = 2
"""So many places are kept of those where a statement was recorded."""
SAMPLES = 3
"""So many values are kept of a parameter, where values are kept at all."""

Filled = Literal["", "server", "client", "generated"]
"""Who gives a column its value where the application does not: nobody, the server (a default, an identity, a serial), the
model (a Python default, which is sent), or the server alone (it refuses to be given one)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MappedColumn:
    """A column that a version maps. `type` is its DDL, empty where the models do not say it; `labels` are those of an
    enum that the version can load."""

    name: str
    type: str
    nullable: bool = True
    filled: Filled = ""
    labels: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A foreign key that the models declare."""

    columns: tuple[str, ...]
    table: str
    remote: tuple[str, ...]
    schema: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MappedTable:
    """A table or view that a version maps. Without `schema` the search path finds it.

    `key` is the primary key, `unique` are the other sets of columns that `ON CONFLICT` can name. `identities` are the
    values of `discriminator` for which there is a class (single-table and joined inheritance).
    """

    name: str
    schema: str | None = None
    columns: tuple[MappedColumn, ...] = ()
    key: tuple[str, ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()
    references: tuple[Reference, ...] = ()
    discriminator: str | None = None
    identities: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """What was seen of a parameter.

    `types` are the types that the driver declares, by their names in pg_type (``int4``, ``_text``), ``unknown`` where
    it leaves the type to the server. `null`: None was given at least once. `longest`: characters or bytes of the
    longest text, elements of the longest array. `samples` are values as the server reads them, kept only on demand.
    """

    types: tuple[str, ...] = ()
    null: bool = False
    longest: int = 0
    samples: tuple[str, ...] = ()

    def merged(self, other: Parameter) -> Parameter:
        """What was seen by either."""
        return Parameter(
            types=_union(self.types, other.types),
            null=self.null or other.null,
            longest=max(self.longest, other.longest),
            samples=_union(self.samples, other.samples)[:SAMPLES],
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A statement as the server sees it, with ``$1`` for parameters and for literals.

    `prepared`: whether the driver may keep it prepared on the server. `places` are ``file:line``, relative to the
    directory of the recording.
    """

    sql: str
    parameters: tuple[Parameter, ...] = ()
    prepared: bool = True
    places: tuple[str, ...] = ()

    def merged(self, other: Statement) -> Statement:
        """The same text, seen twice."""
        pairs = zip(self.parameters, other.parameters, strict=True)
        return Statement(
            sql=self.sql,
            parameters=tuple(a.merged(b) for a, b in pairs),
            prepared=self.prepared or other.prepared,
            places=_union(self.places, other.places)[:PLACES],
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What one version needs. `application` and `version` are as somebody named them."""

    application: str = ""
    version: str = ""
    tables: tuple[MappedTable, ...] = ()
    statements: tuple[Statement, ...] = ()
    format: Annotated[int, Meta(ge=1, le=FORMAT)] = FORMAT

    @classmethod
    def of(
        cls,
        *,
        application: str = "",
        version: str = "",
        tables: Iterable[MappedTable] = (),
        statements: Iterable[Statement] = (),
    ) -> Footprint:
        """In the order of files: sorted, each statement once."""
        merged: dict[str, Statement] = {}
        for statement in statements:
            known = merged.get(statement.sql)
            merged[statement.sql] = statement if known is None else known.merged(statement)
        found = {(table.schema or "", table.name): table for table in tables}
        return cls(
            application=application,
            version=version,
            tables=tuple(found[name] for name in sorted(found)),
            statements=tuple(merged[sql] for sql in sorted(merged)),
        )

    def merged(self, other: Footprint) -> Footprint:
        """What either needs: models and tests may be recorded apart. Names are ours where we have them."""
        return Footprint.of(
            application=self.application or other.application,
            version=self.version or other.version,
            tables=(*other.tables, *self.tables),
            statements=(*self.statements, *other.statements),
        )

    @property
    def digest(self) -> str:
        """SHA-256 of what is needed (hexadecimal): neither of the names, nor of the places."""
        statements = tuple(dataclasses.replace(statement, places=()) for statement in self.statements)
        bare = dataclasses.replace(self, application="", version="", statements=statements)
        return hashlib.sha256(msgspec.json.encode(bare)).hexdigest()

    def to_bytes(self) -> bytes:
        """JSON, one table or statement in a line."""
        lines = [
            f'"format": {self.format}',
            *(f'"{key}": {_json(value)}' for key, value in (("application", self.application), ("version", self.version))),
            f'"tables": {_listed(self.tables)}',
            f'"statements": {_listed(self.statements)}',
        ]  # fmt: skip
        return ("{\n" + ",\n".join(lines) + "\n}\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, name: str) -> Footprint:
        """What `to_bytes` made.

        Raises:
            UsageError: it is no footprint, or one of a newer zdmigrate; `name` says which.
        """
        try:
            return msgspec.json.decode(data, type=cls)
        except msgspec.MsgspecError as error:
            raise UsageError(
                f"{name} is no footprint that this version can read: {error}", hint="zdmigrate record makes one"
            ) from error

    @classmethod
    def read(cls, path: Path) -> Footprint:
        """The file's.

        Raises:
            UsageError: there is none, or it is no footprint.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}", hint="zdmigrate record makes one") from error
        return cls.from_bytes(data, name=str(path))


def _union(ours: Sequence[str], theirs: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({*ours, *theirs}))


def _listed(values: Sequence[Any]) -> str:
    return "[" + ",".join(f"\n{_json(_sparse(value))}" for value in values) + ("\n]" if values else "]")


def _sparse(value: Any) -> Any:
    """Without what is as it is by default: files are read by people."""
    if not dataclasses.is_dataclass(value):
        return value
    found: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        if held != field.default:
            found[field.name] = [_sparse(each) for each in held] if isinstance(held, tuple) else held
    return found


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
