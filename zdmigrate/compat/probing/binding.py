"""Which column each parameter of a statement is written to, or compared with. Pure text work, and only a guess: it
chooses values that mean something, and the server judges."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence

from zdmigrate.sqltext import Token, folded, tokens

__all__ = ["Place", "columns_of", "names_in", "relations_of", "target_of"]

_REACH = 8
"""So many tokens a column may stand before the parameter that is compared with it."""
_BEFORE_RELATION = frozenset(("from", "join", "into", "update", "only", "using", "copy", "table"))


_WRITE = frozenset(("insert", "delete", "merge", "copy"))
_NO_WRITE = frozenset(("for", "key", "do"))
"""What stands before UPDATE where it locks, or belongs to an INSERT."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A parameter's column. `written`: the statement stores it there."""

    column: str
    written: bool


_NAME = re.compile(r'"((?:[^"]|"")*)"|([A-Za-z_\u0080-\U0010ffff][\w$\u0080-\U0010ffff]*)')


def names_in(sql: str) -> frozenset[str]:
    """Every identifier that a statement may mean; words in strings and comments too, which does no harm here."""
    return frozenset(quoted.replace('""', '"') or folded(word) for quoted, word in _NAME.findall(sql))


def relations_of(sql: str) -> tuple[tuple[str | None, str], ...]:
    """(schema, name) of what stands where a relation may stand, in order."""
    found: dict[tuple[str | None, str], None] = {}
    solid = _solid(sql)
    for position, (before, token) in enumerate(itertools.pairwise(solid), start=1):
        name = token.name
        if before.text.lower() in _BEFORE_RELATION and name is not None and name not in _BEFORE_RELATION:
            dotted = [t.name for t in solid[position + 1 : position + 3] if t.text == "." or t.name is not None]
            qualified = len(solid) > position + 2 and solid[position + 1].text == "."
            found[(name, dotted[-1]) if qualified and dotted and dotted[-1] else (None, name)] = None
    return tuple(found)


def target_of(sql: str) -> tuple[str | None, str] | None:
    """(schema, name) of what a statement writes, also after WITH; None for one that only reads."""
    solid = _solid(sql)
    words = ["", *(token.text.lower() for token in solid)]
    for position, (before, word) in enumerate(itertools.pairwise(words)):
        if word in _WRITE or (word == "update" and before not in _NO_WRITE):
            return next(iter(relations_of(" ".join(token.text for token in solid[position:]))), None)
    return None


def columns_of(sql: str, columns: frozenset[str]) -> dict[int, Place]:
    """The places of the parameters, by number. `columns` are those of the statement's relations."""
    solid = _solid(sql)
    return {**_compared(solid, columns), **_inserted(solid)}


def _solid(sql: str) -> list[Token]:
    return [token for token in tokens(sql) if token.kind not in ("space", "comment")]


def _compared(solid: Sequence[Token], columns: frozenset[str]) -> dict[int, Place]:
    found: dict[int, Place] = {}
    setting = False
    for position, token in enumerate(solid):
        word = token.text.lower()
        setting = (setting or word == "set") and word not in ("where", "from", "returning")
        if token.kind == "param":
            near = solid[max(position - _REACH, 0) : position][::-1]
            after = solid[position + 1 : position + 5]
            name = next((t.name for t in (*near, *after) if t.name in columns), None)
            if name is not None:
                found.setdefault(int(token.text[1:]), Place(column=name, written=setting))
    return found


def _inserted(solid: Sequence[Token]) -> dict[int, Place]:
    words = [token.text.lower() for token in solid]
    if "insert" not in words or "values" not in words:
        return {}
    start = words.index("insert")
    opening = next((i for i in range(start, len(words)) if words[i] in ("(", "values", "select", "default")), None)
    if opening is None or words[opening] != "(":
        return {}
    targets = [item[0].name for item in _items(solid, opening) if item]
    values = words.index("values", opening)
    if values + 1 >= len(words) or words[values + 1] != "(":
        return {}
    given = list(_items(solid, values + 1))
    order = _order(solid, values, targets)
    found = {}
    for item, target in zip(given, order, strict=False):
        numbers = [int(token.text[1:]) for token in item if token.kind == "param"]
        if len(numbers) == 1 and target is not None:
            found[numbers[0]] = Place(column=target, written=True)
    return found


def _order(solid: Sequence[Token], values: int, targets: list[str | None]) -> list[str | None]:
    """The target of each value: as it stands, or through ``INSERT … SELECT p0, p1 FROM (VALUES …) AS x(p0, p1)``."""
    words = [token.text.lower() for token in solid]
    close = _closing(solid, values + 1)
    if "select" not in words[:values] or words[close + 1 : close + 3] != [")", "as"] or words[close + 4] != "(":
        return targets
    aliases = [item[0].name for item in _items(solid, close + 4)]
    selected = [item[0].name for item in _listed(solid[words.index("select") + 1 : values])]
    by_alias = dict(zip(selected, targets, strict=False))
    return [by_alias.get(alias) for alias in aliases]


def _items(solid: Sequence[Token], opening: int) -> Iterator[list[Token]]:
    """What stands between the bracket at `opening` and its partner, split at commas."""
    yield from _listed(solid[opening + 1 : _closing(solid, opening)])


def _listed(pieces: Sequence[Token]) -> Iterator[list[Token]]:
    depth, item = 0, list[Token]()
    for token in pieces:
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if (token.text == "," or token.text.lower() == "from") and depth == 0:
            yield item
            item = []
        else:
            item.append(token)
    if item:
        yield item


def _closing(solid: Sequence[Token], opening: int) -> int:
    depth = 0
    for position in range(opening, len(solid)):
        depth += {"(": 1, ")": -1}.get(solid[position].text, 0)
        if depth == 0:
            return position
    return len(solid)
