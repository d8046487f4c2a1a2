"""zdmigrate: expand/contract migrations of live PostgreSQL databases.

What a migration file needs is imported from here. Names are loaded on first use: `import zdmigrate.app` in an
application pays for nothing of the tool.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zdmigrate.changes.add_column import AddColumn as AddColumn
    from zdmigrate.changes.add_identity import AddIdentity as AddIdentity
    from zdmigrate.changes.change_type import ChangeType as ChangeType
    from zdmigrate.changes.create_table import CreateTable as CreateTable
    from zdmigrate.changes.drop_column import DropColumn as DropColumn
    from zdmigrate.changes.drop_default import DropDefault as DropDefault
    from zdmigrate.changes.drop_not_null import DropNotNull as DropNotNull
    from zdmigrate.changes.drop_table import DropTable as DropTable
    from zdmigrate.changes.rename_column import RenameColumn as RenameColumn
    from zdmigrate.changes.rename_table import RenameTable as RenameTable
    from zdmigrate.changes.set_comment import SetComment as SetComment
    from zdmigrate.changes.set_default import SetDefault as SetDefault
    from zdmigrate.changes.set_not_null import SetNotNull as SetNotNull
    from zdmigrate.errors import ZdmigrateError as ZdmigrateError
    from zdmigrate.migration import Migration as Migration
    from zdmigrate.phases import Phase as Phase

__version__ = "0.1.0"

_HOME = {
    "AddColumn": "zdmigrate.changes.add_column",
    "AddIdentity": "zdmigrate.changes.add_identity",
    "ChangeType": "zdmigrate.changes.change_type",
    "CreateTable": "zdmigrate.changes.create_table",
    "DropColumn": "zdmigrate.changes.drop_column",
    "DropDefault": "zdmigrate.changes.drop_default",
    "DropNotNull": "zdmigrate.changes.drop_not_null",
    "DropTable": "zdmigrate.changes.drop_table",
    "Migration": "zdmigrate.migration",
    "Phase": "zdmigrate.phases",
    "RenameColumn": "zdmigrate.changes.rename_column",
    "RenameTable": "zdmigrate.changes.rename_table",
    "SetComment": "zdmigrate.changes.set_comment",
    "SetDefault": "zdmigrate.changes.set_default",
    "SetNotNull": "zdmigrate.changes.set_not_null",
    "ZdmigrateError": "zdmigrate.errors",
}

__all__ = [
    "AddColumn",
    "AddIdentity",
    "ChangeType",
    "CreateTable",
    "DropColumn",
    "DropDefault",
    "DropNotNull",
    "DropTable",
    "Migration",
    "Phase",
    "RenameColumn",
    "RenameTable",
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
