"""psycopg 3: every cursor, sync or async, hands its statements to one of two methods of `BaseCursor`.

There the text has the server's placeholders, the parameters are dumped, and their types are those that go over the
wire. Client-side cursors have a method of their own, and a text with the values in it.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable
from types import ModuleType
from typing import Any

from zdmigrate.compat.normalising.placeholders import numbered
from zdmigrate.compat.recording import values
from zdmigrate.compat.recording.recorder import Measure, Recorder, Sent, Slot

__all__ = ["listen"]

_TEXTS = frozenset(("unknown", "text", "varchar", "bpchar", "name", "xml"))
Observe = Callable[[Any, Any, bool], None]


def listen(module: ModuleType, recorder: Recorder) -> None:
    """Begin to record what cursors send."""
    if module.__name__ == "psycopg.client_cursor":
        _wrap(module.ClientCursorMixin, "_execute_send", functools.partial(_bound, recorder))
    else:
        _wrap(module.BaseCursor, "_execute_send", functools.partial(_typed, recorder))
        _wrap_prepared(module.BaseCursor, functools.partial(_typed, recorder))


def _wrap(cls: Any, name: str, observe: Observe) -> None:
    original = getattr(cls, name)

    @functools.wraps(original)
    def sending(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        observe(self, query, not options.get("force_extended"))
        return original(self, query, *args, **options)

    setattr(cls, name, sending)


def _wrap_prepared(cls: Any, observe: Observe) -> None:
    original = cls._send_query_prepared

    @functools.wraps(original)
    def sending(self: Any, name: Any, query: Any, *args: Any, **options: Any) -> Any:
        observe(self, query, True)  # noqa: FBT003
        return original(self, name, query, *args, **options)

    cls._send_query_prepared = sending


def _typed(recorder: Recorder, cursor: Any, query: Any, may_prepare: bool) -> None:  # noqa: FBT001
    """A statement with parameters apart. Streams and server-side cursors are never prepared."""
    try:
        prepared = may_prepare and cursor._conn.prepare_threshold is not None
        types, formats = query.types, tuple(query.formats or ())
        key = (query.query, types, formats, prepared)
        recorder.sent(key, query.params or (), lambda: _described(cursor, query, formats, prepared=prepared))
    except Exception as error:  # noqa: BLE001
        recorder.failed(error)


def _described(cursor: Any, query: Any, formats: tuple[int, ...], *, prepared: bool) -> Sent:
    names = [_type_name(cursor, oid) for oid in query.types]
    slots = [Slot(type=name, measure=_measure(name, formats[n])) for n, name in enumerate(names)]
    return Sent(
        sql=bytes(query.query).decode("utf-8", "replace"),
        slots=slots,
        prepared=prepared,
        text=lambda number, value: _text(value, query.types[number], formats[number]),
    )


def _type_name(cursor: Any, oid: int) -> str:
    """The name in pg_type. psycopg sends no other types than those of its registry."""
    found = cursor.adapters.types.get(oid) if oid else None
    if found is None:
        return "unknown"
    name: str = found.name
    return f"_{name}" if found.array_oid == oid else name


def _measure(name: str, format_: int) -> Measure | None:
    if name in _TEXTS:
        return _characters
    if name == "bytea":
        return len if format_ else _hexadecimal
    if name.startswith("_"):
        return _elements if format_ else values.array_length
    return None


def _characters(value: Any) -> int:
    data = bytes(value)
    return len(data) if data.isascii() else len(data.decode("utf-8", "replace"))


def _hexadecimal(value: Any) -> int:
    return (len(value) - 2) // 2


def _elements(value: Any) -> int:
    """Of an array in the binary format: dimensions, flags, type, then the length and lower bound of each dimension."""
    data = bytes(value)
    count = 1 if (dimensions := struct.unpack_from("!i", data)[0]) else 0
    for number in range(dimensions):
        count *= struct.unpack_from("!i", data, 12 + 8 * number)[0]
    return count


def _text(value: Any, oid: int, format_: int) -> str:
    data = bytes(value)
    if not format_:
        return data.decode("utf-8", "replace")
    from psycopg.adapt import PyFormat, Transformer
    from psycopg.pq import Format

    transformer = Transformer()
    loaded = transformer.get_loader(oid, Format.BINARY).load(data)
    dumped = transformer.get_dumper(loaded, PyFormat.TEXT).dump(loaded)
    return bytes(dumped or b"").decode("utf-8", "replace")


def _bound(recorder: Recorder, _cursor: Any, query: Any, _may_prepare: bool) -> None:  # noqa: FBT001
    """A statement that the client puts together: its template, with the types that the literals have."""
    try:
        template = getattr(query, "template", None) if query.params is not None else None
        if template is None:
            plain = bytes(query.query)
            recorder.sent(plain, (), lambda: Sent(sql=plain.decode("utf-8", "replace"), prepared=False, bound=True))
            return
        literals, order = query.params, query._order
        if order:
            literals = list(dict(zip(order, literals, strict=True)).values())
        types = tuple(values.literal_type(literal) for literal in literals)
        known = [None if literal == b"NULL" else literal for literal in literals]
        recorder.sent((template, types), known, lambda: _template(query, template, literals))
    except Exception as error:  # noqa: BLE001
        recorder.failed(error)


def _template(query: Any, template: bytes, literals: list[bytes]) -> Sent:
    """Named placeholders have lost their names in the template: the order of the names says which they were."""
    sql, _ = numbered(template.decode("utf-8", "replace"))
    if order := query._order:
        names = list(dict.fromkeys(order))
        sql = re.sub(r"\$(\d+)", lambda match: f"${names.index(order[int(match[1]) - 1]) + 1}", sql)
    return Sent(
        sql=sql,
        slots=[values.literal_slot(literal) for literal in literals],
        prepared=False,
        bound=True,
        text=lambda _, value: values.literal_text(value),
    )
