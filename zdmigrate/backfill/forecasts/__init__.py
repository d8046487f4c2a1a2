"""What a backfill will cost, from statistics and from a probe; and what it has cost."""
