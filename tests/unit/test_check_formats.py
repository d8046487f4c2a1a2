"""The formats of a check's report, and that nothing in a report can break out of them."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from markdown_it import MarkdownIt
from pydantic_sarif.model import (  # type: ignore[import-untyped]
    StaticAnalysisResultsFormatSarifVersion210JsonSchema as Sarif,
)
from rich.console import Console

from tests.support import reports
from zdmigrate.compat.formats import FORMATS, document, escaping, render, text
from zdmigrate.compat.report import Report, Version
from zdmigrate.errors import UsageError
from zdmigrate.phases import Phase

REPORTS = {"rich": reports.rich, "compatible": reports.compatible, "hostile": reports.hostile}
NOTHING = Report(plans=(), runs=())


def rendered(report: Report, name: str) -> str:
    return render(report, [reports.plan()], name)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("report", [*(make() for make in REPORTS.values()), NOTHING], ids=[*REPORTS, "nothing"])
def test_every_format_takes_every_report(name: str, report: Report) -> None:
    shown = rendered(report, name)
    assert shown.endswith("\n")
    assert rendered(report, name) == shown
    shown.encode()


@pytest.mark.parametrize("name", FORMATS)
def test_no_format_prints_what_a_terminal_or_a_workflow_obeys(name: str) -> None:
    shown = rendered(reports.hostile(), name)
    assert "\x1b" not in shown
    assert "\x00" not in shown
    assert "\u202e" not in shown or name == "json"  # which is for programs, and says exactly what was found
    commands = [line for line in shown.splitlines() if line.lstrip().startswith("::")]
    assert all(re.match(r"::(error|warning|notice) (file=[^,]*,line=\d+,)?title=[^,:]*::", line) for line in commands)
    assert bool(commands) == (name == "github")


# text

COMPATIBLE = """\
COMPATIBLE: every version works in its whole window (2 versions on PostgreSQL 15.18 and 18.1)

shop on PostgreSQL 15.18 and 18.1

completed      2.3 (N)                  2.4 (N+1)
─────────────────────────────────────────────────
none           ✓ works                  – outside
expand         ↻ reconnect              – outside
               ✓ works after a revert
dual_write     ✓ works                  – outside
backfill       ✓ works                  ✓ works
switch_reads   ✓ works                  ✓ works
retire         – outside                ✓ works
contract       – outside                ✓ works

proven     2.4 may be deployed from `backfill` on; 2.3 must be gone before `retire`
predicted  the same
checked    412 statements: 38 touch what changes and ran in every state, 374 ran once; 3 of them
           could only be prepared; 5,120 executions

↻ reconnect  works on new connections; what fails on old ones was announced and accepted
– outside    fails outside its window, as predicted

Announced and accepted (1)
  shop 2.3 in expand, on PostgreSQL 15.18 and 18.1: SELECT * of public.users: cached plan must not
  change result type

2 failures outside the windows, as predicted: see --format html or json
"""

FAILURE = """\
Fails inside its window (2)

  shop 2.3 in switch_reads, on PostgreSQL 15.18 and 18.1
  there is no unique or exclusion constraint matching the ON CONFLICT specification (SQLSTATE 42P10)
  statement  INSERT INTO users (user_email, name) VALUES ($1, $2) ON CONFLICT (user_email) DO UPDATE
             SET name = $3
  recorded   shop/signup.py:118
  about      public.users (C17)
  found      by executing it
  to do      keep users_user_email_key until 2.3 is gone
