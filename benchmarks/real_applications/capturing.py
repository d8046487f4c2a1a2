"""Runs a script, and writes down what it changes in the database: ``capturing.py OUT SCRIPT``.

Of all that SQLAlchemy sends, the statements that change something, as JSON, in order, with their values in place. Runs in
the environments of the applications (SQLAlchemy 1.4 or 2, psycopg2), and imports nothing of zdmigrate.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

CHANGING = ("alter", "comment", "create", "delete", "drop", "insert", "update")


def main(out: str, script: str) -> None:
    captured: list[str] = []

    def sent(_connection: Any, cursor: Any, sql: str, values: Any, _context: Any, many: Any) -> None:
        if sql.split(maxsplit=1)[0].lower() in CHANGING and "alembic_version" not in sql:
            captured.extend(cursor.mogrify(sql, each).decode() for each in (values if many else [values]))

    event.listen(Engine, "before_cursor_execute", sent)
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        Path(out).write_text(json.dumps(captured), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
