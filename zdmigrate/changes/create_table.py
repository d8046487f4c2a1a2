"""Create a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from zdmigrate import schema as catalog
from zdmigrate.changes import table_ddl
from zdmigrate.changes.base import Change, OneShot
from zdmigrate.errors import Drift, Unsafe
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import Gate, LockMode, Step, TableLock, Window
from zdmigrate.planning import probes
from zdmigrate.planning.draft import TableDraft, Unanswered
from zdmigrate.planning.parts import ChangePlan, Scope, Target, alter, item_name, on, transaction_step
from zdmigrate.sqltext import ident, literal, tokens

if TYPE_CHECKING:
    import sqlalchemy as sa


@dataclasses.dataclass(frozen=True, init=False)
class CreateTable(Change):
    """Create a table: ``CreateTable(Invoice.__table__)`` or ``CreateTable("invoices", sa.Column(…), …)``.

    With its indexes, constraints, comments and the enum types that it brings, as SQLAlchemy's ``create_all`` would make
    it; partitioned tables too. What names no schema is in `schema` (default ``public``), foreign keys and enum types
    included. Nobody uses the table yet, so all of it is there after `expand`, and later changes of the same migration
    may add to it.

    Locks: each foreign key takes SHARE ROW EXCLUSIVE on the table that it points to, in a transaction of its own. Undo:
    drops the table; refused without ``--allow-lossy`` where it has rows. Refused: inheritance, temporary tables,
    domains and sequences that SQLAlchemy would create beside it. Manual: CREATE TABLE.
    """

    table: table_ddl.TableDDL

    def __init__(
        self,
        table: sa.Table | str,
        *items: sa.Column[Any] | sa.Constraint | sa.Index,
        schema: str | None = None,
        comment: str | None = None,
    ) -> None:
        object.__setattr__(self, "table", table_ddl.of(table, items, schema, comment))

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.table.schema, self.table.name),)

    def describe(self) -> dict[str, Any]:
        return {"change": "CreateTable", **dataclasses.asdict(self.table)}

    def one_shot(self, scope: Scope) -> OneShot:
        table = self.table
        there = scope.any_table(table.schema, table.name)
        if there is not None:
            differing = sorted({*table.columns} ^ {*there.column_names})
            if differing:
                raise Drift(
                    f"{table.schema}.{table.name} exists, and differs in the columns {', '.join(differing)}",
                    hint="drop it, or bring it to what the migration says",
                )
            return OneShot(there=True)
        types = [e.create_if_missing for e in table.enums]
        keys = [text for key in table.foreign_keys for text in _statements(key)]
        return OneShot(*types, *table.statements, *keys, there=False)

    def plan(self, scope: Scope) -> ChangePlan:
        table = self.table
        self._refuse_taken(scope)
        missing = [e for e in table.enums if self._is_made(scope, e)]
        # Asked with every type that is missing now, whichever change of the migration brings it.
        made_by = (*(e.create for e in missing), *table.statements)
        made = scope.created(table.schema, table.name, made_by)
        draft = scope.draft.put(TableDraft(made, scope.position, made_by=made_by))
        for key in table.foreign_keys:
            draft.reserve(key.name)
        types = [e for e in missing if scope.draft.makes(f"type {e.schema}.{e.name}")]
        keys = [self._foreign_key(scope, made, key) for key in table.foreign_keys]
        targets = dict.fromkeys(key.target for key in table.foreign_keys)
        return ChangePlan(
            window=Window(old_until=Phase.CONTRACT, new_from=Phase.EXPAND),
            steps=(self._create(scope, made, types), *keys),
            reads=tuple(f"{home}.{name}" for home, name in targets if (home, name) != (table.schema, table.name)),
            hazards=tuple(self._kept(made, key) for key in table.foreign_keys if key.keeps and not _is_own(made, key)),
            gates=tuple(_published(made)),
        )

    def _refuse_taken(self, scope: Scope) -> None:
        schema_name, name = self.table.schema, self.table.name
        if scope.any_table(schema_name, name) is not None or scope.draft.find(schema_name, name) is not None:
            raise Unsafe(
                f"{schema_name}.{name} is there already",
                hint="choose another name; if it is the table that is meant, record the migration as adopted: "
                "zdmigrate bootstrap",
            )

    def _is_made(self, scope: Scope, enum: table_ddl.Enum) -> bool:
        """Whether an enum type is missing, and to be made.

        Raises:
            Unsafe: it has other labels, or is missing and not meant to be made.
            Unanswered: the server has not been asked yet.
        """
        facts = scope.type_facts(ident(enum.schema, enum.name))
        if facts is None:
            raise Unanswered(scope.draft.questions)
        shown = f"the type {enum.schema}.{enum.name}"
        if facts.canonical is None:
            if not enum.brought:
                raise Unsafe(f"{shown} does not exist", hint="create it before, or leave create_type=False out")
            return True
        if facts.labels != enum.labels:
            raise Unsafe(
                f"{shown} exists with the labels {', '.join(facts.labels) or '(none)'}, not {', '.join(enum.labels)}",
                hint="choose another name for the type, or add the labels before",
            )
        return False

    def _create(self, scope: Scope, made: catalog.Table, types: list[table_ddl.Enum]) -> Step:
        target = ident(made.schema, made.name)
        shown = literal(f"{made.schema}.{made.name}")
        rows = f"SELECT format('row %s of %s', ctid, {shown}) FROM {target} LIMIT 5"
        step = transaction_step(
            scope, Phase.EXPAND, f"create.{made.name}", f"create {made.name}",
            probe=probes.table_with(made.schema, made.name, tuple((c.name, c.type) for c in made.columns)),
            do=[*(e.create for e in types), *self.table.statements],
            undo=[f"DROP TABLE {target}", *(f"DROP TYPE {ident(e.schema, e.name)}" for e in types)],
            locks=(), undo_locks=on(made, LockMode.ACCESS_EXCLUSIVE),
        )  # fmt: skip
        return dataclasses.replace(step, makes_table=True, undo_loses=((Phase.NONE, rows),))

    def _foreign_key(self, scope: Scope, made: catalog.Table, key: table_ddl.ForeignKey) -> Step:
        self._refuse_unreferable(scope, key)

        def locks(mode: LockMode) -> tuple[TableLock, ...]:
            other = TableLock(schema=key.target[0], name=key.target[1], mode=mode)
            return on(made, mode) if _is_own(made, key) else (*on(made, mode), other)

        return transaction_step(
            scope, Phase.EXPAND, f"foreign_key.{key.name}", f"let {made.name} refer to {key.target[1]}",
            probe=probes.foreign_key(made, key.name, key.columns, key.target, key.referenced),
            do=_statements(key),
            undo=[alter(made, f"DROP CONSTRAINT {ident(key.name)}")],
            locks=locks(LockMode.SHARE_ROW_EXCLUSIVE), undo_locks=locks(LockMode.ACCESS_EXCLUSIVE),
        )  # fmt: skip

    def _kept(self, made: catalog.Table, key: table_ddl.ForeignKey) -> Hazard:
        target = ".".join(key.target)
        return Hazard(
            id="C15", phase=Phase.EXPAND,
            message=f"version N cannot delete rows of {target} that rows of N+1 in {made.schema}.{made.name} refer to, nor "
            "change the values that they refer to",
            remedy="give the foreign key ON DELETE CASCADE or SET NULL, or let N delete none",
        )  # fmt: skip

    def _refuse_unreferable(self, scope: Scope, key: table_ddl.ForeignKey) -> None:
        """A foreign key needs a table with a unique key on exactly these columns."""
        shown = f"{key.target[0]}.{key.target[1]}"
        drafted = scope.draft.find(*key.target)
        if drafted is not None:
            drafted.refuse_closed()
        why = scope.draft.gone(*key.target)
        table = drafted.live if drafted is not None else scope.any_table(*key.target)
        if table is None or why is not None:
            reason = f"was {why} by the same migration" if why else "does not exist"
            raise Unsafe(
                f"the foreign key {key.name} of {self.table.name} points to {shown}, which {reason}",
                hint="create the table that it points to first, or correct the name",
            )
        unique = [
            i.constraint or i.name
            for i in table.indexes
            if i.unique and i.valid and i.predicate is None and sorted(map(_column, i.keys)) == sorted(key.referenced)
        ]
        left = [name for name in unique if drafted is None or not drafted.drops_constraint(name)]
        if left:
            scope.draft.need(item_name(*key.target, left[0]), f"the foreign key {key.name} of {self.table.name}")
        else:
            raise Unsafe(
                f"the foreign key {key.name} of {self.table.name} needs a unique key on "
                f"({', '.join(key.referenced)}) of {shown}",
                hint="add one in a migration before this one",
            )


def _is_own(made: catalog.Table, key: table_ddl.ForeignKey) -> bool:
    return key.target == (made.schema, made.name)


def _column(key: str) -> str:
    """The column that is an index's key; "" for an expression."""
    pieces = list(tokens(key))
    return (pieces[0].name or "") if len(pieces) == 1 else ""


def _statements(key: table_ddl.ForeignKey) -> list[str]:
    return [key.add] if key.comment is None else [key.add, key.comment]


def _published(made: catalog.Table) -> Iterator[Gate]:
    """A subscriber that lacks the table stops at its first row (manual, section 29.9)."""
    if made.publications:
        detail = (
            f"{made.schema}.{made.name} will be published by {', '.join(made.publications)}: create it on the "
            f'subscribers first, then --override publication="done"'
        )
        yield Gate(name="publication", phase=Phase.EXPAND, detail=detail, exit_code=6)
