"""Probes asked of a server in one state: what failed, and at which layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from zdmigrate.compat.probing.client import Answer, Client, Failure, Rows
from zdmigrate.compat.probing.probes import Probe
from zdmigrate.compat.report import Layer

__all__ = ["Outcome", "ask", "ask_one"]

_NAME = ""
"""The unnamed statement: the next one takes its place."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A probe's answer; `layer` is that at which it failed, EXECUTE where it did not."""

    probe: Probe
    layer: Layer
    answer: Answer

    @property
    def failure(self) -> Failure | None:
        """What the server said against it."""
        return self.answer if isinstance(self.answer, Failure) else None

    @property
    def copied(self) -> int:
        """How many columns a COPY transfers; 0 for anything else."""
        return self.answer.copied if isinstance(self.answer, Rows) else 0

    @property
    def rows(self) -> int:
        """How many rows were returned or touched."""
        return self.answer.count if isinstance(self.answer, Rows) else 0


def ask(client: Client, probes: Iterable[Probe]) -> Iterator[Outcome]:
    """Each on its own, as on a new connection; nothing stays."""
    client.begin()
    try:
        for probe in probes:
            yield ask_one(client, probe)
    finally:
        client.end()


def ask_one(client: Client, probe: Probe) -> Outcome:
    """The same for one, between `Client.begin` and `Client.end`."""
    layer, answer = _ask(client, probe)
    client.back()
    return Outcome(probe=probe, layer=layer, answer=answer)


def _ask(client: Client, probe: Probe) -> tuple[Layer, Answer]:
    failure = client.prepare(_NAME, probe.sql, probe.types)
    if failure is not None:
        return Layer.PREPARE, failure
    answer = client.execute(_NAME, probe.values)
    if isinstance(answer, Rows) and client.defers and _writes(probe):
        checked = client.run("SET CONSTRAINTS ALL IMMEDIATE")
        answer = checked if isinstance(checked, Failure) else answer
    return Layer.EXECUTE, answer


def _writes(probe: Probe) -> bool:
    return not probe.sql.lstrip("( ").upper().startswith(("SELECT", "TABLE", "VALUES"))
