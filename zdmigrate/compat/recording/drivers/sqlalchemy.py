"""Drivers that are not listened to themselves, through SQLAlchemy's dialects: what is handed to their cursors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from zdmigrate.compat.normalising.placeholders import numbered
from zdmigrate.compat.recording import values
from zdmigrate.compat.recording.recorder import Recorder, Sent

__all__ = ["listen"]

_OTHERWISE = frozenset(("psycopg", "psycopg_async", "psycopg2", "asyncpg"))


def listen(module: ModuleType, recorder: Recorder) -> None:
    """Begin to record what dialects hand to cursors."""
    dialect = module.DefaultDialect
    _wrap(dialect, "do_execute", lambda self, sql, row: _seen(recorder, self, sql, [row]))
    _wrap(dialect, "do_executemany", lambda self, sql, rows: _seen(recorder, self, sql, rows))
    _wrap(dialect, "do_execute_no_params", lambda self, sql, *_: _seen(recorder, self, sql, [None]))


def _wrap(cls: Any, name: str, observe: Callable[..., None]) -> None:
    original = getattr(cls, name)

    @functools.wraps(original)
    def executing(self: Any, cursor: Any, statement: Any, *args: Any, **options: Any) -> Any:
        if self.name == "postgresql" and self.driver not in _OTHERWISE:
            observe(self, statement, *args[:1])
        return original(self, cursor, statement, *args, **options)

    setattr(cls, name, executing)


def _seen(recorder: Recorder, dialect: Any, statement: str, rows: Sequence[Any]) -> None:
    try:
        formatted = dialect.paramstyle in ("format", "pyformat") and rows[0] is not None
        sql, names = numbered(statement) if formatted else (statement, None)
        for row in rows:
            given = [row[name] for name in names or row] if isinstance(row, Mapping) else list(row or ())
            recorder.sent((statement, len(given)), given, functools.partial(_described, sql, len(given)))
    except Exception as error:  # noqa: BLE001
        recorder.failed(error)


def _described(sql: str, count: int) -> Sent:
    return Sent(sql=sql, slots=values.untyped(count), text=lambda _, value: values.as_text(value))
