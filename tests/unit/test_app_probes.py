"""Readiness, and its answers over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from zdmigrate.app import Readiness, asgi_ready, wsgi_ready
from zdmigrate.app.readiness import readiness
from zdmigrate.app.shapes import Needed, NeededTable, Needs, Shapes, Trait
from zdmigrate.app.snapshot import MigrationState, Snapshot, Source
from zdmigrate.phases import PHASES, Phase

SHAPES = Shapes(
    old=(Trait(schema="public", table="users", column="user_email"),),
    new=(Trait(schema="public", table="users", column="email_address"),),
)


def needs(column: str) -> Needs:
    return (NeededTable(name="users", columns=(Needed(name=column),)),)


def told(phase: Phase, running: Phase | None = None, holder: str | None = None) -> Snapshot:
    state = MigrationState(version=1, phase=phase, running=running, shapes=SHAPES, holder=holder)
    return Snapshot(migrations={"0001": state}, until=time.monotonic() + 60)


def test_nothing_is_known_before_the_first_answer() -> None:
    found = readiness(Source().current.held(), {}, None)
    assert not found
    assert "has not answered yet" in found.missing[0]
    assert readiness(Snapshot(until=time.monotonic() + 60).held(), {}, None), "an answer without migrations is one"


def test_what_was_known_last_counts_when_the_database_is_away() -> None:
    assert readiness(Snapshot(until=time.monotonic() - 60).held(), {}, None)
    gone = Snapshot(migrations=told(Phase.BACKFILL).migrations, until=time.monotonic() - 60)
    assert readiness(gone.held(), {"0001": "backfill"}, None)


@pytest.mark.parametrize("phase", PHASES)
def test_what_is_required(phase: Phase) -> None:
    assert readiness(told(phase), {"0001": "backfill"}, None).ready is (phase.position >= Phase.BACKFILL.position)
    assert readiness(told(phase), {}, None)
    assert readiness(told(phase), {}, needs("email_address")).ready is (phase.position >= Phase.BACKFILL.position)
    assert readiness(told(phase), {}, needs("user_email")).ready is (phase.position < Phase.RETIRE.position)


def test_who_needs_both_waits_for_the_first_and_stops_with_the_last() -> None:
    both = (NeededTable(name="users", columns=(Needed(name="user_email"), Needed(name="email_address"))),)
    fit = [phase for phase in PHASES if readiness(told(phase), {}, both)]
    assert fit == [Phase.EXPAND, Phase.DUAL_WRITE, Phase.BACKFILL, Phase.SWITCH_READS]


def test_it_says_who_works() -> None:
    found = readiness(told(Phase.DUAL_WRITE, Phase.BACKFILL, "ci:7"), {"0001": "backfill", "0002": "expand"}, None)
    assert found.missing == (
        "0001 has to complete backfill, and is at dual_write: backfill is under way (ci:7)",
        "0002 has not begun: run zdmigrate advance --to expand",
    )


class Asked:
    def __init__(self, *missing: str) -> None:
        self._missing = missing

    def ready(self) -> Readiness:
        return Readiness(ready=not self._missing, missing=self._missing)


@pytest.mark.parametrize(("missing", "status"), [((), 200), (("soon",), 503)])
def test_asgi(missing: tuple[str, ...], status: int) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    application = asgi_ready(Asked(*missing))
    asyncio.run(application({"type": "http", "method": "GET"}, None, send))
    start, body = sent
    assert start["status"] == status
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()
    assert json.loads(body["body"]) == {"ready": not missing, "missing": list(missing)}
    sent.clear()
    asyncio.run(application({"type": "http", "method": "HEAD"}, None, send))
    assert sent[1]["body"] == b""
    asyncio.run(application({"type": "lifespan"}, None, send))
    assert len(sent) == 2


@pytest.mark.parametrize(("missing", "status"), [((), "200 OK"), (("soon",), "503 Service Unavailable")])
def test_wsgi(missing: tuple[str, ...], status: str) -> None:
    started: list[Any] = []
    application = wsgi_ready(Asked(*missing))
    body = b"".join(application({"REQUEST_METHOD": "GET"}, lambda *given: started.append(given)))
    assert started[0][0] == status
    assert json.loads(body) == {"ready": not missing, "missing": list(missing)}
    assert b"".join(application({"REQUEST_METHOD": "HEAD"}, lambda *given: started.append(given))) == b""
