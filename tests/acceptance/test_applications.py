"""Releases: who is alive, who may run, what waits for whom; with processes that register."""

from __future__ import annotations

import functools
import signal
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support import clocks
from tests.support.processes import RENAME, Site, until, with_users
from tests.support.servers import connect
from tests.support.workers import worker
from zdmigrate.compat.footprint import Footprint, MappedColumn, MappedTable

ROLE = "shop_app"
OLD, NEW = ("id", "user_email"), ("id", "email_address")
SOAKED = ("--override", "soak=test", "--override", "retire_soak=test")


@pytest.fixture
def shop(site: Site) -> Site:
    """In production, with the application's role."""
    with connect(site.database) as connection:
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (ROLE,)).fetchone() is None:
            connection.execute(f"CREATE ROLE {ROLE} LOGIN".encode())
    with_users(site, environment="production")
    site.run("init", "--app-role", ROLE).expect(0)
    site.sql(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON users TO {ROLE}", f"GRANT USAGE ON SEQUENCE users_id_seq TO {ROLE}"
    )
    return site


def footprint(site: Site, *columns: str) -> str:
    path = site.directory / f"{'_'.join(columns)}.json"
    mapped = tuple(MappedColumn(name=name, type="TEXT" if name != "id" else "BIGINT") for name in columns)
    path.write_bytes(Footprint.of(tables=[MappedTable(name="users", columns=mapped)]).to_bytes())
    return str(path)


def drained(site: Site) -> str:
    shown = site.run("status", "--format", "json").expect(0)
    found: str = next(gate["detail"] for gate in shown.migration(RENAME)["gates"] if gate["name"] == "drained")
    return found


def test_retire_waits_for_the_last_instance_of_n_and_needs_no_override(shop: Site) -> None:
    shop.run("advance", "--to", "backfill").expect(0)
    n = functools.partial(worker, shop.database, ROLE, "1", OLD)
    with n() as first, n() as second, worker(shop.database, ROLE, "2", NEW) as new:
        shop.run("advance", "--to", "switch_reads").expect(0)
        done = shop.run("advance", *SOAKED).expect(4)
        assert "these may need the old shape: shop 1 (" in done.out
        assert "and 1 more" in done.out
        first.end()
        assert "and 1 more" not in drained(shop)
        shop.run("advance", *SOAKED).expect(4)
        second.end()
        assert "shop 2: 1 instance without it" in drained(shop)
        shop.run("advance", *SOAKED).expect(0)
        assert shop.phase(RENAME) == "retire"
        assert new.ask("bool(fleet.refresh() and fleet.ready())") == "True"
        shop.run("advance", "--to", "contract", *SOAKED).expect(0)


def test_going_back_waits_for_the_last_instance_of_n_plus_one(shop: Site) -> None:
    shop.run("advance", "--to", "backfill").expect(0)
    with worker(shop.database, ROLE, "1", OLD), worker(shop.database, ROLE, "2", NEW) as new:
        done = shop.run("revert", RENAME, "--to", "none").expect(4)
        assert "these may need the new shape: shop 2 (" in done.out
        assert shop.phase(RENAME) == "backfill"
        new.end()
        shop.run("revert", RENAME, "--to", "none").expect(0)


def test_one_that_was_killed_counts_for_a_quarter_of_an_hour(shop: Site) -> None:
    shop.run("advance", "--to", "switch_reads").expect(0)
    with worker(shop.database, ROLE, "1", OLD) as old, worker(shop.database, ROLE, "2", NEW):
        old.process.kill()
        old.process.wait()
        shop.sql(
            "UPDATE zdmigrate.app_instance SET expires_at = clock_timestamp() - interval '14 min' WHERE version = '1'"
        )
        assert "1 of them silent since" in drained(shop)
        shop.run("advance", *SOAKED).expect(4)
        shop.sql("UPDATE zdmigrate.app_instance SET expires_at = expires_at - interval '1 min' WHERE version = '1'")
        shop.run("advance", *SOAKED).expect(0)


