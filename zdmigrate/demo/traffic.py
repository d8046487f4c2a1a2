"""Both versions' applications at work in threads, which begin and stop when they are told.

Whoever moves the engine calls `assign` before and after, and `hold` to stay until everybody has done enough.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import Self

import sqlalchemy as sa

from zdmigrate.demo.application import Application
from zdmigrate.demo.entities import Entity
from zdmigrate.demo.example import Example
from zdmigrate.demo.pairing import entities
from zdmigrate.demo.registry import Registry
from zdmigrate.demo.values import FIRST
from zdmigrate.demo.workload import Version, WrongValue
from zdmigrate.errors import ZdmigrateError

__all__ = ["Findings", "Traffic"]

ENOUGH = 25
"""Violations after which there is no point in going on."""
PATIENCE = 90.0
PAUSE = 0.003
"""Seconds between two requests of a thread while nobody waits for requests: the engine needs the processor, too."""


@dataclasses.dataclass(slots=True)
class Findings:
    """What was done and what went wrong.

    `requests` are counted by version, stage and operation; `bad`, those that failed or saw a wrong value, by version
    and stage.
    """

    failed: list[str] = dataclasses.field(default_factory=list)
    wrong: list[str] = dataclasses.field(default_factory=list)
    requests: Counter[tuple[Version, str, str]] = dataclasses.field(default_factory=Counter)
    bad: Counter[tuple[Version, str]] = dataclasses.field(default_factory=Counter)
    slowest: dict[tuple[Version, str], float] = dataclasses.field(default_factory=dict)

    @property
    def violations(self) -> list[str]:
        return [*self.failed, *self.wrong]

    def total(self, version: Version, stage: str) -> int:
        """The requests of a version in a stage."""
        return sum(count for (v, s, _), count in self.requests.items() if (v, s) == (version, stage))


class Traffic:
    """The applications of an example. A context manager; the database must be seeded.

    Nobody works until `assign` says so. Without `prepare_threshold` the driver prepares nothing, which is what one
    does where the type of a column changes under the same name.
    """

    def __init__(self, example: Example, url: str, *, threads: int = 2, prepare_threshold: int | None = None) -> None:
        self.findings = Findings()
        self.stage = ""
        self.entities = entities(example)
        self.registry = Registry(self.entities)
        self.changed = threading.Condition()
        self.live: frozenset[Version] = frozenset()
        self.orders = 0
        self.holding = False
        self.stopping = False
        options = {"prepare_threshold": prepare_threshold}
        self._engines = {
            version: sa.create_engine(
                url, pool_size=threads, connect_args=options | {"application_name": f"example {version}"}
            )
            for version in Version
        }
        numbers = itertools.count(FIRST)
        self._applications = {
            version: [
                Application(version, self.registry, self._engines[version], numbers, random.Random(f"{version}{n}"))
                for n in range(threads)
            ]
            for version in Version
        }
        self._workers = [_Worker(self, application) for each in self._applications.values() for application in each]

    def __enter__(self) -> Self:
        for entity in self.entities:
            if Version.N in entity.classes:
                self._applications[Version.N][0].take_down(entity)
        for worker in self._workers:
            worker.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        for worker in self._workers:
            worker.thread.join(timeout=PATIENCE)
        for engine in self._engines.values():
            engine.dispose()

    def assign(self, live: Iterable[Version]) -> None:
        """Let these versions work, and no others; nobody is inside a request under the former order afterwards."""
        wanted = frozenset(live)
        if wanted == self.live:
            return
        if Version.NEXT in wanted - self.live:
            self._begin_next()
        with self.changed:
            self.live = wanted
            self.orders += 1
            self.changed.notify_all()
            done = self.changed.wait_for(self._everybody_knows, timeout=PATIENCE)
        if not done:
            raise ZdmigrateError(f"a request hangs: it did not end within {PATIENCE:g} s")

    def end_next(self) -> None:
        """N+1 is gone for good, or until its shape is made anew."""
        self.registry.stop(Version.NEXT)

    def operations(self, version: Version) -> list[tuple[Entity, str]]:
        """What a version may do now."""
        application, both = self._applications[version][0], len(self.live) == 2
        return [(entity, name) for entity in self.entities for name in application.operations(entity, both=both)]

    def hold(self, minimum: int) -> None:
        """Stay until each version at work has done each of its operations `minimum` times from now on."""
        findings, stage = self.findings, self.stage
        keys = {(version, stage, name) for version in self.live for _, name in self.operations(version)}
        wanted = {key: findings.requests[key] + minimum for key in keys}

        def enough() -> bool:
            done = all(findings.requests[key] >= count for key, count in wanted.items())
            return done or len(findings.violations) >= ENOUGH

        with self.changed:
            self.holding = True
            self.changed.notify_all()
            reached = self.changed.wait_for(enough, timeout=PATIENCE)
            self.holding = False
            if not reached:
                behind = ", ".join(
                    f"{name} of {version}: {findings.requests[version, stage, name]}"
                    for version, _, name in sorted(keys)
                )
                raise ZdmigrateError(f"{stage}: too few requests within {PATIENCE:g} s ({behind})")

    def compare(self, versions: Iterable[Version] | None = None) -> int:
        """Hold every row against what was written to it last, while everybody rests; the number of rows compared.

        They are read through these versions, or through those at work.
        """
        live, count = self.live, 0
        self.assign(())
        for version in sorted(live if versions is None else versions):
            for entity in self.entities:
                if version in entity.classes:
                    found, wrong = self._applications[version][0].compare_all(entity)
                    count += found
                    self.findings.wrong += [f"{self.stage}: {text}" for text in wrong]
        self.assign(live)
        return count

    def _begin_next(self) -> None:
        """What only N+1 has may have been made by the migration."""
        for entity in self.entities:
            if {*entity.classes} == {Version.NEXT} and not self.registry.rows(entity):
                self._applications[Version.NEXT][0].take_down(entity)

    def _everybody_knows(self) -> bool:
        return all(worker.order == self.orders for worker in self._workers)


class _Worker:
    """A thread of one version: requests in a random order, every operation as often as any other."""

    def __init__(self, traffic: Traffic, application: Application) -> None:
        self.order = 0
        self.thread = threading.Thread(target=self._serve, name=f"{application.version}", daemon=True)
        self._traffic = traffic
        self._application = application
        self._chance = random.Random(0)
        self._deck: list[tuple[Entity, str]] = []

    def _serve(self) -> None:
        while self._next_order():
            if not self._deck:
                self._deck = self._traffic.operations(self._application.version)
                self._chance.shuffle(self._deck)
            if self._deck:
                self._request(*self._deck.pop())

    def _next_order(self) -> bool:
        """Wait until there is something to do; False at the end."""
        traffic, version = self._traffic, self._application.version
        with traffic.changed:
            if not traffic.holding:
                traffic.changed.wait_for(lambda: traffic.stopping or traffic.holding or self._is_behind(), PAUSE)
            while not traffic.stopping:
                if self._is_behind():
                    self.order = traffic.orders
                    self._deck.clear()
                    traffic.changed.notify_all()
                if version in traffic.live:
                    return True
                traffic.changed.wait_for(lambda: traffic.stopping or self._is_behind())
        return False

    def _is_behind(self) -> bool:
        return self.order != self._traffic.orders

    def _request(self, entity: Entity, operation: str) -> None:
        version, findings = self._application.version, self._traffic.findings
        stage, started, failed, wrong = self._traffic.stage, time.perf_counter(), "", ""
        try:
            self._application.request(entity, operation)
        except WrongValue as error:
            wrong = f"{stage}: {operation} of {version}: {error}"
        except Exception as error:  # noqa: BLE001  # a request that fails is a finding, whatever it fails with
            text = " ".join(str(getattr(error, "orig", None) or error).split())
            failed = f"{stage}: {operation} of {version} on {entity.name}: {type(error).__name__}: {text}"
        took = time.perf_counter() - started
        with self._traffic.changed:
            findings.failed += [failed] if failed else []
            findings.wrong += [wrong] if wrong else []
            findings.requests[version, stage, operation] += 1
            findings.bad[version, stage] += bool(failed or wrong)
            findings.slowest[version, stage] = max(took, findings.slowest.get((version, stage), 0.0))
            self._traffic.changed.notify_all()
