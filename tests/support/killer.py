"""A driver that runs the real command line in forked processes, and kills or stops them after a chosen statement.

``python -m tests.support.killer`` imports everything once and then forks for each line of JSON on its standard input,
so that a run costs its work and not half a second of imports. Each run is a process of its own, of which a second
process reports through a named pipe: its pid, that it was stopped, how it ended.

What is counted are the round trips of the main thread (`psycopg.Connection.wait`): every statement, BEGIN and COMMIT
included. The process dies when the n-th was answered (``after``), or when it was sent and nothing came back yet
(``sent``: the server goes on with it). ``stop`` is SIGSTOP instead. Where ``match`` is given, the n-th is the first
whose text contains it, or the one that comes ``skip`` round trips later.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import signal
import sys
import threading
import traceback
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psycopg
import psycopg.waiting

import zdmigrate
from zdmigrate.cli import main as zdmigrate_main
from zdmigrate.engine.executor import Executor

__all__ = ["main"]

WAIT_FOR_ANSWER = int(psycopg.waiting.Wait.R)
_OTHERS = ("click._textwrap", "importlib.readers", "importlib.resources.readers", "sqlalchemy.dialects.postgresql")
_PARTS = ("app", "backfill", "changes", "cli", "control", "engine", "planning")
"""What commands import when they need it. SQLAlchemy, which every migration file imports, takes a third of a second."""


class Instrument:
    """Counts round trips of the main thread, notes the step they belong to, and acts at one of them."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._at: int | None = order.get("at")
        self._match: str | None = order.get("match")
        self._skip: int = order.get("skip", 0)
        self._when: str = order.get("when", "after")
        self._signal = signal.SIGSTOP if order.get("stop") else signal.SIGKILL
        self._trace = order.get("trace")
        self._step = ""
        self._text = ""
        self.seen: list[tuple[str, str]] = []

    def install(self) -> None:
        """Wrap what every statement goes through."""
        wait, execute = psycopg.Connection.wait, psycopg.Cursor.execute

        def counted(connection: Any, gen: Any, *args: Any, **options: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return wait(connection, gen, *args, **options)
            text, self._text = self._text, ""
            self.seen.append((self._step, text))
            here = self._is_here(text)
            result = wait(connection, self._sent(gen) if here and self._when == "sent" else gen, *args, **options)
            if here:
                self._act()
            return result

        def noted(cursor: Any, query: Any, *args: Any, **options: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                self._text = _as_text(query, cursor)
            return execute(cursor, query, *args, **options)

        psycopg.Connection.wait = counted  # type: ignore[assignment, method-assign]
        psycopg.Cursor.execute = noted  # type: ignore[assignment, method-assign]
        for name in ("do", "undo"):
            self._wrap_step(name)

    def save(self) -> None:
        """Write down what was sent."""
        if self._trace:
            Path(self._trace).write_text(json.dumps(self.seen), encoding="utf-8")

    def _wrap_step(self, name: str) -> None:
        method = getattr(Executor, name)

        def within(executor: Executor, step: Any) -> None:
            self._step = f"{name} {step.id}"
            try:
                method(executor, step)
            finally:
                self._step = ""

        setattr(Executor, name, within)

    def _is_here(self, text: str) -> bool:
        if self._match is not None and self._match in text:
            self._match, self._at = None, len(self.seen) + self._skip
        return self._at == len(self.seen)

    def _act(self) -> None:
        self._match = self._at = None
        os.kill(os.getpid(), self._signal)

    def _sent(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """The generator of a statement, until it waits for an answer: then everything is in the server's hands."""
        value = None
        with contextlib.closing(gen):
            try:
                wanted = next(gen)
                while True:
                    if int(wanted) == WAIT_FOR_ANSWER and self._when == "sent":
                        self._when = ""
                        self._act()
                    value = yield wanted
                    wanted = gen.send(value)
            except StopIteration as stop:
                return stop.value


def main() -> None:
    """Serve orders until standard input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the reporters are reaped by the kernel
    ours = [module.name for module in pkgutil.walk_packages(zdmigrate.__path__, "zdmigrate.")]
    for name in (*_OTHERS, *(name for name in ours if name.split(".")[1] in _PARTS), "zdmigrate.compat.evidence"):
        importlib.import_module(name)
    gc.freeze()  # the pages of all this stay shared
    for line in sys.stdin:
        if os.fork() == 0:
            _report(json.loads(line))
    os._exit(0)


def _report(order: dict[str, Any]) -> None:
    """Fork the process that works, and tell through the pipe what becomes of it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        _work(order)
    with Path(order["pipe"]).open("w", buffering=1, encoding="utf-8") as pipe:
        pipe.write(f"{child}\n")
        while True:
            _, status = os.waitpid(child, os.WUNTRACED)
            if os.WIFSTOPPED(status):
                pipe.write("stopped\n")
            else:
                pipe.write(f"{os.waitstatus_to_exitcode(status)}\n")
                os._exit(0)


def _work(order: dict[str, Any]) -> None:
    """The command, as a fresh process would run it."""
    os.chdir(order["cwd"])
    os.environ.update(order["env"])
    for stream, name in ((0, "/dev/null"), (1, order["out"]), (2, order["err"])):
        flags = os.O_RDONLY if stream == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        descriptor = os.open(name, flags, 0o600)
        os.dup2(descriptor, stream)
        os.close(descriptor)
    instrument = Instrument(order.get("kill") or {})
    instrument.install()
    code = 70
    try:
        zdmigrate_main(order["args"], prog_name="zdmigrate")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001  # a child must never return into the driver
        traceback.print_exc()
    finally:
        instrument.save()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _as_text(query: Any, cursor: Any) -> str:
    if isinstance(query, bytes):
        return query.decode()
    return query if isinstance(query, str) else str(query.as_string(cursor))


if __name__ == "__main__":
    main()