@pytest.mark.skipif(clocks.PROGRAM is None, reason=clocks.MISSING)
def test_clocks_that_are_an_hour_off_change_nothing(shop: Site) -> None:
    """Its lease, that it is alive, what it has taken note of: all of that is by the server's clock."""
    shop.run("advance", "--to", "backfill").expect(0)
    times = "SELECT max(abs(extract(epoch FROM {} - clock_timestamp()))) FROM zdmigrate.app_instance"
    with (
        clocks.off_by("+1h") as ahead,
        clocks.off_by("-1h") as behind,
        worker(shop.database, ROLE, "1", OLD, env=ahead) as old,
        worker(shop.database, ROLE, "2", NEW, env=behind) as new,
    ):
        for each in (old, new):
            assert abs(float(each.ask("__import__('time').time()")) - time.time()) > 3500
        for column in ("started_at", "seen_at", "expires_at"):
            assert shop.value(times.format(column)) < 60, column
        assert not shop.value("SELECT bool_or(expires_at < clock_timestamp()) FROM zdmigrate.app_instance")
        shop.run("switch", RENAME, "100").expect(0)
        until(lambda: {old.ask("switch.new(1)"), new.ask("switch.new(1)")} == {"True"}, "both follow")
        shop.run("advance", "--to", "switch_reads").expect(0)
        assert "these may need the old shape: shop 1 (" in shop.run("advance", *SOAKED).expect(4).out

        new.process.send_signal(signal.SIGSTOP)
        over = "SELECT array_agg(version) FROM zdmigrate.app_instance WHERE expires_at < clock_timestamp()"
        until(lambda: shop.value(over) == ["2"], "the lease of the one that is stopped runs out, and no other one")
        new.process.send_signal(signal.SIGCONT)
        until(lambda: shop.value(over) is None, "it is back")

        old.end()
        assert "shop 2: 1 instance without it" in drained(shop)
        shop.run("advance", *SOAKED).expect(0)
        assert shop.phase(RENAME) == "retire"


def test_sessions_of_code_that_does_not_register_keep_it_closed(shop: Site) -> None:
    """The first migration: N knows nothing of all this."""
    shop.run("advance", "--to", "switch_reads").expect(0)
    with worker(shop.database, ROLE, "2", NEW):
        with psycopg.connect(shop.database.conninfo_as(ROLE), application_name="") as legacy:
            detail = drained(shop)
            assert f"1 session without a name of {ROLE} (pid {legacy.info.backend_pid}" in detail
            assert "nobody says which version that is" in detail
            shop.run("advance", *SOAKED).expect(4)
        until(lambda: "session" not in drained(shop).split("(not seen")[0], "the session is gone")
        shop.run("advance", *SOAKED).expect(0)


def test_a_role_that_cannot_reach_the_table_is_none_of_our_business(shop: Site) -> None:
    shop.run("advance", "--to", "switch_reads").expect(0)
    with connect(shop.database) as connection:
        if connection.execute("SELECT FROM pg_roles WHERE rolname = 'stranger'").fetchone() is None:
            connection.execute("CREATE ROLE stranger LOGIN")
    with worker(shop.database, ROLE, "2", NEW), psycopg.connect(shop.database.conninfo_as("stranger")):
        shop.run("advance", *SOAKED).expect(0)


def test_no_evidence_is_a_refusal(shop: Site) -> None:
    shop.run("advance", "--to", "switch_reads").expect(0)
    assert drained(shop).startswith("nothing proves that version N is gone: no application reports in")
    shop.run("advance", *SOAKED).expect(4)


