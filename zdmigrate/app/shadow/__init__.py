"""Reads that are compared: both of a sample of calls, in one snapshot, beside the application."""
