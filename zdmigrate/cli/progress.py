"""What the engine reports, on stderr: a bar on a terminal, lines elsewhere, NDJSON for programs."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from zdmigrate.cli import rendering

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from zdmigrate.engine.reporting import Event, Reporter

EVERY = 5.0
"""Seconds between two lines about the progress of one step."""


@contextlib.contextmanager
def reporter(*, as_json: bool, redact: Callable[[str], str], kept: Kept | None = None) -> Iterator[Reporter]:
    """The reporter that fits where stderr goes; as JSON it also keeps what the closing document says."""
    if as_json:
        yield _json_lines(redact, Kept() if kept is None else kept)
    elif sys.stderr.isatty():
        with Bar(redact) as bar:
            yield bar
    else:
        yield Lines(redact)


class Kept:
    """How far each step that reported progress came."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str | None], dict[str, object]] = {}

    def add(self, event: Event) -> None:
        """Remember what an event says of progress; what a later one does not say stays."""
        if event.progress is not None:
            self._last.setdefault((event.migration, event.step), {}).update(event.progress)

    def of(self, migration: str) -> list[dict[str, object]]:
        """A migration's steps in the order in which they began, each with its last progress."""
        return [{"step": step, **last} for (id_, step), last in self._last.items() if id_ == migration]


def _json_lines(redact: Callable[[str], str], kept: Kept) -> Reporter:
    def report(event: Event) -> None:
        kept.add(event)
        click.echo(rendering.event_json(event, redact=redact, at=datetime.now(UTC)), err=True)

    return report


class Lines:
    """A line per event, and about a step's progress one every few seconds, when it is done, and when somebody stops it."""

    def __init__(self, redact: Callable[[str], str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._redact = redact
        self._clock = clock
        self._last: dict[tuple[str, str | None], tuple[float, object]] = {}

    def __call__(self, event: Event) -> None:
        if event.kind == "progress" and not self._due(event):
            return
        click.echo(self._redact(rendering.event_text(event)), err=True)

    def _due(self, event: Event) -> bool:
        key, now = (event.migration, event.step), self._clock()
        state = (event.done is not None and event.done == event.total, _stops(event))
        told, before = self._last.get(key, (float("-inf"), None))
        if now - told < EVERY and state == before:
            return False
        self._last[key] = now, state
        return True


def _stops(event: Event) -> list[str]:
    """Who stops the work: said at once when it changes."""
    found = event.progress or {}
    throttled = found.get("throttled")
    names = [str(each["name"]) for each in throttled] if isinstance(throttled, list | tuple) else []
    return names if found.get("paused") is None else [*names, "paused"]


class Bar:
    """Lines, and below them a bar while a step reports progress. rich is imported when the first bar is drawn."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        self._redact = redact
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._tasks: dict[tuple[str, str | None], TaskID] = {}

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, event: Event) -> None:
        with self._lock:
            if event.kind == "progress" and event.done is not None:
                self._advance(event)
            else:
                self._print(self._redact(rendering.event_text(event)))

    def _print(self, text: str) -> None:
        if self._progress is None:
            click.echo(text, err=True)
        else:
            self._progress.console.print(text, markup=False, highlight=False)

    def _advance(self, event: Event) -> None:
        if self._progress is None:
            self._progress = _new_progress()
            self._progress.start()
        key = (event.migration, event.step)
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task("", total=event.total)
        label = self._redact(f"{event.migration} {event.message}")
        self._progress.update(self._tasks[key], description=label, completed=event.done, total=event.total)


def _new_progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
