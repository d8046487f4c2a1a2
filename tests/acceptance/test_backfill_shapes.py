"""Tables of every shape, through the whole command: filled, or refused with what to do instead."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator

import pytest
from psycopg import sql

from tests.support.processes import Done, Site
from tests.support.servers import connect

ID = "0001_size"
N = 900
SMALL = {"ZDMIGRATE_BACKFILL_WINDOW_PAGES": "3", "ZDMIGRATE_BACKFILL_STRIPES": "4", "ZDMIGRATE_BACKFILL_PAUSE": "0s"}
COLUMNS = "id integer, body text"
SIZE = 'AddColumn("docs", sa.Column("size", sa.Integer, nullable=False), backfill="length(body)")'
COUNTED = (
    "CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.writes := OLD.writes + 1; RETURN NEW; END $$",
    "CREATE TRIGGER counted BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION count_it()",
    "ALTER TABLE docs ENABLE ALWAYS TRIGGER counted",
)
ACCEPTED = ("--override", "table_triggers=this is what the test looks at")
ROWS = f"INSERT INTO docs (id, body) SELECT n, repeat('x', n) FROM generate_series(1, {N}) AS n"
_numbers = itertools.count(1)


def table(site: Site, *statements: str, change: str = SIZE, rows: str = ROWS) -> Site:
    """A table with rows, a migration, and the control schema."""
    site.sql(*statements, rows)
    site.write(ID, change)
    site.init()
    return dataclasses.replace(site, env=SMALL | site.env)


def fill(site: Site, *options: str) -> Done:
    return site.run("advance", "--to", "backfill", "--format", "json", *options)


def filled(done: Done) -> tuple[int, bool]:
    """Rows that were filled, and whether every page was visited."""
    progress = next(each for each in done.migration(ID)["progress"] if ".fill." in each["step"])
    return progress["rows"], progress["pages_done"] == progress["pages_total"]


def sized(name: str = "docs") -> str:
    """The rows of a table that are right, and all of them."""
    return f"SELECT count(*) FILTER (WHERE size = length(body)), count(*) FROM {name}"


# Shapes that are filled ----------------------------------------------------------------------------------------------

LEVELS = (
    'CREATE SCHEMA "Old"',
    'CREATE SCHEMA "%s"',
    f"CREATE TABLE docs ({COLUMNS}) PARTITION BY RANGE (id)",
    'CREATE TABLE "Old".docs PARTITION OF docs FOR VALUES FROM (1) TO (300)',
    'CREATE TABLE "%s".mid PARTITION OF docs FOR VALUES FROM (300) TO (1000) PARTITION BY HASH (id)',
    'CREATE TABLE "%s"."a b" PARTITION OF "%s".mid FOR VALUES WITH (MODULUS 2, REMAINDER 0)',
    'CREATE TABLE low PARTITION OF "%s".mid FOR VALUES WITH (MODULUS 2, REMAINDER 1) PARTITION BY LIST (body)',
    "CREATE UNLOGGED TABLE lowest PARTITION OF low DEFAULT",
)
DEFERRED = (
    f"CREATE TABLE docs ({COLUMNS})",
    "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
    "CREATE CONSTRAINT TRIGGER later AFTER UPDATE ON docs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION nothing()",
)
SHAPES: dict[str, tuple[str, ...]] = {
    "partitions of several levels in several schemas": LEVELS,
    "no key": (f"CREATE TABLE docs ({COLUMNS})",),
    "a composite key": (f"CREATE TABLE docs ({COLUMNS}, PRIMARY KEY (body, id))",),
    "a UUID key": (f"CREATE TABLE docs (key uuid PRIMARY KEY DEFAULT gen_random_uuid(), {COLUMNS})",),
    "unlogged": (f"CREATE UNLOGGED TABLE docs ({COLUMNS})",),
    "room in every page": (f"CREATE TABLE docs ({COLUMNS}) WITH (fillfactor = 40)",),
    "generated columns": (
        (
            "CREATE TABLE docs (id integer, body text, twice integer GENERATED ALWAYS AS (id * 2) STORED, "
            "upper text GENERATED ALWAYS AS (upper(body)) STORED)"
        ),
    ),
    "row-level security that does not hold for the owner": (
        f"CREATE TABLE docs ({COLUMNS})",
        "ALTER TABLE docs ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY few ON docs USING (id < 10)",
    ),
    "a deferred constraint trigger": DEFERRED,
    "every row dead once": (f"CREATE TABLE docs ({COLUMNS})", f"{ROWS}", "DELETE FROM docs"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_row_is_filled(site: Site, shape: str) -> None:
    shop = table(site, *SHAPES[shape])
    done = fill(shop).expect(0)
    assert filled(done) == (N, True)
    assert shop.rows(sized()) == [(N, N)]


def test_an_empty_table_takes_one_command(site: Site) -> None:
    shop = table(site, f"CREATE TABLE docs ({COLUMNS})", rows="SELECT")
    assert filled(fill(shop).expect(0)) == (0, True)


def test_names_that_need_quotes(site: Site) -> None:
    """All of them as long as a name may be: 63 bytes."""
    schema, name, body, size = (
        f"{start:.<{63 - 3 * start.count('é')}}" for start in ('S "%s', "t 'é", "B {0} %", "Size; --")
    )
    shown = sql.Identifier(schema, name).as_string()
    column = sql.Identifier(size).as_string()
    shop = table(
        site,
        f"CREATE SCHEMA {sql.Identifier(schema).as_string()}",
        f"CREATE TABLE {shown} (id integer PRIMARY KEY, {sql.Identifier(body).as_string()} text)",
        rows=f"INSERT INTO {shown} SELECT n, repeat('x', n) FROM generate_series(1, {N}) AS n",
        change=f"AddColumn({name!r}, sa.Column({size!r}, sa.Integer, nullable=False), schema={schema!r}, "
        f"backfill={f'length({sql.Identifier(body).as_string()})'!r})",
    )
    assert filled(fill(shop).expect(0)) == (N, True)
    assert shop.value(f"SELECT count(*) FROM {shown} WHERE {column} = id") == N
    shop.run("advance", "--to", "contract").expect(0)


def test_wide_values_stay_where_they_are(site: Site) -> None:
    value = "(SELECT string_agg(md5(n::text || g), '') FROM generate_series(1, 200) AS g)"
    wide = f"SELECT n, {value} FROM generate_series(1, 300) AS n"
    shop = table(site, f"CREATE TABLE docs ({COLUMNS})", rows=f"INSERT INTO docs {wide}")
    toast = "SELECT pg_relation_size(reltoastrelid), pg_current_wal_lsn() FROM pg_class WHERE oid = 'docs'::regclass"
    shop.run("advance", "--to", "dual_write").expect(0)
    ((before, start),) = shop.rows(toast)
    assert before > 300 * 5000
    assert filled(fill(shop).expect(0)) == (300, True)
    ((after, end),) = shop.rows(toast)
    assert after == before
    assert shop.rows(sized()) == [(300, 300)]
    assert shop.value("SELECT %s::pg_lsn - %s::pg_lsn", end, start) < before


def test_an_unlogged_table_is_forecast_and_filled_without_wal(site: Site) -> None:
    shop = table(site, f"CREATE UNLOGGED TABLE docs ({COLUMNS})", rows=f"{ROWS}; ANALYZE docs")
    for options in ((), ("--probe",)):
        (plan,) = shop.run("plan", "--format", "json", *options).expect(0).document["plans"]
        (forecast,) = plan["forecasts"]
        assert (forecast["rows"], forecast["expected"]["wal_bytes"], forecast["worst"]["wal_bytes"]) == (N, 0, 0)
    shop.run("advance", "--to", "dual_write").expect(0)
    assert filled(fill(shop).expect(0)) == (N, True)
    assert shop.rows(sized()) == [(N, N)]


INHERITED = (
    f"CREATE TABLE docs ({COLUMNS})",
    "CREATE SCHEMA other",
    "CREATE TABLE other.same () INHERITS (docs)",
    """CREATE TABLE "a child" (more text, PRIMARY KEY (id)) INHERITS (docs)""",
    """CREATE TABLE grandchild (extra integer DEFAULT 5) INHERITS (other.same, "a child")""",
    "CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.body := trim(NEW.body); RETURN NEW; END $$",
    """CREATE TRIGGER tidy BEFORE INSERT OR UPDATE ON "a child" FOR EACH ROW EXECUTE FUNCTION tidy()""",
)
CHILDREN = ("docs", "other.same", '"a child"', "grandchild")
EACH = "INSERT INTO {} (id, body) SELECT n, repeat('x', n) FROM generate_series(1, 225) AS n"


def test_whatever_inherits_is_filled_and_kept_like_its_parent(site: Site) -> None:
    shop = table(site, *INHERITED, *(EACH.format(name) for name in CHILDREN), rows="SELECT")
    (plan,) = shop.run("plan", "--probe", "--format", "json").expect(0).document["plans"]
    assert {forecast["rows"] > 200 for forecast in plan["forecasts"]} == {True}
    shop.run("advance", "--to", "dual_write").expect(0)
    shop.sql(*(f"INSERT INTO {name} (id, body) VALUES (1001, 'new')" for name in CHILDREN))
    shop.sql("UPDATE docs SET body = body || '?' WHERE id = 7")
    assert shop.rows(
        "SELECT count(*), count(*) FILTER (WHERE size = length(body)) FROM docs WHERE id IN (7, 1001)"
    ) == [(8, 8)]
    assert filled(fill(shop).expect(0)) == (4 * 224, True)
    assert shop.rows(sized()) == [(4 * 226,) * 2]
    shop.run("revert", ID, "--to", "none").expect(0)
    assert shop.rows("SELECT FROM pg_attribute WHERE attname = 'size' AND NOT attisdropped AND attrelid >= 16384") == []
    shop.run("unhold", ID).expect(0)
    shop.run("advance", "--to", "contract").expect(0)
    assert shop.rows(sized()) == [(4 * 226,) * 2]
    there = "SELECT tgname FROM pg_trigger WHERE tgrelid = ANY (%s::regclass[])"
    assert shop.rows(there, list(CHILDREN)) == [("tidy",)]
    assert shop.rows("SELECT DISTINCT attnotnull FROM pg_attribute WHERE attname = 'size' AND attrelid >= 16384") == [
        (True,)
    ]


CHANGES = (
    SIZE,
    """AddColumn("docs", sa.Column("title", sa.Text, nullable=False), backfill="left(body, 5)")""",
    """RenameColumn("docs", "id", "number")""",
    """ChangeType("docs", "pages", sa.BigInteger)""",
)


def test_several_changes_of_one_table_write_each_row_once(site: Site) -> None:
    columns = f"{COLUMNS}, pages integer DEFAULT 7, writes integer NOT NULL DEFAULT 0"
    shop = table(site, f"CREATE TABLE docs ({columns})", *COUNTED, change=", ".join(CHANGES))
    refused = shop.run("advance", "--to", "backfill").expect(6)
    assert "the backfill updates rows of public.docs and fires its triggers: counted" in refused.out
    assert '--override table_triggers="reason"' in refused.out
    assert shop.phase(ID) == "dual_write"
    assert filled(fill(shop, *ACCEPTED).expect(0)) == (N, True)
    assert shop.rows("SELECT DISTINCT writes FROM docs") == [(1,)]
    shop.run("advance", "--to", "contract", "--override", "warm_connections=nobody is").expect(0)
    assert shop.value("SELECT count(*) FROM docs WHERE (size, title, pages) = (number, left(body, 5), 7)") == N


def test_an_index_whose_predicate_is_about_the_new_column(site: Site) -> None:
    shop = table(site, f"CREATE TABLE docs ({COLUMNS})")
    shop.run("advance", "--to", "dual_write").expect(0)
    shop.sql("CREATE INDEX large ON docs (id) WHERE size > 100")
    assert filled(fill(shop).expect(0)) == (N, True)
    with connect(shop.database) as connection:
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute("EXPLAIN SELECT count(*) FROM docs WHERE size > 100 AND id < 300").fetchall()
        assert "large" in str(plan)
        assert connection.execute("SELECT count(*) FROM docs WHERE size > 100 AND id < 300").fetchone() == (199,)


# What the table itself refuses ---------------------------------------------------------------------------------------

KEYS = {
    "no key": ("", "public.docs ctid "),
    "a composite key": (", PRIMARY KEY (body, id)", "public.docs (id, body)=(7, xxxxxxx)"),
    "a UUID key": (
        ", key uuid PRIMARY KEY GENERATED ALWAYS AS (lpad(id::text, 32, '0')::uuid) STORED",
        "public.docs (key)=(00000000-0000-0000-0000-000000000007)",
    ),
}
REFUSING = (
    (
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.id = 7 THEN RAISE EXCEPTION 'row 7 stays as it is'; END IF; RETURN NULL; END $$"
    ),
    (
        "CREATE CONSTRAINT TRIGGER later AFTER UPDATE ON docs DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION refuse()"
    ),
    "ALTER TABLE docs ENABLE ALWAYS TRIGGER later",
)


@pytest.mark.parametrize("key", KEYS)
def test_what_is_refused_at_commit_is_set_aside_by_its_key(site: Site, key: str) -> None:
    definition, shown = KEYS[key]
    shop = table(site, f"CREATE TABLE docs ({COLUMNS}{definition})", *REFUSING)
    fill(shop, *ACCEPTED).expect(4)
    listed = shop.run("quarantine", "list").expect(0).out
    assert f"{ID}  1 row in quarantine\n" in listed
    assert shown in listed
    assert "row 7 stays as it is (SQLSTATE P0001)" in listed
    assert shop.rows(sized()) == [(N - 1, N)]


# Shapes that are refused ---------------------------------------------------------------------------------------------

SERVER = ("CREATE FOREIGN DATA WRAPPER nowhere", "CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere")
PARENT = f"({COLUMNS}) PARTITION BY RANGE (id)"
REFUSED: dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "a foreign partition": (
        (*SERVER, f"CREATE TABLE docs {PARENT}", "CREATE TABLE near PARTITION OF docs FOR VALUES FROM (1) TO (1000)",
         "CREATE FOREIGN TABLE far PARTITION OF docs FOR VALUES FROM (1000) TO (2000) SERVER nowhere"),
        SIZE,
        ("public.far is a foreign table: rows of public.docs that another server stores cannot be filled", "detach it"),
    ),
    "a foreign table": (
        (*SERVER, f"CREATE FOREIGN TABLE docs ({COLUMNS}) SERVER nowhere"),
        SIZE,
        ("public.docs is a foreign table, and not a table", "migrate it on the server that stores its rows"),
    ),
    "a view": (
        ("CREATE VIEW docs AS SELECT 1 AS id, ''::text AS body",),
        SIZE,
        ("public.docs is a view, and not a table", "name the underlying table"),
    ),
    "a materialized view": (
        ("CREATE MATERIALIZED VIEW docs AS SELECT 1 AS id, ''::text AS body",),
        SIZE,
        ("public.docs is a materialized view, and not a table", "name the underlying table"),
    ),
    "a partition": (
        (f"CREATE TABLE parent {PARENT}", "CREATE TABLE docs PARTITION OF parent FOR VALUES FROM (1) TO (1000)"),
        SIZE,
        ("public.docs is a partition", "migrate its partitioned parent"),
    ),
    "rules": (
        (f"CREATE TABLE docs ({COLUMNS})", "CREATE RULE quiet AS ON UPDATE TO docs DO ALSO NOTHING"),
        SIZE,
        ("public.docs has rewrite rules (quiet)", "replace them by triggers first"),
    ),
    "an expression over a generated column": (
        ("CREATE TABLE docs (id integer, body text, upper text GENERATED ALWAYS AS (upper(body)) STORED)",),
        SIZE.replace("length(body)", "length(upper)"),
        ("upper of public.docs are generated columns", "use the expression that generates them"),
    ),
    "a parent of others": (
        (f"CREATE TABLE docs ({COLUMNS})", "CREATE TABLE child (more text) INHERITS (docs)"),
        f"""{SIZE}, RenameColumn("docs", "body", "content")""",
        ("public.docs is part of an inheritance tree", "only AddColumn does", "make the children partitions", "NO INHERIT"),
    ),
    "a foreign child": (
        (*SERVER, f"CREATE TABLE docs ({COLUMNS})", "CREATE FOREIGN TABLE far () INHERITS (docs) SERVER nowhere"),
        SIZE,
        ("public.far is a foreign table: rows of public.docs that another server stores cannot be filled", "detach it"),
    ),
    "a child": (
        (f"CREATE TABLE parent ({COLUMNS})", "CREATE TABLE docs () INHERITS (parent)"),
        SIZE,
        ("public.docs inherits from another table", "migrate its parent", "NO INHERIT"),
    ),
    "a temporary table": (
        (),
        """AddColumn("docs", sa.Column("size", sa.Integer), schema="pg_temp", backfill="1")""",
        ("the schema pg_temp is the server's own", "check schema= in the migration"),
    ),
    "a trigger of one partition alone": (
        (f"CREATE TABLE docs {PARENT}", "CREATE TABLE near PARTITION OF docs FOR VALUES FROM (1) TO (1000)",
         ("CREATE TRIGGER own BEFORE UPDATE OF body ON near FOR EACH ROW EXECUTE FUNCTION "
         "suppress_redundant_updates_trigger()")),
        """RenameColumn("docs", "body", "content")""",
        ("own on table public.near fires for some columns only", "create it on public.docs, or for every UPDATE"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", REFUSED)
def test_what_cannot_be_filled_is_refused_before_anything_is_done(site: Site, shape: str) -> None:
    statements, change, words = REFUSED[shape]
    shop = table(site, *statements, change=change, rows="SELECT")
    done = shop.run("advance", "--to", "backfill").expect(6)
    assert [word for word in words if word not in done.out] == []
    assert shop.phase(ID) == "none"


# Roles ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def owner(site: Site) -> Iterator[Site]:
    """An owner who is nothing else; the role's name is the user of the URL."""
    name = f"owner_{os.getpid()}_{next(_numbers)}"
    site.sql(
        f"CREATE ROLE {name} LOGIN",
        f"GRANT ALL ON SCHEMA public TO {name}",
        f"GRANT CREATE, TEMPORARY ON DATABASE {site.database.name} TO {name}",
    )
    url = site.database.server.url(site.database.name, user=name)
    yield dataclasses.replace(site, env={"ZDMIGRATE_URL": url, "ROLE": name})
    site.sql(f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


FORCED = (
    "CREATE POLICY few ON {} USING (id < 10)",
    "ALTER TABLE {} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
)


@pytest.mark.parametrize("hidden", ["docs", "near"])
@pytest.mark.parametrize("change", [SIZE, 'RenameColumn("docs", "body", "content")'])
def test_rows_that_a_policy_hides_from_the_owner_too(owner: Site, hidden: str, change: str) -> None:
    """A partition is written directly, so its own policies count."""
    role = owner.env["ROLE"]
    shop = table(
        owner,
        f"CREATE TABLE docs {PARENT}",
        "CREATE TABLE near PARTITION OF docs FOR VALUES FROM (1) TO (1000)",
        *(f"ALTER TABLE {name} OWNER TO {role}" for name in ("docs", "near")),
        *(statement.format(hidden) for statement in FORCED),
        change=change,
    )
    refused = shop.run("advance", "--to", "backfill").expect(6)
    assert f"row-level security of public.docs (or of a partition) holds for {role}, too" in refused.out
    assert "NO FORCE ROW LEVEL SECURITY" in refused.out
    assert shop.phase(ID) == "none"
    owner.sql(f"ALTER TABLE {hidden} NO FORCE ROW LEVEL SECURITY")
    assert filled(fill(shop).expect(0)) == (N, True)


@pytest.mark.parametrize("home", ["docs", "near"])
def test_triggers_that_the_owner_may_not_keep_silent(owner: Site, home: str) -> None:
    role = owner.env["ROLE"]
    shop = table(
        owner,
        f"CREATE TABLE docs ({COLUMNS}, writes integer NOT NULL DEFAULT 0) PARTITION BY RANGE (id)",
        "CREATE TABLE near PARTITION OF docs FOR VALUES FROM (1) TO (1000)",
        *(statement.replace("ON docs", f"ON {home}") for statement in COUNTED[:2]),
        *(f"ALTER TABLE {name} OWNER TO {role}" for name in ("docs", "near")),
    )
    refused = shop.run("advance", "--to", "backfill").expect(6)
    grant = f"GRANT SET ON PARAMETER session_replication_role TO {role}"
    assert "the backfill updates rows of public.docs and fires its triggers: counted" in refused.out
    assert grant in refused.out.replace('"', "")
    assert shop.phase(ID) == "dual_write"
    owner.sql(grant)
    try:
        assert filled(fill(shop).expect(0)) == (N, True)
    finally:
        owner.sql(grant.replace("GRANT", "REVOKE").replace(" TO ", " FROM "))
    assert shop.rows("SELECT DISTINCT writes FROM docs") == [(0,)]


def test_a_trigger_of_one_partition_that_changes_the_pair(site: Site) -> None:
    """What it writes reaches the new column too."""
    shop = table(
        site, f"CREATE TABLE docs {PARENT}", "CREATE TABLE near PARTITION OF docs FOR VALUES FROM (1) TO (2000)",
        "CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.body := upper(NEW.body); RETURN NEW; END $$",
        "CREATE TRIGGER loud BEFORE INSERT OR UPDATE ON near FOR EACH ROW EXECUTE FUNCTION loud()",
        change='RenameColumn("docs", "body", "content")',
    )  # fmt: skip
    fill(shop).expect(0)
    shop.sql("INSERT INTO docs (id, body) VALUES (1001, 'abc')", "UPDATE docs SET body = 'def' WHERE id = 1")
    assert shop.rows("SELECT body, content FROM docs WHERE id IN (1, 1001) ORDER BY id") == [("DEF",) * 2, ("ABC",) * 2]
