"""Reports read customers that are still there."""

from zdmigrate import Migration, RunSQL

migration = Migration(
    RunSQL(
        "CREATE VIEW active_customers AS SELECT id, name FROM users WHERE left_on IS NULL",
        revert="DROP VIEW active_customers",
        locks={"active_customers": "ACCESS EXCLUSIVE"},
    ),
    RunSQL(contract="DROP VIEW customers", locks={"customers": "ACCESS EXCLUSIVE"}, tables=["customers"]),
)
