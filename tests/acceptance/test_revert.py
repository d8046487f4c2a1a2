"""Back from every phase to every earlier one: what N+1 wrote is kept for N, and what would be lost is named first."""

from __future__ import annotations

import pytest

from tests.support.processes import RENAME, Site, with_users
from zdmigrate.phases import PHASES, Phase

PAIRS = [
    (start, target)
    for start in PHASES[1 : Phase.RETIRE.position + 1]
    for target in PHASES[: start.position]
]  # fmt: skip
LOCALE, DROP = "0001_locale", "0001_drop"


def columns(site: Site) -> list[str]:
    query = (
        "SELECT array_agg(attname::text ORDER BY attname) FROM pg_attribute "
        "WHERE attrelid = 'users'::regclass AND attnum > 0 AND NOT attisdropped"
    )
    found: list[str] = site.value(query)
    return found


@pytest.mark.parametrize(("start", "target"), PAIRS, ids=[f"{start}-{target}" for start, target in PAIRS])
def test_every_phase_to_every_earlier_one(site: Site, start: Phase, target: Phase) -> None:
    with_users(site)
    site.run("advance", "--to", start).expect(0)
    if start.position >= Phase.DUAL_WRITE.position:
        site.sql("INSERT INTO users (email_address) VALUES ('by N+1')")
    if start.position >= Phase.BACKFILL.position:
        site.sql("UPDATE users SET email_address = 'updated by N+1' WHERE id = 7")
    if start.position < Phase.RETIRE.position:
        site.sql(
            "INSERT INTO users (user_email) VALUES ('by N')", "UPDATE users SET user_email = 'updated' WHERE id = 8"
        )

    done = site.run("revert", RENAME, "--to", target, "--format", "json").expect(0)
    assert done.migration(RENAME)["phase"] == target
    assert done.migration(RENAME)["running"] is None
    assert done.migration(RENAME)["hold"]["reason"] == f"reverted to {target}"
    again = site.run("revert", RENAME, "--to", target, "--format", "json").expect(0)
    assert again.migration(RENAME)["phase"] == target

    expected = {f"u{number}" for number in range(1, 41)} - {"u7", "u8"}
    expected.add("updated by N+1" if start.position >= Phase.BACKFILL.position else "u7")
    expected |= {"by N+1"} if start.position >= Phase.DUAL_WRITE.position else set()
    expected |= {"by N", "updated"} if start.position < Phase.RETIRE.position else {"u8"}
    assert {row[0] for row in site.rows("SELECT user_email FROM users")} == expected, "N reads everything"
    if target is Phase.NONE:
        assert columns(site) == ["id", "user_email"]
    if target.position >= Phase.BACKFILL.position:
        assert site.value("SELECT count(*) FROM users WHERE email_address IS DISTINCT FROM user_email") == 0

    site.run("advance").expect(4)
    site.run("unhold", RENAME).expect(0)
    site.run("advance", "--to", "contract").expect(0)
    assert {row[0] for row in site.rows("SELECT email_address FROM users")} == expected
    assert columns(site) == ["email_address", "id"]


def test_after_the_drop(site: Site) -> None:
    with_users(site)
    site.run("advance", "--to", "contract").expect(0)
    for target in ("none", "backfill", "retire"):
        done = site.run("revert", RENAME, "--to", target).expect(8)
        assert "new migration the other way round" in done.out
    assert site.value("SELECT hold_reason IS NULL FROM zdmigrate.migration")


def test_in_the_middle_of_contract(site: Site) -> None:
    """What was dropped before the crash is gone: nothing is held or undone, and only forwards is left."""
    with_users(site)
    site.run("advance").expect(0)
    killed = site.run("advance", "--to", "contract", kill={"match": "DROP COLUMN", "skip": 6})
    assert killed.code == -9
    assert columns(site) == ["email_address", "id"]
    assert site.phase(RENAME) == "retire"
    site.run("revert", RENAME, "--to", "none").expect(8)
    assert site.value("SELECT hold_reason IS NULL FROM zdmigrate.migration")
    site.run("advance", "--to", "contract").expect(0)


def test_in_the_middle_of_a_phase(site: Site) -> None:
    with_users(site)
    assert site.run("advance", kill={"match": "INDEX CONCURRENTLY"}).code == -9
    assert site.phase(RENAME) == "dual_write"
    site.run("revert", RENAME, "--to", "none").expect(0)
    assert columns(site) == ["id", "user_email"]
    assert site.value("SELECT count(*) FROM pg_index WHERE indrelid = 'users'::regclass") == 2


