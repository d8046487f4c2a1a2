"""A column whose values a function of the migration file computes: the command line in processes of its own."""

from __future__ import annotations

import os
import signal
import textwrap
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.support import checks
from tests.support.processes import Site, until
from tests.support.servers import connect
from zdmigrate.config import Config
from zdmigrate.postgres.servers import ScratchServer

ID = "0001_size"
FUNCTION = """
def sizes(rows):
    return [len(row["name"]) for row in rows]
"""
COLUMN = 'AddColumn("users", sa.Column("size", sa.Integer{more}), backfill=sizes, reads=("name",){extra})'
NULLS = ("--override", "explicit_null=it writes none")
NEVER_NULL = ", nullable=False, server_default='0'"


def write(site: Site, function: str = FUNCTION, more: str = "", extra: str = "", change: str = COLUMN) -> Path:
    path = site.directory / "migrations" / f"{ID}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "import sqlalchemy as sa\nfrom zdmigrate import *\n" + textwrap.dedent(function)
    path.write_text(f"{text}\nmigration = Migration({change.format(more=more, extra=extra)})\n")
    return path


@pytest.fixture
def users(site: Site) -> Site:
    site.sql(
        "CREATE TABLE users (id bigserial PRIMARY KEY, name text NOT NULL)",
        "INSERT INTO users (name) SELECT repeat('x', g % 50) FROM generate_series(1, 400) g",
    )
    site.init()
    return site


def right(site: Site) -> bool:
    found: bool = site.value("SELECT bool_and(size = length(name)) FROM users")
    return found


# The plan ------------------------------------------------------------------------------------------------------------


def test_the_plan_says_who_fills_what(users: Site) -> None:
    write(users)
    out = users.run("plan").expect(0).out
    assert "version N works through dual_write, version N+1 from expand on" in out
    assert "no trigger can call sizes(): rows that version N writes have no value in size until N is gone" in out
    assert "drained (before backfill, else exit 4): no instance of version N is alive" in out
    assert "-- sizes(rows), outside of a transaction" in out
    assert "fill size with what sizes(name) returns" in out
    write(users, more=NEVER_NULL)
    out = users.run("plan").expect(0).out
    assert "version N works through contract, version N+1 from backfill on" in out
    assert "no trigger can call sizes(): rows that version N writes have the default in size, and keep it" in out
    assert "explicit_null" not in out
    assert "drained (before backfill" not in out


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ({"more": ", nullable=False"}, 2, "size is NOT NULL, and no trigger can call sizes() for rows that version N inserts"),
        ({"change": COLUMN.replace('("name",)', '("nome",)')}, 6, "there is no column 'nome' in public.users"),
        ({"change": COLUMN.replace('("name",)', "()")}, 2, "reads must name the columns"),
        ({"change": COLUMN.replace("=sizes", "='1'")}, 2, "reads and where are for a backfill that is a function"),
        ({"change": COLUMN.replace("=sizes", "=17")}, 2, "backfill must be a SQL expression, or a function"),
        ({"change": COLUMN.replace("=sizes, reads=(\"name\",)", "=17")}, 2, "backfill must be a SQL expression, or a function"),
        ({"change": COLUMN.replace("=sizes", "=lambda rows: rows")}, 2, "must be a function at the top level of the file"),
        ({"change": COLUMN.replace("=sizes", "=len")}, 2, "must be a function of the migration file"),
        ({"function": "async def sizes(rows):\n    return rows\n"}, 2, "sizes is async"),
        ({"function": "def sizes():\n    return 1\n"}, 2, "sizes must take one argument, a list of rows"),
        ({"extra": ", where='size > 1'"}, 6, 'column "size" does not exist'),
        ({"extra": ", where='name > 1'"}, 6, "operator does not exist"),
        ({"extra": "), sync=('app'"}, 6, 'with sync="app" nobody counts'),
    ],
)  # fmt: skip
def test_what_is_refused(users: Site, options: dict[str, str], code: int, says: str) -> None:
    write(users, **options)
    done = users.run("plan").expect(code)
    assert says in done.err


# Through the phases --------------------------------------------------------------------------------------------------