def test_a_rollout_that_is_declared(shop: Site) -> None:
    shop.run("deployed", "shop", "1", "--footprint", footprint(shop, *OLD)).expect(0)
    shop.run("advance", "--to", "switch_reads").expect(0)
    assert "shop 1 is declared as deployed, and it needs the old shape" in drained(shop)
    shop.run("advance", *SOAKED).expect(4)
    with psycopg.connect(shop.database.conninfo_as(ROLE), application_name="gunicorn") as legacy:
        done = shop.run("deployed", "shop", "2", "--footprint", footprint(shop, *NEW)).expect(0)
        assert done.out == "shop 2 is the deployed version; the others have to drain\n"
        assert f"pid {legacy.info.backend_pid}" in drained(shop), "it was there before the rollout was complete"
        shop.run("advance", *SOAKED).expect(4)
    until(lambda: "gunicorn" not in drained(shop), "the session is gone")
    with psycopg.connect(shop.database.conninfo_as(ROLE), application_name="gunicorn"):
        shop.run("advance", *SOAKED).expect(0)
    assert shop.rows("SELECT detail, actor FROM zdmigrate.event WHERE action = 'deployed' ORDER BY number") == [
        ("shop 1, 1 tables", "postgres"), ("shop 2, 1 tables", "postgres")
    ]  # fmt: skip


def test_without_a_footprint_it_has_to_come_after_the_new_shape(shop: Site) -> None:
    shop.run("deployed", "shop", "1").expect(0)
    shop.run("advance", "--to", "switch_reads").expect(0)
    shop.run("advance", *SOAKED).expect(4)
    shop.run("deployed", "shop", "2").expect(0)
    shop.run("advance", *SOAKED).expect(0)


def test_instances_have_to_take_note_before_something_is_taken_away(shop: Site) -> None:
    shop.run("advance", "--to", "switch_reads").expect(0)
    with worker(shop.database, ROLE, "2", NEW) as new:
        assert new.ask("(held := pinned()).__enter__()") == "None"
        assert new.ask("switch.new(1)") == "True"
        running = shop.start("advance", *SOAKED)
        until(lambda: "waits until 1 instance know" in running.narration, "it waits")
        assert (
            shop.value(
                "SELECT count(*) FROM pg_attribute WHERE attname = 'user_email' AND attrelid = 'users'::regclass"
            )
            == 1
        )
        new.ask("held.__exit__(None, None, None)")
        running.wait().expect(0)


def test_one_that_is_stopped_is_waited_for_until_its_lease_is_over(shop: Site) -> None:
    shop.run("advance", "--to", "switch_reads").expect(0)
    with worker(shop.database, ROLE, "2", NEW) as new:
        new.process.send_signal(signal.SIGSTOP)
        running = shop.start("advance", *SOAKED)
        until(lambda: "waits until 1 instance know" in running.narration, "it waits")
        running.wait().expect(0)
        new.process.send_signal(signal.SIGCONT)
        until(lambda: new.ask("fleet.refresh()") == "True", "it comes back")
        assert new.ask("switch.new(1)") == "True"


def test_what_stays_pinned_is_named_in_the_end(shop: Site) -> None:
    shop.run("advance", "--to", "switch_reads").expect(0)
    with worker(shop.database, ROLE, "2", NEW, interval=0.2) as new:
        new.ask("(held := pinned()).__enter__()")
        new.ask("switch.new(1)")
        done = shop.run("advance", *SOAKED).expect(4)
        assert "have not taken note of retire" in done.out
        new.ask("held.__exit__(None, None, None)")
        shop.run("advance", *SOAKED).expect(0)


# Which version can run -----------------------------------------------------------------------------------------------


