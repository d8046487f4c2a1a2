"""Plans as data: what is executed, in which transaction, under which locks, behind which gates.

`advance` executes the very objects that `zdmigrate plan` prints. A stored plan is the JSON of `Plan`, and a
newer zdmigrate runs it unchanged, so fields are only ever added here, with defaults.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from zdmigrate.app.shapes import Shapes
from zdmigrate.demands import ShadowReads
from zdmigrate.hazards import Hazard
from zdmigrate.phases import PHASES, Phase
from zdmigrate.sqltext import ident

FORMAT = 1

ALWAYS_TODO = "SELECT 'todo'"
"""The probe of steps that leave nothing in the catalog, and are harmless to repeat."""

RECORDED = "SELECT 'recorded'"
"""The probe of steps that only the audit knows of: its entry is written in the transaction that does the step's work, so
it is there exactly when the work is."""


class LockMode(enum.StrEnum):
    """A table lock, as the manual names them (section 13.3.1), weakest first."""

    ACCESS_SHARE = "ACCESS SHARE"
    ROW_SHARE = "ROW SHARE"
    ROW_EXCLUSIVE = "ROW EXCLUSIVE"
    SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE"
    SHARE = "SHARE"
    SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE"
    EXCLUSIVE = "EXCLUSIVE"
    ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"

    @property
    def blocks(self) -> str:
        """What an application cannot do while this lock is held."""
        match self:
            case LockMode.ACCESS_EXCLUSIVE:
                return "reads and writes"
            case LockMode.EXCLUSIVE | LockMode.SHARE_ROW_EXCLUSIVE | LockMode.SHARE:
                return "writes"
            case _:
                return "nothing"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TableLock:
    """A lock that a step takes, on a table by its name as it stands in the catalog."""

    schema: str
    name: str
    mode: LockMode

    @property
    def table(self) -> str:
        """``schema.name``, for people."""
        return f"{self.schema}.{self.name}"


class Mode(enum.StrEnum):
    """How a step is executed."""

    TRANSACTION = "transaction"
    """All statements in one short transaction, with a lock timeout, retried within the lock budget."""
    AUTOCOMMIT = "autocommit"
    """One statement after the other outside a transaction (CONCURRENTLY, VALIDATE, ANALYZE): long, blocks nobody."""
    BACKFILL = "backfill"
    """Batches over `Step.rows`."""
    PYTHON = "python"
    """A function of the migration file, in transactions like the first; `Step.do` is the reference to it."""
    VERIFY = "verify"
    """Every row is read and counted where it is unfilled; the phase fails while there is one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """A column whose values a Python function of the migration file computes: `function` is the reference to it.

    `reads` are (name, SQL expression over the row) pairs: what the function is given of a row.
    """

    column: str
    function: str
    reads: tuple[tuple[str, str], ...]

    @property
    def call(self) -> str:
        """``compute(name, email)``, for people."""
        return f"{name_of(self.function)}({', '.join(name for name, _ in self.reads)})"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RowWork:
    """What a backfill sets, and which rows still need it. The verification asks for the same rows.

    `schema`, `table` and the columns of `assignments` are names as they stand in the catalog, not quoted.
    `assignments` are (column, SQL expression over the row) pairs; `unfilled` is a boolean SQL expression over
    the row. Column names in the expressions are unqualified and quoted. With `transform` there are no assignments.
    """

    schema: str
    table: str
    assignments: tuple[tuple[str, str], ...]
    unfilled: str
    transform: Transform | None = None

    @property
    def sources(self) -> tuple[tuple[str, str], ...]:
        """Each column that is set, and SQL that mentions what its value is made of."""
        if self.transform is None:
            return self.assignments
        return ((self.transform.column, f"ROW({', '.join(text for _, text in self.transform.reads)})"),)


RowQueries = tuple[tuple[Phase, str], ...]
"""(phase, query) pairs in the order of the phases: the query that uses the names which columns have once that phase's
`Step.renames` steps are done. The first is for the time before any (phase ``none``)."""


