"""What applications import: who is alive, which shape to read and write. Small, quick to import, and never in the way.

Names are loaded on first use: `import zdmigrate.app` itself costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zdmigrate.app.async_fleet import AsyncFleet as AsyncFleet
    from zdmigrate.app.async_fleet import register_async as register_async
    from zdmigrate.app.dual.writing import DualWrite as DualWrite
    from zdmigrate.app.fleet import Fleet as Fleet
    from zdmigrate.app.fleet import register as register
    from zdmigrate.app.ignoring import IGNORED as IGNORED
    from zdmigrate.app.ignoring import IgnoredColumns as IgnoredColumns
    from zdmigrate.app.ignoring import include_object as include_object
    from zdmigrate.app.outbox.async_writer import AsyncDualWriter as AsyncDualWriter
    from zdmigrate.app.outbox.table import outbox_ddl as outbox_ddl
    from zdmigrate.app.outbox.table import outbox_table as outbox_table
    from zdmigrate.app.outbox.writer import DualWriter as DualWriter
    from zdmigrate.app.probes import asgi_ready as asgi_ready
    from zdmigrate.app.probes import wsgi_ready as wsgi_ready
    from zdmigrate.app.readiness import Readiness as Readiness
    from zdmigrate.app.routing import replica_aware as replica_aware
    from zdmigrate.app.routing import replica_aware_async as replica_aware_async
    from zdmigrate.app.settings import install as install
    from zdmigrate.app.shadow.async_reading import AsyncShadowRead as AsyncShadowRead
    from zdmigrate.app.shadow.reading import ShadowRead as ShadowRead
    from zdmigrate.app.snapshot import Source as Source
    from zdmigrate.app.snapshot import pinned as pinned
    from zdmigrate.app.switch import ReadSwitch as ReadSwitch

_HOME = {
    "IGNORED": "ignoring",
    "AsyncDualWriter": "outbox.async_writer",
    "AsyncFleet": "async_fleet",
    "AsyncShadowRead": "shadow.async_reading",
    "DualWriter": "outbox.writer",
    "DualWrite": "dual.writing",
    "Fleet": "fleet",
    "IgnoredColumns": "ignoring",
    "ReadSwitch": "switch",
    "Readiness": "readiness",
    "ShadowRead": "shadow.reading",
    "Source": "snapshot",
    "asgi_ready": "probes",
    "include_object": "ignoring",
    "install": "settings",
    "outbox_ddl": "outbox.table",
    "outbox_table": "outbox.table",
    "pinned": "snapshot",
    "register": "fleet",
    "register_async": "async_fleet",
    "replica_aware": "routing",
    "replica_aware_async": "routing",
    "wsgi_ready": "probes",
}

__all__ = [
    "IGNORED",
    "AsyncDualWriter",
    "AsyncFleet",
    "AsyncShadowRead",
    "DualWrite",
    "DualWriter",
    "Fleet",
    "IgnoredColumns",
    "ReadSwitch",
    "Readiness",
    "ShadowRead",
    "Source",
    "asgi_ready",
    "include_object",
    "install",
    "outbox_ddl",
    "outbox_table",
    "pinned",
    "register",
    "register_async",
    "replica_aware",
    "replica_aware_async",
    "wsgi_ready",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"zdmigrate.app.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
