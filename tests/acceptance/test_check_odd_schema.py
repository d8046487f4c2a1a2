"""A check of a schema with whatever names and constraints there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from zdmigrate.compat.checking import Pair, check
from zdmigrate.compat.footprint import Footprint
from zdmigrate.compat.footprints.models import tables_of
from zdmigrate.compat.scratch import schemas
from zdmigrate.config import Config
from zdmigrate.postgres.scratch import Scratch

SCHEMA = r'''
CREATE SCHEMA "Odd Schema";
CREATE TYPE "Odd Schema"."Mood ü" AS ENUM ('calm', 'it''s', 'a "b"');
CREATE DOMAIN "Odd Schema".email AS text CHECK (VALUE ~ '^[^@]+@[^@]+$');
CREATE TABLE "Odd Schema"."Täble ""x""" (
  "Id %" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  "select" "Odd Schema".email NOT NULL,
  "Mood" "Odd Schema"."Mood ü" DEFAULT 'calm',
  r int4range, tags text[] DEFAULT '{}', n numeric(5,2) CHECK (n >= 0), g int GENERATED ALWAYS AS (1+1) STORED,
  EXCLUDE USING gist (r WITH &&), UNIQUE ("select") DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE parts (id bigint, at date NOT NULL, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE parts_2026 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY LIST (id);
CREATE TABLE parts_2026_d PARTITION OF parts_2026 DEFAULT;
CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b DEFERRABLE INITIALLY DEFERRED;
CREATE TABLE nokey (x int, y text);
CREATE VIEW av AS SELECT id, b FROM a;
CREATE TABLE tenants (id int PRIMARY KEY, tenant text NOT NULL, v text);
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
CREATE ROLE shop;
GRANT USAGE ON SCHEMA "Odd Schema" TO shop;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "Odd Schema", public TO shop;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA "Odd Schema" TO shop;
ALTER ROLE shop SET app.tenant = '20000';
CREATE POLICY p ON tenants USING (tenant = current_setting('app.tenant', true));
CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN IF NEW.y = 'bad' THEN RAISE 'no'; END IF; NEW.y := upper(NEW.y); RETURN NEW; END $$;
CREATE TRIGGER no BEFORE INSERT OR UPDATE ON nokey FOR EACH ROW EXECUTE FUNCTION no();
'''
MIGRATION = """
import sqlalchemy as sa
from zdmigrate import *
migration = Migration(
    RenameColumn('Täble "x"', "Mood", "Möod 2", schema="Odd Schema"),
    AddColumn("parts", sa.Column("extra", sa.Text, nullable=False, server_default="e")),
    AddColumn("nokey", sa.Column("z", sa.Integer), backfill="x"),
    AddColumn("tenants", sa.Column("w", sa.Text)),
    AddColumn("a", sa.Column("c", sa.Integer)),
)
"""


def footprint(mood: str, *, added: bool) -> Footprint:
    def key(name: str, type_: type[sa.types.TypeEngine[Any]] = sa.Integer) -> sa.Column[Any]:
        return sa.Column(name, type_, primary_key=True, autoincrement=False)

    def new(*columns: sa.Column[Any]) -> tuple[sa.Column[Any], ...]:
        return columns if added else ()

    metadata, home = sa.MetaData(), "Odd Schema"
    sa.Table(
        'Täble "x"', metadata, sa.Column("Id %", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("select", sa.Text, nullable=False),
        sa.Column(mood, sa.Enum("calm", "it's", 'a "b"', name="Mood ü", schema=home)),
        sa.Column("r", postgresql.INT4RANGE), sa.Column("tags", sa.ARRAY(sa.Text)), sa.Column("n", sa.Numeric(5, 2)),
        sa.Column("g", sa.Integer, sa.Computed("1+1")), schema=home,
    )  # fmt: skip
    extra = new(sa.Column("extra", sa.Text, nullable=False))
    sa.Table("parts", metadata, key("id", sa.BigInteger), key("at", sa.Date), sa.Column("note", sa.Text), *extra)
    sa.Table("a", metadata, key("id"), sa.Column("b", sa.Integer))
    sa.Table("b", metadata, key("id"), sa.Column("a", sa.Integer))
    sa.Table("av", metadata, key("id"), sa.Column("b", sa.Integer))
    sa.Table("nokey", metadata, sa.Column("x", sa.Integer), sa.Column("y", sa.Text), *new(sa.Column("z", sa.Integer)))
    sa.Table("tenants", metadata, key("id"), sa.Column("tenant", sa.Text, nullable=False), sa.Column("v", sa.Text))
    return Footprint.of(tables=tables_of(metadata))


def test_everything_is_checked_and_nothing_is_alarmed(pg: Scratch, tmp_path: Path) -> None:
    schema = tmp_path / "schema.sql"
    schema.write_text(SCHEMA, encoding="utf-8")
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_odd.py").write_text(MIGRATION, encoding="utf-8")
    config = Config(dir=tmp_path / "migrations")
    pair = Pair(name="odd", old=footprint("Mood", added=False), new=footprint("Möod 2", added=True))
    (run,) = check(pg, schemas.start(schemas.from_dump(schema), config=config), config, (), [pair]).runs
    assert run.unproven == ()
    assert run.broken == ()
    assert run.counts.everywhere > 100
