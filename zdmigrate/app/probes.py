"""Readiness over HTTP: for load balancers and orchestrators."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from zdmigrate.app.readiness import Readiness


class _Asked(Protocol):
    def ready(self) -> Readiness: ...


def _answer(fleet: _Asked) -> tuple[int, bytes]:
    readiness = fleet.ready()
    document = {"ready": readiness.ready, "missing": list(readiness.missing)}
    return (200 if readiness.ready else 503), json.dumps(document).encode()


class _Asgi:
    """An object and no function: Starlette takes a route's function for one of request and response."""

    def __init__(self, fleet: _Asked) -> None:
        self._fleet = fleet

    async def __call__(self, scope: dict[str, Any], _receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        status, body = _answer(self._fleet)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope.get("method") == "HEAD" else body})


def asgi_ready(fleet: _Asked) -> Callable[[dict[str, Any], Any, Any], Coroutine[Any, Any, None]]:
    """An ASGI application that answers 200 where the database is as this version needs it, else 503 with what is missing.

    As a route: ``app.router.routes.insert(0, Route("/ready", asgi_ready(fleet)))``. Mounted (``app.mount``) it is ``/ready/``,
    and ``/ready`` redirects to that. It asks the fleet's memory, and no database.
    """
    return _Asgi(fleet)


def wsgi_ready(fleet: _Asked) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    """The same for WSGI: ``DispatcherMiddleware(app, {"/ready": wsgi_ready(fleet)})``."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        status, body = _answer(fleet)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response(f"{status} {'OK' if status == 200 else 'Service Unavailable'}", headers)
        return [b"" if environ.get("REQUEST_METHOD") == "HEAD" else body]

    return application
