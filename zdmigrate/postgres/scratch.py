"""A server on which databases may be made and dropped, wherever it comes from."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Scratch"]


class Scratch(Protocol):
    """What a check needs of a server."""

    @property
    def major(self) -> int: ...

    @property
    def label(self) -> str: ...

    def create_database(self, name: str, *, template: str | None = None) -> None: ...

    def drop_database(self, name: str) -> None: ...

    def conninfo(self, database: str, *, user: str | None = None) -> str: ...

    def url(self, database: str, *, user: str | None = None, driver: str | None = None) -> str: ...
