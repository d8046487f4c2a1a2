"""Who may use a table and its columns, and the statements that withhold some of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from zdmigrate.postgres.session import Cursor
from zdmigrate.sqltext import ident

COLUMN_RIGHTS = ("SELECT", "INSERT", "UPDATE")
TABLE_RIGHTS = (*COLUMN_RIGHTS, "DELETE", "TRUNCATE")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """One entry of an access control list. `role` is an oid, 0 for PUBLIC; `column` is 0 for the table as a whole."""

    role: int
    name: str
    grantor: int
    grantor_name: str
    privilege: str
    grantable: bool
    column: int = 0

    @property
    def grantee(self) -> str:
        """As SQL."""
        return "PUBLIC" if self.role == 0 else ident(self.name)

    @property
    def option(self) -> str:
        """What GRANT ends with."""
        return " WITH GRANT OPTION" if self.grantable else ""

    def to_json(self, beside: Iterable[int]) -> dict[str, Any]:
        """What ``give_back`` of the control schema reads; `beside` are columns that the role has the same right on meanwhile."""
        return {
            "role": self.role,
            "privilege": self.privilege,
            "option": self.option,
            "column": self.column,
            "beside": list(beside),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A table or view, its columns by number (those of the system, too), and who may what."""

    oid: int
    schema: str
    name: str
    owner: int
    owner_name: str
    ours: bool
    columns: dict[int, str]
    rights: tuple[Right, ...]

    @property
    def shown(self) -> str:
        """``schema.name``, for people."""
        return f"{self.schema}.{self.name}"


_RELATION = """
SELECT c.oid::bigint, c.relowner::bigint, pg_get_userbyid(c.relowner)::text, pg_has_role(c.relowner, 'USAGE')
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"""

_COLUMNS = """
SELECT attnum, attname::text FROM pg_attribute WHERE attrelid = %s::oid AND NOT attisdropped ORDER BY attnum"""

_RIGHTS = """
SELECT x.grantee::bigint, coalesce(grantee.rolname, 'PUBLIC')::text, x.grantor::bigint, pg_get_userbyid(x.grantor)::text,
       x.privilege_type, x.is_grantable, one.attnum
FROM (
    SELECT 0 AS attnum, coalesce(relacl, acldefault('r', relowner)) AS acl FROM pg_class WHERE oid = %(relation)s::oid
    UNION ALL
    SELECT attnum, attacl FROM pg_attribute WHERE attrelid = %(relation)s::oid AND NOT attisdropped
) AS one, aclexplode(one.acl) AS x LEFT JOIN pg_roles AS grantee ON grantee.oid = x.grantee
ORDER BY one.attnum, 2, 5"""


