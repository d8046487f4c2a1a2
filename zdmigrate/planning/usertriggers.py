"""The table's own triggers and functions, which know columns by name or fire for some columns only."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from zdmigrate import schema
from zdmigrate.errors import Unsafe
from zdmigrate.phases import Phase
from zdmigrate.plan import Gate
from zdmigrate.sqltext import ident, literal, tokens


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What keeps the table's own triggers firing.

    `widen` makes those that fire for an UPDATE of an old name fire for the new one too, `narrow` takes that back, and
    `final` leaves them with the column that survives. `wide` are the triggers as they are in between, by name.
    """

    wide: Mapping[str, schema.Trigger] = dataclasses.field(default_factory=dict)
    widen: tuple[str, ...] = ()
    narrow: tuple[str, ...] = ()
    final: tuple[str, ...] = ()
    gates: tuple[Gate, ...] = ()


def carried(
    table: schema.Table, renamed: Sequence[tuple[str, str]], replaced: Sequence[tuple[str, str]] = ()
) -> Carried:
    """For columns that are renamed, or replaced by others of other names (from, to)."""
    found = Carried(gates=_functions(table, renamed))
    names = dict([*renamed, *replaced])
    left = frozenset(old for old, _ in replaced)
    for trigger in table.partition_triggers:
        if names.keys() & set(trigger.update_of):
            raise Unsafe(
                f"{trigger.identity} fires for some columns only, one of which gets another name: it would miss what "
                f"version N+1 writes, and triggers of single partitions are not made again",
                hint=f"create it on {table.schema}.{table.name}, or for every UPDATE",
            )
    for trigger in table.triggers:
        fires = names.keys() & set(trigger.update_of)
        if not fires and not depends(table, trigger, left):
            continue
        if not trigger.definition:
            raise Unsafe(
                f"the snapshot does not say how the trigger {trigger.name} of {table.schema}.{table.name} is defined",
                hint="write it again: zdmigrate plan --write-stats FILE",
            )
        both = [name for c in trigger.update_of for name in dict.fromkeys((c, names.get(c, c)))]
        final = [names.get(c, c) for c in trigger.update_of]
        wide = dataclasses.replace(trigger, update_of=tuple(both), definition=_defined(trigger, both, {}))
        ended = dataclasses.replace(trigger, definition=_defined(trigger, final, names))
        found = dataclasses.replace(
            found,
            wide={**found.wide, trigger.name: wide} if fires else found.wide,
            widen=(*found.widen, *_again(table, wide)) if fires else found.widen,
            narrow=(*found.narrow, *_again(table, trigger)) if fires else found.narrow,
            final=(*found.final, *_again(table, ended)),
        )
    return found


def depends(table: schema.Table, trigger: schema.Trigger, columns: Collection[str]) -> bool:
    """Whether a trigger's definition names one of the columns."""
    return any(d.identity == trigger.identity and d.column in columns for d in table.dependents)


def drop(table: schema.Table, trigger: schema.Trigger) -> str:
    """Take it away."""
    return f"DROP TRIGGER {ident(trigger.name)} ON {ident(table.schema, table.name)}"


def create(table: schema.Table, trigger: schema.Trigger) -> tuple[str, ...]:
    """Make it again, where it is not there, with everything that is its own."""
    target, name = ident(table.schema, table.name), ident(trigger.name)
    found = [trigger.definition]
    enable = {"A": "ENABLE ALWAYS", "R": "ENABLE REPLICA", "D": "DISABLE"}.get(trigger.enabled)
    if enable is not None:
        found.append(f"ALTER TABLE {target} {enable} TRIGGER {name}")
    if trigger.comment is not None:
        found.append(f"COMMENT ON TRIGGER {name} ON {target} IS {literal(trigger.comment)}")
    return tuple(found)


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


def _again(table: schema.Table, trigger: schema.Trigger) -> tuple[str, ...]:
    """With another definition. CREATE OR REPLACE is not there for constraint triggers (manual, CREATE TRIGGER)."""
    return (drop(table, trigger), *create(table, trigger))


def _defined(trigger: schema.Trigger, columns: Sequence[str], names: Mapping[str, str]) -> str:
    """Its definition for an UPDATE OF other columns, with other names of columns in WHEN."""
    head, listed, tail = trigger.definition.partition(" UPDATE OF ")
    if listed:
        before, on, rest = tail.partition(" ON ")
        # Another event may follow the list: "UPDATE OF a, b OR DELETE".
        _, separator, events = before.partition(" OR ")
        head = f"{head} UPDATE OF {', '.join(ident(c) for c in columns)}{separator}{events}{on}"
    else:
        head, rest = "", trigger.definition
    return head + _renamed_records(rest, names)


def _renamed_records(text: str, names: Mapping[str, str]) -> str:
    """``new.old_name`` and ``old.old_name`` in a deparsed WHEN, with the new names."""
    pieces = list(tokens(text))
    made = []
    for place, piece in enumerate(pieces):
        is_field = place >= 2 and pieces[place - 1].text == "." and pieces[place - 2].text.lower() in ("new", "old")
        new = names.get(piece.name or "") if is_field else None
        made.append(piece.text if new is None else ident(new))
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
