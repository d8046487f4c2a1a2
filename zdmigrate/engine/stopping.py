"""Somebody asks a command to stop: where it can end in good order, it does so by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class Stop:
    """Whether it was asked to. `ask` may be called by a signal handler at any moment."""

    def __init__(self) -> None:
        self._asked = False
        self._listening = False

    def ask(self) -> bool:
        """Ask it to stop. False: nobody listens, or it was asked before; whoever asks has to end it."""
        heard, self._asked = self._listening and not self._asked, True
        return heard

    @property
    def asked(self) -> bool:
        """Whether it was asked."""
        return self._asked

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """In here somebody looks at `asked` several times a second."""
        before, self._listening = self._listening, True
        try:
            yield
        finally:
            self._listening = before
