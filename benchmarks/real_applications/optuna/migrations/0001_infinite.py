"""Values that are no finite numbers have a type of their own: revisions v3.0.0.b to v3.0.0.d of Optuna."""

import sqlalchemy as sa

from zdmigrate import AddColumn, DropNotNull, Migration

VALUES = sa.Enum("FINITE", "INF_POS", "INF_NEG", name="trialvaluetype")
REPORTED = sa.Enum("FINITE", "INF_POS", "INF_NEG", "NAN", name="trialintermediatevaluetype")

migration = Migration(
    AddColumn("trial_values", sa.Column("value_type", VALUES, nullable=False), backfill="'FINITE'"),
    DropNotNull("trial_values", "value"),
    AddColumn(
        "trial_intermediate_values",
        sa.Column("intermediate_value_type", REPORTED, nullable=False),
        backfill="'FINITE'",
    ),
    DropNotNull("trial_intermediate_values", "intermediate_value"),
)
