"""The page of a check in a real browser: no console error, no request, light and dark, wide and narrow."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import chromium, reports
from tests.support.chromium import Scheme
from zdmigrate.compat.formats import render
from zdmigrate.compat.report import Report


@pytest.fixture(scope="module")
def browser() -> str:
    program = chromium.find()
    if program is None:
        pytest.skip(f"no Chromium is installed (looked for {', '.join(chromium.NAMES)})")
    return program


def page_of(report: Report) -> str:
    return render(report, [reports.plan()], "html")


def test_the_page_asks_nobody_for_anything_and_complains_of_nothing(browser: str, tmp_path: Path) -> None:
    with chromium.serve(pages := {}) as site:
        pages["/check.html"] = page_of(reports.hostile(site.base))
        dom, console = chromium.visit(browser, f"{site.base}check.html", tmp_path)
        asked = list(site.requests)
    assert asked == ["/check.html"]
    assert console == []
    assert "<script" not in dom
    assert "&lt;/script&gt;" in dom
    assert "<footer>" in dom


def test_the_test_would_notice(browser: str, tmp_path: Path) -> None:
    """A page that does load something is seen to, by the server and in the console."""
    with chromium.serve(pages := {}) as site:
        pages["/check.html"] = f"<!doctype html><img src='{site.base}x.png'><script>console.error('oh')</script>"
        _, console = chromium.visit(browser, f"{site.base}check.html", tmp_path)
        asked = list(site.requests)
    assert "/x.png" in asked
    assert any("oh" in line for line in console)


def test_the_policy_stops_what_escaping_missed(browser: str, tmp_path: Path) -> None:
    page = page_of(reports.rich())
    with chromium.serve(pages := {}) as site:
        smuggled = f"<img src='{site.base}x.png'><script>document.title = 'owned'</script></main>"
        pages["/check.html"] = page.replace("</main>", smuggled)
        dom, console = chromium.visit(browser, f"{site.base}check.html", tmp_path)
        asked = list(site.requests)
    assert asked == ["/check.html"]
    assert "<title>owned</title>" not in dom
    assert console


def rows(png: bytes) -> Iterator[bytes]:
    """The lines of pixels of a PNG with 8 bits in each of 3 or 4 channels, filters undone."""
    width, _, depth, kind = struct.unpack(">IIBB", png[16:26])
    assert depth == 8
    size = {2: 3, 6: 4}[kind]
    data, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        data += png[at + 8 : at + 8 + length] if png[at + 4 : at + 8] == b"IDAT" else b""
        at += length + 12
    raw, above = zlib.decompress(data), bytes(width * size)
    for start in range(0, len(raw), width * size + 1):
        line = bytearray(raw[start + 1 : start + 1 + width * size])
        _unfilter(raw[start], line, above, size)
        above = bytes(line)
        yield above


def _unfilter(kind: int, line: bytearray, above: bytes, size: int) -> None:
    for at in range(len(line)):
        left = line[at - size] if at >= size else 0
        corner = above[at - size] if at >= size else 0
        guess = (0, left, above[at], (left + above[at]) // 2, _paeth(left, above[at], corner))[kind]
        line[at] = (line[at] + guess) & 255


def _paeth(left: int, above: int, corner: int) -> int:
    guess = left + above - corner
    return min((left, above, corner), key=lambda value: abs(guess - value))


@pytest.mark.parametrize(("scheme", "ground"), [(Scheme.LIGHT, "ffffff"), (Scheme.DARK, "14171b")])
def test_it_follows_the_preferred_colours(browser: str, tmp_path: Path, scheme: Scheme, ground: str) -> None:
    file = tmp_path / "check.html"
    file.write_text(page_of(reports.rich()), encoding="utf-8")
    picture = chromium.screenshot(
        browser, file.as_uri(), tmp_path / "profile", tmp_path / "check.png", scheme=scheme, width=900, height=300
    )
    seen = Counter(line[:3].hex() for line in rows(picture))
    assert seen.most_common(1)[0][0] == ground
