"""SQL of the author's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from zdmigrate.changes.base import Change, OneShot, require_flag
from zdmigrate.errors import UsageError
from zdmigrate.plan import Mode, TableLock
from zdmigrate.planning import authored
from zdmigrate.planning.parts import ChangePlan, Scope, Target
from zdmigrate.sqltext import statements, tokens

_TRANSACTION = frozenset(("abort", "begin", "commit", "end", "release", "rollback", "savepoint", "start"))
_SESSION = frozenset(
    ("copy", "discard", "deallocate", "execute", "listen", "load", "prepare", "reset", "set", "unlisten")
)
_SET_LOCALLY = frozenset(("constraints", "local"))
_ONLY_OUTSIDE = frozenset(("database", "subscription", "system", "tablespace"))
_BLOCKING = frozenset(("alter", "cluster", "create", "drop", "lock", "refresh", "reindex", "truncate"))

Statements = str | Iterable[str]


@dataclasses.dataclass(frozen=True, init=False)
class RunSQL(Change):
    """Run SQL of your own: ``RunSQL("CREATE VIEW people AS …", revert="DROP VIEW people", locks={"users": "ACCESS SHARE"})``.

    `expand` runs in `expand`, `contract` in `contract` when version N is gone, `revert` undoes `expand`. Each is a
    statement or several, in one short transaction, exactly once: what says so is written in the same transaction.
    Without ``revert=`` there is no way back from `expand`; ``revert=[]`` says that nothing needs to be undone. No way
    leads back from `contract`.

    `locks` declares the strongest lock that any of them takes on each table that was there before. Before each
    transaction is committed, zdmigrate reads off the server which locks it holds, and rolls back if one is stronger, on a
    table that is not declared, or if a table is rewritten or read while others wait (unless ``rewrites=True``).

    `probe` is a boolean query: is `expand` done (`contract`, where that is all there is)? ``autocommit=True`` runs what
    cannot be in a transaction (CONCURRENTLY, VACUUM, CALL); it needs a probe, and statements that can be repeated.
    `tables` are claimed as a whole: no other migration in flight may touch them.
    """

    expand: tuple[str, ...]
    contract: tuple[str, ...]
    revert: tuple[str, ...] | None
    locks: tuple[TableLock, ...]
    probe: str | None
    autocommit: bool
    takes_away: bool
    rewrites: bool
    tables: tuple[tuple[str, str], ...]

    def __init__(
        self,
        expand: Statements = (),
        *,
        contract: Statements = (),
        revert: Statements | None = None,
        locks: Mapping[Any, str] | Iterable[tuple[Any, str]] = (),
        probe: str | None = None,
        autocommit: bool = False,
        takes_away: bool | None = None,
        rewrites: bool = False,
        tables: Iterable[Any] = (),
    ) -> None:
        values = {
            "expand": _statements(expand, "expand", autocommit=autocommit),
            "contract": _statements(contract, "contract", autocommit=autocommit),
            "revert": None if revert is None else _statements(revert, "revert", autocommit=autocommit),
            "locks": authored.locks(locks, "RunSQL"),
            "tables": authored.tables(tables, "RunSQL"),
            "probe": _probe(probe),
            "autocommit": require_flag(autocommit, "RunSQL: autocommit"),
            "rewrites": require_flag(rewrites, "RunSQL: rewrites"),
        }
        values["takes_away"] = authored.taken_away(takes_away, "RunSQL", contract=bool(values["contract"]))
        for field, value in values.items():
            object.__setattr__(self, field, value)
        self._check()

    def targets(self) -> tuple[Target, ...]:
        return tuple(Target(schema, table) for schema, table in self.tables)

    def describe(self) -> dict[str, Any]:
        return {"change": "RunSQL", **dataclasses.asdict(self)}

    def plan(self, scope: Scope) -> ChangePlan:
        return authored.Authored(
            name="sql", mode=Mode.AUTOCOMMIT if self.autocommit else Mode.TRANSACTION,
            title="the migration's own SQL for {phase}", expand=self.expand, contract=self.contract, undo=self.revert,
            probe=self.probe, locks=self.locks, takes_away=self.takes_away, rewrites=self.rewrites,
        ).plan(scope)  # fmt: skip

    def one_shot(self, scope: Scope) -> OneShot:
        """The same statements. In a fresh database nobody waits, so nothing is done CONCURRENTLY."""
        made = [_at_once(text) if self.autocommit else text for text in (*self.expand, *self.contract)]
        return OneShot(*(text for text in made if text is not None), there=None, probe=self.probe)

    def _check(self) -> None:
        """What the arguments say together."""
        if not self.expand and not self.contract:
            raise UsageError("RunSQL: there is nothing to run", hint="give it expand=, contract= or both")
        if self.revert is not None and not self.expand:
            raise UsageError("RunSQL: revert= undoes expand, and there is none; contract cannot be undone")
        if not self.autocommit:
            return
        if self.probe is None:
            raise UsageError(
                "RunSQL: autocommit=True needs a probe: after a crash nothing else tells whether the statement is done",
                hint="probe= a query that is true when it is: for an index, that pg_index has it with indisvalid",
            )
        if self.expand and self.contract:
            raise UsageError(
                "RunSQL: with autocommit=True it has one probe, for expand or for contract",
                hint="make two changes of it, RunSQL(expand=…, probe=…) and RunSQL(contract=…, probe=…)",
            )
        for lock in self.locks:
            if lock.mode.blocks != "nothing":
                raise UsageError(
                    f"RunSQL: with autocommit=True nobody can check that {lock.mode} on {lock.table} is held briefly",
                    hint="run what needs such a lock without autocommit",
                )


def _statements(given: object, what: str, *, autocommit: bool) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, Iterable):
        raise UsageError(f"RunSQL: {what} must be a statement or a list of them, got {given!r}")
    found: list[str] = []
    for text in texts:
        if not isinstance(text, str) or "\0" in text or not (parts := list(statements(text))):
            raise UsageError(f"RunSQL: {what} must be a statement or a list of them, got {text!r}")
        found += parts
    for text in found:
        _refuse(text, what, autocommit=autocommit)
    return tuple(found)


def _words(text: str) -> list[str]:
    return [token.text.lower() for token in tokens(text) if token.kind == "word"] or [""]


def _refuse(text: str, what: str, *, autocommit: bool) -> None:
    """What would end the engine's transaction, change its session, or fail at the wrong time."""
    first, *rest = words = _words(text)
    shown = " ".join(text.split())[:60]
    if first in _TRANSACTION or words[:2] == ["prepare", "transaction"]:
        raise UsageError(f"RunSQL: {what} has {shown!r}: transactions are zdmigrate's", hint="leave it out")
    if first in _SESSION and not (first == "set" and _SET_LOCALLY & {*rest[:1]}):
        raise UsageError(
            f"RunSQL: {what} has {shown!r}, which is about the session, and that is zdmigrate's",
            hint="SET LOCAL holds until the end of the transaction; for COPY, see RunPython",
        )
    concurrently = "concurrently" in words
    outside = (concurrently and first != "refresh") or first == "vacuum"
    outside = outside or (first in ("alter", "create", "drop") and bool(_ONLY_OUTSIDE & {*rest[:1]}))
    if outside and not autocommit:
        raise UsageError(
            f"RunSQL: {what} has {shown!r}, which cannot run in a transaction", hint="autocommit=True, and a probe"
        )
    blocking = first in _BLOCKING and not (concurrently or outside or "validate" in words)
    if autocommit and (blocking or (first == "vacuum" and "full" in words)):
        raise UsageError(
            f"RunSQL: {what} has {shown!r}, whose lock nobody checks with autocommit=True",
            hint="run it without autocommit",
        )


def _probe(given: object) -> str | None:
    if given is None:
        return None
    found = list(statements(given)) if isinstance(given, str) else []
    if len(found) != 1 or _words(found[0])[0] not in ("select", "with", "values"):
        raise UsageError(
            f"RunSQL: probe must be one query that is true when the work is done, got {given!r}",
            hint="for example SELECT to_regclass('public.people') IS NOT NULL",
        )
    return found[0]


def _at_once(text: str) -> str | None:
    """The statement for a transaction; None for what means nothing in one."""
    if _words(text)[0] == "vacuum":
        return None
    return "".join(t.text for t in tokens(text) if not (t.kind == "word" and t.text.lower() == "concurrently"))