def test_who_can_run_when(shop: Site) -> None:
    shop.run("can-run", "shop", "1").expect(2)
    shop.run("deployed", "shop", "1", "--footprint", footprint(shop, *OLD)).expect(0)
    new = ("can-run", "shop", "2", "--footprint", footprint(shop, *NEW))
    shop.run("can-run", "shop", "1").expect(0)
    done = shop.run(*new).expect(6)
    assert "it maps what is not there: users.email_address" in done.out
    shop.run("advance", "--to", "dual_write").expect(0)
    done = shop.run(*new).expect(6)
    assert f"{RENAME} is at dual_write: the new shape works from backfill" in done.out
    shop.run("advance", "--to", "switch_reads").expect(0)
    shop.run(*new).expect(0)
    shop.run("can-run", "shop", "1").expect(0)
    shop.run("advance", *SOAKED, "--override", "drained=test").expect(0)
    done = shop.run("can-run", "shop", "1", "--format", "json").expect(6)
    assert done.document["works"] is False
    assert done.document["migrations"][0]["shape"] == "old"
    assert "the old shape works until switch_reads" in done.document["migrations"][0]["why"]


def test_the_least_revert_for_an_older_version(shop: Site) -> None:
    shop.run("deployed", "shop", "1", "--footprint", footprint(shop, *OLD)).expect(0)
    shop.run("advance", "--to", "switch_reads").expect(0)
    done = shop.run("revert", "--for", "shop@1").expect(0)
    assert "nothing to revert" in done.err
    shop.run("advance", *SOAKED, "--override", "drained=test").expect(0)
    shop.run("revert", "--for", "shop@1").expect(0)
    assert shop.phase(RENAME) == "switch_reads"
    shop.run("can-run", "shop", "1").expect(0)
    shop.run("unhold", RENAME).expect(0)
    shop.run("advance", "--to", "contract", *SOAKED, "--override", "drained=test").expect(0)
    shop.run("revert", "--for", "shop@1").expect(8)
    shop.run("revert", "--for", "shop").expect(2)
    shop.run("revert", "--for", "shop@nobody").expect(2)
    shop.run("revert", RENAME, "--for", "shop@1").expect(2)
    shop.run("revert", RENAME).expect(2)


def test_everything_that_a_release_needs_and_nothing_else(shop: Site) -> None:
    shop.write("0002_fax", 'AddColumn("users", sa.Column("fax", sa.Text))')
    both = ("advance", "--to", "deployable", "--footprint")
    shop.run(*both, footprint(shop, *OLD)).expect(0)
    assert shop.rows("SELECT phase FROM zdmigrate.migration") == [], "the present version needs nothing new"
    shop.run(*both, footprint(shop, *NEW)).expect(0)
    assert shop.rows("SELECT id, phase FROM zdmigrate.migration") == [(RENAME, "backfill")]
    shop.run(*both, footprint(shop, *NEW, "fax")).expect(0)
    assert dict(shop.rows("SELECT id, phase FROM zdmigrate.migration"))["0002_fax"] != "none"
    before = shop.rows("SELECT count(*) FROM zdmigrate.event")
    shop.run(*both, footprint(shop, *NEW, "fax")).expect(0)
    assert shop.rows("SELECT count(*) FROM zdmigrate.event") == before, "again does nothing"
    done = shop.run(*both, footprint(shop, *NEW, "telex")).expect(6)
    assert "it maps what is not there: users.telex" in done.err
    shop.run("hold", RENAME, "freeze").expect(0)
    shop.run(*both, footprint(shop, *NEW)).expect(0)
    shop.run("advance", "--to", "deployable").expect(2)
    shop.run("advance", "--footprint", "nowhere.json").expect(2)
    shop.run(*both, "nowhere.json").expect(2)


def test_what_keeps_a_release_from_being_deployable_is_said_with_an_estimate(shop: Site) -> None:
    shop.run("advance", "--to", "dual_write").expect(0)
    shop.run("hold", RENAME, "freeze").expect(0)
    shop.sql("ANALYZE users")
    done = shop.run("advance", "--to", "deployable", "--footprint", footprint(shop, *NEW)).expect(4)
    assert "freeze" in done.out
    assert "filling about 40 rows takes some" in done.out


