"""What all commands share at parse time: options, value types, completion. Imports click and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from datetime import timedelta

    from click.shell_completion import CompletionItem

    _DurationType = click.ParamType[timedelta]
    _SizeType = click.ParamType[int]
    _NamesType = click.ParamType[tuple[str, ...]]
    _AnyType = click.ParamType[Any]
else:
    _DurationType = _SizeType = _NamesType = _AnyType = click.ParamType  # not generic before click 8.4

F = TypeVar("F", bound=Callable[..., Any])

FORMATS = ("text", "json", "markdown")
PHASES = ("expand", "dual_write", "backfill", "switch_reads", "retire", "contract")
"""The values of `zdmigrate.phases.Phase` without ``none``; a test compares them."""


class Command(click.Command):
    """A command whose errors, exit code and output format are handled in one place."""

    def invoke(self, ctx: click.Context) -> Any:
        from zdmigrate.cli import runtime

        runtime.run(ctx, super().invoke)


def _remember(ctx: click.Context, param: click.Parameter, value: object) -> None:
    """Options before and after the command fill one dictionary; the later one wins."""
    settings = ctx.ensure_object(dict)
    if value is not None and value is not False:
        settings[param.name] = value


def common_options(formats: tuple[str, ...] = ("text", "json"), *, from_environment: bool = False) -> Callable[[F], F]:
    """``--url --dir --schema --config --format -v``, to be found in `ctx.obj`."""
    options = [
        click.option("--url", metavar="URL", help="SQLAlchemy URL, libpq URL or key/value string."),
        click.option("--dir", metavar="DIR", help="Migrations directory (default: migrations)."),
        click.option("--schema", metavar="NAME", help="Control schema (default: zdmigrate)."),
        click.option("--config", metavar="FILE", help="Configuration file, instead of looking for one."),
        click.option(
            "--format",
            "output_format",
            type=click.Choice(formats),
            envvar="ZDMIGRATE_FORMAT" if from_environment else None,
            help="Output format (default: text).",
        ),
        click.option("-v", "--verbose", is_flag=True, help="Say more, with tracebacks of errors."),
    ]

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        params: list[click.Option] = getattr(function, "__click_params__", [])
        for param in params[-len(options) :]:
            param.expose_value, param.callback = False, _remember
        return function

    return decorate


def audit_options(function: F) -> F:
    """``--deployment`` and ``--artifact``, for everything that writes to the audit."""
    function = click.option(
        "--artifact", envvar="ZDMIGRATE_ARTIFACT", metavar="SUM", help="Checksum of the artifact, for the audit."
    )(function)
    return click.option(
        "--deployment", envvar="ZDMIGRATE_DEPLOYMENT", metavar="ID", help="Deployment id, for the audit."
    )(function)


def pending_option(function: F) -> F:
    """``--pending-ok``, which `zdmigrate.cli.runtime` applies."""
    return click.option(
        "--pending-ok",
        is_flag=True,
        expose_value=False,
        callback=_remember,
        help="Exit codes 3, 4 and 5 become 0.",
    )(function)


def workers_option(function: F) -> F:
    """``--workers N``, in the place of the configuration's."""

    def remember(ctx: click.Context, _param: click.Parameter, value: int | None) -> None:
        if value is not None:
            ctx.ensure_object(dict)["backfill.workers"] = str(value)

    return click.option(
        "--workers",
        type=click.IntRange(1, 64),
        metavar="N",
        expose_value=False,
        callback=remember,
        help="Workers of this process that fill rows (default: as configured).",
    )(function)


def evidence_option(help: str) -> Callable[[F], F]:  # noqa: A002 (click's word)
    """``--evidence FILE``, repeatable; `zdmigrate.compat.evidence` reads the files."""
    return click.option(
        "--evidence",
        "evidence",
        multiple=True,
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help=f"{help} Repeatable.",
    )


def override_option(function: F) -> F:
    """``--override GATE="reason"``, as a dictionary."""
    return click.option(
        "--override",
        "overrides",
        multiple=True,
        metavar='GATE="REASON"',
        callback=_parse_overrides,
        help="Pass a gate although it does not hold; the reason is audited. Repeatable.",
    )(function)


def _parse_overrides(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    overrides: dict[str, str] = {}
    for value in values:
        gate, _, reason = (part.strip() for part in value.partition("="))
        if not gate or not reason:
            raise click.BadParameter(f'{value!r} gives no reason; write GATE="reason"', ctx=ctx, param=param)
        if gate in overrides:
            raise click.BadParameter(f"gate {gate!r} is named twice", ctx=ctx, param=param)
        overrides[gate] = reason
    return overrides


class Duration(_DurationType):
    """``10m``; with `forever`, also the word; `positive` refuses 0, `most_ms` what is longer."""

    name = "duration"

    def __init__(self, *, forever: bool = False, positive: bool = False, most_ms: int | None = None) -> None:
        self.forever = forever
        self.positive = positive
        self.most_ms = most_ms

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        from datetime import timedelta

        from zdmigrate.units import parse_duration

        if isinstance(value, timedelta):
            return value
        if self.forever and value == "forever":
            return timedelta.max
        try:
            duration = parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if self.positive and duration <= timedelta(0):
            self.fail(f"{value!r} is no time at all", param, ctx)
        if self.most_ms is not None and duration > timedelta(milliseconds=self.most_ms):
            self.fail(f"{value!r} is longer than {self.most_ms}ms", param, ctx)
        return duration

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem("forever")] if self.forever and "forever".startswith(incomplete) else []


class Size(_SizeType):
    """``20MB``, in bytes; with `per_second`, ``20MB/s``."""

    name = "size"

    def __init__(self, *, per_second: bool = False) -> None:
        self.per_second = per_second

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from zdmigrate.units import parse_size

        if isinstance(value, int):
            return value
        if self.per_second and not value.endswith("/s"):
            self.fail(f"{value!r} is not a rate; write it like 20MB/s", param, ctx)
        try:
            return parse_size(value.removesuffix("/s") if self.per_second else value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Names(_NamesType):
    """``a,b``; the word ``none`` for no name at all."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        if value == "none":
            return ()
        names = tuple(dict.fromkeys(part.strip() for part in value.split(",")))
        if not all(names):
            self.fail(f"{value!r} has an empty name; write it like replica1,replica2, or none", param, ctx)
        if "none" in names:
            self.fail(f"{value!r} has none among the names; write it like replica1,replica2, or none alone", param, ctx)
        return names


class Configured(_AnyType):
    """Another type's values, or the word ``default`` for what the configuration says."""

    WORD = "default"

    def __init__(self, inner: click.ParamType[Any]) -> None:
        self.inner = inner
        self.name = inner.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == self.WORD else self.inner.convert(value, param, ctx)


def complete_ids(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The ids of the directory's files; nothing is executed, and a broken configuration completes to nothing."""
    from zdmigrate.cli.runtime import App
    from zdmigrate.errors import ZdmigrateError
    from zdmigrate.migration import migration_paths

    try:
        paths = migration_paths(App(ctx).config.dir)
    except (ZdmigrateError, OSError):
        return []
    return [path.stem for path in paths if path.stem.startswith(incomplete)]
