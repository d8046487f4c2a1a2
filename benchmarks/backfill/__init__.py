"""The benchmark of the backfill: see `python -m benchmarks.backfill --help`."""
