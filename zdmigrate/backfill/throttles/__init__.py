"""What stops a backfill: replicas that fall behind, disks that fill, others who wait, people who say so.

`watch` makes a `Watch` of what is configured. Its thread reads every `Throttle`; its `Verdict` says whether the work may
go on. Whatever cannot be found out counts as unhealthy.
"""

from zdmigrate.backfill.throttles.making import make, watch
from zdmigrate.backfill.throttles.reading import Horizon, Lag, Reading, Throttle
from zdmigrate.backfill.throttles.verdict import LagTrend, Verdict
from zdmigrate.backfill.throttles.watching import Watch

__all__ = ["Horizon", "Lag", "LagTrend", "Reading", "Throttle", "Verdict", "Watch", "make", "watch"]
