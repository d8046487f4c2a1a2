"""Steps that a migration's author wrote: SQL, or functions of the migration file.

zdmigrate cannot look into them. The author declares which locks they take; whoever executes them refuses any other. What
the catalog cannot tell, the audit does: its entry is written in the transaction that does the work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from zdmigrate.errors import UsageError
from zdmigrate.phases import Phase
from zdmigrate.plan import RECORDED, LockMode, Mode, Step, TableLock, Window
from zdmigrate.planning.parts import ChangePlan, Scope

SEARCH_PATH = "public, pg_temp"
"""What unqualified names mean there: pg_catalog comes first all the same, but what is created is created in public."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Authored:
    """`expand` or `contract`, or both. Without `undo` the first cannot be undone; () says that nothing is to be undone.

    `probe` is a boolean query that says whether the first of the two is done; without it the audit says so.
    """

    name: str
    mode: Mode
    title: str
    expand: tuple[str, ...]
    contract: tuple[str, ...]
    undo: tuple[str, ...] | None
    probe: str | None
    locks: tuple[TableLock, ...]
    takes_away: bool
    rewrites: bool

    def plan(self, scope: Scope) -> ChangePlan:
        """The steps, and the window: what is taken away needs version N gone, what is made is there from `expand` on."""
        steps = []
        if self.expand:
            steps.append(self._step(scope, Phase.EXPAND, self.expand, self.probe))
        if self.contract:
            steps.append(self._step(scope, Phase.CONTRACT, self.contract, None if self.expand else self.probe))
        return ChangePlan(
            window=Window(
                old_until=Phase.RETIRE if self.takes_away else Phase.CONTRACT,
                new_from=Phase.EXPAND if self.expand else Phase.NONE,
            ),
            steps=tuple(steps),
        )

    def _step(self, scope: Scope, phase: Phase, do: tuple[str, ...], probe: str | None) -> Step:
        undo = self.undo if phase is Phase.EXPAND else None
        return Step(
            id=scope.step_id(phase, self.name),
            title=self.title.format(phase=phase),
            phase=phase,
            mode=self.mode,
            probe=RECORDED if probe is None else f"SELECT CASE WHEN ({probe}) THEN 'done' ELSE 'todo' END",
            do=do,
            undo=undo or (),
            undo_mode=self.mode,
            locks=self.locks,
            undo_locks=self.locks if undo else (),
            rewrites=self.rewrites,
            takes_away=self.takes_away and phase is Phase.CONTRACT,
            irreversible=undo is None,
            authored=True,
        )


def taken_away(given: object, what: str, *, contract: bool) -> bool:
    """`takes_away`, which means `contract`: it does so unless the author says that it does not.

    Raises:
        UsageError: there is nothing that could.
    """
    if given is not None and not isinstance(given, bool):
        raise UsageError(f"{what}: takes_away must be True or False, got {given!r}")
    if given and not contract:
        raise UsageError(
            f"{what}: only contract may take something away from version N, and there is none",
            hint="move what N would miss from expand to contract=",
        )
    return contract and given is not False


def tables(given: object, what: str) -> tuple[tuple[str, str], ...]:
    """Tables by name: ``"users"`` (of public), ``"sales.orders"``, or a pair where a name has a dot in it.

    Raises:
        UsageError: it is something else.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(f"{what}: tables must be a list of names, got {given!r}")
    return tuple(_table(each, what) for each in given)


def locks(given: object, what: str) -> tuple[TableLock, ...]:
    """Locks by table: a mapping, or pairs.

    Raises:
        UsageError: it is something else, or there is no such lock.
    """
    pairs = list(given.items()) if isinstance(given, Mapping) else given
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise UsageError(f'{what}: locks must be a mapping like {{"public.users": "ACCESS EXCLUSIVE"}}, got {given!r}')
    found = []
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise UsageError(f"{what}: a lock is a pair of table and mode, got {pair!r}")
        schema_name, name = _table(pair[0], what)
        found.append(TableLock(schema=schema_name, name=name, mode=_mode(pair[1], what)))
    return tuple(found)


def _mode(given: object, what: str) -> LockMode:
    found = next((mode for mode in LockMode if mode == " ".join(str(given).upper().split())), None)
    if found is None:
        raise UsageError(f"{what}: there is no lock {given!r}", hint=f"locks: {', '.join(LockMode)}")
    return found


def _table(given: Any, what: str) -> tuple[str, str]:
    parts = given.split(".", 1) if isinstance(given, str) else list(given) if isinstance(given, list | tuple) else []
    named = [part for part in (["public", *parts] if len(parts) == 1 else parts) if isinstance(part, str) and part]
    if len(named) != 2 or len(parts) > 2:
        raise UsageError(f'{what}: a table is "name", "schema.name" or ("schema", "name"), got {given!r}')
    return named[0], named[1]
