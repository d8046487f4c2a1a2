"""Run pytest once for every PostgreSQL there is: ``python -m tests.support.each_major [pytest's arguments]``.

A major version without an installation is named, with the reason; none at all is a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys

from zdmigrate.errors import ServerUnavailable
from zdmigrate.postgres.servers import find_binaries

MAJORS = (15, 16, 17, 18)


def main(arguments: list[str]) -> int:
    outcomes: dict[int, str] = {}
    for major in MAJORS:
        try:
            binaries = find_binaries(major)
        except ServerUnavailable as error:
            outcomes[major] = f"skipped: {error.message}"
            continue
        print(f"== PostgreSQL {major} in {binaries.bin}", flush=True)
        environment = os.environ | {"ZDMIGRATE_TEST_PG": str(major)}
        done = subprocess.run([sys.executable, "-m", "pytest", *arguments], env=environment, check=False)
        outcomes[major] = "passed" if done.returncode == 0 else f"failed: pytest's exit status is {done.returncode}"
    for major, outcome in outcomes.items():
        print(f"PostgreSQL {major}: {outcome}")
    failed = any(outcome.startswith("failed") for outcome in outcomes.values())
    return int(failed or "passed" not in outcomes.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
