"""Amounts in cents, not in euros, and never NULL."""

import sqlalchemy as sa

from zdmigrate import ChangeType, Migration, RenameColumn, SetNotNull

migration = Migration(
    RenameColumn("orders", "euros", "cents"),
    ChangeType("orders", "cents", sa.BigInteger(), up="cents * 100::bigint", down="(cents / 100)::integer"),
    SetNotNull("orders", "cents", backfill="0"),
)