def test_values_of_an_added_column(site: Site) -> None:
    with_users(site)
    (site.directory / "migrations" / f"{RENAME}.py").unlink()
    site.write(LOCALE, 'AddColumn("users", sa.Column("locale", sa.Text))')
    site.run("advance").expect(0)
    site.run("revert", LOCALE, "--to", "none").expect(0)
    site.run("unhold", LOCALE).expect(0)
    site.run("advance", "--to", "contract").expect(0)
    site.sql("UPDATE zdmigrate.migration SET phase = 'retire'")  # nothing of it is irreversible
    site.sql("UPDATE users SET locale = 'de' WHERE id IN (3, 4)")
    refused = site.run("revert", LOCALE, "--to", "none").expect(6)
    assert refused.out.count("has a value of its own in locale") == 2
    assert "row (0,4" in refused.out
    assert "--allow-lossy" in refused.out
    assert "locale" in columns(site)
    assert site.phase(LOCALE) == "retire"
    assert site.value("SELECT hold_reason IS NULL FROM zdmigrate.migration"), "nothing was done, nothing is held"
    site.run("revert", LOCALE, "--to", "none", "--allow-lossy").expect(0)
    assert columns(site) == ["id", "user_email"]


def test_values_that_the_backfill_computed_are_no_loss(site: Site) -> None:
    with_users(site)
    (site.directory / "migrations" / f"{RENAME}.py").unlink()
    site.write(LOCALE, 'AddColumn("users", sa.Column("shown", sa.Text, nullable=False), backfill="upper(user_email)")')
    site.run("advance", "--to", "backfill").expect(0)
    site.run("revert", LOCALE, "--to", "none").expect(0)
    site.run("unhold", LOCALE).expect(0)
    site.run("advance", "--to", "backfill").expect(0)
    site.sql("UPDATE users SET shown = 'mine' WHERE id = 3")
    site.run("revert", LOCALE, "--to", "dual_write").expect(0)
    refused = site.run("revert", LOCALE, "--to", "expand").expect(6)
    assert refused.out.count("has a value of its own in shown") == 1


def test_nulls_in_a_column_that_was_not_null(site: Site) -> None:
    with_users(site)
    (site.directory / "migrations" / f"{RENAME}.py").unlink()
    site.write(DROP, 'DropColumn("users", "user_email")')
    refused = site.run("advance").expect(6)
    assert "old_reads_null" in refused.out
    assert site.phase(DROP) == "none"
    site.run("advance", "--override", "old_reads_null=N copes with NULL").expect(0)
    site.sql("INSERT INTO users DEFAULT VALUES")
    refused = site.run("revert", DROP, "--to", "none").expect(6)
    assert "row (0,41) of public.users is NULL in" in refused.out
    assert site.phase(DROP) == "retire"
    # NOT NULL cannot come back over NULLs, whatever one is ready to lose.
    refused = site.run("revert", DROP, "--to", "none", "--allow-lossy").expect(6)
    assert "give these rows a value" in refused.out
    assert site.phase(DROP) == "retire"
    # As far back as N reads it, that works; beyond that somebody has to say what N shall read.
    site.run("revert", DROP, "--to", "switch_reads").expect(0)
    site.sql("UPDATE users SET user_email = '?' WHERE user_email IS NULL")
    site.run("revert", DROP, "--to", "none").expect(0)
    assert site.value(
        "SELECT attnotnull FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = 'user_email'"
    )


def test_a_disabled_trigger_stops_an_advance_but_not_a_revert(site: Site) -> None:
    with_users(site)
    site.run("advance", "--to", "dual_write").expect(0)
    name = site.value("SELECT tgname FROM pg_trigger WHERE tgrelid = 'users'::regclass AND NOT tgisinternal LIMIT 1")
    site.sql(f'ALTER TABLE users DISABLE TRIGGER "{name}"')
    site.run("advance").expect(7)
    site.run("revert", RENAME, "--to", "none").expect(0)
    assert columns(site) == ["id", "user_email"]
    assert site.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'users'::regclass AND NOT tgisinternal") == 0


def test_a_second_revert_says_why_it_holds_now(site: Site) -> None:
    with_users(site)
    site.run("advance", "--to", "switch_reads").expect(0)
    for target in ("backfill", "none"):
        site.run("revert", RENAME, "--to", target).expect(0)
        held = site.run("status", "--format", "json").expect(0).migration(RENAME)["hold"]
        assert held["reason"] == f"reverted to {target}"


def test_verify_under_a_hold_closes_and_opens_its_gate(site: Site) -> None:
    with_users(site)
    site.run("advance", "--to", "backfill").expect(0)
    site.run("hold", RENAME, "looking").expect(0)
    site.run("verify").expect(0)
    (trigger,) = site.rows("SELECT tgname FROM pg_trigger WHERE tgrelid = 'users'::regclass AND tgname LIKE '!zd%'")[0]
    site.sql(
        f'ALTER TABLE users DISABLE TRIGGER "{trigger}"',
        "UPDATE users SET email_address = 'lost' WHERE id = 3",
        f'ALTER TABLE users ENABLE ALWAYS TRIGGER "{trigger}"',
    )
    site.run("verify").expect(6)
    site.run("unhold", RENAME).expect(0)
    assert "verified" in site.run("advance", "--to", "switch_reads").expect(4).out
    site.sql("UPDATE users SET email_address = user_email WHERE id = 3")
    site.run("verify").expect(0)
    site.run("advance", "--to", "switch_reads").expect(0)
