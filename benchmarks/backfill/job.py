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
    print(json.dumps(dataclasses.asdict(Done(began=began, ended=ended, peak_memory=_peak_memory()))))


def _peak_memory() -> int:
    """On Linux not getrusage's, which counts the memory of the process that started this one as well."""
    status = Path("/proc/self/status")
    if status.is_file():
        (peak,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main(*sys.argv[1:])
