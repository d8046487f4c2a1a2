"""Evidence: the verdict of a check as a file that travels with the release, bound to the plans that it was made for.

`zdmigrate check --evidence FILE` writes it, `zdmigrate advance --evidence FILE` asks it before each phase. It holds no
statement and no message: only who was proven to work where.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from zdmigrate import __version__
from zdmigrate.compat.report import Application, Cell, Report, Run, Version
from zdmigrate.compat.summary.phrases import joined, on_servers, plain
from zdmigrate.compat.summary.windows import window_words
from zdmigrate.errors import UsageError
from zdmigrate.phases import PHASES, Phase
from zdmigrate.plan import Direction, Plan

__all__ = ["FORMAT", "Beside", "Evidence", "Phases", "Proof", "beside", "expected", "judge", "refusal", "state_after"]

FORMAT = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Phases for either version."""

    old: tuple[Phase, ...] = ()
    new: tuple[Phase, ...] = ()

    def of(self, version: Version) -> tuple[Phase, ...]:
        """A version's."""
        return self.old if version is Version.OLD else self.new


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What is proven of one application: its versions `works` in these phases, forwards and backwards, on every server.

    `unknown` are phases in which a version was not found to fail, but could not be checked either.
    """

    name: str
    old: str
    new: str
    old_digest: str
    new_digest: str
    works: Phases
    unknown: Phases = Phases()

    def label(self, version: Version) -> str:
        """The version, for people."""
        label = (self.old, self.new)[version is Version.NEW] or ("N", "N+1")[version is Version.NEW]
        return f"{self.name} {label}".strip()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One check's verdict. `plans` are the hashes of its plans by migration, `servers` as ``PostgreSQL 17.5``."""

    plans: dict[str, str]
    servers: tuple[str, ...]
    applications: tuple[Proof, ...]
    exit_code: int
    made_at: Annotated[dt.datetime, Meta(tz=True)]
    tool_version: str
    format: Annotated[int, Meta(ge=1, le=FORMAT)] = FORMAT

    @classmethod
    def of(cls, report: Report, *, made_at: dt.datetime, tool_version: str = __version__) -> Evidence:
        """What a report proves."""
        return cls(
            plans=dict(report.plans),
            servers=tuple(dict.fromkeys(run.server for run in report.runs)),
            applications=_proofs(report.runs),
            exit_code=report.exit_code,
            made_at=made_at,
            tool_version=tool_version,
        )

    def to_bytes(self) -> bytes:
        """JSON, for a file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, *, name: str) -> Evidence:
        """What `to_bytes` made.

        Raises:
            UsageError: it is no evidence, or that of a newer zdmigrate; `name` says which.
        """
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{name} is no evidence that this version can read: {error}", hint=f"zdmigrate check --evidence {name}"
            ) from error

    @classmethod
    def read(cls, path: Path) -> Evidence:
        """The file's.

        Raises:
            UsageError: there is none, or it is no evidence.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"{path} cannot be read: {error.strerror}", hint=f"zdmigrate check --evidence {path}"
            ) from error
        return cls.from_bytes(data, name=str(path))


def _proofs(runs: Sequence[Run]) -> tuple[Proof, ...]:
    by_application: dict[Application, list[Run]] = {}
    for run in runs:
        by_application.setdefault(run.application, []).append(run)
    return tuple(
        Proof(
            name=application.name,
            old=application.old,
            new=application.new,
            old_digest=application.old_digest,
            new_digest=application.new_digest,
            works=Phases(old=_works(theirs, Version.OLD), new=_works(theirs, Version.NEW)),
            unknown=Phases(old=_unknown(theirs, Version.OLD), new=_unknown(theirs, Version.NEW)),
        )
        for application, theirs in by_application.items()
    )


def _works(runs: Iterable[Run], version: Version) -> tuple[Phase, ...]:
    everywhere = [set(run.proven(version)) for run in runs]
    return tuple(phase for phase in PHASES if all(phase in proven for proven in everywhere))


def _unknown(runs: Iterable[Run], version: Version) -> tuple[Phase, ...]:
    """The phases in which something is unknown and nothing is broken."""
    cells = [(state.phase, run.cell(version, state)) for run in runs for state in run.reached]
    broken = {phase for phase, cell in cells if cell is Cell.BROKEN}
    unknown = {phase for phase, cell in cells if cell is Cell.UNKNOWN}
    return tuple(phase for phase in PHASES if phase in unknown - broken)


# What it means for a phase


def state_after(phase: Phase, direction: Direction) -> Phase:
    """The last completed phase once `phase` was completed, or undone."""
    return phase if direction is Direction.FORWARD else phase.previous


