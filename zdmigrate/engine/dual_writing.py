"""``sync="app"``: whether every version of the application that is alive writes both shapes. Pure.

Nothing in the database makes one shape follow the other. Before the backfill everybody who writes has to write both, or the
rows that it has filled go stale behind it; from the verification on, whoever did not is found by what the guard has noted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from zdmigrate.app.shapes import Shape, classify
from zdmigrate.control.instances import Group, Sessions, Version
from zdmigrate.control.writes import Write
from zdmigrate.engine import draining
from zdmigrate.engine.draining import Facts, Verdict
from zdmigrate.wording import counted

_WRITES = {Shape.OLD: "writes the old shape alone", Shape.NEW: "writes the new shape alone"}
_NAMED = 10
_NAMED_WRITES = 3


def judge(facts: Facts, wrong: frozenset[Shape]) -> Verdict:
    """Who speaks against it, being of a `wrong` shape, and who for it. `facts.since`: from when on a rollout that was
    declared without a footprint counts as one of a version that writes both."""
    known = {(v.project, v.application, v.version): v for v in facts.versions}
    against: list[str] = []
    proof: list[str] = []
    accounted: set[str] = set()
    live: set[tuple[str, str, str]] = set()
    for group in facts.groups:
        key = (group.project, group.application, group.version)
        version = known.get(key)
        shape = _shape(facts, version, group.said)
        if shape is Shape.UNKNOWN and group.project != facts.project:
            continue  # none of ours, unless its sessions can reach the tables
        live.add(key)
        if version is not None:
            accounted.add(version.session_name)
        if shape in wrong:
            against.append(_instances(group, shape))
        elif shape is Shape.BOTH or group.said is not None:
            proof.append(f"{group.application} {group.version}: {counted(group.count, 'instance')}")
    complete: list[datetime] = []
    for version, moment in _declared(facts):
        shape = _shape(facts, version, None)
        if shape in wrong and (version.project, version.application, version.version) not in live:
            against.append(f"{version.shown} is declared as deployed, and {_WRITES.get(shape, _UNKNOWN)}")
        elif shape is Shape.BOTH:
            complete += [moment] if moment >= facts.since else []
            proof.append(f"{version.shown}: deployed since {moment:%Y-%m-%d %H:%M:%S} UTC")
    against += _in_sessions(facts, wrong, accounted, max(complete, default=None))
    against += draining.in_writes(facts, "a write that left the two shapes different")
    unseen = ("code that is not connected now and does not report in: jobs, consoles",)
    return Verdict(against=tuple(against), proof=tuple(proof), unseen=unseen)


def _declared(facts: Facts) -> list[tuple[Version, datetime]]:
    """The project's versions whose rollout was said to be complete, and when."""
    found = [(version, version.deployed_at) for version in facts.versions if version.project == facts.project]
    return [(version, moment) for version, moment in found if moment is not None]


def said(verdict: Verdict) -> str:
    """The verdict as a sentence or two."""
    unseen = f" (not seen: {'; '.join(verdict.unseen)})"
    if verdict.against:
        more = len(verdict.against) - _NAMED
        others = f"; and {more} more" if more > 0 else ""
        return f"these may not write both shapes: {'; '.join(verdict.against[:_NAMED])}{others}{unseen}"
    if not verdict.proof:
        return "nothing proves that every version writes both shapes: no application that does reports in, and none was declared"
    return f"every version that is alive writes both shapes: {'; '.join(verdict.proof[:_NAMED])}{unseen}"


def forgotten(writes: Sequence[Write], migration: str) -> str:
    """Who has left rows different since the verification began, and what to do."""
    named = "; ".join(_write(write) for write in writes[:_NAMED_WRITES])
    others = "; …" if len(writes) > _NAMED_WRITES else ""
    return (
        f"since every row was verified, rows were left with two shapes that differ: {named}{others}. Make it write both, "
        f"then: zdmigrate revert {migration} --to dual_write, zdmigrate unhold {migration}, and advance again, which fills them "
        f"anew; or correct the rows by hand, then: zdmigrate verify {migration}"
    )


def missed(count: int, migration: str) -> str:
    """What to do about writes of which nothing is known."""
    return (
        f"{counted(count, 'write')} could not be noted since every row was verified (zdmigrate.write_note was locked, or gone): "
        f"zdmigrate verify {migration}, which reads all of them"
    )


def unheard(grants: Sequence[str], migration: str) -> str:
    """What to do where the guard may not note anything."""
    return (
        f"writes that leave the two shapes different cannot be noted: {'; '.join(grants)}; then read every row, for what was "
        f"written meanwhile: zdmigrate verify {migration}"
    )


_UNKNOWN = "nobody knows what it writes"
_THROUGH = {"old": "the old shape alone", "new": "the new shape alone", "both": "both shapes, which disagree"}


def _write(write: Write) -> str:
    number = "" if write.count == 1 else f", the last of {write.count}"
    name = write.application or "a session without a name"
    return (
        f"{name} (role {write.role}, pid {write.backend}) wrote {_THROUGH[write.side]} of {write.table} at "
        f"{write.at:%Y-%m-%d %H:%M:%S} UTC{number}: {write.statement or 'no statement is known'}"
    )


def _shape(facts: Facts, version: Version | None, declared: str | None) -> Shape:
    if declared is not None:
        return Shape(declared) if declared in list(Shape) else Shape.UNKNOWN
    if version is None:
        return Shape.UNKNOWN
    shape = classify(version.needs, facts.shapes)
    implied = version.needs is None and version.project == facts.project and version.deployed_at is not None
    if implied and version.deployed_at is not None and version.deployed_at >= facts.since:
        return Shape.BOTH
    return shape


def _instances(group: Group, shape: Shape) -> str:
    others = f" and {group.count - 1} more" if group.count > 1 else ""
    what = _WRITES.get(shape, _UNKNOWN)
    return (
        f"{group.application} {group.version} ({group.sample}{others}, seen {group.seen:%Y-%m-%d %H:%M:%S} UTC) {what}"
    )


def _in_sessions(
    facts: Facts, wrong: frozenset[Shape], accounted: set[str], complete: datetime | None
) -> Iterator[str]:
    named = {version.session_name: version for version in facts.versions}
    for session in facts.sessions:
        version = named.get(session.name)
        if session.name in accounted or not session.reaches:
            continue
        if version is not None:
            shape = _shape(facts, version, None)
            if shape in wrong:
                yield f"{_sessions(session)}, whose instances do not report in, {_WRITES.get(shape, _UNKNOWN)}"
        elif not session.superuser and (complete is None or session.since is None or session.since < complete):
            yield f"{_sessions(session)}: nobody says which version that is"


def _sessions(session: Sessions) -> str:
    name = session.name or "without a name"
    return f"{counted(session.count, 'session')} {name} of {session.role} (pid {session.pid})"