# Read switches -------------------------------------------------------------------------------------------------------


def test_a_switch_is_turned_where_both_shapes_are_full(shop: Site) -> None:
    shop.run("switch", RENAME, "5").expect(2)
    shop.run("advance", "--to", "dual_write").expect(0)
    assert "the new shape is not full" in shop.run("switch", RENAME, "5").expect(4).err
    shop.run("advance", "--to", "backfill").expect(0)
    with worker(shop.database, ROLE, "2", NEW) as new:
        answers = "[switch.new(key) for key in range(1000)].count(True)"
        assert new.ask(answers) == "0"
        shop.run("switch", "0001", "25", "--allow", "x").expect(0)
        until(lambda: 200 < int(new.ask(answers)) < 300, "it follows")
        assert new.ask("switch.new('x')") == "True"
        shop.run("switch", RENAME, "0", "--allow-none").expect(0)
        until(lambda: new.ask(answers) == "0", "and back")
        assert new.ask("switch.new('x')") == "False"
    shop.run("advance", *SOAKED, "--override", "drained=test").expect(0)
    assert "nobody can read it" in shop.run("switch", RENAME, "50").expect(6).err
    shop.run("switch", RENAME, "101").expect(2)
    assert [row[0] for row in shop.rows("SELECT detail FROM zdmigrate.event WHERE action = 'switch' ORDER BY number")] == [
        "25 %, before 0 %; always: x", "0 %, before 25 %"
    ]  # fmt: skip


def test_undoing_the_backfill_turns_it_back_first(shop: Site) -> None:
    shop.run("advance", "--to", "backfill").expect(0)
    shop.run("switch", RENAME, "50").expect(0)
    with worker(shop.database, ROLE, "1", OLD) as old:
        until(lambda: "True" in old.ask("[switch.new(key) for key in range(50)]"), "it follows")
        shop.run("revert", RENAME, "--to", "expand").expect(0)
        assert "True" not in old.ask("[switch.new(key) for key in range(50)]"), "it had to take note first"
    assert shop.value("SELECT percent FROM zdmigrate.read_switch") == 0


def test_step_by_step_and_any_call_goes_on(shop: Site) -> None:
    climbing = ("advance", "--to", "switch_reads", "--steps", "5,50,100", "--every", "1h")

    def percent() -> int:
        found: int = shop.value("SELECT percent FROM zdmigrate.read_switch")
        return found

    done = shop.run(*climbing).expect(4)
    assert "5 % of reads go to the new shape from now on; 50 % in 1 h" in done.out
    assert (percent(), shop.phase(RENAME)) == (5, "backfill")
    shop.run(*climbing).expect(4)
    assert percent() == 5
    for expected in (50, 100):
        shop.sql("UPDATE zdmigrate.read_switch SET changed_at = changed_at - interval '1 hour'")
        shop.run(*climbing).expect(4 if expected < 100 else 0)
        assert percent() == expected
    assert shop.phase(RENAME) == "switch_reads"
    shop.run(*climbing).expect(0)
    for wrong in ("5", "x", "50,5", "0,100", "5,101", ""):
        shop.run("advance", "--steps", wrong, "--every", "1h").expect(4 if wrong == "5" else 2)
    shop.run("advance", "--steps", "5,100").expect(2)


def test_with_patience_one_call_does_all_steps(shop: Site) -> None:
    done = shop.run(
        "advance", "--to", "switch_reads", "--steps", "5,100", "--every", "1s", "--wait", "1m", "--format", "json"
    ).expect(0)
    assert done.migration(RENAME)["phase"] == "switch_reads"
    assert "5 % of reads" in done.err


# Waiting -------------------------------------------------------------------------------------------------------------


