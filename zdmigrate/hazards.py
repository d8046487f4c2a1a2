"""What a plan warns about: the closed list of hazards, with their published ids."""

from __future__ import annotations

import dataclasses

from zdmigrate.phases import Phase


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hazard:
    """Something that a reviewer must know.

    `accept` names the gate that keeps the phase from starting until somebody accepts the hazard with
    ``--override NAME="reason"``; None means that it is announced and does not stop anything. `about` are the tables that
    it is said of, without their schemas.
    """

    id: str
    phase: Phase
    message: str
    remedy: str
    accept: str | None = None
    about: tuple[str, ...] = ()
