"""In which order rows are written, and what that costs: WAL, room, index entries. Counted by the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.support import servers
from zdmigrate.backfill import relations, worker
from zdmigrate.backfill.relations import Relation
from zdmigrate.backfill.session import Session
from zdmigrate.backfill.vacuuming import Vacuuming
from zdmigrate.control import install
from zdmigrate.control.fence import Fence
from zdmigrate.plan import RowWork

Connection = psycopg.Connection[Any]
Connect = Callable[[], Connection]
ROWS = 20_000
LIMIT = 30.0
WORK = RowWork(
    schema="public", table="Us ers", assignments=(("new", '"old"'),), unfilled='"new" IS DISTINCT FROM "old"'
)
SCHEMA = f"""
INSERT INTO "Control".migration (key, project, id, checksum) OVERRIDING SYSTEM VALUE VALUES (1, 'default', '1', '');
INSERT INTO "Control".lease (migration, epoch) VALUES (1, 1);
CREATE TABLE public."Us ers" (id integer PRIMARY KEY, old text, new text, other text) WITH (autovacuum_enabled = off);
INSERT INTO public."Us ers" (id, old, other) SELECT n, 'value ' || n, repeat('x', 100) FROM generate_series(1, {ROWS}) AS n;
"""


@pytest.fixture
def connect(database: servers.Database) -> Connect:
    return lambda: servers.connect(database)


@pytest.fixture
def main(connect: Connect) -> Iterator[Connection]:
    with connect() as connection:
        with connection.transaction(), connection.cursor() as cursor:
            install.upgrade(cursor, "Control", 0)
        connection.execute(SCHEMA.encode())
        yield connection


def run(connection: Connection, connect: Connect | None, **given: Any) -> list[str]:
    """Everything is filled; what was said."""
    said: list[str] = []
    fence = Fence(held=sql.SQL('SELECT FROM "Control".lease WHERE (migration, epoch) = (1, 1)'))
    settings = worker.Settings(window_pages=10, stripes=8, pause=timedelta(0))
    hooks: dict[str, Any] = {"should_stop": lambda: False, "progress": lambda _: None, "settings": settings} | given
    outcome = worker.run(
        connection, control_schema="Control", migration=1, step="fill", rows=WORK, fence=fence, connect=connect,
        say=said.append, **hooks,
    )  # fmt: skip
    assert outcome == worker.Outcome(rows=ROWS, complete=True)
    return said


def one(connection: Connection, query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_a_first_stripe_that_finds_full_pages_says_nothing_of_the_order(main: Connection, connect: Connect) -> None:
    """Of windows that are this large it alone is more than an opinion takes; nobody says what holds the horizon here."""
    assert run(main, connect, settings=worker.Settings(window_pages=1000, stripes=4, pause=timedelta(0))) == []


@pytest.mark.parametrize(
    "index",
    ['("new")', '("id") INCLUDE ("new")', '(lower("new"))', '("id") WHERE "new" IS NULL'],
    ids=["key", "included", "expression", "predicate"],
)  # fmt: skip
def test_a_new_column_that_is_indexed_already_means_plain_windows(
    main: Connection, connect: Connect, index: str
) -> None:
    main.execute(f'CREATE INDEX "by new" ON public."Us ers" {index}'.encode())
    (said,) = run(main, connect)
    assert said == "public.Us ers: plain, index by new has a new column, so no update can be HOT"


def test_a_brin_index_keeps_no_update_from_being_hot(main: Connection, connect: Connect) -> None:
    if main.info.server_version < 160000:
        pytest.skip("it does before PostgreSQL 16")
    main.execute('CREATE INDEX ON public."Us ers" USING brin (new)')
    assert run(main, connect) == []


@pytest.mark.parametrize(("fillfactor", "least", "most"), [(100, -0.05, 0.05), (50, 0.45, 0.55)])
def test_free_space_is_measured(main: Connection, fillfactor: int, least: float, most: float) -> None:
    """Of rows whose long values are stored elsewhere, too."""
    main.execute(
        f"""CREATE TABLE wide (id int, "a b" text, dropped int, long text) WITH (fillfactor = {fillfactor});
        ALTER TABLE wide ALTER long SET STORAGE EXTERNAL, DROP dropped;
        INSERT INTO wide SELECT n, 'value ' || n, CASE WHEN n % 10 = 0 THEN repeat('x', 9000) END
        FROM generate_series(1, 20000) n""".encode()
    )
    session = Session(connection=main, settings=worker.Settings())
    (relation,) = relations.leaves(session, "public", "wide")
    pages = one(main, "SELECT pg_relation_size('wide') / current_setting('block_size')::int")
    free = relations.free_share(session, relation, pages)
    assert free is not None
    assert least <= free <= most
    main.execute("TRUNCATE wide")
    assert relations.free_share(session, relation, 0) is None


def test_pages_with_room_are_filled_in_few_stripes(main: Connection, connect: Connect) -> None:
    main.execute('ALTER TABLE public."Us ers" SET (fillfactor = 50)')
    main.execute('VACUUM FULL public."Us ers"')
    seen: set[int] = set()

    def look() -> bool:
        seen.update(
            row[0] for row in main.execute('SELECT stripes FROM "Control".backfill_window WHERE page >= 0').fetchall()
        )
        return False

    with connect() as working:
        run(working, None, should_stop=look)
        # What a session counted is told some time after it has closed, or now.
        working.execute("SELECT pg_stat_force_next_flush()")
    assert seen == {4}
    hot = one(main, "SELECT pg_stat_get_tuples_hot_updated(oid)::float / pg_stat_get_tuples_updated(oid) FROM pg_class "
                    "WHERE relname = 'Us ers'")  # fmt: skip
    assert hot > 0.99


def test_where_nothing_is_hot_a_vacuum_makes_room_while_it_goes_on(main: Connection, connect: Connect) -> None:
    main.execute('CREATE INDEX ON public."Us ers" (new)')
    before = one(main, "SELECT pg_relation_size('public.\"Us ers\"')")
    vacuums = "SELECT pg_stat_get_vacuum_count('public.\"Us ers\"'::regclass)"
    seen = [0]

    def await_vacuum() -> bool:
        """The writer rests at each third of the table until the other thread has vacuumed it once more."""
        if len(seen) < 3 and one(main, 'SELECT 3.0 * max(page) / max(bound) FROM "Control".backfill') > len(seen):
            deadline = time.monotonic() + LIMIT
            while (now := one(main, vacuums)) == seen[-1]:
                assert time.monotonic() < deadline, "nobody has vacuumed the table"
                time.sleep(0.01)
            seen.append(now)
        return False

    with connect() as working:
        run(working, connect, should_stop=await_vacuum)
    # Without any, every row has a second version in the end; the column itself is an eighth of a row.
    assert one(main, "SELECT pg_relation_size('public.\"Us ers\"')") < 1.75 * before


def test_a_vacuum_may_take_longer_than_any_other_statement(main: Connection, database: servers.Database) -> None:
    oid = one(main, "SELECT 'public.\"Us ers\"'::regclass::oid")
    due = [Relation(oid=oid, schema="public", name="Us ers")]

    def connect() -> Connection:
        """On which this table's VACUUM takes about a second."""
        return servers.connect(database, options="-c statement_timeout=200 -c vacuum_cost_limit=1")

    with Vacuuming(lambda: due.pop() if due else None, connect):
        deadline = time.monotonic() + LIMIT
        while one(main, f"SELECT pg_stat_get_vacuum_count({oid})") == 0:
            assert time.monotonic() < deadline, "nobody has vacuumed the table"
            time.sleep(0.01)


