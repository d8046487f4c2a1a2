"""Statements of drivers as those of footprints: numbered parameters, no constants, lists of one."""
