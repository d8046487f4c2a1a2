"""A backfill that is under way, steered from another terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.processes import RENAME, Running, Site, transaction, until, with_users

LOCKED = "SELECT FROM users WHERE id = 1 FOR UPDATE"
_numbers = itertools.count(1)

DOCUMENT = {
    "rows": 1200, "rows_per_second": 8000.5, "eta_seconds": 90, "wal_bytes_per_second": 3 << 20, "p95_ms": 42.0,
    "workers": 2, "strategy": "striped", "why": "83 % of the updates are HOT",
    "throttles": [
        {
            "name": "lag of berlin", "value": "70 MB", "threshold": "below 64 MB", "healthy": False, "stopped_seconds": 12.5,
            "reason": "berlin is 70 MB behind", "hint": None,
        },
        {"name": "active sessions", "value": "3", "threshold": "below 50", "healthy": True, "stopped_seconds": 0},
    ],
}  # fmt: skip


@pytest.fixture
def shop(site: Site) -> Site:
    """A migration that is in its backfill, and nobody works on it: what a process leaves behind that was killed."""
    with_users(site).run("advance", "--to", "dual_write").expect(0)
    with transaction(site.database, LOCKED):
        site.run("advance", "--to", "backfill", ZDMIGRATE_LOCK_BUDGET="1ms").expect(5)
    assert site.value("SELECT running FROM zdmigrate.migration") == "backfill"
    return site


def joined(site: Site, document: object, *, expires: str = "10 s") -> None:
    """A process as one says of itself."""
    columns = ["migration", "step", "host", "pid", "expires_at", "document"]
    values = ["1", "'s'", "'db3'", "4711", f"clock_timestamp() + '{expires}'::interval", f"'{json.dumps(document)}'"]
    there = site.rows("SELECT attname FROM pg_attribute WHERE attrelid = 'zdmigrate.backfill_process'::regclass")
    for name, value in (("backend", "1"), ("backend_start", "clock_timestamp()")):
        if (name,) in there:
            columns.append(name)
            values.append(value)
    site.sql(f"INSERT INTO zdmigrate.backfill_process ({', '.join(columns)}) VALUES ({', '.join(values)})")


def control(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = site.value("SELECT to_jsonb(c) FROM zdmigrate.backfill_control AS c")
    return found


def audit(site: Site) -> list[tuple[Any, ...]]:
    return site.rows(
        "SELECT action, outcome, actor, phase, deployment, detail FROM zdmigrate.event "
        "WHERE action IN ('pause', 'resume', 'set', 'abort') ORDER BY number"
    )


@contextlib.contextmanager
def waiting(site: Site) -> Iterator[Running]:
    """A backfill of which a batch waits for a row that somebody has locked."""
    with_users(site).run("advance", "--to", "dual_write").expect(0)
    with transaction(site.database, LOCKED):
        running = site.start("advance", "--to", "backfill")
        until(
            lambda: site.value(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'zdmigrate work' AND wait_event_type = 'Lock'"
            ),
            "a batch waits for the row",
        )
        yield running


# What is said --------------------------------------------------------------------------------------------------------


def test_pause_and_resume(shop: Site) -> None:
    paused = shop.run("backfill", "pause", "--reason", "incident 512", "--deployment", "d1").expect(0)
    assert "paused   incident 512 (postgres, " in paused.out
    assert (control(shop)["paused"], control(shop)["reason"]) == (True, "incident 512")
    shop.run("backfill", "pause").expect(0)
    assert control(shop)["reason"] == "incident 512", "said twice: the reason stays"
    resumed = shop.run("backfill", "resume", RENAME).expect(0)
    assert "paused" not in resumed.out
    shop.run("backfill", "resume").expect(0)
    assert audit(shop) == [
        ("pause", "done", "postgres", "backfill", "d1", "incident 512"),
        ("resume", "done", "postgres", "backfill", None, "incident 512"),
    ]


def test_limits_are_kept_audited_and_taken_back(shop: Site) -> None:
    shop.run("backfill", "set", "--rate", "20MB/s", "--workers", "4", "--target-latency", "50ms").expect(0)
    said = shop.run("backfill", "set", "--max-lag", "1.5GB", "--max-lag-time", "10s", "--standbys", "a, b").expect(0)
    assert (
        "set      rate 20 MB/s, workers 4, target_latency 50 ms, max_lag 1.5 GB, max_lag_time 10 s, standbys a, b "
        "(postgres, " in said.out
    )
    found = control(shop)
    assert (found["rate"], found["workers"], found["target_latency"]) == (20 << 20, 4, "00:00:00.05")
    assert (found["max_lag"], found["max_lag_time"], found["standbys"]) == (3 << 29, "00:00:10", ["a", "b"])
    shop.run("backfill", "set", "--rate", "512kB/s", "--workers", "4", "--standbys", "none").expect(0)
    shop.run("backfill", "set", "--rate", "default", "--standbys", "default").expect(0)
    assert (control(shop)["rate"], control(shop)["workers"], control(shop)["standbys"]) == (None, 4, None)
    assert [detail for *_, detail in audit(shop)] == [
        "rate: 20 MB/s, was as configured",
        "workers: 4, was as configured",
        "target_latency: 50 ms, was as configured",
        "max_lag: 1.5 GB, was as configured",
        "max_lag_time: 10 s, was as configured",
        "standbys: a, b, was as configured",
        "rate: 512 kB/s, was 20 MB/s",
        "standbys: none, was a, b",
        "rate: as configured, was 512 kB/s",
        "standbys: as configured, was none",
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--rate", "20"], "'20' is not a rate; write it like 20MB/s"),
        (["--rate", "20MB"], "'20MB' is not a rate"),
        (["--rate", "20mb/s"], "'20mb' is not a size; write it like 512kB, 20MB or 1.5GB"),
        (["--rate", "-1MB/s"], "is not a size"),
        (["--rate", "0MB/s"], "less than a byte"),
        (["--rate", "99999999TB/s"], "too large a size"),
        (["--rate", ""], "is not a rate"),
        (["--max-lag", "64MB/s"], "'64MB/s' is not a size"),
        (["--max-lag", "٣MB"], "is not a size"),
        (["--workers", "0"], "0 is not in the range"),
        (["--workers", "many"], "'many' is not a valid integer"),
        (["--target-latency", "soon"], "is not a duration"),
        (["--target-latency", "0ms"], "is no time at all"),
        (["--max-lag-time", "10"], "is not a duration"),
        (["--standbys", "a,,b"], "has an empty name"),
        (["--standbys", "none,a"], "has none among the names"),
        ([], "nothing to set"),
        (["--rate", "default", "nope"], "there is no migration 'nope'"),
    ],
)
def test_what_cannot_be_set(shop: Site, args: list[str], message: str) -> None:
    done = shop.run("backfill", "set", *args).expect(2)
    assert message in done.err
    assert "Traceback" not in done.err
    assert shop.value("SELECT count(*) FROM zdmigrate.backfill_control WHERE changed_at IS NOT NULL") == 0
    assert message in shop.run("backfill", "set", *args, "--format", "json").expect(2).document["error"]["message"]


def test_reasons_that_say_nothing(shop: Site) -> None:
    for command in ("pause", "abort"):
        assert "the reason is empty" in shop.run("backfill", command, "--reason", " ").expect(2).err
    assert audit(shop) == []


# Which one -----------------------------------------------------------------------------------------------------------


def test_nobody_is_in_its_backfill(site: Site) -> None:
    with_users(site)
    assert "no migration is in its backfill" in site.run("backfill", "pause").expect(2).err
    empty = site.run("backfill", "status").expect(0)
    assert (empty.out, empty.err) == ("", "no migration is in its backfill\n")
    assert site.run("backfill", "status", "--format", "json").expect(0).document["backfills"] == []
    assert "there is no migration" in site.run("backfill", "pause", RENAME).expect(2).err, "nothing of it is known yet"
    site.run("advance", "--to", "dual_write").expect(0)
    site.run("backfill", "set", RENAME, "--rate", "1MB/s").expect(0)
    site.run("backfill", "pause", RENAME).expect(0)
    site.run("backfill", "resume", RENAME).expect(0)
    site.run("advance").expect(0)
    behind = site.run("backfill", "pause", RENAME).expect(2)
    assert f"{RENAME} has its backfill behind it" in behind.err
    assert "rate 1 MB/s" in site.run("backfill", "status", RENAME).expect(0).out


def test_two_are_in_their_backfill(shop: Site) -> None:
    shop.sql("UPDATE zdmigrate.migration SET running = NULL")
    shop.sql("CREATE TABLE orders (id integer PRIMARY KEY, state text)")
    shop.write("0002_more", 'RenameColumn("orders", "state", "status")')
    shop.run("advance", "0002", "--to", "dual_write").expect(0)
    shop.sql("UPDATE zdmigrate.migration SET running = 'backfill'")
    refused = shop.run("backfill", "pause").expect(2)
    assert f"2 migrations are meant: {RENAME}, 0002_more" in refused.err
    shop.run("backfill", "pause", "0002").expect(0)
    document = shop.run("backfill", "status", "--format", "json").expect(0).document
    assert [(each["id"], each["control"]["paused"]) for each in document["backfills"]] == [
        (RENAME, False),
        ("0002_more", True),
    ]


# Status --------------------------------------------------------------------------------------------------------------


def test_status_shows_what_a_process_says(shop: Site) -> None:
    joined(shop, DOCUMENT)
    shop.run("backfill", "set", "--rate", "20MB/s").expect(0)
    out = shop.run("backfill", "status").expect(0).out
    assert f"{RENAME}  dual_write, backfill is under way\n" in out
    assert "  table    public.users: " in out
    assert "  process  db3 (process 4711), since " in out
    assert "1,200 rows, 8,000 rows/s, 2 min to go, 3 MB/s of WAL, p95 42 ms, 2 at work\n" in out
    assert "           striped: 83 % of the updates are HOT\n" in out
    assert "  stopped  lag of berlin: 70 MB (allowed below 64 MB), for 13 s\n           berlin is 70 MB behind\n" in out
    assert "active sessions" not in out, "what stops nothing is only in the document"
    (found,) = shop.run("backfill", "status", "--format", "json").expect(0).document["backfills"]
    assert found["processes"][0]["document"] == DOCUMENT
    assert found["processes"][0]["expired_for"] is None
    assert (found["control"]["rate"], found["quarantined"], found["running"]) == (20 << 20, 0, "backfill")


def test_status_says_when_a_process_fell_silent(shop: Site) -> None:
    assert "  process  none\n" in shop.run("backfill", "status").expect(0).out
    joined(shop, {}, expires="-90 s")
    out = shop.run("backfill", "status").expect(0).out
    assert "; its lease ran out 2 min ago: what it had claimed is free\n" in out


@pytest.mark.parametrize(
    "document", [[], {"rows": "many", "throttles": {"a": 1}, "eta_seconds": -1}, {"eta_seconds": 1e300, "p95_ms": None}]
)
def test_status_takes_what_another_version_says(shop: Site, document: object) -> None:
    joined(shop, document)
    done = shop.run("backfill", "status").expect(0)
    assert "process  db3 (process 4711)" in done.out
    assert "many" not in done.out


# Beside a process that works -----------------------------------------------------------------------------------------


def test_pausing_does_not_wait_for_a_batch_that_waits(site: Site) -> None:
    with waiting(site) as running:
        shown = site.run("backfill", "pause", "--reason", "now").expect(0)
        assert "paused   now" in shown.out
        site.run("backfill", "set", "--workers", "1").expect(0)
        site.run("backfill", "resume").expect(0)
    running.wait().expect(0)


def test_abort_ends_the_process_and_keeps_what_is_filled(site: Site) -> None:
    with waiting(site) as running:
        shown = site.run("backfill", "abort", "--reason", "the disk fills up").expect(0)
        assert "hold     the disk fills up (postgres, " in shown.out
        ended = running.wait().expect(4)
    assert "on hold: the disk fills up" in ended.out + ended.err
    filled = site.value("SELECT count(*) FROM users WHERE email_address IS NOT NULL")
    assert filled == 39, "all but the row that was locked"
    site.run("advance").expect(4)
    assert [action for action, *_ in audit(site)] == ["abort"]
    site.run("unhold", RENAME).expect(0)
    site.run("advance").expect(0)
    assert site.value("SELECT count(*) FROM users WHERE email_address = 'u' || id") == 40


def test_two_who_steer_at_once(shop: Site) -> None:
    commands = [("--rate", "1MB/s"), ("--workers", "2"), ("--max-lag", "64MB"), ("--max-lag-time", "5s")]
    for started in [shop.start("backfill", "set", *command) for command in commands]:
        started.wait().expect(0)
    found = control(shop)
    assert (found["rate"], found["workers"], found["max_lag"]) == (1 << 20, 2, 64 << 20)
    assert len(audit(shop)) == 4


# What stops it is said, and what is said ends it ------------------------------------------------------------------------

ROWS = 3000
AT_ONCE = 3.0
"""What takes effect within a second, and a machine that has a lot to do."""


def working(site: Site, *said: str, **env: Any) -> Running:
    """An advance that finds what was said before it began, or is stopped by what `env` configures."""
    with_users(site, rows=ROWS).run("advance", "--to", "dual_write").expect(0)
    if said:
        site.run("backfill", *said).expect(0)
    return site.start("advance", "--to", "backfill", "--format", "json", **env)


def progress(running: Running) -> list[dict[str, Any]]:
    """What it has told of its progress; a line that it is writing is left out."""
    lines = running.narration.splitlines(keepends=True)
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    return [event["progress"] for event in events if event["kind"] == "progress"]


def told(running: Running, field: str) -> dict[str, Any]:
    """The last progress, once it says who stops the work."""
    found: dict[str, Any] = until(
        lambda: next((each for each in reversed(progress(running)) if each[field] not in (None, [])), None),
        f"it says what is {field}",
    )
    return found


@pytest.fixture
def paused(site: Site) -> Running:
    running = working(site, "pause", RENAME, "--reason", "incident 512")
    told(running, "paused")
    return running


def test_a_pause_that_was_forgotten_is_told_at_once(site: Site) -> None:
    with_users(site, rows=ROWS).run("advance", "--to", "dual_write").expect(0)
    site.run("backfill", "pause", RENAME, "--reason", "incident 512").expect(0)
    site.run("backfill", "set", RENAME, "--rate", "50MB/s").expect(0)
    running = site.start("advance", "--to", "backfill")
    until(lambda: "zdmigrate backfill resume" in running.narration, "it says how to go on")
    line = next(line for line in running.narration.splitlines() if "resume" in line)
    assert "paused since 20" in line
    assert line.endswith(f"UTC by postgres: incident 512; to go on: zdmigrate backfill resume {RENAME}")
    until(lambda: ", paused: incident 512 (" in running.narration, "so does the line of progress")
    site.run("backfill", "resume").expect(0)
    running.wait().expect(0)


def test_resume_takes_effect_at_once(site: Site, paused: Running) -> None:
    assert site.value("SELECT count(*) FROM users WHERE email_address IS NOT NULL") == 0
    site.run("backfill", "resume").expect(0)
    until(
        lambda: site.value("SELECT count(*) FROM users WHERE email_address IS NOT NULL"), "it goes on", timeout=AT_ONCE
    )
    paused.wait().expect(0)


def test_abort_ends_a_process_that_is_paused(site: Site, paused: Running) -> None:
    site.run("backfill", "abort", "--reason", "enough").expect(0)
    ended = paused.wait(AT_ONCE).expect(4)
    assert ended.migration(RENAME)["message"] == "on hold: enough"
    assert site.value("SELECT count(*) FROM zdmigrate.backfill_process") == 0


def test_set_takes_effect_while_it_is_paused(site: Site, paused: Running) -> None:
    site.run("backfill", "set", "--workers", "3", "--target-latency", "20ms").expect(0)
    until(
        lambda: (progress(paused)[-1]["crew"], progress(paused)[-1]["target_ms"]) == (3, 20),
        "it heard",
        timeout=AT_ONCE,
    )
    workers = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'zdmigrate backfill'"
    until(lambda: site.value(workers) == 3, "two more workers, and the thread that listens", timeout=AT_ONCE)
    paused.send(signal.SIGTERM)
    paused.wait(AT_ONCE).expect(3)


def test_sigterm_ends_a_process_that_is_paused(site: Site, paused: Running) -> None:
    paused.send(signal.SIGTERM)
    ended = paused.wait(AT_ONCE).expect(3)
    assert ended.migration(RENAME)["message"].startswith("stopped while filling rows (0 so far)")
    assert ended.migration(RENAME)["progress"][0]["paused"] == "incident 512"
    assert site.value("SELECT holder FROM zdmigrate.lease") is None
    assert site.value("SELECT count(*) FROM zdmigrate.backfill_process") == 0


def test_sigterm_while_a_batch_waits_for_a_row(site: Site) -> None:
    with waiting(site) as running:
        running.send(signal.SIGTERM)
        running.wait(AT_ONCE).expect(3)
    site.run("advance").expect(0)


@pytest.fixture
def throttled(site: Site) -> Iterator[Running]:
    flag = site.directory / "stop"
    site.directory.mkdir(parents=True, exist_ok=True)
    flag.write_text("the disk fills up")
    running = working(site, ZDMIGRATE_THROTTLE_FLAG_FILE=str(flag))
    told(running, "throttled")
    yield running
    flag.unlink()


def saying_why(site: Site) -> dict[str, Any] | None:
    (found,) = site.run("backfill", "status", "--format", "json").expect(0).document["backfills"]
    document: dict[str, Any] = found["processes"][0]["document"]
    return document if document.get("throttled") else None


def test_what_stops_it_is_the_same_everywhere(site: Site, throttled: Running) -> None:
    (stop,) = told(throttled, "throttled")["throttled"]
    assert (stop["value"], stop["threshold"]) == ("there", "no such file")
    assert stop["seconds"] > 0
    assert stop["reason"].endswith("stop is there: the disk fills up")
    until(lambda: progress(throttled)[-1]["throttled"][0]["seconds"] > stop["seconds"], "it goes on telling")
    document = until(lambda: saying_why(site), "the process has said so, too")
    assert document["throttled"][0] | {"seconds": 0} == stop | {"seconds": 0}
    shown = [each for each in document["throttles"] if not each["healthy"]]
    assert [(each["name"], each["value"], each["threshold"]) for each in shown] == [
        (stop["name"], "there", "no such file")
    ]
    assert shown[0]["stopped_seconds"] == pytest.approx(document["throttled"][0]["seconds"], abs=1)
    out = site.run("backfill", "status").expect(0).out
    assert f"  stopped  {stop['name']}: there (allowed no such file), for " in out
    assert "the disk fills up" in out


def test_abort_ends_a_process_that_is_throttled(site: Site, throttled: Running) -> None:
    site.run("backfill", "abort").expect(0)
    throttled.wait(AT_ONCE).expect(4)


def test_what_it_was_expected_to_cost_and_what_it_cost(site: Site) -> None:
    running = working(site, "pause", RENAME)
    told(running, "paused")
    forecast = "SELECT forecast ->> 'step', heap_bytes FROM zdmigrate.backfill_cost"
    before = site.rows(forecast)
    running.send(signal.SIGKILL)
    running.wait()
    site.sql("ANALYZE users")  # a forecast of now would say something else
    site.run("backfill", "resume").expect(0)
    ended = site.run("advance", "--to", "backfill", "--format", "json").expect(0)
    assert site.rows(forecast) == before, "the first one's"
    fill = ended.migration(RENAME)["progress"][0]
    figures = {each["figure"]: each for each in fill["forecast"]}
    assert set(figures) == {"rows", "WAL", "table", "indexes", "time"}
    assert (fill["rows"], figures["rows"]["outcome"]) == (ROWS, ROWS)
    assert figures["WAL"]["outcome"] > ROWS * 100
    assert figures["time"]["outcome"] > 0
    detail = site.value("SELECT detail FROM zdmigrate.event WHERE action = 'do' AND detail LIKE '%%forecast%%'")
    assert detail.startswith(f"{ROWS} rows; rows: {ROWS:,}, forecast ")
    last = [
        each for each in map(json.loads, ended.err.splitlines()) if each["message"].startswith("forecast and outcome")
    ]
    assert len(last) == 1
    needed = {"rows", "rows_per_second", "eta_seconds", "lag_bytes", "wal_bytes_per_second", "p95_ms"}
    assert needed <= set(fill)


def test_a_revert_forgets_what_was_said(site: Site, paused: Running) -> None:
    paused.send(signal.SIGTERM)
    paused.wait().expect(3)
    site.run("revert", RENAME, "--to", "dual_write").expect(0)
    assert site.value("SELECT count(*) FROM zdmigrate.backfill_control") == 0
    assert site.value("SELECT count(*) FROM zdmigrate.backfill_cost") == 0
    site.run("unhold", RENAME).expect(0)
    site.run("advance").expect(0)


# Rights --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def operator(shop: Site) -> Iterator[tuple[Site, str]]:
    """A role on call: it has nothing but what the refusal's hint grants."""
    name = f"operator_{os.getpid()}_{next(_numbers)}"
    shop.sql(f"CREATE ROLE {name} LOGIN")
    env = {"ZDMIGRATE_URL": shop.database.server.url(shop.database.name, user=name)}
    yield dataclasses.replace(shop, env=env), name
    shop.sql(f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


def test_whoever_may_not_even_look_is_told_what_it_takes(shop: Site, operator: tuple[Site, str]) -> None:
    mine, name = operator
    error: dict[str, str] = {}
    for command in (("backfill", "status"), ("backfill", "pause"), ("quarantine", "list")):
        error = mine.run(*command, "--format", "json").expect(1).document["error"]
        assert error["message"] == "the database refused: permission denied for table meta"
    shop.sql(
        *error["hint"].removeprefix("who looks needs ").partition("; who migrates")[0].replace("…", name).split("; ")
    )
    mine.run("backfill", "status").expect(0)


def test_whoever_may_only_look(shop: Site, operator: tuple[Site, str]) -> None:
    mine, name = operator
    shop.sql(f"GRANT USAGE ON SCHEMA zdmigrate TO {name}", f"GRANT SELECT ON ALL TABLES IN SCHEMA zdmigrate TO {name}")
    mine.run("backfill", "status").expect(0)
    for command in (("pause",), ("set", "--rate", "1MB/s"), ("resume",), ("abort",)):
        refused = mine.run("backfill", *command).expect(6)
        assert "steering is not allowed: permission denied for table" in refused.err
    assert audit(shop) == []


def test_the_hint_grants_what_steering_needs(shop: Site, operator: tuple[Site, str]) -> None:
    mine, name = operator
    shop.sql(f"GRANT USAGE ON SCHEMA zdmigrate TO {name}", f"GRANT SELECT ON ALL TABLES IN SCHEMA zdmigrate TO {name}")
    hint = mine.run("backfill", "pause", "--format", "json").expect(6).document["error"]["hint"]
    shop.sql(*hint.removeprefix("somebody who may: ").split("; "))
    for command in (("pause",), ("set", "--rate", "1MB/s"), ("resume",), ("abort",)):
        mine.run("backfill", *command).expect(0)
    assert {actor for _, _, actor, *_ in audit(shop)} == {name}
    assert control(shop)["changed_by"] == name
