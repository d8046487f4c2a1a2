"""``zdmigrate demo --example``: an example's folder, live, from the command line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zdmigrate.postgres.servers import ServerBinaries

ROOT = Path(__file__).parents[2]


def demo(*args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zdmigrate", "demo", *args]
    return subprocess.run(command, cwd=cwd, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)


def test_an_example_by_name(pg_binaries: ServerBinaries) -> None:
    done = demo("--example", "add_column", "--rows", "700")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:8]] == [
        "none", "expand", "dual_write", "backfill", "switch_reads", "retire", "contract",
    ]  # fmt: skip
    assert lines[-1] == "passed"
    assert "700 rows" in done.stderr


def test_a_folder_whose_version_fails(pg_binaries: ServerBinaries, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(ROOT / "migrations_examples" / "add_column", folder)
    models = (folder / "models_new.py").read_text(encoding="utf-8")
    (folder / "models_new.py").write_text(models.replace("sa.String(8)", "sa.String(30)"), encoding="utf-8")
    done = demo("--example", "mine", cwd=tmp_path)
    assert done.returncode == 1
    assert "value too long for type character varying(8)" in done.stdout
    assert done.stdout.endswith("FAILED\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("renam_column", "there is no example 'renam_column'"),
        ("migrations_examples", "is no example: seed.sql, migrations, models_old.py, models_new.py missing"),
    ],
)
def test_no_example(name: str, said: str) -> None:
    done = demo("--example", name)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
