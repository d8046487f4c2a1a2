"""Where the application asked for a statement: the innermost frame that is neither a library's nor the interpreter's."""

from __future__ import annotations

import os
import sys
import sysconfig
from types import CodeType, FrameType
from typing import NamedTuple

__all__ = ["Found", "Place", "Places"]

Place = tuple[int, int]
"""A piece of code (by its id) and an instruction in it: cheaper to find than the line, for every execution."""


class Found(NamedTuple):
    """A place, and how many calls above `Places.current` it is."""

    place: Place
    depth: int


_LIBRARIES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_PATHS = sysconfig.get_paths()
_STANDARD = tuple({_PATHS[key] + os.sep for key in ("stdlib", "platstdlib")})
_OURS = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep


class Places:
    """Finds places, and names them relative to `root`."""

    def __init__(self, root: str) -> None:
        self._root = os.path.realpath(root) + os.sep
        self._codes: dict[int, tuple[bool, CodeType]] = {}
        """By id: the hash of a code object is that of all its constants. Holding them keeps the ids theirs."""

    def current(self, last: Found | None) -> Found | None:
        """The application's innermost frame, None if there is none (a thread of a library).

        `last`: the same statement's before. Where the same code is as deep in the stack again, nothing within it is looked
        at: making the 35 frames that an ORM needs visible is most of what recording costs.
        """
        if last is not None:
            try:
                frame = sys._getframe(last.depth)
            except ValueError:  # the stack is not that deep
                return self._innermost()
            if id(frame.f_code) == last.place[0]:
                return Found((last.place[0], frame.f_lasti), last.depth)
        return self._innermost()

    def _innermost(self) -> Found | None:
        frame: FrameType | None = sys._getframe(2)
        codes = self._codes
        depth = 1
        while frame is not None:
            code = frame.f_code
            known = codes.get(id(code))
            if known is None:
                known = codes[id(code)] = (self._is_own(code.co_filename), code)
            if known[0]:
                return Found((id(code), frame.f_lasti), depth)
            frame = frame.f_back
            depth += 1
        return None

    def text(self, place: Place) -> str:
        """``myapp/models.py:12``."""
        id_, instruction = place
        code = self._codes[id_][1]
        line = code.co_firstlineno
        for start, end, number in code.co_lines():
            if start <= instruction < end and number is not None:
                line = number
        return f"{self._relative(code.co_filename)}:{line}"

    def _is_own(self, file: str) -> bool:
        if file.startswith("<"):
            return False
        path = os.path.abspath(file)
        return not (path.startswith((_OURS, *_STANDARD)) or any(each in path for each in _LIBRARIES))

    def _relative(self, file: str) -> str:
        """Relative to the root; outside of it as a module, so that no path of a machine gets into the file."""
        path = os.path.realpath(file)
        if path.startswith(self._root):
            return path[len(self._root) :].replace(os.sep, "/")
        entries = [os.path.realpath(entry) + os.sep for entry in sys.path if entry]
        inside = [path[len(entry) :] for entry in entries if path.startswith(entry)]
        return min(inside, key=len, default=os.path.basename(path)).replace(os.sep, "/")
