"""What is revoked and granted to withhold columns, and what counts as a failure."""

from __future__ import annotations

import contextlib
import types
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from zdmigrate.app.shapes import Trait
from zdmigrate.engine import withholding
from zdmigrate.errors import Contended, Unsafe
from zdmigrate.postgres import failing
from zdmigrate.postgres.grants import Access, Right, Withheld

OWNER, SHOP, NOBODY = 10, 11, 0
COLUMNS = {-1: "ctid", 1: "id", 2: "old one", 3: "other"}


def right(privilege: str, role: int = SHOP, *, column: int = 0, grantable: bool = False, grantor: int = OWNER) -> Right:
    names = {OWNER: "owner", SHOP: "sh op", NOBODY: "PUBLIC", 12: "other"}
    return Right(
        role=role, name=names[role], grantor=grantor, grantor_name=names[grantor], privilege=privilege,
        grantable=grantable, column=column,
    )  # fmt: skip


def withheld(*rights: Right, columns: tuple[int, ...] = (2,), owner_too: bool = False) -> Withheld:
    access = Access(
        oid=1, schema="public", name="users", owner=OWNER, owner_name="owner", ours=True, columns=COLUMNS,
        rights=(right("SELECT", OWNER), right("INSERT", OWNER), *rights),
    )  # fmt: skip
    return Withheld(access=access, columns=frozenset(columns), owner_too=owner_too)


def test_a_right_on_the_table_becomes_one_on_all_other_columns() -> None:
    """Without the option to grant it: what was passed on could not be taken back."""
    assert list(withheld(right("SELECT"), right("UPDATE", grantable=True), right("DELETE")).statements()) == [
        'REVOKE SELECT ON TABLE "public"."users" FROM "sh op"',
        'GRANT SELECT ("ctid", "id", "other") ON TABLE "public"."users" TO "sh op"',
        'REVOKE UPDATE ON TABLE "public"."users" FROM "sh op"',
        'GRANT UPDATE ("id", "other") ON TABLE "public"."users" TO "sh op"',
    ]


def test_rights_on_columns() -> None:
    each = withheld(right("SELECT", column=2), right("SELECT", column=3), right("INSERT", NOBODY, column=2))
    assert list(each.statements()) == [
        'REVOKE SELECT ("old one") ON TABLE "public"."users" FROM "sh op"',
        'REVOKE INSERT ("old one") ON TABLE "public"."users" FROM PUBLIC',
    ]
    assert each.names == {"sh op", "PUBLIC"}
    assert each.to_json()["columns"] == [
        {"role": SHOP, "privilege": "SELECT", "option": "", "column": 2, "beside": [3]},
        {"role": NOBODY, "privilege": "INSERT", "option": "", "column": 2, "beside": []},
    ]


def test_those_on_columns_go_with_those_on_the_table_and_are_kept_in_mind() -> None:
    each = withheld(right("SELECT"), right("SELECT", column=3, grantable=True), right("SELECT", column=2))
    assert list(each.statements()) == [
        'REVOKE SELECT ON TABLE "public"."users" FROM "sh op"',
        'GRANT SELECT ("ctid", "id", "other") ON TABLE "public"."users" TO "sh op"',
    ]
    assert [(e["column"], e["option"]) for e in each.to_json()["columns"]] == [(3, " WITH GRANT OPTION"), (2, "")]
    assert [entry["beside"] for entry in each.to_json()["table"]] == [[-1, 1, 3]]


def test_the_owner_is_left_out_unless_he_is_meant() -> None:
    assert not withheld().names
    assert withheld(owner_too=True).names == {"owner"}


def test_a_whole_table() -> None:
    each = withheld(right("SELECT"), right("DELETE"), right("UPDATE", column=3), columns=())
    assert list(each.statements()) == [
        'REVOKE SELECT ON TABLE "public"."users" FROM "sh op"',
        'REVOKE DELETE ON TABLE "public"."users" FROM "sh op"',
        'REVOKE UPDATE ("other") ON TABLE "public"."users" FROM "sh op"',
    ]


def test_what_others_have_granted() -> None:
    foreign = right("SELECT", 12, grantor=SHOP)
    assert withheld(right("SELECT", grantable=True), foreign).foreign == [foreign]
    assert withheld(right("DELETE", 12, grantor=SHOP)).foreign == []


def test_rises_within_a_second() -> None:
    rises = failing.Rises()
    assert [rises.see(now, count) for now, count in ((0, 100), (0.5, 100), (1.0, 103), (1.5, 104), (2.1, 104), (3.2, 104))] == [
        0, 0, 3, 4, 1, 0
    ]  # fmt: skip
    assert rises.allowed == 13
    rises.forget()
    assert rises.see(4, 500) == 0
    assert failing.Rises().allowed == 0, "where none is usual, one is too many"


def test_what_the_log_says() -> None:
    lines = [
        "2026-11-21 14:02:11 UTC [7] shop LOG:  something else",
        "2026-11-21 14:02:12 UTC [7] shop ERROR:  permission denied for table users",
        "2026-11-21 14:02:12 UTC [7] shop STATEMENT:  SELECT user_email FROM users",
    ]
    assert failing.denied(lines, {"users"}) == (
        "permission denied for table users", "SELECT user_email FROM users"
    )  # fmt: skip
    assert failing.denied(lines[:2], {"users"}) == ("permission denied for table users", "")
    assert failing.denied(lines, {"user"}) is None
    assert failing.denied(lines[:1], {"users"}) is None


@pytest.mark.parametrize(
    "end", [psycopg.OperationalError("no\nanswer"), Unsafe("the server is a standby"), KeyboardInterrupt()]
)
def test_who_cannot_give_back_says_so(monkeypatch: pytest.MonkeyPatch, end: BaseException) -> None:
    """Standbys and servers that do not answer are tried again, and it is not said each time."""
    tries: list[BaseException] = [Contended("locked"), psycopg.OperationalError("gone"), *[Unsafe("a standby")] * 5]
    clock = [100.0]

    def fails(*_: object) -> bool:
        if tries:
            raise tries.pop(0)
        clock[0] += 1000
        raise end

    told: list[str] = []
    record: Any = types.SimpleNamespace(
        id="0001_m", key=1, shapes=types.SimpleNamespace(old=[Trait(schema="public", table="users", column="a")])
    )
    held: Any = types.SimpleNamespace(
        connection=None, store=None, sleep=lambda _: None, report=lambda event: told.append(event.message)
    )
    anything: Any = None
    rehearsal = withholding.Rehearsal(
        held=held, lease=anything, record=record, duration=timedelta(1), owner_too=False, reason=None,
        connect=lambda: contextlib.nullcontext(anything), stop=anything,  # type: ignore[arg-type, return-value]
    )  # fmt: skip
    monkeypatch.setattr("zdmigrate.control.withholding.give_back", fails)
    monkeypatch.setattr("zdmigrate.engine.withholding.time.monotonic", lambda: clock[0])
    with pytest.raises(Contended, match=r"rights on public\.users are STILL withheld") as raised:
        rehearsal._give_back(withholding.Ended("quiet", "nobody failed"))
    assert raised.value.hint == "zdmigrate withhold 0001_m --stop"
    assert tries == []
    assert told == ["what is withheld could not be given back, trying again: locked"]
