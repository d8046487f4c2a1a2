"""The command line over a fake engine: what is called, what is printed, and what a pipeline gets back."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
from click.testing import CliRunner, Result

from zdmigrate.cli import COMMANDS, common, main, progress
from zdmigrate.config import Config
from zdmigrate.engine.outcome import GateState, MigrationStatus, Outcome
from zdmigrate.engine.reporting import Event, EventKind, Reporter
from zdmigrate.engine.stopping import Stop
from zdmigrate.errors import Drift, LeaseHeld, Unsafe, Waiting
from zdmigrate.phases import Phase
from zdmigrate.plan import Plan, Window

SECRET = "geheim"
URL = f"postgresql://app:{SECRET}@db.example:5433/shop"
ROOT = Path(__file__).parents[2]


class FakeProject:
    """Records what it is asked for, and answers or fails as told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.config = Config()
        self.answer: Any = outcome()
        self.error: BaseException | None = None
        self.events: list[Event] = []
        self.costs: dict[str, Any] = {}
        self.closed = False

    def forecasts(self, plans: Sequence[Plan], *, probe: bool) -> dict[str, Any]:
        if probe:
            self.calls.append(("probe", [plan.migration for plan in plans]))
        return self.costs

    @contextlib.contextmanager
    def open(
        self,
        config: Config,
        *,
        report: Reporter,
        stop: Stop,
        deployment: str | None = None,
        artifact: str | None = None,
    ) -> Iterator[FakeProject]:
        self.config = config
        if (deployment, artifact) != (None, None):
            self.calls.append(("open", (deployment, artifact)))
        try:
            for event in self.events:
                report(event)
            yield self
        finally:
            self.closed = True

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def method(*args: Any, **options: Any) -> Any:
            self.calls.append((name, (*args, options) if options else args))
            if self.error is not None:
                raise self.error
            return self.answer

        return method


def outcome(*codes: int) -> Outcome:
    return Outcome(
        migrations=tuple(
            MigrationStatus(
                id=f"m{number}",
                phase=Phase.BACKFILL,
                exit_code=code,
                gates=(GateState(name="drained", satisfied=False, detail=f"no evidence, {SECRET}"),),
                next=(("zdmigrate", "status"),),
                message=f"said {SECRET}" if code else None,
            )
            for number, code in enumerate(codes or (0,), start=1)
        )
    )


PLAN = Plan(
    migration="m1",
    checksum="c",
    server_version=160004,
    window=Window(old_until=Phase.RETIRE, new_from=Phase.BACKFILL),
    phases=(),
    touches=(),
)


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeProject:
    fake = FakeProject()
    module = types.ModuleType("zdmigrate.engine.project")
    module.__dict__.update(
        Project=fake,
        plan_offline=lambda _config, ids, stats: fake.plan_offline(ids, stats),
        forecasts_offline=lambda _config, _plans, _stats: fake.costs,
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("ZDMIGRATE_", "PG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ZDMIGRATE_URL", URL)
    return fake


def runner() -> CliRunner:
    """Before click 8.2, stderr is only kept apart when asked for."""
    apart: dict[str, Any] = {"mix_stderr": False}
    return CliRunner(**(apart if "mix_stderr" in inspect.signature(CliRunner).parameters else {}))


def run(*args: str, **options: Any) -> Result:
    result = runner().invoke(main, args, prog_name="zdmigrate", **options)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert SECRET not in result.stdout + result.stderr
    return result


def document(result: Result) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(result.stdout)
    assert list(loaded)[:2] == ["format", "exit_code"]
    assert loaded["format"] == 1
    assert loaded["exit_code"] == result.exit_code
    assert isinstance(loaded["migrations"], list)
    return loaded


# Help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_explained_with_an_example(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.get_short_help_str(limit=200) == COMMANDS[name][1]
    text = run(name, "--help").stdout
    assert "Example:" in text
    assert f"zdmigrate {name}" in text
    assert all(isinstance(param, click.Argument) or param.help for param in command.params if hasattr(param, "help"))
    for option in ("--url", "--dir", "--schema", "--config", "--format", "-v"):
        assert option in text


GROUPS = {
    name: command
    for name in COMMANDS
    if isinstance(command := main.get_command(click.Context(main), name), click.Group)
}


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in GROUPS for name in GROUPS[group].commands])
def test_every_command_of_a_group_is_explained_with_an_example(group: str, name: str) -> None:
    command = GROUPS[group].commands[name]
    assert isinstance(command, common.Command)
    assert command.get_short_help_str(limit=200).endswith(".")
    text = run(group, name, "--help").stdout
    assert f"Example:\n    zdmigrate {group} {name}" in text
    assert all(isinstance(param, click.Argument) or param.help for param in command.params if hasattr(param, "help"))
    for option in ("--url", "--dir", "--schema", "--config", "--format", "-v"):
        assert option in text


