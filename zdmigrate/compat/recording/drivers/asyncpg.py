"""asyncpg: whatever is called, a method of its protocol sends it. The server chooses the types of parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from zdmigrate.compat.recording import values
from zdmigrate.compat.recording.recorder import Recorder, Sent

__all__ = ["listen"]

Observe = Callable[..., None]


def listen(module: ModuleType, recorder: Recorder) -> None:
    """Begin to record what connections send."""
    protocol = module.Protocol
    _wrap(protocol, "query", lambda sql, *_: _seen(recorder, sql, prepared=False))
    _wrap(protocol, "prepare", lambda name, sql, *_: _seen(recorder, sql, prepared=bool(name)))
    for name in ("bind", "bind_execute"):
        _wrap(protocol, name, lambda state, row, *_: _executed(recorder, state, [row]))
    _wrap(protocol, "bind_execute_many", lambda state, rows, *_: _executed(recorder, state, rows))
    for name in ("copy_in", "copy_out"):
        _wrap(protocol, name, lambda sql, *_: _seen(recorder, sql, prepared=False))


def _wrap(cls: Any, name: str, observe: Observe) -> None:
    """The methods take some arguments by name; the first ones of each are what is looked at."""
    original = getattr(cls, name)
    wanted = _NAMES[name]

    @functools.wraps(original)
    def sending(self: Any, *args: Any, **options: Any) -> Any:
        given = [*args, *(options[each] for each in wanted[len(args) :] if each in options)]
        observe(*given)
        return original(self, *args, **options)

    setattr(cls, name, sending)


_NAMES: dict[str, Sequence[str]] = {
    "query": ("query",),
    "prepare": ("stmt_name", "query"),
    "bind": ("state", "args"),
    "bind_execute": ("state", "args"),
    "bind_execute_many": ("state", "args"),
    "copy_in": ("copy_stmt",),
    "copy_out": ("copy_stmt",),
}


def _executed(recorder: Recorder, state: Any, rows: Any) -> None:
    """Rows that can be read only once are the driver's; then the text alone is known, from `prepare`."""
    try:
        for row in rows if isinstance(rows, (list, tuple)) else ():
            _seen(recorder, state.query, row, prepared=bool(state.name))
    except Exception as error:  # noqa: BLE001
        recorder.failed(error)


def _seen(recorder: Recorder, sql: str, row: Sequence[Any] = (), *, prepared: bool) -> None:
    recorder.sent(
        (sql, len(row), prepared),
        row,
        lambda: Sent(
            sql=sql,
            slots=values.untyped(len(row)),
            prepared=prepared,
            text=lambda _, value: values.as_text(value),
        ),
    )
