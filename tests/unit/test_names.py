"""Generated names: legal, stable, without collisions, and on the right side of the table's own triggers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdmigrate.planning import names

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=63)


@given(st.sampled_from(["ix", "sync_v1", "shadow"]), NAMES, NAMES)
def test_a_name_fits_and_stays_the_same(kind: str, readable: str, table: str) -> None:
    made = names.generated(kind, readable, "migration", table)
    assert made == names.generated(kind, readable, "migration", table)
    assert len(made.encode()) <= 63
    assert "\0" not in made


@pytest.mark.parametrize("readable", ["email", "e" * 63, "ä" * 31, "漢" * 21, "🐘" * 15, "a" * 40 + "🐘" * 5])
def test_what_is_cut_is_cut_between_characters(readable: str) -> None:
    made = names.generated("sync_v1", readable, "m", "public", "t")
    head = f"zd_sync_v1_{names.digest('sync_v1', 'm', 'public', 't')}_"
    assert made.startswith(head)
    rest = made.removeprefix(head)
    assert readable.startswith(rest)
    # A character more would not fit.
    assert rest == readable or len((head + readable[: len(rest) + 1]).encode()) > 63


def test_no_two_things_share_a_name() -> None:
    long = "x" * 63
    identities = [
        ("m", "0", "s", "t"),
        ("m", "1", "s", "t"),
        ("m", "0", "st", ""),
        ("m", "0", "", "st"),
        ("m0", "s", "t"),
    ]
    made = {names.generated(kind, long, *identity) for kind, identity in itertools.product(("ix", "ck"), identities)}
    assert len(made) == 2 * len(identities)
    # Where the parts of an identity end is part of it.
    assert names.digest("ab", "c") != names.digest("a", "bc")


TRIGGERS = st.frozensets(
    st.text(st.characters(min_codepoint=2, exclude_categories=["Cs"]), min_size=1, max_size=15), max_size=8
)


@given(TRIGGERS)
def test_trigger_names_sort_outside_the_tables_own(others: frozenset[str]) -> None:
    base = names.generated("sync", "email_address", "m")
    for make, before in ((names.first_trigger, True), (names.last_trigger, False)):
        extreme = min(others, key=str.encode, default="") if before else max(others, key=str.encode, default="")
        if others and not (extreme.encode() > b"\x01zd" if before else extreme.encode() < "\U0010fffdzd".encode()):
            with pytest.raises(ValueError, match="before" if before else "after"):
                make(base, others)
            continue
        made = make(base, others)
        assert len(made.encode()) <= 63
        assert all((made.encode() < other.encode()) is before for other in others)


def test_nasty_trigger_names() -> None:
    others = frozenset({"!!!", "~~~~", " first", "  ", "zz", "Ü", "\U0010ffff"[:0] + "￿"})
    assert names.first_trigger("zd_sync", others).encode() < min(o.encode() for o in others)
    assert names.last_trigger("zd_sync", others).encode() > max(o.encode() for o in others)


def test_a_trigger_that_nothing_sorts_before_is_said() -> None:
    with pytest.raises(ValueError, match="before the table's own triggers"):
        names.first_trigger("zd", frozenset({"\x01"}))


@pytest.mark.parametrize(
    ("table", "columns", "label", "made"),
    [
        ("users", "email", "key", "users_email_key"),
        ("users", "", "pkey", "users_pkey"),
        ("t" * 63, "c" * 63, "not_null", "t" * 27 + "_" + "c" * 26 + "_not_null"),
        ("t" * 63, "c", "idx", "t" * 57 + "_c_idx"),
        ("ä" * 31, "ö" * 31, "check", "ä" * 14 + "_" + "ö" * 14 + "_check"),
    ],
)
def test_conventional_names_are_the_servers(table: str, columns: str, label: str, made: str) -> None:
    assert names.conventional(table, columns, label) == made
    assert len(made.encode()) <= 63


def test_a_conventional_name_that_is_taken_is_numbered() -> None:
    taken = frozenset({"t_c_key", "t_c_key1"})
    assert names.conventional("t", "c", "key", taken) == "t_c_key2"
