"""Identifiers, literals, tokens, and the columns in an expression."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdmigrate.sqltext import AmbiguousName, columns_in, ident, literal, replace_columns, tokens


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


def test_a_column_named_like_a_word_of_the_grammar() -> None:
    def year(name: str) -> str | None:
        return "X" if name == "year" else None

    assert replace_columns("((year > 2000)) AND year IS NOT NULL", year) == "((X > 2000)) AND X IS NOT NULL"
    with pytest.raises(AmbiguousName, match="quote it"):
        replace_columns("EXTRACT(year FROM at)", year)


def test_which_columns_are_mentioned() -> None:
    known = frozenset({"a", "b", "lower"})
    assert columns_in("lower(a) || lower", known) == {"a", "lower"}
