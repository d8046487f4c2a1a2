"""Taking NOT NULL away, so that version N+1 may leave a column out or write NULL, and putting it back."""

from __future__ import annotations

import dataclasses

from zdmigrate import schema
from zdmigrate.errors import Unsafe
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import Gate, LockMode, Mode, Step, Window
from zdmigrate.planning import notnull, probes
from zdmigrate.planning.parts import ChangePlan, Scope, alter, on, transaction_step
from zdmigrate.sqltext import columns_in, folded, ident, literal, tokens

_STRICT = """
    abs all and any array_length between bit bpchar btrim char_length character check date_trunc decimal floor ceil in left
    length like lower ltrim not numeric octet_length or position regexp_replace right round rtrim starts_with strpos substr
    substring time timestamp trim upper varying
"""
_CALLS = frozenset(_STRICT.split())
"""Words before a bracket that make NULL of NULL, or hold nothing that could be it."""

_JUDGES = frozenset(("is", "isnull", "notnull", "distinct", "case", "coalesce", "array", "row", "exists", "select"))
"""Words that make something else of NULL."""


def not_null(scope: Scope, table: schema.Table, column: schema.Column, *, remedy: str) -> ChangePlan:
    """The step in `expand`, and its gate: version N will read NULLs. The window is that of a change which only loosens."""
    step = allow_null(scope, table, column, Phase.EXPAND, f"let N+1 write NULL to {column.name}")
    hazard = Hazard(
        id="C16", phase=Phase.EXPAND, accept="old_reads_null",
        message=f"version N will read NULL in {column.name}, which was NOT NULL, in rows that N+1 writes",
        remedy=f'{remedy}, or accept it: --override old_reads_null="reason"',
    )  # fmt: skip
    gate = Gate(name="old_reads_null", phase=Phase.EXPAND, detail=f"{hazard.message}; {hazard.remedy}", exit_code=6)
    return ChangePlan(
        steps=(step,), window=Window(old_until=Phase.CONTRACT, new_from=Phase.EXPAND), hazards=(hazard,), gates=(gate,)
    )


def refuse_needed(table: schema.Table, column: schema.Column) -> None:
    """``sync="app"``: version N+1 leaves the old column out, and its rows have NULL or the default there. Refuse what they may
    violate.

    Raises:
        Unsafe: a CHECK, a foreign key or a unique index that they may violate; it names it.
    """
    own, settled = frozenset((column.name,)), column.default is not None and not column.default_volatile
    what = "its default" if column.default is not None else "NULL"

    def doubtful(text: str, *, others: bool) -> bool:
        return not _spreads(text, own) if column.default is None else others

    found = [
        f"the constraint {k.name}" for k in table.constraints
        if (k.kind == "c" and column.name in k.columns and doubtful(k.definition, others=len(k.columns) > 1))
        or (k.kind == "f" and column.name in k.columns and len(k.columns) > 1 and "MATCH FULL" in k.definition)
    ]  # fmt: skip
    for index in table.indexes:
        texts = [text for text in (*index.keys, index.predicate or "") if columns_in(text, own)]
        if index.unique and (
            (column.name in index.columns and (index.nulls_not_distinct or settled))
            or any(doubtful(text, others=False) for text in texts)
        ):
            found.append(f"the unique index {index.name}")
    if found:
        raise Unsafe(
            f'{table.schema}.{table.name}.{column.name}: with sync="app" version N+1 leaves it out, and {what} in it may violate '
            f"{', '.join(found)}",
            hint='drop that in a migration before this one, or leave sync="app" out: triggers fill the column',
        )


def _spreads(text: str, columns: frozenset[str]) -> bool:
    """Whether NULL in the columns surely makes the expression NULL, or what it would be with any value of them.

    As far as its words tell: operators, AND, OR and NOT do, and so do a few functions.
    """
    if not columns_in(text, columns):
        return True
    pieces = [t for t in tokens(text) if t.kind not in ("space", "comment")]
    for piece, after in zip(pieces, (*(t.text for t in pieces[1:]), ""), strict=True):
        if piece.text == "." or (piece.kind == "quoted" and after == "("):  # something that is not the server's own
            return False
        if piece.kind == "word":
            word = folded(piece.text)
            constants = word == "array" and not columns_in(_bracketed(text, piece.text), columns)
            if (word in _JUDGES and not constants) or (after == "(" and word not in _CALLS):
                return False
    return True


def _bracketed(text: str, word: str) -> str:
    """What follows the word, in the brackets that it opens first; everything where it is there twice."""
    _, _, rest = text.partition(word)
    return rest if word in rest else rest.partition("]")[0]


def allow_null(scope: Scope, table: schema.Table, column: schema.Column, phase: Phase, title: str) -> Step:
    """Take NOT NULL away in a phase. Going back it is proven first, and rows that are NULL by then are named."""
    kept = (k.name for k in table.constraints if k.kind == "n" and k.columns == (column.name,))
    made = next(kept, scope.name("nn", column.name, table.schema, table.name))
    shown, target = literal(f"{table.schema}.{table.name}"), ident(table.schema, table.name)
    # It is asked before anything is undone, when the column may have another name.
    name = (
        f"SELECT attname FROM pg_attribute WHERE attrelid = to_regclass({literal(target)}) AND attnum = {column.number}"
    )
    nulls = (
        f"SELECT format('row %s of %s is NULL in %s', t.ctid, {shown}, {literal(column.name)}) "
        f"FROM {target} t WHERE (to_jsonb(t) ->> ({name})) IS NULL LIMIT 5"
    )
    step = transaction_step(
        scope, phase, f"allow_null.{column.name}", title,
        probe=probes.nullable(table, column.name, made),
        do=[alter(table, f"ALTER COLUMN {ident(column.name)} DROP NOT NULL")],
        undo=notnull.again(scope, table, column.name, made),
        locks=on(table, LockMode.ACCESS_EXCLUSIVE),
    )  # fmt: skip
    repair = (alter(table, f"DROP CONSTRAINT IF EXISTS {ident(made)}"),)
    return dataclasses.replace(step, undo_mode=Mode.AUTOCOMMIT, repair=repair, undo_blocked=((Phase.NONE, nulls),))
