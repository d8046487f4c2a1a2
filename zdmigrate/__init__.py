"""zdmigrate: expand/contract migrations of live PostgreSQL databases.

What a migration file needs is imported from here. Names are loaded on first use: `import zdmigrate.app` in an
application pays for nothing of the tool.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zdmigrate.changes.add_column import AddColumn as AddColumn
    from zdmigrate.changes.change_type import ChangeType as ChangeType
    from zdmigrate.changes.create_index import CreateIndex as CreateIndex
    from zdmigrate.changes.drop_column import DropColumn as DropColumn
    from zdmigrate.changes.drop_index import DropIndex as DropIndex
    from zdmigrate.changes.key import Key as Key
    from zdmigrate.changes.reindex import Reindex as Reindex
    from zdmigrate.changes.rename_column import RenameColumn as RenameColumn
    from zdmigrate.changes.rename_index import RenameIndex as RenameIndex
    from zdmigrate.changes.replace_index import ReplaceIndex as ReplaceIndex
    from zdmigrate.changes.set_not_null import SetNotNull as SetNotNull
    from zdmigrate.changes.set_replica_identity import SetReplicaIdentity as SetReplicaIdentity
    from zdmigrate.errors import ZdmigrateError as ZdmigrateError
    from zdmigrate.migration import Migration as Migration
    from zdmigrate.phases import Phase as Phase

__version__ = "0.1.0"

_HOME = {
    "AddColumn": "zdmigrate.changes.add_column",
    "ChangeType": "zdmigrate.changes.change_type",
    "CreateIndex": "zdmigrate.changes.create_index",
    "DropColumn": "zdmigrate.changes.drop_column",
    "DropIndex": "zdmigrate.changes.drop_index",
    "Key": "zdmigrate.changes.key",
    "Migration": "zdmigrate.migration",
    "Phase": "zdmigrate.phases",
    "Reindex": "zdmigrate.changes.reindex",
    "RenameColumn": "zdmigrate.changes.rename_column",
    "RenameIndex": "zdmigrate.changes.rename_index",
    "ReplaceIndex": "zdmigrate.changes.replace_index",
    "SetNotNull": "zdmigrate.changes.set_not_null",
    "SetReplicaIdentity": "zdmigrate.changes.set_replica_identity",
    "ZdmigrateError": "zdmigrate.errors",
}

__all__ = [
    "AddColumn",
    "ChangeType",
    "CreateIndex",
    "DropColumn",
    "DropIndex",
    "Key",
    "Migration",
    "Phase",
    "Reindex",
    "RenameColumn",
    "RenameIndex",
    "ReplaceIndex",
    "SetNotNull",
    "SetReplicaIdentity",
    "ZdmigrateError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
