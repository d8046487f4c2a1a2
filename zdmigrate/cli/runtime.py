"""What surrounds the body of every command: configuration, errors, exit codes, redaction, progress, documents."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from zdmigrate.cli import rendering
from zdmigrate.errors import ZdmigrateError

if TYPE_CHECKING:
    from zdmigrate.cli.progress import Kept
    from zdmigrate.config import Config
    from zdmigrate.engine.outcome import MigrationStatus, Outcome
    from zdmigrate.engine.project import Project
    from zdmigrate.engine.reporting import Reporter
    from zdmigrate.engine.stopping import Stop

PENDING = (3, 4, 5)


class Terminated(KeyboardInterrupt):
    """SIGTERM, so that a container that is stopped cleans up as Ctrl-C does."""


class App:
    """One call of a command: its options, its configuration, its output."""

    def __init__(self, ctx: click.Context) -> None:
        self._options: dict[str, Any] = ctx.ensure_object(dict)

    @property
    def format(self) -> str:
        return str(self._options.get("output_format", "text"))

    @property
    def verbose(self) -> bool:
        return bool(self._options.get("verbose"))

    @property
    def config(self) -> Config:
        """The merged configuration, read once."""
        if "loaded" not in self._options:
            from zdmigrate import config

            named = self._options.get("config")
            self._options["loaded"] = config.load(
                start=Path.cwd(),
                environ=os.environ,
                file=None if named is None else Path(named),
                options={key: self._options.get(key) for key in ("url", "dir", "schema", "backfill.workers")},
            )
        loaded: Config = self._options["loaded"]
        return loaded

    @property
    def stop(self) -> Stop:
        """What SIGTERM asks to stop; an `App` is made anew wherever one is asked for."""
        from zdmigrate.engine.stopping import Stop

        stop: Stop = self._options.setdefault("stop", Stop())
        return stop

    def exit_code(self, code: int) -> int:
        """`code`, or 0 for one that `--pending-ok` accepts."""
        return 0 if code in PENDING and self._options.get("pending_ok") else code

    @contextlib.contextmanager
    def project(self, *, deployment: str | None = None, artifact: str | None = None) -> Iterator[Project]:
        """A connected project that reports to stderr."""
        from zdmigrate.engine.project import Project

        if self.verbose:
            from zdmigrate.postgres import url

            file = self.config.file or "none"
            self.narrate(f"configuration {file}, database {url.display(url.conninfo(self.config.url))}")
        with (
            self.reporter() as report,
            Project.open(
                self.config, report=report, deployment=deployment, artifact=artifact, stop=self.stop
            ) as project,
        ):
            yield project

    def reporter(self) -> contextlib.AbstractContextManager[Reporter]:
        """Events on stderr: NDJSON for ``--format json``, a bar on a terminal, else lines."""
        from zdmigrate.cli import progress

        return progress.reporter(as_json=self.format == "json", redact=self.redacted, kept=self._kept)

    def narrate(self, text: str) -> None:
        """A line for people, on stderr; nothing where a program is reading."""
        if self.format != "json":
            click.echo(self.redacted(text), err=True)

    def show(self, outcome: Outcome) -> int:
        """Print an outcome; returns the exit code."""
        shown = [self._clean(status) for status in outcome.migrations]
        code = self.exit_code(outcome.exit_code)
        if self.format == "json":
            entries = [{**rendering.status_json(each), "progress": self._kept.of(each.id)} for each in shown]
            click.echo(rendering.document(exit_code=code, migrations=entries))
        elif shown:
            click.echo(rendering.statuses_text(shown), nl=False)
        else:
            self.narrate(f"no migration to show; the directory is {self.config.dir}")
        return code

    def show_text(self, text: str, **facts: Any) -> None:
        """Print a text; as JSON, a document with `facts`."""
        click.echo(rendering.document(**facts) if self.format == "json" else text.rstrip("\n"))

    def fail(self, message: str, *, hint: str | None, exit_code: int) -> int:
        """Say what went wrong; returns the exit code."""
        message, hint = self.redacted(message), hint and self.redacted(hint)
        code = self.exit_code(exit_code)
        if self.verbose and sys.exc_info()[0] is not None:
            click.echo(self.redacted(traceback.format_exc()), err=True, nl=False)
        if self.format == "json":
            click.echo(rendering.error_json(message, hint, code))
            click.echo(rendering.line_json(kind="error", message=message, hint=hint), err=True)
        else:
            click.echo(f"zdmigrate: {message}" + (f"\nhint: {hint}" if hint else ""), err=True)
        return code

    def redacted(self, text: str) -> str:
        """`text` without passwords, whichever way they came in."""
        from psycopg.conninfo import make_conninfo

        from zdmigrate.postgres import url

        for secret in self._connection_strings:
            text = url.redact(text, secret)
        password = os.environ.get("PGPASSWORD")
        return url.redact(text, make_conninfo("", password=password) if password else "")

    @property
    def _kept(self) -> Kept:
        """What the command's reporter has kept; an `App` is made anew wherever one is asked for."""
        from zdmigrate.cli.progress import Kept

        kept: Kept = self._options.setdefault("kept", Kept())
        return kept

    @functools.cached_property
    def _connection_strings(self) -> list[str]:
        loaded: Config | None = self._options.get("loaded")
        found = [self._options.get("url"), os.environ.get("ZDMIGRATE_URL"), loaded.url if loaded else None]
        context = click.get_current_context(silent=True)
        found += [context.params.get(name) for name in ("from_url", "server_url")] if context else []
        found += [loaded.check.from_url, loaded.check.server_url] if loaded else []
        return [each for each in found if each]

    def _clean(self, status: MigrationStatus) -> MigrationStatus:
        return dataclasses.replace(
            status,
            message=status.message and self.redacted(status.message),
            hint=status.hint and self.redacted(status.hint),
            gates=tuple(dataclasses.replace(gate, detail=self.redacted(gate.detail)) for gate in status.gates),
            hold=status.hold and dataclasses.replace(status.hold, reason=self.redacted(status.hold.reason)),
        )


