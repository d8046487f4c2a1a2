"""A change that zdmigrate does not know: the class on the page about writing one, imported by a migration file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support import catalog_compare
from tests.support.processes import Site, transaction
from tests.support.servers import connect

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "new-change.md"
ID = "20261121_1510_country"
USERS = (
    "CREATE TABLE users (id bigserial PRIMARY KEY, country varchar(2) DEFAULT 'de', name text)",
    "CREATE INDEX users_country ON users (country)",
    "INSERT INTO users (country) SELECT (ARRAY['de', 'FR', 'it', NULL])[1 + g % 4] FROM generate_series(1, 40) g",
)
BY_HAND = (
    "UPDATE users SET country = upper(country)",
    "ALTER TABLE users ADD CONSTRAINT users_country_upper CHECK (country = upper(country))",
)
VALUES = "SELECT id, country FROM users ORDER BY id"


def of_the_page() -> Iterator[tuple[str, str]]:
    """The files that the page shows."""
    found = re.findall(r"^```python title=\"([^\"]+)\"\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert [name for name, _ in found] == ["migrations/_uppercase.py", f"migrations/{ID}.py"]
    yield from found


def made(site: Site, *schema: str, migration: str | None = None) -> Site:
    site.sql(*schema)
    (site.directory / "migrations").mkdir(parents=True, exist_ok=True)
    for name, text in of_the_page():
        (site.directory / name).write_text(text)
    if migration is not None:
        head = "from _uppercase import Uppercase\nfrom zdmigrate import *\n"
        (site.directory / "migrations" / f"{ID}.py").write_text(f"{head}migration = Migration({migration})\n")
    site.init()
    return site


def catalog(site: Site) -> catalog_compare.Catalog:
    with connect(site.database) as connection:
        return catalog_compare.read(connection, ignore=("read switch",))


def countries(session: psycopg.Connection[tuple[object, ...]], value: str) -> object:
    """What a version reads after it has written a value, by INSERT and by UPDATE."""
    row = session.execute("INSERT INTO users (country) VALUES ('??') RETURNING id").fetchone()
    assert row is not None
    session.execute("UPDATE users SET country = %s, name = 'n' WHERE id = %s", (value, row[0]))
    inserted = session.execute("INSERT INTO users (country) VALUES (%s) RETURNING country", (value,)).fetchone()
    updated = session.execute("SELECT country FROM users WHERE id = %s", (row[0],)).fetchone()
    assert inserted == updated
    assert updated is not None
    return updated[0]


def test_through_all_phases_with_both_versions_at_work(site: Site) -> None:
    made(site, *USERS)
    before = catalog(site)
    with connect(site.database, prepare_threshold=0) as old, connect(site.database, prepare_threshold=0) as new:
        for phase, read in (("expand", "es"), ("dual_write", "ES"), ("backfill", "ES"), ("switch_reads", "ES"),
                            ("retire", "ES")):  # fmt: skip
            for _ in range(2):
                site.run("advance", "--to", phase).expect(0)
            assert countries(old, "es") == read, "version N writes lower case until contract"
            assert countries(new, "ES") == "ES"
            if phase in ("backfill", "switch_reads", "retire"):
                assert new.execute("SELECT count(*) FROM users WHERE country <> upper(country)").fetchone() == (0,)
            site.run("revert", ID, "--to", "none").expect(0)
            assert catalog_compare.difference(before, catalog(site)) == [], f"before (-), back from {phase} (+)"
            assert countries(old, "es") == "es"
            site.run("unhold", ID).expect(0)
            site.run("advance", "--to", phase).expect(0)
        site.run("advance", "--to", "contract").expect(0)
        assert countries(new, "ES") == "ES"
        with pytest.raises(psycopg.errors.CheckViolation):
            old.execute("INSERT INTO users (country) VALUES ('es')")


def test_bootstrap_and_ddl_by_hand_leave_the_same(site: Site) -> None:
    made(site, *USERS)
    site.run("plan").expect(0)
    site.run("advance", "--to", "contract").expect(0)
    by_phases, rows = catalog(site), site.rows(VALUES)
    start_again = ("DROP TABLE users", "TRUNCATE zdmigrate.migration CASCADE")
    site.sql(*start_again, *USERS)
    site.run("bootstrap").expect(0)
    at_once = catalog(site)
    assert site.rows(VALUES) == rows
    site.sql(*start_again, *USERS, *BY_HAND)
    assert site.rows(VALUES) == rows
    assert catalog_compare.difference(catalog(site), by_phases) == []
    assert catalog_compare.difference(catalog(site), at_once) == []
    assert "adopted" in site.run("bootstrap").expect(0).out


def test_together_with_changes_of_the_catalogue(site: Site) -> None:
    migration = """
        RenameColumn("users", "country", "land"), Uppercase("users", "land"),
        ChangeType("users", "name", "varchar(80)", up="name || '!'")
    """
    made(site, *USERS, migration=migration)
    site.run("advance", "--to", "backfill").expect(0)
    with connect(site.database) as session:
        assert session.execute("INSERT INTO users (country) VALUES ('es') RETURNING land").fetchone() == ("ES",)
        assert session.execute("INSERT INTO users (land) VALUES ('PT') RETURNING country").fetchone() == ("PT",)
    overrides = ("--override", "warm_connections=accepted")
    site.run("advance", "--to", "contract", *overrides).expect(0)
    assert site.value("SELECT count(*) FROM users WHERE land <> upper(land)") == 0
    found = site.value("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'users_land_upper'")
    assert found == "CHECK (((land)::text = upper((land)::text)))"


def test_odd_names_and_partitions(site: Site) -> None:
    name, column = 'Odd "table" ' + "ä" * 20, "Länder-'Code'"
    quoted = '"sa les"."' + name.replace('"', '""') + '"'
    made(
        site,
        'CREATE SCHEMA "sa les"',
        f'CREATE TABLE {quoted} (id int, "{column}" text) PARTITION BY RANGE (id)',
        f'CREATE TABLE "sa les".p PARTITION OF {quoted} FOR VALUES FROM (0) TO (50) PARTITION BY RANGE (id)',
        'CREATE TABLE "sa les".pp PARTITION OF "sa les".p DEFAULT',
        f'CREATE TABLE "sa les".q PARTITION OF {quoted} DEFAULT',
        f"INSERT INTO {quoted} SELECT g, 'x' FROM generate_series(1, 90) g",
        migration=f'Uppercase({name!r}, {column!r}, schema="sa les")',
    )
    site.run("advance", "--to", "contract").expect(0)
    assert site.rows(f'SELECT DISTINCT "{column}" FROM {quoted}') == [("X",)]


def test_what_does_not_fit_is_said_with_its_place(site: Site) -> None:
    made(site, *USERS, migration='Uppercase("users", "id")')
    assert f"{ID}.py:3: the expression" in site.run("plan").expect(6).err
    made(site, migration='Uppercase("users", "")')
    assert f"{ID}.py:3: Uppercase: column must be a name" in site.run("plan").expect(2).err
    made(site, migration='Uppercase("users", "name"), Uppercase("users", "name")')
    assert "filled twice" in site.run("plan").expect(6).err


def test_the_trigger_holds_the_row_only_as_long_as_any(site: Site) -> None:
    """A session that was there before, with a transaction open, is not disturbed."""
    made(site, *USERS)
    with transaction(site.database, "SELECT 1") as session:
        site.run("advance", "--to", "backfill").expect(0)
        row = session.execute("UPDATE users SET country = 'gb' WHERE id = 1 RETURNING country").fetchone()
        assert row == ("GB",)
