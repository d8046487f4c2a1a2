"""Rows and round trips that real applications asked for."""

from __future__ import annotations

from tests.support.servers import Database, connect
from zdmigrate.compat.footprint import Footprint, MappedColumn, MappedTable, Parameter, Statement
from zdmigrate.compat.probing.client import Client
from zdmigrate.compat.probing.needs import Home, settle
from zdmigrate.compat.probing.rows import fill
from zdmigrate.compat.report import Version
from zdmigrate.postgres import shapes
from zdmigrate.postgres.servers import ScratchServer


def home(client: Client) -> Home:
    return Home(client, shapes.read(client.connection, control_schema="zdmigrate"))


def mapped(name: str, *columns: str, unique: tuple[tuple[str, ...], ...] = ()) -> MappedTable:
    return MappedTable(
        name=name, columns=tuple(MappedColumn(name=c, type="integer", nullable=False) for c in columns),
        key=columns[:1], unique=unique,
    )  # fmt: skip


def test_tables_that_take_each_others_rows_leave_one_for_a_probe(database: Database) -> None:
    with connect(database) as owner:
        owner.execute("CREATE TABLE task (id int PRIMARY KEY)")
        owner.execute("CREATE TABLE code (task_id int PRIMARY KEY REFERENCES task)")
        owner.execute("CREATE TABLE note (code_id int PRIMARY KEY REFERENCES code)")
    tables = [mapped("task", "id"), mapped("code", "task_id"), mapped("note", "code_id")]
    with Client(database.conninfo) as client:
        there = home(client)
        assert fill(client, there.shapes) == {}
        needs = settle(Version.OLD, Footprint.of(tables=tables), [there])
    assert needs.unproven == ()


def test_rows_that_are_there_already_are_not_all_taken(database: Database) -> None:
    with connect(database) as owner:
        owner.execute("CREATE TABLE bundle (id int PRIMARY KEY)")
        owner.execute("INSERT INTO bundle VALUES (1), (2)")
        owner.execute("CREATE TABLE owner (bundle_id int PRIMARY KEY REFERENCES bundle)")
    with Client(database.conninfo) as client:
        there = home(client)
        fill(client, there.shapes)
        needs = settle(Version.OLD, Footprint.of(tables=[mapped("owner", "bundle_id")]), [there])
    assert needs.unproven == ()
    assert "delete of public.owner" in {each.probe.subject for each in needs.settled if each.rows == 1}


def test_values_are_found_for_the_columns_of_a_recorded_statement(database: Database) -> None:
    with connect(database) as owner:
        owner.execute("CREATE TYPE mood AS ENUM ('sad', 'happy')")
        owner.execute("CREATE TABLE person (id int PRIMARY KEY)")
        owner.execute(
            "CREATE TABLE feeling (id serial PRIMARY KEY, person_id int REFERENCES person, mood mood NOT NULL)"
        )
    sql = "INSERT INTO feeling (person_id, mood) VALUES ($1, $2) RETURNING feeling.id"
    statement = Statement(sql=sql, parameters=(Parameter(types=("int4",)), Parameter(types=("unknown",))))
    with Client(database.conninfo) as client:
        there = home(client)
        fill(client, there.shapes)
        needs = settle(Version.OLD, Footprint.of(statements=[statement]), [there])
    assert [each.executes for each in needs.settled] == [True]
    with connect(database) as owner:
        assert owner.execute("SELECT count(*) FROM feeling WHERE id < 1000").fetchone() == (0,), "it was undone"


def test_a_made_upsert_waits_for_a_key_that_only_the_end_brings(pg: ScratchServer, database: Database) -> None:
    with connect(database) as owner:
        owner.execute("CREATE TABLE model (id int PRIMARY KEY, name int NOT NULL UNIQUE)")
    shared, end = f"{database.name}_shared", f"{database.name}_end"
    pg.create_database(shared, database.name)
    with connect(Database(pg, shared)) as owner:
        owner.execute("ALTER TABLE model ADD workspace int NOT NULL DEFAULT 1")
    pg.create_database(end, shared)
    with connect(Database(pg, end)) as owner:
        owner.execute("ALTER TABLE model DROP CONSTRAINT model_name_key, ADD UNIQUE (workspace, name)")
    table = mapped("model", "id", "name", "workspace", unique=(("workspace", "name"),))
    try:
        with Client(pg.conninfo(end)) as last, Client(database.conninfo) as first, Client(pg.conninfo(shared)) as both:
            homes, meeting = [home(last), home(first)], home(both)
            for each in (*homes, meeting):
                fill(each.client, each.shapes)
            needs = settle(Version.NEW, Footprint.of(tables=[table]), homes, meeting=meeting)
    finally:
        for name in (shared, end):
            pg.drop_database(name)
    upserts = {each.probe.subject for each in needs.settled if each.probe.subject.startswith("upsert")}
    assert upserts == {"upsert on id of public.model"}
    assert needs.unproven == ()
