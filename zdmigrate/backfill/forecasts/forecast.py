"""What a backfill will cost, from statistics, and how that compares with what it did cost. Pure.

Every relation of the table is taken by itself: `zdmigrate.backfill.forecasts.heaps` reads its statistics,
`zdmigrate.backfill.forecasts.costs` has the model and its constants.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

from zdmigrate.backfill.forecasts import costs, heaps, layout
from zdmigrate.backfill.forecasts.costs import Cost, Measured, Pacing
from zdmigrate.phases import Phase
from zdmigrate.plan import Mode, Plan, RowWork, Step
from zdmigrate.schema import ServerFacts, Snapshot, Storage
from zdmigrate.wording import size, spoken

Basis = Literal["statistics", "guess", "probe"]

_MOST = 10.0
"""Times the model that a probe may measure."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What a probe measured of one relation, in statements that each took a stripe of some pages.

    `moved` is the share of rows that a first stripe found no room for, `record_bytes` the WAL of a row without images of
    pages, `image_bytes` that of an image (None: there were hardly any), `seconds` and `pages` are those of all
    statements together. `stand_in`: the new columns are not there yet, so a column was set to itself.
    """

    relation: str
    rows: int
    pages: int
    moved: float
    record_bytes: float
    image_bytes: float | None
    seconds: float
    stand_in: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What filling one table will cost.

    `striped` is with dead row versions removed between a page's stripes, `plain` without. `new_bytes` are the new
    values alone: where the pages are full, the heap grows by at least that.
    """

    step: str
    table: str
    striped: Cost
    plain: Cost
    new_bytes: float
    basis: Basis
    stripes: bool = True
    """Whether the striped cost is what is expected."""
    notes: tuple[str, ...] = ()

    @property
    def expected(self) -> Cost:
        """What is expected: the worse one only where it is known that nothing stays in its page."""
        return self.striped if self.stripes else self.plain

    @property
    def rows(self) -> int:
        """Rows to fill."""
        return round(self.expected.rows)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `json.dumps`."""
        return {
            "step": self.step,
            "table": self.table,
            "basis": self.basis,
            "rows": self.rows,
            "new_bytes": round(self.new_bytes),
            "expected": _cost_json(self.expected),
            "worst": _cost_json(self.plain),
            "notes": list(self.notes),
        }

    def lines(self) -> Iterator[str]:
        """For people: what is expected, the worst case, what one should know of both."""
        if not self.rows:
            yield "no rows to fill"
        else:
            now = self.expected
            yield (
                f"about {self.rows:,} rows, {size(now.wal_bytes)} of WAL, {_growth(now)}, "
                f"{spoken(timedelta(seconds=now.seconds))} (from {_BASES[self.basis]})"
            )
            if self.stripes:
                yield (
                    f"at worst {size(self.plain.wal_bytes)} of WAL, {_growth(self.plain)}: while an old transaction or a "
                    "standby's feedback keeps dead rows"
                )
        yield from self.notes


_BASES: dict[Basis, str] = {"statistics": "statistics", "guess": "the size alone", "probe": "a probe"}


def _growth(cost: Cost) -> str:
    return f"table +{size(cost.heap_bytes)}, its indexes +{size(cost.index_bytes)}"


def _cost_json(cost: Cost) -> dict[str, Any]:
    whole = {name: round(getattr(cost, name)) for name in ("wal_bytes", "image_bytes", "heap_bytes", "index_bytes")}
    return {**whole, "hot_share": round(cost.hot_share, 3), "seconds": round(cost.seconds, 1)}


def of_plan(
    plan: Plan, snapshot: Snapshot, pacing: Pacing = costs.USUAL, probes: Sequence[Probed] = ()
) -> tuple[Forecast, ...]:
    """One forecast for each step that fills rows; none from a snapshot that has no storage statistics."""
    server = snapshot.server
    if server is None:
        return ()
    added = heaps.added_types(plan)
    synced = bool(plan.phase(Phase.DUAL_WRITE).steps)
    return tuple(
        _of_step(step, step.rows, snapshot, server, pacing, added, probes, synced=synced)
        for step in plan.steps()
        if step.mode is Mode.BACKFILL and step.rows is not None
    )


def _of_step(
    step: Step, rows: RowWork, snapshot: Snapshot, server: ServerFacts, pacing: Pacing, added: Mapping[str, str],
    probes: Sequence[Probed], *, synced: bool,
) -> Forecast:  # fmt: skip
    found = [s for s in snapshot.storage if (s.schema, s.table) == (rows.schema, rows.table)]
    probed = {probe.relation: probe for probe in probes}
    mine = [probed[storage.relation] for storage in found if storage.relation in probed]
    striped = plain = costs.NOTHING
    new_bytes = 0.0
    for storage in found:
        heap = heaps.heap(storage, rows, server, added, synced=synced)
        probe = probed.get(storage.relation) or max(mine, key=lambda p: p.rows, default=None)
        measured = _measured(heap, server, probe, locks_rows=storage.locks_rows)
        moved = None if probe is None else _moved(heap, pacing, probe)
        striped += _logged(
            storage, costs.cost(heap, server, pacing, stripes=pacing.stripes, moved=moved, measured=measured)
        )
        plain += _logged(storage, costs.cost(heap, server, pacing, stripes=1, measured=measured))
        new_bytes += heap.rows * (heap.value + heap.toasted)
    indexed = [c for s in found for i in s.indexes for c in i.columns if c in dict(rows.sources)]
    guessed = [s.relation for s in found if s.pages and not heaps.is_counted(s)]
    return Forecast(
        step=step.id,
        table=f"{rows.schema}.{rows.table}",
        striped=striped,
        plain=plain,
        new_bytes=new_bytes,
        basis="probe" if mine else "guess" if guessed else "statistics",
        stripes=not indexed,
        notes=(*_notes(indexed, guessed, server), *_of_python(rows)),
    )


def _notes(indexed: Sequence[str], guessed: Sequence[str], server: ServerFacts) -> Iterator[str]:
    if indexed:
        yield f"{indexed[0]} is indexed already: no row stays in its page"
    if guessed:
        more = f" and {len(guessed) - 1} more" if len(guessed) > 1 else ""
        yield f"nobody has analyzed {guessed[0]}{more}: ANALYZE gives a better forecast"
    if server.feedback:
        yield "a standby feeds its horizon back (hot_standby_feedback), which keeps dead rows longer"
    if server.standbys is None:
        yield "this role does not see standbys; GRANT pg_read_all_stats would help"


def _of_python(rows: RowWork) -> Iterator[str]:
    if rows.transform is not None:
        yield f"the time that {rows.transform.call} takes is not known, and comes on top"


# Probes --------------------------------------------------------------------------------------------------------------


def _moved(heap: costs.Heap, pacing: Pacing, probe: Probed) -> float:
    """The model's share, with the first stripe's as it was measured: what pages are really like shows there."""
    first = 1 / min(pacing.stripes, max(1.0, heap.page.rows * heap.page.share))
    better = probe.moved - _probed_page(heap, probe).first_moved(pacing.stripes)
    return min(1.0, max(0.0, heap.page.moved_share(pacing.stripes) + first * better))


def _measured(heap: costs.Heap, server: ServerFacts, probe: Probed | None, *, locks_rows: bool) -> Measured:
    """Measured by modelled, of what was there when it was measured: the sync trigger may not have been."""
    if probe is None:
        return costs.AS_MODELLED
    seen = dataclasses.replace(heap, page=_probed_page(heap, probe), locks_rows=locks_rows)
    if probe.stand_in:
        seen = dataclasses.replace(seen, value=0, toasted=0)
    image = 1.0 if probe.image_bytes is None else probe.image_bytes / costs.image(heap, server)
    return Measured(
        records=_bounded(probe.record_bytes / costs.row_records(seen, server, probe.moved)),
        images=_bounded(image),
        # A batch does more than the statement that was probed: less time than modelled is no news.
        seconds=max(1.0, _bounded(probe.seconds / costs.visit_seconds(seen, probe.pages, probe.rows, probe.moved))),
    )


def _probed_page(heap: costs.Heap, probe: Probed) -> layout.Page:
    return dataclasses.replace(heap.page, new=heap.page.old) if probe.stand_in else heap.page


def _bounded(ratio: float) -> float:
    """A probe is small: what it says is believed within reason."""
    return min(_MOST, max(1 / _MOST, ratio))


def _logged(storage: Storage, cost: Cost) -> Cost:
    return dataclasses.replace(cost, wal_bytes=0.0, image_bytes=0.0) if storage.unlogged else cost


# Forecast and outcome ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a backfill did cost, all processes together; None where nobody measured it."""

    rows: int
    wal_bytes: float | None = None
    heap_bytes: float | None = None
    index_bytes: float | None = None
    seconds: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One figure, as it was forecast and as it came."""

    figure: str
    forecast: float
    outcome: float

    @property
    def ratio(self) -> float | None:
        """Outcome by forecast; None where nothing was forecast."""
        return self.outcome / self.forecast if self.forecast else None

    def __str__(self) -> str:
        show = _SHOWN[self.figure]
        ratio = "" if self.ratio is None else f" ({self.ratio:.2f} times)"
        return f"{self.figure}: {show(self.outcome)}, forecast {show(self.forecast)}{ratio}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _duration(value: float) -> str:
    return spoken(timedelta(seconds=value))


_SHOWN: Mapping[str, Callable[[float], str]] = {
    "rows": _count,
    "WAL": size,
    "table": size,
    "indexes": size,
    "time": _duration,
}


def compared(forecast: Forecast, outcome: Outcome) -> tuple[Difference, ...]:
    """The figures that were both forecast and measured."""
    now = forecast.expected
    pairs: list[tuple[str, float, float | None]] = [
        ("rows", now.rows, outcome.rows),
        ("WAL", now.wal_bytes, outcome.wal_bytes),
        ("table", now.heap_bytes, outcome.heap_bytes),
        ("indexes", now.index_bytes, outcome.index_bytes),
        ("time", now.seconds, outcome.seconds),
    ]
    return tuple(
        Difference(figure=f, forecast=before, outcome=after) for f, before, after in pairs if after is not None
    )
