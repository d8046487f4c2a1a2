"""The examples for frameworks, in real servers and workers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.support.frameworks import EXAMPLES, SCRIPTS, environment, follows, instances, serving, shop, started, stop
from tests.support.processes import RENAME, Site, until

DJANGO = EXAMPLES / "django_project"


@pytest.fixture
def ready_shop(site: Site) -> Site:
    return shop(site)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg_async"])
def test_fastapi(ready_shop: Site, driver: str) -> None:
    command = ["uvicorn", "--uds", "SOCKET", "fastapi_app:app"]
    with serving(command, environment(ready_shop, driver)) as server:
        until(lambda: instances(ready_shop) == (1, 0), "it has registered")
        follows(ready_shop, server, 1)
        server.stop()
    assert instances(ready_shop) == (0, 1)


def test_flask_under_gunicorn_that_forks(ready_shop: Site) -> None:
    command = ["gunicorn", "--preload", "--workers", "2", "--bind", "unix:SOCKET", "flask_app:app"]
    with serving(command, environment(ready_shop, "psycopg")) as server:
        until(lambda: instances(ready_shop) == (3, 0), "the first process and both workers have registered")
        follows(ready_shop, server, 2)
        server.stop()
    assert instances(ready_shop) == (0, 3)


def test_django_under_gunicorn(ready_shop: Site) -> None:
    command = ["gunicorn", "--workers", "2", "--bind", "unix:SOCKET", "webshop.wsgi"]
    with serving(command, environment(ready_shop), cwd=DJANGO) as server:
        until(lambda: instances(ready_shop, "webshop") == (2, 0), "both workers have registered")
        follows(ready_shop, server, 2)
        names = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE usename = 'shop_app' AND datname = %s"
        assert ready_shop.rows(names, ready_shop.database.name) == [("webshop/2.4.0",)], "Django's sessions and ours"
        server.stop()
    assert instances(ready_shop, "webshop") == (0, 2)


def test_a_management_command_of_django_registers_and_says_goodbye(ready_shop: Site) -> None:
    code = "from django.apps import apps; print(apps.get_app_config('webshop').fleet.refresh(30))"
    command = [sys.executable, "manage.py", "shell", "--command", code]
    with started(command, environment(ready_shop), cwd=DJANGO) as (process, log):
        assert process.wait(60) == 0
        assert "True" in log.read_text()
    assert instances(ready_shop, "webshop") == (0, 1)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Celery]:
    """Messages as files, and a client that sends them."""
    for name in ("messages", "control", "results"):
        (tmp_path / name).mkdir()
    messages, control = str(tmp_path / "messages"), str(tmp_path / "control")
    settings: dict[str, Any] = {
        "broker_url": "filesystem://",
        "broker_transport_options": {
            "data_folder_in": messages, "data_folder_out": messages, "control_folder": control, "polling_interval": 0.05,
        },
        "result_backend": f"file://{tmp_path / 'results'}",
        "worker_hijack_root_logger": False,
    }  # fmt: skip
    lines = [f"{name} = {value!r}\n" for name, value in settings.items()]
    (tmp_path / "celeryconfig.py").write_text("".join(lines))
    client = Celery("client", set_as_current=False)
    client.conf.update(settings)
    yield client
    client.close()


def test_celery_prefork(ready_shop: Site, broker: Celery, tmp_path: Path) -> None:
    def asked() -> set[str]:
        """What two processes say; a child takes one task at a time."""
        found: dict[int, str] = {}

        def answered() -> bool:
            sent = [broker.send_task("email", [1]) for _ in range(2)]
            for each in sent:
                answer = each.get(timeout=30, interval=0.02)
                assert answer["email"] == "u1"
                found[answer["process"]] = answer["column"]
            return len(found) == 2

        until(answered, "both children answer")
        return set(found.values())

    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    command = [
        str(SCRIPTS / "celery"),
        "--app",
        "celery_app",
        "worker",
        "--pool",
        "prefork",
        "--concurrency",
        "2",
        *quiet,
    ]
    given = environment(ready_shop, "psycopg") | {"PYTHONPATH": f"{EXAMPLES.parents[1]}:{EXAMPLES}:{tmp_path}"}
    with started(command, given, cwd=tmp_path) as (process, log):
        until(lambda: process.poll() is None and instances(ready_shop) == (3, 0), "three processes have registered")
        assert asked() == {"user_email"}
        ready_shop.run("advance", "--to", "backfill").expect(0)
        ready_shop.run("switch", RENAME, "100").expect(0)
        until(lambda: asked() == {"email_address"}, "both follow")
        stop(process, log)
    assert instances(ready_shop) == (0, 3)
