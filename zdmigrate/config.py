"""Configuration: `zdmigrate.toml` or `[tool.zdmigrate]` in `pyproject.toml`, then `ZDMIGRATE_*`, then options.

The file is looked for in the current directory and upwards to the root of the git repository (outside of one, only
in the current directory: a file that somebody left in a shared parent must not choose the database). In one
directory `zdmigrate.toml` wins. `ZDMIGRATE_*` variables that are no key are ignored, because container platforms
invent such names; a variable that is set but empty counts as not set.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from zdmigrate import throttle_settings
from zdmigrate.errors import ConfigError
from zdmigrate.throttle_settings import Throttle, ThrottleTable
from zdmigrate.units import parse_duration, parse_size

FILE_NAME = "zdmigrate.toml"
"""The most that the server's bigint holds."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Backfill:
    """How the backfill works: pages per window, parts of a window, rows of a batch at most, and the pause between two of them.

    `workers` of each process write at once, where the replicas' lag allows it. A batch aims at `target_latency`, which 95
    of 100 stay under; all workers of a process together write no more than `rate` bytes of WAL a second.
    `quarantine_limit` and `quarantine_share` say how many rows that cannot be filled are too many, of
    `quarantine_columns` their values are kept with the message.
    """

    window_pages: int = 250
    stripes: int = 24
    batch_rows: int = 150
    pause: timedelta = timedelta(milliseconds=5)
    workers: int = 1
    target_latency: timedelta = timedelta(milliseconds=50)
    rate: int | None = None
    quarantine_limit: int = 1000
    quarantine_share: float = 0.1
    quarantine_columns: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Where a check's schema and servers come from. Each is what the option of that name says.

    `alembic`, `dump`, `from_url` and `metadata` are sources, of which one is used. URLs may hold passwords, and are
    therefore not in the repr. `url_variables` are those in which the project looks for its database.
    """

    alembic: str | None = None
    alembic_x: tuple[str, ...] = ()
    dump: str | None = None
    from_url: str | None = dataclasses.field(default=None, repr=False)
    metadata: str | None = None
    app_role: str | None = None
    extensions: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    url_variables: tuple[str, ...] = ("DATABASE_URL",)
    driver: str | None = None
    server: str | None = None
    images: tuple[str, ...] = ()
    server_url: str | None = dataclasses.field(default=None, repr=False)
    pg: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The merged configuration. `url` may hold a password, and is therefore not in the repr.

    Attributes:
        url: a SQLAlchemy URL, a libpq URL or key/value string; empty: libpq's environment (`PGHOST`, `PGSERVICE`, …).
        dir: the migrations directory, absolute. A relative one in a file is relative to that file.
        schema: the control schema's name.
        project: whose migrations these are, where services share a database.
        environment: the name that the database must give as its own; None does not compare.
        lock_timeout: how long a statement waits for a table lock, and so how long anybody waits behind it.
        lock_budget: how long such waits are repeated before giving up with exit code 5.
        lease: how long a holder that died delays the next one.
        throttle: what stops a backfill.
        suppress: the entries of ``[[compat.suppress]]``, which `zdmigrate.compat.suppressions` reads: a mistake in
            them concerns a check, and must not stop an `advance`.
        file: the configuration file that was used.
    """

    url: str = dataclasses.field(default="", repr=False)
    dir: Path = Path("migrations")
    schema: str = "zdmigrate"
    project: str = "default"
    environment: str | None = None
    lock_timeout: timedelta = timedelta(milliseconds=250)
    lock_budget: timedelta = timedelta(seconds=60)
    lease: timedelta = timedelta(seconds=10)
    backfill: Backfill = Backfill()
    throttle: Throttle = dataclasses.field(default_factory=Throttle)
    suppress: tuple[Mapping[str, Any], ...] = ()
    check: Check = Check()
    file: Path | None = None