def current() -> App:
    """The app of the command that is running."""
    return App(click.get_current_context())


def run(ctx: click.Context, body: Callable[[click.Context], int | None]) -> None:
    """Run a command's body, and end with its exit code."""
    app = App(ctx)
    _check_format(ctx, app)
    try:
        with _terminable(app.stop.ask):
            code = app.exit_code(body(ctx) or 0)
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except KeyboardInterrupt as error:
        code = 143 if isinstance(error, Terminated) else 130
        app.fail("interrupted", hint="nothing needs repair: the same command goes on from here", exit_code=code)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise
        code = _failed(app, error)
    ctx.exit(code)


def _check_format(ctx: click.Context, app: App) -> None:
    """``--format markdown`` before the command, for a command that has no such format."""
    for param in ctx.command.params:
        if (
            param.name == "output_format"
            and isinstance(param.type, click.Choice)
            and app.format not in param.type.choices
        ):
            raise click.BadParameter(f"{ctx.info_name} has no format {app.format!r}", ctx=ctx, param=param)


def _failed(app: App, error: Exception) -> int:
    if isinstance(error, ZdmigrateError):
        return app.fail(error.message, hint=error.hint, exit_code=error.exit_code)
    psycopg = sys.modules.get("psycopg")
    text = " ".join(str(error).split())
    if psycopg is not None and isinstance(error, psycopg.Error):
        if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
            return app.fail(f"no connection to the database: {text}", hint=_reach(app), exit_code=1)
        hint = _rights(app) if isinstance(error, psycopg.errors.InsufficientPrivilege) else None
        return app.fail(f"the database refused: {text}", hint=hint, exit_code=1)
    if isinstance(error, OSError):
        return app.fail(text, hint=None, exit_code=1)
    what = f"{type(error).__name__}: {text}".rstrip(": ")
    return app.fail(f"internal error, {what}", hint="this is a bug; -v shows the traceback", exit_code=1)


def _rights(app: App) -> str:
    from zdmigrate.sqltext import ident

    schema = ident(app.config.schema)
    granted = f"GRANT USAGE ON SCHEMA {schema} TO …; GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO …"
    return f"who looks needs {granted}; who migrates owns the tables"


def _reach(app: App) -> str:
    from zdmigrate.postgres import url

    return f"tried {url.display(url.conninfo(app.config.url))}; check --url, ZDMIGRATE_URL or the configuration file"


@contextlib.contextmanager
def _terminable(ask: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """SIGTERM unwinds the stack, so that the lease is given back and servers are stopped.

    Unless `ask` says that the command ends by itself, as when there is no more time.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(_signal: int, _frame: FrameType | None) -> None:
        if not ask():
            raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