def test_a_column_with_a_default_while_version_n_goes_on(users: Site) -> None:
    write(users, more=NEVER_NULL)
    users.run("advance", "--to", "expand").expect(0)
    users.sql("INSERT INTO users (name) VALUES ('of version N')")
    assert users.value("SELECT count(*) FROM users WHERE size IS NULL") == 400
    users.run("advance", "--to", "backfill").expect(0)
    assert users.rows("SELECT size FROM users WHERE name = 'of version N'") == [(0,)]
    assert users.value("SELECT count(*) FROM users WHERE size = length(name)") == 400
    assert users.value("SELECT attnotnull FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = 'size'")
    users.run("advance", "--to", "contract").expect(0)
    users.sql("INSERT INTO users (name) VALUES ('of version N')")


def test_rows_of_version_n_are_filled_when_it_is_gone(users: Site) -> None:
    write(users)
    assert "explicit_null" in users.run("advance").expect(6).out
    users.sql(
        "INSERT INTO users (name) VALUES ('of version N')", "INSERT INTO users (name, size) VALUES ('of N+1', 77)"
    )
    users.run("advance", *NULLS).expect(0)
    assert users.rows("SELECT name, size FROM users WHERE name LIKE 'of %%' ORDER BY 1") == [
        ("of N+1", 77),
        ("of version N", 12),
    ]
    assert users.phase(ID) == "contract"


def after_the_pass(site: Site, statement: str) -> None:
    """Have something done in the transaction that says that the rows are filled, the first time."""
    site.sql(
        "CREATE TABLE done (n integer)",
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF NOT EXISTS (SELECT FROM public.done) THEN INSERT INTO public.done VALUES (1); {statement}; END IF; "
        "RETURN NEW; END $$",
        "CREATE TRIGGER late AFTER INSERT ON zdmigrate.event FOR EACH ROW "
        "WHEN (NEW.step LIKE '%.fill.size' AND NEW.action = 'do') EXECUTE FUNCTION late()",
    )


def test_not_null_is_not_promised_while_a_row_has_no_value(users: Site) -> None:
    """It would refuse the next thing that version N does to the row, which no trigger fills."""
    write(users, more=NEVER_NULL)
    after_the_pass(users, "UPDATE public.users SET size = NULL WHERE id = 7")
    done = users.run("advance").expect(4)
    assert "1 row of public.users without a value in size: public.users (id)=(7)" in done.out
    users.sql("UPDATE users SET name = 'of version N' WHERE id = 7")
    users.run("advance").expect(0)
    assert right(users)


def test_rows_that_appear_behind_the_pass_are_counted_and_filled_by_the_next(users: Site) -> None:
    """Version N is not gone, though somebody said so."""
    write(users)
    after_the_pass(users, "INSERT INTO public.users (name) VALUES ('late')")
    done = users.run("advance", *NULLS).expect(4)
    assert "1 row of public.users without a value in size: public.users (id)=(401)" in done.out
    assert users.phase(ID) == "dual_write"
    users.run("advance", *NULLS).expect(0)
    assert right(users)


def test_bootstrap_calls_it_too(users: Site) -> None:
    write(users, "def sizes(rows):\n    return [None for _ in rows]\n", more=NEVER_NULL)
    assert "rows of public.users cannot be filled: sizes() returned None" in users.run("bootstrap").expect(1).out
    write(users, more=NEVER_NULL)
    users.run("bootstrap").expect(0)
    assert right(users)
    users.sql("INSERT INTO users (name) VALUES ('new')")
    assert users.rows("SELECT size FROM users WHERE name = 'new'") == [(0,)]


def test_reverting_loses_values_only_where_that_is_accepted(users: Site) -> None:
    write(users)
    users.run("advance", *NULLS).expect(0)
    assert "has a value of its own in size" in users.run("revert", ID, "--to", "none").expect(6).out
    users.run("revert", ID, "--to", "none", "--allow-lossy").expect(0)
    users.run("unhold", ID).expect(0)
    users.run("advance", *NULLS).expect(0)
    assert right(users)


