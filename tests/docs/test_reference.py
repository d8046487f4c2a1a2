"""The hand-written reference names everything that the code has."""

from __future__ import annotations

import dataclasses
import re
from importlib import resources
from pathlib import Path

from zdmigrate import errors
from zdmigrate.config import Backfill, Check
from zdmigrate.engine import gates
from zdmigrate.phases import PHASES
from zdmigrate.testing import options
from zdmigrate.throttle_settings import Throttle

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """The text below each second-level heading."""
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_column_of_the_control_schema_is_documented() -> None:
    sql = "".join(
        file.read_text(encoding="utf-8")
        for file in sorted(resources.files("zdmigrate.control").joinpath("sql").iterdir(), key=str)
    )
    documented = sections(page("reference/control-schema.md"))
    missing = []
    for table, body in re.findall(
        r"CREATE TABLE \{schema\}\.(\w+) \((.*?)^\)[^;\n]*;", sql, flags=re.DOTALL | re.MULTILINE
    ):
        columns = re.findall(r"^    ([a-z]\w*) ", body, flags=re.MULTILINE)
        assert columns
        missing += [f"{table}.{column}" for column in columns if f"`{column}`" not in documented[table]]
    assert missing == []


def test_every_gate_is_documented() -> None:
    listed = sections(page("howto/production.md"))["Gates"]
    assert [name for name in sorted(gates.OVERRIDABLE | gates.FIRM) if f"| `{name}` |" not in listed] == []


def test_every_warning_is_documented() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "zdmigrate").rglob("*.py"))
    raised = set(re.findall(r"\bid=\"([A-Z]\d\d)\"", sources))
    warnings = sections(page("reference/hazards.md"))["Warnings of a plan"]
    assert raised == set(re.findall(r"^\| ([A-Z]\d\d) \|", warnings, flags=re.MULTILINE))


def test_every_finding_is_documented() -> None:
    source = (ROOT / "zdmigrate" / "compat" / "probing" / "judging.py").read_text(encoding="utf-8")
    findings = sections(page("reference/hazards.md"))["Findings of a check"]
    documented = set(re.findall(r"^\| (C\d\d) \|", findings, flags=re.MULTILINE))
    assert set(re.findall(r'"(C\d\d)"', source)) == documented


def test_every_exit_code_is_on_the_on_call_page() -> None:
    codes = {
        error.exit_code for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "exit_code")
    }
    runbook = page("howto/runbook.md")
    assert [code for code in sorted(codes) if f"## Exit code {code}:" not in runbook] == []


def test_every_phase_is_explained() -> None:
    text = page("explanation/phases.md")
    assert [phase for phase in PHASES[1:] if f"| `{phase}` |" not in text] == []


def test_every_key_of_the_configuration_is_documented() -> None:
    text = page("reference/configuration.md")
    tables = {"backfill.": Backfill, "check.": Check, "throttle.": Throttle}
    keys = [prefix + field.name for prefix, table in tables.items() for field in dataclasses.fields(table)]
    assert [key for key in keys if f"| `{key}` |" not in text] == []


def test_every_option_of_the_pytest_plugin_is_documented() -> None:
    text = page("howto/pytest.md")
    assert [each.name for each in options.ALL if not re.search(rf"`--zd-{each.name}[ `]", text)] == []