def test_the_help_names_every_command_in_order() -> None:
    lines = run("--help").stdout.split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")][: len(COMMANDS)] == list(COMMANDS)
    assert run("--version").stdout.startswith("zdmigrate, version ")


def test_the_phases_that_options_take_are_the_phases() -> None:
    assert list(common.PHASES) == [phase.value for phase in Phase if phase is not Phase.NONE]


# What is called

NO_ADVANCE: dict[str, Any] = {
    "target": None,
    "compare_from": None,
    "overrides": {},
    "wait": None,
    "max_runtime": None,
    "evidence": None,
    "ramp": None,
}


CALLS: list[tuple[str, tuple[str, Any]]] = [
    ("advance", ("advance", ((), NO_ADVANCE))),
    ("advance a b --to auto", ("advance", (("a", "b"), NO_ADVANCE))),
    ("advance --to contract", ("advance", ((), {**NO_ADVANCE, "target": Phase.CONTRACT}))),
    (
        "advance a --next --from none",
        ("advance", (("a",), {**NO_ADVANCE, "target": Phase.EXPAND, "compare_from": Phase.NONE})),
    ),
    (
        "advance --next --from retire --to contract",
        ("advance", ((), {**NO_ADVANCE, "target": Phase.CONTRACT, "compare_from": Phase.RETIRE})),
    ),
    (
        "advance --wait 10m --max-runtime 50m",
        ("advance", ((), {**NO_ADVANCE, "wait": timedelta(minutes=10), "max_runtime": timedelta(minutes=50)})),
    ),
    ("advance --wait forever", ("advance", ((), {**NO_ADVANCE, "wait": timedelta.max}))),
    (
        "advance --override drained=x=y --override soak=z",
        ("advance", ((), {**NO_ADVANCE, "overrides": {"drained": "x=y", "soak": "z"}})),
    ),
    ("revert a --to none", ("revert", ("a", {"target": Phase.NONE, "overrides": {}, "allow_lossy": False}))),
    (
        "revert a --to expand --allow-lossy --override n1=gone",
        ("revert", ("a", {"target": Phase.EXPAND, "overrides": {"n1": "gone"}, "allow_lossy": True})),
    ),
    ("hold a why", ("hold", ("a", "why"))),
    ("hold --all why", ("hold", (None, "why"))),
    ("unhold a", ("unhold", ("a",))),
    ("unhold --all", ("unhold", (None,))),
    ("bootstrap", ("bootstrap", ())),
    ("verify a", ("verify", (("a",),))),
    ("status", ("status", ((), {"stale": None}))),
    ("status a --stale 7d", ("status", (("a",), {"stale": timedelta(days=7)}))),
]


@pytest.mark.parametrize(("args", "call"), CALLS)
def test_calls(project: FakeProject, args: str, call: tuple[str, Any]) -> None:
    result = run(*args.split())
    assert result.exit_code == 0, result.output
    assert project.calls == [call]
    assert project.closed
    assert result.stdout.startswith("m1  backfill\n")


@pytest.mark.parametrize("call", [call for _, call in CALLS])
def test_the_real_project_takes_these_calls(call: tuple[str, Any]) -> None:
    real = pytest.importorskip("zdmigrate.engine.project").Project
    name, arguments = call
    options = arguments[-1] if arguments and isinstance(arguments[-1], dict) else {}
    positional = arguments[: len(arguments) - bool(options)]
    inspect.signature(getattr(real, name)).bind(None, *positional, **options)


@pytest.mark.parametrize("args", ["advance", "revert a --to none", "hold a b", "unhold a", "bootstrap"])
def test_writers_say_which_deployment_they_are(project: FakeProject, args: str) -> None:
    run(*args.split(), "--deployment", "d42", env={"ZDMIGRATE_ARTIFACT": "sha256:1"})
    assert project.calls[0] == ("open", ("d42", "sha256:1"))