def test_waiting_for_a_phase_with_the_rights_of_the_application(shop: Site, tmp_path: Path) -> None:
    env: dict[str, Any] = {"ZDMIGRATE_URL": shop.database.conninfo_as(ROLE)}
    wanted = ("wait", "--for", f"{RENAME}:backfill")
    done = shop.run(*wanted, "--timeout", "0s", **env).expect(4)
    assert done.out == f"{RENAME} has not begun\n"
    waiting = shop.start(*wanted, "--timeout", "50s", **env)
    until(lambda: "has not begun" in waiting.narration, "it waits")
    shop.run("advance", "--to", "backfill").expect(0)
    waiting.wait().expect(0)
    done = shop.run(*wanted, "--for", f"{RENAME}:retire", "--timeout", "0s", "--format", "json", **env).expect(4)
    assert done.document["missing"] == [f"{RENAME} is at backfill, not yet at retire; nothing is under way"]
    assert shop.run(*wanted, "--for", f"{RENAME}:retire", "--timeout", "0s", "--pending-ok", **env).code == 0
    for wrong in ("backfill", f"{RENAME}:soon", ":backfill"):
        shop.run("wait", "--for", wrong).expect(2)


def test_waiting_sits_out_a_database_that_is_not_there(shop: Site) -> None:
    away: dict[str, Any] = {"ZDMIGRATE_URL": "postgresql://nobody@127.0.0.1:9/none"}
    done = shop.run("wait", "--for", f"{RENAME}:backfill", "--timeout", "1s", **away).expect(4)
    assert "the database does not answer" in done.out
    shop.sql("DROP SCHEMA zdmigrate CASCADE")
    done = shop.run("wait", "--for", f"{RENAME}:backfill", "--timeout", "0s").expect(4)
    assert "there is no control schema" in done.out


def test_a_version_waits_for_what_its_models_need(shop: Site) -> None:
    shop.run("advance", "--to", "expand").expect(0)
    with worker(shop.database, ROLE, "2", NEW) as new:
        assert (
            new.ask("fleet.ready().missing")
            == f"('{RENAME} has to complete backfill, and is at expand: nothing is under way',)"
        )
        shop.run("advance", "--to", "backfill").expect(0)
        until(lambda: new.ask("bool(fleet.ready())") == "True", "it is ready")


def test_names_that_sessions_cannot_have(shop: Site) -> None:
    shop.run("deployed", "sh/op", "1").expect(2)
    shop.run("deployed", "shop", "").expect(2)


def test_one_that_registers_at_the_last_moment_is_seen(shop: Site) -> None:
    """Its heartbeat is under way, and seen by nobody, when the gate is asked and `retire` is recorded."""
    shop.run("deployed", "shop", "1", "--footprint", footprint(shop, *OLD)).expect(0)
    shop.run("deployed", "shop", "2", "--footprint", footprint(shop, *NEW)).expect(0)
    shop.run("advance", "--to", "switch_reads").expect(0)
    with connect(shop.database, autocommit=False) as late:
        late.execute(
            "INSERT INTO zdmigrate.app_instance (instance, application, version, expires_at) "
            "VALUES ('late', 'shop', '1', clock_timestamp() + interval '3 seconds')"
        )
        running = shop.start("advance", *SOAKED)
        until(lambda: shop.value("SELECT running FROM zdmigrate.migration") == "retire", "it is recorded")
        until(
            lambda: shop.value("SELECT count(*) FROM pg_locks WHERE mode = 'ShareLock' AND NOT granted"),
            "it waits for it",
        )
        late.commit()
    done = running.wait().expect(4)
    assert "these may need the old shape: shop 1 (late" in done.out
    assert (
        shop.value("SELECT count(*) FROM pg_attribute WHERE attname = 'user_email' AND attrelid = 'users'::regclass")
        == 1
    )
    # What was recorded, and not begun, is taken back for the version that needs the old shape.
    shop.run("can-run", "shop", "1").expect(6)
    shop.run("revert", "--for", "shop@1").expect(0)
    shop.run("can-run", "shop", "1").expect(0)
