"""``junit``: one test case for each version, state, application and server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.etree import ElementTree as ET

from zdmigrate.compat.formats.escaping import one_line, printable, shortened
from zdmigrate.compat.report import Finding, Report, Run, State, Version
from zdmigrate.compat.summary.failures import FOUND_BY, Kind, kind
from zdmigrate.compat.summary.matrix import Mark, mark
from zdmigrate.compat.summary.phrases import name
from zdmigrate.plan import Plan

__all__ = ["render"]

_STATEMENT = 2000


def render(report: Report, _plans: Sequence[Plan]) -> str:
    """A `testsuites` document. What could not be checked is an error, what fails outside its window is skipped."""
    root = ET.Element("testsuites", name="zdmigrate check")
    root.extend(_suite(run) for run in report.runs)
    _count(root)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(run: Run) -> ET.Element:
    title = f"{run.application.name or 'application'} on {run.server}"
    suite = ET.Element("testsuite", name=one_line(title), time="0")
    for version in Version:
        for state in run.reached:
            suite.append(_case(run, version, state, title))
    _count(suite)
    return suite


def _case(run: Run, version: Version, state: State, title: str) -> ET.Element:
    label = f"{name(run.application, version)} in {state}"
    case = ET.Element("testcase", classname=one_line(title.replace(".", "_")), name=one_line(label), time="0")
    mine = [f for f in run.findings if f.version is version and f.state == state]
    match mark(run, version, state):
        case Mark.BROKEN:
            broken = [finding for finding in mine if kind(run, finding) is Kind.BREAKS]
            _add(case, "failure", broken[0].message, "\n\n".join("\n".join(_told(finding)) for finding in broken))
        case Mark.UNKNOWN:
            reasons = [f"{each.subject}: {each.reason}" for each in run.unproven if each.version in (None, version)]
            _add(case, "error", "could not be checked", "\n".join(reasons))
        case Mark.OUTSIDE:
            _add(case, "skipped", "fails outside its window, as predicted", None)
        case Mark.SUPPRESSED:
            _add(case, "skipped", f"suppressed: {'; '.join(f.suppressed for f in mine if f.suppressed)}", None)
        case Mark.RECONNECT:
            case.append(_element("system-out", "\n\n".join("\n".join(_told(finding)) for finding in mine)))
        case Mark.WORKS:
            pass
    return case


def _told(finding: Finding) -> Iterator[str]:
    yield finding.message
    if finding.statement is not None:
        yield f"statement: {shortened(finding.statement, _STATEMENT)}"
    if finding.place is not None:
        yield f"recorded: {finding.place}"
    facts = [f"SQLSTATE {finding.sqlstate}" if finding.sqlstate else "", finding.hazard or "", FOUND_BY[finding.layer]]
    yield f"about: {finding.subject} ({', '.join(fact for fact in facts if fact)})"
    yield f"to do: {finding.remedy}"


def _add(case: ET.Element, tag: str, message: str, text: str | None) -> None:
    element = _element(tag, text)
    element.set("message", shortened(one_line(message), _STATEMENT))
    case.append(element)


def _element(tag: str, text: str | None) -> ET.Element:
    element = ET.Element(tag)
    element.text = None if text is None else printable(text)
    return element


def _count(element: ET.Element) -> None:
    for key, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(key, str(sum(1 for _ in element.iter(tag))))
