"""Failures put together, and the verdict that follows."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections.abc import Callable, Iterable, Iterator

from zdmigrate.compat.report import Application, Finding, Layer, Report, Run, State, Unproven, Version
from zdmigrate.compat.summary.phrases import counted, joined, name, on_servers
from zdmigrate.phases import Phase
from zdmigrate.plan import Direction

__all__ = ["FOUND_BY", "Found", "Kind", "Unchecked", "found", "headline", "kind", "place_of", "unchecked", "verdict"]


class Kind(enum.StrEnum):
    """What a finding means for the verdict, the worst first."""

    BREAKS = "breaks"
    SUPPRESSED = "suppressed"
    ANNOUNCED = "announced"
    OUTSIDE = "outside"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The same failure, wherever it was found. `finding` is the first of them."""

    kind: Kind
    application: Application
    finding: Finding
    states: tuple[State, ...]
    servers: tuple[str, ...]

    @property
    def version(self) -> str:
        """What people call the version that it is about."""
        return name(self.application, self.finding.version)

    @property
    def rule(self) -> str:
        """The hazard's id, else the layer that found it."""
        return self.finding.hazard or f"zdmigrate-{self.finding.layer}"

    @property
    def fingerprint(self) -> str:
        """The same for the same failure in another run: neither line numbers nor a server's wording are part of it."""
        held = self.finding
        facts = (
            self.kind,
            self.application.name,
            held.version,
            held.layer,
            held.subject,
            held.sqlstate,
            held.statement,
        )
        return hashlib.sha256(repr(tuple(map(str, facts))).encode("utf-8", "backslashreplace")).hexdigest()

    @property
    def where(self) -> str:
        """``shop 2.3 in expand and backfill, on PostgreSQL 15.18``."""
        who = f"{self.application.name} {self.version}".strip()
        return f"{who} in {_said_states(self.states)}, on {on_servers(self.servers)}"


_WAYS = (
    (set(Direction), ", also after a revert"),
    ({Direction.FORWARD}, ""),
    ({Direction.BACKWARD}, " after a revert"),
)


def _said_states(states: Iterable[State]) -> str:
    """``none and expand, also after a revert; retire``."""
    ways: dict[Phase, set[Direction]] = {}
    for state in states:
        ways.setdefault(state.phase, set()).add(state.direction)
    said = []
    for directions, suffix in _WAYS:
        phases = [phase for phase, there in ways.items() if there == directions]
        said += [f"{joined(phases)}{suffix}"] if phases else []
    return "; ".join(said)


def found(report: Report) -> list[Found]:
    """Every failure once, those that count first."""
    groups: dict[object, list[Found]] = {}
    for run in report.runs:
        for each in _in_run(run):
            same = dataclasses.replace(each.finding, state=_ANY)
            groups.setdefault((each.kind, each.application, same, each.states), []).append(each)
    merged = [
        dataclasses.replace(same[0], servers=tuple(server for each in same for server in each.servers))
        for same in groups.values()
    ]
    order = list(Kind)
    return sorted(merged, key=lambda each: order.index(each.kind))


_ANY = State(phase=Phase.NONE)


def _in_run(run: Run) -> Iterator[Found]:
    groups: dict[object, list[Finding]] = {}
    for finding in run.findings:
        groups.setdefault((kind(run, finding), dataclasses.replace(finding, state=_ANY)), []).append(finding)
    for same in groups.values():
        yield Found(
            kind=kind(run, same[0]),
            application=run.application,
            finding=same[0],
            states=tuple(dict.fromkeys(finding.state for finding in same)),
            servers=(run.server,),
        )


def kind(run: Run, finding: Finding) -> Kind:
    """What it means for the run's verdict."""
    if finding.suppressed is not None:
        return Kind.SUPPRESSED
    if finding.announced:
        return Kind.ANNOUNCED
    return Kind.BREAKS if run.predicts(finding.version, finding.state) else Kind.OUTSIDE


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Unchecked:
    """The same thing that could not be checked, on some servers."""

    application: Application
    unproven: Unproven
    servers: tuple[str, ...]

    @property
    def version(self) -> str:
        """The version that it is about, or both."""
        if self.unproven.version is None:
            return joined(name(self.application, version) for version in Version)
        return name(self.application, self.unproven.version)

    @property
    def where(self) -> str:
        """``shop 2.3 on PostgreSQL 15.18``."""
        return f"{self.application.name} {self.version} on {on_servers(self.servers)}".strip()

    @property
    def fingerprint(self) -> str:
        """The same for the same thing in another run."""
        held = self.unproven
        return _digest("unchecked", self.application.name, held.version, held.subject, held.reason)


def _digest(*facts: str | None) -> str:
    return hashlib.sha256(ascii(tuple(None if fact is None else str(fact) for fact in facts)).encode()).hexdigest()


def unchecked(report: Report) -> list[Unchecked]:
    """Everything that could not be checked, once."""
    groups: dict[tuple[Application, Unproven], list[str]] = {}
    for run in report.runs:
        for each in run.unproven:
            groups.setdefault((run.application, each), []).append(run.server)
    return [
        Unchecked(application=application, unproven=each, servers=tuple(dict.fromkeys(servers)))
        for (application, each), servers in groups.items()
    ]


def place_of(place: str | None) -> tuple[str, int] | None:
    """The file and line of ``file:line``; None where there is no file."""
    file, _, line = (place or "").rpartition(":")
    if file and line.isdecimal() and len(line) < 10:
        return file, max(int(line), 1)
    return (place, 1) if place else None


def verdict(report: Report) -> str:
    """One word for the exit code."""
    return {0: "compatible", 6: "incompatible"}.get(report.exit_code, "could not check")


def headline(report: Report) -> str:
    """The verdict and what it rests on."""
    kinds = [each.kind for each in found(report)]
    missing = len(unchecked(report))
    facts = [
        _said(kinds.count(Kind.BREAKS), lambda n: f"{counted(n, 'failure')} where the changes promise that it works"),
        _said(missing, lambda n: f"{counted(n, 'thing')} could not be checked"),
        _said(kinds.count(Kind.SUPPRESSED), lambda n: f"{counted(n, 'failure')} suppressed"),
    ]
    versions = counted(2 * len({run.application for run in report.runs}), "version")
    servers = on_servers(run.server for run in report.runs)
    rest = "; ".join(fact for fact in facts if fact) or "every version works in its whole window"
    return f"{rest} ({versions} on {servers})" if report.runs else "nothing was checked"


def _said(number: int, say: Callable[[int], str]) -> str:
    return say(number) if number else ""


FOUND_BY = {
    Layer.PHASE: "by running the phase",
    Layer.CATALOG: "by comparing the mapped columns with the catalog",
    Layer.PREPARE: "by preparing the statement",
    Layer.EXECUTE: "by executing it",
    Layer.CROSS: "by reading with one version what the other wrote",
    Layer.WARM: "on a connection that was open before the phase",
    Layer.COMMAND: "by the project's own command",
}
"""How each layer found it."""