def test_a_read_column_that_the_same_migration_renames(users: Site) -> None:
    write(
        users,
        "def sizes(rows):\n    return [len(row['full_name']) for row in rows]\n",
        change='RenameColumn("users", "name", "full_name"), '
        'AddColumn("users", sa.Column("size", sa.Integer), backfill=sizes, reads=["full_name"])',
    )
    users.run("advance", "--to", "contract", *NULLS).expect(0)
    assert users.value("SELECT bool_and(size = length(full_name)) FROM users")


def test_trying_its_locks_calls_it(users: Site) -> None:
    write(users)
    users.run("plan", "--check-locks").expect(0)


# The file ------------------------------------------------------------------------------------------------------------


def test_a_function_that_was_edited_meanwhile_is_not_called(users: Site) -> None:
    path = write(users)
    users.run("advance", "--to", "dual_write").expect(0)
    write(users, FUNCTION.replace("len(", "1 + len("))
    assert "was edited while it is in flight" in users.run("advance", *NULLS).expect(7).out
    path.unlink()
    assert users.run("advance", ID, *NULLS).code != 0
    write(users, f"# a remark\n{FUNCTION}")  # which changes nothing
    users.run("advance", *NULLS).expect(0)
    assert right(users)


def test_what_the_function_uses_belongs_to_it(users: Site) -> None:
    text = "FACTOR = {}\ndef sizes(rows):\n    return [FACTOR * len(row['name']) for row in rows]\n"
    write(users, text.format(1))
    users.run("advance", "--to", "expand").expect(0)
    write(users, text.format(2))
    users.run("advance", *NULLS).expect(7)


# Rows that fail ------------------------------------------------------------------------------------------------------

STRICT = """
def sizes(rows):
    return [len(row["name"]) if row["name"].strip("x") == "" else int("no size") for row in rows]
"""


def test_rows_that_fail_wait_in_quarantine(users: Site) -> None:
    users.sql("UPDATE users SET name = 'secret' WHERE id IN (3, 333)")
    path = write(users, STRICT)
    done = users.run("advance", *NULLS).expect(4)
    assert "2 rows could not be filled: public.users (id)=(3): ValueError: invalid literal" in done.out
    assert "secret" not in done.out + done.err
    out = users.run("quarantine", "list").expect(0).out
    assert "(SQLSTATE 38000)" in out
    assert users.value("SELECT count(size) FROM users") == 398
    users.sql("UPDATE users SET name = 'xx' WHERE id = 3")
    assert "2 rows: 1 filled, 1 failed again" in users.run("quarantine", "retry").expect(4).out
    users.sql("UPDATE users SET name = 'xxx' WHERE id = 333")
    aside = path.rename(path.with_suffix(".txt"))
    assert (
        "the plan calls sizes(), which is no longer in the migration's file"
        in users.run("quarantine", "retry").expect(7).err
    )
    aside.rename(path)
    users.run("quarantine", "retry").expect(0)
    users.run("advance", *NULLS).expect(0)
    assert right(users)


def test_a_function_that_does_not_keep_its_word(users: Site) -> None:
    write(users, "def sizes(rows):\n    return [len(row['name']) for row in rows if row['name']]\n")
    done = users.run("advance", *NULLS).expect(1)
    assert "sizes() returned" in done.out
    assert users.run("quarantine", "list").out == ""
    assert users.phase(ID) == "dual_write"


# Whoever dies --------------------------------------------------------------------------------------------------------

# The test holds the lock, so the function waits inside.
WAITING = """
import os, psycopg

calls = 0

def sizes(rows):
    global calls
    calls += 1
    if calls == 3 and "HELPS" not in os.environ:
        with psycopg.connect(os.environ["ZDMIGRATE_URL"], application_name="inside") as connection:
            connection.execute("SELECT pg_advisory_lock(4711)")
    return [len(row["name"]) for row in rows]
"""
INSIDE = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'inside' AND wait_event = 'advisory'"
SMALL: dict[str, Any] = {"ZDMIGRATE_BACKFILL_WINDOW_PAGES": "1", "ZDMIGRATE_LEASE": "1s"}
COUNT_WRITES = (
    "ALTER TABLE users ADD COLUMN writes integer NOT NULL DEFAULT 0",
    (
        "CREATE FUNCTION count_writes() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.writes := OLD.writes + 1; RETURN NEW; END $$"
    ),
    "CREATE TRIGGER a_count BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION count_writes()",
    "ALTER TABLE users ENABLE ALWAYS TRIGGER a_count",
)
TRIGGERS = ("--override", "table_triggers=it only counts")


