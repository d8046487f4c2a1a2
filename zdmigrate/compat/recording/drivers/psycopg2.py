"""psycopg2 writes the values into the text, in C: connections and cursors get a base class that sees the template.

The class stands right above psycopg2's own, below whatever the application derives from it.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from zdmigrate.compat.normalising.placeholders import numbered
from zdmigrate.compat.recording import values
from zdmigrate.compat.recording.recorder import Recorder, Sent, Slot

__all__ = ["listen"]

_inner = threading.local()
"""`psycopg2.extras` calls `execute` with a text that it has put together; its own argument says more."""


def listen(module: ModuleType, recorder: Recorder) -> None:
    """Begin to record: `psycopg2.connect`, and the helpers of `psycopg2.extras`."""
    if module.__name__ == "psycopg2":
        module.connect = _connect(module, recorder)  # type: ignore[attr-defined]
    else:
        for name in ("execute_values", "execute_batch"):
            setattr(module, name, _helper(getattr(module, name), recorder))


def _connect(module: Any, recorder: Recorder) -> Callable[..., Any]:
    original = module.connect
    derived = _Derived(module.extensions, recorder)

    @functools.wraps(original)
    def connect(dsn: Any = None, connection_factory: Any = None, *args: Any, **options: Any) -> Any:
        factory = derived.connection(connection_factory or module.extensions.connection)
        return original(dsn, factory, *args, **options)

    return connect


class _Derived:
    """Classes that record, made of the application's."""

    def __init__(self, extensions: Any, recorder: Recorder) -> None:
        self._extensions = extensions
        self._made: dict[type, type] = {}
        self._cursor = _recording_cursor(extensions, recorder)
        self._connection = _recording_connection(extensions, self._with(self._cursor, extensions.cursor))

    def connection(self, factory: Any) -> Any:
        """The class for connections; a factory that is no class stays what it is."""
        return self._with(self._connection, self._extensions.connection)(factory)

    def _with(self, base: type, root: type) -> Callable[[Any], Any]:
        def derive(factory: Any) -> Any:
            if not (isinstance(factory, type) and issubclass(factory, root)) or issubclass(factory, base):
                return factory
            if factory not in self._made:
                bases = (base,) if factory is root else (factory, base)
                names = {"__module__": factory.__module__, "__qualname__": factory.__qualname__}
                self._made[factory] = type(factory.__name__, bases, names)
            return self._made[factory]

        return derive


def _recording_connection(extensions: Any, derive: Callable[[Any], Any]) -> type:
    class Connection(extensions.connection):  # type: ignore[misc]
        def cursor(self, *args: Any, **options: Any) -> Any:
            if len(args) > 1:
                args = (args[0], derive(args[1] or extensions.cursor), *args[2:])
            else:
                wanted = options.get("cursor_factory") or self.cursor_factory or extensions.cursor
                options["cursor_factory"] = derive(wanted)
            return super().cursor(*args, **options)

    return Connection


def _recording_cursor(extensions: Any, recorder: Recorder) -> type:
    class Cursor(extensions.cursor):  # type: ignore[misc]
        def execute(self, query: Any, vars: Any = None) -> Any:  # noqa: A002  # psycopg2's name
            _seen(recorder, self, query, vars)
            return super().execute(query, vars)

        def executemany(self, query: Any, vars_list: Any) -> Any:
            return super().executemany(query, _watched(recorder, self, query, vars_list))

        def callproc(self, procname: Any, parameters: Any = None, *args: Any) -> Any:
            given = list(parameters.values()) if isinstance(parameters, Mapping) else list(parameters or ())
            _seen(recorder, self, f"SELECT * FROM {procname}({', '.join(['%s'] * len(given))})", given)
            return super().callproc(procname, *([] if parameters is None else [parameters]), *args)

        def copy_expert(self, sql: Any, *args: Any, **options: Any) -> Any:
            _seen(recorder, self, sql, None)
            return super().copy_expert(sql, *args, **options)

        def copy_from(self, file: Any, table: Any, *args: Any, **options: Any) -> Any:
            columns = options.get("columns") or (args[3] if len(args) > 3 else None)
            _seen(recorder, self, _copy(table, columns, "FROM STDIN"), None)
            return super().copy_from(file, table, *args, **options)

        def copy_to(self, file: Any, table: Any, *args: Any, **options: Any) -> Any:
            columns = options.get("columns") or (args[2] if len(args) > 2 else None)
            _seen(recorder, self, _copy(table, columns, "TO STDOUT"), None)
            return super().copy_to(file, table, *args, **options)

    return Cursor


