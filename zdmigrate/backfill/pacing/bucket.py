"""A budget of WAL bytes per second. Pure but for the clock, which is handed in.

Whoever writes asks how long to wait first. The answer takes the bytes at once: what is not there yet is a debt, and
the next one waits for it too. Not synchronised: threads that share one take a lock around the call.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBucket:
    """`rate` bytes per second, and at most `burst` bytes saved up.

    Whoever writes only after the wait that `wait_for` names writes, in the `t` seconds after any moment, at most
    ``burst + rate * t`` bytes. One write may be larger than the burst: it is paid for before.

    Args:
        rate: bytes per second; None is unlimited.
        burst: bytes that may be written at once after a pause; by default half a second's.
        clock: seconds that only grow.
    """

    def __init__(
        self, rate: float | None, *, burst: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        _check(rate, burst)
        self._rate, self._fixed_burst, self._clock = rate, burst, clock
        self._at = clock()
        self._tokens = self.burst

    @property
    def rate(self) -> float | None:
        """Bytes per second; None is unlimited."""
        return self._rate

    @property
    def burst(self) -> float:
        """Bytes that may be saved up."""
        if self._fixed_burst is not None:
            return self._fixed_burst
        return 0.0 if self._rate is None else self._rate / 2

    @property
    def debt(self) -> float:
        """Bytes that were taken and are not paid yet."""
        self._refill()
        return max(0.0, -self._tokens)

    def change(self, rate: float | None) -> None:
        """Another rate from now on. Debts are paid at the new one; without a limit they are forgotten.

        A limit that is new begins with nothing saved up.
        """
        _check(rate, self._fixed_burst)
        self._refill()
        if self._rate is None or rate is None:
            self._tokens = 0.0
        self._rate = rate
        self._tokens = min(self._tokens, self.burst)

    def wait_for(self, amount: float) -> float:
        """Take `amount` bytes; seconds to wait before writing them."""
        if amount < 0:
            raise ValueError("bytes are not negative")
        self._refill()
        if self._rate is None:
            return 0.0
        self._tokens -= amount
        return max(0.0, -self._tokens / self._rate)

    def correct(self, *, taken: float, written: float) -> None:
        """An estimate was taken; this is what was really written. The difference is owed, or given back."""
        self._refill()
        if self._rate is not None:
            self._tokens = min(self.burst, self._tokens + taken - written)

    def _refill(self) -> None:
        now = self._clock()
        if self._rate is not None:
            self._tokens = min(self.burst, self._tokens + self._rate * max(0.0, now - self._at))
        self._at = now


def _check(rate: float | None, burst: float | None) -> None:
    if rate is not None and rate <= 0:
        raise ValueError("a rate is above 0, or None for no limit")
    if burst is not None and burst < 0:
        raise ValueError("a burst is not negative")
