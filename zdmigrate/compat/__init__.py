"""Proof that versions N and N+1 both work, in every phase: footprints, probes, verdicts."""
