"""Consumers know users by their public id."""

from zdmigrate import Migration, SetReplicaIdentity

migration = Migration(
    SetReplicaIdentity("users", index="users_public_id"),
)
