"""The workload of examples over models of all kinds: it knows what must be in every row, and finds what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.servers import Database, connect
from zdmigrate.demo.example import Example
from zdmigrate.demo.pairing import entities
from zdmigrate.demo.traffic import Traffic
from zdmigrate.demo.workload import Version
from zdmigrate.errors import UsageError

HEAD = """
import datetime, decimal, enum, uuid
from typing import Any
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    pass

class Mood(enum.Enum):
    good = 1
    bad = 2
"""

SEED = """
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE team (code varchar(10), region smallint, name text UNIQUE, PRIMARY KEY (code, region));
INSERT INTO team SELECT 't' || n, n % 3, 'team ' || n FROM generate_series(1, 500) n;
CREATE TABLE person (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "E-Mail" varchar(12) NOT NULL UNIQUE,
    team_code varchar(10) NOT NULL, team_region smallint NOT NULL,
    mood mood NOT NULL DEFAULT 'good', seen timestamptz NOT NULL DEFAULT now(), born date, tags text[],
    facts jsonb, balance numeric(8, 3), weight real, token uuid DEFAULT gen_random_uuid(), photo bytea,
    cents integer NOT NULL DEFAULT 0, price numeric(10, 2) GENERATED ALWAYS AS (cents / 100.0) STORED,
    boss bigint REFERENCES person, bio text,
    FOREIGN KEY (team_code, team_region) REFERENCES team
);
INSERT INTO person ("E-Mail", team_code, team_region) SELECT n, 't' || n, n % 3 FROM generate_series(1, 50) n;
CREATE TABLE profile (id serial PRIMARY KEY, person_id bigint NOT NULL UNIQUE REFERENCES person, bio text);
CREATE TABLE badge (person_id bigint PRIMARY KEY REFERENCES person, colour char(6) NOT NULL);
CREATE FUNCTION to_profile() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF pg_trigger_depth() = 1 AND NEW.bio IS NOT NULL THEN
        INSERT INTO profile (person_id, bio) VALUES (NEW.id, NEW.bio)
        ON CONFLICT (person_id) DO UPDATE SET bio = excluded.bio;
    ELSIF pg_trigger_depth() = 1 THEN DELETE FROM profile WHERE person_id = NEW.id;
    END IF; RETURN NULL; END $$;
CREATE TRIGGER up AFTER INSERT OR UPDATE OF bio ON person FOR EACH ROW EXECUTE FUNCTION to_profile();
CREATE FUNCTION to_person() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF pg_trigger_depth() = 1 THEN UPDATE person SET bio = NEW.bio WHERE id = NEW.person_id; END IF;
    RETURN NULL; END $$;
CREATE TRIGGER down AFTER INSERT OR UPDATE ON profile FOR EACH ROW EXECUTE FUNCTION to_person();
CREATE FUNCTION gone() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    DELETE FROM profile WHERE person_id = OLD.id; RETURN OLD; END $$;
CREATE TRIGGER gone BEFORE DELETE ON person FOR EACH ROW EXECUTE FUNCTION gone();
"""

PERSON = """
    id: Mapped[int] = mapped_column(sa.Identity(always=True), primary_key=True)
    team_code: Mapped[str]
    team_region: Mapped[int] = mapped_column(sa.SmallInteger)
    mood: Mapped[Mood] = mapped_column(sa.Enum(Mood, name="mood"), server_default="good")
    seen: Mapped[datetime.datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
    born: Mapped[datetime.date | None]
    tags: Mapped[list[str] | None] = mapped_column(sa.ARRAY(sa.Text))
    facts: Mapped[Any | None] = mapped_column(postgresql.JSONB)
    balance: Mapped[decimal.Decimal | None] = mapped_column(sa.Numeric(8, 3))
    weight: Mapped[float | None]
    token: Mapped[uuid.UUID | None] = mapped_column(server_default=sa.func.gen_random_uuid())
    photo: Mapped[bytes | None]
    boss: Mapped[int | None] = mapped_column(sa.ForeignKey("person.id"))
"""
TEAM = """
class Team(Base):
    __tablename__ = "team"
    code: Mapped[str] = mapped_column(sa.String(10), primary_key=True)
    region: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)
    name: Mapped[str | None] = mapped_column(unique=True)

class Badge(Base):
    __tablename__ = "badge"
    person_id: Mapped[int] = mapped_column(sa.ForeignKey("person.id"), primary_key=True)
    colour: Mapped[str] = mapped_column(sa.CHAR(6))
"""
REFERS = 'sa.ForeignKeyConstraint(["team_code", "team_region"], ["team.code", "team.region"])'
OLD = f"""{HEAD}{TEAM}
class Person(Base):
    __tablename__ = "person"
    __table_args__ = ({REFERS},){PERSON}
    mail: Mapped[str] = mapped_column("E-Mail", sa.String(12), unique=True)
    cents: Mapped[int] = mapped_column(server_default="0")
    bio: Mapped[str | None]
