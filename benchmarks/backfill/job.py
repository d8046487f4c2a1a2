"""One variant in a process of its own: ``python -m benchmarks.backfill.job VARIANT CONNINFO``.

It prints when it began and ended, and its own peak memory. Starting Python and connecting do not count.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.backfill.variants import VARIANTS


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Seconds since 1970, and bytes."""

    began: float
    ended: float
    peak_memory: int

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def run(variant: str, conninfo: str) -> Done:
    """In a process; raises subprocess.CalledProcessError where it fails."""
    command = (sys.executable, "-m", "benchmarks.backfill.job", variant, conninfo)
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=True, stdout=subprocess.PIPE)
    return Done(**json.loads(done.stdout))


def main(variant: str, conninfo: str) -> None:
    began = time.time()
    VARIANTS[variant].fill(conninfo)
    ended = time.time()
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print(json.dumps(dataclasses.asdict(Done(began=began, ended=ended, peak_memory=peak))))


if __name__ == "__main__":
    main(*sys.argv[1:])
