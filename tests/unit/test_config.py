"""Configuration: where it comes from, what wins, and what its errors say."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from zdmigrate import config
from zdmigrate.config import Config
from zdmigrate.errors import ConfigError
from zdmigrate.throttle_settings import Throttle, ThrottleQuery, parse_hours
from zdmigrate.units import parse_duration, parse_size


def load(start: Path, environ: dict[str, str] | None = None, **options: str | None) -> Config:
    return config.load(start=start, environ=environ or {}, options=options)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("250ms", timedelta(milliseconds=250)),
        ("10s", timedelta(seconds=10)),
        ("1.5s", timedelta(milliseconds=1500)),
        ("5m", timedelta(minutes=5)),
        ("72h", timedelta(days=3)),
        ("7d", timedelta(days=7)),
        (" 0s ", timedelta(0)),
    ],
)
def test_durations(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "10", "s", "-1s", "10 s", "1h30m", "10S", "1e3s", "٣s", "99999999999d", "nans"])
def test_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1B", 1),
        ("512kB", 512 << 10),
        ("20MB", 20 << 20),
        ("20 MB", 20 << 20),
        ("1.5GB", 3 << 29),
        (" 2TB ", 2 << 40),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "text", ["", "20", "MB", "20mb", "20KB", "-1MB", "+1MB", "1e3MB", "20MB/s", "٣MB", "nanMB", "20MiB"]
)
def test_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(("text", "why"), [("0MB", "less than a byte"), ("0.1B", "less"), ("9999999TB", "too large")])
def test_sizes_that_the_server_does_not_take(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_size(text)


def test_the_quarantine_has_limits_and_shows_nothing(tmp_path: Path) -> None:
    backfill = load(tmp_path).backfill
    assert (backfill.quarantine_limit, backfill.quarantine_share, backfill.quarantine_columns) == (1000, 0.1, ())
    write(tmp_path / "zdmigrate.toml", "[backfill]\nquarantine_share = 1\nquarantine_columns = ['a', 'b']")
    environ = {"ZDMIGRATE_BACKFILL_QUARANTINE_LIMIT": "0", "ZDMIGRATE_BACKFILL_QUARANTINE_COLUMNS": "c, d"}
    backfill = load(tmp_path, environ).backfill
    assert (backfill.quarantine_limit, backfill.quarantine_share, backfill.quarantine_columns) == (0, 1, ("c", "d"))


@pytest.mark.parametrize("line", ["quarantine_limit = -1", "quarantine_share = 1.5", "quarantine_columns = 'a'"])
def test_limits_that_make_no_sense(tmp_path: Path, line: str) -> None:
    write(tmp_path / "zdmigrate.toml", f"[backfill]\n{line}")
    with pytest.raises(ConfigError, match=f"backfill.{line.split(maxsplit=1)[0]}"):
        load(tmp_path)


def test_defaults_need_no_file(tmp_path: Path) -> None:
    found = load(tmp_path)
    assert found == Config(dir=tmp_path / "migrations")
    assert (found.schema, found.project, found.environment) == ("zdmigrate", "default", None)
    assert (found.lock_timeout, found.lock_budget, found.lease) == (
        timedelta(milliseconds=250),
        timedelta(seconds=60),
        timedelta(seconds=10),
    )
    assert (found.backfill.window_pages, found.backfill.stripes, found.backfill.batch_rows) == (250, 24, 150)


def test_everything_from_a_file(tmp_path: Path) -> None:
    path = write(
        tmp_path / "zdmigrate.toml",
        """
        url = "postgresql://u:geheim@h/d"
        dir = "db/steps"
        schema = "ops"
        project = "shop"
        environment = "production"
        lock_timeout = "100ms"
        lock_budget = "5m"
        lease = "20s"
        [backfill]
        window_pages = 500
        stripes = 24
        batch_rows = 1000
        pause = "0ms"
        """,
    )
    assert load(tmp_path) == Config(
        url="postgresql://u:geheim@h/d",
        dir=tmp_path / "db/steps",
        schema="ops",
        project="shop",
        environment="production",
        lock_timeout=timedelta(milliseconds=100),
        lock_budget=timedelta(minutes=5),
        lease=timedelta(seconds=20),
        backfill=config.Backfill(window_pages=500, stripes=24, batch_rows=1000, pause=timedelta(0)),
        file=path,
    )


def test_options_beat_variables_beat_the_file(tmp_path: Path) -> None:
    write(tmp_path / "zdmigrate.toml", 'url = "f"\nschema = "f"\nproject = "f"\n[backfill]\nstripes = 3\n')
    environ = {
        "ZDMIGRATE_URL": "e",
        "ZDMIGRATE_SCHEMA": "e",
        "ZDMIGRATE_BACKFILL_WINDOW_PAGES": "7",
        "ZDMIGRATE_LOCK_TIMEOUT": "1s",
        "ZDMIGRATE_PROJECT": "",
        "ZDMIGRATE_PORT": "tcp://10.0.0.1:80",
    }
    found = load(tmp_path, environ, url="o", dir=None)
    assert (found.url, found.schema, found.project) == ("o", "e", "f")
    assert (found.backfill.stripes, found.backfill.window_pages) == (3, 7)
    assert found.lock_timeout == timedelta(seconds=1)


def test_the_search_goes_up_to_the_git_root_and_no_further(tmp_path: Path) -> None:
    write(tmp_path / "zdmigrate.toml", 'schema = "outside"')
    deep = tmp_path / "repo" / "a" / "b"
    deep.mkdir(parents=True)
    assert load(deep).schema == "zdmigrate"
    (tmp_path / "repo" / ".git").mkdir()
    assert load(deep).schema == "zdmigrate"
    write(tmp_path / "repo" / "a" / "pyproject.toml", "[project]\nname = 'x'\n")
    write(tmp_path / "repo" / "pyproject.toml", "[tool.zdmigrate]\nschema = 'root'\n")
    found = load(deep)
    assert (found.schema, found.dir) == ("root", tmp_path / "repo" / "migrations")


def test_the_own_file_wins_over_pyproject(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", "[tool.zdmigrate]\nschema = 'p'\n")
    write(tmp_path / "zdmigrate.toml", "schema = 'z'")
    assert load(tmp_path).schema == "z"


def test_a_named_file_and_paths_relative_to_it(tmp_path: Path) -> None:
    named = write(tmp_path / "conf" / "prod.toml", 'dir = "m"')
    start = tmp_path / "elsewhere"
    start.mkdir()
    assert config.load(start=start, environ={}, file=named).dir == tmp_path / "conf" / "m"
    assert load(start, {"ZDMIGRATE_CONFIG": "../conf/prod.toml"}).dir.resolve() == tmp_path / "conf" / "m"
    assert load(start, {"ZDMIGRATE_CONFIG": "../conf/prod.toml"}, dir="here").dir == start / "here"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("lock_timout = '1s'", "zdmigrate.toml: lock_timout: unknown key", "did you mean lock_timeout?"),
        ("[backfill]\nstripe = 1", "zdmigrate.toml: backfill.stripe: unknown key", "did you mean backfill.stripes?"),
        ("zzz = 1", "zdmigrate.toml: zzz: unknown key", "keys are url, dir"),
        ("url = 5", "zdmigrate.toml: url: expected str, got int", None),
        ("lease = 10", "zdmigrate.toml: lease: expected str, got int", None),
        ("lease = '10'", "zdmigrate.toml: lease: '10' is not a duration", None),
        ("lease = '1ms'", "zdmigrate.toml: lease: must be at least 1000ms", None),
        ("lock_timeout = '0s'", "zdmigrate.toml: lock_timeout: must be at least 1ms", None),
        ("backfill = 3", "zdmigrate.toml: backfill: expected object, got int", None),
        ("[backfill]\nstripes = 0", "zdmigrate.toml: backfill.stripes: expected int >= 1", None),
        ("[backfill]\nstripes = '4'", "zdmigrate.toml: backfill.stripes: expected int, got str", None),
        (
            "[backfill]\ntarget_latency = '1d'",
            "zdmigrate.toml: backfill.target_latency: must be at most 400ms, got '1d'",
            None,
        ),
        ("[backfill]\npause = 'x'", "zdmigrate.toml: backfill.pause: 'x' is not a duration", None),
        ("schema = ''", "zdmigrate.toml: schema: expected str of length >= 1", None),
        ("schema = 'pg_x'", "zdmigrate.toml: schema: names that start with pg_", None),
        (f"schema = '{'ä' * 40}'", "zdmigrate.toml: schema: is longer than the 63 bytes", None),
        ("url = ", "zdmigrate.toml: is not TOML: ", None),
        ("[throttle]\nmax_lags = '1MB'", "throttle.max_lags: unknown key", "did you mean throttle.max_lag?"),
        ("[throttle]\nmax_lag = '1mb'", "throttle.max_lag: '1mb' is not a size; write it like 512kB", None),
        ("[throttle]\nmax_lag = '0MB'", "throttle.max_lag: '0MB' is less than a byte", None),
        ("[throttle]\nmax_lag_time = '0s'", "throttle.max_lag_time: must be at least 1ms", None),
        ("[throttle]\nmax_lag_time = 1", "throttle.max_lag_time: expected str, got int", None),
        ("[throttle]\ninterval = '1ms'", "throttle.interval: must be at least 100ms", None),
        ("[throttle]\nstandbys = 'replica1'", "throttle.standbys: ", None),
        ("[throttle]\nmissing_standby = 'wait'", "throttle.missing_standby: invalid enum value 'wait'", None),
        ("[throttle]\nmax_lock_waiters = 0", "throttle.max_lock_waiters: expected int >= 1", None),
        (
            "[throttle]\nmax_lock_waiters = 'many'",
            "throttle.max_lock_waiters: must be a number of at least 1, or off",
            None,
        ),
        ("[throttle]\nendpoint = 'file:///etc/passwd'", "throttle.endpoint: must be a URL that begins with http", None),
        ("[throttle]\nhours = ['9-17']", "throttle.hours: '9-17' are no hours of the day", None),
        ("[throttle]\nhours = ['09:00-24:30']", "throttle.hours: '09:00-24:30' are no hours", None),
        ("[throttle]\ntime_zone = 'Mars/Base'", "throttle.time_zone: 'Mars/Base' is not a time zone", None),
        ("[throttle]\ntime_zone = '../etc'", "throttle.time_zone: '../etc' is not a time zone", None),
        (
            "[[throttle.queries]]\nname = 'q'\nsql = 'SELECT 1'",
            "throttle.queries[0]: object missing required field max",
            None,
        ),
        ("[[throttle.queries]]\nname = 'q'\nsql = 's'\nmax = 'x'", "throttle.queries[0].max: expected int", None),
    ],
)
def test_messages_name_file_and_key(tmp_path: Path, text: str, message: str, hint: str | None) -> None:
    write(tmp_path / "zdmigrate.toml", text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert message in caught.value.message
    assert str(tmp_path) in caught.value.message
    assert (caught.value.hint or "").startswith(hint or "")
    assert caught.value.exit_code == 2


def test_a_whole_table_of_throttles(tmp_path: Path) -> None:
    write(
        tmp_path / "zdmigrate.toml",
        """
        [throttle]
        interval = "500ms"
        silence = "10s"
        max_lag = "1.5GB"
        max_lag_time = "off"
        standbys = ["berlin", "paris"]
        missing_standby = "ignore"
        replica_urls = ["postgresql://u:geheim@berlin/d"]
        max_slot_wal = "off"
        max_archive_backlog = "512kB"
        max_horizon_age = "1h"
        wraparound = false
        max_active_sessions = 50
        max_lock_waiters = "off"
        max_wal_rate = "20MB"
        endpoint = "https://health.example.org/db?token=x"
        endpoint_timeout = "1s"
        flag_file = "stop"
        hours = ["22:00-06:00", "12:00-13:00"]
        time_zone = "Europe/Berlin"
        [[throttle.queries]]
        name = "queue"
        sql = "SELECT count(*) FROM shop.jobs"
        max = 1000
        """,
    )
    found = load(tmp_path).throttle
    assert found == Throttle(
        interval=timedelta(milliseconds=500),
        silence=timedelta(seconds=10),
        max_lag=1536 * 2**20,
        max_lag_time=None,
        standbys=("berlin", "paris"),
        missing_standby="ignore",
        replica_urls=("postgresql://u:geheim@berlin/d",),
        max_slot_wal=None,
        max_archive_backlog=512 * 2**10,
        max_horizon_age=timedelta(hours=1),
        wraparound=False,
        max_active_sessions=50,
        max_wal_rate=20 * 2**20,
        queries=(ThrottleQuery(name="queue", sql="SELECT count(*) FROM shop.jobs", max=1000),),
        endpoint="https://health.example.org/db?token=x",
        endpoint_timeout=timedelta(seconds=1),
        flag_file=tmp_path / "stop",
        hours=(parse_hours("22:00-06:00"), parse_hours("12:00-13:00")),
        time_zone="Europe/Berlin",
    )
    assert "geheim" not in repr(found)


def test_throttles_from_variables(tmp_path: Path) -> None:
    environ = {
        "ZDMIGRATE_THROTTLE_MAX_LAG": "16MB",
        "ZDMIGRATE_THROTTLE_MAX_LOCK_WAITERS": "7",
        "ZDMIGRATE_THROTTLE_STANDBYS": "berlin, paris",
        "ZDMIGRATE_THROTTLE_WRAPAROUND": "false",
        "ZDMIGRATE_THROTTLE_HOURS": "22:00-06:00",
    }
    write(tmp_path / "zdmigrate.toml", '[throttle]\nmax_lag = "1GB"\nmax_lag_time = "5s"\nstandbys = "auto"\n')
    found = load(tmp_path, environ).throttle
    assert (found.max_lag, found.max_lag_time, found.max_lock_waiters) == (16 * 2**20, timedelta(seconds=5), 7)
    assert (found.standbys, found.wraparound, len(found.hours)) == (("berlin", "paris"), False, 1)
    assert load(tmp_path, {"ZDMIGRATE_THROTTLE_STANDBYS": "none"}).throttle.standbys == ()
    assert load(tmp_path, {"ZDMIGRATE_THROTTLE_STANDBYS": "auto"}).throttle.standbys is None
    with pytest.raises(ConfigError, match=r"^ZDMIGRATE_THROTTLE_MAX_LOCK_WAITERS: must be a number"):
        load(tmp_path, {"ZDMIGRATE_THROTTLE_MAX_LOCK_WAITERS": "-1"})


def test_messages_name_the_variable_or_the_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^ZDMIGRATE_BACKFILL_STRIPES: expected int, got str$"):
        load(tmp_path, {"ZDMIGRATE_BACKFILL_STRIPES": "many"})
    with pytest.raises(ConfigError, match=r"^ZDMIGRATE_LEASE: 'soon' is not a duration"):
        load(tmp_path, {"ZDMIGRATE_LEASE": "soon"})
    with pytest.raises(ConfigError, match=r"^--schema: names that start with pg_"):
        load(tmp_path, schema="pg_temp")


def test_a_named_file_must_be_there_and_hold_something(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope.toml: cannot be read: No such file"):
        config.load(start=tmp_path, environ={}, file=Path("nope.toml"))
    empty = write(tmp_path / "pyproject.toml", "[project]\nname = 'x'\n")
    with pytest.raises(ConfigError, match=r"pyproject.toml: there is no \[tool.zdmigrate\]"):
        config.load(start=tmp_path, environ={}, file=empty)
    write(empty, "[tool]\nzdmigrate = 3\n")
    with pytest.raises(ConfigError, match=r"tool.zdmigrate must be a table"):
        load(tmp_path)


def test_a_password_is_in_no_repr_and_no_message(tmp_path: Path) -> None:
    assert "geheim" not in repr(load(tmp_path, url="postgresql://u:geheim@h/d"))
    write(tmp_path / "zdmigrate.toml", 'url = ["postgresql://u:geheim@h/d"]')
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert "geheim" not in str(caught.value)
