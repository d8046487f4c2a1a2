"""What release pipelines do: loops, two hosts, old and new directories, holds, budgets of time, policies."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import RENAME, Site, transaction, until, with_users
from tests.support.servers import ReplicaPair

LATER = "0002_locale"
ADD_LOCALE = 'AddColumn("users", sa.Column("locale", sa.Text))'


def elsewhere(site: Site, path: Path, *ids: str) -> Site:
    """Another host's checkout: a directory of its own with some of the files."""
    (path / "migrations").mkdir(parents=True)
    for id_ in ids:
        name = f"{id_}.py"
        (path / "migrations" / name).write_text((site.directory / "migrations" / name).read_text())
    return dataclasses.replace(site, directory=path)


def test_two_hosts_call_advance_in_a_loop(site: Site, tmp_path: Path) -> None:
    with_users(site, rows=2000)
    site.write(LATER, ADD_LOCALE)
    hosts = [elsewhere(site, tmp_path / f"host{number}", RENAME, LATER) for number in range(2)]
    codes: list[list[int]] = [[], []]
    start = threading.Barrier(2)

    def loop(number: int) -> None:
        start.wait()
        while not codes[number] or codes[number][-1] in (3, 4, 5):
            codes[number].append(
                hosts[number].run("advance", "--to", "contract", "--max-runtime", "150ms", ZDMIGRATE_LEASE="1s").code
            )
            assert len(codes[number]) < 200

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [loop[-1] for loop in codes] == [0, 0], codes
    assert site.phase(RENAME) == site.phase(LATER) == "contract"
    done = site.rows(
        "SELECT migration, phase, count(*) FROM zdmigrate.event WHERE action = 'complete' GROUP BY 1, 2 HAVING count(*) > 1"
    )
    assert done == [], "a phase was completed twice"
    assert site.value("SELECT count(*) FROM users WHERE email_address <> 'u' || id") == 0


def test_a_revert_stays_until_unhold(site: Site) -> None:
    with_users(site)
    site.run("advance", "--to", "switch_reads").expect(0)
    site.run("revert", RENAME, "--to", "expand").expect(0)
    for _ in range(2):
        waiting = site.run("advance", "--format", "json").expect(4)
        assert waiting.migration(RENAME)["hold"]["reason"] == "reverted to expand"
        assert ["zdmigrate", "unhold", RENAME] in waiting.migration(RENAME)["next"]
        assert site.phase(RENAME) == "expand"
    site.run("advance", "--pending-ok").expect(0)
    assert site.phase(RENAME) == "expand"
    site.run("unhold", RENAME).expect(0)
    site.run("advance", "--to", "contract").expect(0)


def test_a_hold_in_the_middle_of_a_phase_stops_it_at_the_next_step(site: Site) -> None:
    with_users(site)
    with transaction(site.database, "BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM pg_class"):
        running = site.start("advance", "--to", "switch_reads")
        until(lambda: "build zd_sx" in running.narration, "it builds an index, and waits")
        site.run("hold", RENAME, "the incident").expect(0)
    stopped = running.wait().expect(4)
    assert "the incident" in stopped.out
    assert site.phase(RENAME) == "dual_write"
    site.run("unhold", RENAME).expect(0)
    site.run("advance", "--to", "contract").expect(0)


def test_a_directory_without_the_migration_in_flight_works_on_what_it_has(site: Site, tmp_path: Path) -> None:
    with_users(site)
    site.write(LATER, ADD_LOCALE)
    old = elsewhere(site, tmp_path / "old", LATER)
    site.run("advance", RENAME, "--to", "backfill").expect(0)
    done = old.run("advance", "--to", "contract", "--format", "json").expect(0)
    assert [each["id"] for each in done.document["migrations"]] == [LATER]
    assert site.phase(RENAME) == "backfill", "left alone"
    shown = old.run("status", "--format", "json").expect(0)
    assert {each["id"] for each in shown.document["migrations"]} == {RENAME, LATER}
    old.run("revert", RENAME, "--to", "none").expect(0)
    assert site.phase(RENAME) == "none"


def test_an_older_image_after_a_newer_one(site: Site, tmp_path: Path) -> None:
    with_users(site)
    old = elsewhere(site, tmp_path / "old", RENAME)
    site.write(LATER, ADD_LOCALE)
    site.run("advance", "--to", "backfill").expect(0)
    old.run("advance", "--to", "switch_reads").expect(0)
    assert (site.phase(RENAME), site.phase(LATER)) == ("switch_reads", "backfill")


def test_pending_ok_only_covers_what_is_pending(site: Site) -> None:
    with_users(site)
    with transaction(site.database, "SELECT count(*) FROM users"):
        site.run("advance", ZDMIGRATE_LOCK_BUDGET="1s").expect(5)
        site.run("advance", "--pending-ok", ZDMIGRATE_LOCK_BUDGET="1s").expect(0)
    site.write(LATER, 'RenameColumn("users", "no_such_column", "locale")')
    site.run("advance", "--pending-ok").expect(6)


