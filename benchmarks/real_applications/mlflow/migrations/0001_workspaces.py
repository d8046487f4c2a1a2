"""Workspaces, metrics of spans, usage of endpoints: the three revisions between MLflow 3.9 and 3.10.

The keys that begin with the workspace come when version N is gone: it upserts and refers by the keys without it.
"""

import sqlalchemy as sa

from zdmigrate import (
    AddColumn,
    AddForeignKey,
    AddPrimaryKey,
    AddUnique,
    CreateIndex,
    CreateTable,
    DropConstraint,
    DropIndex,
    Migration,
    ReplaceIndex,
    RunSQL,
)

KEYS = {
    "registered_models": ("registered_model_pk", ["name"]),
    "model_versions": ("model_version_pk", ["name", "version"]),
    "registered_model_tags": ("registered_model_tag_pk", ["key", "name"]),
    "model_version_tags": ("model_version_tag_pk", ["key", "name", "version"]),
    "registered_model_aliases": ("registered_model_alias_pk", ["name", "alias"]),
}
REFERENCES = (
    ("model_versions", "model_versions_name_fkey", "registered_models", ["name"], None),
    ("registered_model_tags", "registered_model_tags_name_fkey", "registered_models", ["name"], None),
    ("registered_model_aliases", "registered_model_alias_name_fkey", "registered_models", ["name"], "cascade"),
    ("model_version_tags", "model_version_tags_name_version_fkey", "model_versions", ["name", "version"], None),
)
OTHERS = (
    "experiments", "evaluation_datasets", "webhooks", "secrets", "endpoints", "model_definitions", "jobs",
)  # fmt: skip


def columns():
    """N knows nothing of them, and the default suits what it writes."""
    default = sa.text("'default'")
    return [
        AddColumn(table, sa.Column("workspace", sa.String(63), nullable=False, server_default=default))
        for table in (*KEYS, *OTHERS)
    ]


def keys():
    """A new key needs a name of its own for as long as the old one is there."""
    found = [DropConstraint(table, name) for table, name, *_ in REFERENCES]
    for table, (name, key) in KEYS.items():
        found.append(DropConstraint(table, name))
        order = ["workspace", *key]
        found.append(AddPrimaryKey(table, order, name=f"{name}_new"))
    for table, _, target, key, on_delete in REFERENCES:
        order = ["workspace", *key]
        found.append(
            AddForeignKey(
                table, order, target, order, name=f"fk_{table}_{target}", on_update="cascade", on_delete=on_delete
            )
        )
    found.append(
        RunSQL(
            contract=[
                f"ALTER TABLE {table} RENAME CONSTRAINT {name}_new TO {name}" for table, (name, _) in KEYS.items()
            ],
            locks=dict.fromkeys(KEYS, "ACCESS EXCLUSIVE"),
        )
    )
    return found


migration = Migration(
    AddColumn("endpoints", sa.Column("experiment_id", sa.Integer)),
    AddColumn("endpoints", sa.Column("usage_tracking", sa.Boolean, nullable=False, server_default=sa.text("false"))),
    AddForeignKey(
        "endpoints", "experiment_id", "experiments", "experiment_id", name="fk_endpoints_experiment_id",
        on_delete="set null",
    ),
    CreateTable(
        "span_metrics",
        sa.Column("trace_id", sa.String(50), nullable=False),
        sa.Column("span_id", sa.String(50), nullable=False),
        sa.Column("key", sa.String(250), nullable=False),
        sa.Column("value", sa.Float(53)),
        sa.PrimaryKeyConstraint("trace_id", "span_id", "key", name="span_metrics_pk"),
        sa.ForeignKeyConstraint(
            ["trace_id", "span_id"], ["spans.trace_id", "spans.span_id"], name="fk_span_metrics_span", ondelete="CASCADE"
        ),
        sa.Index("index_span_metrics_trace_id_span_id", "trace_id", "span_id"),
    ),
    AddColumn("spans", sa.Column("dimension_attributes", sa.JSON)),
    CreateTable(
        "workspaces",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("default_artifact_root", sa.Text),
        sa.PrimaryKeyConstraint("name", name="workspaces_pk"),
    ),
    RunSQL(
        "INSERT INTO workspaces (name, description) VALUES ('default', 'Default workspace for legacy resources')",
        revert=[],
        locks={"workspaces": "ROW EXCLUSIVE"},
    ),
    *columns(),
    *keys(),
    DropConstraint("experiments", "experiments_name_key"),
    AddUnique("experiments", ["workspace", "name"], name="uq_experiments_workspace_name"),
    DropIndex("unique_secret_name", table="secrets"),
    AddUnique("secrets", ["workspace", "secret_name"], name="uq_secrets_workspace_secret_name"),
    DropIndex("unique_endpoint_name", table="endpoints"),
    AddUnique("endpoints", ["workspace", "name"], name="uq_endpoints_workspace_name"),
    DropIndex("unique_model_definition_name", table="model_definitions"),
    AddUnique("model_definitions", ["workspace", "name"], name="uq_model_definitions_workspace_name"),
    ReplaceIndex(
        "index_jobs_name_status_creation_time", "job_name", "workspace", "status", "creation_time", table="jobs"
    ),
    CreateIndex("experiments", "idx_experiments_workspace", "workspace"),
    CreateIndex("experiments", "idx_experiments_workspace_creation_time", "workspace", "creation_time"),
    *(
        CreateIndex(table, f"idx_{table}_workspace", "workspace")
        for table in (
            "registered_models", "evaluation_datasets", "webhooks", "secrets", "endpoints", "model_definitions",
        )
    ),
)  # fmt: skip
