"""What every change is."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any

from zdmigrate.errors import UsageError
from zdmigrate.planning.parts import ChangePlan, Scope, Target

if TYPE_CHECKING:
    from zdmigrate.schema import Question


class Change(abc.ABC):
    """One declarative schema change.

    Subclasses are frozen values. `plan` decides, purely, from a catalog snapshot; it never connects to anything.
    """

    table: str
    schema: str

    @abc.abstractmethod
    def targets(self) -> tuple[Target, ...]:
        """What the change claims. Two changes in flight must not overlap."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """The normalised change as JSON values: the migration's checksum is made from it."""

    def questions(self) -> tuple[Question, ...]:
        """What the server must be asked before `plan`: expressions and types."""
        return ()

    @abc.abstractmethod
    def plan(self, scope: Scope) -> ChangePlan:
        """The steps by phase, gates, hazards and the predicted window.

        Raises:
            zdmigrate.errors.Unsafe: the change does not fit the live catalog.
        """

    @abc.abstractmethod
    def one_shot(self, scope: Scope) -> tuple[str, ...] | None:
        """The equivalent DDL for a fresh database; () where the new shape is there already (adopted).

        Raises:
            zdmigrate.errors.Drift: the database holds a mixture of both shapes.
        """


def require_name(value: object, what: str) -> str:
    """`value`, if it can be an identifier of PostgreSQL (1 to 63 bytes, no NUL)."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise UsageError(f"{what} must be a name, got {value!r}")
    if len(value.encode()) > 63:
        raise UsageError(f"{what} {value!r} is longer than 63 bytes")
    return value
