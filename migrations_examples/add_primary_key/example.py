"""Facts for the tests and for `zdmigrate demo --example add_primary_key`."""

# ON CONFLICT (id) finds nothing to decide by before the key is there.
OPERATIONS = {"Event": ("insert", "insert_minimal", "read", "read_other", "update", "delete")}
