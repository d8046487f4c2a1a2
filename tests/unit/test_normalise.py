"""Statements of drivers as those of footprints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdmigrate.compat.normalising.normalise import Constant, normalised
from zdmigrate.compat.normalising.placeholders import numbered
from zdmigrate.errors import UsageError
from zdmigrate.sqltext import literal

SECRET = "Zq7 secret"


def once(text: str, *, bound: bool = False) -> str:
    (found,) = normalised(text, bound=bound)
    return found.sql


@pytest.mark.parametrize(
    ("driver", "server", "names"),
    [
        ("SELECT %s, %b, %t, 10 %% 3", "SELECT $1, $2, $3, 10 % 3", None),
        ("SELECT %(b)s, %(a)s, %(b)s", "SELECT $1, $2, $1", ["b", "a"]),
        ("SELECT 1", "SELECT 1", None),
    ],
)
def test_placeholders_of_drivers(driver: str, server: str, names: list[str] | None) -> None:
    assert numbered(driver) == (server, names)


def test_a_percent_sign_that_is_no_placeholder_is_told() -> None:
    with pytest.raises(UsageError, match="'%d' is no placeholder"):
        numbered("SELECT %d")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # White space, comments, numbers of parameters.
        ("  SELECT a /* x /* y */ z */ ,\n\tb -- c\n FROM t;", "SELECT a, b FROM t"),
        ("SELECT $3, $1, $3", "SELECT $1, $2, $1"),
        # Constants of all kinds.
        ("SELECT 'a', E'b\\'c', $$d$$, $x$e$x$, U&'f', 'g'\n'h' FROM t", "SELECT $1, $2, $3, $4, $5, $6 FROM t"),
        ("SELECT N'a', B'101', X'1f'", "SELECT CAST($1 AS bpchar), CAST($2 AS bit(3)), CAST($3 AS bit(8))"),
        ("SELECT a FROM t WHERE d > date '2026-01-01'", "SELECT a FROM t WHERE d > CAST($1 AS date)"),
        ("SELECT now() - interval '1' day", "SELECT now() - CAST($1 AS interval day)"),
        ("SELECT now() - interval(3) '1s'", "SELECT now() - CAST($1 AS interval(3))"),
        ("SELECT timestamp with time zone '2026-01-01'", "SELECT CAST($1 AS timestamp with time zone)"),
        ("SELECT double precision '1', \"T\" 'x', s.t 'y'",
         'SELECT CAST($1 AS double precision), CAST($2 AS "T"), CAST($3 AS s.t)'),
        ("SELECT t AT TIME ZONE 'UTC' FROM t", "SELECT t AT TIME ZONE $1 FROM t"),
        ("SELECT a FROM t WHERE f(1) LIKE 'x' ESCAPE '!'", "SELECT a FROM t WHERE f(1) LIKE $1 ESCAPE $2"),
        ("SELECT concat('a', b), jsonb_build_object('k', 1) FROM t",
         "SELECT concat(CAST($1 AS text), b), jsonb_build_object(CAST($2 AS text), 1) FROM t"),
        # What stays: names in the clothes of constants, and what an index is found by.
        ("SELECT nextval('s'), 't'::regclass, date_trunc('day', a), extract('year' FROM a) FROM t",
         "SELECT nextval('s'), 't'::regclass, date_trunc('day', a), extract('year' FROM a) FROM t"),
        ("SELECT date_trunc('secret', a) FROM t", "SELECT date_trunc($1, a) FROM t"),
        ("INSERT INTO t (a) VALUES ('x') ON CONFLICT (coalesce(a, '')) WHERE b = 'y' DO UPDATE SET a = 'z'",
         "INSERT INTO t (a) VALUES ($1) ON CONFLICT (coalesce(a, '')) WHERE b = 'y' DO UPDATE SET a = $2"),
        # The same constant twice, where the server compares.
        ("SELECT to_char(a, 'YYYY') FROM t GROUP BY to_char(a, 'YYYY')", "SELECT to_char(a, $1) FROM t GROUP BY to_char(a, $1)"),
        ("SELECT a FROM t WHERE a = 'x' AND b = 'x'", "SELECT a FROM t WHERE a = $1 AND b = $2"),
        # Numbers.
        ("SELECT 7, 999, 1234, 123456, 1.5, 12.3456, 1e-5, .12345", "SELECT 7, 999, 1000, 100000, 1.5, 10.0000, 1e-5, .10000"),
        ("SELECT 2147483647, 2147483648, 9223372036854775807, 9223372036854775808",
         "SELECT 1000000000, 3000000000, 1000000000000000000, 9500000000000000000"),
        ("SELECT 0x1234, 0b10101, 1_000_000", "SELECT 0x1000, 0b10000, 1000000"),
        ("SELECT a::varchar(12) FROM t ORDER BY 1 LIMIT 10", "SELECT a::varchar(12) FROM t ORDER BY 1 LIMIT 10"),
        # Lists.
        ("SELECT a FROM t WHERE a IN ($1, $2, $3)", "SELECT a FROM t WHERE a IN ($1)"),
        ("SELECT a FROM t WHERE a IN ($1::INTEGER, $2::INTEGER)", "SELECT a FROM t WHERE a IN ($1::INTEGER)"),
        ("SELECT a FROM t WHERE a IN (5, 17, 333, 4)", "SELECT a FROM t WHERE a IN (100)"),
        ("SELECT a FROM t WHERE (a, b) IN (($1, $2), ($3, $4))", "SELECT a FROM t WHERE (a, b) IN (($1, $2))"),
        ("SELECT a FROM t WHERE a IN (b, c, $1)", "SELECT a FROM t WHERE a IN (b, c, $1)"),
        ("SELECT a FROM t WHERE a IN $1", "SELECT a FROM t WHERE a IN ($1)"),
        ("SELECT a FROM t WHERE a = ANY(ARRAY['x', 'y'])", "SELECT a FROM t WHERE a = ANY(ARRAY[$1])"),
        ("SELECT a FROM t WHERE a IN (SELECT b FROM u WHERE c IN ($1, $2))",
         "SELECT a FROM t WHERE a IN (SELECT b FROM u WHERE c IN ($1))"),
        ("SELECT f($1, $2)", "SELECT f($1, $2)"),
        ("INSERT INTO t (a, b) VALUES ($1, lower($2)), ($3, lower($4)), ($5, DEFAULT) RETURNING a",
         "INSERT INTO t (a, b) VALUES ($1, lower($2)), ($3, DEFAULT) RETURNING a"),
        ("INSERT INTO t (a) SELECT p0 FROM (VALUES ($1, 0), ($2, 1), ($3, 2)) AS imp_sen(p0, sen_counter) ORDER BY sen_counter",
         "INSERT INTO t (a) SELECT p0 FROM (VALUES ($1, 0)) AS imp_sen(p0, sen_counter) ORDER BY sen_counter"),
        # COPY takes no parameters.
        ("COPY (SELECT a, 'x', date '2026-01-01' FROM t WHERE b = 'y') TO STDOUT WITH (FORMAT csv, DELIMITER ';')",
         "COPY (SELECT a, NULL, CAST(NULL AS date) FROM t WHERE b = NULL) TO STDOUT WITH (FORMAT csv, DELIMITER ';')"),
        ("COPY t (a) FROM '/home/me/x' WITH (NULL '-') WHERE a <> 'x'", "COPY t (a) FROM '' WITH (NULL '-') WHERE a <> NULL"),
        # The query of a cursor.
        ('DECLARE "c_7f" NO SCROLL CURSOR WITH HOLD FOR SELECT a FROM t', "SELECT a FROM t"),
    ],
)  # fmt: skip
def test_normalised(text: str, expected: str) -> None:
    assert once(text) == expected
    assert once(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", ";", "-- nothing", "BEGIN", "COMMIT", "SET x = 1", "SHOW search_path", "SAVEPOINT a", "CREATE TABLE t (a int)",
        "ALTER TABLE t ADD b int", "EXPLAIN SELECT 1", "FETCH 1 FROM c", "CLOSE c", "NOTIFY a", "DO $$ BEGIN END $$",
        "select pg_catalog.version()", "select current_schema()", "SELECT set_config('a', 'b', true)",
        "SELECT t.oid FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typname = $1",
        "SELECT pg_catalog.format_type(a.atttypid, NULL) FROM pg_catalog.pg_attribute a, pg_class c WHERE a.attnum > 0",
        "SELECT table_name FROM information_schema.tables",
        "SELECT t.oid, t.typtype AS kind FROM pg_catalog.pg_type AS t WHERE t.oid = $1",
        "WITH x AS (SELECT oid FROM pg_class), y (a) AS (SELECT 1 FROM x) TABLE y",
        "SELECT * FROM pg_class y JOIN (SELECT 1 FROM pg_proc) z ON true",
    ],
)  # fmt: skip
def test_what_does_not_use_data_is_not_kept(text: str) -> None:
    assert normalised(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1", "SELECT f($1)", "SELECT a AS t FROM t AS u",
        "SELECT oid AS t FROM pg_class, t", "SELECT a FROM t, pg_class", "SELECT a FROM pg_class c JOIN t ON true", "TABLE t",
        "VALUES ($1)", "WITH a AS (SELECT 1 FROM t) SELECT * FROM a", "CALL p($1)", "LOCK TABLE t IN SHARE MODE",
        "(SELECT a FROM t) UNION SELECT b FROM u", "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE",
        "DELETE FROM t", "UPDATE t SET a = $1", "SELECT a FROM (SELECT b AS a FROM t) x", "SELECT a FROM f($1) a JOIN t ON true",
    ],
)  # fmt: skip
def test_what_uses_data_is_kept(text: str) -> None:
    assert once(text) == text


def test_each_statement_of_a_text() -> None:
    assert [each.sql for each in normalised("BEGIN; SELECT 1; UPDATE t SET a = 'x;y'; COMMIT")] == [
        "SELECT 1", "UPDATE t SET a = $1",
    ]  # fmt: skip


def test_where_parameters_come_from() -> None:
    (found,) = normalised("SELECT a FROM t WHERE b = $2 AND c IN ($1, $3) AND d = 'x''y' AND e IN ('p', 'q')")
    assert found.sources == ((2,), (1, 3), (Constant("x'y"),), (Constant("p"), Constant("q")))


def test_where_placeholders_are_constants_they_get_a_type() -> None:
    assert once("SELECT concat($1, a), now() - interval $2 FROM t", bound=True) == (
        "SELECT concat(CAST($1 AS text), a), now() - CAST($2 AS interval) FROM t"
    )
    assert once("SELECT concat($1, a) FROM t") == "SELECT concat($1, a) FROM t"


@pytest.mark.parametrize("rows", [1, 3, 900])
def test_long_texts_become_the_same_as_short_ones(rows: int) -> None:
    insert = ", ".join(f"(${3 * n + 1}::VARCHAR, ${3 * n + 2}, ${3 * n + 3}, {n})" for n in range(rows))
    (found,) = normalised(f"INSERT INTO t (a, b, c) SELECT * FROM (VALUES {insert}) AS x")
    assert found.sql == "INSERT INTO t (a, b, c) SELECT * FROM (VALUES ($1::VARCHAR, $2, $3, 0)) AS x"
    assert [sorted(map(str, source)) for source in found.sources] == [
        sorted(map(str, range(n, 3 * rows + 1, 3))) for n in (1, 2, 3)
    ]
    (found,) = normalised(f"SELECT a FROM t WHERE a IN ({', '.join(f'${n + 1}::BIGINT' for n in range(rows))})")
    assert found.sql == "SELECT a FROM t WHERE a IN ($1::BIGINT)"
    assert [sorted(map(str, source)) for source in found.sources] == [sorted(map(str, range(1, rows + 1)))]


VALUES = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).map(lambda text: literal(SECRET + text)),
    st.integers(0, 10**25).map(str),
    st.integers(1, 4).map(lambda n: f"${n}"),
    st.sampled_from(
        ["NULL", "a", "DEFAULT", f"date '{SECRET}'", f"$${SECRET}$$", f"f('{SECRET}')", f"interval '{SECRET}' day"]
    ),
)
TEMPLATES = st.sampled_from(
    [
        "SELECT {} FROM t WHERE a = {} AND b IN ({}, {})", "INSERT INTO t (a, b) VALUES ({}, {}), ({}, {})",
        "UPDATE t SET a = {}, b = ARRAY[{}, {}] WHERE c = {}", "COPY (SELECT {}, {} FROM t WHERE a = {} OR {}) TO STDOUT",
        "SELECT concat({}, {}), {} FROM t GROUP BY {}",
    ]
)  # fmt: skip


@given(TEMPLATES, st.tuples(VALUES, VALUES, VALUES, VALUES))
def test_twice_is_once_and_no_constant_is_left(template: str, values: tuple[str, str, str, str]) -> None:
    text = once(template.format(*values))
    assert once(text) == text
    assert SECRET not in text


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    for each in normalised(f"SELECT {text}"):
        (again,) = normalised(each.sql) or [each]
        assert len(again.sources) <= len(each.sources)
