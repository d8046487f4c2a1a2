"""Tokens, codes and clients of OAuth have scopes, not roles: revision 651f5419b74d of JupyterHub."""

import sqlalchemy as sa

from zdmigrate import AddColumn, DropTable, Migration

migration = Migration(
    AddColumn("api_tokens", sa.Column("scopes", sa.Text)),
    AddColumn("oauth_codes", sa.Column("scopes", sa.Text)),
    AddColumn("oauth_clients", sa.Column("allowed_scopes", sa.Text)),
    DropTable("api_token_role_map"),
    DropTable("oauth_code_role_map"),
    DropTable("oauth_client_role_map"),
)
