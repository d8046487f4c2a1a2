"""What the examples for frameworks do where the tests with real servers do not look."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from zdmigrate.app.snapshot import DEFAULT

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Its database is not there."""
    monkeypatch.setenv("DATABASE_URL", "postgresql+asyncpg://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("VERSION", "1")
    spec = importlib.util.spec_from_file_location("fastapi_example", EXAMPLES / "fastapi_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def answer(app: Any, path: str) -> bytes:
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return b"".join(message.get("body", b"") for message in sent)


def test_ready_is_reached_before_a_catch_all(example: ModuleType) -> None:
    async def everything(path: str) -> dict[str, str]:
        return {"caught": path}

    example.app.get("/{path:path}")(everything)

    async def main() -> None:
        async with example.lifespan(example.app):
            assert b'"ready": false' in await answer(example.app, "/ready")
            assert await answer(example.app, "/else") == b'{"caught":"else"}'

    asyncio.run(main())


@pytest.mark.parametrize(("kind", "pins"), [("http", 1), ("websocket", 0), ("lifespan", 0)])
def test_requests_are_pinned_and_open_sockets_are_not(example: ModuleType, kind: str, pins: int) -> None:
    seen: list[int] = []

    async def app(*_: Any) -> None:
        example.emails.new(1)
        seen.append(len(DEFAULT._pinned))

    asyncio.run(example.Pinned(app)({"type": kind}, None, None))
    assert seen == [pins]
    assert len(DEFAULT._pinned) == 0
