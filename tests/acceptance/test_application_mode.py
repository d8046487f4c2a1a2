"""``sync="app"``: the application writes both shapes, and whoever forgets it is found before anything is taken away."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.support.processes import RENAME, Done, Site, until, with_users
from tests.support.servers import Database, connect
from tests.support.workers import worker

ROLE = "shop_app"
BOTH, NEW = ("id", "user_email", "email_address"), ("id", "email_address")
SOAKED = ("--override", "soak=test", "--override", "retire_soak=test")
INSERT = "INSERT INTO users (user_email, email_address) VALUES (%s, %s)"
DIVERGED = "SELECT count(*) FROM users WHERE user_email IS DISTINCT FROM email_address"


def _site(site: Site, environment: str) -> Site:
    with connect(site.database) as connection:
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (ROLE,)).fetchone() is None:
            connection.execute(f"CREATE ROLE {ROLE} LOGIN".encode())
    with_users(site, environment=environment)
    site.write(RENAME, 'RenameColumn("users", "user_email", "email_address")', sync="app")
    site.run("init", "--app-role", ROLE).expect(0)
    site.sql("ALTER TABLE users ALTER user_email DROP NOT NULL")
    site.sql(f"GRANT SELECT, INSERT, UPDATE ON users TO {ROLE}", f"GRANT USAGE ON SEQUENCE users_id_seq TO {ROLE}")
    return site


@pytest.fixture
def shop(site: Site) -> Site:
    """In production."""
    return _site(site, "production")


@pytest.fixture
def trial(site: Site) -> Site:
    """In development, where nobody has to be gone."""
    return _site(site, "development")


@contextmanager
def session(database: Database, name: str, **options: Any) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.conninfo_as(ROLE), application_name=name, autocommit=True, **options) as connection:
        yield connection


def gate(site: Site, name: str = "dual_writers") -> str:
    shown = site.run("status", "--format", "json").expect(0)
    found: str = next(gate["detail"] for gate in shown.migration(RENAME)["gates"] if gate["name"] == name)
    return found


def again(site: Site, *to: str) -> Done:
    """What the gate says is to be done."""
    site.run("revert", RENAME, "--to", "dual_write").expect(0)
    site.run("unhold", RENAME).expect(0)
    return site.run("advance", *to, *SOAKED)


# The drill ------------------------------------------------------------------------------------------------------------


def test_a_forgotten_writer_is_found_and_named(shop: Site) -> None:
    """Two instances of a version that writes both, and a job of raw SQL that nobody has thought of."""
    shop.run("advance", "--to", "dual_write").expect(0)
    assert "no application that does reports in" in gate(shop)
    dual = functools.partial(worker, shop.database, ROLE, "2", BOTH)
    with dual() as first, dual() as second:
        shop.run("advance", "--to", "backfill").expect(0)
        with session(shop.database, "nightly") as forgotten, session(shop.database, "shop/2") as other:
            other.execute(INSERT, ("a", "a"))
            forgotten.execute("INSERT INTO users (user_email) VALUES ('someone@example.org')")
            done = shop.run("advance", "--to", "switch_reads").expect(4)
            assert (
                f"nightly (role {ROLE}, pid {forgotten.info.backend_pid}) wrote the old shape alone of public.users"
                in done.out
            )
            assert "INSERT INTO users (user_email) VALUES (?)" in done.out
            assert "someone" not in done.out
            assert shop.value("SELECT count(*) FROM zdmigrate.write_note") == 1
            # Mended.
            forgotten.execute(INSERT, ("b", "b"))
        assert again(shop, "--to", "switch_reads").code == 4, "ten minutes have not passed"
        shop.sql("UPDATE zdmigrate.write_note SET at = at - interval '11 min'")
        shop.run("advance", "--to", "switch_reads").expect(0)
        assert shop.value(DIVERGED) == 0

        # It was mended in one place only.
        with session(shop.database, "nightly") as forgotten:
            forgotten.execute("UPDATE users SET user_email = 'c' WHERE id = 3")
        shop.sql("UPDATE zdmigrate.write_note SET at = at - interval '16 min'")
        with worker(shop.database, ROLE, "3", NEW) as new:
            first.end()
            second.end()
            done = shop.run("advance", *SOAKED).expect(4)
            assert "dual_writers: since every row was verified" in done.out
            assert "UPDATE users SET user_email = ? WHERE id = ?" in done.out
            assert "these may need" not in done.out, "nothing else is in the way"
            refused = shop.run("revert", RENAME, "--to", "dual_write").expect(4)
            assert "shop 3" in refused.out, "which knows the new shape alone"
            new.end()
        with dual() as third:
            again(shop, "--to", "switch_reads").expect(0)
            assert shop.value(DIVERGED) == 0
            assert shop.value("SELECT email_address FROM users WHERE id = 3") == "c"
            third.end()
        with worker(shop.database, ROLE, "3", NEW), session(shop.database, "shop/3") as new_only:
            new_only.execute("INSERT INTO users (email_address) VALUES ('d')")
            new_only.execute("UPDATE users SET email_address = 'e' WHERE id = 4")
            shop.run("advance", *SOAKED).expect(0)
            assert shop.phase(RENAME) == "retire"
            new_only.execute("UPDATE users SET email_address = 'f' WHERE id = 5")
            shop.run("advance", "--to", "contract", *SOAKED).expect(0)
    assert shop.rows("SELECT id, email_address FROM users WHERE id IN (3, 4, 5) ORDER BY 1") == [
        (3, "c"),
        (4, "e"),
        (5, "f"),
    ]


def test_before_the_backfill_every_live_version_must_write_both(shop: Site) -> None:
    shop.run("advance", "--to", "dual_write").expect(0)
    old = worker(shop.database, ROLE, "1", ("id", "user_email"))
    with old as n, worker(shop.database, ROLE, "2", BOTH):
        assert "shop 1 (" in gate(shop)
        assert "writes the old shape alone" in gate(shop)
        with session(shop.database, "shop/1") as writer:
            for number in range(3):
                writer.execute("INSERT INTO users (user_email) VALUES (%s)", (str(number),))
        assert shop.value("SELECT count(*) FROM zdmigrate.write_note") == 1, "once a minute, before the backfill"
        assert "that left the two shapes different at" in gate(shop)
        shop.run("advance", "--to", "backfill").expect(4)
        n.end()
        shop.run("advance", "--to", "backfill").expect(0)
    assert "shop 2: deployed" not in gate(shop)


def test_one_that_maps_the_new_shape_alone_is_too_early(shop: Site) -> None:
    shop.run("advance", "--to", "dual_write").expect(0)
    with worker(shop.database, ROLE, "2", BOTH), worker(shop.database, ROLE, "3", NEW):
        assert "writes the new shape alone" in gate(shop)
        shop.run("advance", "--to", "backfill").expect(4)


def test_a_row_that_is_not_filled_yet_is_nobodys_fault(trial: Site) -> None:
    trial.sql("ALTER TABLE users ADD COLUMN seen int")
    trial.run("advance", "--to", "dual_write").expect(0)
    trial.sql("UPDATE users SET seen = 1", "UPDATE users SET user_email = user_email")
    assert trial.value("SELECT count(*) FROM zdmigrate.write_note") == 0


def test_a_value_that_up_cannot_take_fails_nobody(site: Site) -> None:
    """It is noted instead: nobody could say what the other side should be."""
    site.sql("CREATE TABLE t (id serial PRIMARY KEY, a text)", "INSERT INTO t (a) VALUES ('1')")
    both = 'RenameColumn("t", "a", "b")', 'ChangeType("t", "b", sa.Integer())'
    site.write("0001_t", *both, sync="app")
    site.init()
    site.run("advance", "--to", "dual_write").expect(0)
    site.sql("INSERT INTO t (a, b) VALUES ('7', 7), (NULL, NULL)", "UPDATE t SET a = '8', b = 8 WHERE a = '7'")
    assert site.value("SELECT count(*) FROM zdmigrate.write_note") == 0
    site.sql("INSERT INTO t (a) VALUES ('abc')", "UPDATE t SET a = 'x' WHERE id = 1", "DELETE FROM t WHERE a = '8'")
    assert site.rows("SELECT DISTINCT side, diverged FROM zdmigrate.write_note") == [("old", True)]
    assert site.value("SELECT a FROM t WHERE id = 1") == "x"


# When a violation is seen ---------------------------------------------------------------------------------------------


def test_one_that_commits_after_the_verification_counts(trial: Site) -> None:
    trial.run("advance", "--to", "backfill").expect(0)
    with connect(trial.database, autocommit=False) as late:
        late.execute("INSERT INTO users (user_email) VALUES ('late')")
        trial.run("verify", RENAME).expect(0)
        trial.run("advance", "--to", "switch_reads").expect(0)
        late.commit()
    done = trial.run("advance", *SOAKED).expect(4)
    assert "VALUES (?)" in done.out
    again(trial).expect(0)
    assert trial.value("SELECT count(*) FROM users WHERE email_address = 'late'") == 1


def test_retire_waits_for_those_that_are_writing_and_asks_again(trial: Site) -> None:
    """The gate has let it pass; who has written meanwhile is found in the transaction that takes the column away."""
    trial.run("advance", "--to", "switch_reads").expect(0)
    with connect(trial.database, autocommit=False) as late:
        late.execute("UPDATE users SET user_email = 'late' WHERE id = 1")
        running = trial.start("advance", *SOAKED)
        until(lambda: "without queueing" in running.narration, "it waits for the lock")
        late.commit()
        done = running.wait().expect(4)
    assert "UPDATE users SET user_email = ?" in done.out
    assert (
        trial.value("SELECT count(*) FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = 'user_email'")
        == 1
    )
    done = trial.run("advance", *SOAKED).expect(4)
    assert "dual_writers" in done.out
    trial.run("advance", *SOAKED, "--override", "dual_writers=a test").expect(0)


def test_what_is_rolled_back_or_prepared(trial: Site) -> None:
    trial.run("advance", "--to", "backfill").expect(0)
    with connect(trial.database, autocommit=False) as writer:
        writer.execute("INSERT INTO users (user_email) VALUES ('x')")
        writer.rollback()
        writer.execute("SAVEPOINT here")
        writer.execute("INSERT INTO users (user_email) VALUES ('x')")
        writer.execute("ROLLBACK TO here")
        writer.commit()
    trial.run("advance", "--to", "switch_reads").expect(0)
    with connect(trial.database) as writer:
        writer.execute("PREPARE fill (text) AS INSERT INTO users (user_email) VALUES ($1)")
        writer.execute("EXECUTE fill ('someone')")
    done = trial.run("advance", *SOAKED).expect(4)
    assert "PREPARE fill (text) AS INSERT INTO users (user_email) VALUES ($1)" in done.out
    assert "someone" not in done.out


def test_a_bulk_statement_is_one_note(trial: Site) -> None:
    trial.run("advance", "--to", "backfill").expect(0)
    with connect(trial.database, autocommit=False) as writer:
        writer.execute("UPDATE users SET user_email = user_email || 'x'")
        writer.execute("UPDATE users SET user_email = user_email || 'y'")
        with writer.cursor() as cursor:
            cursor.executemany("INSERT INTO users (user_email) VALUES (%s)", [(str(n),) for n in range(100)])
        writer.commit()
        assert trial.value("SELECT count(*) FROM zdmigrate.write_note") <= 20
        assert trial.value("SELECT count(DISTINCT statement) FROM zdmigrate.write_note") == 2


@pytest.mark.parametrize("late", [True, False])
def test_correcting_the_rows_by_hand_opens_it_too(trial: Site, *, late: bool) -> None:
    trial.run("advance", "--to", "backfill").expect(0)
    trial.sql("UPDATE users SET user_email = 'x' WHERE id = 1")
    if late:
        trial.run("advance", "--to", "switch_reads", "--override", "dual_writers=a test").expect(0)
    trial.run("verify", RENAME).expect(6)
    trial.sql("UPDATE users SET email_address = user_email WHERE id = 1")
    trial.run("verify", RENAME).expect(0)
    trial.run("advance", *SOAKED).expect(0)


def test_a_note_that_cannot_be_made_fails_nobody(trial: Site) -> None:
    trial.run("advance", "--to", "backfill").expect(0)
    with connect(trial.database, autocommit=False) as locker, session(trial.database, "x") as writer:
        locker.execute("LOCK TABLE zdmigrate.write_note IN ACCESS EXCLUSIVE MODE")
        writer.execute("SET statement_timeout = '1s'")
        writer.execute("UPDATE users SET user_email = 'x'")
        locker.rollback()
    trial.sql("DROP TABLE zdmigrate.write_note CASCADE")
    with session(trial.database, "x") as writer:
        writer.execute("UPDATE users SET user_email = 'y'")


def _missing(site: Site) -> None:
    """A forgotten writer, while nobody can note anything. It does not wait for each of its statements."""
    with connect(site.database, autocommit=False) as locker, connect(site.database, autocommit=False) as writer:
        locker.execute("LOCK TABLE zdmigrate.write_note IN SHARE MODE")
        began = time.monotonic()
        for number in range(30):
            writer.execute("UPDATE users SET user_email = %s WHERE id = 1", (f"x{number}",))
        writer.commit()
        assert time.monotonic() - began < 0.6, "50 ms, once"
        locker.rollback()


@pytest.mark.parametrize("before", ["backfill", "switch_reads"])
def test_a_note_that_was_missed_closes_the_gate(trial: Site, before: str) -> None:
    trial.run("advance", "--to", before).expect(0)
    _missing(trial)
    assert trial.value("SELECT count(*) FROM zdmigrate.write_note") == 0
    done = trial.run("advance", *SOAKED).expect(4)
    assert "1 write could not be noted since every row was verified" in done.out
    assert f"zdmigrate verify {RENAME}" in done.out
    trial.run("verify", RENAME).expect(6)
    trial.sql("UPDATE users SET email_address = user_email")
    trial.run("verify", RENAME).expect(0)
    trial.sql("DELETE FROM zdmigrate.write_note")
    trial.run("advance", *SOAKED).expect(0)


def test_one_that_missed_its_note_and_commits_after_the_verification_counts(trial: Site) -> None:
    """The sequence had moved before: that the verification could not see the row, a lock tells."""
    trial.run("advance", "--to", "backfill").expect(0)
    with connect(trial.database, autocommit=False) as locker, connect(trial.database, autocommit=False) as late:
        locker.execute("LOCK TABLE zdmigrate.write_note IN SHARE MODE")
        late.execute("UPDATE users SET user_email = 'late' WHERE id = 1")
        locker.rollback()
        trial.run("verify", RENAME).expect(0)
        late.commit()
    assert "1 write could not be noted" in trial.run("advance", *SOAKED).expect(4).out


def test_retire_asks_again_for_notes_that_were_missed(trial: Site) -> None:
    trial.run("advance", "--to", "switch_reads").expect(0)
    with connect(trial.database, autocommit=False) as locker, connect(trial.database, autocommit=False) as late:
        late.execute("SELECT FROM users")
        running = trial.start("advance", *SOAKED)
        until(lambda: "without queueing" in running.narration, "it waits for the lock")
        locker.execute("LOCK TABLE zdmigrate.write_note IN SHARE MODE")
        late.execute("UPDATE users SET user_email = 'late' WHERE id = 1")
        locker.rollback()
        late.commit()
        assert "writes that could not be noted: 1" in running.wait().expect(4).out


@pytest.mark.parametrize(
    ("taken", "grant"),
    [
        ("USAGE ON SCHEMA zdmigrate", "GRANT USAGE ON SCHEMA zdmigrate TO PUBLIC"),
        (
            "EXECUTE ON FUNCTION zdmigrate.note_write(text, text, text, boolean, boolean)",
            "GRANT EXECUTE ON FUNCTION zdmigrate.note_write(text,text,text,boolean,boolean) TO PUBLIC",
        ),
    ],
)
def test_where_nobody_may_note_anything_the_gate_is_closed(trial: Site, taken: str, grant: str) -> None:
    trial.run("advance", "--to", "backfill").expect(0)
    trial.sql(f"REVOKE {taken} FROM PUBLIC")
    assert grant in trial.run("advance", *SOAKED).expect(4).out
    trial.sql(grant)
    trial.run("advance", *SOAKED).expect(0)


# Back again -----------------------------------------------------------------------------------------------------------


def refused(done: Done) -> str:
    done.expect(6)
    assert "reverting would lose what version N+1 wrote" in done.out
    return done.out


def test_what_version_n_plus_one_wrote_is_not_left_behind(trial: Site) -> None:
    trial.run("advance", *SOAKED).expect(0)
    trial.sql("UPDATE users SET email_address = 'new' WHERE id = 7")
    assert trial.value("SELECT count(*) FROM zdmigrate.write_note") == 0, "nobody has to write the old shape any more"
    out = refused(trial.run("revert", RENAME, "--to", "switch_reads"))
    ctid = trial.value("SELECT ctid::text FROM users WHERE id = 7")
    assert f"row {ctid} of public.users differs in its two shapes" in out
    assert trial.phase(RENAME) == "retire"
    trial.sql("UPDATE users SET email_address = 'u7' WHERE id = 7")
    trial.run("revert", RENAME, "--to", "none").expect(0)


def test_what_was_being_written_when_it_was_asked_is_not_overwritten(trial: Site) -> None:
    """It was not committed yet. Undoing `retire` waits for it, and asks again."""
    trial.run("advance", *SOAKED).expect(0)
    with connect(trial.database, autocommit=False) as late:
        late.execute("UPDATE users SET email_address = 'precious' WHERE id = 1")
        running = trial.start("revert", RENAME, "--to", "dual_write")
        until(lambda: "without queueing" in running.narration, "it waits for the lock")
        late.commit()
        refused(running.wait())
    refused(trial.run("revert", RENAME, "--to", "dual_write"))
    trial.run("unhold", RENAME).expect(0)
    trial.run("advance", *SOAKED).expect(0)
    assert trial.value("SELECT email_address FROM users WHERE id = 1") == "precious"
    trial.run("revert", RENAME, "--to", "dual_write", "--allow-lossy").expect(0)


def test_nor_before_retire(trial: Site) -> None:
    trial.run("advance", "--to", "switch_reads").expect(0)
    with connect(trial.database, autocommit=False) as late:
        late.execute("UPDATE users SET email_address = 'precious' WHERE id = 1")
        running = trial.start("revert", RENAME, "--to", "dual_write")
        until(lambda: "without queueing" in running.narration, "it waits for the lock")
        late.commit()
        refused(running.wait())
    refused(trial.run("revert", RENAME, "--to", "dual_write"))
    assert trial.value("SELECT email_address FROM users WHERE id = 1") == "precious"


def test_the_guard_comes_back_with_the_old_shape(trial: Site) -> None:
    trial.run("advance", *SOAKED).expect(0)
    trial.run("verify", RENAME).expect(0)
    trial.run("revert", RENAME, "--to", "switch_reads").expect(0)
    trial.sql("UPDATE users SET user_email = 'x' WHERE id = 1")
    assert trial.rows("SELECT side FROM zdmigrate.write_note") == [("old",)]
    trial.run("unhold", RENAME).expect(0)
    trial.run("advance", *SOAKED).expect(4)
    trial.run("advance", *SOAKED, "--override", "dual_writers=a test").expect(0)
    done = trial.run("advance", "--to", "contract", *SOAKED).expect(4)
    assert "UPDATE users SET user_email = ?" in done.out, "until it is dropped, somebody may still see to it"


def test_the_new_shape_alone_was_written_before_retire(trial: Site) -> None:
    """The old shape would get the authority again, and the next backfill would write over it."""
    trial.run("advance", "--to", "switch_reads").expect(0)
    trial.sql("UPDATE users SET email_address = 'new' WHERE id = 7")
    refused(trial.run("revert", RENAME, "--to", "dual_write"))
    trial.run("advance", *SOAKED).expect(0)
    assert trial.value("SELECT email_address FROM users WHERE id = 7") == "new"


def test_what_was_never_filled_is_no_loss(trial: Site) -> None:
    trial.run("advance", "--to", "dual_write").expect(0)
    trial.run("revert", RENAME, "--to", "none").expect(0)
    trial.run("unhold", RENAME).expect(0)
    trial.run("advance", "--to", "backfill").expect(0)
    trial.sql("UPDATE users SET user_email = 'x' WHERE id = 1")
    trial.run("revert", RENAME, "--to", "none").expect(0)


def test_a_column_that_keeps_its_name_is_refused(trial: Site) -> None:
    trial.write(RENAME, 'ChangeType("users", "user_email", sa.String(50), up="left(user_email, 50)")', sync="app")
    done = trial.run("plan").expect(6)
    assert 'with sync="app" nobody could write both shapes' in done.err


# What nobody fills ----------------------------------------------------------------------------------------------------


def _strict(site: Site, *ddl: str, change: str = 'RenameColumn("t", "a", "b")') -> Site:
    site.sql(
        "CREATE TABLE t (id bigserial PRIMARY KEY, a text NOT NULL, n int)", *ddl, "INSERT INTO t (a) VALUES ('1')"
    )
    site.write("0001_t", *change.split(";"), sync="app")
    site.init()
    return site


def test_the_new_version_may_leave_out_what_was_not_null(site: Site) -> None:
    """No trigger fills it; nobody may have to, from `switch_reads` on."""
    _strict(site)
    required = "SELECT attnotnull FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'a'"
    site.run("advance", "--to", "switch_reads").expect(0)
    site.sql("INSERT INTO t (b) VALUES ('2')")
    site.run("advance", *SOAKED).expect(0)
    site.sql("INSERT INTO t (b) VALUES ('3')")
    out = site.run("revert", "0001_t", "--to", "none").expect(6).out
    assert "is NULL in a" in out
    site.sql("UPDATE t SET zd = b WHERE zd IS NULL".replace("zd", _column(site, 2)))
    site.run("revert", "0001_t", "--to", "backfill").expect(0)
    site.sql("INSERT INTO t (b) VALUES ('4')", "UPDATE t SET a = b WHERE b = '4'")
    site.run("revert", "0001_t", "--to", "none").expect(0)
    assert site.value(required) is True
    assert site.rows("SELECT a FROM t ORDER BY id") == [("1",), ("2",), ("3",), ("4",)]
    site.run("unhold", "0001_t").expect(0)
    site.run("advance", "--to", "contract", *SOAKED).expect(0)
    site.sql("INSERT INTO t (b) VALUES ('5')")
    with pytest.raises(psycopg.errors.NotNullViolation):
        site.sql("INSERT INTO t (n) VALUES (5)")


def _column(site: Site, number: int) -> str:
    name: str = site.value(f"SELECT attname FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum = {number}")
    return name


@pytest.mark.parametrize(
    ("ddl", "refused"),
    [
        ("ALTER TABLE t ADD CONSTRAINT k CHECK (a IS NOT NULL)", True),
        ("ALTER TABLE t ADD CONSTRAINT k CHECK (coalesce(a, '') <> '')", True),
        ("ALTER TABLE t ADD CONSTRAINT k CHECK (ARRAY[a] <> ARRAY['x'])", True),
        ("ALTER TABLE t ALTER a SET DEFAULT 'x', ADD CONSTRAINT k CHECK (a <> n::text)", True),
        ("CREATE UNIQUE INDEX k ON t (n) WHERE a IS NULL", True),
        ("ALTER TABLE t ALTER a SET DEFAULT 'x', ADD CONSTRAINT k UNIQUE (a)", True),
        ("ALTER TABLE t ADD CONSTRAINT k CHECK (a IN ('1', '2', '3') AND length(a) < 10 OR n > 3)", False),
        ("CREATE UNIQUE INDEX k ON t (lower(a)) WHERE a <> ''", False),
        ("ALTER TABLE t ALTER a SET DEFAULT 'x', ADD CONSTRAINT k CHECK (a IS NOT NULL)", False),
    ],
)
def test_what_an_absent_value_may_violate_is_refused(site: Site, ddl: str, *, refused: bool) -> None:
    _strict(site, ddl)
    done = site.run("plan").expect(6 if refused else 0)
    if refused:
        assert "may violate" in done.err
        assert " k" in done.err
        return
    site.run("advance", "--to", "switch_reads").expect(0)
    site.sql("INSERT INTO t (b) VALUES ('2')", "INSERT INTO t (b) VALUES ('3')")
    site.run("advance", *SOAKED).expect(0)
    site.sql("INSERT INTO t (b) VALUES ('1') ON CONFLICT DO NOTHING")


def test_a_down_that_nobody_computes_is_refused(site: Site) -> None:
    _strict(site, change='DropColumn("t", "a", down="\'x\'")')
    assert "leave down= out" in site.run("plan").expect(6).err
