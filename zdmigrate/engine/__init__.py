"""Advancing and reverting: the only writers of phases."""
