"""zdmigrate: expand/contract migrations of live PostgreSQL databases.

What a migration file needs is imported from here. Names are loaded on first use: `import zdmigrate.app` in an
application pays for nothing of the tool.
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
    from zdmigrate.changes.drop_column import DropColumn as DropColumn
    from zdmigrate.changes.drop_constraint import DropConstraint as DropConstraint
    from zdmigrate.changes.drop_default import DropDefault as DropDefault
    from zdmigrate.changes.drop_not_null import DropNotNull as DropNotNull
    from zdmigrate.changes.rename_column import RenameColumn as RenameColumn
    from zdmigrate.changes.rename_constraint import RenameConstraint as RenameConstraint
    from zdmigrate.changes.set_comment import SetComment as SetComment
    from zdmigrate.changes.set_default import SetDefault as SetDefault
    from zdmigrate.changes.set_not_null import SetNotNull as SetNotNull
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
    "DropColumn": "zdmigrate.changes.drop_column",
    "DropConstraint": "zdmigrate.changes.drop_constraint",
    "DropDefault": "zdmigrate.changes.drop_default",
    "DropNotNull": "zdmigrate.changes.drop_not_null",
    "Migration": "zdmigrate.migration",
    "Phase": "zdmigrate.phases",
    "RenameColumn": "zdmigrate.changes.rename_column",
    "RenameConstraint": "zdmigrate.changes.rename_constraint",
    "SetComment": "zdmigrate.changes.set_comment",
    "SetDefault": "zdmigrate.changes.set_default",
    "SetNotNull": "zdmigrate.changes.set_not_null",
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
    "DropColumn",
    "DropConstraint",
    "DropDefault",
    "DropNotNull",
    "Migration",
    "Phase",
    "RenameColumn",
    "RenameConstraint",
    "SetComment",
    "SetDefault",
    "SetNotNull",
    "ZdmigrateError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
