"""``zdmigrate demo``: a whole migration, with an old and a new version of an application at work.

The rename of the demo itself: `workload` is what the two versions do, in processes and on many rows, `scenario` what
happens when, `report` what came out.

Any example (`zdmigrate demo --example`, and the tests of all examples), from the bottom up: `example` loads a folder,
`pairing` finds out what its two versions have in common (`entities`) and makes `values` for it, `registry` knows what
must be in each row, `reader`, `writer` and `application` are one version's requests, `traffic` has both at work in
threads, `journey` moves the engine with each version in its window, `rehearsal` is the command.
"""

from __future__ import annotations

from zdmigrate.demo.example import Example
from zdmigrate.demo.rehearsal import run_example
from zdmigrate.demo.scenario import run

__all__ = ["Example", "run", "run_example"]
