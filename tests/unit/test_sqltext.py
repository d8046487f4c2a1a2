"""Identifiers, literals, tokens, and the columns in an expression."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdmigrate.sqltext import AmbiguousName, columns_in, for_table, ident, literal, replace_columns, tokens, unfinished


@given(st.text())
def test_tokens_are_the_text_in_pieces(text: str) -> None:
    assert "".join(token.text for token in tokens(text)) == text


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_an_identifier_is_one_token_that_names_itself(name: str) -> None:
    (token,) = tokens(ident(name))
    assert token.name == name


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_literal_is_one_token(text: str) -> None:
    assert [token.kind for token in tokens(literal(text))] == ["string"]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("user_email", "X"),
        ('"user_email"', "X"),
        ("USER_EMAIL", "X"),
        ('"USER_EMAIL"', '"USER_EMAIL"'),
        ("lower(user_email) || 'user_email'", "lower(X) || 'user_email'"),
        ("user_email(user_email)", "user_email(X)"),
        ("x.user_email", "x.user_email"),
        ("1::user_email", "1::user_email"),
        ("$$user_email$$ || $a$user_email$a$", "$$user_email$$ || $a$user_email$a$"),
        ("$a1$ user_email $a1$ || user_email", "$a1$ user_email $a1$ || X"),
        (r"E'\'user_email' || user_email", r"E'\'user_email' || X"),
        ("user_email -- user_email\n", "X -- user_email\n"),
        ("/* user_email */ user_email", "/* user_email */ X"),
        ("user_email2 = user_email", "user_email2 = X"),
        ("'it''s user_email' = user_email", "'it''s user_email' = X"),
    ],
)
def test_columns_are_told_from_everything_else(expression: str, expected: str) -> None:
    assert replace_columns(expression, lambda name: "X" if name == "user_email" else None) == expected


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
PIECES = st.lists(
    st.one_of(
        NAMES.map(ident),
        NAMES.map(literal),
        NAMES.map(lambda name: "$q$" + name.replace("$", "") + "$q$"),
        NAMES.map(lambda name: "/*" + name.replace("*", "").replace("/", "") + "*/"),
        NAMES.map(lambda name: "--" + name.replace("\n", "") + "\n"),
        st.sampled_from(["+", "||", "lower(", ")", "::text", "12.5e3", "E'\\'", "U&'d\\0061'", ",", "[1]"]),
    ),
    max_size=12,
).map(" ".join)


@given(PIECES)
def test_replacing_nothing_changes_nothing(expression: str) -> None:
    assert replace_columns(expression, lambda _: None) == expression


@given(PIECES, NAMES, NAMES)
def test_a_column_is_renamed_there_and_back(expression: str, old: str, new: str) -> None:
    known = frozenset({old, new})
    if new not in columns_in(expression, known):
        there = replace_columns(expression, lambda name: ident(new) if name == old else None)
        assert old not in columns_in(there, known) or old == new
        assert replace_columns(there, lambda name: ident(old) if name == new else None) == replace_columns(
            expression, lambda name: ident(old) if name == old else None
        )


@given(PIECES, NAMES)
def test_only_the_column_is_touched(expression: str, old: str) -> None:
    """Every token but the column's stays as it was, in its place."""
    before = list(tokens(expression))
    after = list(tokens(replace_columns(expression, lambda name: '"x"' if name == old else None)))
    assert len(before) == len(after)
    for was, now in zip(before, after, strict=True):
        assert now == was or (was.name == old and now.text == '"x"')


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("E'it\\'s' b'1' N'n' U&'\\0061'", "string string string string"),
        ("$$a$$ $tag_1$ $$ ' \" $tag_1$ $1", "dollar dollar param"),
        ("'a''b' 'a\\' 'b'", "string string string"),
        ('"a""b" "a b"', "quoted quoted"),
        ("a--b\nc", "word comment word"),
        ("a/*b*/c", "word comment word"),
        ("1e5 1.5 a1 _b ünï", "number number word word word"),
        ("a::text", "word other word"),
    ],
)
def test_kinds_of_tokens(text: str, kinds: str) -> None:
    assert [token.kind for token in tokens(text) if token.kind != "space"] == kinds.split()


def test_a_name_in_unicode_escapes_is_refused_not_missed() -> None:
    with pytest.raises(AmbiguousName, match="escapes"):
        columns_in(r'U&"\0061b"', frozenset({"ab"}))
    assert columns_in('U&"ab"', frozenset({"ab"})) == {"ab"}
    assert columns_in("u & b", frozenset({"u", "b"})) == {"u", "b"}


def test_comments_nest() -> None:
    assert replace_columns("/* a /* a */ ' a */ a || 'a'", lambda name: "X" if name == "a" else None) == (
        "/* a /* a */ ' a */ X || 'a'"
    )


def test_a_column_named_like_a_word_of_the_grammar() -> None:
    def year(name: str) -> str | None:
        return "X" if name == "year" else None

    assert replace_columns("((year > 2000)) AND year IS NOT NULL", year) == "((X > 2000)) AND X IS NOT NULL"
    with pytest.raises(AmbiguousName, match="quote it"):
        replace_columns("EXTRACT(year FROM at)", year)


def test_which_columns_are_mentioned() -> None:
    known = frozenset({"a", "b", "lower"})
    assert columns_in("lower(a) || lower", known) == {"a", "lower"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a + 1", None),
        ("f(a[1], ')', $$($$, \")\") -- ( \n", None),
        ("a /* ( /* nested */ ( */ + 1", None),
        ("a) + (b", "a ) closes nothing"),
        ("(a]", "a ] closes nothing"),
        ("(a", "a ) is missing"),
        ("a -- b", "it ends in a comment"),
        ("a --", "it ends in a comment"),
        ("a /* /* */", "a comment is not closed"),
        ("'a", "a ' is not closed"),
        ('"a', 'a " is not closed'),
    ],
)
def test_what_would_not_stay_between_brackets(text: str, why: str | None) -> None:
    assert unfinished(text) == why


def test_a_placeholder_is_none_in_strings_and_names() -> None:
    statement = (
        """ALTER TABLE {table} ADD "{table}" text DEFAULT '{table}'; ALTER TABLE {table} ADD CHECK (a <> $${table}$$)"""
    )
    assert for_table(statement, "t") == (
        """ALTER TABLE t ADD "{table}" text DEFAULT '{table}'; ALTER TABLE t ADD CHECK (a <> $${table}$$)"""
    )
