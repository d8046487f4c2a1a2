"""``github``: commands of a workflow's log, which become annotations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zdmigrate.compat.formats.escaping import one_line, printable, shortened
from zdmigrate.compat.report import Report
from zdmigrate.compat.summary.failures import Found, Kind, Unchecked, found, headline, place_of, unchecked, verdict
from zdmigrate.compat.summary.matrix import Matrix, matrices
from zdmigrate.compat.summary.phrases import on_servers, plain
from zdmigrate.plan import Plan

__all__ = ["render"]

_LONG = 2000


def render(report: Report, _plans: Sequence[Plan]) -> str:
    """An error for each failure that counts and each thing that could not be checked, a notice for each window."""
    return "".join(line + "\n" for line in _lines(report))


def _lines(report: Report) -> Iterator[str]:
    level = "error" if report.exit_code else "notice"
    yield _command(level, f"zdmigrate check: {verdict(report)}", headline(report), None)
    for each in found(report):
        if each.kind is Kind.BREAKS:
            yield _failure(each)
    yield from (_unchecked(each) for each in unchecked(report))
    yield from (_window(matrix) for matrix in matrices(report))
    for suppression, why in report.void:
        yield _command("warning", "a suppression did nothing", f"{suppression.reason}: {why}", None)


def _failure(each: Found) -> str:
    held = each.finding
    state = f" (SQLSTATE {held.sqlstate})" if held.sqlstate else ""
    statement = f"\n{shortened(held.statement, _LONG)}" if held.statement else ""
    text = f"{each.where}: {shortened(held.message, _LONG)}{state}{statement}\nTo do: {shortened(held.remedy, _LONG)}"
    return _command("error", f"{each.rule}: {held.subject}", text, held.place)


def _unchecked(each: Unchecked) -> str:
    text = f"{each.where}: {each.unproven.subject}: {each.unproven.reason}"
    return _command("error", "could not be checked", text, each.unproven.place)


def _window(matrix: Matrix) -> str:
    text = f"{plain(matrix.window.proven)} (compared with the prediction: {matrix.window.compared})"
    return _command("notice", f"{matrix.application.name} on {on_servers(matrix.servers)}", text, None)


def _command(level: str, title: str, text: str, place: str | None) -> str:
    at = place_of(place)
    where = "" if at is None else f"file={_property(at[0])},line={at[1]},"
    return f"::{level} {where}title={_property(shortened(title, 200))}::{_data(text)}"


def _data(text: str) -> str:
    return printable(text.replace("\r", "")).replace("%", "%25").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(one_line(text)).replace(":", "%3A").replace(",", "%2C")
