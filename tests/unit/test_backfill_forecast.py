"""What a backfill will cost, from statistics."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdmigrate import schema
from zdmigrate.backfill.forecasts import costs, forecast, layout
from zdmigrate.cli import rendering
from zdmigrate.engine import planned
from zdmigrate.phases import Phase
from zdmigrate.plan import Mode, PhasePlan, Plan, RowWork, Step, Window
from zdmigrate.schema import ColumnStorage, IndexStorage, ServerFacts, Storage

MB = 1 << 20


def column(name: str, length: int | None, **facts: object) -> ColumnStorage:
    given_ = {"align": 4, "width": None if length is None else length, "null_share": 0.0, "correlation": 0.0, **facts}
    return ColumnStorage(name=name, length=length, **given_)  # type: ignore[arg-type]


# The table of the measurements in costs.py: 200,000 rows, 61 of them in a page.
COLUMNS = (
    column("id", 4, correlation=1.0), column("old", None, width=12), column("a", 4), column("b", 4, correlation=1.0),
    column("d", None, width=33), column("pad", None, width=41),
)  # fmt: skip
INDEXES = (
    IndexStorage(name="users_pkey", columns=("id",), pages=551),
    IndexStorage(name="users_a_idx", columns=("a",), pages=551),
    IndexStorage(name="users_b_idx", columns=("b",), pages=551),
    IndexStorage(name="users_d_idx", columns=("d",), pages=1444),
)
USERS = Storage(
    schema="public", table="users", relation="public.users", pages=3279, rows=200_000, counted_pages=3279,
    columns=COLUMNS, indexes=INDEXES,
)  # fmt: skip
SERVER = ServerFacts(logical=True, standbys=0, feedback=False)
WORK = RowWork(schema="public", table="users", assignments=(("new", '"old"'),), unfilled="true")


def plan_of(rows: RowWork = WORK, *, type_: str = "text", synced: bool = True) -> Plan:
    def step(id_: str, phase: Phase, mode: Mode, **facts: object) -> Step:
        return Step(id=id_, title=id_, phase=phase, mode=mode, probe="", **facts)  # type: ignore[arg-type]

    add = 'ALTER TABLE "public"."users" ADD COLUMN "new" ' + type_
    phases = {
        Phase.EXPAND: step("add", Phase.EXPAND, Mode.TRANSACTION, do=(add,)),
        Phase.DUAL_WRITE: step("sync", Phase.DUAL_WRITE, Mode.TRANSACTION),
        Phase.BACKFILL: step("fill", Phase.BACKFILL, Mode.BACKFILL, rows=rows),
    }
    return Plan(
        migration="m", checksum="c", server_version=180000,
        window=Window(old_until=Phase.RETIRE, new_from=Phase.BACKFILL), touches=(),
        phases=tuple(
            PhasePlan(phase=phase, steps=(each,)) for phase, each in phases.items() if synced or phase is not Phase.DUAL_WRITE
        ),
    )  # fmt: skip


def forecast_of(*storage: Storage, server: ServerFacts = SERVER, plan: Plan | None = None) -> forecast.Forecast:
    snapshot = schema.Snapshot(
        server_version=180000, role="r", may_suppress_triggers=True, tables=(), storage=storage, server=server
    )
    (found,) = forecast.of_plan(plan or plan_of(), snapshot)
    return found


# Pages ---------------------------------------------------------------------------------------------------------------


def lengths(length: float) -> layout.Lengths:
    return layout.Lengths(average=length, varies=False)


def page(rows: float, old: float, new: float, *, space: float = 8168, share: float = 1.0) -> layout.Page:
    return layout.Page(space=space, rows=rows, share=share, old=lengths(old), new=lengths(new))


@pytest.mark.parametrize(
    ("rows", "old", "new", "stripes", "measured"),
    [(61, 128, 144, 16, 0.156), (16, 496, 512, 16, 0.12), (5, 1592, 1608, 16, 0.2), (185, 40, 48, 16, 0.427),
     (43, 128, 144, 16, 0.0), (61, 128, 144, 1, 1.0)],
)  # fmt: skip
def test_the_share_that_moves_is_what_a_server_did(
    rows: float, old: float, new: float, stripes: int, measured: float
) -> None:
    assert page(rows, old, new).moved_share(stripes) == pytest.approx(measured, abs=0.03)


@given(st.integers(1, 290), st.integers(3, 200), st.integers(0, 50), st.integers(1, 32), st.floats(0.01, 1))
def test_a_share_is_a_share_and_room_never_hurts(rows: int, old: int, more: int, stripes: int, share: float) -> None:
    def moved(space: float) -> float:
        return page(rows, old * 8, (old + more) * 8, space=space, share=share).moved_share(stripes)

    full = rows * (old * 8 + 4.0)
    assert 0 <= moved(full) <= 1
    assert moved(full + rows * (old + more + 1) * 8) <= moved(full)
    if rows <= 145:
        assert moved(full + rows * ((old + more) * 8 + 4)) == 0


@given(st.floats(24, 3000), st.booleans())
def test_stored_tuples_are_aligned_and_no_shorter(average: float, varies: bool) -> None:  # noqa: FBT001
    tuples = layout.Lengths(average=average, varies=varies)
    assert all(length % 8 == 0 for _, length in tuples.aligned())
    assert sum(share for share, _ in tuples.aligned()) == pytest.approx(1)
    assert average - 0.01 <= tuples.stored <= average + 8


def test_a_tuple_is_its_header_its_bitmap_and_its_aligned_values() -> None:
    fixed = [column("a", 4), column("b", 8, align=8)]
    assert layout.lengths(fixed, {}) == layout.Lengths(average=40, varies=False)
    assert layout.lengths(fixed, {"new": 8}).average == 48
    half = [column("a", 4), column("b", 8, align=8, null_share=0.5)]
    assert layout.lengths(half, {}) == layout.Lengths(average=34, varies=True)
    assert layout.lengths(half, {"b": 8}).average == 40
    # Nobody has looked at it: new, and NULL, where the others were looked at.
    late = column("c", 8, align=8, null_share=None)
    assert layout.lengths([*fixed, late], {}).average == 40
    assert layout.lengths([*fixed, late], {}, analyzed=False).average == 48


# The whole -----------------------------------------------------------------------------------------------------------


def test_it_says_what_was_measured_of_the_usual_table() -> None:
    """200,000 rows on PostgreSQL 18, trigger in place, after a checkpoint: 570 bytes of WAL a row, heap +4.5 MB."""
    found = forecast_of(USERS)
    assert (found.rows, found.basis, found.table) == (200_000, "statistics", "public.users")
    assert found.striped.wal_bytes == pytest.approx(570 * 200_000, rel=0.1)
    assert found.striped.heap_bytes == pytest.approx(22.7 * 200_000, rel=0.2)
    assert found.striped.hot_share == pytest.approx(0.844, abs=0.03)
    assert found.plain.wal_bytes == pytest.approx(907 * 200_000, rel=0.1)
    assert found.plain.heap_bytes == pytest.approx(145 * 200_000, rel=0.1)
    assert found.plain.index_bytes == pytest.approx(3097 * 8192, rel=0.05)
    assert found.new_bytes == 12.5 * 200_000


def test_room_in_the_pages_saves_the_growth() -> None:
    """At fillfactor 70, 397 bytes of WAL a row were measured, and no growth."""
    found = forecast_of(dataclasses.replace(USERS, pages=4652, counted_pages=4652, fillfactor=70))
    assert found.striped.wal_bytes == pytest.approx(397 * 200_000, rel=0.1)
    assert (found.striped.heap_bytes, found.striped.index_bytes) == (0, 0)


def test_without_logical_decoding_a_row_that_stays_is_logged_without_its_old_values() -> None:
    found = forecast_of(USERS, server=dataclasses.replace(SERVER, logical=False))
    assert found.striped.wal_bytes == pytest.approx(488 * 200_000, rel=0.1)


def test_without_a_trigger_nothing_is_locked_first() -> None:
    found = forecast_of(USERS, plan=plan_of(synced=False))
    assert forecast_of(USERS).striped.wal_bytes - found.striped.wal_bytes == pytest.approx(54 * 200_000)
    own = forecast_of(dataclasses.replace(USERS, locks_rows=True), plan=plan_of(synced=False))
    assert own.striped == forecast_of(USERS).striped


def test_the_server_s_settings_count() -> None:
    usual = forecast_of(USERS).striped
    without = forecast_of(USERS, server=dataclasses.replace(SERVER, full_page_writes=False)).striped
    packed = forecast_of(USERS, server=dataclasses.replace(SERVER, compression=True)).striped
    often = forecast_of(USERS, server=dataclasses.replace(SERVER, checkpoint_bytes=16 * MB)).striped
    assert (without.image_bytes, packed.image_bytes) == (0, usual.image_bytes / 2)
    assert usual.wal_bytes - without.wal_bytes == pytest.approx(usual.image_bytes)
    assert often.image_bytes > 1.5 * usual.image_bytes


def test_more_indexes_cost_more() -> None:
    def wal(number: int) -> float:
        return forecast_of(dataclasses.replace(USERS, indexes=INDEXES[:number])).striped.wal_bytes

    assert wal(0) < wal(1) < wal(2) < wal(4)


@given(
    st.integers(1, 10**6), st.floats(0.5, 250), st.integers(10, 100), st.integers(1, 2000), st.floats(0, 1),
    st.lists(st.integers(0, 10**6), max_size=6), st.booleans(),
)  # fmt: skip
def test_figures_are_sane_whatever_the_statistics(
    pages: int,
    density: float,
    fillfactor: int,
    width: int,
    null: float,
    indexes: list[int],
    logical: bool,  # noqa: FBT001
) -> None:
    storage = dataclasses.replace(
        USERS, pages=pages, counted_pages=pages, rows=pages * density, fillfactor=fillfactor,
        columns=(column("id", 8, align=8), column("old", None, width=width, null_share=null)),
        indexes=tuple(IndexStorage(name=f"i{n}", columns=("old",), pages=size) for n, size in enumerate(indexes)),
    )  # fmt: skip
    found = forecast_of(storage, server=dataclasses.replace(SERVER, logical=logical))
    for cost in (found.striped, found.plain):
        assert 0 <= cost.hot_share <= 1
        assert 0 <= cost.image_bytes <= cost.wal_bytes
        assert min(cost.heap_bytes, cost.index_bytes, cost.seconds) >= 0
        assert cost.index_bytes <= sum(indexes) * 8192
    assert found.striped.hot_share >= found.plain.hot_share - 1e-9
    assert json.loads(json.dumps(found.to_json()))["rows"] == found.rows
    assert all(found.lines())


# Rows and widths -----------------------------------------------------------------------------------------------------


def test_rows_without_a_value_are_not_filled() -> None:
    half = dataclasses.replace(
        USERS, columns=(*COLUMNS[:1], column("old", None, width=12, null_share=0.75), *COLUMNS[2:])
    )
    assert forecast_of(half).rows == 50_000
    with_new = dataclasses.replace(half, columns=(*half.columns, column("new", None, width=12, null_share=0.8)))
    assert forecast_of(with_new).rows == 10_000
    assert forecast_of(dataclasses.replace(USERS, columns=(*COLUMNS, column("new", None, width=12)))).rows == 0


def test_a_table_that_grew_since_it_was_analyzed_has_more_rows() -> None:
    assert forecast_of(dataclasses.replace(USERS, pages=6558)).rows == 400_000


def test_nobody_analyzed_it() -> None:
    columns = tuple(dataclasses.replace(c, width=None, null_share=None, correlation=None) for c in COLUMNS)
    found = forecast_of(dataclasses.replace(USERS, rows=None, counted_pages=0, columns=columns))
    assert found.basis == "guess"
    assert 100_000 < found.rows < 400_000
    assert found.notes == ("nobody has analyzed public.users: ANALYZE gives a better forecast",)


def test_an_empty_table_costs_nothing() -> None:
    found = forecast_of(dataclasses.replace(USERS, rows=0, pages=0, counted_pages=0))
    assert (found.rows, found.expected.wal_bytes, list(found.lines())) == (0, 0, ["no rows to fill"])
    never = forecast_of(dataclasses.replace(USERS, rows=None, pages=0, counted_pages=0))
    assert (never.rows, never.basis) == (0, "statistics")


def test_partitions_are_added_up() -> None:
    parts = [dataclasses.replace(USERS, relation=f"public.users_{n}") for n in range(3)]
    one, all_ = forecast_of(USERS), forecast_of(*parts)
    assert all_.rows == 600_000
    assert all_.striped.wal_bytes == pytest.approx(3 * one.striped.wal_bytes)
    assert all_.striped.hot_share == pytest.approx(one.striped.hot_share)


def test_an_unlogged_table_writes_no_wal() -> None:
    found = forecast_of(dataclasses.replace(USERS, unlogged=True))
    assert (found.striped.wal_bytes, found.striped.heap_bytes > 0) == (0, True)


def test_an_indexed_column_is_expected_to_cost_the_worst() -> None:
    more = IndexStorage(name="early", columns=("new",), pages=10)
    found = forecast_of(
        dataclasses.replace(USERS, columns=(*COLUMNS, column("new", None, null_share=None)), indexes=(*INDEXES, more))
    )
    assert found.expected == found.plain
    assert found.notes == ("new is indexed already: no row stays in its page",)


@pytest.mark.parametrize(
    ("type_", "expression", "width"),
    [("bigint", '"a"::bigint', 8 + 3.5), ("integer", '"old"::int', 4 + 1.5), ("boolean", "true", 1),
     ("timestamp with time zone", "now()", 8 + 3.5), ("text", "\"old\" || '-' || \"d\"", 12.5 + 33.5),
     ("text", '"a"::text', 8), ("text", "'constant'", 10), ("integer[]", 'ARRAY["a"]', 8), ("uuid", '"d"::uuid', 16)],
)  # fmt: skip
def test_the_width_of_new_values(type_: str, expression: str, width: float) -> None:
    work = dataclasses.replace(WORK, assignments=(("new", expression),))
    assert forecast_of(USERS, plan=plan_of(work, type_=type_)).new_bytes == pytest.approx(width * 200_000)


def test_several_pairs_in_one_pass_are_as_wide_as_what_they_are_made_of() -> None:
    wrapped = 'CASE WHEN "d" IS NULL AND "pad" IS NULL THEN "old" ELSE "new" END'
    work = dataclasses.replace(WORK, assignments=(("new", wrapped),))
    assert forecast_of(USERS, plan=plan_of(work)).new_bytes == 12.5 * 200_000


def test_values_that_are_stored_out_of_line_are_copied_there() -> None:
    big = (*COLUMNS[:1], column("old", None, width=18, toastable=True), *COLUMNS[2:])
    found = forecast_of(dataclasses.replace(USERS, columns=big, toast_bytes=200_000 * 10_000))
    assert found.new_bytes == pytest.approx(200_000 * 10_018.5)
    assert found.striped.wal_bytes > 200_000 * 10_000
    assert found.striped.heap_bytes > 200_000 * 10_000


def test_a_bucket_of_wal_decides_how_long_it_takes() -> None:
    snapshot = schema.Snapshot(
        server_version=180000, role="r", may_suppress_triggers=True, tables=(), storage=(USERS,), server=SERVER
    )
    slow = costs.Pacing(wal_rate=1_000_000)
    (found,) = forecast.of_plan(plan_of(), snapshot, slow)
    assert found.striped.seconds == pytest.approx(found.striped.wal_bytes / 1_000_000)
    (two,) = forecast.of_plan(plan_of(), snapshot, costs.Pacing(workers=2))
    (one,) = forecast.of_plan(plan_of(), snapshot)
    assert two.striped.seconds == pytest.approx(one.striped.seconds / 2)


# Probes --------------------------------------------------------------------------------------------------------------


def probed(**facts: object) -> forecast.Probed:
    given_ = {
        "relation": "public.users", "rows": 3200, "pages": 800, "moved": 1.0, "record_bytes": 600.0, "image_bytes": None,
        "seconds": 0.05, "stand_in": False, **facts,
    }  # fmt: skip
    return forecast.Probed(**given_)  # type: ignore[arg-type]


def with_probe(*probes: forecast.Probed) -> forecast.Forecast:
    snapshot = schema.Snapshot(
        server_version=180000, role="r", may_suppress_triggers=True, tables=(), storage=(USERS,), server=SERVER
    )
    (found,) = forecast.of_plan(plan_of(), snapshot, probes=probes)
    return found


def test_a_probe_scales_the_model() -> None:
    small, large = with_probe(probed(record_bytes=500.0)), with_probe(probed(record_bytes=1000.0))
    records = [found.striped.wal_bytes - found.striped.image_bytes for found in (small, large)]
    assert records[1] == pytest.approx(2 * records[0])
    assert (small.basis, with_probe(probed(relation="public.other")).basis) == ("probe", "statistics")
    assert with_probe(probed(seconds=1e9)).striped.seconds <= 10.5 * with_probe().striped.seconds


def test_a_probe_that_found_room_says_that_less_moves() -> None:
    assert with_probe(probed(moved=0.0)).striped.hot_share > with_probe(probed(moved=1.0)).striped.hot_share
    assert with_probe(probed(image_bytes=800.0)).striped.image_bytes < 0.2 * with_probe(probed()).striped.image_bytes


# Shown and compared --------------------------------------------------------------------------------------------------


def test_forecast_and_outcome_side_by_side() -> None:
    found = forecast_of(USERS)
    cost = dataclasses.replace(found.striped, wal_bytes=100 * MB, heap_bytes=4 * MB, seconds=100)
    outcome = forecast.Outcome(rows=200_000, wal_bytes=110 * MB, heap_bytes=5 * MB, seconds=130)
    shown = [str(each) for each in forecast.compared(dataclasses.replace(found, striped=cost), outcome)]
    assert shown == [
        "rows: 200,000, forecast 200,000 (1.00 times)",
        "WAL: 110 MB, forecast 100 MB (1.10 times)",
        "table: 5.0 MB, forecast 4.0 MB (1.25 times)",
        "time: 3 min, forecast 2 min (1.30 times)",
    ]
    nothing = forecast_of(dataclasses.replace(USERS, rows=0, pages=0, counted_pages=0))
    assert [each.ratio for each in forecast.compared(nothing, forecast.Outcome(rows=3))] == [None]


def test_a_plan_shows_it_below_its_step() -> None:
    found = forecast_of(USERS, server=dataclasses.replace(SERVER, standbys=None, feedback=True))
    text = rendering.plan_text(plan_of(), None, (found,))
    costs_ = [line.strip() for line in text.splitlines() if line.startswith("     cost ")]
    assert costs_[0].startswith("cost  about 200,000 rows, ")
    assert costs_[0].endswith("(from statistics)")
    assert costs_[1].startswith("cost  at worst ")
    assert len(costs_) == 4
    assert text.index("fill  [fill]") < text.index("cost  about")
    assert "- **cost** about 200,000 rows" in rendering.plan_markdown(plan_of(), None, (found,))
    assert rendering.plan_json(plan_of(), None, (found,))["forecasts"] == [found.to_json()]
    assert rendering.plan_json(plan_of())["forecasts"] == []


def test_files_of_older_versions_have_no_forecast_and_new_ones_keep_it() -> None:
    bare = schema.Snapshot(server_version=180000, role="r", may_suppress_triggers=True, tables=())
    old = json.loads(planned.to_bytes(bare))
    del old["storage"], old["server"]
    assert forecast.of_plan(plan_of(), planned.from_bytes(json.dumps(old).encode())) == ()
    full = dataclasses.replace(bare, storage=(USERS,), server=SERVER)
    assert planned.from_bytes(planned.to_bytes(full)) == full
