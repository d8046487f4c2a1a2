"""``zdmigrate demo``: the whole path of a rename, with an old and a new version of an application at work.

`workload` is what the two versions do, `scenario` what happens when, `report` what came out.
"""

from __future__ import annotations

from zdmigrate.demo.scenario import run

__all__ = ["run"]
