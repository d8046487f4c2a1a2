"""Python of the author's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from zdmigrate.changes.base import Change, OneShot, require_flag
from zdmigrate.errors import UsageError
from zdmigrate.plan import Mode, TableLock
from zdmigrate.planning import authored, callables
from zdmigrate.planning.callables import Function
from zdmigrate.planning.parts import ChangePlan, Scope, Target


@dataclasses.dataclass(frozen=True, init=False)
class RunPython(Change):
    """Call functions of the migration file: ``RunPython(split_names, revert=join_names, locks={"users": "ROW EXCLUSIVE"})``.

    Each gets a psycopg connection inside a transaction of zdmigrate, whose statements have timeouts, and which is
    committed when the function returns, together with the record that it is done: it is called until it succeeds, and
    takes effect exactly once. A function that yields is committed at each ``yield`` and goes on in the next transaction;
    it starts anew after a crash, so it must be able to find out what is left to do.

    `expand` is called in `expand`, `contract` in `contract` when version N is gone, `revert` undoes `expand`. Without
    ``revert=`` there is no way back; ``revert=[]`` says that nothing needs to be undone.

    `locks` and `tables` are as in RunSQL, and checked alike. The plan holds the functions' names, and digests of their
    source: a migration in flight does not call what was edited since.
    """

    expand: Function | None
    contract: Function | None
    revert: Function | tuple[()] | None
    locks: tuple[TableLock, ...]
    takes_away: bool
    rewrites: bool
    tables: tuple[tuple[str, str], ...]
    _references: Mapping[str, str] = dataclasses.field(repr=False, compare=False)

    def __init__(
        self,
        expand: Function | None = None,
        *,
        contract: Function | None = None,
        revert: Function | list[Any] | tuple[Any, ...] | None = None,
        locks: Mapping[Any, str] | Iterable[tuple[Any, str]] = (),
        takes_away: bool | None = None,
        rewrites: bool = False,
        tables: Iterable[Any] = (),
    ) -> None:
        if expand is None and contract is None:
            raise UsageError("RunPython: there is nothing to call", hint="give it expand=, contract= or both")
        nothing = isinstance(revert, list | tuple) and not revert
        if revert is not None and expand is None:
            raise UsageError("RunPython: revert= undoes expand, and there is none; contract cannot be undone")
        given = {"expand": expand, "contract": contract, "revert": None if nothing else revert}
        values = {
            **given,
            "revert": () if nothing else revert,
            "locks": authored.locks(locks, "RunPython"),
            "takes_away": authored.taken_away(takes_away, "RunPython", contract=contract is not None),
            "rewrites": require_flag(rewrites, "RunPython: rewrites"),
            "tables": authored.tables(tables, "RunPython"),
            # Now, while the file is what was just executed.
            "_references": {
                name: callables.reference(function, f"RunPython: {name}")
                for name, function in given.items()
                if function is not None
            },
        }
        for field, value in values.items():
            object.__setattr__(self, field, value)

    def targets(self) -> tuple[Target, ...]:
        return tuple(Target(schema, table) for schema, table in self.tables)

    def describe(self) -> dict[str, Any]:
        functions: dict[str, Any] = {"expand": None, "contract": None, "revert": None if self.revert is None else []}
        return {
            "change": "RunPython",
            **functions,
            **self._references,
            "locks": [dataclasses.asdict(lock) for lock in self.locks],
            "takes_away": self.takes_away,
            "rewrites": self.rewrites,
            "tables": self.tables,
        }

    def functions(self) -> Mapping[str, Function]:
        return {reference: getattr(self, name) for name, reference in self._references.items()}

    def plan(self, scope: Scope) -> ChangePlan:
        return authored.Authored(
            name="python", mode=Mode.PYTHON, title="call the migration's own function for {phase}",
            expand=self._called("expand"), contract=self._called("contract"),
            undo=None if self.revert is None else self._called("revert"),
            probe=None, locks=self.locks, takes_away=self.takes_away, rewrites=self.rewrites,
        ).plan(scope)  # fmt: skip

    def one_shot(self, scope: Scope) -> OneShot:
        """The same functions."""
        given = (self.expand, self.contract)
        return OneShot(there=None, functions=tuple(function for function in given if function is not None))

    def _called(self, name: str) -> tuple[str, ...]:
        return (self._references[name],) if name in self._references else ()
