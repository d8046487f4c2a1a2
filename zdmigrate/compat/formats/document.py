"""``json``: the report as a document for programs, from which it can be made again. Documented in docs/reference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from zdmigrate.compat.report import Report, Run, State, Suppression, Version, proven_window
from zdmigrate.compat.summary.matrix import mark
from zdmigrate.errors import UsageError
from zdmigrate.plan import Plan

__all__ = ["FORMAT", "from_json", "render", "to_json"]

FORMAT = 1


def render(report: Report, _plans: Sequence[Plan]) -> str:
    """The document; of the plans it holds the hashes."""
    text = json.dumps(to_json(report), ensure_ascii=False, indent=2) + "\n"
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair is no text that JSON can hold


def to_json(report: Report) -> dict[str, Any]:
    """The document as plain values: the report, and what follows from it."""
    return {
        "format": FORMAT,
        "exit_code": report.exit_code,
        "plans": [{"migration": migration, "hash": digest} for migration, digest in report.plans],
        "runs": [_run(run) for run in report.runs],
        "void": [{"suppression": msgspec.to_builtins(each), "why": why} for each, why in report.void],
    }


def _run(run: Run) -> dict[str, Any]:
    old_until, new_from = proven_window(run)
    held: dict[str, Any] = msgspec.to_builtins(run)
    matrix = [_cell(run, version, state) for version in Version for state in run.reached]
    proven = {"old_until": old_until, "new_from": new_from}
    return {**held, "exit_code": run.exit_code, "proven": proven, "matrix": matrix}


def _cell(run: Run, version: Version, state: State) -> dict[str, str]:
    return {
        "version": version,
        "phase": state.phase,
        "direction": state.direction,
        "mark": mark(run, version, state),
    }


class _Plan(msgspec.Struct):
    migration: str
    hash: str


class _Void(msgspec.Struct):
    suppression: Suppression
    why: str


class _Document(msgspec.Struct):
    """What is read again; the rest follows from it."""

    format: int
    plans: list[_Plan]
    runs: tuple[Run, ...]
    void: list[_Void]


def from_json(data: bytes | str, *, name: str = "the document") -> Report:
    """The report that `render` was given.

    Raises:
        UsageError: it is none, or one of a newer zdmigrate; `name` says which.
    """
    try:
        found = msgspec.json.decode(data, type=_Document)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _unreadable(name, str(error)) from error
    if found.format != FORMAT:
        raise _unreadable(name, f"its format is {found.format}, this version knows {FORMAT}")
    return Report(
        plans=tuple((plan.migration, plan.hash) for plan in found.plans),
        runs=found.runs,
        void=tuple((each.suppression, each.why) for each in found.void),
    )


def _unreadable(name: str, why: str) -> UsageError:
    return UsageError(f"{name} is no report of a check: {why}", hint="zdmigrate check --format json makes one")
