"""What the columns of the next migration refer to, and the bundles that DAGs without one belong to."""

import sqlalchemy as sa

from zdmigrate import CreateTable, Migration, RunSQL

migration = Migration(
    CreateTable(
        "team",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("name", sa.String(50), nullable=False),
        sa.PrimaryKeyConstraint("id", name="team_pkey"),
        sa.UniqueConstraint("name", name="team_name_uq"),
    ),
    CreateTable(
        "dag_bundle_team",
        sa.Column("dag_bundle_name", sa.String(250), nullable=False),
        sa.Column("team_id", sa.Uuid, nullable=False),
        sa.PrimaryKeyConstraint("dag_bundle_name", "team_id", name="dag_bundle_team_pkey"),
        sa.ForeignKeyConstraint(
            ["dag_bundle_name"], ["dag_bundle.name"], name="dag_bundle_team_dag_bundle_name_fkey", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["team_id"], ["team.id"], name="dag_bundle_team_team_id_fkey", ondelete="CASCADE"),
        sa.Index("idx_dag_bundle_team_dag_bundle_name", "dag_bundle_name", unique=True),
        sa.Index("idx_dag_bundle_team_team_id", "team_id"),
    ),
    RunSQL(
        "INSERT INTO dag_bundle (name) VALUES ('example_dags'), ('dags-folder') ON CONFLICT (name) DO NOTHING",
        revert=[],
        locks={"dag_bundle": "ROW EXCLUSIVE"},
    ),
)
