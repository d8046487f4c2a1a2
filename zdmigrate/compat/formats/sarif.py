"""``sarif``: SARIF 2.1.0, for code scanning. Suppressed failures are in it, with their reasons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from zdmigrate import __version__
from zdmigrate.compat.formats.escaping import one_line, printable, shortened
from zdmigrate.compat.report import Report
from zdmigrate.compat.summary.failures import FOUND_BY, Found, Kind, Unchecked, found, place_of, unchecked
from zdmigrate.plan import Plan

__all__ = ["render"]

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Kind.BREAKS: "error", Kind.SUPPRESSED: "error", Kind.ANNOUNCED: "note", Kind.OUTSIDE: "none"}
_STATEMENT = 4000


def render(report: Report, _plans: Sequence[Plan]) -> str:
    """One run of one tool. What fails outside its window, as predicted, is left out."""
    shown = [each for each in found(report) if each.kind is not Kind.OUTSIDE]
    rules = {_rule(each): each for each in reversed(shown)}
    driver = {"name": "zdmigrate", "version": __version__, "rules": [_described(r, rules[r]) for r in sorted(rules)]}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "invocations": [_invocation(report)],
        "results": [_result(each, sorted(rules)) for each in shown],
    }
    document = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(document, ensure_ascii=True, indent=2) + "\n"


def _invocation(report: Report) -> dict[str, Any]:
    return {
        "executionSuccessful": report.exit_code != 1,
        "exitCode": report.exit_code,
        "toolExecutionNotifications": [_notification(each) for each in unchecked(report)],
    }


def _rule(each: Found) -> str:
    return one_line(each.rule)


def _described(rule: str, each: Found) -> dict[str, Any]:
    what = f"found {FOUND_BY[each.finding.layer]}"
    return {"id": rule, "shortDescription": {"text": what}, "help": {"text": printable(each.finding.remedy) or what}}


def _result(each: Found, rules: Sequence[str]) -> dict[str, Any]:
    held = each.finding
    lines = [f"{each.where}: {held.message}"]
    lines += [f"Statement: {shortened(held.statement, _STATEMENT)}"] if held.statement else []
    lines += [f"SQLSTATE {held.sqlstate}"] if held.sqlstate else []
    lines += [f"Found {FOUND_BY[held.layer]}. To do: {held.remedy}"]
    result: dict[str, Any] = {
        "ruleId": _rule(each),
        "ruleIndex": rules.index(_rule(each)),
        "level": _LEVELS[each.kind],
        "message": {"text": printable("\n".join(lines))},
        "locations": [_location(held.subject, held.place)],
        "partialFingerprints": {"zdmigrate/v1": each.fingerprint},
        "properties": {
            "application": printable(each.application.name),
            "version": held.version.value,
            "states": [str(state) for state in each.states],
            "servers": [printable(server) for server in each.servers],
            "layer": held.layer.value,
        },
    }
    if held.suppressed is not None:
        result["suppressions"] = [{"kind": "external", "justification": printable(held.suppressed)}]
    return result


def _location(subject: str, place: str | None) -> dict[str, Any]:
    location: dict[str, Any] = {"logicalLocations": [{"fullyQualifiedName": one_line(subject)}]}
    if (at := place_of(place)) is not None:
        file, line = at
        uri = quote(file.encode("utf-8", "backslashreplace"), safe="/")
        location["physicalLocation"] = {"artifactLocation": {"uri": uri}, "region": {"startLine": line}}
    return location


def _notification(each: Unchecked) -> dict[str, Any]:
    text = f"{each.where}: {each.unproven.subject} could not be checked: {each.unproven.reason}"
    return {
        "level": "error",
        "message": {"text": printable(text)},
        "locations": [_location(each.unproven.subject, each.unproven.place)],
    }
