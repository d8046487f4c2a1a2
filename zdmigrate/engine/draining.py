"""The proof that nobody needs a shape any more: what speaks against it, what for it, and what cannot be seen. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from zdmigrate.app.shapes import Shape, Shapes, classify
from zdmigrate.control.instances import Group, Sessions, Version
from zdmigrate.wording import counted

_NAMED = 10
"""Things that are named one by one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known when the gate is asked.

    `leaving` is the shape that is about to go. `since` is when versions that do without could first be deployed: what was
    declared as deployed after that, without saying what it needs, counts as one of them.
    """

    migration: str
    project: str
    shapes: Shapes
    leaving: Shape
    since: datetime
    groups: Sequence[Group]
    versions: Sequence[Version]
    sessions: Sequence[Sessions]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`against` are those who may still need the shape; `proof`, who works without it; `unseen`, what nobody looked at."""

    against: tuple[str, ...]
    proof: tuple[str, ...]
    unseen: tuple[str, ...]

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
        if version is not None:
            accounted.add(version.session_name)
        # Who follows a switch, and has not heard of it for a while, may be reading either.
        adrift = group.said is not None and shape is Shape.EITHER and group.silent > 0
        if _counts(facts, shape, group.project) or adrift:
            against.append(_instances(group, shape))
        elif shape is not Shape.UNKNOWN:
            proof.append(f"{group.application} {group.version}: {counted(group.count, 'instance')} without it")
    against += _in_sessions(facts, accounted)
    live = {(group.project, group.application, group.version) for group in facts.groups}
    for key, version in known.items():
        if version.deployed_at is not None and key not in live:
            shape = _shape(facts, version, None)
            if not shape.needs(facts.leaving):
                proof.append(f"{version.shown}: deployed since {_at(version.deployed_at)}")
            elif shape is not Shape.UNKNOWN:
                against.append(f"{version.shown}, which is declared as deployed, needs the {facts.leaving} shape")
    return Verdict(against=tuple(against), proof=tuple(proof), unseen=tuple(_unseen(facts)))


def _counts(facts: Facts, shape: Shape, project: str) -> bool:
    """Whether a version that uses `shape` is in the way. What is unknown of another project's is none of ours."""
    return shape.needs(facts.leaving) and (shape is not Shape.UNKNOWN or project == facts.project)


def said(verdict: Verdict, leaving: Shape) -> str:
    """The verdict as a sentence or two."""
    unseen = f" (not seen: {'; '.join(verdict.unseen)})" if verdict.unseen else ""
    if verdict.against:
        return f"these may need the {leaving} shape: {_listed(verdict.against)}{unseen}"
    if not verdict.proof:
        version = "N" if leaving is Shape.OLD else "N+1"
        return f"nothing proves that version {version} is gone: no application reports in, and none was declared as deployed"
    return f"nobody who needs the {leaving} shape is alive: {_listed(verdict.proof)}{unseen}"


def _shape(facts: Facts, version: Version | None, declared: str | None) -> Shape:
    """What a version uses: as its instances say, as its models tell, or, unknown, as its deployment implies."""
    if declared is not None:
        return Shape(declared) if declared in list(Shape) else Shape.UNKNOWN
    if version is None:
        return Shape.UNKNOWN
    shape = classify(version.needs, facts.shapes)
    deployed = version.deployed_at is not None and version.deployed_at >= facts.since
    if shape is Shape.UNKNOWN and deployed:
        return Shape.NEW if facts.leaving is Shape.OLD else Shape.OLD
    return shape


def _instances(group: Group, shape: Shape) -> str:
    others = f" and {group.count - 1} more" if group.count > 1 else ""
    silent = f", {group.silent} of them silent since {_at(group.seen)}" if group.silent else f", seen {_at(group.seen)}"
    unknown = "; what it needs is not known" if shape is Shape.UNKNOWN else ""
    return f"{group.application} {group.version} ({group.sample}{others}, since {_at(group.started)}{silent}{unknown})"


def _in_sessions(facts: Facts, accounted: set[str]) -> Iterator[str]:
    named = {version.session_name: version for version in facts.versions}
    rollouts = [v.deployed_at for v in facts.versions if v.deployed_at is not None and v.project == facts.project]
    complete = max(rollouts, default=None)
    for session in facts.sessions:
        if session.name in accounted or not session.reaches:
            continue
        version = named.get(session.name)
        if version is not None:
            shape = _shape(facts, version, None)
            if _counts(facts, shape, version.project):
                yield f"{_sessions(session)}, whose instances do not report in"
        elif not session.superuser and (complete is None or session.since is None or session.since < complete):
            yield f"{_sessions(session)}: nobody says which version that is"


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