@pytest.mark.parametrize(
    "args",
    [
        ["advance", "--to", "none"],
        ["advance", "--next"],
        ["advance", "--from", "expand"],
        ["advance", "--next", "--from", "expand", "--to", "backfill"],
        ["advance", "--next", "--from", "retire"],
        ["advance", "--wait", "soon"],
        ["advance", "--max-runtime", "forever"],
        ["advance", "--override", "drained"],
        ["advance", "--override", "drained= "],
        ["advance", "--override", "=because"],
        ["advance", "--override", "a=b", "--override", "a=c"],
        ["revert", "a"],
        ["revert", "a", "--to", "contract"],
        ["hold", "a"],
        ["hold", "a", " "],
        ["hold", "--all", "a", "b"],
        ["unhold"],
        ["unhold", "--all", "a"],
        ["init", "--print-grants"],
        ["plan", "--sql", "--format", "json"],
        ["plan", "--stats", "nope"],
        ["status", "--format", "markdown"],
        ["--format", "markdown", "status"],
        ["history", "--limit", "0"],
        ["nope"],
    ],
)
def test_wrong_calls_end_with_2_and_call_nothing(project: FakeProject, args: list[str]) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert project.calls == []
    assert result.stdout == ("" if "json" not in args else result.stdout)
    assert "Error: " in result.stderr


