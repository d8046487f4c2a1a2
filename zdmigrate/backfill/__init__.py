"""Filling old rows in short batches, and counting the ones that are left.

``worker.run`` fills, ``verification.count_unfilled`` reads every row. The order of work is what costs: see
``windows`` and ``strategy``. From the bottom up: ``session`` (transactions), ``statements``, ``state`` (who has claimed what),
``filling`` (one batch), ``working`` (one worker), ``process`` (what the workers of a process share), ``worker``.
"""
