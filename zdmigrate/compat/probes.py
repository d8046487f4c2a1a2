"""What is asked of the server: statements with values, made once where the version is at home, asked in every state."""

from __future__ import annotations

import dataclasses

__all__ = ["Command", "Probe"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A statement with ``$1`` for its values. `types` are those that the driver declares, all unknown where empty."""

    sql: str
    values: tuple[str | None, ...] = ()
    types: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Commands in one transaction that is rolled back. What counts is the last of them; the ones before prepare it.

    `subject` is what people call it, `place` where it was recorded. `warm`: drivers may keep it prepared.
    `recorded`: a statement of the footprint, not one that was made from its models.
    """

    subject: str
    commands: tuple[Command, ...]
    place: str | None = None
    warm: bool = True
    recorded: bool = False

    @property
    def sql(self) -> str:
        """The statement that counts."""
        return self.commands[-1].sql