def test_global_options_before_and_after(project: FakeProject, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("project = 'p'")
    run("--schema", "a", "--dir", "x", "status", "--schema", "b", "--config", "c.toml")
    assert (project.config.schema, project.config.dir, project.config.project) == ("b", tmp_path / "x", "p")
    assert project.config.url == URL
    assert document(run("--format", "json", "status"))
    assert document(run("status", env={"ZDMIGRATE_FORMAT": "json"}))
    assert run("--format", "json", "status", "--format", "text").stdout.startswith("m1")


# Results


@pytest.mark.parametrize(
    ("codes", "expected"), [((0, 3), 3), ((3, 4), 4), ((4, 5), 5), ((5, 8), 8), ((8, 6), 6), ((6, 7), 7), ((7, 1), 1)]
)
def test_the_worst_of_several_results(project: FakeProject, codes: tuple[int, ...], expected: int) -> None:
    project.answer = outcome(*codes)
    loaded = document(run("advance", "--format", "json"))
    assert loaded["exit_code"] == expected
    assert [entry["exit_code"] for entry in loaded["migrations"]] == list(codes)
    entry = loaded["migrations"][0]
    assert {"id", "phase", "running", "hold", "gates", "next"} <= set(entry)
    assert entry["gates"] == [{"name": "drained", "satisfied": False, "detail": "no evidence, ***"}]


@pytest.mark.parametrize("code", range(9))
def test_pending_ok(project: FakeProject, code: int) -> None:
    project.answer = outcome(code)
    assert document(run("advance", "--pending-ok", "--format", "json"))["exit_code"] == (
        0 if code in (3, 4, 5) else code
    )


def test_pending_ok_for_an_error(project: FakeProject) -> None:
    project.error = LeaseHeld("worker-3 works on m1 since 14:00")
    result = run("advance", "--pending-ok")
    assert result.exit_code == 0
    assert result.stderr == "zdmigrate: worker-3 works on m1 since 14:00\n"


def test_an_empty_directory(project: FakeProject, tmp_path: Path) -> None:
    project.answer = Outcome(migrations=())
    result = run("status")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"no migration to show; the directory is {tmp_path / 'migrations'}\n"
    assert document(run("status", "--format", "json"))["migrations"] == []


@pytest.mark.parametrize(
    "error", [Unsafe("no table", hint=f"see {URL}"), Drift("no table", hint="x"), Waiting("no table", hint="x")]
)
def test_errors(project: FakeProject, error: Unsafe | Drift | Waiting) -> None:
    project.error = error
    result = run("advance")
    assert result.exit_code == error.exit_code
    assert result.stdout == ""
    assert result.stderr.startswith("zdmigrate: no table\nhint: ")
    loaded = document(run("advance", "--format", "json"))
    assert loaded["error"]["message"] == "no table"
    assert loaded["migrations"] == []
    assert "Traceback" in run("advance", "-v").stderr


def test_errors_as_ndjson_on_stderr(project: FakeProject) -> None:
    project.error = Unsafe(f"password {SECRET}", hint=None)
    result = run("advance", "--format", "json")
    assert json.loads(result.stderr) == {"kind": "error", "message": "password ***", "hint": None}


def test_usage_errors_as_json(project: FakeProject) -> None:
    for args in (["advance", "--to", "x", "--format", "json"], ["--format=json", "hold"], ["--format=json", "nope"]):
        result = run(*args)
        assert result.exit_code == 2
        assert document(result)["error"]["message"]
        assert "Usage: " in result.stderr


def test_an_unreachable_database(project: FakeProject) -> None:
    project.error = psycopg.OperationalError(f'connection to "db.example" failed:\n  {URL}\n  timeout')
    result = run("advance")
    assert result.exit_code == 1
    assert result.stderr == (
        'zdmigrate: no connection to the database: connection to "db.example" failed: '
        "postgresql://app:***@db.example:5433/shop timeout\n"
        "hint: tried host=db.example port=5433 dbname=shop user=app; check --url, ZDMIGRATE_URL or the configuration "
        "file\n"
    )


def test_other_errors_are_a_line_and_a_hint(project: FakeProject) -> None:
    project.error = psycopg.errors.InsufficientPrivilege("permission denied\nfor table users")
    said, hint = run("advance").stderr.splitlines()
    assert said == "zdmigrate: the database refused: permission denied for table users"
    assert hint.startswith('hint: who looks needs GRANT USAGE ON SCHEMA "zdmigrate" TO …; ')
    project.error = OSError("disk full")
    assert run("advance").stderr == "zdmigrate: disk full\n"
    project.error = ValueError(f"odd {SECRET}")
    result = run("advance")
    assert result.exit_code == 1
    assert result.stderr.startswith("zdmigrate: internal error, ValueError: odd ***\nhint: this is a bug")


@pytest.mark.parametrize(("form", "place"), [("text", "stderr"), ("json", "stdout")])
def test_ctrl_c_ends_with_130_after_cleaning_up(project: FakeProject, form: str, place: str) -> None:
    project.error = KeyboardInterrupt()
    result = run("advance", "--format", form)
    assert result.exit_code == 130
    assert project.closed
    assert "interrupted" in getattr(result, place)


def test_sigterm_cleans_up_too(project: FakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(project, "advance", kill, raising=False)
    before = signal.getsignal(signal.SIGTERM)
    assert run("advance").exit_code == 143
    assert project.closed
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("args", [["--url", "postgresql://u:%zz@h:x/geheim"], ["--schema", "pg_x"], ["--config", "no"]])
def test_a_wrong_configuration(project: FakeProject, monkeypatch: pytest.MonkeyPatch, args: list[str]) -> None:
    from zdmigrate.postgres import url

    @contextlib.contextmanager
    def connect(config: Config, **_: object) -> Iterator[FakeProject]:
        url.conninfo(config.url)
        yield project

    monkeypatch.setattr(project, "open", connect)
    result = run("status", *args)
    assert result.exit_code == 2
    assert result.stderr.startswith("zdmigrate: ")
    assert "Traceback" not in result.stderr


# Commands with results of their own


def test_plan(project: FakeProject, tmp_path: Path) -> None:
    project.answer = [PLAN]
    assert run("plan", "m").stdout.startswith("m1\n  PostgreSQL 16.4")
    assert run("plan", "--format", "markdown").stdout.startswith("## m1\n")
    assert run("plan", "--sql").stdout.startswith("-- migration m1\n")
    assert document(run("plan", "--format", "json"))["plans"][0]["hash"] == PLAN.hash
    assert project.calls == [("plan", (("m",),)), *[("plan", ((),))] * 3]
    project.answer = []
    assert run("plan").stderr.startswith("no migration to show")
    assert run("plan", "--stats", "s", "--write-stats", "t").exit_code == 2


def test_plan_probes_where_it_is_told_to(project: FakeProject) -> None:
    project.answer = [PLAN]
    assert run("plan", "--probe").exit_code == 0
    assert project.calls[-1] == ("probe", ["m1"])
    Path("s").touch()
    for other in (["--sql"], ["--stats", "s"]):
        assert run("plan", "--probe", *other).exit_code == 2


def test_plan_from_a_saved_catalog(project: FakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        project, "snapshot", lambda ids: b"catalog of " + b",".join(i.encode() for i in ids), raising=False
    )
    project.answer = [PLAN]
    result = run("plan", "a", "b", "--write-stats", "prod.stats")
    assert result.stderr == "catalog saved in prod.stats\n"
    project.closed = False
    assert run("plan", "a", "--stats", "prod.stats").exit_code == 0
    assert project.calls[-1] == ("plan_offline", (("a",), b"catalog of a,b"))
    assert not project.closed


def test_init_and_its_grants(project: FakeProject) -> None:
    project.answer = "created schema zdmigrate\n"
    assert run("init", "--environment", "development", "--app-role", "shop", "--yes").stdout == project.answer
    assert project.calls == [
        ("init", ({"environment": "development", "app_role": "shop", "confirmed": True, "evidence": None},))
    ]
    assert document(run("init", "--format", "json"))["message"] == project.answer
    project.answer = "GRANT USAGE;"
    assert run("init", "--app-role", "shop", "--print-grants").stdout == "GRANT USAGE;\n"
    assert project.calls[-1] == ("grants", ("shop",))


def test_new_needs_no_database(project: FakeProject, tmp_path: Path) -> None:
    result = run("new", "email address", "--dir", "m")
    path = Path(result.stdout.strip())
    assert path.parent == tmp_path / "m"
    assert path.name.endswith("_email_address.py")
    assert document(run("new", "other", "--format", "json"))["file"].endswith("_other.py")
    assert run("new", "!").exit_code == 2
    assert project.calls == []


def test_history(project: FakeProject) -> None:
    project.answer = []
    assert run("history", "a", "--limit", "3").stdout == ""
    assert project.calls == [("history", ("a", 3))]
    assert document(run("history", "--format", "json"))["history"] == []


def test_verbose_names_configuration_and_database(project: FakeProject) -> None:
    assert run("status", "-v").stderr == (
        "configuration none, database host=db.example port=5433 dbname=shop user=app\n"
    )


# Progress


def event(kind: EventKind, message: str, **facts: Any) -> Event:
    return Event(kind=kind, migration="m1", message=message, **facts)


EVENTS = [
    event(EventKind.PHASE, "started", phase=Phase.BACKFILL),
    event(EventKind.PROGRESS, "filling", phase=Phase.BACKFILL, step="s", done=0, total=2000),
    event(EventKind.PROGRESS, "filling", phase=Phase.BACKFILL, step="s", done=900, total=2000),
    event(EventKind.BLOCKED, f"pid 7 holds a lock, {SECRET}"),
    event(EventKind.PROGRESS, "filling", phase=Phase.BACKFILL, step="s", done=2000, total=2000),
]


def test_progress_as_lines(project: FakeProject) -> None:
    project.events = EVENTS
    result = run("advance")
    assert result.stderr.splitlines() == [
        "m1: started",
        "m1: backfill: filling (0 %)",
        "m1: pid 7 holds a lock, ***",
        "m1: backfill: filling (100 %)",
    ]
    assert result.stdout.startswith("m1  backfill")


def test_progress_as_ndjson(project: FakeProject) -> None:
    project.events = EVENTS
    result = run("advance", "--format", "json")
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert [(line["kind"], line["done"]) for line in lines] == [(each.kind.value, each.done) for each in EVENTS]
    assert lines[0]["phase"] == "backfill"
    assert datetime.fromisoformat(lines[0]["at"]).tzinfo == UTC
    document(result)


def test_the_closing_document_says_how_far_each_step_came(project: FakeProject) -> None:
    def seen(rows: int, step: str, id_: str = "m1") -> Event:
        return dataclasses.replace(
            event(EventKind.PROGRESS, "filling", step=step, done=1, total=2), migration=id_, progress={"rows": rows}
        )

    project.events = [seen(1, "fill"), seen(2, "fill"), seen(0, "verify"), seen(9, "fill", "another")]
    result = run("advance", "--format", "json")
    assert [json.loads(line)["progress"]["rows"] for line in result.stderr.splitlines()] == [1, 2, 0, 9]
    (entry,) = document(result)["migrations"]
    assert entry["progress"] == [{"step": "fill", "rows": 2}, {"step": "verify", "rows": 0}]


def test_progress_lines_come_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    report = progress.Lines(str, clock=lambda: now)
    for second in range(12):
        now = float(second)
        report(event(EventKind.PROGRESS, "filling", step="s", done=second, total=100))
    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == [
        "filling (0 %)",
        "filling (5 %)",
        "filling (10 %)",
    ]


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.reporter(as_json=False, redact=lambda text: text.replace(SECRET, "***")) as report:
        assert isinstance(report, progress.Bar)
        for each in EVENTS:
            report(each)
    shown = terminal.getvalue()
    assert "m1: started" in shown
    assert "2000/2000" in shown
    assert "pid 7 holds a lock, ***" in shown


# Completion


def complete(words: Sequence[str], environ: Mapping[str, str] | None = None) -> list[str]:
    given = {
        "_ZDMIGRATE_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["zdmigrate", *words]),
        "COMP_CWORD": str(len(words)),
        **(environ or {}),
    }
    result = runner().invoke(main, [], prog_name="zdmigrate", env=given)
    return [line.partition(",")[2] for line in result.stdout.splitlines() if line]


def test_completion(project: FakeProject, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for name in ("20260101_a.py", "20260202_b.py", "_helper.py"):
        (tmp_path / "m" / name).write_text("raise RuntimeError")
    assert complete(["adv"]) == ["advance"]
    assert complete(["advance", "--to", ""]) == [*common.PHASES, "auto", "deployable"]
    assert complete(["revert", "x", "--to", "n"]) == ["none"]
    assert complete(["advance", "--wait", "f"]) == ["forever"]
    assert complete(["advance", "2026"], {"ZDMIGRATE_DIR": "m"}) == ["20260101_a", "20260202_b"]
    assert complete(["hold", "--dir", "m", "202602"]) == ["20260202_b"]
    assert complete(["advance", "2026"], {"ZDMIGRATE_LEASE": "broken"}) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    assert "_ZDMIGRATE_COMPLETE" in run("completion", shell).stdout


# What starting costs


def python(*args: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *args], env=environ, capture_output=True, text=True, check=False)


def imported(*args: str) -> set[str]:
    lines = python("-X", "importtime", *args).stderr.splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["nope"]])
