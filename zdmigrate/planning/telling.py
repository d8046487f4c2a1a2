"""By which names and types the two shapes of a migration are told apart. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from zdmigrate.app.shapes import Shapes, Trait
from zdmigrate.planning.draft import Draft, TableDraft

_Pair = tuple[Trait | None, Trait | None]


def shapes(draft: Draft) -> Shapes:
    """The traits that only the old shape of the drafted tables has, and those that only the new one has."""
    pairs = [pair for key, table in draft.named.items() for pair in _of_table(key, table)]
    pairs += [(Trait(schema=home, table=name), None) for (home, name), why in draft.lost.items() if why == "dropped"]
    return Shapes(
        old=tuple(old for old, _ in pairs if old is not None), new=tuple(new for _, new in pairs if new is not None)
    )


def _of_table(key: tuple[str, str], table: TableDraft) -> Iterator[_Pair]:
    home, name = key
    here = Trait(schema=home, table=name)
    if table.fresh:
        yield None, here
        return
    if table.live.name != name:
        yield Trait(schema=home, table=table.live.name), here
    after = {column.name: column for column in table.columns}
    before = {column.name: column for column in table.live.columns}
    for lost in before.keys() - after.keys():
        yield Trait(schema=home, table=table.live.name, column=lost), None
    for column in after.values():
        live = before.get(column.name)
        at = (home, name, column.name)
        if live is None:
            yield None, Trait(schema=home, table=name, column=column.name)
        elif live.type != column.type:
            yield _trait(*at, type_=live.type), _trait(*at, type_=column.type)
        elif live.not_null is not column.not_null:
            yield _trait(*at, nullable=not live.not_null), _trait(*at, nullable=not column.not_null)


def _trait(home: str, table: str, column: str, *, type_: str | None = None, nullable: bool | None = None) -> Trait:
    return Trait(schema=home, table=table, column=column, type=type_, nullable=nullable)