def test_killed_inside_the_function_nothing_is_held_and_the_next_goes_on(users: Site) -> None:
    users.sql(*COUNT_WRITES)
    write(users, WAITING)
    with connect(users.database) as locked:
        locked.execute("SELECT pg_advisory_lock(4711)")
        running = users.start("advance", *NULLS, *TRIGGERS, **SMALL)
        until(lambda: users.value(INSIDE), "the function is inside")
        # Nothing of the table is locked: whoever wants all of it gets it at once.
        users.sql("SET lock_timeout = '2s'; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        before = users.value("SELECT count(size) FROM users")
        os.kill(running.pid, signal.SIGKILL)
        assert running.wait().code == -signal.SIGKILL
    assert 0 < before < 400
    users.run("advance", *NULLS, *TRIGGERS, **SMALL).expect(0)
    assert users.rows("SELECT DISTINCT writes, size = length(name) FROM users") == [(1, True)]


def test_another_process_goes_on_while_one_is_inside(users: Site) -> None:
    users.sql(*COUNT_WRITES, "INSERT INTO users (name) SELECT repeat('x', g % 50) FROM generate_series(1, 2000) g")
    write(users, WAITING)
    with connect(users.database) as locked:
        locked.execute("SELECT pg_advisory_lock(4711)")
        first = users.start("advance", *NULLS, *TRIGGERS, **SMALL)
        until(lambda: users.value(INSIDE), "the function is inside")
        second = users.start("backfill", "work", ID, HELPS="1", **SMALL)
        until(lambda: users.value("SELECT count(size) FROM users") > 2000, "the other one fills the rest")
        locked.execute("SELECT pg_advisory_unlock(4711)")
        first.wait().expect(0)
        second.wait().expect(0)
    assert users.rows("SELECT DISTINCT writes, size = length(name) FROM users") == [(1, True)]


def test_a_signal_ends_it_after_the_batch(users: Site) -> None:
    write(users, WAITING)
    with connect(users.database) as locked:
        locked.execute("SELECT pg_advisory_lock(4711)")
        running = users.start("advance", *NULLS, **SMALL)
        until(lambda: users.value(INSIDE), "the function is inside")
        running.send(signal.SIGTERM)
        locked.execute("SELECT pg_advisory_unlock(4711)")
        assert running.wait().code != 0
    assert 0 < users.value("SELECT count(size) FROM users") < 400
    users.run("advance", *NULLS, **SMALL).expect(0)
    assert right(users)


@pytest.mark.parametrize("when", ["after", "sent"])
@pytest.mark.parametrize("skip", [0, 9])
def test_killed_at_a_write(users: Site, when: str, skip: int) -> None:
    users.sql(*COUNT_WRITES)
    write(users)
    kill = {"match": "zd_computed", "skip": skip, "when": when}
    assert users.run("advance", *NULLS, *TRIGGERS, kill=kill, **SMALL).code == -signal.SIGKILL
    users.run("advance", *NULLS, *TRIGGERS, **SMALL).expect(0)
    assert users.rows("SELECT DISTINCT writes, size = length(name) FROM users") == [(1, True)]


# Both versions -------------------------------------------------------------------------------------------------------


class Old(DeclarativeBase):
    pass


class OldUser(Old):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class New(DeclarativeBase):
    pass


class NewUser(New):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    size: Mapped[int | None]


def test_both_versions_work_where_the_plan_says_so(site: Site, check_pg: ScratchServer, tmp_path: Path) -> None:
    """Without a default; examples have one with."""
    seed = tmp_path / "seed.sql"
    seed.write_text(
        "CREATE TABLE users (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name text NOT NULL);\n"
        "INSERT INTO users (name) SELECT 'n' || g FROM generate_series(1, 50) g;\n"
    )
    config = Config(dir=write(site).parent)
    old, new = (checks.of_models({"User": cls}) for cls in (OldUser, NewUser))
    run = checks.Bench(check_pg, tmp_path).run(config, seed, old, new)
    assert checks.clean(run) == []
    assert run.exit_code == 0
