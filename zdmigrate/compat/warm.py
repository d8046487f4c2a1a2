"""Connections that had their statements prepared before a phase changed the schema."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from zdmigrate.compat.client import Client, Failure
from zdmigrate.compat.needs import Settled
from zdmigrate.compat.probes import Probe

__all__ = ["WarmClient"]


class WarmClient:
    """One long-lived connection of a version, which keeps everything prepared that its drivers may keep."""

    def __init__(self, client: Client, settled: Sequence[Settled]) -> None:
        self._client = client
        self._probes = [each.probe for each in settled if each.executes and each.probe.warm]
        self._warm: dict[str, Probe] = {}

    def warm(self) -> None:
        """Prepare and execute whatever can be in this state, anew."""
        client = self._client
        client.run("DEALLOCATE ALL")
        self._warm = {}
        client.begin()
        for number, probe in enumerate(self._probes):
            name, command = f"zd{number}", probe.commands[-1]
            if client.prepare(name, command.sql, command.types) is None:
                self._warm[name] = probe
                client.execute(name, command.values)
            client.back()
        client.end()

    def repeat(self) -> Iterator[tuple[Probe, Failure]]:
        """Execute it all again; yields what fails."""
        self._client.begin()
        for name, probe in self._warm.items():
            answer = self._client.execute(name, probe.commands[-1].values)
            self._client.back()
            if isinstance(answer, Failure):
                yield probe, answer
        self._client.end()


def only_warm(found: Iterable[tuple[Probe, Failure]], fresh: frozenset[str]) -> Iterator[tuple[Probe, Failure]]:
    """What fails although the same statement works on a new connection; `fresh` are the statements that do not."""
    for probe, failure in found:
        if probe.sql not in fresh:
            yield probe, failure
