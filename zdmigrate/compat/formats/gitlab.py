"""``gitlab``: a code quality report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from zdmigrate.compat.formats.escaping import one_line, shortened
from zdmigrate.compat.report import Report
from zdmigrate.compat.summary.failures import Kind, found, place_of, unchecked
from zdmigrate.plan import Plan

__all__ = ["render"]

_LONG = 1000


def render(report: Report, _plans: Sequence[Plan]) -> str:
    """Failures that count, and what could not be checked. Fingerprints stay the same from run to run."""
    entries = [*_failures(report), *_unchecked(report)]
    return json.dumps(_distinct(entries), ensure_ascii=True, indent=2) + "\n"


def _failures(report: Report) -> Iterator[dict[str, Any]]:
    for each in found(report):
        if each.kind is Kind.BREAKS:
            held = each.finding
            state = f" (SQLSTATE {held.sqlstate})" if held.sqlstate else ""
            text = f"{each.where}: {held.subject}: {held.message}{state}. To do: {held.remedy}"
            yield _entry(report, text, each.rule, each.fingerprint, "critical", held.place)


def _unchecked(report: Report) -> Iterator[dict[str, Any]]:
    for each in unchecked(report):
        held = each.unproven
        text = f"{each.where}: {held.subject} could not be checked: {held.reason}"
        yield _entry(report, text, "zdmigrate-unchecked", each.fingerprint, "major", held.place)


def _entry(report: Report, text: str, check: str, fingerprint: str, severity: str, place: str | None) -> dict[str, Any]:
    # A location is required: what was recorded nowhere is about the migration.
    migration = report.plans[0][0] if report.plans else "migrations"
    file, line = place_of(place) or (f"{migration}.py", 1)
    return {
        "description": shortened(one_line(text), _LONG),
        "check_name": one_line(check),
        "fingerprint": fingerprint,
        "severity": severity,
        "location": {"path": one_line(file), "lines": {"begin": line}},
    }


def _distinct(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same failure in other words on another server has a fingerprint of its own, in order."""
    seen: Counter[str] = Counter()
    for entry in entries:
        seen[entry["fingerprint"]] += 1
        if (number := seen[entry["fingerprint"]]) > 1:
            entry["fingerprint"] += f"-{number}"
    return entries
