"""What a version needs, settled where it is at home and asked in every other state."""
