"""Deadlines, human decisions, teams: revisions 0070 to 0087 of Airflow, between 3.0 and 3.1."""

import sqlalchemy as sa

from zdmigrate import (
    AddColumn,
    AddForeignKey,
    ChangeType,
    CreateIndex,
    CreateTable,
    DropColumn,
    Key,
    Migration,
    RenameColumn,
    RunSQL,
    SetNotNull,
)

MOMENT = sa.DateTime(timezone=True)
BUNDLE = "CASE WHEN fileloc LIKE '%/airflow/example_dags/%' THEN 'example_dags' ELSE 'dags-folder' END"
RESTRICTING = "FOREIGN KEY (dag_version_id) REFERENCES dag_version (id) ON DELETE RESTRICT"

migration = Migration(
    AddColumn("dag", sa.Column("deadline", sa.JSON)),
    AddColumn("dag", sa.Column("last_parse_duration", sa.Float)),
    SetNotNull("dag", "bundle_name", backfill=BUNDLE),
    AddColumn("backfill", sa.Column("triggering_user_name", sa.String(512))),
    AddColumn("dag_run", sa.Column("triggering_user_name", sa.String(512))),
    AddColumn("dag_bundle", sa.Column("signed_url_template", sa.Text)),
    AddColumn("dag_bundle", sa.Column("template_params", sa.JSON)),
    # deadline
    RenameColumn("deadline", "deadline", "deadline_time"),
    ChangeType(
        "deadline",
        "deadline_time",
        MOMENT,
        up="deadline_time AT TIME ZONE 'UTC'",
        down="deadline_time AT TIME ZONE 'UTC'",
    ),
    ChangeType(
        "deadline",
        "callback",
        sa.JSON,
        up="json_build_object('path', callback)",
        down="coalesce(callback ->> 'path', '')",
    ),
    AddColumn("deadline", sa.Column("trigger_id", sa.Integer)),
    AddForeignKey("deadline", "trigger_id", "trigger", "id", name="deadline_trigger_id_fkey"),
    AddColumn("deadline", sa.Column("callback_state", sa.String(20))),
    CreateIndex("deadline", "deadline_callback_state_time_idx", "callback_state", "deadline_time"),
    DropColumn("deadline", "callback_kwargs"),
    DropColumn("deadline", "dag_id"),
    # A key of the same name, that restricts where the old one cascades.
    RunSQL(
        contract=[
            "ALTER TABLE task_instance DROP CONSTRAINT task_instance_dag_version_id_fkey",
            f"ALTER TABLE task_instance ADD CONSTRAINT task_instance_dag_version_id_fkey {RESTRICTING} NOT VALID",
        ],
        locks={"task_instance": "ACCESS EXCLUSIVE", "dag_version": "ACCESS EXCLUSIVE"},
    ),
    RunSQL(
        contract="ALTER TABLE task_instance VALIDATE CONSTRAINT task_instance_dag_version_id_fkey",
        locks={"task_instance": "SHARE UPDATE EXCLUSIVE", "dag_version": "ROW SHARE"},
    ),
    CreateTable(
        "task_inlet_asset_reference",
        sa.Column("asset_id", sa.Integer, nullable=False),
        sa.Column("dag_id", sa.String(250), nullable=False),
        sa.Column("task_id", sa.String(250), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("asset_id", "dag_id", "task_id", name="tiar_pkey"),
        sa.ForeignKeyConstraint(["asset_id"], ["asset.id"], name="tiar_asset_fkey", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["dag_id"], ["dag.dag_id"], name="tiar_dag_id_fkey", ondelete="CASCADE"),
        sa.Index("idx_task_inlet_asset_reference_dag_id", "dag_id"),
    ),
    CreateTable(
        "dag_favorite",
        sa.Column("user_id", sa.String(250), nullable=False),
        sa.Column("dag_id", sa.String(250), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "dag_id", name="dag_favorite_pkey"),
        sa.ForeignKeyConstraint(["dag_id"], ["dag.dag_id"], name="dag_favorite_dag_id_fkey", ondelete="CASCADE"),
    ),
    CreateTable(
        "hitl_detail",
        sa.Column("ti_id", sa.Uuid, nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("body", sa.Text),
        sa.Column("defaults", sa.JSON),
        sa.Column("multiple", sa.Boolean),
        sa.Column("params", sa.JSON, nullable=False),
        sa.Column("assignees", sa.JSON),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("responded_at", MOMENT),
        sa.Column("responded_by", sa.JSON),
        sa.Column("chosen_options", sa.JSON),
        sa.Column("params_input", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("ti_id", name="hitl_detail_pkey"),
        sa.ForeignKeyConstraint(
            ["ti_id"], ["task_instance.id"], name="hitl_detail_ti_fkey", ondelete="CASCADE", onupdate="CASCADE"
        ),
    ),
    AddColumn("connection", sa.Column("team_id", sa.Uuid)),
    AddForeignKey("connection", "team_id", "team", "id", name="connection_team_id_fkey"),
    AddColumn("variable", sa.Column("team_id", sa.Uuid)),
    AddForeignKey("variable", "team_id", "team", "id", name="variable_team_id_fkey"),
    AddColumn("slot_pool", sa.Column("team_id", sa.Uuid)),
    AddForeignKey("slot_pool", "team_id", "team", "id", name="slot_pool_team_id_fkey"),
    CreateIndex("task_reschedule", "idx_task_reschedule_ti_id_id_desc", "ti_id", Key("id", order="desc")),
)