def queries_in(queries: RowQueries, named: Phase) -> list[str]:
    """The queries that use the names that columns have in the state `named`."""
    known = [phase for phase, _ in queries if phase.position <= named.position]
    now = max(known, key=lambda phase: phase.position, default=None)
    return [query for phase, query in queries if phase is now]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The smallest unit that is executed and recorded.

    `probe` is a query for one text: ``done``, ``todo``, ``repair`` (something half-built is in the way:
    `repair` removes it) or a sentence that says what drifted. It is asked before doing and before undoing.
    Without `undo` statements there is nothing to take back.
    """

    id: str
    title: str
    phase: Phase
    mode: Mode
    probe: str
    do: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()
    undo_mode: Mode = Mode.TRANSACTION
    repair: tuple[str, ...] = ()
    locks: tuple[TableLock, ...] = ()
    undo_locks: tuple[TableLock, ...] = ()
    scans: bool = False
    rewrites: bool = False
    takes_away: bool = False
    irreversible: bool = False
    makes_table: bool = False
    rows: RowWork | None = None
    undo_loses: RowQueries = ()
    """Queries for up to a few texts, each naming a row or value that undoing would lose."""
    undo_asked_after: tuple[str, ...] = ()
    """The same, asked when the phase's steps are undone, before anything more is: undoing has waited for those who were writing
    when `undo_loses` was asked. Nothing is overwritten by then. Never part of a plan's hash."""
    undo_blocked: RowQueries = ()
    """The same for rows that the old shape cannot hold at all: somebody must change them before it can come back."""
    refused_by: str | None = None
    """The same for rows that make the step itself impossible; asked before its phase begins."""
    asked_within: str | None = None
    """A query for texts that say what is in the way; asked in the step's transaction once its locks are held, so that nothing
    comes between the answer and the step. Never part of a plan's hash."""
    authored: bool = False
    """Written by the migration's author: `locks` are declared, and whoever executes the step refuses any other."""

    @property
    def renames(self) -> bool:
        """Whether the step changes names under which queries of other steps find columns."""
        there = any(" RENAME COLUMN " in statement for statement in self.do)
        return there and not self.authored and self.phase is not Phase.CONTRACT

    @property
    def is_probed(self) -> bool:
        """Whether the catalog can tell that the step is done (an ANALYZE or a backfill leaves nothing to see)."""
        return self.probe != ALWAYS_TODO

    @property
    def is_recorded(self) -> bool:
        """Whether the audit tells, and not the catalog."""
        return self.probe == RECORDED


