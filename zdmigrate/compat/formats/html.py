"""``html``: one page that needs nothing but itself, with the plan.

No script, no network, and a policy that allows nothing but the page's own style sheet: what a database or a footprint
brings along stays text even for a browser that would read it otherwise.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from importlib import resources
from xml.etree.ElementTree import Element

from zdmigrate import __version__
from zdmigrate.compat.formats.elements import Child, document, element, sentence
from zdmigrate.compat.formats.escaping import shortened
from zdmigrate.compat.formats.plan_html import plan_section
from zdmigrate.compat.report import Report, Suppression, Version
from zdmigrate.compat.summary.failures import FOUND_BY, Found, Kind, Unchecked, found, headline, unchecked, verdict
from zdmigrate.compat.summary.matrix import Mark, Matrix, Row, Square, matrices
from zdmigrate.compat.summary.phrases import counted, name, on_servers, said_of_counts
from zdmigrate.compat.summary.windows import Compared, Window
from zdmigrate.plan import Plan

__all__ = ["render"]

_SHOWN = 200
_STATEMENT = 4000
_CLASSES = {0: "compatible", 6: "incompatible"}
_COMPARED = {
    Compared.SAME: ("muted", "The changes predict the same."),
    Compared.NARROWER: ("differs", "≠ Narrower than predicted: "),
    Compared.WIDER: ("unsure", "≠ Wider than predicted, which is no promise: "),
    Compared.UNPROVEN: ("unsure", "? Could not be compared with the prediction: "),
}


def render(report: Report, plans: Sequence[Plan]) -> str:
    """The page."""
    sections = [*_sections(report), *(plan_section(plan, number) for number, plan in enumerate(plans, start=1))]
    title = f"zdmigrate check: {verdict(report)}"
    return document(
        _head(title),
        [
            element("a", "Skip to the result", href="#result", class_="skip"),
            element("header", _verdict(report, title), _contents(sections)),
            element("main", *sections, id="result", tabindex="-1"),
            element("footer", *_footer(report)),
        ],
    )


def _head(title: str) -> Iterator[Element]:
    css = resources.files("zdmigrate.compat.formats").joinpath("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    yield element("meta", charset="utf-8")
    yield Element("meta", {"http-equiv": "Content-Security-Policy", "content": policy})
    yield element("meta", name="viewport", content="width=device-width, initial-scale=1")
    yield element("meta", name="color-scheme", content="light dark")
    yield element("link", rel="icon", href="data:,")  # else a browser asks the server for one
    yield element("title", title)
    style = Element("style")
    style.text = css
    yield style


def _verdict(report: Report, title: str) -> Element:
    kind = _CLASSES.get(report.exit_code, "unchecked")
    symbol = {0: "✓", 6: "✗"}.get(report.exit_code, "?")
    heading = element("h1", f"{symbol} {title}")
    return element("div", heading, element("p", f"{headline(report)}."), class_=f"verdict {kind}")


def _contents(sections: Sequence[Element]) -> Element:
    links = [
        element("li", element("a", section[0].text or "", href=f"#{section.get('aria-labelledby')}"))
        for section in sections
    ]
    return element("nav", element("ul", *links), aria_label="Contents")


def _sections(report: Report) -> Iterator[Element]:
    failures = found(report)
    of = {kind: [each for each in failures if each.kind is kind] for kind in Kind}
    yield _section("matrix", "Phases and versions", [*map(_matrix, matrices(report)), _legend(matrices(report))])
    unsure = [_unchecked(each) for each in unchecked(report)]
    void = [_void(*each) for each in report.void]
    for key, title, entries in (
        ("breaks", "Fails inside its window", [_failure(each) for each in of[Kind.BREAKS]]),
        ("unchecked", "Could not be checked", [element("ul", *unsure)] if unsure else []),
        ("void", "Suppressions that did nothing", [element("ul", *void)] if void else []),
    ):
        if entries:
            yield _section(key, title, _first(entries))
    folded = [
        _folded("Suppressed", of[Kind.SUPPRESSED]),
        _folded("Announced and accepted", of[Kind.ANNOUNCED]),
        _folded("Outside their windows, as predicted", of[Kind.OUTSIDE]),
    ]
    if any(each is not None for each in folded):
        yield _section("rest", "Failures that do not count", folded)


def _section(key: str, title: str, children: Sequence[Child]) -> Element:
    return element("section", element("h2", title, id=key), *children, aria_labelledby=key)


def _first(entries: Sequence[Element]) -> list[Child]:
    more = len(entries) - _SHOWN
    return [*entries[:_SHOWN], element("p", f"… and {more:,} more: see --format json") if more > 0 else None]


def _folded(title: str, entries: Sequence[Found]) -> Element | None:
    if not entries:
        return None
    summary = element("summary", element("h3", f"{title} ({len(entries)})"))
    return element("details", summary, *_first([_failure(each) for each in entries]))


# The matrix


def _matrix(matrix: Matrix) -> Element:
    caption = f"{matrix.application.name or 'The application'} on {on_servers(matrix.servers)}"
    heads = [element("th", "completed", scope="col")]
    for version, nickname in ((Version.OLD, "N"), (Version.NEW, "N+1")):
        heads.append(element("th", f"{name(matrix.application, version)} ({nickname})", scope="col"))
    table = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *heads)),
        element("tbody", *map(_row, matrix.rows)),
    )
    return element("div", table, *_window(matrix.window), *_counts(matrix), class_="application")


def _row(row: Row) -> Element:
    return element(
        "tr", element("th", element("code", row.phase.value), scope="row"), _square(row.old), _square(row.new)
    )


def _square(square: Square) -> Element:
    if square.mark is None:
        return element("td", "not reached", class_="outside")
    if square.agrees:
        return element("td", _mark(square.mark), class_=square.mark.value)
    assert square.forward is not None
    assert square.reverted is not None
    forward = element("div", _mark(square.forward), class_=square.forward.value)
    reverted = element("div", f"{_mark(square.reverted)} after a revert", class_=square.reverted.value)
    return element("td", forward, reverted, class_="split")


def _mark(mark: Mark) -> str:
    return f"{mark.symbol} {mark}"


def _window(window: Window) -> Iterator[Element]:
    kind, text = _COMPARED[window.compared]
    yield element("p", *sentence(window.proven), ".", class_="proven")
    predicted = [] if window.compared is Compared.SAME else [*sentence(window.predicted), "."]
    yield element("p", text, *predicted, class_=kind)


def _counts(matrix: Matrix) -> Iterator[Element]:
    for servers, counts in matrix.counts:
        on = "" if len(matrix.counts) == 1 else f"{on_servers(servers)}: "
        yield element("p", f"{on}{said_of_counts(counts)}.", class_="muted")


def _legend(found_here: Sequence[Matrix]) -> Element | None:
    there = {mark for matrix in found_here for mark in matrix.marks}
    rows: list[Child] = []
    for mark in Mark:
        if mark in there:
            rows += [element("dt", element("span", _mark(mark), class_=mark.value)), element("dd", mark.meaning)]
    note = (
        "A cell holds for the phase reached forwards and come back to by a revert; where they differ, both are shown."
    )
    return element("div", element("p", note, class_="muted"), element("dl", *rows, class_="key")) if rows else None


# Entries


def _failure(each: Found) -> Element:
    held = each.finding
    code = f" (SQLSTATE {held.sqlstate})" if held.sqlstate else ""
    statement = (
        None if held.statement is None else element("pre", element("code", shortened(held.statement, _STATEMENT)))
    )
    facts = [
        ("about", f"{held.subject} ({held.hazard})" if held.hazard else held.subject),
        ("recorded", held.place),
        ("found", FOUND_BY[held.layer]),
        ("to do", held.remedy),
        ("suppressed", held.suppressed),
    ]
    rows = [
        cell for key, text in facts if text for cell in (element("dt", key), element("dd", shortened(text, _STATEMENT)))
    ]
    return element(
        "article",
        element("h3" if each.kind is Kind.BREAKS else "h4", each.where),
        element("p", shortened(f"{held.message}{code}", _STATEMENT)),
        statement,
        element("dl", *rows),
        class_="failure" if each.kind is Kind.BREAKS else "note",
    )


def _unchecked(each: Unchecked) -> Element:
    held = each.unproven
    place = f" ({held.place})" if held.place else ""
    return element(
        "li", f"{each.where}: ", element("code", shortened(held.subject, _STATEMENT)), f"{place}: {held.reason}"
    )


def _void(suppression: Suppression, why: str) -> Element:
    return element("li", f"{suppression.reason} (expires {suppression.expires}): {why}")


def _footer(report: Report) -> Iterator[Element]:
    for migration, digest in report.plans:
        yield element("p", "Plan ", element("code", migration), ", hash ", element("code", digest))
    yield element("p", f"zdmigrate {__version__}, {counted(len(report.runs), 'run')}, exit code {report.exit_code}")
