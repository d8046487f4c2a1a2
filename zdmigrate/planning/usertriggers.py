"""The table's own triggers and functions, which know columns by name or fire for some columns only."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from zdmigrate import schema
from zdmigrate.errors import Unsafe
from zdmigrate.phases import Phase
from zdmigrate.plan import Gate
from zdmigrate.sqltext import ident, literal, tokens


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What keeps the table's own triggers firing.

    `widen` makes those that fire for an UPDATE of an old name fire for the new one too, `narrow` takes that back, and
    `final` leaves them with the column that survives.
    """

    widen: tuple[str, ...] = ()
    narrow: tuple[str, ...] = ()
    final: tuple[str, ...] = ()
    gates: tuple[Gate, ...] = ()


def carried(table: schema.Table, renamed: Sequence[tuple[str, str]]) -> Carried:
    """For columns that are renamed (from, to)."""
    found = Carried(gates=_functions(table, renamed))
    for trigger in table.triggers:
        there = {old: new for old, new in renamed if old in trigger.update_of}
        if there:
            if not trigger.definition:
                raise Unsafe(
                    f"the snapshot does not say how the trigger {trigger.name} of {table.schema}.{table.name} is defined",
                    hint="write it again: zdmigrate plan --write-stats FILE",
                )
            both = [name for c in trigger.update_of for name in dict.fromkeys((c, there.get(c, c)))]
            final = [there.get(c, c) for c in trigger.update_of]
            found = dataclasses.replace(
                found,
                widen=(*found.widen, *_again(table, trigger, both, {})),
                narrow=(*found.narrow, *_again(table, trigger, list(trigger.update_of), {})),
                final=(*found.final, *_again(table, trigger, final, there)),
            )
    return found


def dropped(table: schema.Table, columns: Sequence[str]) -> tuple[Gate, ...]:
    """For columns that go: functions that still name them."""
    found = [(f, column) for column in columns for f in table.functions if column in f.columns]
    if not found:
        return ()
    said = "; ".join(f"{f.identity} mentions {column}" for f, column in found)
    return (_gate(f"{said}: let it do without", [(f.identity, column) for f, column in found]),)


def naming(table: schema.Table, phase: Phase, remedy: str) -> tuple[Gate, ...]:
    """For a table that goes: functions that still name it."""
    found = [(f.identity, table.name) for f in table.functions if f.named]
    if not found:
        return ()
    said = ", ".join(identity for identity, _ in found)
    return (_gate(f"the text of {said} mentions {table.name}: {remedy}", found, phase),)


def _again(table: schema.Table, trigger: schema.Trigger, columns: list[str], names: dict[str, str]) -> tuple[str, ...]:
    """CREATE OR REPLACE keeps comment and dependencies, but not whether the trigger is enabled."""
    head, _, tail = trigger.definition.partition(" UPDATE OF ")
    listed, on, rest = tail.partition(" ON ")
    # Another event may follow the list: "UPDATE OF a, b OR DELETE".
    _, separator, events = listed.partition(" OR ")
    for old, new in names.items():
        rest = _renamed_records(rest, old, new)
    text = f"{head} UPDATE OF {', '.join(ident(c) for c in columns)}{separator}{events}{on}{rest}"
    text = text.replace("CREATE TRIGGER", "CREATE OR REPLACE TRIGGER", 1)
    enable = {"A": "ENABLE ALWAYS", "R": "ENABLE REPLICA", "D": "DISABLE"}.get(trigger.enabled)
    if enable is None:
        return (text,)
    return (text, f"ALTER TABLE {ident(table.schema, table.name)} {enable} TRIGGER {ident(trigger.name)}")


def _renamed_records(text: str, old: str, new: str) -> str:
    """``new.old_name`` and ``old.old_name`` in a deparsed WHEN, with the new name."""
    pieces = list(tokens(text))
    made = []
    for place, piece in enumerate(pieces):
        is_field = place >= 2 and pieces[place - 1].text == "." and pieces[place - 2].text.lower() in ("new", "old")
        made.append(ident(new) if is_field and piece.name == old else piece.text)
    return "".join(made)


def _functions(table: schema.Table, renamed: Sequence[tuple[str, str]]) -> tuple[Gate, ...]:
    """Functions that name a column in their text break when it is called otherwise (the catalog knows of no dependency)."""
    found = [(f, old, new) for old, new in renamed for f in table.functions if old in f.columns]
    if not found:
        return ()
    said = "; ".join(f"{f.identity} mentions {old}" for f, old, _ in found)
    remedy = ", ".join(dict.fromkeys(f"{new} instead of {old}" for _, old, new in found))
    detail = f"{said}: let it use {remedy} (both are there, and equal, since backfill)"
    return (_gate(detail, [(f.identity, old) for f, old, _ in found]),)


def _gate(detail: str, found: Sequence[tuple[str, str]], phase: Phase = Phase.RETIRE) -> Gate:
    """Open as soon as none of the functions mentions the name any more, by the words of its text."""
    each = " UNION ALL ".join(
        f"SELECT {literal(f'{identity} mentions {name}')} FROM pg_proc p "
        f"WHERE p.oid = to_regprocedure({literal(identity)}) "
        f"AND p.prosrc ~* {literal(f'(^|[^[:alnum:]_]){_escaped(name)}([^[:alnum:]_]|$)')}"
        for identity, name in found
    )
    return Gate(name="functions", phase=phase, detail=detail, exit_code=6, query=each)


def _escaped(text: str) -> str:
    return "".join(c if c.isalnum() or c == "_" else "\\" + c for c in text)
