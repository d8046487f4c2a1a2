"""Who migrates and who is the application on a scratch database: ordinary roles, as in production.

A superuser sees every row and may do everything, so what is proven with one is not proven.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.postgres import roles

Connection = psycopg.Connection[Any]

SUPERUSER = "zdmigrate_scratch"
"""The superuser of servers of our own. Nobody has such a role, so all that a schema names can be made as ordinary ones."""

_PUBLIC = "PUBLIC"
_NAME_BYTES = 63
# What belongs to an extension stays its own; what the server made at initdb is no user's.
_USER_OBJECTS = """
    NOT starts_with(n.nspname, 'pg_') AND n.nspname <> 'information_schema' AND n.nspname <> %(control)s
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = {class}::regclass AND e.objid = o.oid
                    AND e.deptype = 'e')
"""
_TABLES = f"""
    FROM pg_catalog.pg_class o JOIN pg_catalog.pg_namespace n ON n.oid = o.relnamespace
    WHERE o.relkind IN ('r', 'p', 'v', 'm', 'f') AND {_USER_OBJECTS.format(**{"class": "'pg_class'"})}
"""


def migrating_role(connection: Connection) -> str:
    """Who migrates this database: its owner."""
    return str(_value(connection, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"))


def hand_over(connection: Connection) -> str:
    """Give the database, and what a superuser made in it, to an ordinary role; returns who migrates from here on.

    That is the schema's own owner where it has one. Where it has several, it is a new role that is a member of them all.
    On a connection that is no superuser's, it is the role of the connection, which owns everything anyway.
    """
    if not _value(connection, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        return migrating_role(connection)
    owners = _owners(connection)
    if len(owners) == 1 and _may_be_changed(connection, owners[0]):
        owner = owners[0]
        roles.make_ordinary(connection, owner)
    else:
        owner = _made(connection, _named_after(connection, "owner"))
        for each in owners:
            connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(each), sql.Identifier(owner)))
    who = sql.Identifier(owner)
    database = sql.Identifier(connection.info.dbname)
    connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, who))
    for kind, identity in _of_superusers(connection):
        command = sql.SQL("ALTER {} {} OWNER TO {}")
        connection.execute(command.format(sql.SQL(kind), sql.SQL(identity), who))
    return owner


def application_role(connection: Connection, name: str | None = None, *, control: str = "zdmigrate") -> str:
    """The role that is the application; `connection` is the superuser's, to the starting schema.

    Where the schema has grants, the role that has them, exactly as they are; without `name` it is the only one that has
    any. Where the schema has none, an ordinary role that may read and write everything outside of the control schema
    (`control`), and what the migrating role will make.

    Raises:
        UsageError: the schema has grants, but none for `name`; or for several roles, and none was named.
        Unsafe: the server is somebody else's, and what the role is there cannot be used.
    """
    grantees = _grantees(connection, control)
    if name is not None and roles.exists(connection, name) and _may_touch_tables(connection, name, control):
        return _usable(connection, name)
    if not grantees:
        role = _made(connection, name or _named_after(connection, "app"))
        _grant_everything(connection, role, control)
        return role
    others = sorted(grantees - {_PUBLIC})
    if _PUBLIC in grantees and (name is not None or not others):
        return _made(connection, name or _named_after(connection, "app"))
    if name is None and len(others) == 1:
        return _usable(connection, others[0])
    listed = ", ".join(others)
    if name is None:
        raise UsageError(
            f"which role is the application's? These have grants: {listed}", hint=f"--app-role {others[0]}"
        )
    raise UsageError(
        f"the role {name} has no rights on any table of the starting schema; these have some: {listed}",
        hint=f"--app-role {others[0]}",
    )


def _value(connection: Connection, query: str, **values: Any) -> Any:
    row = connection.execute(query.encode(), values).fetchone()
    return None if row is None else row[0]


def _column(connection: Connection, query: str, **values: Any) -> list[str]:
    return [row[0] for row in connection.execute(query.encode(), values).fetchall()]


def _named_after(connection: Connection, what: str) -> str:
    """Databases have names of their own on a server that others use too, so their roles have."""
    return f"{connection.info.dbname[: _NAME_BYTES - len(what) - 1]}_{what}"


def _may_be_changed(connection: Connection, name: str) -> bool:
    return connection.info.user == SUPERUSER or roles.is_ours(connection, name)


def _made(connection: Connection, name: str) -> str:
    if not roles.exists(connection, name):
        roles.make(connection, name)
        return name
    return _usable(connection, name)


def _usable(connection: Connection, name: str) -> str:
    """A role that is there, made ordinary if it is ours.

    Raises:
        Unsafe: it is not ours, and is a superuser, or cannot log in as we would.
    """
    if _may_be_changed(connection, name):
        roles.make_ordinary(connection, name)
        return name
    if _value(connection, "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = %(name)s", name=name):
        raise Unsafe(
            f"on this server {name} is a superuser or passes over row security, so nothing can be proven with it",
            hint="let the check make its own server: --server container, local or embedded",
        )
    where = make_conninfo(connection.info.dsn, user=name, password=connection.info.password or None)
    try:
        psycopg.connect(where).close()
    except psycopg.OperationalError as error:
        raise Unsafe(
            f"the role {name} is there already, and cannot log in with the password of {connection.info.user}",
            hint="let the check make its own server: --server container, local or embedded",
        ) from error
    return name


def _owners(connection: Connection) -> list[str]:
    """The ordinary roles that own tables or schemas, those with the most tables first."""
    return _column(
        connection,
        f"""
        SELECT r.rolname FROM (
            SELECT o.relowner AS owner {_TABLES}
            UNION ALL SELECT o.nspowner FROM pg_catalog.pg_namespace o WHERE NOT starts_with(o.nspname, 'pg_')
        ) found JOIN pg_catalog.pg_roles r ON r.oid = found.owner
        WHERE NOT r.rolsuper AND NOT starts_with(r.rolname, 'pg_') GROUP BY 1 ORDER BY count(*) DESC, 1
        """,
        control="",
    )


_FREE = """o.relkind <> 'S' OR NOT EXISTS (
    SELECT FROM pg_depend s WHERE s.classid = 'pg_class'::regclass AND s.objid = o.oid AND s.deptype IN ('a', 'i')
    AND s.refclassid = 'pg_class'::regclass)"""
"""A column's sequence follows its table."""
_STANDALONE = """o.typtype IN ('e', 'd', 'r') OR (
    o.typtype = 'c' AND EXISTS (SELECT FROM pg_class c WHERE c.oid = o.typrelid AND c.relkind = 'c'))"""
