"""Invoices of a user."""

import sqlalchemy as sa

from zdmigrate import CreateTable, Migration

migration = Migration(
    CreateTable(
        "invoices",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("user_id", sa.BigInteger, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("state", sa.Enum("open", "paid", name="invoice_state"), nullable=False, server_default="open"),
        sa.Column("note", sa.Text, comment="for the accountant"),
    ),
)
