"""Processes that are forked at bad moments."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from tests.support.processes import ROOT

_PROGRAM = """
import os, signal, sys, time
from zdmigrate.app import register
register("host=/nowhere dbname=none", application="shop", version="1")
time.sleep(float(sys.argv[1]))
if os.fork() == 0:
    signal.alarm(20)
    import psycopg
    print("imported", flush=True)
    os._exit(0)
os.wait()
os._exit(0)
"""


@pytest.mark.parametrize("milliseconds", [0, 10, 30, 50, 100])
def test_a_fork_right_after_registering_can_import_everything(milliseconds: int) -> None:
    """The thread must not be in the middle of an import then: its lock would be held for ever."""
    command = [sys.executable, "-c", textwrap.dedent(_PROGRAM), str(milliseconds / 1000)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.stdout == "imported\n"
