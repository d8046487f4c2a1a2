"""What the command line says of a backfill: before it in the plan, while it runs, and when it is over."""

from __future__ import annotations

import json

import pytest

from tests.support.processes import RENAME, Site, with_users


def costs(text: str) -> list[str]:
    return [line.split("cost", 1)[1].strip(" *") for line in text.splitlines() if line.lstrip(" -*").startswith("cost")]


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_a_plan_says_what_the_backfill_costs_with_and_without_the_database(site: Site, form: str) -> None:
    with_users(site, rows=5000).sql("ANALYZE users")
    written = site.run("plan", "--write-stats", "s", "--format", form).expect(0)
    shown = costs(written.out)
    assert shown[0].startswith("about 5,000 rows, ")
    assert "from statistics" in shown[0]
    assert shown[1].startswith("at worst ")
    assert costs(site.run("plan", "--stats", "s", "--format", form).expect(0).out) == shown


def test_a_probe_is_on_stderr_and_its_forecast_in_the_document(site: Site) -> None:
    with_users(site, rows=20_000).sql("ANALYZE users")
    done = site.run("plan", "--probe", "--format", "json").expect(0)
    (note,) = [json.loads(line) for line in done.err.splitlines()]
    assert note["kind"] == "note"
    assert note["message"].startswith("probed public.users: ")
    (plan,) = done.document["plans"]
    (forecast,) = plan["forecasts"]
    assert (forecast["basis"], forecast["rows"], forecast["table"]) == ("probe", 20_000, "public.users")
    assert forecast["expected"]["wal_bytes"] > 0
    assert site.run("plan", "--probe").expect(0).err.startswith("probed public.users: ")


def test_progress_is_told_line_by_line_and_once_more_at_the_end(site: Site) -> None:
    with_users(site, rows=50_000)
    done = site.run("advance", "--to", "backfill", "--format", "json").expect(0)
    lines = [json.loads(line) for line in done.err.splitlines()]
    told = [line["progress"] for line in lines if line["kind"] == "progress" and ".fill." in line["step"]]
    assert told[-1]["rows"] == 50_000
    assert told[-1]["pages_done"] == told[-1]["pages_total"]
    filled, read = done.migration(RENAME)["progress"]
    assert {"step": filled["step"], **told[-1], "forecast": filled["forecast"]} == filled
    assert (".fill." in filled["step"], ".verify." in read["step"], read["rows"]) == (True, True, 0)


def test_a_backfill_that_is_over_costs_nothing_more(site: Site) -> None:
    with_users(site)
    site.run("advance", "--to", "backfill").expect(0)
    assert costs(site.run("plan").expect(0).out) == []
