"""``markdown``: for a comment on a pull request. The matrix and the windows are open, everything else is folded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from zdmigrate import plan_words
from zdmigrate.compat.formats.escaping import one_line, printable, shortened
from zdmigrate.compat.report import Report, Version
from zdmigrate.compat.summary.failures import FOUND_BY, Found, Kind, Unchecked, found, headline, unchecked, verdict
from zdmigrate.compat.summary.matrix import Mark, Matrix, Square, matrices
from zdmigrate.compat.summary.phrases import Code, Words, name, on_servers, said_of_counts
from zdmigrate.compat.summary.windows import Compared
from zdmigrate.plan import Plan

__all__ = ["render"]

_SHOWN = 10
"""So many entries of a kind are shown: a comment may have 65,536 characters."""
_STATEMENT, _TEXT = 400, 300
_BADGES = {0: "✅", 6: "❌"}
_COMPARED = {
    Compared.SAME: "As predicted",
    Compared.NARROWER: "**Narrower than predicted:**",
    Compared.WIDER: "Wider than predicted, which is no promise:",
    Compared.UNPROVEN: "**Could not be compared** with what is predicted:",
}


def render(report: Report, _plans: Sequence[Plan]) -> str:
    """The comment."""
    failures = found(report)
    of = {kind: [each for each in failures if each.kind is kind] for kind in Kind}
    parts = [
        [f"## {_BADGES.get(report.exit_code, '⚠️')} zdmigrate check: {verdict(report)}"],
        [f"{_text(headline(report))}."],
        *(_matrix(matrix) for matrix in matrices(report)),
        _legend(matrices(report)),
        _folded("Fails inside its window", [_failure(each) for each in of[Kind.BREAKS]]),
        _folded("Could not be checked", [_unchecked(each) for each in unchecked(report)]),
        _folded("Suppressed", [_short(each, each.finding.suppressed or "") for each in of[Kind.SUPPRESSED]]),
        _folded("Announced and accepted", [_short(each, each.finding.message) for each in of[Kind.ANNOUNCED]]),
        _folded(
            "Suppressions that did nothing", [[f"- {_text(each.reason)}: {_text(why)}"] for each, why in report.void]
        ),
        _plans_line(report),
    ]
    return "\n\n".join(text for part in parts if (text := "\n".join(part))) + "\n"


def _matrix(matrix: Matrix) -> Iterator[str]:
    labels = [_text(name(matrix.application, version)) for version in Version]
    yield f"**{_text(matrix.application.name or 'application')}** on {_text(on_servers(matrix.servers))}"
    yield ""
    yield f"| completed | {labels[0]} (N) | {labels[1]} (N+1) |"
    yield "|---|---|---|"
    for row in matrix.rows:
        yield f"| `{row.phase}` | {_square(row.old)} | {_square(row.new)} |"
    yield ""
    yield f"**{_words(matrix.window.proven)}.**"
    compared = matrix.window.compared
    yield f"{_COMPARED[compared]}{'' if compared is Compared.SAME else f' {_words(matrix.window.predicted)}'}."
    for servers, counts in matrix.counts:
        yield f"<br><sub>{_text(on_servers(servers))}: {_text(said_of_counts(counts))}</sub>"


def _square(square: Square) -> str:
    if square.mark is None:
        return ""
    if square.agrees:
        return _mark(square.mark)
    assert square.forward is not None
    assert square.reverted is not None
    return f"{_mark(square.forward)}<br>{_mark(square.reverted)} after a revert"


def _mark(mark: Mark) -> str:
    return f"{mark.symbol} **{mark}**" if mark in (Mark.BROKEN, Mark.UNKNOWN) else f"{mark.symbol} {mark}"


def _legend(found_here: Sequence[Matrix]) -> Iterator[str]:
    there = {mark for matrix in found_here for mark in matrix.marks}
    marks = [mark for mark in Mark if mark in there and mark is not Mark.WORKS]
    if marks:
        yield f"<sub>{'; '.join(f'{mark.symbol} {mark}: {mark.meaning}' for mark in marks)}.</sub>"


def _folded(title: str, entries: Sequence[Iterable[str]]) -> Iterator[str]:
    if entries:
        yield f"<details><summary>{title} ({len(entries)})</summary>"
        yield ""
        for entry in entries[:_SHOWN]:
            yield from entry
        if len(entries) > _SHOWN:
            yield f"- … and {len(entries) - _SHOWN} more"
        yield ""
        yield "</details>"


def _failure(each: Found) -> Iterator[str]:
    held = each.finding
    code = f" (SQLSTATE {_code(held.sqlstate)})" if held.sqlstate else ""
    yield f"- **{_text(each.where)}**: {_code(held.message)}{code}"
    if held.statement is not None:
        yield ""
        yield from (f"  {line}" for line in plan_words.fenced(_statement(held.statement)))
        yield ""
    recorded = f", recorded in {_code(held.place)}" if held.place else ""
    hazard = f", {_code(held.hazard)}" if held.hazard else ""
    yield f"  - about {_code(held.subject)}{hazard}{recorded}, found {FOUND_BY[held.layer]}"
    yield f"  - to do: {_text(held.remedy)}"


def _statement(sql: str) -> list[str]:
    return printable(shortened(sql, _STATEMENT)).splitlines()


def _unchecked(each: Unchecked) -> list[str]:
    place = f" ({_code(each.unproven.place)})" if each.unproven.place else ""
    return [f"- {_text(each.where)}: {_code(each.unproven.subject)}{place}: {_text(each.unproven.reason)}"]


def _short(each: Found, why: str) -> list[str]:
    return [f"- {_text(each.where)}: {_code(each.finding.subject)}: {_text(why)}"]


def _plans_line(report: Report) -> list[str]:
    plans = ", ".join(f"{_code(migration)} ({_code(digest[:12])})" for migration, digest in report.plans)
    return [f"<sub>Plans: {plans}</sub>"] if plans else []


def _words(words: Words) -> str:
    return "".join(f"`{word.text}`" if isinstance(word, Code) else _escaped(word) for word in words)


def _text(text: str) -> str:
    """Text in which nothing is markup, and nobody is mentioned."""
    return _escaped(" ".join(shortened(text, _TEXT).split()))


def _escaped(text: str) -> str:
    return printable(text.replace("\n", " ")).translate(plan_words.SPECIAL).replace("@", "@<!-- -->")


def _code(text: str) -> str:
    """Text as code; the fence is longer than any run of backticks in it."""
    shown = one_line(shortened(text, _TEXT))
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    padded = f" {shown} " if shown.startswith("`") or shown.endswith("`") else shown
    return f"{fence}{padded}{fence}"
