"""A server that somebody else runs: only databases and roles of ours are made there, and all of them are dropped."""

from __future__ import annotations

import contextlib
import functools
import re
import secrets
from collections.abc import Callable, Iterator

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from zdmigrate.errors import ServerUnavailable, ZdmigrateError
from zdmigrate.postgres import roles, scratch, session
from zdmigrate.postgres import url as urls

PREFIX = "zd_check_"
_KEEPER = "zdmigrate check "
_MARK = "a scratch database of zdmigrate check; it is dropped when the check ends"
_OURS = re.compile(rf"{PREFIX}([0-9a-f]{{10}})_")
_NAME_BYTES = 63
_USE = 0x7A646D63
"""An advisory lock: shared by the runs that use the server, exclusive for one that drops roles. A role is the whole server's,
so a schema's own role may be another run's too."""


class GivenServer:
    """A server by its URL. Databases get a prefix (``zd_check_`` and random digits) that nobody else's has.

    A session stays open for as long as the server is used, and carries the digits in its application_name: what has the
    prefix of a session that is gone is of a run that was killed.
    """

    def __init__(self, keeper: session.Connection, conninfo: str, token: str) -> None:
        self._keeper = keeper
        self._conninfo = conninfo
        self._prefix = f"{PREFIX}{token}_"

    @classmethod
    @contextlib.contextmanager
    def open(cls, url: str, *, report: Callable[[str], None]) -> Iterator[GivenServer]:
        """The server, without what killed runs have left on it; at the end without ours.

        Raises:
            ServerUnavailable: no connection, or the role may not create databases.
        """
        conninfo, token = urls.conninfo(url), secrets.token_hex(5)
        with contextlib.closing(_keeper(conninfo, token)) as keeper:
            server = cls(keeper, conninfo, token)
            server._refuse_unless_allowed()
            keeper.execute("SELECT pg_advisory_lock_shared(%s)", (_USE,))
            for dead in _remove_dead(keeper):
                report(f"removed what a check that was killed had left on {server.label}: {PREFIX}{dead}_…")
            try:
                yield server
            finally:
                _remove(keeper, server._prefix)
                _remove_dead(keeper)

    @property
    def major(self) -> int:
        return self._keeper.info.server_version // 10000

    @functools.cached_property
    def label(self) -> str:
        """``PostgreSQL 17.5``."""
        return scratch.label(self._keeper)

    def create_database(self, name: str, *, template: str | None = None) -> None:
        """A database with the template's contents, owner and settings; without one, an empty database."""
        scratch.create(self._keeper, self._named(name), None if template is None else self._named(template))
        mark = sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(self._named(name)), sql.Literal(_MARK))
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):  # of a template that belongs to another role
            self._keeper.execute(mark)

    def drop_database(self, name: str) -> None:
        """Drop it where it exists, and whoever is connected to it."""
        scratch.drop(self._keeper, self._named(name))

    def conninfo(self, database: str, *, user: str | None = None) -> str:
        """A libpq connection string."""
        password = self._keeper.info.password or None
        who = {} if user is None else {"user": user, "password": password}
        return make_conninfo(self._conninfo, dbname=self._named(database), **who)

    def url(self, database: str, *, user: str | None = None, driver: str | None = None) -> str:
        """A URL as the project's own commands take it."""
        info = self._keeper.info
        known = make_conninfo("", host=info.host, port=info.port, user=info.user, password=info.password or None)
        shown = conninfo_to_dict(known) | conninfo_to_dict(self.conninfo(database, user=user))
        return scratch.url_of(make_conninfo("", **shown), driver=driver)

    def _named(self, name: str) -> str:
        return f"{self._prefix}{name}"[:_NAME_BYTES]

    def _refuse_unless_allowed(self) -> None:
        row = self._keeper.execute(
            "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        if row != (True,):
            user = self._keeper.info.user
            raise ServerUnavailable(
                f"the role {user} may not create databases there", hint=f'ALTER ROLE "{user}" CREATEDB'
            )


def _keeper(conninfo: str, token: str) -> session.Connection:
    try:
        keeper = session.connect(conninfo, purpose=f"check {token}")
    except psycopg.OperationalError as error:
        text = urls.redact(" ".join(str(error).split()), conninfo)
        raise ServerUnavailable(f"no connection to {urls.display(conninfo)}: {text}") from error
    except ZdmigrateError as error:
        raise ServerUnavailable(error.message, hint=error.hint) from error
    # Waiting for the project's own commands may take longer than a server lets sessions be idle.
    keeper.execute("SELECT set_config('idle_session_timeout', '0', false), set_config('statement_timeout', '0', false)")
    return keeper


def _dead(keeper: session.Connection) -> list[str]:
    """The digits of runs whose session is gone, and that have databases of this role, or roles, with our
    mark."""
    alive = keeper.execute("SELECT application_name FROM pg_stat_activity").fetchall()
    databases = keeper.execute(
        """
        SELECT datname FROM pg_database d WHERE pg_has_role(current_user, datdba, 'USAGE') AND starts_with(datname, %s)
        AND coalesce(shobj_description(d.oid, 'pg_database'), %s) = %s
        """,
        (PREFIX, _MARK, _MARK),  # killed before the comment: without one
    ).fetchall()
    named = {row[0] for row in databases} | roles.marks(keeper, PREFIX)
    found = {match[1] for name in named if (match := _OURS.match(name))}
    return sorted(token for token in found if (f"{_KEEPER}{token}",) not in alive)


def _remove_dead(keeper: session.Connection) -> list[str]:
    dead = _dead(keeper)
    for token in dead:
        _remove(keeper, f"{PREFIX}{token}_")
    return dead


def _remove(keeper: session.Connection, prefix: str) -> None:
    """Drop the databases with that prefix, then the roles that were made for them: where others are at work, the
    last of them does that."""
    rows = keeper.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (prefix,)).fetchall()
    with contextlib.ExitStack() as all_of_them:  # one that cannot be dropped does not keep the others
        for (name,) in rows:
            all_of_them.callback(scratch.drop, keeper, name)
    if keeper.execute("SELECT pg_try_advisory_lock(%s)", (_USE,)).fetchone() == (True,):
        try:
            for role in roles.made_for(keeper, prefix):
                roles.drop(keeper, role)
        finally:
            keeper.execute("SELECT pg_advisory_unlock(%s)", (_USE,))
