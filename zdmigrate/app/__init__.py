"""What applications import. Depends on SQLAlchemy alone, and on nothing of the tool."""
