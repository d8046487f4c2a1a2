"""What can be prepared, can be prepared after it was normalised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from psycopg.pq import ExecStatus

from tests.support.servers import Database, connect
from zdmigrate.compat.normalising.normalise import normalised
from zdmigrate.postgres.servers import ScratchServer

SCHEMA = """
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE t (
    id bigint PRIMARY KEY, n integer, x numeric(10, 2), s text, v varchar(20), d date, ts timestamptz, i interval, j jsonb,
    a text[], b bit(8), m mood, u uuid, UNIQUE (s));
CREATE UNIQUE INDEX ON t (coalesce(v, ''));
CREATE UNIQUE INDEX ON t (n) WHERE s = 'open';
CREATE SEQUENCE seq;
"""


@pytest.fixture(scope="module")
def connection(pg: ScratchServer) -> Iterator[psycopg.Connection[Any]]:
    pg.create_database("normalise")
    with connect(Database(pg, "normalise")) as made:
        made.execute(SCHEMA)
        yield made
    pg.drop_database("normalise")


def refused(connection: psycopg.Connection[Any], statement: str) -> str | None:
    """Why the server does not prepare a statement."""
    result = connection.pgconn.prepare(b"", statement.encode())
    return None if result.status == ExecStatus.COMMAND_OK else result.error_message.decode()


TEXTS = st.sampled_from(["s", "v", "'one'", "E'a\\'b'", "$$c$$", "lower(s)", "concat('x', n)", "j->>'key'", "s || 'y'",
                         "to_char(ts, 'YYYY')", "coalesce(s, 'none')", "m::text", "format('%s', s)", "'p'\n'q'",
                         "CASE WHEN n > 100000 THEN 'big' ELSE 'small' END", "(j #>> '{a,b}')", "s COLLATE \"C\"",
                         "overlay(s placing 'a' from 1)", "substring(s from 'a.c')", "trim(both 'x' from s)",
                         "jsonb_build_object('k', n, 'l', s)::text", "string_agg", "current_date::text"])  # fmt: skip
NUMBERS = st.sampled_from(["n", "id", "1", "1234", "12345.678", "3000000000", "99999999999999999999", "0.5", "1e-5",
                           "length('abc')", "'12'::int", "int4 '7'", "extract('year' from ts)", "nextval('seq')",
                           "x'1F'::int", "CAST('5' AS bigint)", "x * 1.23456", "n % 7777", "array_length(a, 1)",
                           "date_part('dow', d)", "(j->'n')::int"])  # fmt: skip
TIMES = st.sampled_from(["ts", "d", "now()", "date '2026-01-01'", "timestamp '2026-01-01'", "timestamptz '2026-01-01'",
                         "now() - interval '1 day'", "now() - interval '1' day", "date_trunc('day', ts)",
                         "timestamp(3) with time zone '2026-01-01'", "ts AT TIME ZONE 'UTC'", "'2026-01-01'::date",
                         "now() - 3 * interval '1-2' year to month"])  # fmt: skip
CONDITIONS = st.one_of(
    st.tuples(TEXTS, TEXTS).map(lambda p: f"{p[0]} = {p[1]}"),
    TEXTS.map(lambda e: f"{e} LIKE 'a!%' ESCAPE '!'"),
    st.tuples(NUMBERS, NUMBERS).map(lambda p: f"{p[0]} > {p[1]}"),
    st.lists(NUMBERS, min_size=1, max_size=4).map(lambda e: f"n IN ({', '.join(e)})"),
    st.lists(TEXTS, min_size=1, max_size=4).map(lambda e: f"s IN ({', '.join(e)})"),
    st.tuples(TIMES, TIMES).map(lambda p: f"{p[0]} BETWEEN {p[1]} AND now()"),
    st.sampled_from(["m = 'happy'", "s = ANY(ARRAY['a', 'b'])", "a @> '{x}'", "j @> '{\"a\": 1}'",
                     "(s, v) IN (('a', 'b'), ('c', 'd'))",
                     "u = '00000000-0000-0000-0000-000000000000'", "b = B'10101010'", "i > '1 day'", "s ~ '^a' OR s ~* 'b'",
                     "'t'::regclass IS NOT NULL", "n = ANY('{1,2}')", "s IS DISTINCT FROM 'x'", "exists (SELECT 'a' FROM t)",
                     "s SIMILAR TO 'a|b'", "jsonb_path_exists(j, '$.a')", "ts > 'yesterday'", "s = $1 AND n = $2"]),
)  # fmt: skip
EXPRESSIONS = st.one_of(TEXTS, NUMBERS, TIMES)
STATEMENTS = st.one_of(
    st.tuples(EXPRESSIONS, EXPRESSIONS, CONDITIONS).map(lambda p: f"SELECT {p[0]}, {p[1]} AS k FROM t WHERE {p[2]}"),
    st.tuples(EXPRESSIONS, CONDITIONS).map(lambda p: f"SELECT {p[0]}, count(*) FROM t WHERE {p[1]} GROUP BY {p[0]}"),
    st.tuples(EXPRESSIONS, CONDITIONS).map(lambda p: f"SELECT DISTINCT ON ({p[0]}) n FROM t WHERE {p[1]} ORDER BY {p[0]}"),
    st.tuples(TEXTS, NUMBERS, CONDITIONS).map(lambda p: f"UPDATE t SET s = {p[0]}, x = {p[1]} WHERE {p[2]} RETURNING *"),
    st.tuples(NUMBERS, CONDITIONS).map(lambda p: f"DELETE FROM t WHERE id = {p[0]} OR {p[1]}"),
    st.lists(st.tuples(st.sampled_from(["1", "23456", "$1"]), st.sampled_from(["'a'", "$2", "NULL", "DEFAULT", "E'x'"])),
             min_size=1, max_size=3).map(lambda r: "INSERT INTO t (id, s) VALUES " + ", ".join(f"({a}, {b})" for a, b in r)),
    st.sampled_from([
        "INSERT INTO t (id, v) VALUES (1, 'a') ON CONFLICT (coalesce(v, '')) DO UPDATE SET s = 'x' WHERE t.s <> 'y'",
        "INSERT INTO t (id, n) VALUES (1, 2) ON CONFLICT (n) WHERE s = 'open' DO NOTHING",
        "INSERT INTO t (id, s, d, m) SELECT 1, 'a', '2026-01-01', 'sad'",
        "INSERT INTO t (id, d) VALUES (1, '2026-01-01'), (2, '2026-01-02'), (3, NULL)",
        "WITH w AS (SELECT 'a' AS k UNION ALL SELECT 'b') SELECT k FROM w WHERE k = 'a' LIMIT 1000",
        "VALUES ('a', 1), ('b', 2)", "TABLE t", "SELECT 'a' UNION SELECT 'b' ORDER BY 1",
        "SELECT sum(n) OVER (PARTITION BY s || 'a' ORDER BY ts RANGE '1 day' PRECEDING) FROM t",
        "SELECT percentile_cont(0.9999) WITHIN GROUP (ORDER BY n) FROM t", "SELECT * FROM t TABLESAMPLE bernoulli (12.3456)",
        "SELECT xmlelement(name a, 'b')::text", "SELECT * FROM generate_series(date '2026-01-01', '2026-01-09', '1 day') g",
        "MERGE INTO t USING (SELECT 1 AS k) q ON t.id = q.k WHEN MATCHED THEN UPDATE SET s = 'a'",
    ]),
)  # fmt: skip


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(STATEMENTS)
def test_what_can_be_prepared_can_be_prepared_afterwards(connection: psycopg.Connection[Any], statement: str) -> None:
    if refused(connection, statement) is not None:
        event("not valid in the first place")
        return
    (found,) = normalised(statement)
    assert refused(connection, found.sql) is None, found.sql
    (again,) = normalised(found.sql)
    assert again.sql == found.sql


def test_copy_can_be_executed_afterwards(connection: psycopg.Connection[Any]) -> None:
    for statement in (
        "COPY (SELECT s, 'x', date '2026-01-01' FROM t WHERE d > '2026-01-01' AND n IN (1, 2)) TO STDOUT (FORMAT csv, HEADER)",
        "COPY (SELECT concat('a', 'b') || 'c', now() - interval '1 day') TO STDOUT WITH (DELIMITER '|')",
    ):
        (found,) = normalised(statement)
        with connection.cursor() as cursor, cursor.copy(found.sql.encode()) as copy:
            list(copy)