"""
# N+1 knows nothing of a foreign key to the team; what it writes must refer to one nevertheless.
NEW = f"""{HEAD}{TEAM}
class Human(Base):
    __tablename__ = "person"{PERSON}
    address: Mapped[str] = mapped_column("E-Mail", sa.Text, unique=True)
    price: Mapped[decimal.Decimal] = mapped_column(sa.Numeric(10, 2), sa.Computed("cents / 100.0"))

class Profile(Base):
    __tablename__ = "profile"
    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int] = mapped_column(sa.ForeignKey("person.id"), unique=True)
    bio: Mapped[str | None]
"""
FACTS = """
from decimal import Decimal
SAME = {"Person.id": "Human.id", "Person.mail": "Human.address", "Person.bio": "Profile.bio"}
VALUES = {"old.Person.cents": lambda chance, number: number}
UP = {"Human.price": lambda row: Decimal(row["cents"]) / 100}
DOWN = {"Person.cents": lambda row: 0}
"""


def folder(path: Path, *, old: str = OLD, new: str = NEW, facts: str = FACTS, seed: str = SEED) -> Path:
    path.mkdir(exist_ok=True)
    (path / "migrations").mkdir(exist_ok=True)
    for name, text in {"models_old.py": old, "models_new.py": new, "example.py": facts, "seed.sql": seed}.items():
        (path / name).write_text(text, encoding="utf-8")
    return path


def test_both_versions_over_all_kinds_of_columns(database: Database, tmp_path: Path) -> None:
    example = Example.load(folder(tmp_path / "everything"))
    with connect(database) as connection:
        connection.execute(example.seed().encode())
        with Traffic(example, database.sqlalchemy_url) as traffic:
            traffic.assign(Version)
            traffic.hold(30)
            assert traffic.findings.violations == []
            assert traffic.compare() > 2 * 550
            assert traffic.findings.violations == []
            operations = {(entity.name, name) for v in Version for entity, name in traffic.operations(v)}
            assert {name for entity, name in operations if entity == "Person"} == {
                "insert", "insert_minimal", "insert_nulls", "read", "read_other", "update", "delete", "upsert",
            }  # fmt: skip
        assert connection.execute("SELECT count(*) > 5 FROM profile").fetchone() == (True,)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DROP TRIGGER down ON profile", "in Person.bio of Person"),
        ("DROP TRIGGER up ON person", "in Profile.bio of Person"),
        ("DELETE FROM person WHERE id = 3", "Person 3 is lost"),
        ("INSERT INTO team VALUES ('ghost', 1)", "which nobody inserted"),
        ("UPDATE person SET cents = 7", "in Person.cents of Person"),
    ],
)
def test_what_is_not_as_it_was_written_is_found(
    database: Database, tmp_path: Path, statement: str, message: str
) -> None:
    example = Example.load(folder(tmp_path / "everything"))
    with connect(database) as connection:
        connection.execute(example.seed().encode())
        with Traffic(example, database.sqlalchemy_url) as traffic:
            connection.execute(statement.encode())
            traffic.compare(Version)
            traffic.assign(Version)
            traffic.hold(20)
            traffic.compare()
    assert any(message in text for text in traffic.findings.wrong), traffic.findings.wrong


MINIMAL = HEAD + "class T(Base):\n    __tablename__ = 't'\n    id: Mapped[int] = mapped_column(primary_key=True)\n"


@pytest.mark.parametrize(
    ("old", "new", "facts", "message"),
    [
        ("    a: Mapped[str]\n", "    b: Mapped[str]\n", "", "is T.a of N the same as T.b of N+1"),
        ("    a: Mapped[int]\n", "    a: Mapped[str]\n", "", "no values can be made for T.a"),
        ("", "", 'SAME = {"T.x": "T.id"}', "version N maps no T.x"),
        ("", "", 'VALUES = {"T.x": None}', "VALUES names T.x, which no version maps"),
        ("", "", 'OPERATIONS = {"U": ("read",)}', "OPERATIONS names U"),
        ("", "", 'OPERATIONS = {"T": ("reed",)}', "T has no operation 'reed'"),
        ("", "", "SAMES = {}", "SAMES is no fact"),
        ("", "", "MAJORS = 16", "MAJORS must be a tuple"),
        ("", "", "1 / 0", "ZeroDivisionError"),
    ],
)
def test_what_the_facts_lack_is_said(tmp_path: Path, old: str, new: str, facts: str, message: str) -> None:
    made = folder(tmp_path / "minimal", old=MINIMAL + old, new=MINIMAL + new, facts=facts)
    with pytest.raises(UsageError) as caught:
        entities(Example.load(made))
    assert message in caught.value.message
