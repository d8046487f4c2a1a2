"""Where the database is: SQLAlchemy URLs and libpq strings, and how to show them without secrets.

What libpq can read is handed to it untouched, so `.pgpass`, services, several hosts and SSL parameters behave as
they do in psql (manual, section 34.1). What only SQLAlchemy can read (a driver in the scheme, ``host=`` given
twice, a password with a slash) is translated by SQLAlchemy itself. Nothing here connects, and no message repeats
what could be a piece of a password.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, quote_plus, unquote

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from zdmigrate.errors import ConfigError

HIDDEN = "***"
_SCHEME = re.compile(r"([A-Za-z][\w.-]*)(\+[\w.-]+)?://")
_HOST_AND_PORT = re.compile(r"([\w.-]+):(\d+)")
_SECRETS = frozenset({"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"})
_SHOWN = ("service", "host", "hostaddr", "port", "dbname", "user")


def conninfo(url: str) -> str:
    """`url` as a connection string for psycopg; empty means libpq's environment.

    Raises:
        ConfigError: it is neither, or for another database.
    """
    text = url.strip()
    match = _SCHEME.match(text)
    if match is None:
        return text if _parsed(text) is not None else _refuse("the connection string")
    if match[1].lower() not in ("postgresql", "postgres"):
        raise ConfigError(f"a {match[1]}:// URL is not for PostgreSQL", hint="write postgresql://user@host/database")
    plain = f"postgresql://{text[match.end() :]}"
    if match[2] is None:
        return text if _libpq_reads(plain) else _translated(plain) or _refuse("the URL")
    return _translated(plain) or (plain if _libpq_reads(plain) else _refuse("the URL"))


def display(conninfo: str) -> str:
    """``host=db port=5432 dbname=shop user=app``: enough to recognise the database, nothing secret."""
    parsed = _parsed(conninfo)
    if parsed is None:
        return "an unreadable connection string"
    shown = {key: parsed[key] for key in _SHOWN if parsed.get(key)}
    return make_conninfo("", **shown) or "libpq's environment"


def redact(text: str, conninfo: str) -> str:
    """`text` without the secrets of `conninfo`, and without anything that looks like one.

    `conninfo` may also be a URL that nothing can read.
    """
    for secret in _secrets(conninfo):
        text = _without(text, secret)
    text = re.sub(r"(\w://[^\s:/@]*:)[^\s@]+(?=@)", rf"\g<1>{HIDDEN}", text)
    return re.sub(r"(?i)\b(\w*password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&'\"]+)", rf"\g<1>{HIDDEN}", text)


def _refuse(what: str) -> str:
    raise ConfigError(
        f"{what} for the database cannot be read (not repeated here: it may hold a password)",
        hint="write postgresql://user@host:5432/database?sslmode=require, with special characters of the user and "
        "the password percent-encoded (@ is %40, / is %2F), or host=… dbname=… user=…",
    )


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return dict(conninfo_to_dict(text))
    except psycopg.Error:
        return None


def _libpq_reads(plain: str) -> bool:
    """Whether libpq reads this URL, and as its author meant it.

    libpq takes ``u:p/w@h/db`` for host u, port p; the last of several ``host=`` wins, with ``name:port`` as a name.
    """
    parsed = _parsed(plain)
    if parsed is None:
        return False
    authority, _, path = plain.removeprefix("postgresql://").partition("?")[0].partition("/")
    query = plain.partition("?")[2]
    return (
        all(port == "" or port.isdecimal() for port in str(parsed.get("port", "")).split(","))
        and ("@" in authority or "@" not in path)
        and len(re.findall(r"(?:^|&)host=", query)) < 2
        and not any(_HOST_AND_PORT.fullmatch(host) for host in str(parsed.get("host", "")).split(","))
    )


def _translated(plain: str) -> str | None:
    """The connection string that SQLAlchemy's psycopg dialect makes of a URL; None where it cannot."""
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        dialect: Any = PGDialect_psycopg
        _, found = dialect().create_connect_args(make_url(plain))
    except (ArgumentError, ValueError):
        return None
    options: dict[str, Any] = dict(found)
    if one := _HOST_AND_PORT.fullmatch(options.get("host") or ""):  # SQLAlchemy 2.0.0 leaves a single one alone
        options |= {"host": one[1], "port": one[2]}
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    for key in options:
        if key not in known:
            raise ConfigError(
                f"the database URL has a parameter {key!r} that libpq does not know",
                hint="remove it; TLS is configured with sslmode=, sslrootcert=, sslcert= and sslkey=",
            )
    return make_conninfo("", **options)


def _secrets(conninfo: str) -> list[str]:
    """The secret values, in every spelling in which they may turn up, longest first."""
    parsed = _parsed(conninfo) or {}
    values = [str(value) for key, value in parsed.items() if key in _SECRETS and value]
    if raw := re.match(r"[\w+.-]+://[^:/?@]*:(.*?)@", conninfo):
        values += [raw[1], unquote(raw[1])]  # libpq does not read a URL that names a driver
    spellings = {spelling for value in values for spelling in _spellings(value) if spelling}
    return sorted(spellings, key=len, reverse=True)


def _spellings(value: str) -> tuple[str, ...]:
    in_conninfo = value.replace("\\", "\\\\").replace("'", "\\'")
    return value, quote(value, safe=""), quote(value), quote_plus(value), in_conninfo, repr(value)[1:-1]


def _without(text: str, secret: str) -> str:
    """A short password is only replaced as a word of its own: else "a" would blacken half of every sentence."""
    if len(secret) > 3:
        return text.replace(secret, HIDDEN)
    return re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
