"""What a plan says of itself, and has accepted: a failure of which that is said is no surprise."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from zdmigrate.compat.probing.binding import names_in
from zdmigrate.compat.report import Finding, Layer, Version
from zdmigrate.hazards import Hazard
from zdmigrate.plan import Direction, Plan
from zdmigrate.postgres.shapes import Shapes

__all__ = ["Announcements"]

_UNASKED: Mapping[str, Version] = {"C12": Version.NEW, "C15": Version.OLD}
"""Hazards that say which version fails, without asking for consent: the migration's author declared them."""
_REFERRED = "update or delete on"
"""How the server begins where the referenced side is refused, of which C15 speaks, and not the referring one."""


class Announcements:
    """The hazards of the plans, and which failures they are said of. `shapes` are those of all states."""

    def __init__(self, plans: Sequence[Plan], shapes: Iterable[Shapes]) -> None:
        self._hazards = [hazard for plan in plans for hazard in plan.hazards]
        relations = [relation for each in shapes for relation in each.relations.values()]
        self._columns: dict[str, set[str]] = {}
        self._uses: dict[str, set[str]] = {}
        for relation in relations:
            self._columns.setdefault(relation.name, set()).update(column.name for column in relation.columns)
            self._uses.setdefault(relation.name, set()).update(name for _, name in relation.uses)

    def marked(self, finding: Finding) -> Finding:
        """The finding, announced if a plan says so itself of the same thing, in a phase that was passed."""
        # A revert passes the phase after the one that it comes to.
        passed = finding.state.phase.position + (finding.state.direction is Direction.BACKWARD)
        named = self._named(f"{finding.subject}\n{finding.message}\n{finding.statement or ''}")
        said = (
            hazard for hazard in self._hazards if hazard.phase.position <= passed and self._is_said_of(hazard, named)
        )
        return (
            dataclasses.replace(finding, announced=True)
            if any(_is_about(hazard, finding) for hazard in said)
            else finding
        )

    def _named(self, text: str) -> set[str]:
        """What a text names, and the relations below the views that it names."""
        named = set(names_in(text))
        while more := {name for view in named for name in self._uses.get(view, ())} - named:
            named |= more
        return named

    def _is_said_of(self, hazard: Hazard, named: set[str]) -> bool:
        """The same table, and where the hazard names columns of it, one of those. What is said of `SELECT *` in general is
        said of nothing."""
        tables = named.intersection(hazard.about)
        columns = {column for table in tables for column in self._columns.get(table, ())}
        meant = columns & names_in(hazard.message)
        return bool(tables) and (not meant or not meant.isdisjoint(named))


def _is_about(hazard: Hazard, finding: Finding) -> bool:
    """What was accepted for warm connections is not accepted for new ones, nor the other way round."""
    if finding.layer is Layer.WARM or hazard.accept == "warm_connections":
        return finding.layer is Layer.WARM and hazard.accept == "warm_connections"
    if hazard.id != finding.hazard or (hazard.id == "C15" and not finding.message.startswith(_REFERRED)):
        return False
    return hazard.accept is not None or _UNASKED.get(hazard.id) is finding.version
