"""What the changes that add a constraint have in common."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

from zdmigrate.changes.base import Change, OneShot, require_name
from zdmigrate.errors import UsageError
from zdmigrate.planning.constraints import NewConstraint
from zdmigrate.planning.parts import ChangePlan, Scope, Target


@dataclasses.dataclass(frozen=True, init=False)
class AddsConstraint(Change):
    """One constraint more on one table."""

    table: str
    name: str | None
    schema: str

    @property
    @abc.abstractmethod
    def constraint(self) -> NewConstraint:
        """What is added."""

    def targets(self) -> tuple[Target, ...]:
        return (Target(self.schema, self.table, item=self.constraint.shown),)

    def describe(self) -> dict[str, Any]:
        return {"change": type(self).__name__, **dataclasses.asdict(self)}

    def one_shot(self, scope: Scope) -> OneShot:
        statement, there = self.constraint.one_shot(scope, scope.live_table(self.schema, self.table))
        return OneShot(*(() if there else (statement,)), there=there)

    def plan(self, scope: Scope) -> ChangePlan:
        return self.constraint.plan(scope, scope.table(self.schema, self.table))

    def _set(self, **values: object) -> None:
        for field, value in values.items():
            object.__setattr__(self, field, value)

    def _place(self, table: str, name: str | None, schema: str) -> None:
        what = type(self).__name__
        self._set(
            table=require_name(table, f"{what}: table"),
            name=None if name is None else require_name(name, f"{what}: name"),
            schema=require_name(schema, f"{what}: schema"),
        )


def require_names(value: object, what: str) -> tuple[str, ...]:
    """One name, or several different ones."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not given:
        raise UsageError(f"{what} must be a name or a list of names, got {value!r}")
    found = tuple(require_name(name, what) for name in given)
    if len(set(found)) < len(found):
        raise UsageError(f"{what} has {next(n for n in found if found.count(n) > 1)!r} twice")
    return found


def require_timing(deferrable: bool | None, initially: str | None, what: str) -> tuple[bool, bool]:  # noqa: FBT001
    """Whether a constraint is deferrable, and deferred at first."""
    if deferrable not in (None, True, False):
        raise UsageError(f"{what}: deferrable must be True or False, got {deferrable!r}")
    if initially is not None and (not isinstance(initially, str) or initially.lower() not in ("deferred", "immediate")):
        raise UsageError(f'{what}: initially must be "deferred" or "immediate", got {initially!r}')
    deferred = initially is not None and initially.lower() == "deferred"
    if deferred and deferrable is False:
        raise UsageError(f'{what}: initially="deferred" needs deferrable=True')
    return bool(deferrable) or deferred, deferred