class Direction(enum.StrEnum):
    """Which way through the phases."""

    FORWARD = "forward"
    BACKWARD = "backward"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A condition that must hold before a phase may start.

    Forwards it guards the completion of `phase`, backwards the undoing of `phase`. `exit_code` is what a command
    ends with while it does not hold (4 waiting, 6 unsafe).
    """

    name: str
    phase: Phase
    detail: str
    direction: Direction = Direction.FORWARD
    exit_code: int = 4
    overridable: bool = True
    query: str | None = None
    """Texts that say what is in the way now; the gate is open when there is none."""
    demand: ShadowReads | None = None
    """What the gate ``shadow_reads`` asks for."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The deploy window that the changes predict: inclusive states."""

    old_until: Phase
    new_from: Phase


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How the two shapes of a table are compared while both are there. Never part of a plan's hash.

    `diverged` names rows whose shapes differ, `lossy` rows whose new value `up` would not make again of what `down`
    made of it.
    """

    table: str
    diverged: RowQueries
    lossy: RowQueries = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TableEstimate:
    """Rows and size of a touched table by the catalog's statistics. Never part of a plan's hash."""

    table: str
    rows: int
    bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PhasePlan:
    """The steps and gates of one phase."""

    phase: Phase
    steps: tuple[Step, ...] = ()
    gates: tuple[Gate, ...] = ()

    @property
    def takes_away(self) -> bool:
        """Whether the phase takes something from version N (soaks apply only before such phases)."""
        return any(step.takes_away for step in self.steps)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps of every phase of one migration, against one catalog."""

    migration: str
    checksum: str
    server_version: int
    window: Window
    phases: tuple[PhasePlan, ...]
    touches: tuple[str, ...]
    reads: tuple[str, ...] = ()
    hazards: tuple[Hazard, ...] = ()
    estimates: tuple[TableEstimate, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    undoable_until: Phase = Phase.RETIRE
    shapes: Shapes = dataclasses.field(default_factory=Shapes)
    """By which names versions of the application tell which shape they use. Never part of a plan's hash."""
    tool_version: str = ""
    format: int = FORMAT

    def phase(self, phase: Phase) -> PhasePlan:
        """The plan of one phase; empty where it has no steps."""
        return next((part for part in self.phases if part.phase is phase), PhasePlan(phase=phase))

    def steps(self) -> Iterator[Step]:
        """All steps in the order of execution."""
        for part in self.phases:
            yield from part.steps

    @property
    def automatic_target(self) -> Phase:
        """Where `advance` without `--to` stops: before the first phase that drops something."""
        first_drop = next((part.phase for part in self.phases if any(s.irreversible for s in part.steps)), None)
        return PHASES[-1] if first_drop is None else first_drop.previous

    @property
    def hash(self) -> str:
        """SHA-256 over the ordered SQL, locks and gates (hexadecimal)."""
        facts = [
            (
                part.phase,
                [
                    (s.id, s.mode, s.do, s.undo, s.repair, _locks(s.locks), _locks(s.undo_locks), _rows(s))
                    for s in part.steps
                ],
                [_gate(gate) for gate in part.gates],
            )
            for part in self.phases
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def to_sql(self) -> str:
        """The forward SQL of all phases, with comments; for reading, not for running by hand."""
        lines: list[str] = []
        for part in self.phases:
            lines.append(f"-- phase {part.phase}")
            for step in part.steps:
                lines.append(f"-- {step.id}: {step.title} [{step.mode}]")
                lines += _transaction_text(step)
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `json.dumps`; `hash` is included for readers."""
        return {**dataclasses.asdict(self), "hash": self.hash}


def _gate(gate: Gate) -> list[Any]:
    facts = [gate.name, gate.direction, gate.exit_code, gate.overridable]
    return facts if gate.demand is None else [*facts, dataclasses.astuple(gate.demand)]  # as with `_rows`


def _locks(locks: tuple[TableLock, ...]) -> list[tuple[str, str]]:
    return [(lock.table, lock.mode) for lock in locks]


def _rows(step: Step) -> list[Any] | None:
    if step.rows is None:
        return None
    *facts, transform = dataclasses.astuple(step.rows)
    return facts if transform is None else [*facts, transform]  # plans from before there were any keep their hash


def _transaction_text(step: Step) -> list[str]:
    if step.rows is not None:
        sets = ", ".join(f"{ident(column)} = {expression}" for column, expression in step.rows.assignments)
        target = ident(step.rows.schema, step.rows.table)
        if step.mode is Mode.VERIFY:
            return [f"SELECT count(*) FROM {target} WHERE {step.rows.unfilled};  -- must be 0"]
        if step.rows.transform is not None:
            return _transform_text(target, step.rows, step.rows.transform)
        return [f"UPDATE {target} SET {sets} WHERE {step.rows.unfilled};  -- in batches"]
    if step.mode is Mode.PYTHON:
        return [f"-- {name_of(reference)}(connection)" for reference in step.do]
    body = [f"{statement};" for statement in step.do]
    return ["BEGIN;", *body, "COMMIT;"] if step.mode is Mode.TRANSACTION else body


def _transform_text(target: str, rows: RowWork, transform: Transform) -> list[str]:
    listed = ", ".join(text if text == ident(name) else f"{text} AS {ident(name)}" for name, text in transform.reads)
    return [
        f"SELECT {listed} FROM {target} WHERE {rows.unfilled};  -- in batches",
        f"-- {name_of(transform.function)}(rows), outside of a transaction; then, where what it was given is still so:",
        f"UPDATE {target} SET {ident(transform.column)} = $1 WHERE {rows.unfilled};  -- in batches",
    ]


def name_of(reference: str) -> str:
    """The name of a function of the migration file, to which the reference is ``name@digest of its source``."""
    return reference.partition("@")[0]
