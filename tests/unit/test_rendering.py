"""Plans and outcomes, as people and programs read them."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from zdmigrate.cli import rendering
from zdmigrate.control.store import HistoryEntry
from zdmigrate.engine.outcome import GateState, Hold, MigrationStatus
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import (
    Direction,
    Gate,
    LockMode,
    Mode,
    PhasePlan,
    Plan,
    RowWork,
    Step,
    TableEstimate,
    TableLock,
    Window,
)

SINCE = datetime(2026, 11, 21, 14, 32, 5, 123, tzinfo=UTC)
USERS = "public.users"


def lock(mode: LockMode) -> TableLock:
    return TableLock(schema="public", name="users", mode=mode)


PLAN = Plan(
    migration="20261121_email_address",
    checksum="c",
    server_version=160004,
    window=Window(old_until=Phase.SWITCH_READS, new_from=Phase.BACKFILL),
    touches=(USERS,),
    estimates=(TableEstimate(table=USERS, rows=200_000, bytes=35_651_584),),
    hazards=(
        Hazard(
            id="select-star",
            phase=Phase.EXPAND,
            message="SELECT * on warm connections fails once",
            remedy="list the columns",
            accept="select_star",
        ),
    ),
    phases=(
        PhasePlan(
            phase=Phase.EXPAND,
            steps=(
                Step(
                    id="1.expand.add",
                    title="add the column",
                    phase=Phase.EXPAND,
                    mode=Mode.TRANSACTION,
                    probe="SELECT 'todo'",
                    do=('ALTER TABLE "public"."users"\n  ADD COLUMN "email_address" text',),
                    undo=('ALTER TABLE "public"."users" DROP COLUMN "email_address"',),
                    locks=(lock(LockMode.ACCESS_EXCLUSIVE),),
                    undo_locks=(lock(LockMode.ACCESS_EXCLUSIVE),),
                    undo_loses=((Phase.NONE, "SELECT 'x'"),),
                ),
            ),
        ),
        PhasePlan(
            phase=Phase.BACKFILL,
            steps=(
                Step(
                    id="1.backfill.fill",
                    title="fill old rows",
                    phase=Phase.BACKFILL,
                    mode=Mode.BACKFILL,
                    probe="SELECT 'todo'",
                    locks=(lock(LockMode.ROW_EXCLUSIVE),),
                    rows=RowWork(
                        schema="public",
                        table="users",
                        assignments=(("email_address", '"user_email"'),),
                        unfilled='"email_address" IS NULL',
                    ),
                ),
            ),
        ),
        PhasePlan(
            phase=Phase.RETIRE,
            gates=(
                Gate(name="drained", phase=Phase.RETIRE, detail="no version N is alive"),
                Gate(
                    name="verified",
                    phase=Phase.RETIRE,
                    detail="every row was compared",
                    direction=Direction.BACKWARD,
                    exit_code=6,
                    overridable=False,
                ),
            ),
        ),
        PhasePlan(
            phase=Phase.CONTRACT,
            steps=(
                Step(
                    id="1.contract.drop",
                    title="drop the old column",
                    phase=Phase.CONTRACT,
                    mode=Mode.TRANSACTION,
                    probe="SELECT 'todo'",
                    do=('ALTER TABLE "public"."users" DROP COLUMN "user_email"',),
                    locks=(lock(LockMode.ACCESS_EXCLUSIVE),),
                    irreversible=True,
                ),
            ),
        ),
    ),
)

TEXT = """\
20261121_email_address
  PostgreSQL 16.4, plan HASH
  version N works through switch_reads, version N+1 from backfill on
  advance without --to stops after retire
  can be undone until retire (zdmigrate revert); what comes after it is final
  public.users: about 200,000 rows, 34.0 MB
  warnings: 1

expand
  warn  select-star: SELECT * on warm connections fails once
        list the columns; to pass it: --override select_star="reason"
  1. add the column  [1.expand.add]
       BEGIN;
       ALTER TABLE "public"."users"
         ADD COLUMN "email_address" text;
       COMMIT;
     lock  ACCESS EXCLUSIVE on public.users: blocks reads and writes for an instant, and nobody waits longer than \
the lock timeout
     work  one transaction, no scan, no rewrite
     undo  ACCESS EXCLUSIVE on public.users: blocks reads and writes for an instant, and nobody waits longer than \
the lock timeout; refused where it would lose values, unless --allow-lossy is given
       BEGIN;
       ALTER TABLE "public"."users" DROP COLUMN "email_address";
       COMMIT;

backfill
  1. fill old rows  [1.backfill.fill]
       UPDATE "public"."users" SET "email_address" = "user_email" WHERE "email_address" IS NULL;  -- in batches
     lock  ROW EXCLUSIVE on public.users: blocks nothing
     work  in small batches, no scan, no rewrite, public.users: 200,000 rows, 34.0 MB
     undo  nothing to take back

retire  (nothing to do)
  gate  drained (before retire, else exit 4): no version N is alive; to pass it: --override drained="reason"
  gate  verified (before undoing retire, else exit 6): every row was compared; cannot be overridden

contract
  1. drop the old column  [1.contract.drop]
       BEGIN;
       ALTER TABLE "public"."users" DROP COLUMN "user_email";
       COMMIT;
     lock  ACCESS EXCLUSIVE on public.users: blocks reads and writes for an instant, and nobody waits longer than \
the lock timeout
     work  one transaction, no scan, no rewrite
     undo  not possible: this is final
"""

MARKDOWN_EXPAND = """\
### expand

- **select-star** SELECT \\* on warm connections fails once *list the columns*; to pass it: --override \
select\\_star="reason"

