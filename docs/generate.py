"""Writes what is generated of the documentation: `python docs/generate.py`.

`reference/cli.md` comes from the commands' own help, the SQL in `changes/` from real plans.
"""

from __future__ import annotations

import re
from pathlib import Path

import click
import sqlalchemy as sa

from zdmigrate import AddColumn, DropColumn, Migration, RenameColumn, schema
from zdmigrate.cli import main
from zdmigrate.planning import planner

HERE = Path(__file__).parent
BEGIN, END = "<!-- generated: python docs/generate.py -->", "<!-- end -->"


def cli_reference() -> str:
    """Every command's help, as one page."""
    context = click.Context(main, info_name="zdmigrate", terminal_width=100, max_content_width=100)
    lines = ["# Commands", "", "Made from the commands' own `--help`.", ""]
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        own = click.Context(command, info_name=name, parent=context, terminal_width=100, max_content_width=100)
        lines += [f"## zdmigrate {name}", "", "```text", command.get_help(own), "```", ""]
    return "\n".join(lines)


def example_table() -> schema.Table:
    """users(id, name, user_email, country, fax), as a snapshot has it."""
    types = {"id": "bigint", "name": "text", "user_email": "text", "country": "text", "fax": "text"}
    return schema.Table(
        schema="public", name="users", oid=1, kind="r", owner="app", owned=True, rows=1_000_000, bytes=2**27,
        columns=tuple(
            schema.Column(name=name, number=number, type=type_, not_null=True)
            for number, (name, type_) in enumerate(types.items(), 1)
        ),
        indexes=(
            schema.Index(
                name="users_user_email_key", unique=True, primary=False, valid=True, columns=("user_email",),
                keys=("user_email",), tail="btree (user_email)", constraint="users_user_email_key",
            ),
        ),
        constraints=(
            schema.Constraint(
                name="users_user_email_key", kind="u", columns=("user_email",), definition="UNIQUE (user_email)"
            ),
        ),
    )  # fmt: skip


def plan_sql(migration: Migration) -> str:
    """The SQL of all phases on PostgreSQL 17."""
    questions = [question for change in migration.changes for question in change.questions()]
    snapshot = schema.Snapshot(
        server_version=170000,
        role="app",
        may_suppress_triggers=True,
        tables=(example_table(),),
        expressions=tuple(
            schema.ExpressionFacts(schema=q.schema, table=q.table, expression=q.expression)
            for q in questions
            if q.expression is not None
        ),
        types=tuple(schema.TypeFacts(text=q.type, canonical="text") for q in questions if q.type is not None),
    )
    return planner.plan(_Named("example", migration), snapshot).to_sql()


class _Named:
    def __init__(self, id_: str, migration: Migration) -> None:
        self.id = id_
        self.changes = migration.changes
        self.requires = migration.requires
        self.sync = migration.sync
        self.checksum = migration.checksum


EXAMPLES = {
    "rename_column": Migration(RenameColumn("users", "user_email", "email_address")),
    "add_column": Migration(
        AddColumn(
            "users",
            sa.Column("locale", sa.Text, nullable=False),
            backfill="CASE country WHEN 'DE' THEN 'de' ELSE 'en' END",
        )
    ),
    "drop_column": Migration(DropColumn("users", "fax", down="''")),
}


def with_plan(page: str, sql: str) -> str:
    """`page` with the generated block replaced."""
    block = f"{BEGIN}\n\n```sql\n{sql}```\n\n{END}"
    return re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: block, page, flags=re.DOTALL)


def generated() -> dict[Path, str]:
    """Every generated page, whole."""
    pages = {HERE / "reference" / "cli.md": cli_reference()}
    for name, migration in EXAMPLES.items():
        path = HERE / "changes" / f"{name}.md"
        pages[path] = with_plan(path.read_text(encoding="utf-8"), plan_sql(migration))
    return pages


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
