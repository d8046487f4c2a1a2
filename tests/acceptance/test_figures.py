"""How fast it is, as ratios within one run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import ROOT, Site, with_users

ROUNDS = 7


@pytest.fixture
def env(site: Site, tmp_path: Path) -> dict[str, str]:
    """Bytecode is cached, as it is where the package is installed."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    cache = {"PYTHONPYCACHEPREFIX": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    return clean | cache | {"ZDMIGRATE_URL": site.database.url}


def seconds(site: Site, env: dict[str, str], *args: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *args], cwd=site.directory, env=env, check=True, capture_output=True)
    return time.perf_counter() - started


def least(site: Site, env: dict[str, str], *commands: tuple[str, ...]) -> list[float]:
    """The least time of each, interleaved; the first round fills the caches.

    What else a busy machine does can only add to a time, and adds most to the command that talks to a server.
    """
    rounds = [[seconds(site, env, *command) for command in commands] for _ in range(ROUNDS + 1)]
    return [min(times) for times in zip(*rounds[1:], strict=True)]


IMPORTS = ("-c", "import sqlalchemy, psycopg")


def test_advance_with_nothing_to_do(site: Site, env: dict[str, str]) -> None:
    with_users(site).run("advance", "--to", "contract").expect(0)
    imports, advance = least(site, env, IMPORTS, ("-m", "zdmigrate", "advance"))
    print(f"imports {imports * 1000:.0f} ms, advance {advance * 1000:.0f} ms")
    assert advance <= 1.2 * imports + 0.1


def test_advance_imports_neither_rich_nor_alembic(site: Site, env: dict[str, str]) -> None:
    with_users(site).run("advance", "--to", "contract").expect(0)
    program = (
        "import sys, zdmigrate.cli\n"
        "try: zdmigrate.cli.main(['advance'])\n"
        "except SystemExit as e: assert not e.code\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'rich', 'alembic', 'psycopg'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=site.directory, env=env, check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "['psycopg']"


def test_plan_on_500_tables(site: Site, env: dict[str, str]) -> None:
    with_users(site).sql(
        "DO $$ BEGIN FOR n IN 1..500 LOOP EXECUTE format('CREATE TABLE t%s (id bigint PRIMARY KEY, a text, b text)', n); "
        "END LOOP; END $$"
    )
    imports, plan = least(site, env, IMPORTS, ("-m", "zdmigrate", "plan"))
    print(f"imports {imports * 1000:.0f} ms, plan {plan * 1000:.0f} ms")
    assert plan - imports < 1