def expected(plan: Plan, state: Phase) -> frozenset[Version]:
    """The versions that the plan's window allows to be alive in a state: what its gates do not prove to be gone."""
    alive = set()
    if state.position <= plan.window.old_until.position:
        alive.add(Version.OLD)
    if state.position >= plan.window.new_from.position:
        alive.add(Version.NEW)
    return frozenset(alive)


def refusal(
    evidence: Evidence, plan: Plan, phase: Phase, direction: Direction, *, live: Collection[Version] | None = None
) -> str | None:
    """Why `phase` must not be completed (backwards: undone) on this evidence; None where it may.

    `live` are the versions that are alive in the state that follows; None takes those that the plan's window allows.
    """
    state = state_after(phase, direction)
    alive = expected(plan, state) if live is None else live
    return _unfit(evidence, plan) or _not_proven(evidence, state, alive)


def judge(evidence: Sequence[Evidence]) -> Callable[[Plan, Phase], str | None]:
    """Several files as one: all that were made for a plan, on its major of PostgreSQL, must prove a phase of it."""

    def refused(plan: Plan, phase: Phase) -> str | None:
        fitting = [each for each in evidence if _unfit(each, plan) is None]
        if not fitting:
            return "; ".join(dict.fromkeys(str(_unfit(each, plan)) for each in evidence))
        return next((why for each in fitting if (why := refusal(each, plan, phase, Direction.FORWARD))), None)

    return refused


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What evidence says beside a plan: sentences about all of it, and who is proven to work after each phase."""

    facts: tuple[str, ...]
    phases: dict[Phase, str]


def beside(evidence: Sequence[Evidence], plan: Plan) -> Beside:
    """For a reader of the plan; evidence of something else says so."""
    fitting = [each for each in evidence if _unfit(each, plan) is None]
    facts = [why for each in evidence if (why := _unfit(each, plan))]
    facts += [_fact(each, proof) for each in fitting for proof in each.applications]
    proofs = [proof for each in fitting for proof in each.applications]
    phases = {phase: _who(proofs, phase) for phase in PHASES} if proofs else {}
    return Beside(facts=tuple(facts), phases=phases)


def _fact(evidence: Evidence, proof: Proof) -> str:
    old, new = (proof.label(version) for version in Version)
    window = plain(window_words(old, new, _until(proof.works.old), _since(proof.works.new))).replace("`", "")
    return f"proven on {on_servers(evidence.servers)} at {evidence.made_at:%Y-%m-%d %H:%M}: {window}"


def _until(works: Collection[Phase]) -> Phase | None:
    phases = list(itertools.takewhile(works.__contains__, PHASES))
    return phases[-1] if phases else None


def _since(works: Collection[Phase]) -> Phase | None:
    phases = list(itertools.takewhile(works.__contains__, reversed(PHASES)))
    return phases[-1] if phases else None


def _who(proofs: Iterable[Proof], phase: Phase) -> str:
    labels = [proof.label(version) for proof in proofs for version in Version if phase in proof.works.of(version)]
    return f"proven: {joined(labels)}" if labels else "nothing is proven"


def _unfit(evidence: Evidence, plan: Plan) -> str | None:
    return _other_plan(evidence, plan) or _other_server(evidence, plan)


def _other_plan(evidence: Evidence, plan: Plan) -> str | None:
    made_for = evidence.plans.get(plan.migration)
    if made_for is None:
        return (
            f"the evidence is about {', '.join(evidence.plans) or 'no migration'}, and says nothing of {plan.migration}"
        )
    if made_for != plan.hash:
        return f"the evidence was made for another plan of {plan.migration} ({made_for[:12]}, this one is {plan.hash[:12]})"
    return None


def _other_server(evidence: Evidence, plan: Plan) -> str | None:
    major = plan.server_version // 10000
    if major in {_major(server) for server in evidence.servers}:
        return None
    return f"the evidence was made on {', '.join(evidence.servers) or 'no server'}, and this is PostgreSQL {major}"


def _major(server: str) -> int | None:
    found = re.search(r"\d+", server)
    return None if found is None else int(found[0])


def _not_proven(evidence: Evidence, state: Phase, alive: Collection[Version]) -> str | None:
    if not evidence.applications:
        return "the evidence is about no application"
    missing = [
        f"{proof.label(version)} {_how(proof, version, state)}"
        for proof in evidence.applications
        for version in Version
        if version in alive and state not in proof.works.of(version)
    ]
    return f"the check of {evidence.made_at:%Y-%m-%d %H:%M}: {'; '.join(missing)}" if missing else None


def _how(proof: Proof, version: Version, state: Phase) -> str:
    if state in proof.unknown.of(version):
        return f"could not be checked in {state}"
    return f"is not proven to work in {state}"
