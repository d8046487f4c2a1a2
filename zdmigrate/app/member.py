"""One instance of an application: who it is, what it says of itself, and what it has been told."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Mapping
from typing import Any

from zdmigrate.app.calls import Argument, Call
from zdmigrate.app.heart import Heart
from zdmigrate.app.shapes import Needs, needs_to_json
from zdmigrate.app.snapshot import Home, Snapshot, Source

_STARTED = time.monotonic()
"""Near enough the start of the process: applications import this when they start."""
_SOON = 0.5
"""Seconds."""


class Member:
    """The heartbeats of one instance, as calls and answers. Does no I/O; used by one thread or task at a time."""

    def __init__(
        self, *, application: str, version: str, schema: str, project: str, needs: Needs | None,
        shapes: Mapping[str, str], source: Source, heart: Heart,
    ) -> None:  # fmt: skip
        self.application, self.version = application, version
        self.heart, self.source = heart, source
        self._schema, self._project = schema, project
        self._needs, self._shapes = needs, shapes
        self._started = _STARTED
        source.home = Home(self.name, schema, project)
        self.instance = ""
        self.renew()

    def renew(self) -> None:
        """Another instance: at the beginning, and in a forked process."""
        self.instance = f"{socket.gethostname()[:100]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._known = False
        self._news = False
        self._sent = 0.0
        self.source.expect(self.heart.lease)

    @property
    def name(self) -> str:
        """``shop/2.4.0``, as sessions of the application are called."""
        return session_name(self.application, self.version)

    def beat(self) -> Call:
        """The next heartbeat: the first one registers."""
        self._sent = time.monotonic()
        seen = Argument("jsonb", self.source.acknowledged())
        asked = Argument("text[]", tuple(self.source.asked))
        lease = Argument("interval", self.heart.lease)
        if self._known:
            return Call(self._schema, "app_beat", (Argument("text", self.instance), lease, seen, asked))
        needs = None if self._needs is None else needs_to_json(self._needs)
        return Call(
            self._schema,
            "app_register",
            (
                Argument("text", self.instance),
                Argument("text", self._project),
                Argument("text", self.application),
                Argument("text", self.version),
                Argument("text", socket.gethostname()),
                Argument("integer", os.getpid()),
                Argument("interval", time.monotonic() - self._started),
                lease,
                Argument("jsonb", needs),
                Argument("jsonb", dict(self._shapes)),
                seen,
                asked,
            ),
        )

    def answered(self, answer: str | None) -> bool:
        """Take note of the answer. Whether there was one: else the database has forgotten us, and wants to know us again."""
        self._known = answer is not None
        if answer is None:
            return False
        document: dict[str, Any] = json.loads(answer)
        before = self.source.current.versions
        snapshot = Snapshot.from_json(document, until=self._sent + self.heart.lease)
        self._news = snapshot.versions != before
        self.source.news += self._news  # first: who is told of a phase must not find a replica that was fit before it
        self.source.current = snapshot
        return True

    def report(self, *, last: bool = False) -> Call | None:
        """What compares have found, when it is time to tell it, or for the `last` time."""
        tally = self.source.tally
        counts = tally.report(last=last)
        if counts is None:
            return None
        return Call(
            self._schema,
            "app_shadow",
            (Argument("text", self._project), Argument("text", tally.reporter), Argument("jsonb", counts)),
        )

    def rest(self) -> float:
        """Seconds until the next heartbeat, after one that was answered. News are acknowledged soon: somebody waits."""
        wait = self.heart.succeeded()
        return min(wait, _SOON) if self._news else wait

    def goodbye(self) -> Call | None:
        """What to say at the end; None where nobody knows us."""
        if not self._known:
            return None
        return Call(self._schema, "app_retire", (Argument("text", self.instance),))


def session_name(application: str, version: str) -> str:
    """``shop/2.4.0``: the name of an application's sessions, cut to the 63 bytes that the server keeps.

    Raises:
        ValueError: an empty name, one that is not printable ASCII (the server would change it), or a slash in `application`.
    """
    for what, value in (("application", application), ("version", version)):
        if not isinstance(value, str) or not value.strip() or not (value.isascii() and value.isprintable()):
            raise ValueError(f"{what} must be printable ASCII, and not empty, not {value!r}")
    if "/" in application:
        raise ValueError(f"application must not have a slash in it, as {application!r} has")
    return f"{application}/{version}".encode()[:63].decode(errors="ignore")
