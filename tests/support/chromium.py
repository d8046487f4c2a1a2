"""A headless Chromium that loads a page from a server which counts what is asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--enable-logging=stderr",
)  # fmt: skip


class Scheme(enum.IntEnum):
    """What the system prefers."""

    DARK = 0
    LIGHT = 1


def find() -> str | None:
    """The program; None where none is installed."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A server on this machine, and the paths that it was asked for."""

    base: str
    requests: list[str]


@contextlib.contextmanager
def serve(pages: dict[str, str]) -> Iterator[Site]:
    """Serve `pages` by path; everything else is 404, and remembered as well."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            page = pages.get(self.path, "").encode()
            self.send_response(200 if page else 404)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Site(base=f"http://127.0.0.1:{server.server_port}/", requests=requests)
        finally:
            server.shutdown()


def visit(program: str, url: str, profile: Path) -> tuple[str, list[str]]:
    """The page's DOM after it was loaded, and what it said in the console."""
    done = _run(program, profile, "--dump-dom", url)
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def screenshot(program: str, url: str, profile: Path, file: Path, *, scheme: Scheme, width: int, height: int) -> bytes:
    """A picture of the page (PNG)."""
    _run(
        program, profile, f"--blink-settings=preferredColorScheme={scheme.value}", f"--window-size={width},{height}",
        f"--screenshot={file}", url,
    )  # fmt: skip
    return file.read_bytes()


def _run(program: str, profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [program, *_FLAGS, f"--user-data-dir={profile}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
