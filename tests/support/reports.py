"""Reports made by hand: one with everything in it, one that is compatible, and one full of hostile text."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
from pathlib import Path
from typing import Any

from zdmigrate.compat.report import (
    Application,
    Counts,
    Finding,
    Layer,
    Report,
    Run,
    State,
    Suppression,
    Unproven,
    Version,
)
from zdmigrate.config import Config
from zdmigrate.engine.project import plan_offline
from zdmigrate.phases import PHASES, Phase
from zdmigrate.plan import Direction, Plan, Window

EXAMPLES = Path(__file__).parents[2] / "migrations_examples"
STATES = (
    *(State(phase=phase) for phase in PHASES),
    *(State(phase=phase, direction=Direction.BACKWARD) for phase in reversed(PHASES[:-2])),
)
WINDOW = Window(old_until=Phase.SWITCH_READS, new_from=Phase.BACKFILL)
SHOP = Application(name="shop", old="2.3", new="2.4", old_digest="a" * 64, new_digest="b" * 64)
BILLING = Application(name="billing", old="7", new="8", old_digest="c" * 64, new_digest="d" * 64)
PG15, PG18 = "PostgreSQL 15.18", "PostgreSQL 18.1"
COUNTS = Counts(everywhere=38, once=374, prepared_only=3, executions=5120)
SUPPRESSION = Suppression(reason="the report is switched off", expires=dt.date(2027, 3, 1), contains="nightly_report")


@functools.cache
def plan() -> Plan:
    """A real plan, of the example that renames a column."""
    folder = EXAMPLES / "rename_column"
    (found,) = plan_offline(Config(dir=folder / "migrations"), [], (folder / "catalog.json").read_bytes())
    return found


def finding(version: Version, phase: Phase, layer: Layer = Layer.PREPARE, **facts: Any) -> Finding:
    """A failure to find a column, unless `facts` say otherwise."""
    direction = Direction.BACKWARD if facts.pop("reverted", False) else Direction.FORWARD
    held: dict[str, Any] = {
        "subject": "public.users.user_email",
        "message": 'column "user_email" does not exist',
        "remedy": "keep the column until 2.3 is gone",
        "hazard": "C01",
        "sqlstate": "42703",
        "statement": "SELECT users.id, users.user_email FROM users WHERE users.id = $1",
        "place": "shop/orders.py:42",
        **facts,
    }
    return Finding(version=version, state=State(phase=phase, direction=direction), layer=layer, **held)


NEW_TOO_EARLY = tuple(
    finding(
        Version.NEW, state.phase, Layer.CATALOG, subject="public.users.email_address", statement=None, sqlstate=None,
        message="the column is not there", remedy="deploy 2.4 later", hazard="C30", place=None,
        reverted=state.direction is Direction.BACKWARD,
    )
    for state in STATES
    if state.phase.position < Phase.BACKFILL.position
)  # fmt: skip
OLD_TOO_LATE = (finding(Version.OLD, Phase.RETIRE), finding(Version.OLD, Phase.CONTRACT))
WARM = finding(
    Version.OLD, Phase.EXPAND, Layer.WARM, subject="SELECT * of public.users", announced=True, sqlstate="0A000",
    message="cached plan must not change result type", remedy="reconnect", hazard="C23",
    statement="SELECT * FROM users", place="shop/admin.py:7",
)  # fmt: skip
UPSERT = finding(
    Version.OLD, Phase.SWITCH_READS, Layer.EXECUTE, subject="public.users", sqlstate="42P10", hazard="C17",
    message="there is no unique or exclusion constraint matching the ON CONFLICT specification",
    remedy="keep users_user_email_key until 2.3 is gone", place="shop/signup.py:118",
    statement="INSERT INTO users (user_email, name) VALUES ($1, $2) ON CONFLICT (user_email) DO UPDATE SET name = $3",
)  # fmt: skip
LOST = finding(
    Version.NEW, Phase.BACKFILL, Layer.CROSS, subject="public.users.email_address", reverted=True, sqlstate=None,
    message="2.3 wrote 'a@example.org', 2.4 reads NULL", remedy="sync in both directions: up= and down=", hazard="C29",
    statement=None, place=None,
)  # fmt: skip
SUPPRESSED = finding(
    Version.NEW, Phase.RETIRE, Layer.COMMAND, subject="pytest tests/test_nightly_report.py", sqlstate=None,
    message="exit code 1", remedy="read its output", hazard=None, statement=None, place="tests/test_nightly_report.py:9",
    suppressed=SUPPRESSION.reason,
)  # fmt: skip


def run(application: Application, server: str, *findings: Finding, unproven: tuple[Unproven, ...] = ()) -> Run:
    """One with all states."""
    return Run(
        application=application,
        server=server,
        predicted=WINDOW,
        reached=STATES,
        findings=(*NEW_TOO_EARLY, *OLD_TOO_LATE, *findings),
        unproven=unproven,
        counts=COUNTS,
    )


def plans() -> tuple[tuple[str, str], ...]:
    """What reports are about."""
    return ((plan().migration, plan().hash),)


def compatible() -> Report:
    """As predicted, on two servers."""
    return Report(plans=plans(), runs=(run(SHOP, PG15, WARM), run(SHOP, PG18, WARM)))


def rich() -> Report:
    """Two servers, two applications, every kind of cell, finding and suppression."""
    unproven = Unproven(
        version=Version.NEW, subject="SELECT ST_Area(shape) FROM places", reason="the extension postgis is not there",
        place="billing/maps.py:3",
    )  # fmt: skip
    broken = (WARM, UPSERT, LOST, SUPPRESSED)
    unused = Suppression(
        reason="nobody calls it",
        expires=dt.date(2027, 1, 1),
        version=Version.OLD,
        sqlstate="42P01",
        contains="old_orders",
    )
    expired = dataclasses.replace(unused, reason="fixed in 2.3.1", expires=dt.date(2026, 1, 1))
    return Report(
        plans=plans(),
        runs=(
            run(SHOP, PG15, *broken),
            run(SHOP, PG18, *broken),
            run(BILLING, PG15),
            run(BILLING, PG18, unproven=(unproven,)),
        ),
        void=((unused, "nothing that it covers was found"), (expired, "it expired on 2026-01-01")),
    )


HOSTILE = (
    "</script></style></pre><script src='{base}x.js'></script><img src={base}x.png onerror=alert(1)> ]]> --> &amp; & < > \" '"
    " ::error file=x::owned %0A::warning::owned\n::error::owned\r\n```\n| pipe | `tick` | ``` **bold** [link]({base}) @team #12"
    " \x1b[31mred\x1b[0m \x00\x08\u202e\u2028 [bold red]markup[/] <!-- {{ x }} ${{ github.token }} \udcff"
)
"""What no format may obey. `{base}` is where a page would load something from."""


def hostile(base: str = "http://127.0.0.1:9/") -> Report:
    """The same text wherever a database, a footprint or a configuration has its say, and a very long statement."""
    text = HOSTILE.replace("{base}", base)
    where = Application(name=text, old=text, new=f"{text}2", old_digest=text, new_digest=text)
    facts: dict[str, Any] = {"subject": text, "message": text, "remedy": text, "hazard": text, "sqlstate": text}
    found = (
        finding(Version.OLD, Phase.EXPAND, **facts, statement=text, place=f"{text}:3"),
        finding(Version.OLD, Phase.EXPAND, **facts, statement=(text + " x") * 50, place=text),
        finding(Version.NEW, Phase.CONTRACT, **facts, statement=text, place=None, suppressed=text),
    )
    unproven = (Unproven(version=None, subject=text, reason=text, place=text),)
    void = ((dataclasses.replace(SUPPRESSION, reason=text, contains=text, application=text), text),)
    return Report(plans=((text, text),), runs=(run(where, text, *found, unproven=unproven),), void=void)
