"""The enum types: an AddColumn takes them as they are."""

from zdmigrate import Migration, RunSQL

migration = Migration(
    RunSQL(
        [
            "CREATE TYPE trialvaluetype AS ENUM ('FINITE', 'INF_POS', 'INF_NEG')",
            "CREATE TYPE trialintermediatevaluetype AS ENUM ('FINITE', 'INF_POS', 'INF_NEG', 'NAN')",
        ],
        revert=["DROP TYPE trialvaluetype", "DROP TYPE trialintermediatevaluetype"],
    ),
)
