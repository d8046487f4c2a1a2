"""Rows that cannot be filled: which they are, where they are kept, how they are tried again."""
