"""Every way to say where the database is, and no way to see its password."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from zdmigrate.errors import ConfigError
from zdmigrate.postgres.url import conninfo, display, redact


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:p%40ss@h/db?sslmode=verify-full&sslrootcert=/etc/ca.pem",
        "postgres://user@h:5433/db",
        "postgresql://u@h1:5432,h2:5433/db?target_session_attrs=read-write",
        "postgresql:///db?host=/var/run/postgresql",
        "postgresql://%2Fvar%2Frun%2Fpostgresql/db",
        "postgresql://?service=orders",
        "postgresql://u@[2001:db8::1]:5432/db",
        "postgresql://u@h/a%40b",
        "service=orders",
        "host=h dbname='my db' user=u password='it''s'".replace("''", r"\'"),
        "host=/tmp,other port=5432,5433",
        "",
    ],
)
def test_what_libpq_reads_goes_through_untouched(text: str) -> None:
    assert conninfo(text) == text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "postgresql+psycopg://u:p%40s%2Fs@h:5433/db?sslmode=require&application_name=a+b",
            {"user": "u", "password": "p@s/s", "host": "h", "port": "5433", "dbname": "db", "sslmode": "require"}
            | {"application_name": "a b"},
        ),
        ("postgresql+asyncpg://u@h/db", {"user": "u", "host": "h", "dbname": "db"}),
        ("postgresql+psycopg2:///db?host=/run/pg", {"host": "/run/pg", "dbname": "db"}),
        ("postgresql+psycopg://?service=orders", {"service": "orders"}),
        ("postgresql+psycopg://", {}),
        ("postgresql+psycopg:///db?host=a:1&host=b:2", {"host": "a,b", "port": "1,2", "dbname": "db"}),
        ("postgresql:///db?host=a:1&host=b:2", {"host": "a,b", "port": "1,2", "dbname": "db"}),
        ("postgresql:///db?host=a:1", {"host": "a", "port": "1", "dbname": "db"}),
        ("postgresql+psycopg://u@a:1,b:2/db", {"user": "u", "host": "a,b", "port": "1,2", "dbname": "db"}),
        # valid for SQLAlchemy; libpq would take "u" for the host and the password for port and database
        ("postgresql://u:p/w@h/db", {"user": "u", "password": "p/w", "host": "h", "dbname": "db"}),
        ("postgresql://u:12/w@h/db", {"user": "u", "password": "12/w", "host": "h", "dbname": "db"}),
    ],
)
def test_sqlalchemy_urls(url: str, expected: dict[str, str]) -> None:
    assert conninfo_to_dict(conninfo(url)) == expected


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:ge%heim@h:x/db",
        "postgresql+psycopg://u:geheim@h:port/db",
        "password=geheim heim",
        "host=h password=a geheim=b",
        "geheim",
        "mysql://u:geheim@h/db",
        "jdbc:postgresql://h/db?password=geheim",
        "postgresql+asyncpg://u:geheim@h/db?ssl=require",
    ],
)
def test_what_cannot_be_read_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        conninfo(url)
    assert "geheim" not in f"{caught.value.message} {caught.value.hint}"


def test_an_unknown_parameter_is_named() -> None:
    with pytest.raises(ConfigError, match="parameter 'sslmod' that libpq"):
        conninfo("postgresql://h/db?sslmod=require")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:geheim@h:5433/db?sslmode=require", "host=h port=5433 dbname=db user=u"),
        ("service=orders password=geheim", "service=orders"),
        ("host=/run/pg dbname='my db' sslpassword=geheim", "host=/run/pg dbname='my db'"),
        ("", "libpq's environment"),
        ("geheim", "an unreadable connection string"),
    ],
)
def test_display(text: str, shown: str) -> None:
    assert display(text) == shown


@pytest.mark.parametrize(
    ("text", "secret", "url"),
    [
        ("connecting to postgresql://u:geheim@h/db failed", "geheim", "postgresql://u:geheim@h/db"),
        ("FATAL: geheim", "geheim", "host=h password=geheim"),
        ("p@ss w/rd and p%40ss%20w%2Frd and p%40ss+w%2Frd", "rd", "postgresql://u:p%40ss%20w%2Frd@h/db"),
        (r"password='it\'s geheim' host=h", "geheim", r"host=h password='it\'s geheim'"),
        ("key geheim", "geheim", "host=h sslpassword=geheim"),
        ("other postgresql+psycopg://x:geheim@h/db here", "geheim", ""),
        ("DSN host=h password=geheim port=1", "geheim", ""),
        ("?user=a&password=geheim&x=1", "geheim", ""),
        ("raw ge%heim", "heim", "postgresql://u:ge%heim@h/db"),
    ],
)
def test_redact(text: str, secret: str, url: str) -> None:
    redacted = redact(text, url)
    assert secret not in redacted
    assert "***" in redacted


def test_redacting_keeps_what_is_not_secret() -> None:
    assert redact("database a: no a here", "host=h password=a") == "database ***: no *** here"
    assert redact("users.password_hash = lower(x)", "host=h") == "users.password_hash = lower(x)"
    assert redact("see https://example.org:80/x", "") == "see https://example.org:80/x"
