"""One-shot DDL, bootstrap and all phases leave the identical catalog; a full revert leaves the one of before."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import catalog_compare
from tests.support.processes import Site
from tests.support.servers import Database, connect
from zdmigrate.postgres.servers import ScratchServer

_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A schema, the changes, and the DDL that somebody would write by hand."""

    schema: tuple[str, ...]
    changes: tuple[str, ...]
    by_hand: tuple[str, ...]
    overrides: tuple[str, ...] = ()


RICH = (
    "CREATE TABLE org (name text PRIMARY KEY)",
    "CREATE SEQUENCE ticket_numbers",
    """CREATE TABLE users (
        id bigserial PRIMARY KEY,
        user_email varchar(200) COLLATE "C" DEFAULT 'nobody' NOT NULL UNIQUE,
        "Full ""Name" text,
        org_name text REFERENCES org ON DELETE SET NULL DEFERRABLE,
        balance numeric(12, 2) DEFAULT 1.5 NOT NULL CHECK (balance >= 0),
        ticket bigint DEFAULT nextval('ticket_numbers') NOT NULL,
        token uuid DEFAULT gen_random_uuid() NOT NULL,
        created timestamptz DEFAULT now(),
        CONSTRAINT "odd constraint" CHECK (length(user_email) > balance),
        CONSTRAINT late CHECK (org_name <> '-') NOT VALID
    )""",
    "ALTER SEQUENCE ticket_numbers OWNED BY users.ticket",
    (
        "ALTER TABLE users ALTER user_email SET STATISTICS 250, ALTER user_email SET STORAGE EXTERNAL, "
        "ALTER user_email SET (n_distinct = -0.5)"
    ),
    "CREATE INDEX users_lower ON users (lower(user_email) DESC NULLS LAST) WHERE balance > 0",
    "CREATE INDEX ON users (org_name, user_email text_pattern_ops) INCLUDE (balance) WITH (fillfactor = 70)",
    'CREATE UNIQUE INDEX "Unique Index" ON users (ticket, org_name) NULLS NOT DISTINCT',
    "CREATE INDEX users_gin ON users USING gin (to_tsvector('simple', user_email))",
    "CREATE INDEX unrelated ON users (created)",
    "COMMENT ON TABLE users IS 'people'",
    "COMMENT ON COLUMN users.user_email IS 'it''s where we write to'",
    "COMMENT ON INDEX users_lower IS 'for the login'",
    "COMMENT ON CONSTRAINT \"odd constraint\" ON users IS 'nobody knows why'",
    "GRANT SELECT, INSERT ON users TO pg_monitor",
    "GRANT SELECT (user_email), UPDATE (user_email, ticket) ON users TO PUBLIC",
    "GRANT REFERENCES (user_email) ON users TO pg_monitor WITH GRANT OPTION",
    "INSERT INTO org VALUES ('o')",
    "INSERT INTO users (user_email, org_name) SELECT 'long-enough-' || g, 'o' FROM generate_series(1, 20) g",
)

CASES = {
    **{
        f"rename {old}": Case(
            schema=RICH,
            changes=(f'RenameColumn("users", "{old}", "New Name")',),
            by_hand=(f'ALTER TABLE users RENAME {old} TO "New Name"',),
        )
        for old in ("org_name", "balance", "ticket")
    },
    "rename one": Case(
        schema=RICH,
        changes=('RenameColumn("users", "user_email", "mail")',),
        by_hand=("ALTER TABLE users RENAME user_email TO mail",),
    ),
    "rename volatile": Case(
        schema=RICH,
        changes=('RenameColumn("users", "token", "secret")', 'RenameColumn("users", "created", "since")'),
        by_hand=("ALTER TABLE users RENAME token TO secret", "ALTER TABLE users RENAME created TO since"),
    ),
    "partitioned": Case(
        schema=(
            (
                "CREATE TABLE logs (id bigint NOT NULL, at date NOT NULL, note text DEFAULT 'x' NOT NULL, "
                "CHECK (note <> '')) PARTITION BY RANGE (at)"
            ),
            "CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM ('2026-01-01') TO ('2026-07-01')",
            "CREATE TABLE logs_2 PARTITION OF logs FOR VALUES FROM ('2026-07-01') TO ('2027-01-01') PARTITION BY HASH (id)",
            "CREATE TABLE logs_2a PARTITION OF logs_2 FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
            "CREATE INDEX logs_note ON logs (note, at)",
            "CREATE INDEX ON logs (lower(note))",
            "COMMENT ON COLUMN logs.note IS 'free text'",
            "GRANT SELECT (note) ON logs TO PUBLIC",
            "INSERT INTO logs SELECT g, '2026-06-25'::date + g, 'n' || g FROM generate_series(1, 20) g",
        ),
        changes=('RenameColumn("logs", "note", "text")',),
        by_hand=("ALTER TABLE logs RENAME note TO text",),
    ),
    "add": Case(
        schema=RICH,
        changes=(
            'AddColumn("users", sa.Column("locale", sa.String(5), nullable=False, server_default="en", comment="which"))',
            'AddColumn("users", sa.Column("shown", sa.Text, nullable=False), backfill="lower(user_email)")',
            'AddColumn("users", sa.Column("key", sa.Uuid, nullable=False, server_default=sa.text("gen_random_uuid()")))',
            'AddColumn("users", sa.Column("remark", sa.Text))',
        ),
        by_hand=(
            "ALTER TABLE users ADD locale varchar(5) DEFAULT 'en' NOT NULL",
            "COMMENT ON COLUMN users.locale IS 'which'",
            "ALTER TABLE users ADD shown text",
            "UPDATE users SET shown = lower(user_email)",
            "ALTER TABLE users ALTER shown SET NOT NULL",
            "ALTER TABLE users ADD key uuid DEFAULT gen_random_uuid() NOT NULL",
            "ALTER TABLE users ADD remark text",
        ),
    ),
    "drop": Case(
        schema=RICH,
        changes=(
            'DropColumn("users", "user_email")',
            'DropColumn("users", "ticket")',
            'DropColumn("users", "created")',
        ),
        by_hand=("ALTER TABLE users DROP user_email, DROP ticket, DROP created",),
    ),
    "drop with a value": Case(
        schema=("CREATE TABLE t (id bigserial PRIMARY KEY, a text, b text NOT NULL)", "INSERT INTO t (b) VALUES ('x')"),
        changes=('DropColumn("t", "b", down="coalesce(a, \'none\')")',),
        by_hand=("ALTER TABLE t DROP b",),
    ),
    "drop required": Case(
        schema=(
            "CREATE TABLE t (id bigserial PRIMARY KEY, b text CONSTRAINT mine NOT NULL)",
            "INSERT INTO t VALUES (1, 'x')",
        ),
        changes=('DropColumn("t", "b")',),
        by_hand=("ALTER TABLE t DROP b",),
    ),
}


