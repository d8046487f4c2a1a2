"""Types that applications take for one another: drivers give values of the same Python type."""

from __future__ import annotations

from zdmigrate.postgres.shapes import Column

__all__ = ["alike"]

_TEXT = "text"
_KINDS = {
    **dict.fromkeys(("int2", "int4", "int8", "oid"), "int"),
    **dict.fromkeys(("float4", "float8"), "float"),
    **dict.fromkeys(("text", "varchar", "bpchar", "citext", "name"), _TEXT),
    **dict.fromkeys(("json", "jsonb"), "json"),
}


def alike(one: Column, other: Column) -> bool:
    """Whether the values of both are of one kind."""
    return _kind(one) == _kind(other)


def _kind(column: Column) -> str:
    element = column.base.removeprefix("_")
    kind = _TEXT if column.labels else _KINDS.get(element, element)
    return kind if element == column.base else f"{kind}[]"
