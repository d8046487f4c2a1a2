"""What every format says of a report: matrices, deploy windows in words, failures put together. Pure.

Servers that agree share a matrix, and a failure that is the same in several states or on several servers is told once.
"""
