"""The control schema: what was intended, by whom, and who works on it now. The catalog decides what is."""
