"""Amounts outgrow integer."""

import sqlalchemy as sa

from zdmigrate import ChangeType, Migration

migration = Migration(
    ChangeType("orders", "cents", sa.BigInteger()),
)