"""Types of tables, arrays and multiranges follow what they are of."""
_OWNED = (
    ("pg_class", "relowner", "relnamespace", f"o.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND ({_FREE})"),
    ("pg_proc", "proowner", "pronamespace", "true"),
    ("pg_type", "typowner", "typnamespace", _STANDALONE),
    ("pg_statistic_ext", "stxowner", "stxnamespace", "true"),
    ("pg_collation", "collowner", "collnamespace", "true"),
    ("pg_ts_config", "cfgowner", "cfgnamespace", "true"),
    ("pg_ts_dict", "dictowner", "dictnamespace", "true"),
)


def _of_superusers(connection: Connection) -> list[tuple[str, str]]:
    """(kind, name) of the objects that a superuser owns, as ALTER wants them. Extensions stay theirs."""
    found: list[tuple[str, str]] = connection.execute(
        b"SELECT 'SCHEMA', quote_ident(nspname) FROM pg_namespace o JOIN pg_roles r ON r.oid = nspowner "
        b"WHERE r.rolsuper AND NOT starts_with(nspname, 'pg_') AND nspname <> 'information_schema' AND NOT EXISTS "
        b"(SELECT FROM pg_depend e WHERE e.classid = 'pg_namespace'::regclass AND e.objid = o.oid AND e.deptype = 'e')"
    ).fetchall()
    for catalog, owner, namespace, condition in _OWNED:
        query = f"""
            SELECT CASE i.type WHEN 'statistics object' THEN 'statistics' ELSE i.type END, i.identity
            FROM {catalog} o JOIN pg_namespace n ON n.oid = o.{namespace} JOIN pg_roles r ON r.oid = o.{owner},
            pg_identify_object('{catalog}'::regclass, o.oid, 0) i
            WHERE r.rolsuper AND ({condition}) AND {_USER_OBJECTS.format(**{"class": f"'{catalog}'"})}
        """
        found += connection.execute(query.encode(), {"control": ""}).fetchall()
    return found


def _grantees(connection: Connection, control: str) -> set[str]:
    """Who has rights on tables, views or columns beyond their owners; PUBLIC for everybody."""
    query = f"""
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN '{_PUBLIC}' ELSE pg_get_userbyid(a.grantee)::text END
        FROM (
            SELECT o.relowner AS owner, o.relacl AS acl {_TABLES} AND o.relacl IS NOT NULL
            UNION ALL SELECT t.owner, c.attacl FROM (SELECT o.oid, o.relowner AS owner {_TABLES}) t
            JOIN pg_catalog.pg_attribute c ON c.attrelid = t.oid AND c.attacl IS NOT NULL
        ) o, aclexplode(o.acl) a
        WHERE a.grantee <> o.owner AND (a.grantee = 0 OR EXISTS
            (SELECT FROM pg_roles r WHERE r.oid = a.grantee AND NOT r.rolsuper))
    """
    return set(_column(connection, query, control=control))


def _may_touch_tables(connection: Connection, name: str, control: str) -> bool:
    query = f"""
        SELECT EXISTS (SELECT {_TABLES} AND (has_table_privilege(%(name)s, o.oid, 'SELECT, INSERT, UPDATE, DELETE')
            OR has_any_column_privilege(%(name)s, o.oid, 'SELECT, INSERT, UPDATE')))
    """
    return bool(_value(connection, query, name=name, control=control))


def _grant_everything(connection: Connection, role: str, control: str) -> None:
    who = sql.Identifier(role)
    schemas = _column(
        connection,
        "SELECT nspname FROM pg_namespace WHERE NOT starts_with(nspname, 'pg_') "
        "AND nspname NOT IN ('information_schema', %(control)s)",
        control=control,
    )
    for schema in schemas:
        for given in (
            "USAGE ON SCHEMA {}", "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {}",
            "ALL ON ALL SEQUENCES IN SCHEMA {}", "EXECUTE ON ALL ROUTINES IN SCHEMA {}",
        ):  # fmt: skip
            command = sql.SQL("GRANT ") + sql.SQL(given).format(sql.Identifier(schema)) + sql.SQL(" TO {}").format(who)
            connection.execute(command)
    later = sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} GRANT ").format(sql.Identifier(migrating_role(connection)))
    for given in (
        "USAGE ON SCHEMAS", "SELECT, INSERT, UPDATE, DELETE ON TABLES", "ALL ON SEQUENCES", "EXECUTE ON ROUTINES",
        "USAGE ON TYPES",
    ):  # fmt: skip
        connection.execute(later + sql.SQL(given) + sql.SQL(" TO {}").format(who))
