"""A backfill without a migration around it: one table, one step of it, and the row of a lease that fences.

``python -m tests.support.backfilling CONNINFO`` is a process that takes part, with `SETTINGS`: it says "begun" on its
standard output before its first batch, and then how many rows were filled in the end.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import sql

from zdmigrate.backfill import worker
from zdmigrate.backfill.pacing.governor import Limits
from zdmigrate.control import install
from zdmigrate.control.fence import Fence
from zdmigrate.plan import RowWork
from zdmigrate.postgres import session

Connection = psycopg.Connection[Any]

SCHEMA, STEP = "Control", "fill"
WORK = RowWork(schema="public", table="users", assignments=(("new", '"old"'),), unfilled='"new" IS DISTINCT FROM "old"')
SETTINGS = worker.Settings(window_pages=4, stripes=4, pause=timedelta(milliseconds=5))

_CONTROL = """
INSERT INTO "Control".migration (key, project, id, checksum) OVERRIDING SYSTEM VALUE VALUES (1, 'default', '1', '');
INSERT INTO "Control".lease (migration, epoch) VALUES (1, 1);
"""

# How often the backfill has written a row is counted in the row.
_USERS = """
CREATE TABLE public.users (id integer PRIMARY KEY, old text, new text, writes integer NOT NULL DEFAULT 0);
INSERT INTO public.users (id, old) SELECT n, 'value ' || n FROM generate_series(1, {}) AS n;
CREATE FUNCTION public.count_writes() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.writes := OLD.writes + 1; RETURN NEW; END $$;
CREATE TRIGGER a_count BEFORE UPDATE ON public.users FOR EACH ROW EXECUTE FUNCTION public.count_writes();
ALTER TABLE public.users ENABLE ALWAYS TRIGGER a_count;
"""


def make_control(connection: Connection) -> None:
    """The control schema, with a migration and its lease."""
    with connection.transaction(), connection.cursor() as cursor:
        install.upgrade(cursor, SCHEMA, 0)
    connection.execute(_CONTROL)


def make_users(connection: Connection, rows: int) -> None:
    """`WORK`'s table, of which every row is unfilled."""
    connection.execute(_USERS.format(rows).encode())


def fence(is_lost: Callable[[], bool] = lambda: False) -> Fence:
    """As a lease's own."""
    return Fence(held=sql.SQL('SELECT FROM "Control".lease WHERE (migration, epoch) = (1, 1)'), is_lost=is_lost)


def run(
    connection: Connection, connect: Callable[[], Connection] | None = None, *, rows: RowWork = WORK, workers: int = 1,
    step: str = STEP, **more: Any,
) -> worker.Outcome:  # fmt: skip
    """`worker.run`, with what a test does not care about."""
    given: dict[str, Any] = {"should_stop": lambda: False, "progress": lambda _: None, "fence": fence()} | more
    return worker.run(
        connection, control_schema=SCHEMA, migration=1, step=step, rows=rows, limits=Limits(workers=workers),
        connect=connect, **{"settings": SETTINGS} | given,
    )  # fmt: skip


def counted(connection: Connection, step: str = STEP) -> int:
    """What the control schema says was filled, in windows that are done and in those under way."""
    row = connection.execute(
        'SELECT coalesce((SELECT sum(rows) FROM "Control".backfill WHERE step = %(step)s), 0)'
        ' + coalesce((SELECT sum(rows) FROM "Control".backfill_window WHERE step = %(step)s), 0)',
        {"step": step},
    ).fetchone()
    assert row is not None
    return int(row[0])


def main(conninfo: str) -> None:
    """One process of several."""
    begun: list[object] = []

    def say(progress: object) -> None:
        if not begun:
            begun.append(progress)
            print("begun", flush=True)

    def connect() -> Connection:
        return session.connect(conninfo, purpose="backfill")

    with connect() as connection:
        outcome = run(connection, connect, progress=say)
    print(outcome.rows, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
