"""How fast a value grows: the slope of a straight line through what was seen lately. Pure."""

from __future__ import annotations

from collections import deque
from datetime import timedelta


class Slope:
    """Least squares over the samples of the last `window`: one reading that jumps does not turn it round."""

    def __init__(self, window: timedelta) -> None:
        self._window = window.total_seconds()
        self._samples: deque[tuple[float, float]] = deque()

    def add(self, at: float, value: float | None) -> None:
        """A sample of a clock in seconds that only goes forward; None: not known, and what was before is no help."""
        if value is None:
            self._samples.clear()
            return
        self._samples.append((at, value))
        while self._samples[0][0] < at - self._window:
            self._samples.popleft()

    @property
    def per_second(self) -> float | None:
        """None: fewer than two samples."""
        number = len(self._samples)
        if number < 2:
            return None
        middle = sum(at for at, _ in self._samples) / number
        spread = sum((at - middle) ** 2 for at, _ in self._samples)
        return None if spread == 0 else sum((at - middle) * value for at, value in self._samples) / spread