def test_one_phase_by_compare_and_set(site: Site) -> None:
    with_users(site)
    site.run("advance", "--next", "--from", "none").expect(0)
    assert site.phase(RENAME) == "expand"
    site.run("advance", "--next", "--from", "none").expect(0)
    assert site.phase(RENAME) == "expand", "it was done: nothing more"
    site.run("advance", "--next", "--from", "backfill").expect(4)
    assert site.phase(RENAME) == "expand", "too early"
    for phase in ("expand", "dual_write", "backfill", "switch_reads"):
        site.run("advance", "--next", "--from", phase).expect(0)
    assert site.phase(RENAME) == "retire"
    site.run("advance", "--next", "--from", "retire").expect(2)
    site.run("advance", "--next", "--from", "retire", "--to", "contract").expect(0)


def test_two_calls_of_the_same_next_go_one_phase(site: Site) -> None:
    """The comparison holds when the lease is ours, not only when we asked for it."""
    with_users(site)
    site.run("advance", "--to", "expand").expect(0)
    with transaction(site.database, "LOCK TABLE zdmigrate.lease IN ACCESS EXCLUSIVE MODE"):
        calls = [site.start("advance", "--next", "--from", "expand") for _ in range(2)]
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        until(lambda: site.value(query) == 2, "both wait")
    codes = sorted(call.wait().code for call in calls)
    assert codes in ([0, 0], [0, 5])
    assert site.phase(RENAME) == "dual_write"


def test_max_runtime(site: Site) -> None:
    with_users(site, rows=20_000)
    slow: dict[str, Any] = {"ZDMIGRATE_BACKFILL_PAUSE": "150ms", "ZDMIGRATE_BACKFILL_WINDOW_PAGES": "8"}
    stopped = site.run("advance", "--max-runtime", "1500ms", "--format", "json", **slow).expect(3)
    assert stopped.migration(RENAME)["running"] == "backfill"
    filled = site.value("SELECT count(*) FROM users WHERE email_address IS NOT NULL")
    assert 0 < filled < 20_000
    site.run("advance").expect(0)
    assert site.value("SELECT sum(rows) FROM zdmigrate.backfill") == 20_000
    assert site.value("SELECT count(*) FROM users WHERE email_address <> 'u' || id") == 0


def test_a_file_that_was_edited_in_flight(site: Site) -> None:
    with_users(site)
    site.run("advance", "--to", "dual_write").expect(0)
    site.write(RENAME, 'RenameColumn("users", "user_email", "another_name")')
    done = site.run("advance").expect(7)
    assert "edited" in done.out
    site.run("plan").expect(7)
    assert site.phase(RENAME) == "dual_write"
    # What the hint says works.
    site.run("revert", RENAME, "--to", "none").expect(0)
    site.run("unhold", RENAME).expect(0)
    site.run("advance", "--to", "contract").expect(0)
    assert site.value("SELECT count(*) FROM users WHERE another_name LIKE 'u%'") == 40


def test_a_comment_is_no_edit(site: Site) -> None:
    path = with_users(site).directory / "migrations" / f"{RENAME}.py"
    site.run("advance", "--to", "dual_write").expect(0)
    path.write_text("# a remark\n" + path.read_text())
    site.run("advance", "--to", "contract").expect(0)


def test_two_migrations_on_one_column(site: Site) -> None:
    with_users(site)
    site.run("advance", "--to", "backfill").expect(0)
    site.write("0002_drop", 'DropColumn("users", "user_email")')
    done = site.run("advance", "0002", "--override", "old_reads_null=yes", "--format", "json").expect(6)
    assert RENAME in done.migration("0002_drop")["message"]
    assert site.phase(RENAME) == "backfill"
    site.write(LATER, ADD_LOCALE)
    site.run("advance", LATER).expect(0)


def test_two_first_steps_at_once_on_one_column(site: Site) -> None:
    with_users(site)
    site.write("0002_other", 'RenameColumn("users", "user_email", "other_name")')
    start = "LOCK TABLE users IN ACCESS SHARE MODE"
    with transaction(site.database, start):
        first = site.start("advance", RENAME)
        until(lambda: site.rows("SELECT FROM zdmigrate.migration WHERE running = 'expand'"), "the first one began")
        site.run("advance", "0002_other").expect(6)
    first.wait().expect(0)


def test_requires(site: Site) -> None:
    with_users(site)
    site.write(LATER, ADD_LOCALE, requires=(RENAME,))
    done = site.run("advance", LATER, "--format", "json").expect(4)
    gates = {gate["name"]: gate["satisfied"] for gate in done.migration(LATER)["gates"]}
    assert gates["requires"] is False
    site.run("advance", LATER, "--override", "requires=anyway").expect(2)
    site.run("advance", "--to", "contract").expect(0)
    assert site.phase(LATER) == "contract"
    site.write("0003_unknown", 'DropColumn("users", "locale")', requires=("no_such_id",))
    site.run("advance").expect(2)


def test_overrides_name_gates_that_exist(site: Site) -> None:
    with_users(site)
    site.run("advance", "--override", "verified=I looked").expect(2)
    site.run("advance", "--override", "no_such_gate=x").expect(2)
    assert site.rows("SELECT phase FROM zdmigrate.migration") == []


