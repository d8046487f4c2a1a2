"""The phases of a migration, and which way one may go through them."""

from __future__ import annotations

import enum


class Phase(enum.StrEnum):
    """A phase, in order. `NONE` is the state before the first one; a state means "this phase is completed"."""

    NONE = "none"
    EXPAND = "expand"
    DUAL_WRITE = "dual_write"
    BACKFILL = "backfill"
    SWITCH_READS = "switch_reads"
    RETIRE = "retire"
    CONTRACT = "contract"

    @property
    def position(self) -> int:
        """0 for `NONE`, 6 for `CONTRACT`."""
        return _ORDER[self]

    @property
    def previous(self) -> Phase:
        """The phase before; `NONE` has none."""
        if self is Phase.NONE:
            raise ValueError("there is no phase before none")
        return PHASES[self.position - 1]

    def until(self, target: Phase) -> tuple[Phase, ...]:
        """The phases to complete, in order, to come from this state forward to `target`."""
        return PHASES[self.position + 1 : target.position + 1]

    def back_to(self, target: Phase) -> tuple[Phase, ...]:
        """The phases to undo, last first, to come from this state back to `target`."""
        return tuple(reversed(PHASES[target.position + 1 : self.position + 1]))


PHASES = tuple(Phase)
_ORDER = {phase: index for index, phase in enumerate(PHASES)}

LAST_REVERSIBLE = Phase.RETIRE
"""`advance` without `--to` stops here: the drop is always asked for by name."""