def _copy(table: str, columns: Iterable[str] | None, tail: str) -> str:
    listed = ", ".join('"' + column.replace('"', '""') + '"' for column in columns or ())
    return f'COPY "{table}"' + (f" ({listed})" if listed else "") + f" {tail}"


def _seen(recorder: Recorder, cursor: Any, query: Any, given: Any) -> None:
    if getattr(_inner, "depth", 0):
        return
    try:
        text = _string(cursor, query)
        found = _arranged(text, given)
        types = tuple(_type(value) for value in found)
        recorder.sent((text, types, given is None), found, lambda: _sent(text, types, plain=given is None))
    except Exception as error:  # noqa: BLE001
        recorder.failed(error)


def _string(cursor: Any, query: Any) -> str:
    if isinstance(query, str):
        return query
    return query.decode("utf-8", "replace") if isinstance(query, bytes) else str(query.as_string(cursor))


_NAMED = re.compile(r"%(?:%|\(([^)]+)\))")


def _arranged(text: str, given: Any) -> Sequence[Any]:
    """The values in the order of the placeholders' numbers. A tuple stands for the elements of a list."""
    if isinstance(given, Mapping):
        names = dict.fromkeys(name for name in _NAMED.findall(text) if name)
        return [given[name] for name in names]
    return [] if given is None else list(given)


def _type(value: Any) -> str:
    if isinstance(value, tuple):
        return next((values.python_type(each) for each in value if each is not None), "unknown")
    return values.python_type(value)


def _sent(text: str, types: Sequence[str], *, plain: bool) -> Sent:
    return Sent(
        sql=text if plain else numbered(text)[0],
        slots=[Slot(type=type_, measure=_measured) for type_ in types],
        prepared=False,
        bound=True,
        text=lambda _, value: values.as_text(value[0] if isinstance(value, tuple) and value else value),
    )


def _measured(value: Any) -> int:
    return max(map(values.measured, value), default=0) if isinstance(value, tuple) else values.measured(value)


def _watched(recorder: Recorder, cursor: Any, query: Any, lists: Iterable[Any]) -> Iterator[Any]:
    for given in lists:
        _seen(recorder, cursor, query, given)
        yield given


def _helper(original: Callable[..., Any], recorder: Recorder) -> Callable[..., Any]:
    """`execute_values` and `execute_batch`, seen by what they are given."""
    values_of_rows = original.__name__ == "execute_values"

    @functools.wraps(original)
    def helper(cur: Any, sql: Any, argslist: Any, template: Any = None, *args: Any, **options: Any) -> Any:
        depth = getattr(_inner, "depth", 0)
        watched = _outside(recorder, cur, sql, argslist, template if values_of_rows else None, values_of_rows)
        _inner.depth = depth + 1
        try:
            if values_of_rows:
                return original(cur, sql, watched, template, *args, **options)
            return original(cur, sql, watched, *([] if template is None else [template]), *args, **options)
        finally:
            _inner.depth = depth

    return helper


def _outside(
    recorder: Recorder,
    cursor: Any,
    sql: Any,
    rows: Iterable[Any],
    template: Any,
    values_of_rows: bool,  # noqa: FBT001
) -> Iterator[Any]:
    """The rows as they pass, each seen as one execution."""
    for row in rows:
        depth, _inner.depth = getattr(_inner, "depth", 0), 0
        try:
            text = _string(cursor, sql)
            if values_of_rows:
                shown = _string(cursor, template) if template else f"({', '.join(['%s'] * len(row))})"
                text = text.replace("%s", shown, 1)
            _seen(recorder, cursor, text, row)
        except Exception as error:  # noqa: BLE001
            recorder.failed(error)
        finally:
            _inner.depth = depth
        yield row