"""


def test_text() -> None:
    assert text.render(reports.compatible(), []) == COMPATIBLE
    shown = text.render(reports.rich(), [])
    assert shown.startswith("INCOMPATIBLE: 2 failures where the changes promise that it works; 1 thing could not be")
    assert FAILURE in shown
    assert (
        "backfill       ✓ works                  ✓ works\n                                        ✗ BROKEN after"
        in shown
    )
    assert "predicted  ≠ narrower than predicted: 2.4 may be deployed from `backfill` on; 2.3 must be gone" in shown
    assert "billing/maps.py:3): the extension" in shown
    assert "fixed in 2.3.1 (expires 2026-01-01): it expired on 2026-01-01" in shown


@pytest.mark.parametrize("width", [40, 60, 200])
@pytest.mark.parametrize("report", [reports.rich(), reports.hostile()], ids=["rich", "hostile"])
def test_text_fits_into_narrow_terminals(report: Report, width: int) -> None:
    lines = text.render(report, [], width=width).splitlines()
    assert max(map(len, lines)) <= width + len(": :") - len("::")
    assert any("✗ BROKEN" in line for line in lines)


def test_text_in_a_terminal_that_knows_neither_colour_nor_unicode() -> None:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii", errors="strict", write_through=True), width=80)
    text.show(reports.rich(), [], console)
    shown = raw.getvalue().decode()
    assert "billing on PostgreSQL" in shown
    assert "backfill     | + works" in shown
    assert "X BROKEN after a revert" in shown
    assert "predicted  != narrower than predicted: " in shown


# json


@pytest.mark.parametrize(
    "report", [reports.rich(), reports.compatible(), NOTHING], ids=["rich", "compatible", "nothing"]
)
def test_json_holds_everything(report: Report) -> None:
    shown = rendered(report, "json")
    assert document.from_json(shown) == report
    found = json.loads(shown)
    assert (found["format"], found["exit_code"]) == (1, report.exit_code)


def test_json_says_what_follows() -> None:
    run = json.loads(rendered(reports.rich(), "json"))["runs"][0]
    assert run["proven"] == {"old_until": "backfill", "new_from": "switch_reads"}
    assert {"version": "new", "phase": "backfill", "direction": "backward", "mark": "broken"} in run["matrix"]
    assert len(run["matrix"]) == 2 * len(reports.STATES)


@pytest.mark.parametrize("data", ["", "[]", "{}", '{"format": 2, "plans": [], "runs": [], "void": []}', b"\xff"])
def test_json_that_is_no_report(data: str | bytes) -> None:
    with pytest.raises(UsageError, match=r"^check\.json is no report of a check: ") as raised:
        document.from_json(data, name="check.json")
    assert raised.value.hint == "zdmigrate check --format json makes one"


# junit


def test_junit_has_a_case_for_each_version_state_and_server() -> None:
    report = reports.rich()
    root = ET.fromstring(rendered(report, "junit"))  # noqa: S314 (our own)
    cases = list(root.iter("testcase"))
    assert len(cases) == len({(case.get("classname"), case.get("name")) for case in cases})
    assert len(cases) == len(report.runs) * 2 * len(reports.STATES)
    assert {key: root.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": str(len(cases)), "failures": "4", "errors": "6", "skipped": "34",
    }  # fmt: skip
    failure = root.find(".//testcase[@name='2.3 in switch_reads']/failure")
    assert failure is not None
    assert "recorded: shop/signup.py:118" in str(failure.text)


def test_junit_keeps_hostile_text_as_text() -> None:
    root = ET.fromstring(rendered(reports.hostile(), "junit"))  # noqa: S314
    assert {element.tag for element in root.iter()} == {
        "testsuites", "testsuite", "testcase", "failure", "error", "skipped",
    }  # fmt: skip


# sarif


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS)
def test_sarif_is_what_the_standard_says(make: Any) -> None:
    found = Sarif.model_validate_json(rendered(make(), "sarif"))
    assert len(found.runs) == 1


def test_sarif() -> None:
    run = json.loads(rendered(reports.rich(), "sarif"))["runs"][0]
    upsert = next(result for result in run["results"] if result["ruleId"] == "C17")
    assert run["tool"]["driver"]["rules"][upsert["ruleIndex"]]["id"] == "C17"
    assert upsert["level"] == "error"
    [location] = upsert["locations"]
    assert location["physicalLocation"] == {
        "artifactLocation": {"uri": "shop/signup.py"},
        "region": {"startLine": 118},
    }
    suppressed = [result for result in run["results"] if "suppressions" in result]
    assert [each["suppressions"] for each in suppressed] == [
        [{"kind": "external", "justification": reports.SUPPRESSION.reason}]
    ]
    [invocation] = run["invocations"]
    assert (invocation["exitCode"], len(invocation["toolExecutionNotifications"])) == (6, 1)


# github, gitlab


def test_github() -> None:
    lines = rendered(reports.rich(), "github").splitlines()
    assert lines[0].startswith("::error title=zdmigrate check%3A incompatible::2 failures")
    assert lines[1].startswith(
        "::error file=shop/signup.py,line=118,title=C17%3A public.users::shop 2.3 in switch_reads"
    )
    assert "(SQLSTATE 42P10)%0AINSERT INTO users" in lines[1]
    assert sum(line.startswith("::error") for line in lines) == 4
    assert rendered(reports.compatible(), "github").startswith("::notice title=zdmigrate check%3A compatible::")


def test_gitlab() -> None:
    entries = json.loads(rendered(reports.rich(), "gitlab"))
    assert [(each["severity"], each["check_name"]) for each in entries] == [
        ("critical", "C17"),
        ("critical", "C29"),
        ("major", "zdmigrate-unchecked"),
    ]
    assert entries[0]["location"] == {"path": "shop/signup.py", "lines": {"begin": 118}}
    assert entries[1]["location"]["path"] == f"{reports.plan().migration}.py"
    for name in REPORTS.values():
        fingerprints = [each["fingerprint"] for each in json.loads(rendered(name(), "gitlab"))]
        assert len(fingerprints) == len(set(fingerprints))


# markdown


def html_of(markdown: str) -> str:
    """As a pull request shows it, with raw HTML, which only we write."""
    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))


class Tags(HTMLParser):
    """Every element and attribute of a page, and the text in its headings."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    @property
    def names(self) -> set[str]:
        return {tag for tag, _ in self.elements}

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def test_markdown_keeps_hostile_text_as_text() -> None:
    shown = rendered(reports.hostile(), "markdown")
    benign = Tags(html_of(rendered(reports.rich(), "markdown")))
    hostile = Tags(html_of(shown))
    assert hostile.names <= benign.names
    assert not {"script", "img", "a", "em"} & hostile.names
    assert not re.search(r"@\w", re.sub(r"(`+)[^`].*?\1", "", shown, flags=re.DOTALL)), "somebody is mentioned"
    assert all(line.count("|") - line.count("\\|") == 4 for line in shown.splitlines() if line.startswith("| "))


