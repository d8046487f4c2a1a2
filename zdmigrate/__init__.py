"""zdmigrate: expand/contract migrations of live PostgreSQL databases.

What a migration file needs is imported from here. Names are loaded on first use: `import zdmigrate.app` in an
application pays for nothing of the tool.

PYTEST_DONT_REWRITE: `zdmigrate record -- pytest` imports this before pytest does, and pytest would warn of that.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zdmigrate.changes.add_check import AddCheck as AddCheck
    from zdmigrate.changes.add_column import AddColumn as AddColumn
    from zdmigrate.changes.add_exclusion import AddExclusion as AddExclusion
    from zdmigrate.changes.add_foreign_key import AddForeignKey as AddForeignKey
    from zdmigrate.changes.add_identity import AddIdentity as AddIdentity
    from zdmigrate.changes.add_primary_key import AddPrimaryKey as AddPrimaryKey
    from zdmigrate.changes.add_unique import AddUnique as AddUnique
    from zdmigrate.changes.change_type import ChangeType as ChangeType
    from zdmigrate.changes.create_index import CreateIndex as CreateIndex
    from zdmigrate.changes.create_table import CreateTable as CreateTable
    from zdmigrate.changes.drop_column import DropColumn as DropColumn
    from zdmigrate.changes.drop_constraint import DropConstraint as DropConstraint
    from zdmigrate.changes.drop_default import DropDefault as DropDefault
    from zdmigrate.changes.drop_index import DropIndex as DropIndex
    from zdmigrate.changes.drop_not_null import DropNotNull as DropNotNull
    from zdmigrate.changes.drop_table import DropTable as DropTable
    from zdmigrate.changes.key import Key as Key
    from zdmigrate.changes.reindex import Reindex as Reindex
    from zdmigrate.changes.rename_column import RenameColumn as RenameColumn
    from zdmigrate.changes.rename_constraint import RenameConstraint as RenameConstraint
    from zdmigrate.changes.rename_index import RenameIndex as RenameIndex
    from zdmigrate.changes.rename_table import RenameTable as RenameTable
    from zdmigrate.changes.replace_index import ReplaceIndex as ReplaceIndex
    from zdmigrate.changes.run_python import RunPython as RunPython
    from zdmigrate.changes.run_sql import RunSQL as RunSQL
    from zdmigrate.changes.set_comment import SetComment as SetComment
    from zdmigrate.changes.set_default import SetDefault as SetDefault
    from zdmigrate.changes.set_not_null import SetNotNull as SetNotNull
    from zdmigrate.changes.set_replica_identity import SetReplicaIdentity as SetReplicaIdentity
    from zdmigrate.demands import ShadowReads as ShadowReads
    from zdmigrate.errors import ZdmigrateError as ZdmigrateError
    from zdmigrate.migration import Migration as Migration
    from zdmigrate.phases import Phase as Phase

__version__ = "0.1.0"

_HOME = {
    "AddCheck": "zdmigrate.changes.add_check",
    "AddColumn": "zdmigrate.changes.add_column",
    "AddExclusion": "zdmigrate.changes.add_exclusion",
    "AddForeignKey": "zdmigrate.changes.add_foreign_key",
    "AddIdentity": "zdmigrate.changes.add_identity",
    "AddPrimaryKey": "zdmigrate.changes.add_primary_key",
    "AddUnique": "zdmigrate.changes.add_unique",
    "ChangeType": "zdmigrate.changes.change_type",
    "CreateIndex": "zdmigrate.changes.create_index",
    "CreateTable": "zdmigrate.changes.create_table",
    "DropColumn": "zdmigrate.changes.drop_column",
    "DropConstraint": "zdmigrate.changes.drop_constraint",
    "DropDefault": "zdmigrate.changes.drop_default",
    "DropIndex": "zdmigrate.changes.drop_index",
    "DropNotNull": "zdmigrate.changes.drop_not_null",
    "DropTable": "zdmigrate.changes.drop_table",
    "Key": "zdmigrate.changes.key",
    "Migration": "zdmigrate.migration",
    "Phase": "zdmigrate.phases",
    "Reindex": "zdmigrate.changes.reindex",
    "RenameColumn": "zdmigrate.changes.rename_column",
    "RenameConstraint": "zdmigrate.changes.rename_constraint",
    "RenameIndex": "zdmigrate.changes.rename_index",
    "RenameTable": "zdmigrate.changes.rename_table",
    "ReplaceIndex": "zdmigrate.changes.replace_index",
    "RunPython": "zdmigrate.changes.run_python",
    "RunSQL": "zdmigrate.changes.run_sql",
    "SetComment": "zdmigrate.changes.set_comment",
    "SetDefault": "zdmigrate.changes.set_default",
    "SetNotNull": "zdmigrate.changes.set_not_null",
    "SetReplicaIdentity": "zdmigrate.changes.set_replica_identity",
    "ShadowReads": "zdmigrate.demands",
    "ZdmigrateError": "zdmigrate.errors",
}

__all__ = [
    "AddCheck",
    "AddColumn",
    "AddExclusion",
    "AddForeignKey",
    "AddIdentity",
    "AddPrimaryKey",
    "AddUnique",
    "ChangeType",
    "CreateIndex",
    "CreateTable",
    "DropColumn",
    "DropConstraint",
    "DropDefault",
    "DropIndex",
    "DropNotNull",
    "DropTable",
    "Key",
    "Migration",
    "Phase",
    "Reindex",
    "RenameColumn",
    "RenameConstraint",
    "RenameIndex",
    "RenameTable",
    "ReplaceIndex",
    "RunPython",
    "RunSQL",
    "SetComment",
    "SetDefault",
    "SetNotNull",
    "SetReplicaIdentity",
    "ShadowReads",
    "ZdmigrateError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
