"""The proof that nobody needs a shape any more: what speaks against it, what for it, and what cannot be seen. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from zdmigrate.app.shapes import Shape, Shapes, classify
from zdmigrate.control.instances import Group, Sessions, Version
from zdmigrate.control.writes import Write
from zdmigrate.wording import counted

_NAMED = 10
"""Things that are named one by one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What another kind of evidence says. `noted` proves nothing, and belongs to the proof where there is one."""

    against: tuple[str, ...] = ()
    proof: tuple[str, ...] = ()
    noted: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known when the gate is asked.

    `leaving` is the shape that is about to go, `tables` are (schema, name) pairs of what the migration is about. `since` is
    when versions that do without could first be deployed: what was declared as deployed after that, without saying what it
    needs, counts as one of them. `writes` are those through the leaving shape since then, as triggers have noted them;
    `findings` is what else was looked at.
    """

    migration: str
    project: str
    shapes: Shapes
    leaving: Shape
    since: datetime
    tables: tuple[tuple[str, str], ...]
    groups: Sequence[Group]
    versions: Sequence[Version]
    sessions: Sequence[Sessions]
    writes: Sequence[Write] = ()
    findings: Sequence[Findings] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`against` are those who may still need the shape; `proof`, who works without it; `unseen`, what nobody looked at.

    `noted` proves nothing by itself.
    """

    against: tuple[str, ...]
    proof: tuple[str, ...]
    unseen: tuple[str, ...]
    noted: tuple[str, ...] = ()

    @property
    def proven(self) -> bool:
        """Nothing speaks against it, and something for it."""
        return not self.against and bool(self.proof)


def judge(facts: Facts) -> Verdict:
    """The verdict."""
    known = {(v.project, v.application, v.version): v for v in facts.versions}
    against: list[str] = []
    proof: list[str] = []
    accounted: set[str] = set()
    for group in facts.groups:
        version = known.get((group.project, group.application, group.version))
        shape = _shape(facts, version, group.said)
        if shape is Shape.UNKNOWN and group.project != facts.project:
            continue  # none of ours, unless its sessions can reach the tables
        if version is not None:
            accounted.add(version.session_name)
        # Who follows a switch, and has not heard of it for a while, may be reading either.
        adrift = group.said is not None and shape is Shape.EITHER and group.silent > 0
        if shape.needs(facts.leaving) or adrift:
            against.append(_instances(group, shape))
        elif _is_concerned(facts, version) or (group.said is not None and group.project == facts.project):
            proof.append(f"{group.application} {group.version}: {counted(group.count, 'instance')} without it")
    against += _in_sessions(facts, accounted)
    against += in_writes(facts, f"a write through the {facts.leaving} shape")
    live = {(group.project, group.application, group.version) for group in facts.groups}
    for version in _declared(facts):
        shape = _shape(facts, version, None)
        if (version.project, version.application, version.version) in live:
            continue
        if shape.needs(facts.leaving):
            what = "nobody knows what it needs" if shape is Shape.UNKNOWN else f"it needs the {facts.leaving} shape"
            against.append(f"{version.shown} is declared as deployed, and {what}")
        elif _is_concerned(facts, version):
            proof.append(f"{version.shown}: deployed since {_at(_moment(version))}")
    seen = Verdict(
        against=tuple(against), proof=tuple(proof), unseen=tuple(_unseen(facts)), noted=tuple(_last_write(facts))
    )  # fmt: skip
    return _with(facts.findings, seen)


def _with(findings: Sequence[Findings], verdict: Verdict) -> Verdict:
    """The verdict, with what other kinds of evidence say."""
    for found in findings:
        verdict = Verdict(
            against=(*verdict.against, *found.against), proof=(*verdict.proof, *found.proof),
            unseen=(*verdict.unseen, *found.unseen), noted=(*verdict.noted, *found.noted),
        )  # fmt: skip
    return verdict


def _declared(facts: Facts) -> list[Version]:
    """The project's versions whose rollout was said to be complete."""
    return [v for v in facts.versions if v.project == facts.project and v.deployed_at is not None]


def _moment(version: Version) -> datetime:
    assert version.deployed_at is not None
    return version.deployed_at


def _is_concerned(facts: Facts, version: Version | None) -> bool:
    """Whether what a version needs says something about the migration: it uses the tables, or was deployed for it.

    Of a table that comes with the migration, or goes with it, only one of the shapes knows: any version of the project counts.
    """
    if version is None or version.project != facts.project:
        return False
    if version.needs is None:
        return True  # and not unknown: it was declared when there was something to deploy instead
    traits = (*facts.shapes.old, *facts.shapes.new)
    goes, stays = (
        (facts.shapes.old, facts.shapes.new) if facts.leaving is Shape.OLD else (facts.shapes.new, facts.shapes.old)
    )
    if any(trait.column is None for trait in goes) and not any(trait.column is None for trait in stays):
        return True
    tables = {*facts.tables, *((trait.schema, trait.table) for trait in traits)}
    names = {name for _, name in tables}
    return any(t.name in names if t.schema is None else (t.schema, t.name) in tables for t in version.needs)


