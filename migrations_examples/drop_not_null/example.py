"""What the harness and the demo need to know."""

OVERRIDES = {"old_reads_null": "version N shows an empty field"}
VALUES = {"User.phone": lambda _, number: f"+49 30 {number}"}
# Without insert_minimal and insert_nulls: rows that are NULL would rightly keep the old shape from coming back.
OPERATIONS = {"User": ("insert", "read", "read_other", "update", "delete", "upsert")}
