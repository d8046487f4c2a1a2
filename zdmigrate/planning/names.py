"""Names of what zdmigrate creates: legal, at most 63 bytes, the same at every run, without collisions."""

from __future__ import annotations

import hashlib

MAX_BYTES = 63


def digest(*parts: str) -> str:
    """Eight hexadecimal digits that stand for `parts`."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def cut(name: str, room: int) -> str:
    """The longest prefix of `name` that fits `room` bytes without splitting a character."""
    return name.encode()[:room].decode(errors="ignore")


def generated(kind: str, readable: str, *identity: str) -> str:
    """``zd_ix_3f2a9c1b_email_address``: the digest makes it unique, the rest is for people.

    Args:
        kind: what the object is (ix, ck, fk, nn, uq, old, sync).
        readable: cut where there is no room.
        identity: what makes the object this one: migration, schema, table, its old name.
    """
    head = f"zd_{kind}_{digest(kind, *identity)}_"
    return head + cut(readable, MAX_BYTES - len(head))


def conventional(table: str, columns: str, label: str, taken: frozenset[str] = frozenset()) -> str:
    """The name that the server gives an unnamed constraint or index: ``users_email_key`` (makeObjectName).

    `columns` is the column's name, or several joined by ``_``, or "" where there is none. Numbered where it is taken.
    """
    for number in range(1000):
        numbered = f"{label}{number or ''}"
        room = MAX_BYTES - len(numbered) - 1 - bool(columns)
        first, second = len(table.encode()), len(columns.encode())
        while first + second > room:
            if first > second:
                first -= 1
            else:
                second -= 1
        parts = (cut(table, first), cut(columns, second), numbered)
        made = "_".join(part for part in parts if part)
        if made not in taken:
            return made
    raise ValueError(f"no name is free like {table}_{columns}_{label}")


def first_trigger(base: str, others: frozenset[str]) -> str:
    """A trigger name that sorts before every one of `others` (triggers fire in byte order of their names)."""
    return _sorting(("!" + base, " " + base, "  " + base, "\x01" + base), others, before=True)


def last_trigger(base: str, others: frozenset[str]) -> str:
    """A trigger name that sorts after every one of `others`."""
    return _sorting(("~" + base, "\U0010fffd" + base), others, before=False)


def _sorting(candidates: tuple[str, ...], others: frozenset[str], *, before: bool) -> str:
    for candidate in candidates:
        name = cut(candidate, MAX_BYTES)
        mine = name.encode()
        if all(mine < other.encode() if before else mine > other.encode() for other in others):
            return name
    raise ValueError("no trigger name sorts " + ("before" if before else "after") + " the table's own triggers")
