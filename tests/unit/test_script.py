"""SQL files are cut as psql cuts them."""

from __future__ import annotations

from pathlib import Path

import pytest

from zdmigrate.errors import UsageError
from zdmigrate.postgres import script
from zdmigrate.postgres.script import extensions_of, pieces, read, roles_of

FILE = r"""-- Dumped; from 17
\restrict token
SET statement_timeout = 0;
CREATE FUNCTION f() RETURNS int LANGUAGE sql
    BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT (2); END;
CREATE FUNCTION g() RETURNS void LANGUAGE plpgsql AS $body$
begin
COPY t FROM stdin;
\connect nowhere
end $body$;
COPY public.t (a, b) FROM stdin;
1	it's; \N
\connect nowhere	$$
\.

/* a; /* b; */ */ CREATE VIEW v AS SELECT ';' AS ";";
\connect shop
SELECT 1"""


def test_a_file_is_cut_at_semicolons_rows_and_lines_of_psql() -> None:
    found = [(piece.line, piece.text.split("\n")[0], piece.rows) for piece in pieces(FILE)]
    assert found == [
        (2, r"\restrict token", None),
        (3, "SET statement_timeout = 0;", None),
        (4, "CREATE FUNCTION f() RETURNS int LANGUAGE sql", None),
        (6, "CREATE FUNCTION g() RETURNS void LANGUAGE plpgsql AS $body$", None),
        (11, "COPY public.t (a, b) FROM stdin;", "1\tit's; \\N\n\\connect nowhere\t$$\n"),
        (16, """CREATE VIEW v AS SELECT ';' AS ";";""", None),
        (17, r"\connect shop", None),
        (18, "SELECT 1", None),
    ]


def test_rows_may_end_with_the_file() -> None:
    assert [piece.rows for piece in pieces("COPY t FROM STDIN WITH (FORMAT csv);\n1\n2")] == ["1\n2"]


@pytest.mark.parametrize("text", ["", "\n\n", "-- nothing", "/* nothing */", ";"])
def test_nothing_is_no_piece(text: str) -> None:
    assert list(pieces(text)) == []


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ('ALTER TABLE public.t OWNER TO "Shop";', {"Shop"}),
        ("GRANT SELECT (a), INSERT ON TABLE t TO Reader, \"B c\" WITH GRANT OPTION;", {"reader", "B c"}),
        ("REVOKE ALL ON SCHEMA public FROM PUBLIC;", set()),
        ("GRANT ALL ON SCHEMA public TO CURRENT_USER;", set()),
        ("GRANT readers, writers TO shop_app;", {"readers", "writers", "shop_app"}),
        ("CREATE POLICY p ON t FOR SELECT TO app, ops USING ((a = 'x TO y'));", {"app", "ops"}),
        ("ALTER POLICY p ON t RENAME TO q;", set()),
        ("ALTER DEFAULT PRIVILEGES FOR ROLE shop IN SCHEMA s GRANT ALL ON TABLES TO app;", {"shop", "app"}),
        ("ALTER DEFAULT PRIVILEGES FOR ROLE shop REVOKE ALL ON FUNCTIONS FROM PUBLIC;", {"shop"}),
        ("CREATE SCHEMA s AUTHORIZATION shop;", {"shop"}),
        ("ALTER TABLE a RENAME TO b;", set()),
        ("SELECT 'OWNER TO x';", set()),
    ],
)  # fmt: skip
def test_roles_that_a_statement_names(statement: str, expected: set[str]) -> None:
    (piece,) = pieces(statement)
    assert roles_of(piece.words) == expected


def test_extensions_that_a_script_creates() -> None:
    text = """CREATE EXTENSION IF NOT EXISTS "uuid-ossp" WITH SCHEMA public; COMMENT ON EXTENSION hstore IS 'x';
    create extension CITEXT; SELECT 'CREATE EXTENSION vector;';"""
    assert extensions_of(list(pieces(text))) == ["citext", "uuid-ossp"]


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [(b"PGDMP\x01\x0e", "own format", "pg_restore --file"), (b"\x1f\x8b\x08", "compressed", "gunzip")],
)
def test_other_formats_are_refused_by_name(tmp_path: Path, content: bytes, message: str, hint: str) -> None:
    path = tmp_path / "dump"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        read(path)
    assert hint in str(caught.value.hint)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"nowhere\.sql cannot be read: No such file"):
        read(Path("nowhere.sql"))


def test_bytes_that_are_not_utf8_survive(tmp_path: Path) -> None:
    path = tmp_path / "latin.sql"
    path.write_bytes(b"SELECT 'M\xfcller';")
    (piece,) = script.pieces(read(path))
    assert piece.text.encode("utf-8", errors="surrogateescape") == b"SELECT 'M\xfcller';"
