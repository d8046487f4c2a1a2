"""Connections that had their statements prepared before a phase changed the schema."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zdmigrate.compat.probing.asking import ask
from zdmigrate.compat.probing.client import Client, Failure
from zdmigrate.compat.probing.needs import Settled
from zdmigrate.compat.probing.probes import Probe

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
            name = f"zd{number}"
            if client.prepare(name, probe.sql, probe.types) is None:
                self._warm[name] = probe
                client.execute(name, probe.values)
            client.back()
        client.end()

    def repeat(self, fresh: Client) -> Iterator[tuple[Probe, Failure]]:
        """Execute it all again; yields what fails although it works on `fresh`, a connection that knows nothing."""
        failed = list(self._failing())
        outcomes = ask(fresh, [probe for probe, _ in failed])
        for (probe, failure), outcome in zip(failed, outcomes, strict=True):
            if outcome.failure is None:
                yield probe, failure

    def _failing(self) -> Iterator[tuple[Probe, Failure]]:
        self._client.begin()
        for name, probe in self._warm.items():
            answer = self._client.execute(name, probe.values)
            self._client.back()
            if isinstance(answer, Failure):
                yield probe, answer
        self._client.end()
