"""Set what identifies a row in logical replication."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

from zdmigrate import schema as catalog
from zdmigrate.changes.base import Change, OneShot, require_name
from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import Gate, LockMode, Step, TableLock, Window
from zdmigrate.planning import indexes, probes, publications
from zdmigrate.planning.parts import ChangePlan, Scope, Target, item_name, transaction_step
from zdmigrate.sqltext import ident, tokens

_LETTERS = {"default": "d", "full": "f", "nothing": "n"}
_WORDS = {letter: word.upper() for word, letter in _LETTERS.items()}

_Identity = tuple[str, str | None]
"""pg_class.relreplident, and the index where it is i."""


@dataclasses.dataclass(frozen=True, init=False)
class SetReplicaIdentity(Change):
    """Set the replica identity: ``SetReplicaIdentity("users", "full")``, ``SetReplicaIdentity("users", index="users_key")``.

    It says which columns of the old row UPDATE and DELETE write for logical decoding. Done in `expand`, on a partitioned
    table for each partition too, because they do not inherit it.

    Locks: ACCESS EXCLUSIVE, catalog only. Undo: what was before. Refused: an index that is not unique, immediate, whole
    and over NOT NULL columns. Gate `publication` while a publication could not send updates any more. Manual: ALTER
    TABLE, REPLICA IDENTITY.
    """

    table: str
    identity: str | None
    index: str | None
    schema: str

    def __init__(
        self,
        table: str,
        identity: Literal["default", "full", "nothing"] | None = None,
        *,
        index: str | None = None,
        schema: str = "public",
    ) -> None:
        if (identity is None) is (index is None):
            raise UsageError('SetReplicaIdentity: give either "default", "full" or "nothing", or index=')
        if identity is not None and identity not in _LETTERS:
            raise UsageError(f'SetReplicaIdentity: it must be "default", "full" or "nothing", got {identity!r}')
        for field, value in (
            ("table", require_name(table, "SetReplicaIdentity: table")),
            ("identity", identity),
            ("index", None if index is None else require_name(index, "SetReplicaIdentity: index")),
            ("schema", require_name(schema, "SetReplicaIdentity: schema")),
        ):
            object.__setattr__(self, field, value)

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, item="replica identity"),)

    def describe(self) -> dict[str, Any]:
        return {"change": "SetReplicaIdentity", **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        table = scope.live_table(self.schema, self.table)
        self._refuse(table)
        differing = [at for at, before, after in self._each(table) if before != after]
        if not differing:
            return OneShot(there=True)
        wanted = {at: after for at, _, after in self._each(table)}
        return OneShot(*(_set(at, wanted[at]) for at in differing), there=False)

    def plan(self, scope: Scope) -> ChangePlan:
        draft = scope.table(self.schema, self.table)
        table = draft.live
        self._refuse(table)
        scope.draft.claim(f"the replica identity of {draft.shown}", f"set by change {scope.position + 1}")
        if self.index is not None:
            scope.draft.claim(
                indexes.claim(self.schema, self.index), f"the replica identity by change {scope.position + 1}"
            )
        steps = [_step(scope, *each) for each in self._each(table) if each[1] != each[2]]
        if not steps:
            raise Unsafe(
                f"{draft.shown} has this replica identity already",
                hint="leave it out, or record it: zdmigrate bootstrap",
            )
        return ChangePlan(
            window=Window(old_until=Phase.CONTRACT, new_from=Phase.NONE),
            steps=tuple(steps),
            objects=() if self.index is None else (item_name(self.schema, self.table, self.index),),
            hazards=(self._downstream(),),
            gates=tuple(self._gates(scope, table)),
        )

    def _each(self, table: catalog.Table) -> Iterator[tuple[indexes.Relation, _Identity, _Identity]]:
        """The table and its partitions: what their identity is, and what it will be."""
        names = {}
        if self.index is not None:
            names = indexes.of(table, self._index(table, self.index)).names(table)
        now = next((i.name for i in table.indexes if i.replica_identity), None)
        before: dict[indexes.Relation, _Identity] = {(table.schema, table.name): (table.replica_identity, now)}
        before |= {(p.schema, p.name): (p.replica_identity, p.replica_index) for p in table.partitions}
        for at, identity in before.items():
            yield at, identity, ("i", names[at]) if self.identity is None else (_LETTERS[self.identity], None)

    def _index(self, table: catalog.Table, name: str) -> catalog.Index:
        index = table.index(name)
        if index is None:
            known = ", ".join(i.name for i in table.indexes) or "none"
            raise Unsafe(
                f"{self.schema}.{self.table} has no index {name!r}",
                hint=f"its indexes are: {known}; one that is to be created needs a migration before this one",
            )
        return index

    def _refuse(self, table: catalog.Table) -> None:
        if self.index is None:
            return
        index = self._index(table, self.index)
        plain = [_column(table, key) for key in index.keys]
        late = any(k.name == index.constraint and k.deferrable for k in table.constraints)
        nullable = [column.name for column in plain if column is not None and not column.not_null]
        wrong = {
            "is not unique": not index.unique,
            "is invalid": not index.valid,
            "is partial": index.predicate is not None,
            "belongs to a deferrable constraint": late,
            "has expressions among its keys": None in plain,
            f"has keys that may be NULL: {', '.join(nullable)}": bool(nullable),
        }
        said = [what for what, so in wrong.items() if so]
        if said:
            raise Unsafe(
                f"the index {self.index} of {self.schema}.{self.table} {' and '.join(said)}",
                hint="a replica identity needs a valid, unique, immediate index of NOT NULL columns without WHERE",
            )

    def _downstream(self) -> Hazard:
        return Hazard(
            id="C28", phase=Phase.EXPAND,
            message=f"UPDATE and DELETE on {self.schema}.{self.table} hand other columns of the old row to logical decoding",
            remedy="tell who consumes the changes (subscribers, CDC) before; FULL also writes more WAL",
        )  # fmt: skip

    def _gates(self, scope: Scope, table: catalog.Table) -> Iterator[Gate]:
        """The server refuses UPDATE and DELETE on a published table whose rows it could not identify."""
        keyless = self.identity == "default" and not any(i.primary for i in table.indexes)
        shown, at = f"{self.schema}.{self.table}", (self.schema, self.table)
        if self.identity == "nothing" or keyless:
            yield _gate(shown, "without a replica identity", publications.unidentified(*at))
            return
        yield _gate(shown, "if its column list or row filter does not fit the identity", publications.limited(*at))
        columns = [table.column(name) for name in self._identifying(table)]
        kinds = {column.generated for column in columns if column is not None and column.generated}
        if self.identity == "full":
            kinds |= {kind for kind in "sv" if scope.draft.claimed(publications.added(shown, stored=kind == "s"))}
        if kinds and publications.refuses_generated(scope.snapshot.major):
            stored = kinds == {"s"}
            why = "without the generated columns that identify its rows"
            yield _gate(shown, why, publications.unsent(*at, stored=stored), name="replica_identity")

    def _identifying(self, table: catalog.Table) -> frozenset[str]:
        if self.index is not None:
            return frozenset(self._index(table, self.index).columns)
        if self.identity == "full":
            return table.column_names
        return frozenset(name for index in table.indexes if index.primary for name in index.columns)


def _gate(shown: str, why: str, query: str, *, name: str = "publication") -> Gate:
    detail = (
        f"a publication sends updates or deletes of {shown}, and {why} the applications' UPDATE and DELETE fail: change the "
        f'publication first, or --override {name}="reason"'
    )
    return Gate(name=name, phase=Phase.EXPAND, detail=detail, exit_code=6, query=query)


def _step(scope: Scope, at: indexes.Relation, before: _Identity, after: _Identity) -> Step:
    return transaction_step(
        scope, Phase.EXPAND, f"replica_identity.{'.'.join(at)}", f"set the replica identity of {'.'.join(at)}",
        probe=probes.replica_identity(at, *after),
        do=[_set(at, after)], undo=[_set(at, before)],
        locks=(TableLock(schema=at[0], name=at[1], mode=LockMode.ACCESS_EXCLUSIVE),),
    )  # fmt: skip


def _set(at: indexes.Relation, identity: _Identity) -> str:
    letter, index = identity
    # An index that was dropped since leaves no identity at all.
    what = _WORDS.get(letter, "NOTHING") if index is None else f"USING INDEX {ident(index)}"
    return f"ALTER TABLE {ident(*at)} REPLICA IDENTITY {what}"


def _column(table: catalog.Table, key: str) -> catalog.Column | None:
    """The column that a key is, if it is one."""
    pieces = list(tokens(key))
    return table.column(pieces[0].name or "") if len(pieces) == 1 else None