1. add the column (`1.expand.add`)

   ```sql
   BEGIN;
   ALTER TABLE "public"."users"
     ADD COLUMN "email_address" text;
   COMMIT;
   ```

   - **lock** ACCESS EXCLUSIVE on public.users: blocks reads and writes for an instant, and nobody waits longer \
than the lock timeout
"""


def test_a_plan_as_text() -> None:
    assert rendering.plan_text(PLAN) == TEXT.replace("HASH", PLAN.hash[:12])


def test_a_plan_as_markdown() -> None:
    text = rendering.plan_markdown(PLAN)
    assert text.startswith("## 20261121\\_email\\_address\n\n- PostgreSQL 16.4, plan ")
    assert MARKDOWN_EXPAND in text
    assert '     ```sql\n     BEGIN;\n     ALTER TABLE "public"."users" DROP COLUMN' in text
    assert "### retire\n\n- **gate** drained (before retire, else exit 4)" in text


def test_a_fence_that_the_sql_cannot_close() -> None:
    step = dataclasses.replace(PLAN.phases[0].steps[0], do=("COMMENT ON TABLE t IS '```'",))
    plan = dataclasses.replace(PLAN, phases=(PhasePlan(phase=Phase.EXPAND, steps=(step,)),))
    assert "   ````sql\n   BEGIN;\n   COMMENT ON TABLE t IS '```';\n   COMMIT;\n   ````\n" in rendering.plan_markdown(
        plan
    )


def test_a_plan_that_never_drops() -> None:
    plan = dataclasses.replace(PLAN, phases=PLAN.phases[:1], undoable_until=Phase.CONTRACT)
    text = rendering.plan_text(plan)
    assert "advance without --to stops after contract" in text
    assert "can be undone from every phase" in text


def test_a_plan_as_sql_and_json() -> None:
    assert rendering.plans_sql([PLAN]).startswith("-- migration 20261121_email_address\n-- phase expand\n")
    loaded = json.loads(rendering.document(plans=[rendering.plan_json(PLAN)]))
    assert (loaded["format"], loaded["exit_code"], loaded["migrations"]) == (1, 0, [])
    [plan] = loaded["plans"]
    assert (plan["hash"], plan["automatic_target"]) == (PLAN.hash, "retire")
    assert plan["phases"][0]["steps"][0]["locks"] == [{"schema": "public", "name": "users", "mode": "ACCESS EXCLUSIVE"}]


def status(name: str, **facts: Any) -> MigrationStatus:
    return MigrationStatus(id=name, phase=Phase.BACKFILL, **facts)


WAITING = status(
    "20261121_email",
    running=Phase.SWITCH_READS,
    hold=Hold(reason="incident 512", by="ann@host", since=SINCE),
    gates=(
        GateState(name="verified", satisfied=True, detail="no row differs"),
        GateState(name="drained", satisfied=False, detail="nothing supplies evidence"),
    ),
    next=(("zdmigrate", "advance", "20261121_email", "--override", "drained=N is gone"),),
    exit_code=4,
    message="waiting for drained",
    hint="stop N",
    title="Rename it.",
    since=SINCE,
    lease="worker-3, pid 17",
)


def test_statuses_as_text() -> None:
    assert (
        rendering.statuses_text([WAITING, status("a", here=False)])
        == """\
20261121_email  backfill, switch_reads is under way, since 2026-11-21 14:32:05+00:00
  Rename it.
  lease   worker-3, pid 17
  hold    incident 512 (ann@host, 2026-11-21 14:32:05+00:00)
  gate    verified: holds: no row differs
  gate    drained: does not hold: nothing supplies evidence
  waits   waiting for drained
  hint    stop N
  next    zdmigrate advance 20261121_email --override 'drained=N is gone'
a               backfill  (its file is not in this directory)
"""
    )


def test_statuses_as_json() -> None:
    entry = json.loads(rendering.document(migrations=[rendering.status_json(WAITING)]))["migrations"][0]
    assert {key: entry[key] for key in ("id", "phase", "running")} == {
        "id": "20261121_email",
        "phase": "backfill",
        "running": "switch_reads",
    }
    assert entry["hold"] == {"reason": "incident 512", "by": "ann@host", "since": SINCE.isoformat()}
    assert entry["gates"][1] == {"name": "drained", "satisfied": False, "detail": "nothing supplies evidence"}
    assert entry["next"] == [["zdmigrate", "advance", "20261121_email", "--override", "drained=N is gone"]]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (8192, "8.0 kB"), (157_286_400, "150 MB"), (5 << 40, "5.0 TB"), (5 << 50, "5120 TB")],
)
def test_sizes(size: int, text: str) -> None:
    estimate = TableEstimate(table=USERS, rows=1, bytes=size)
    assert f"about 1 rows, {text}\n" in rendering.plan_text(dataclasses.replace(PLAN, estimates=(estimate,)))


def test_history_as_aligned_lines() -> None:
    started = HistoryEntry(
        at=SINCE,
        migration="20261121_email",
        phase="expand",
        step="1.expand.add",
        action="do",
        outcome="done",
        actor="ann",
        host="ci-1",
        deployment="d42",
        artifact=None,
        sql_hash="abc",
        duration_ms=1234.56,
        detail=None,
    )
    held = dataclasses.replace(
        started, step=None, phase=None, action="hold", duration_ms=None, deployment=None, detail="incident 512"
    )
    assert (
        rendering.history_text([held, started])
        == """\
2026-11-21 14:32:05+00:00  20261121_email  -             hold  done  -         ann@ci-1        incident 512
2026-11-21 14:32:05+00:00  20261121_email  1.expand.add  do    done  1,235 ms  ann@ci-1 [d42]
"""
    )
    assert rendering.history_text([]) == ""