def read(cursor: Cursor, schema: str, name: str) -> Access | None:
    """A table's or view's; None where there is none of that name."""
    row = cursor.execute(_RELATION, (schema, name)).fetchone()
    if row is None:
        return None
    oid, owner, owner_name, ours = row
    columns: dict[int, str] = dict(cursor.execute(_COLUMNS, (oid,)).fetchall())
    fields = ("role", "name", "grantor", "grantor_name", "privilege", "grantable", "column")
    rights = cursor.execute(_RIGHTS, {"relation": oid}).fetchall()
    return Access(
        oid=oid, schema=schema, name=name, owner=owner, owner_name=owner_name, ours=ours, columns=columns,
        rights=tuple(Right(**dict(zip(fields, each, strict=True))) for each in rights),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Withheld:
    """What is taken from everybody but the owner: the columns, or with none of them the whole table. Pure.

    A right on the table covers every column, so it is replaced by rights on all the others. They are lent without the option to
    grant them: what is passed on could not be taken back. Rights to DELETE, which no column has, stay where only columns are
    withheld.
    """

    access: Access
    columns: frozenset[int]
    owner_too: bool = False

    @property
    def foreign(self) -> list[Right]:
        """Rights that only somebody else could take away; and those that hang on them."""
        return [right for right in self.access.rights if self._concerns(right) and right.grantor != self.access.owner]

    @property
    def of_table(self) -> list[Right]:
        """Rights on the table that are revoked."""
        return [right for right in self._taken() if right.column == 0]

    @property
    def of_columns(self) -> list[Right]:
        """Rights on columns that are revoked, or go with those on the table."""
        pairs = {(right.role, right.privilege) for right in self.of_table}
        return [
            right
            for right in self._taken()
            if right.column
            and ((right.role, right.privilege) in pairs or not self.columns or right.column in self.columns)
        ]

    @property
    def names(self) -> set[str]:
        """From whom."""
        return {right.name for right in (*self.of_table, *self.of_columns)}

    def statements(self) -> Iterator[str]:
        """REVOKE, and GRANT of what stays."""
        table = ident(self.access.schema, self.access.name)
        for right in self.of_table:
            yield f"REVOKE {right.privilege} ON TABLE {table} FROM {right.grantee}"
            left = ", ".join(ident(self.access.columns[column]) for column in self._lent(right))
            if left:
                yield f"GRANT {right.privilege} ({left}) ON TABLE {table} TO {right.grantee}"
        for right in self.of_columns:
            if not self._goes_with_table(right):
                what = f"{right.privilege} ({ident(self.access.columns[right.column])})"
                yield f"REVOKE {what} ON TABLE {table} FROM {right.grantee}"

    def to_json(self) -> dict[str, Any]:
        """What ``give_back`` of the control schema reads."""
        return {
            "relation": self.access.oid,
            "table": [right.to_json(self._lent(right)) for right in self.of_table],
            "columns": [right.to_json(self._kept(right)) for right in self.of_columns],
        }

    def _goes_with_table(self, right: Right) -> bool:
        return any((right.role, right.privilege) == (other.role, other.privilege) for other in self.of_table)

    def _kept(self, right: Right) -> list[int]:
        """The columns on which the role has the same right of its own, and keeps it."""
        if self._goes_with_table(right):
            return []
        taken = self.of_columns
        return [
            other.column
            for other in self.access.rights
            if other.column and (other.role, other.privilege) == (right.role, right.privilege) and other not in taken
        ]

    def _concerns(self, right: Right) -> bool:
        return right.privilege in (COLUMN_RIGHTS if self.columns else TABLE_RIGHTS)

    def _taken(self) -> list[Right]:
        owner = self.access.owner
        return [r for r in self.access.rights if self._concerns(r) and (self.owner_too or r.role != owner)]

    def _lent(self, right: Right) -> list[int]:
        """The other columns, which a right on the table covers, too; ``ctid`` and ``xmin`` can be read."""
        if right.privilege not in COLUMN_RIGHTS or not self.columns:
            return []
        return [
            number
            for number in self.access.columns
            if number not in self.columns and (number > 0 or right.privilege == "SELECT")
        ]


_SPARED = """
SELECT r.rolname || CASE WHEN r.rolsuper THEN ' (superuser)' ELSE '' END FROM pg_roles AS r
WHERE r.rolcanlogin AND ({})
ORDER BY EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.usesysid = r.oid) DESC, 1"""


def spared(cursor: Cursor, withheld: Sequence[Withheld]) -> list[str]:
    """Roles that can log in and may use it all the same, those that are connected first."""
    tests = [
        f"has_column_privilege(r.oid, {each.access.oid}, {column}::smallint, 'SELECT, INSERT, UPDATE')"
        for each in withheld
        for column in sorted(each.columns)
    ]
    tests += [
        f"has_any_column_privilege(r.oid, {each.access.oid}, 'SELECT, INSERT, UPDATE')"
        for each in withheld
        if not each.columns
    ]
    return [name for (name,) in cursor.execute(_SPARED.format(" OR ".join(tests)).encode()).fetchall()]


_OWNERS = """
SELECT 'foreign key ' || quote_ident(conname) FROM pg_constraint
WHERE contype = 'f' AND ((conrelid = %(relation)s::oid AND (conkey && %(columns)s::smallint[] OR %(columns)s = '{}'))
                         OR (confrelid = %(relation)s::oid AND (confkey && %(columns)s::smallint[] OR %(columns)s = '{}')))
UNION
SELECT 'view ' || r.ev_class::regclass FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = %(relation)s::oid
  AND r.ev_class <> %(relation)s::oid AND (d.refobjsubid = ANY (%(columns)s::smallint[]) OR %(columns)s = '{}')
ORDER BY 1"""


def used_as_owner(cursor: Cursor, withheld: Withheld) -> list[str]:
    """What uses the owner's rights on what is withheld, whoever the client is: foreign keys, views."""
    given = {"relation": withheld.access.oid, "columns": sorted(withheld.columns)}
    return [what for (what,) in cursor.execute(_OWNERS, given).fetchall()]