def load(
    *,
    start: Path,
    environ: Mapping[str, str],
    file: Path | None = None,
    options: Mapping[str, str | None] | None = None,
) -> Config:
    """The configuration for a command that is called in `start`.

    `file` is what `--config` names (else `ZDMIGRATE_CONFIG`, else the search upwards); `options` are the values of
    command-line options by key, None where an option was not given.

    Raises:
        ConfigError: naming the file, variable or option, and the key.
    """
    start = start.absolute()
    named = file or (Path(environ["ZDMIGRATE_CONFIG"]) if environ.get("ZDMIGRATE_CONFIG") else None)
    found = _read_named(start / named) if named is not None else _search(start)
    values: dict[str, Any] = {"dir": start / "migrations"}
    if found is not None:
        path, table = found
        values["dir"] = path.parent / "migrations"
        _merge(values, _validated(table, lambda key: f"{path}: {key}", base=path.parent))
        values["file"] = path
    for key in _keys(_File):
        if key in _ONLY_IN_FILES:
            continue
        variable = "ZDMIGRATE_" + key.replace(".", "_").upper()
        if environ.get(variable):
            _merge(values, _validated_text(key, environ[variable], variable, base=start))
    for key, value in (options or {}).items():
        if value is not None:
            _merge(values, _validated_text(key, value, f"--{key.replace('_', '-')}", base=start))
    suppress = tuple(values.pop("compat", {}).get("suppress", ()))
    kinds: dict[str, type] = {"backfill": Backfill, "check": Check, "throttle": Throttle}
    tables = {name: kind(**values.get(name, {})) for name, kind in kinds.items()}
    return Config(**{**values, **tables, "suppress": suppress})


# What a file may hold. Durations are text here, and are parsed afterwards, so that messages can name the key.
_Text = Annotated[str, Meta(min_length=1)]
_Name = Annotated[str, Meta(min_length=1, max_length=63)]
_Count = Annotated[int, Meta(ge=1)]


class _Backfill(msgspec.Struct, forbid_unknown_fields=True):
    window_pages: _Count | UnsetType = UNSET
    stripes: _Count | UnsetType = UNSET
    batch_rows: Annotated[int, Meta(ge=1, le=10_000)] | UnsetType = UNSET
    pause: str | UnsetType = UNSET
    workers: Annotated[int, Meta(ge=1, le=64)] | UnsetType = UNSET
    target_latency: str | UnsetType = UNSET
    rate: str | UnsetType = UNSET
    quarantine_limit: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    quarantine_share: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    quarantine_columns: list[_Name] | UnsetType = UNSET


class _Compat(msgspec.Struct, forbid_unknown_fields=True):
    suppress: list[dict[str, Any]] | UnsetType = UNSET


class _Check(msgspec.Struct, forbid_unknown_fields=True):
    alembic: _Text | UnsetType = UNSET
    alembic_x: list[_Text] | UnsetType = UNSET
    dump: _Text | UnsetType = UNSET
    from_url: _Text | UnsetType = UNSET
    metadata: _Text | UnsetType = UNSET
    app_role: _Name | UnsetType = UNSET
    extensions: list[_Name] | UnsetType = UNSET
    roles: list[_Name] | UnsetType = UNSET
    url_variables: Annotated[list[_Text], Meta(min_length=1)] | UnsetType = UNSET
    driver: _Text | UnsetType = UNSET
    server: Literal["url", "container", "local", "embedded"] | UnsetType = UNSET
    images: list[_Text] | UnsetType = UNSET
    server_url: _Text | UnsetType = UNSET
    pg: Annotated[int, Meta(ge=15)] | UnsetType = UNSET


class _File(msgspec.Struct, forbid_unknown_fields=True):
    url: str | UnsetType = UNSET
    dir: _Text | UnsetType = UNSET
    schema: _Name | UnsetType = UNSET
    project: _Text | UnsetType = UNSET
    environment: _Text | UnsetType = UNSET
    lock_timeout: str | UnsetType = UNSET
    lock_budget: str | UnsetType = UNSET
    lease: str | UnsetType = UNSET
    backfill: _Backfill | UnsetType = UNSET
    throttle: ThrottleTable | UnsetType = UNSET
    compat: _Compat | UnsetType = UNSET
    check: _Check | UnsetType = UNSET


_MS = timedelta(milliseconds=1)
_SHORTEST = {
    "lock_timeout": _MS,  # 0 would switch the server's timeout off
    "lock_budget": _MS,
    "lease": timedelta(seconds=1),
    "backfill.pause": timedelta(0),
    "backfill.target_latency": _MS,
    "throttle.interval": timedelta(milliseconds=100),  # more often it would itself be load
    "throttle.silence": timedelta(seconds=1),
    "throttle.max_lag_time": _MS,
    "throttle.max_horizon_age": _MS,
    "throttle.endpoint_timeout": _MS,
}
_LONGEST = {"backfill.target_latency": 400 * _MS}  # a batch is cancelled after 500 ms
_NESTED: dict[str, type[msgspec.Struct]] = {
    "backfill": _Backfill, "throttle": ThrottleTable, "check": _Check, "compat": _Compat
}  # fmt: skip
_ONLY_IN_FILES = ("compat.suppress", "throttle.queries")
_LISTS = frozenset(
    {
        "backfill.quarantine_columns", "check.alembic_x", "check.extensions", "check.roles", "check.url_variables",
        "check.images", "throttle.standbys", "throttle.replica_urls", "throttle.hours",
    }
)  # fmt: skip


