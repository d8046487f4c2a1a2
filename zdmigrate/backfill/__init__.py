"""Filling old rows in short batches, and counting the ones that are left.

``worker.run`` fills, ``verification.count_unfilled`` reads every row. The order of work is what costs: see
``windows``.
"""
