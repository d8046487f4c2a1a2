"""``text``: for a terminal, a narrow one too. Marks are a symbol and a word, colour only repeats them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from zdmigrate.compat.formats.escaping import one_line, shortened, without_commands
from zdmigrate.compat.report import Report, Suppression, Version
from zdmigrate.compat.summary.failures import FOUND_BY, Found, Kind, Unchecked, found, headline, unchecked, verdict
from zdmigrate.compat.summary.matrix import Mark, Matrix, Square, matrices
from zdmigrate.compat.summary.phrases import counted, name, on_servers, plain, said_of_counts
from zdmigrate.compat.summary.windows import Compared
from zdmigrate.plan import Plan

__all__ = ["render", "show"]

_STATEMENT = 600
_STYLES = {
    Mark.WORKS: "green", Mark.RECONNECT: "green", Mark.SUPPRESSED: "yellow", Mark.BROKEN: "bold red",
    Mark.UNKNOWN: "bold yellow", Mark.OUTSIDE: "dim",
}  # fmt: skip
_ASCII = {
    Mark.WORKS: "+", Mark.RECONNECT: "~", Mark.SUPPRESSED: "=", Mark.BROKEN: "X", Mark.UNKNOWN: "?", Mark.OUTSIDE: "-",
}  # fmt: skip
_PLAIN = str.maketrans({"≠": "!=", "…": "..."})
_COMPARED = {
    Compared.SAME: ("", "the same"),
    Compared.NARROWER: ("bold red", "≠ narrower than predicted"),
    Compared.WIDER: ("yellow", "≠ wider than predicted, which is no promise"),
    Compared.UNPROVEN: ("bold yellow", "? could not be compared"),
}


def render(report: Report, plans: Sequence[Plan], *, width: int = 100) -> str:
    """The report without colour, in lines of at most `width` characters."""
    file = io.StringIO()
    show(report, plans, Console(file=file, width=width, color_system=None, force_terminal=False))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def show(report: Report, _plans: Sequence[Plan], console: Console) -> None:
    """Print it to a console."""
    ascii_only = console.options.ascii_only
    with console.capture() as captured:
        for part in _parts(report, ascii_only=ascii_only):
            console.print(part, highlight=False, markup=False, emoji=False)
    shown = without_commands(captured.get())  # wrapping may have moved one to the beginning of a line
    console.file.write(shown.translate(_PLAIN).encode("ascii", "backslashreplace").decode() if ascii_only else shown)


def _parts(report: Report, *, ascii_only: bool) -> Iterator[RenderableType]:
    style = {0: "bold green", 6: "bold red"}.get(report.exit_code, "bold yellow")
    yield Text.assemble((verdict(report).upper(), style), f": {one_line(headline(report))}")
    found_here = matrices(report)
    for matrix in found_here:
        yield ""
        yield _matrix(matrix, ascii_only=ascii_only)
    yield from _legend(found_here, ascii_only=ascii_only)
    failures = found(report)
    yield from _section("Fails inside its window", [_failure(e) for e in failures if e.kind is Kind.BREAKS])
    yield from _section("Could not be checked", [_unchecked(each) for each in unchecked(report)])
    yield from _section("Suppressed", [_short(e, e.finding.suppressed) for e in failures if e.kind is Kind.SUPPRESSED])
    yield from _section("Announced and accepted", [_short(e, None) for e in failures if e.kind is Kind.ANNOUNCED])
    yield from _section("Suppressions that did nothing", [_void(*each) for each in report.void])
    if outside := sum(each.kind is Kind.OUTSIDE for each in failures):
        yield ""
        yield Text(f"{counted(outside, 'failure')} outside the windows, as predicted: see --format html or json", "dim")


def _section(title: str, entries: Sequence[RenderableType]) -> Iterator[RenderableType]:
    if entries:
        yield ""
        yield Text(f"{title} ({len(entries)})", "bold")
        for entry in entries:
            yield Padding(entry, (0, 0, 0, 2))


# The matrix


def _matrix(matrix: Matrix, *, ascii_only: bool) -> RenderableType:
    application = matrix.application
    old, new = (one_line(name(application, version)) for version in Version)
    title = one_line(f"{application.name} on {on_servers(matrix.servers)}")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("completed", no_wrap=True)
    for heading in (f"{old} (N)", f"{new} (N+1)"):
        table.add_column(Text(heading), overflow="fold")
    for row in matrix.rows:
        squares = (_square(row.square(version), ascii_only=ascii_only) for version in Version)
        table.add_row(row.phase.value, *squares)
    return Group(Text(title, "bold"), "", table, "", _window(matrix), *_counts(matrix))


def _square(square: Square, *, ascii_only: bool) -> Text:
    """One mark where forwards and back again agree, else both."""
    if square.mark is None:
        return Text("")
    if square.agrees:
        return _mark(square.mark, ascii_only=ascii_only)
    assert square.forward is not None
    assert square.reverted is not None
    reverted = _mark(square.reverted, ascii_only=ascii_only)
    return Text.assemble(_mark(square.forward, ascii_only=ascii_only), "\n", reverted, " after a revert")


def _mark(mark: Mark, *, ascii_only: bool) -> Text:
    symbol = _ASCII[mark] if ascii_only else mark.symbol
    return Text(f"{symbol} {mark.upper() if mark is Mark.BROKEN else mark}", _STYLES[mark])


def _legend(matrices: Sequence[Matrix], *, ascii_only: bool) -> Iterator[RenderableType]:
    there = {mark for matrix in matrices for mark in matrix.marks}
    marks = [mark for mark in Mark if mark in there and mark is not Mark.WORKS]
    if marks:
        yield ""
        yield _grid((_mark(mark, ascii_only=ascii_only), Text(mark.meaning, "dim")) for mark in marks)


def _window(matrix: Matrix) -> RenderableType:
    window = matrix.window
    style, difference = _COMPARED[window.compared]
    predicted = Text(difference, style)
    if window.compared is not Compared.SAME:
        predicted.append(f": {one_line(plain(window.predicted))}", "")
    return _grid([(Text("proven"), Text(one_line(plain(window.proven)), "bold")), (Text("predicted"), predicted)])


def _counts(matrix: Matrix) -> Iterator[RenderableType]:
    for servers, counts in matrix.counts:
        on = "" if len(matrix.counts) == 1 else f"{one_line(on_servers(servers))}: "
        yield _grid([(Text("checked"), Text(f"{on}{said_of_counts(counts)}", "dim"))])


# Entries


def _failure(each: Found) -> RenderableType:
    held = each.finding
    code = f" (SQLSTATE {held.sqlstate})" if held.sqlstate else ""
    facts = [
        ("statement", held.statement and shortened(held.statement, _STATEMENT)),
        ("recorded", held.place),
        ("about", f"{held.subject} ({held.hazard})" if held.hazard else held.subject),
        ("found", FOUND_BY[held.layer]),
        ("to do", held.remedy),
    ]
    head = Text(one_line(each.where), "bold")
    rows = ((Text(key, "dim"), Text(one_line(text))) for key, text in facts if text)
    return Group("", head, Text(one_line(f"{held.message}{code}"), "red"), _grid(rows))


def _unchecked(each: Unchecked) -> RenderableType:
    place = f" ({each.unproven.place})" if each.unproven.place else ""
    return Text(
        one_line(f"{each.where}: {shortened(each.unproven.subject, _STATEMENT)}{place}: {each.unproven.reason}")
    )


def _short(each: Found, reason: str | None) -> RenderableType:
    why = f": {reason}" if reason else ""
    what = f"{each.finding.subject}: {each.finding.message}"
    return Text(one_line(f"{each.where}: {shortened(what, _STATEMENT)}{why}"))


def _void(suppression: Suppression, why: str) -> RenderableType:
    return Text(one_line(f"{suppression.reason} (expires {suppression.expires}): {why}"))


def _grid(rows: Iterable[tuple[Text, Text]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(min_width=9)
    grid.add_column(overflow="fold")
    for row in rows:
        grid.add_row(*row)
    return grid
