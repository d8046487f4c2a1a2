"""Suppressions: failures of which somebody knows better, for a while, with a reason. From the configuration; pure.

A suppression never hides that it is there: what it covers stays in the report, one that covers nothing is reported, and
one that has expired is void, so that the exit code is again that of the failures.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from zdmigrate.compat.report import Finding, Run, Suppression
from zdmigrate.config import Config
from zdmigrate.errors import ConfigError

__all__ = ["Void", "apply", "read"]

Void = tuple[Suppression, str]
"""A suppression that did nothing, and why."""

_KEYS = tuple(field.name for field in dataclasses.fields(Suppression))
_SELECTORS = ("layer", "hazard", "sqlstate", "contains")
"""What names a failure; a whole application, version or phase does not."""


def read(config: Config) -> tuple[Suppression, ...]:
    """Those of ``[[compat.suppress]]`` (in `pyproject.toml` ``[[tool.zdmigrate.compat.suppress]]``).

    Raises:
        ConfigError: naming the file and the entry, counted from 1.
    """
    return tuple(
        _entry(raw, f"{config.file}: compat.suppress, entry {number}")
        for number, raw in enumerate(config.suppress, start=1)
    )


def _entry(raw: Mapping[str, Any], label: str) -> Suppression:
    for key in raw:
        if key not in _KEYS:
            nearest = difflib.get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"keys are {', '.join(_KEYS)}"
            raise ConfigError(f"{label}: unknown key {key}", hint=hint)
    if not str(raw.get("reason", "")).strip():
        raise ConfigError(f"{label}: it gives no reason", hint='reason = "why this failure does not matter"')
    if "expires" not in raw:
        raise ConfigError(f"{label}: it never expires", hint="expires = 2027-01-31")
    if not any(raw.get(key) for key in _SELECTORS):
        raise ConfigError(
            f"{label}: it does not say which failure it is about", hint=f"give one of {', '.join(_SELECTORS)}"
        )
    try:
        return msgspec.convert(dict(raw), Suppression)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at ")
        raise ConfigError(f"{label}: {where.strip('`').removeprefix('$.')}: {message.replace('`', '')}") from None


def apply(
    suppressions: Sequence[Suppression], runs: Sequence[Run], *, today: dt.date
) -> tuple[tuple[Run, ...], tuple[Void, ...]]:
    """The runs with the reasons why findings do not count, and the suppressions that did nothing.

    Only failures inside the predicted windows are suppressed: elsewhere nothing needs it, and a version that fails would
    seem to work. The last day of a suppression is `expires`.
    """
    valid = [each for each in suppressions if today <= each.expires]
    used: set[Suppression] = set()
    done = tuple(_suppressed(run, valid, used) for run in runs)
    void = tuple((each, _why(each, runs, today)) for each in suppressions if each not in used)
    return done, void


def _suppressed(run: Run, valid: Sequence[Suppression], used: set[Suppression]) -> Run:
    findings = []
    for finding in run.findings:
        reason = None
        if _needs(run, finding):
            covering = [each for each in valid if each.covers(run.application.name, finding)]
            used.update(covering)
            reason = next((each.reason for each in covering), None)
        findings.append(finding if reason is None else dataclasses.replace(finding, suppressed=reason))
    return dataclasses.replace(run, findings=tuple(findings))


def _needs(run: Run, finding: Finding) -> bool:
    return finding.counts and run.predicts(finding.version, finding.state)


def _why(suppression: Suppression, runs: Sequence[Run], today: dt.date) -> str:
    covered = [
        _needs(run, finding)
        for run in runs
        for finding in run.findings
        if suppression.covers(run.application.name, finding)
    ]
    if today > suppression.expires:
        again = f", and {sum(covered)} of the failures that it covers count again" if any(covered) else ""
        return f"it expired on {suppression.expires}{again}"
    return "all that it covers does not count anyway" if covered else "nothing that it covers was found"
