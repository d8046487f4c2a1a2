"""A view that stands in for a table under another name, as far as PostgreSQL lets it.

It is automatically updatable (manual, CREATE VIEW): reading with row locks, INSERT with its defaults, identity, RETURNING
and ON CONFLICT (columns), UPDATE, DELETE and from 17 on MERGE work through it. COPY … FROM needs an INSTEAD OF INSERT
trigger, and with one ON CONFLICT finds no index to decide by: a view can have one of the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from zdmigrate import schema
from zdmigrate.planning.parts import Scope
from zdmigrate.sqltext import ident, literal


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    """The view for `table`. `copies`: COPY … FROM works through it, ON CONFLICT does not."""

    table: schema.Table
    scope: Scope
    copies: bool

    def create(self, name: str, *, base: str) -> tuple[str, ...]:
        """The statements that make it under `name` while the table is called `base`, with the rights that the table gives."""
        table, view = self.table, ident(self.table.schema, name)
        columns = ", ".join(ident(column.name) for column in table.columns)
        statements = [
            f"CREATE VIEW {view} WITH (security_invoker = true) AS SELECT {columns} FROM {ident(table.schema, base)}"
        ]
        if table.owner != self.scope.snapshot.role:
            statements.append(f"ALTER VIEW {view} OWNER TO {ident(table.owner)}")
        statements += self._grants(view)
        if self.copies:
            statements += [*self._defaults(view), self.function(base), self._trigger(view)]
        return tuple(statements)

    def drop(self, name: str) -> tuple[str, ...]:
        """The statements that take it away."""
        view = f"DROP VIEW {ident(self.table.schema, name)}"
        return (view, f"DROP FUNCTION {self._function}()") if self.copies else (view,)

    def function(self, base: str) -> str:
        """What the INSTEAD OF INSERT trigger does while the table is called `base`.

        It runs with the rights of whoever inserts, like the view itself.
        """
        plain = [c.name for c in self.table.columns if not c.generated]
        given = self._insert(base, plain)
        numbered = [c.name for c in self.table.columns if c.identity]
        if numbered:
            missing = " AND ".join(f"NEW.{ident(name)} IS NULL" for name in numbered)
            left = self._insert(base, [name for name in plain if name not in numbered])
            given = f"IF {missing} THEN\n    {left}\n  ELSE\n    {given}\n  END IF;"
        # A BEFORE trigger of the table may have kept the row out.
        body = f"BEGIN\n  {given}\n  IF NOT FOUND THEN\n    RETURN NULL;\n  END IF;\n  RETURN NEW;\nEND"
        tag = "$zd$" if "$zd$" not in body else "$zd_copy$"
        return f"CREATE OR REPLACE FUNCTION {self._function}() RETURNS trigger LANGUAGE plpgsql AS {tag}\n{body}\n{tag}"

    def is_at(self, name: str, base: str, *, exact: bool = True) -> str:
        """A SQL condition: a view of that name stands on a table called `base`; `exact`: and it is as made here."""
        table = self.table
        view, below = (f"to_regclass({literal(ident(table.schema, each))})::oid" for each in (name, base))
        there = (
            "SELECT FROM pg_class v JOIN pg_rewrite w ON w.ev_class = v.oid "
            "JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid "
            f"AND d.refclassid = 'pg_class'::regclass AND d.refobjid = {below} WHERE v.oid = {view} AND v.relkind = 'v'"
        )
        if exact:
            columns = ", ".join(literal(column.name) for column in table.columns)
            there += (
                " AND ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = v.oid AND a.attnum > 0 "
                f"ORDER BY a.attnum) = ARRAY[{columns}]"
            )
        if exact and self.copies:
            there += (
                f" AND EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = v.oid AND t.tgname = {literal(self._label)})"
            )
        return f"EXISTS ({there})"

    def limits(self) -> str:
        """What does not work through it, for people."""
        old = self.scope.snapshot.major < 17
        if self.copies:
            found = ["ON CONFLICT", "MERGE" if old else "MERGE that inserts"]
        else:
            found = [
                "COPY … FROM",
                "ON CONFLICT ON CONSTRAINT (ON CONFLICT (columns) works)",
                *(["MERGE"] if old else []),
            ]
        found += [
            "COPY … TO (COPY (SELECT …) TO works)",
            "TRUNCATE",
            "ALTER TABLE",
            "a reference by a new foreign key",
            "WHERE CURRENT OF",
            "TABLESAMPLE",
        ]
        found += ["the columns ctid, xmin and tableoid", "pg_get_serial_sequence()"]
        partly = sorted({g.grantee or "PUBLIC" for c in self.table.columns for g in c.grants})
        if partly:
            found.append(f"statements of {', '.join(partly)} that rely on privileges on single columns")
        return ", ".join(found)

    @property
    def _label(self) -> str:
        return self.scope.name("copy", self.table.name, self.table.schema, self.table.name)

    @property
    def _function(self) -> str:
        return ident(self.scope.control, self._label)

    def _trigger(self, view: str) -> str:
        label = ident(self._label)
        return f"CREATE TRIGGER {label} INSTEAD OF INSERT ON {view} FOR EACH ROW EXECUTE FUNCTION {self._function}()"

    def _insert(self, base: str, names: list[str]) -> str:
        listed, values = (", ".join(f"{prefix}{ident(name)}" for name in names) for prefix in ("", "NEW."))
        given = f"({listed}) OVERRIDING SYSTEM VALUE VALUES ({values})" if names else "DEFAULT VALUES"
        made, into = (", ".join(f"{of}.{ident(c.name)}" for c in self.table.columns) for of in ("made", "NEW"))
        return f"INSERT INTO {ident(self.table.schema, base)} AS made {given} RETURNING {made} INTO {into};"

    def _defaults(self, view: str) -> Iterator[str]:
        """With a trigger the table's own defaults would come too late: a column that is left out is NULL in NEW."""
        for column in self.table.columns:
            if column.default is not None and not column.generated:
                yield f"ALTER VIEW {view} ALTER {ident(column.name)} SET DEFAULT {column.default}"

    def _grants(self, view: str) -> Iterator[str]:
        for grant in self.table.grants:
            yield _grant(view, grant)
        for column in self.table.columns:
            for grant in column.grants:
                yield _grant(view, grant, column.name)


def _grant(view: str, grant: schema.Grant, column: str | None = None) -> str:
    what = grant.privilege if column is None else f"{grant.privilege} ({ident(column)})"
    who = "PUBLIC" if grant.grantee is None else ident(grant.grantee)
    return f"GRANT {what} ON {view} TO {who}{' WITH GRANT OPTION' * grant.grantable}"