# -- the production policy ---------------------------------------------------------------------------------------


def elapsed(site: Site, hours: int) -> None:
    """As if the last phase had been completed so long ago."""
    site.sql(f"UPDATE zdmigrate.migration SET phase_since = phase_since - interval '{hours} hours'")


def gates_of(site: Site) -> dict[str, bool]:
    shown = site.run("status", "--format", "json").expect(0)
    return {gate["name"]: gate["satisfied"] for gate in shown.migration(RENAME)["gates"]}


def test_soaks_and_proof_that_n_is_gone(site: Site) -> None:
    with_users(site, environment="production")
    done = site.run("advance").expect(4)
    assert "soak" in done.out
    assert "drained" in done.out
    assert site.phase(RENAME) == "switch_reads"
    assert gates_of(site) == {"soak": False, "drained": False}
    elapsed(site, 71)
    site.run("advance").expect(4)
    elapsed(site, 1)
    assert gates_of(site) == {"soak": True, "drained": False}
    site.run("advance").expect(4)
    assert site.phase(RENAME) == "switch_reads"

    reason = "N was scaled to zero at 14:00"
    site.run("advance", "--override", f"drained={reason}", "--deployment", "d42").expect(0)
    assert site.phase(RENAME) == "retire"
    audited = site.rows("SELECT detail, deployment, phase FROM zdmigrate.event WHERE action = 'override'")
    assert audited == [(f"drained: {reason}", "d42", "retire")]

    site.run("advance", "--to", "contract").expect(4)
    assert gates_of(site) == {"retire_soak": False}
    elapsed(site, 24)
    site.run("advance", "--to", "contract").expect(0)


def test_an_override_of_one_gate_is_not_one_of_the_other(site: Site) -> None:
    with_users(site, environment="production")
    done = site.run("advance", "--override", "drained=gone").expect(4)
    assert "soak" in done.out
    assert site.phase(RENAME) == "switch_reads"


def test_an_instance_that_needs_the_old_shape_refuses_retire(site: Site) -> None:
    with_users(site)
    site.sql(
        "INSERT INTO zdmigrate.app_instance (instance, application, version, expires_at, shapes) "
        f"VALUES ('a1', 'shop', 'N', clock_timestamp() + interval '1 minute', '{{\"{RENAME}\": \"old\"}}')"
    )
    done = site.run("advance").expect(4)
    assert "shop N (a1" in done.out
    assert site.phase(RENAME) == "switch_reads"
    # One that says nothing of this migration may need anything.
    site.sql("UPDATE zdmigrate.app_instance SET shapes = '{}'")
    site.run("advance").expect(4)
    site.sql(f'UPDATE zdmigrate.app_instance SET shapes = \'{{"{RENAME}": "new"}}\'')
    site.run("advance").expect(0)
    # Backwards the same: this one would fail without the new shape.
    site.run("revert", RENAME, "--to", "backfill").expect(0)
    done = site.run("revert", RENAME, "--to", "dual_write").expect(4)
    assert "shop N (a1" in done.out
    assert site.phase(RENAME) == "backfill"
    site.sql("UPDATE zdmigrate.app_instance SET retired_at = clock_timestamp()")
    site.run("revert", RENAME, "--to", "none").expect(0)


def test_a_live_instance_refuses_bootstrap_and_development(site: Site) -> None:
    with_users(site, environment="production")
    site.sql(
        "INSERT INTO zdmigrate.app_instance (instance, application, version, expires_at) "
        "VALUES ('a1', 'shop', 'N', clock_timestamp() + interval '1 minute')"
    )
    site.run("bootstrap").expect(6)
    site.run("init", "--environment", "development", "--yes").expect(6)
    assert site.value("SELECT value FROM zdmigrate.meta WHERE key = 'environment'") == "production"


@pytest.fixture
def replicated(replica_pair: ReplicaPair, site: Site) -> Iterator[Site]:
    from tests.support.servers import Database

    replica_pair.primary.create_database("replicated")
    yield dataclasses.replace(site, database=Database(replica_pair.primary, "replicated"))
    replica_pair.primary.drop_database("replicated")


def test_development_with_a_standby_must_be_confirmed(replicated: Site) -> None:
    done = replicated.run("init", "--environment", "development").expect(6)
    assert "--yes" in done.err
    assert not replicated.value("SELECT to_regclass('zdmigrate.meta') IS NOT NULL"), "nothing is left of it"
    replicated.run("init", "--environment", "development", "--yes").expect(0)


def test_a_finished_migration_is_not_executed_again(site: Site) -> None:
    with_users(site)
    site.run("advance", "--to", "contract").expect(0)
    (site.directory / "migrations" / f"{RENAME}.py").write_text("import gone\n")
    site.write(LATER, ADD_LOCALE)
    site.run("plan").expect(0)
    site.run("advance").expect(0)
    assert RENAME in site.run("status").expect(0).out
    site.run("status", RENAME).expect(0)