def test_the_help_imports_click_and_nothing_else(args: list[str]) -> None:
    names = imported("-m", "zdmigrate", *args)
    assert {name for name in names if name.startswith("zdmigrate")} <= {
        "zdmigrate",
        "zdmigrate.cli",
        "zdmigrate.cli.common",
    }
    packages = {name.partition(".")[0] for name in names}
    assert "click" in packages
    assert not packages & {"rich", "msgspec", "psycopg", "sqlalchemy", "alembic", "tenacity", "json", "dataclasses"}


@pytest.mark.parametrize("command", ["new", "advance", "plan", "status", "revert", "history"])
def test_no_command_module_imports_what_is_heavy(command: str) -> None:
    packages = {name.partition(".")[0] for name in imported("-m", "zdmigrate", command, "--help")}
    assert not packages & {"rich", "psycopg", "sqlalchemy", "alembic", "tenacity"}


def test_advance_with_nothing_to_do_imports_neither_rich_nor_alembic(tmp_path: Path) -> None:
    program = """
import contextlib, sys, types
from zdmigrate.engine.outcome import Outcome
class Project:
    @classmethod
    @contextlib.contextmanager
    def open(cls, config, **options):
        yield cls()
    def advance(self, ids, **options):
        return Outcome(migrations=())
sys.modules["zdmigrate.engine.project"] = types.SimpleNamespace(Project=Project)
sys.stderr.isatty = lambda: True
from zdmigrate.cli import main
main(["advance", "--dir", sys.argv[1]])
"""
    packages = {name.partition(".")[0] for name in imported("-c", program, str(tmp_path))}
    assert "msgspec" in packages
    assert not packages & {"rich", "alembic", "sqlalchemy"}


def cpu(*args: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert python(*args).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_help_costs_at_most_two_and_a_half_imports_of_click() -> None:
    pairs = [(cpu("-c", "import click"), cpu("-m", "zdmigrate", "--help")) for _ in range(9)]
    clicks, helps = (min(values) for values in zip(*pairs, strict=True))
    assert helps <= 2.5 * clicks
