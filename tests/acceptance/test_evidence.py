"""From CI to production: what a check has proven decides which phases may be completed."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import pytest

from tests.support.processes import RENAME, Site, with_users
from zdmigrate.compat.evidence import Evidence, Phases, Proof
from zdmigrate.compat.report import Report
from zdmigrate.phases import PHASES

WINDOW = Phases(old=PHASES[:5], new=PHASES[3:])


@pytest.fixture
def shop(site: Site) -> Site:
    return with_users(site)


def write(site: Site, works: Phases = WINDOW, *, name: str = "check.json", application: str = "shop") -> Path:
    """The evidence of a check of the plan as it is now, on a server like this one."""
    [plan] = site.run("plan", "--format", "json").expect(0).document["plans"]
    major = plan["server_version"] // 10000
    proof = Proof(name=application, old="2.3", new="2.4", old_digest="a", new_digest="b", works=works)
    made = Evidence.of(
        Report(plans=((RENAME, plan["hash"]),), runs=()), made_at=dt.datetime(2026, 11, 21, 14, 30, tzinfo=dt.UTC)
    )
    file = site.directory / name
    file.write_bytes(dataclasses.replace(made, servers=(f"PostgreSQL {major}.1",), applications=(proof,)).to_bytes())
    return file


def test_what_is_proven_may_be_completed(shop: Site) -> None:
    file = write(shop)
    shop.run("advance", "--to", "contract", "--evidence", str(file)).expect(0)
    assert shop.phase(RENAME) == "contract"


def test_a_phase_that_breaks_a_version_alive_is_refused(shop: Site) -> None:
    file = write(shop, Phases(old=PHASES[:4], new=PHASES[3:]))
    done = shop.run("advance", "--to", "contract", "--evidence", str(file), "--format", "json").expect(6)
    assert shop.phase(RENAME) == "backfill"
    entry = done.migration(RENAME)
    assert "shop 2.3 is not proven to work in switch_reads" in entry["message"]
    assert "--override evidence=" in entry["hint"]


def test_an_override_is_audited(shop: Site) -> None:
    file = write(shop, Phases(old=PHASES[:4], new=PHASES[3:]))
    override = ("--override", "evidence=2.3 does not call it in November")
    shop.run("advance", "--to", "switch_reads", "--evidence", str(file), *override).expect(0)
    assert ("evidence: 2.3 does not call it in November",) in shop.rows(
        "SELECT detail FROM zdmigrate.event WHERE action = 'override'"
    )


def test_another_plan_is_refused_before_anything_is_done(shop: Site) -> None:
    file = write(shop)
    shop.sql("CREATE INDEX users_name ON users (user_email, id)")
    done = shop.run("advance", "--evidence", str(file)).expect(6)
    assert f"the evidence was made for another plan of {RENAME}" in done.out
    assert shop.phase(RENAME) == "none"


def test_every_file_that_fits_must_prove_it(shop: Site) -> None:
    good = write(shop)
    bad = write(shop, Phases(old=PHASES[:2], new=PHASES[3:]), name="billing.json", application="billing")
    done = shop.run("advance", "--evidence", str(good), "--evidence", str(bad)).expect(6)
    assert "billing 2.3 is not proven to work in dual_write" in done.out
    assert shop.phase(RENAME) == "expand"


def test_a_file_that_cannot_be_read_is_not_the_same_as_none(shop: Site) -> None:
    assert "cannot be read" in shop.run("advance", "--evidence", "missing.json").expect(2).err
    (shop.directory / "broken.json").write_text("{}")
    assert "is no evidence" in shop.run("advance", "--evidence", "broken.json").expect(2).err
    assert shop.value("SELECT count(*) FROM zdmigrate.migration") == 0


def test_the_policy_asks_for_evidence(shop: Site) -> None:
    assert "development, evidence required" in shop.run("init", "--evidence", "required").expect(0).out
    done = shop.run("advance").expect(6)
    assert "the environment's policy asks for it" in done.out
    assert "gate    evidence: does not hold" in shop.run("status").expect(0).out
    shop.run("advance", "--to", "backfill", "--evidence", str(write(shop))).expect(0)
    shop.run("revert", RENAME, "--to", "none").expect(0)  # going back needs none


def test_the_policy_stays_until_somebody_says_otherwise(site: Site) -> None:
    site.run("init", "--evidence", "required").expect(0)
    assert "production, evidence required" in site.run("init").expect(0).out
    assert "production, evidence required" in site.run("init", "--environment", "production").expect(0).out
    assert "production\n" in site.run("init", "--evidence", "optional").expect(0).out
    site.run("init", "--evidence", "required").expect(0)
    assert "development\n" in site.run("init", "--environment", "development").expect(0).out


def test_a_plan_shows_what_is_proven(shop: Site) -> None:
    file = write(shop)
    shown = shop.run("plan", "--evidence", str(file)).expect(0).out
    assert (
        "at 2026-11-21 14:30: shop 2.4 may be deployed from backfill on; shop 2.3 must be gone before retire\n" in shown
    )
    assert "\nbackfill  (proven: shop 2.3 and shop 2.4)\n" in shown
    assert "\nretire  (proven: shop 2.4)\n" in shown
    markdown = shop.run("plan", "--evidence", str(file), "--format", "markdown").expect(0).out
    assert "### retire\n\n- proven: shop 2.4\n" in markdown
    [plan] = shop.run("plan", "--evidence", str(file), "--format", "json").expect(0).document["plans"]
    assert plan["evidence"]["phases"]["expand"] == "proven: shop 2.3"
    shop.sql("CREATE INDEX users_name ON users (user_email, id)")
    assert "the evidence was made for another plan" in shop.run("plan", "--evidence", str(file)).expect(0).out
