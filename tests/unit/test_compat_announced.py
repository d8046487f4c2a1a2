"""Which failures a plan has announced, and asked consent for."""

from __future__ import annotations

from typing import Any

import pytest

from zdmigrate.compat.announced import Announcements
from zdmigrate.compat.report import Finding, Layer, State, Version
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import Direction, Plan, Window
from zdmigrate.postgres.shapes import Column, Relation, Shapes


def relation(name: str, *columns: str, kind: str = "r", uses: str = "") -> Relation:
    found = tuple(Column(name=each, type="text", base="text") for each in columns)
    return Relation(schema="public", name=name, kind=kind, columns=found, uses=(("public", uses),) if uses else ())


RELATIONS = (
    relation("users", "id", "phone", "version"),
    relation("orders", "id", "version"),
    relation("people", "phone", kind="v", uses="users"),
)
SHAPES = Shapes(relations={(each.schema, each.name): each for each in RELATIONS}, path=("public",), functions={})


def plan(**hazard: Any) -> Plan:
    given: dict[str, Any] = {
        "id": "C16",
        "phase": Phase.EXPAND,
        "message": "version N may read NULL in phone",
        "remedy": "",
    }
    given |= {"about": ("users",)}
    return Plan(
        migration="0001", checksum="", server_version=180000, phases=(), touches=(), hazards=(Hazard(**given | hazard),),
        window=Window(old_until=Phase.RETIRE, new_from=Phase.EXPAND),
    )  # fmt: skip


def finding(**changes: Any) -> Finding:
    given: dict[str, Any] = {
        "version": Version.OLD, "state": State(phase=Phase.EXPAND), "layer": Layer.CROSS, "subject": "row of public.users",
        "message": "phone is NULL, which it does not expect", "remedy": "", "hazard": "C16",
    }  # fmt: skip
    return Finding(**given | changes)


@pytest.mark.parametrize(
    ("hazard", "found", "announced"),
    [
        ({"accept": "old_reads_null"}, {}, True),
        ({}, {}, False),  # nobody is asked
        ({"accept": "old_reads_null"}, {"message": "id is NULL, which it does not expect"}, False),  # of something else
        ({"accept": "old_reads_null"}, {"hazard": "C21"}, False),
        ({"accept": "old_reads_null", "phase": Phase.RETIRE}, {}, False),  # later
        ({"id": "C12"}, {"hazard": "C12", "version": Version.NEW}, True),
        ({"id": "C12"}, {"hazard": "C12", "version": Version.OLD}, False),
        ({"id": "C11", "accept": "warm_connections"}, {"layer": Layer.WARM, "hazard": "C23"}, True),
        ({"id": "C11", "accept": "warm_connections"}, {"layer": Layer.PREPARE, "hazard": "C11"}, False),
        ({"id": "C23"}, {"layer": Layer.WARM, "hazard": "C23"}, False),
        ({"accept": "old_reads_null"}, {"subject": "row of public.people"}, True),  # a view of it
        # "version" is a word of the message, and a column of another table.
        ({"accept": "old_reads_null"}, {"subject": "row of public.orders", "message": "version is NULL"}, False),
        ({"id": "C15"}, {"hazard": "C15", "message": "update or delete on table users: phone"}, True),
        ({"id": "C15"}, {"hazard": "C15", "message": "insert or update on table users: phone"}, False),
    ],
)
def test_what_is_announced(hazard: dict[str, Any], found: dict[str, Any], announced: bool) -> None:  # noqa: FBT001
    assert Announcements([plan(**hazard)], [SHAPES]).marked(finding(**found)).announced is announced


def test_a_revert_passes_the_phase_behind_it() -> None:
    back = State(phase=Phase.BACKFILL, direction=Direction.BACKWARD)
    hazard = {"id": "C11", "accept": "warm_connections", "phase": Phase.SWITCH_READS}
    assert Announcements([plan(**hazard)], [SHAPES]).marked(finding(layer=Layer.WARM, state=back)).announced