def test_page_images_are_compressed_where_the_role_may(main: Connection, connect: Connect) -> None:
    role = f"filler_{one(main, 'SELECT current_database()')}"
    main.execute(
        f'CREATE ROLE {role}; GRANT ALL ON SCHEMA public, "Control" TO {role}; '
        f'GRANT ALL ON ALL TABLES IN SCHEMA "Control" TO {role}; ALTER TABLE public."Us ers" OWNER TO {role}'.encode()
    )
    try:
        as_it_is = wal_of_a_run(main, connect, role)
        main.execute(f"GRANT SET ON PARAMETER wal_compression TO {role}".encode())
        compressed = wal_of_a_run(main, connect, role)
    finally:
        main.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}".encode())
    assert compressed < 0.8 * as_it_is


def wal_of_a_run(main: Connection, connect: Connect, role: str) -> int:
    main.execute('UPDATE public."Us ers" SET new = NULL; DELETE FROM "Control".backfill')
    main.execute('VACUUM FULL public."Us ers"')
    main.execute("CHECKPOINT")
    begin = one(main, "SELECT pg_current_wal_insert_lsn()")
    with connect() as connection:
        connection.execute(f"SET ROLE {role}".encode())
        run(connection, None)
    return int(one(main, f"SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '{begin}')"))