def said(verdict: Verdict, leaving: Shape) -> str:
    """The verdict as a sentence or two."""
    unseen = f" (not seen: {'; '.join(verdict.unseen)})" if verdict.unseen else ""
    if verdict.against:
        return f"these may need the {leaving} shape: {_listed(verdict.against)}{unseen}"
    if not verdict.proof:
        version = "N" if leaving is Shape.OLD else "N+1"
        nothing = f"nothing proves that version {version} is gone: no application reports in, and none was declared as deployed"
        return "; ".join((nothing, *verdict.noted))
    return f"nobody who needs the {leaving} shape is alive: {_listed((*verdict.proof, *verdict.noted))}{unseen}"


def _shape(facts: Facts, version: Version | None, declared: str | None) -> Shape:
    """What a version uses: as its instances say, as its models tell, or, forwards, as its deployment implies."""
    if declared is not None:
        return Shape(declared) if declared in list(Shape) else Shape.UNKNOWN
    if version is None:
        return Shape.UNKNOWN
    shape = classify(version.needs, facts.shapes)
    implied = facts.leaving is Shape.OLD and version.project == facts.project
    if shape is Shape.UNKNOWN and implied and version.deployed_at is not None and version.deployed_at >= facts.since:
        return Shape.NEW
    return shape


def _instances(group: Group, shape: Shape) -> str:
    others = f" and {group.count - 1} more" if group.count > 1 else ""
    silent = f", {group.silent} of them silent since {_at(group.seen)}" if group.silent else f", seen {_at(group.seen)}"
    unknown = "; what it needs is not known" if shape is Shape.UNKNOWN else ""
    return f"{group.application} {group.version} ({group.sample}{others}, since {_at(group.started)}{silent}{unknown})"


def _in_sessions(facts: Facts, accounted: set[str]) -> Iterator[str]:
    named = {version.session_name: version for version in facts.versions}
    rollouts = [
        _moment(version)
        for version in _declared(facts)
        if _moment(version) >= facts.since
        and not _shape(facts, version, None).needs(facts.leaving)
        and _is_concerned(facts, version)
    ]
    complete = max(rollouts, default=None)
    for session in facts.sessions:
        if session.name in accounted or not session.reaches:
            continue
        version = named.get(session.name)
        if version is not None:
            if _shape(facts, version, None).needs(facts.leaving):
                yield f"{_sessions(session)}, whose instances do not report in"
        elif not session.superuser and (complete is None or session.since is None or session.since < complete):
            yield f"{_sessions(session)}: nobody says which version that is"


def in_writes(facts: Facts, what: str) -> Iterator[str]:
    """Recent writes, but for those of versions whose last instance has said goodbye since."""
    known = {version.session_name for version in facts.versions}
    live = {v.session_name for v in facts.versions for g in facts.groups if _key(v) == _key(g)}
    for write in facts.writes:
        gone = write.application in known and write.application not in live and write.retired
        if write.recent and not gone:
            yield _written(write, what)


def _last_write(facts: Facts) -> Iterator[str]:
    """For whoever reads the proof; by itself it proves nothing."""
    if facts.writes:
        yield _written(facts.writes[0], f"the last write through the {facts.leaving} shape was")


def _key(of: Version | Group) -> tuple[str, str, str]:
    return of.project, of.application, of.version


def _written(write: Write, what: str) -> str:
    name = write.application or "a session without a name"
    noted = f", noted {write.count} times" if write.count > 1 else ""
    said = f": {write.statement}" if write.statement else ""
    return f"{what} at {_at(write.at)} by {name} (role {write.role}, pid {write.backend}{noted}){said}"


def _sessions(session: Sessions) -> str:
    name = session.name or "without a name"
    since = "" if session.since is None else f", the first since {_at(session.since)}"
    return f"{counted(session.count, 'session')} {name} of {session.role} (pid {session.pid}{since})"


def _unseen(facts: Facts) -> Iterator[str]:
    if any(session.since is None for session in facts.sessions):
        yield "since when sessions of other roles are there: GRANT pg_read_all_stats"
    supers = sum(session.count for session in facts.sessions if session.superuser and "/" not in session.name)
    if supers:
        yield f"what {counted(supers, 'session')} of superusers are for"
    yield "code that is not connected now and does not report in: jobs, consoles"


def _listed(parts: Iterable[str]) -> str:
    every = list(parts)
    more = len(every) - _NAMED
    return "; ".join(every[:_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
