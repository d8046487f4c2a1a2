"""Rows that could not be filled: listed, corrected, tried again, and in the way until they are."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.processes import Site, transaction, until
from zdmigrate.backfill.bad_rows.quarantine import Failure, Quarantine
from zdmigrate.backfill.relations import Relation
from zdmigrate.postgres import session

ID = "0001_share"
_numbers = itertools.count(1)


@pytest.fixture
def shop(site: Site) -> Site:
    """Rows 3 and 5 cannot be filled: they came before the triggers, and after the plan had tried its expression.

    What the worker sets aside is set aside here by the same call.
    """
    site.sql(
        "CREATE TABLE orders (id bigint PRIMARY KEY, total integer, people integer)",
        "INSERT INTO orders SELECT g, 100, g FROM generate_series(1, 40) AS g",
    )
    site.write(ID, 'AddColumn("orders", sa.Column("share", sa.Integer, nullable=False), backfill="total / people")')
    site.init()
    site.run("advance", "--to", "expand").expect(0)
    site.sql("UPDATE orders SET people = 0 WHERE id IN (3, 5)")
    site.run("advance", "--to", "dual_write").expect(0)
    return site


def set_aside(site: Site, where: str = "people = 0") -> None:
    """The rows for which `where` is true."""
    ((key, step),) = site.rows(
        "SELECT key, s ->> 'id' FROM zdmigrate.migration, jsonb_path_query(plan, '$.phases[*].steps[*]') AS s "
        "WHERE s ->> 'mode' = 'backfill'"
    )
    tids = [tid for (tid,) in site.rows(f"SELECT ctid::text FROM orders WHERE {where} ORDER BY id")]
    relation = Relation(oid=site.value("SELECT 'orders'::regclass::oid::bigint"), schema="public", name="orders")
    store = Quarantine(control_schema="zdmigrate", migration=key, step=step, columns=("total",))
    with session.connect(site.database.conninfo, purpose="test") as connection, connection.transaction():
        failures = [Failure(tid=tid, sqlstate="22012", message="division by zero") for tid in tids]
        store.record(connection.cursor(), relation, failures)


def begun(site: Site) -> Site:
    """The backfill has begun, and set two rows aside."""
    site.run("advance", "--to", "backfill", "--max-runtime", "0s").expect(3)
    set_aside(site)
    return site


def audit(site: Site) -> list[tuple[Any, ...]]:
    return site.rows(
        "SELECT action, outcome, actor, detail FROM zdmigrate.event WHERE action IN ('retry', 'resolve') ORDER BY number"
    )


def mended(site: Site) -> None:
    site.sql("UPDATE orders SET people = 4 WHERE people = 0")


# List ----------------------------------------------------------------------------------------------------------------


def test_nothing_is_set_aside(shop: Site) -> None:
    for command in (("list",), ("list", ID), ("retry",), ("retry", ID), ("resolve", "--all", "--reason", "x")):
        done = shop.run("quarantine", *command).expect(0)
        assert (done.out, done.err) == ("", "no row is in quarantine\n")
    assert shop.run("quarantine", "list", "--format", "json").expect(0).document["quarantine"] == []
    assert shop.run("quarantine", "retry", "--format", "json").expect(0).document["retried"] is None
    assert shop.run("quarantine", "resolve", "--all", "--reason", "x", "--format", "json").expect(0).document
    assert audit(shop) == []


def test_the_rows_are_listed(shop: Site) -> None:
    begun(shop)
    out = shop.run("quarantine", "list").expect(0).out
    assert out.startswith(f"{ID}  2 rows in quarantine\n")
    assert "  1  public.orders (id)=(3): division by zero (SQLSTATE 22012) [" in out
    assert "      data     total='100'\n" in out
    assert "  … and 1 more: --limit 2\n" in shop.run("quarantine", "list", "--limit", "1").expect(0).out
    (found,) = shop.run("quarantine", "list", "0001", "--format", "json").expect(0).document["quarantine"]
    assert (found["id"], found["open"], len(found["entries"])) == (ID, 2, 2)
    entry = found["entries"][0]
    assert (entry["number"], entry["key"], entry["data"]) == (1, {"id": "3"}, {"total": "100"})
    assert (entry["row"], entry["sqlstate"], entry["attempts"]) == ("public.orders (id)=(3)", "22012", 1)
    assert f"2 rows could not be filled: zdmigrate quarantine list {ID}" in shop.run("backfill", "status").expect(0).out
    status = shop.run("status", "--format", "json").expect(0).migration(ID)
    assert (status["quarantined"], status["next"][0]) == (2, ["zdmigrate", "quarantine", "list", ID])


# Retry ---------------------------------------------------------------------------------------------------------------


def test_rows_that_fail_again_stay(shop: Site) -> None:
    begun(shop)
    done = shop.run("quarantine", "retry").expect(4)
    assert f"{ID}  2 rows: 2 failed again\n" in done.out
    assert "  1  public.orders (id)=(3): division by zero (SQLSTATE 22012)\n" in done.out
    assert ", 2 attempts]" in shop.run("quarantine", "list").expect(0).out
    assert audit(shop) == [("retry", "failed", "postgres", "2 rows: 2 failed again")]


def test_rows_that_were_corrected_are_settled(shop: Site) -> None:
    begun(shop)
    shop.sql("UPDATE orders SET people = 4 WHERE id = 3", "DELETE FROM orders WHERE id = 5")
    done = shop.run("quarantine", "retry", "--format", "json").expect(0)
    retried = done.document["retried"]
    assert [(row["row"], row["result"]) for row in retried["rows"]] == [
        ("public.orders (id)=(3)", "was_filled"),
        ("public.orders (id)=(5)", "gone"),
    ]
    assert (retried["open"], retried["verify"]) == (0, False)
    shown = shop.run("quarantine", "list", "--all").expect(0).out
    assert "settled  was filled already (postgres, " in shown
    shop.run("advance").expect(0)
    assert shop.value("SELECT share FROM orders WHERE id = 3") == 25


def test_rows_past_the_trigger_are_filled(shop: Site) -> None:
    """Nobody has filled them when they were corrected."""
    begun(shop)
    shop.sql("SET session_replication_role = replica", "ALTER TABLE orders DISABLE TRIGGER ALL")
    mended(shop)
    shop.sql("ALTER TABLE orders ENABLE TRIGGER ALL")
    assert "2 rows: 2 filled\n" in shop.run("quarantine", "retry").expect(0).out
    assert shop.value("SELECT count(*) FROM orders WHERE share = 25 AND id IN (3, 5)") == 2


def test_only_the_entries_that_are_named(shop: Site) -> None:
    begun(shop)
    mended(shop)
    wrong = shop.run("quarantine", "retry", "--entry", "1", "--entry", "77").expect(2)
    assert f"{ID} has no open entry 77" in wrong.err
    assert f"{ID}  1 row: 1 filled already\n" in shop.run("quarantine", "retry", "--entry", "2").expect(0).out
    assert shop.value("SELECT array_agg(number) FROM zdmigrate.quarantine WHERE resolved_at IS NULL") == [1]


def test_a_row_that_is_locked_is_left_for_later(shop: Site) -> None:
    begun(shop)
    mended(shop)
    with transaction(shop.database, "SELECT FROM orders WHERE id = 3 FOR UPDATE"):
        done = shop.run("quarantine", "retry", ZDMIGRATE_LOCK_TIMEOUT="50ms").expect(5)
    assert "2 rows: 1 filled already, 1 locked by somebody" in done.out
    shop.run("quarantine", "retry").expect(0)


def test_two_retries_at_once(shop: Site) -> None:
    begun(shop)
    mended(shop)
    for started in [shop.start("quarantine", "retry") for _ in range(3)]:
        assert started.wait().code in (0, 5)
    assert shop.value("SELECT count(*) FROM zdmigrate.quarantine WHERE resolved_at IS NULL") == 0
    assert shop.value("SELECT max(attempts) FROM zdmigrate.quarantine") == 1


def test_a_retry_while_the_backfill_is_under_way(shop: Site) -> None:
    """It does not take the lease that the other one holds."""
    mended(shop)
    with transaction(shop.database, "SELECT FROM orders WHERE id = 40 FOR UPDATE"):
        running = shop.start("advance", "--to", "backfill")
        try:
            until(lambda: shop.value("SELECT running FROM zdmigrate.migration") == "backfill", "it has begun")
            set_aside(shop, "id = 3")
            shop.run("quarantine", "retry").expect(0)
        finally:
            shop.run("hold", ID, "enough")
        running.wait().expect(4)


def test_a_retry_where_the_phase_has_moved_on(shop: Site) -> None:
    begun(shop)
    shop.sql("UPDATE zdmigrate.migration SET phase = 'expand', running = 'dual_write'")
    assert f"{ID} is not in its backfill" in shop.run("quarantine", "retry").expect(4).err


# Resolve -------------------------------------------------------------------------------------------------------------


def test_settled_by_hand(shop: Site) -> None:
    begun(shop)
    done = shop.run("quarantine", "resolve", "--entry", "1", "--reason", "archived, ticket 8812").expect(0)
    assert f"{ID}  1 row settled, 1 in quarantine\n" in done.out
    shop.run("quarantine", "resolve", "--all", "--reason", "archived").expect(0)
    assert audit(shop) == [
        ("resolve", "done", "postgres", "public.orders (id)=(3): archived, ticket 8812"),
        ("resolve", "done", "postgres", "public.orders (id)=(5): archived"),
    ]
    assert "settled  archived, ticket 8812 (postgres, " in shop.run("quarantine", "list", ID, "--all").expect(0).out
    shop.run("advance").expect(4)
    assert shop.phase(ID) == "dual_write", "nobody but the database says that rows are filled"


def test_a_complete_backfill_has_to_be_verified_again(shop: Site) -> None:
    mended(shop)
    shop.run("advance", "--to", "backfill").expect(0)
    set_aside(shop, "id = 3")
    shop.run("quarantine", "resolve", "--all", "--reason", "looked at it").expect(0)
    assert "verified: not every row was verified yet" in shop.run("advance", "--to", "contract").expect(4).out
    shop.run("verify").expect(0)
    shop.run("advance", "--to", "contract").expect(0)


def test_nothing_is_verified_while_a_row_waits(shop: Site) -> None:
    shop.sql("UPDATE orders SET people = 1 WHERE people = 0")
    shop.run("advance", "--to", "backfill").expect(0)
    set_aside(shop, "id = 3")
    shop.sql("UPDATE zdmigrate.migration SET verified_at = NULL")
    assert "wait in quarantine" in shop.run("verify", ID).expect(4).out
    assert shop.value("SELECT verified_at FROM zdmigrate.migration") is None
    shop.run("quarantine", "retry").expect(0)
    shop.run("verify", ID).expect(0)
    assert shop.value("SELECT verified_at FROM zdmigrate.migration") is not None


@pytest.mark.parametrize(
    "args",
    [
        ["resolve", "--reason", "x"],
        ["resolve", "--all", "--entry", "1", "--reason", "x"],
        ["resolve", "--entry", "1"],
        ["resolve", "--entry", "0", "--reason", "x"],
        ["resolve", "--entry", "one", "--reason", "x"],
        ["resolve", "--entry", "1", "--reason", "  "],
        ["retry", "--entry", "-3"],
        ["retry", "nope"],
        ["list", "--limit", "0"],
        ["list", "nope"],
        ["forget"],
    ],
)
def test_wrong_calls(shop: Site, args: list[str]) -> None:
    begun(shop)
    done = shop.run("quarantine", *args).expect(2)
    assert "Traceback" not in done.err
    assert shop.value("SELECT count(*) FROM zdmigrate.quarantine WHERE resolved_at IS NULL AND attempts = 1") == 2


# The gate ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reached", ["backfill", "switch_reads", "retire"])
def test_everything_after_the_backfill_waits(site: Site, reached: str) -> None:
    site.sql("CREATE TABLE orders (id bigint PRIMARY KEY, total integer)", "INSERT INTO orders VALUES (3, 1), (5, 2)")
    site.write(ID, 'RenameColumn("orders", "total", "amount")')
    site.init()
    site.run("advance", "--to", reached).expect(0)
    set_aside(site, "true") if reached == "backfill" else site.sql(
        "INSERT INTO zdmigrate.quarantine (migration, step, relation, relation_name, key, sqlstate, message) "
        "SELECT 1, 's', 1, 'public.orders', jsonb_build_object('id', g::text), '22012', 'division by zero' "
        "FROM unnest(ARRAY[3, 5]) AS g"
    )
    refused = site.run("advance", "--to", "contract").expect(4)
    assert (
        "quarantine: 2 rows could not be filled: public.orders (id)=(3): division by zero (SQLSTATE 22012); "
        "public.orders (id)=(5): division by zero (SQLSTATE 22012). See them with zdmigrate quarantine list "
        f"{ID}, correct them, then: zdmigrate quarantine retry {ID}" in refused.out
    )
    assert site.phase(ID) == reached
    forced = site.run("advance", "--to", "contract", "--override", "quarantine=I know better").expect(2)
    assert "the gate 'quarantine' cannot be overridden" in forced.err
    shown = site.run("status").expect(0).out
    assert "gate    quarantine: does not hold: 2 rows could not be filled" in shown
    assert "rows    2 rows could not be filled, and wait in quarantine" in shown
    site.run("revert", ID, "--to", "dual_write").expect(0)
    assert site.value("SELECT count(*) FROM zdmigrate.quarantine") == 0, "the next backfill looks at every row"


def test_the_gate_opens_when_the_rows_are_settled(shop: Site) -> None:
    mended(shop)
    shop.run("advance", "--to", "backfill").expect(0)
    set_aside(shop, "id < 10")
    assert "9 rows could not be filled" in shop.run("advance", "--to", "contract").expect(4).out
    shop.run("quarantine", "retry").expect(0)
    shop.run("advance", "--to", "contract").expect(0)


# Rights --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def reader(shop: Site) -> Iterator[Site]:
    """A role that may read the control schema."""
    name = f"reader_{os.getpid()}_{next(_numbers)}"
    shop.sql(
        f"CREATE ROLE {name} LOGIN",
        f"GRANT USAGE ON SCHEMA zdmigrate TO {name}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA zdmigrate TO {name}",
    )
    url = shop.database.server.url(shop.database.name, user=name)
    yield dataclasses.replace(shop, env={"ZDMIGRATE_URL": url})
    shop.sql(f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


def test_whoever_may_only_look(shop: Site, reader: Site) -> None:
    begun(shop)
    assert "2 rows in quarantine" in reader.run("quarantine", "list").expect(0).out
    for command in (("retry",), ("resolve", "--all", "--reason", "x")):
        refused = reader.run("quarantine", *command).expect(6)
        assert "the quarantine may not be changed: permission denied for table" in refused.err
    assert audit(shop) == []