def test_markdown_is_short() -> None:
    many = [
        reports.finding(v, Phase.BACKFILL, subject=f"public.t{i}", message="x" * 9000, statement="SELECT 1 " * 9000)
        for i in range(200)
        for v in Version
    ]
    run = reports.run(reports.SHOP, reports.PG18, *many)
    shown = rendered(Report(plans=reports.plans(), runs=(run,)), "markdown")
    assert len(shown) < 65_536, "the longest comment that GitHub takes"
    assert "- … and 390 more" in shown


def test_markdown() -> None:
    shown = rendered(reports.rich(), "markdown")
    assert shown.startswith("## ❌ zdmigrate check: incompatible\n")
    assert "| `backfill` | ✓ works | ✓ works<br>✗ **broken** after a revert |" in shown
    assert "<details><summary>Fails inside its window (2)</summary>" in shown
    assert (
        "**Narrower than predicted:** 2.4 may be deployed from `backfill` on; 2.3 must be gone before `retire`."
        in shown
    )


# html

PAGES = {name: rendered(make(), "html") for name, make in REPORTS.items()}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_the_page_can_be_read_with_a_screen_reader(page: str) -> None:
    tags = Tags(page)
    assert tags.all("html") == [{"lang": "en"}]
    for once in ("title", "h1", "header", "main", "footer", "nav"):
        assert len(tags.all(once)) == 1, once
    assert len(tags.all("table")) == len(tags.all("caption"))
    assert all(head.get("scope") in ("col", "row") for head in tags.all("th"))
    ids = {str(attributes["id"]) for _, attributes in tags.elements if "id" in attributes}
    assert all(section["aria-labelledby"] in ids for section in tags.all("section"))
    assert all(str(link["href"]).removeprefix("#") in ids for link in tags.all("a"))
    levels = [int(tag[1]) for tag in (name for name, _ in tags.elements) if re.fullmatch(r"h\d", tag)]
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))


def test_the_page_keeps_hostile_text_as_text() -> None:
    hostile, benign = Tags(PAGES["hostile"]), Tags(PAGES["rich"])
    assert hostile.names <= benign.names
    assert "script" not in hostile.names
    assert "img" not in hostile.names
    assert not [key for _, attributes in hostile.elements for key in attributes if key.startswith("on") or key == "src"]


def test_the_page_shows_the_plan_in_the_words_of_zdmigrate_plan() -> None:
    page = PAGES["rich"]
    assert "Plan of 20261121_1432_email_address" in page
    assert "advance without --to stops after retire" in page
    assert 'ALTER TABLE "public"."users" ADD COLUMN "email_address" text;' in page
    assert "nobody waits longer than the lock timeout" in page


def schemes() -> dict[str, dict[str, str]]:
    blocks = re.findall(r":root \{(.*?)\}", PAGES["rich"], flags=re.DOTALL)
    assert len(blocks) == 3
    found = (dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in blocks)
    return dict(zip(("light", "dark", "print"), found, strict=True))


PAIRS = [
    (front, ground)
    for front, grounds in {
        "text": ("ground", "raised", "good-ground", "bad-ground", "warn-ground"),
        "muted": ("ground",),
        "link": ("ground",),
        **{kind: (f"{kind}-ground", "ground") for kind in ("good", "bad", "warn", "idle")},
    }.items()
    for ground in grounds
]


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
@pytest.mark.parametrize(("front", "ground"), PAIRS)
def test_the_contrast_of_the_page_is_enough_for_AA(scheme: str, front: str, ground: str) -> None:  # noqa: N802
    colours = schemes()[scheme]
    dark, light = sorted((luminance(colours[front]), luminance(colours[ground])))
    assert (light + 0.05) / (dark + 0.05) >= 4.5


# escaping


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\u202eb\u200b", "a\\u202eb\\u200b"),
        ("a\tb\r\nc", "a    b\nc"),
        ("straße ≠ 数", "straße ≠ 数"),
        ("x\n  ::error::y", "x\n  : :error::y"),
        ("\udcff", "\\udcff"),
    ],
)
def test_printable(given: str, shown: str) -> None:
    assert escaping.printable(given) == shown


def test_shortened() -> None:
    assert escaping.shortened("abc", 3) == "abc"
    assert escaping.shortened("a" * 5000, 3) == "aaa … (4,997 more characters)"