Make = Callable[[Case], Site]


@pytest.fixture
def make(pg: ScratchServer, site: Site, tmp_path: Path) -> Iterator[Make]:
    """Makes sites with the case's schema, each on a database of its own."""
    names = []

    def made(case: Case) -> Site:
        names.append(f"catalog_{next(_numbers)}")
        pg.create_database(names[-1])
        new = dataclasses.replace(site, database=Database(pg, names[-1]), directory=tmp_path / names[-1])
        new.sql(*case.schema)
        new.write("0001_it", *case.changes)
        new.init()
        return new

    yield made
    for name in names:
        pg.drop_database(name)


def catalog(site: Site) -> catalog_compare.Catalog:
    with connect(site.database) as connection:
        return catalog_compare.read(connection, ignore=("read switch",))


@pytest.mark.parametrize("name", CASES)
def test_phases_and_bootstrap_leave_what_ddl_by_hand_leaves(make: Make, name: str) -> None:
    case = CASES[name]
    by_hand, at_once, by_phases = (make(case) for _ in range(3))
    by_hand.sql(*case.by_hand)
    at_once.run("bootstrap").expect(0)
    by_phases.run("advance", "--to", "contract", *overrides(by_phases)).expect(0)
    assert catalog_compare.difference(catalog(by_hand), catalog(at_once)) == [], "bootstrap (+) and by hand (-)"
    assert catalog_compare.difference(catalog(by_hand), catalog(by_phases)) == [], "phases (+) and by hand (-)"
    at_once.run("advance", "--to", "contract").expect(0)
    by_phases.run("bootstrap").expect(0)


TARGETS = [
    (name, target)
    for name in CASES
    for target in ("expand", "dual_write", "backfill", "switch_reads", "retire")
]  # fmt: skip


def _mark(name: str, target: str) -> Any:
    usual = target == "retire" or name == "rename one"
    return pytest.param(name, target, id=f"{name}-{target}", marks=() if usual else pytest.mark.nightly)


@pytest.mark.parametrize(("name", "target"), [_mark(name, target) for name, target in TARGETS])
def test_a_revert_to_none_leaves_what_was_there(make: Make, name: str, target: str) -> None:
    case = CASES[name]
    site = make(case)
    before = catalog(site)
    site.run("advance", "--to", target, *overrides(site)).expect(0)
    site.run("revert", "0001_it", "--to", "none", "--allow-lossy").expect(0)
    assert catalog_compare.difference(before, catalog(site)) == [], "before (-) and after the revert (+)"
    # and the second go ends as the first would have
    site.run("unhold", "0001_it").expect(0)
    site.run("advance", "--to", "contract", *overrides(site)).expect(0)
    once = make(case)
    once.run("bootstrap").expect(0)
    assert catalog_compare.difference(catalog(once), catalog(site)) == [], "bootstrap (-) and the second go (+)"


def overrides(site: Site) -> tuple[str, ...]:
    """Of those that the case's plan knows."""
    shown = site.run("plan", "--format", "json").expect(0).out
    return tuple(
        item
        for gate in ("old_reads_null", "table_triggers", "explicit_null")
        if f'"{gate}"' in shown
        for item in ("--override", f"{gate}=accepted")
    )


def test_bootstrap_adopts_what_is_there_and_refuses_a_mixture(make: Make) -> None:
    case = CASES["rename one"]
    site = make(case)
    site.sql(*case.by_hand)
    before = catalog(site)
    done = site.run("bootstrap", "--format", "json").expect(0)
    assert "adopted" in done.migration("0001_it")["message"]
    assert before == catalog(site)
    site.run("advance", "--to", "contract").expect(0)
    site.run("revert", "0001_it", "--to", "none").expect(8)

    mixed = make(CASES["rename volatile"])
    mixed.sql("ALTER TABLE users RENAME token TO secret")
    before = catalog(mixed)
    mixed.run("bootstrap").expect(7)
    assert before == catalog(mixed)


def test_bootstrap_refuses_a_migration_in_flight_and_a_large_table(make: Make) -> None:
    site = make(CASES["rename one"])
    site.run("advance", "--to", "dual_write").expect(0)
    assert "in flight" in site.run("bootstrap").expect(7).out
    large = make(CASES["rename one"])
    large.sql("INSERT INTO users (user_email) SELECT 'other-' || g FROM generate_series(1, 12000) g", "ANALYZE users")
    assert "not a fresh database" in large.run("bootstrap").expect(6).out