def _keys(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    for name in struct.__struct_fields__:
        if name in _NESTED and not prefix:
            yield from _keys(_NESTED[name], f"{name}.")
        else:
            yield prefix + name


def _search(start: Path) -> tuple[Path, dict[str, Any]] | None:
    places = [start, *start.parents]
    root = next((index for index, place in enumerate(places) if (place / ".git").exists()), 0)
    for place in places[: root + 1]:
        for name in (FILE_NAME, "pyproject.toml"):
            path = place / name
            if path.is_file() and (table := _table(path)) is not None:
                return path, table
    return None


def _read_named(path: Path) -> tuple[Path, dict[str, Any]]:
    table = _table(path)
    if table is None:
        raise ConfigError(f"{path}: there is no [tool.zdmigrate] in it")
    return path, table


def _table(path: Path) -> dict[str, Any] | None:
    """The configuration in a file; None for a `pyproject.toml` that holds none."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # tomllib.TOMLDecodeError and UnicodeDecodeError
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    if path.name != "pyproject.toml":
        return document
    tool = document.get("tool")
    table = tool.get("zdmigrate") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise ConfigError(f"{path}: tool.zdmigrate must be a table")
    return table


def _validated_text(key: str, text: str, label: str, *, base: Path) -> dict[str, Any]:
    """One value that came as text: a variable or an option."""
    head, _, tail = key.partition(".")
    value: Any = text
    if key in _LISTS and text not in throttle_settings.WORDS.get(key, ()):
        value = [part.strip() for part in text.split(",") if part.strip()]
    raw = {head: {tail: value} if tail else value}
    return _validated(raw, lambda _: label, base=base, strict=False)


def _validated(raw: dict[str, Any], label: Callable[[str], str], *, base: Path, strict: bool = True) -> dict[str, Any]:
    _refuse_unknown(raw, label)
    try:
        parsed = msgspec.to_builtins(msgspec.convert(raw, _File, strict=strict))
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at ")
        raise ConfigError(f"{label(where.strip('`').removeprefix('$.'))}: {_lowered(message)}") from None
    values: dict[str, Any] = {}
    for key, value in _flat(parsed):
        try:
            _put(values, key, _converted(key, value, base))
        except ValueError as error:
            raise ConfigError(f"{label(key)}: {error}") from None
    return values


def _refuse_unknown(raw: dict[str, Any], label: Callable[[str], str]) -> None:
    known = [*_keys(_File), *_NESTED]
    for key, value in raw.items():
        candidates = [key]
        if key in _NESTED and isinstance(value, dict):
            candidates = [f"{key}.{name}" for name in value]
        for candidate in candidates:
            if candidate in known:
                continue
            nearest = difflib.get_close_matches(candidate, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"keys are {', '.join(known)}"
            raise ConfigError(f"{label(candidate)}: unknown key", hint=hint)


def _duration(key: str, value: str) -> timedelta:
    duration, shortest = parse_duration(value), _SHORTEST[key]
    if duration < shortest:
        raise ValueError(f"must be at least {shortest // _MS}ms, got {value!r}")
    if duration > (longest := _LONGEST.get(key, duration)):
        raise ValueError(f"must be at most {longest // _MS}ms, got {value!r}")
    return duration


def _converted(key: str, value: Any, base: Path) -> Any:
    if key.startswith("throttle."):
        value = throttle_settings.converted(key.removeprefix("throttle."), value, base)
    if key in _SHORTEST and value is not None:
        return _duration(key, value)
    match key:
        case "dir":
            return base / value
        case "backfill.rate":
            return None if value == "off" else parse_size(value.removesuffix("/s"))
        case "check.alembic" | "check.dump":
            return str(base / value)
        case _ if key in _LISTS and value is not None:
            return tuple(value)
        case "schema" if len(value.encode()) > 63 or "\0" in value:
            raise ValueError("is longer than the 63 bytes that PostgreSQL allows for a name")
        case "schema" if value.startswith("pg_"):
            raise ValueError("names that start with pg_ belong to PostgreSQL")
    return value


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    head, _, tail = key.partition(".")
    if tail:
        values.setdefault(head, {})[tail] = value
    else:
        values[head] = value


def _merge(values: dict[str, Any], newer: dict[str, Any]) -> None:
    for key, value in _flat(newer):
        _put(values, key, value)


def _lowered(message: str) -> str:
    return (message[:1].lower() + message[1:]).replace("`", "")
