"""The SQL that keeps old and new shape equal, whoever writes, in both directions.

The rules are docs/explanation/safety.md, section "Sync triggers". In short, with images compared byte by byte
(``record_image_ne``, which works for json and sees ``1.0`` beside ``1.00``):

* a row is *consistent* when ``new`` is the image of ``up(old)``, or ``old`` the image of ``down(new)``;
* it is *unfilled* when it is not consistent, or when ``new`` is NULL although ``up(old)`` is not. Trigger, backfill
  and verification all ask for exactly this, so they cannot disagree;
* the side that a statement changed (or, on INSERT, that differs from its default) is the one that was written, and
  the other follows; where both were written and disagree, the authority wins; what is unfilled after that is filled.

The writer is never recognised by session state: poolers share sessions.

A write that came through the shape that has not the authority is *noted* (`Noting`), once a minute and session: evidence
that somebody still uses it. Where the application keeps the shapes equal (``sync="app"``), a guard notes the writes that
did not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from zdmigrate.planning import names
from zdmigrate.sqltext import dollar, ident, literal, replace_columns

SEARCH_PATH = "pg_catalog, public, pg_temp"
"""Where the names in users' expressions are looked up, in triggers, backfill and checks alike."""

KEY_LOCKS = 1000
"""Most advisory locks that one transaction takes for unique keys: the lock table is shared and finite."""

NO_EQUIVALENT = "has no equivalent in"
"""How a trigger refuses a new value that the old shape cannot hold."""

NOTED_EACH = 60
"""Seconds between two notes of one session, side and table."""

NOTED_AT_MOST = 20
"""Statements of one transaction that are noted where every one is: more do not say more."""

Authority = Literal["old", "new"]

Side = Literal["old", "new", "both"]
"""Through which shape a write came."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SyncColumn:
    """A column of one side. `default` is its default expression, or None where it is NULL."""

    name: str
    type: str
    default: str | None = None
    default_volatile: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UniqueKey:
    """A unique key of the old shape that the new shape also gets: inserts of one key must queue.

    `keys` are expressions over the row, `predicate` is a partial index's condition. See `key_function`.
    """

    name: str
    keys: tuple[str, ...]
    nulls_distinct: bool = True
    predicate: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SyncPair:
    """An old and a new shape on one table, and how each is computed from the other.

    `up` has one SQL expression over the row for each new column, `down` one for each old column. One side may be
    empty: without old columns the new ones are only filled (`AddColumn` with a backfill), without new columns the
    old ones are filled on INSERT (`DropColumn` with a `down`).

    `on_down_error` is what happens to a new value that `down` cannot represent: "refuse" lets the writer fail,
    "null" writes NULL to the old columns. `null_is_unfilled` is for new columns without old ones: every NULL needs
    the fill, `up` is not asked whether it has a value (it may be volatile, or must not be NULL anyway). `unfilled_when`,
    for the same, is another condition over the row.
    """

    columns: frozenset[str]
    old: tuple[SyncColumn, ...]
    new: tuple[SyncColumn, ...]
    up: tuple[str, ...]
    down: tuple[str, ...]
    on_down_error: Literal["refuse", "null"] = "refuse"
    null_is_unfilled: bool = False
    unfilled_when: str | None = None
    volatile: bool = False
    """Whether `up` never gives the same again, so that asking it tells nothing."""
    keys: tuple[UniqueKey, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether the functions are made of bare columns alone, so that no name is ever looked up at run time.

        Casts, and with them defaults and pairs of two types, name a type.
        """
        bare = {ident(column) for column in self.columns}
        casts = any(c.default is not None for c in self.old) or (self.old and self.new and not _identity(self))
        return not casts and self.unfilled_when is None and all(text in bare for text in (*self.up, *self.down))

    @property
    def bare(self) -> bool:
        """Whether comparing the sides is comparing columns, which never fails."""
        return self.plain or _identity(self)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Noting:
    """Where writes are noted: `function` is the control schema's ``note_write``, qualified and quoted; `table` is for people."""

    function: str
    migration: str
    table: str

    missed: str = ""
    """The function that counts a note which could not be made, qualified and quoted."""

    def call(self, side: str, *, diverged: bool, every: bool) -> list[str]:
        """The statement that notes a write; `side` is an expression. Whatever becomes of it, the write goes on."""
        values = (literal(self.migration), literal(self.table), side, str(diverged).lower(), str(every).lower())
        swallowed = _counted(self.missed) if every else _SWALLOWED
        return ["BEGIN", f"  PERFORM {self.function}({', '.join(values)});", *swallowed]


_SWALLOWED = ("EXCEPTION WHEN OTHERS THEN", "  NULL;", "END;")

_MISSED = literal("zdmigrate.missed")
"""A setting: this transaction has missed a note. Another one would say no more, and may have to be waited for."""


def _counted(missed: str) -> tuple[str, ...]:
    """Where a note cannot be made, that is counted: a gate must not open for want of it."""
    return (
        "EXCEPTION WHEN OTHERS THEN",
        f"  PERFORM pg_catalog.set_config({_MISSED}, 'x', true);",
        "  BEGIN",
        f"    PERFORM {missed}();",
        *(f"  {line}" for line in _SWALLOWED),
        "END;",
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """How the columns of a row are written: bare in a query, ``NEW."x"`` in a trigger, under another name later."""

    prefix: str = ""
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def column(self, name: str) -> str:
        """One column."""
        return self.prefix + ident(self.renamed.get(name, name))

    def expression(self, text: str, columns: frozenset[str]) -> str:
        """An expression over bare columns, rewritten for this row."""
        return replace_columns(text, lambda name: self.column(name) if name in columns else None)


BARE = Row()


def unfilled(pair: SyncPair, row: Row = BARE, *, exact: bool = False) -> str:
    """The boolean expression that says whether a row still needs `up`.

    With ``on_down_error="null"`` it does not ask `down` where old is NULL, as it is beside every new value that has no
    old one: `exact` does, and fails there.
    """
    if not pair.new:
        return _empty(pair.old, row)
    if pair.unfilled_when is not None:
        return row.expression(pair.unfilled_when, pair.columns)
    empty = _empty(pair.new, row)
    if not pair.old and pair.null_is_unfilled:
        return empty
    missing = f"{empty} AND NOT ({_all(f'({text}) IS NULL' for text in _ups(pair, row))})"
    if not pair.old:
        return missing
    consistent = [_differs([row.column(c.name) for c in pair.new], _ups(pair, row))]
    if not _identity(pair):
        mirrored = _differs([row.column(c.name) for c in pair.old], _downs(pair, row))
        if pair.on_down_error == "null" and not exact:
            mirrored = f"CASE WHEN {_empty(pair.old, row)} THEN false ELSE {mirrored} END"
        consistent.append(mirrored)
        return f"({' AND '.join(consistent)}) OR ({missing})"
    return consistent[0]  # where both directions are the identity, an unfilled row is never consistent


def lost(pair: SyncPair, row: Row = BARE) -> str:
    """Whether undoing would lose a new value: `up` would not give it again."""
    there = f"NOT ({_empty(pair.new, row)})"
    if pair.volatile:
        return there
    return f"{there} AND {_differs([row.column(c.name) for c in pair.new], _ups(pair, row))}"


def stale(pair: SyncPair, row: Row = BARE) -> str:
    """Whether a row has a new value that says something else than the old one."""
    return f"NOT ({_empty(pair.new, row)}) AND ({unfilled(pair, row)})"


def any_unfilled(pairs: Sequence[SyncPair], row: Row = BARE) -> str:
    """The same for the pairs of one table: whether any of them still needs its `up`."""
    return _any(unfilled(pair, row) for pair in pairs)


def disturbed(pairs: Sequence[SyncPair]) -> str:
    """The triggers' WHEN: `unfilled`, or where asking `down` may fail, what can be said without it."""
    return _any(_disturbed(pair, Row("NEW.")) for pair in pairs)


def assignments(pairs: Sequence[SyncPair]) -> tuple[tuple[str, str], ...]:
    """What the backfill sets: column and expression over the bare row. A pair that is not unfilled stays as it is."""
    found = []
    for pair in pairs:
        for column, text in zip(pair.new, pair.up, strict=True):
            kept = f"CASE WHEN {unfilled(pair)} THEN {text} ELSE {ident(column.name)} END"
            found.append((column.name, text if len(pairs) == 1 else kept))
    return tuple(found)


def new_defaults(pair: SyncPair) -> dict[str, str]:
    """The defaults that the new columns get: ``up`` of the old ones' constant and stable defaults.

    A column whose `up` needs a volatile default, or anything but old columns, gets none before `contract`.
    """
    defaults = {c.name: c.default for c in pair.old if c.default is not None and not c.default_volatile}
    missing = {c.name for c in pair.old} - set(defaults)
    found: dict[str, str] = {}
    for column, text in zip(pair.new, pair.up, strict=True):
        mentioned: set[str] = set()

        def value(name: str, mentioned: set[str] = mentioned) -> str | None:
            if name in pair.columns:
                mentioned.add(name)
            return f"({defaults[name]})" if name in defaults else None

        default = replace_columns(text, value)
        if mentioned and mentioned <= set(defaults) and not mentioned & missing:
            found[column.name] = default
    return found


def sync_function(
    pairs: Sequence[SyncPair],
    name: str,
    authority: Authority,
    renamed: Mapping[str, str] | None = None,
    noting: Noting | None = None,
) -> str:
    """``CREATE OR REPLACE FUNCTION`` of the first trigger, which syncs what the statement wrote.

    `name` is qualified and quoted. `authority` decides where a statement wrote both sides and they disagree. Several
    pairs are settled once more in the end: one may compute from another's columns.
    """
    row, (first, *others) = Row("NEW.", renamed or {}), pairs
    declare = dict.fromkeys(line for pair in pairs for line in _sync_declared(pair))
    note = [] if noting is None else _noted(noting, name, authority)
    if not others:
        body = [*_sync(first, authority, renamed, note), "RETURN NEW;"]
        return _function(name, body, tuple(declare), plain=first.plain)
    # What only fills comes last: a value that it sets beside the one that was written would look as if it were written.
    ordered = sorted(pairs, key=lambda pair: not (pair.old and pair.new))
    body = [line for pair in ordered for line in _when(_disturbed(pair, row), _sync(pair, authority, renamed, note))]
    body += [line for pair in pairs for line in _when(_disturbed(pair, row), _settle(pair, row))]
    return _function(name, [*body, "RETURN NEW;"], tuple(declare), plain=all(pair.plain for pair in pairs))


def settle_function(pairs: Sequence[SyncPair], name: str, renamed: Mapping[str, str] | None = None) -> str:
    """The last trigger's function: fills again where the table's own triggers made a pair inconsistent."""
    row, (first, *others) = Row("NEW.", renamed or {}), pairs
    declare = dict.fromkeys(line for pair in pairs for line in _declared(pair))
    body = _settle(first, row)
    if others:
        body = [line for pair in pairs for line in _when(_disturbed(pair, row), _settle(pair, row))]
    return _function(name, [*body, "RETURN NEW;"], tuple(declare), plain=all(pair.plain for pair in pairs))


def key_function(pairs: Sequence[SyncPair], name: str, table: str, renamed: Mapping[str, str] | None = None) -> str:
    """The function that makes concurrent writes of one new unique key queue (INSERT, and UPDATE to another key).

    ``ON CONFLICT (old)`` arbitrates the unique index on old only; the one on new would raise 23505 where two
    sessions insert one key at once. The second session waits here for the first to end, as it would have waited in
    the index, and then sees the conflict where its statement expects it. At most `KEY_LOCKS` locks a transaction.
    The hash is the type's own, so that keys that are equal to the index (citext, numeric) meet in one lock.

    `table` and `name` are qualified and quoted.
    """
    new = Row("NEW.", renamed or {})
    # No operator is looked up outside of `_is_there`: the caller's search_path is the caller's.
    setting = "pg_catalog.current_setting('zdmigrate.key_locks', true)"
    body = [f"held := CASE WHEN {setting} OPERATOR(pg_catalog.<>) '' THEN {setting} ELSE '0' END;"]
    keys = _keys(pairs)
    for columns, key in keys:
        parts = [new.expression(text, columns) for text in key.keys]
        present = _all(f"({part}) IS NOT NULL" for part in parts) if key.nulls_distinct else "true"
        seed = int(names.digest(name, key.name), 16)
        body += [
            f"IF held OPERATOR(pg_catalog.<) {KEY_LOCKS} AND {present} THEN",
            f"  key := pg_catalog.hash_record_extended(ROW({', '.join(parts)}), {seed});",
            "  there := false;",
            "  mine := pg_catalog.pg_try_advisory_xact_lock(key);",
            "  IF NOT mine THEN",
            *_indent(_indent(_is_there(columns, key, table, renamed or {}))),
            "  END IF;",
            "  IF NOT mine AND NOT there THEN",
            "    PERFORM pg_catalog.pg_advisory_xact_lock(key);",
            "    mine := true;",
            "  END IF;",
            "  IF mine THEN",
            "    held := held OPERATOR(pg_catalog.+) 1;",
            "  END IF;",
            "END IF;",
        ]
    body += ["PERFORM pg_catalog.set_config('zdmigrate.key_locks', held::pg_catalog.text, true);", "RETURN NEW;"]
    bare = {name for columns, _ in keys for column in columns for name in (column, ident(column))}
    plain = all(text in bare for _, key in keys for text in key.keys)
    declare = ("held integer;", "key bigint;", "mine boolean;", "there boolean;")
    return _function(name, body, declare, plain=plain)


def _is_there(columns: frozenset[str], key: UniqueKey, table: str, renamed: Mapping[str, str]) -> list[str]:
    """Whether a committed row has the key, and nobody is taking it away: then there is nothing to queue for.

    ``ON CONFLICT DO NOTHING`` on a row that is there waits for nobody, and must not begin to. Locking the row tells
    whether it is being deleted; the lock, and the search_path that finds the type's ``=``, are given back at once.
    Who may not lock rows, or finds no ``=``, queues.
    """
    theirs, new = Row("t.", renamed), Row("NEW.", renamed)
    equal = _all(f"({theirs.expression(text, columns)}) = ({new.expression(text, columns)})" for text in key.keys)
    predicate = "" if key.predicate is None else f" AND ({theirs.expression(key.predicate, columns)})"
    return [
        "BEGIN",
        f"  PERFORM pg_catalog.set_config('search_path', {literal(SEARCH_PATH)}, true);",
        f"  PERFORM FROM {table} AS t WHERE {equal}{predicate} FOR KEY SHARE SKIP LOCKED;",
        "  there := FOUND;",
        "  RAISE SQLSTATE 'ZD001';",
        "EXCEPTION WHEN SQLSTATE 'ZD001' OR syntax_error_or_access_rule_violation OR serialization_failure THEN",
        "  NULL;",
        "END;",
    ]


def key_changes(pairs: Sequence[SyncPair]) -> str:
    """The condition under which an UPDATE gives a row another unique key."""
    old, new = Row("OLD."), Row("NEW.")
    return " OR ".join(
        _differs([old.expression(t, columns) for t in key.keys], [new.expression(t, columns) for t in key.keys])
        for columns, key in _keys(pairs)
    )


def _keys(pairs: Sequence[SyncPair]) -> list[tuple[frozenset[str], UniqueKey]]:
    """Each unique key once, with the columns that its expressions may mention."""
    return list({key.name: (pair.columns, key) for pair in pairs for key in pair.keys}.values())


def guard_function(pairs: Sequence[SyncPair], name: str, noting: Noting, every: frozenset[Side]) -> str:
    """``sync="app"``: the AFTER trigger's function, which notes writes that left a pair diverged, and changes nothing.

    An UPDATE that finds a pair diverged, and touches neither side of it, is not to blame. Of the sides in `every`, each
    statement is noted, in a bulk statement the first row; of the others one write a minute and session.
    """
    judged = [line for pair in pairs for line in _guarded(pair)]
    flags = ("stale", "was_stale", "new_written", "old_written")
    declare = ("side text;", "this text;", "said text;", *(f"{flag} boolean;" for flag in flags))
    ended, kept = (
        f"pg_catalog.concat({literal(f'zdmigrate.{kind}_{names.digest(name)}_')}, side)"
        for kind in ("diverged", "noted")
    )
    strict = " OR ".join(f"side OPERATOR(pg_catalog.=) {literal(each)}" for each in sorted(every)) or "false"
    body = [
        "BEGIN",
        *_indent(judged),
        "EXCEPTION WHEN OTHERS THEN",
        "  side := 'both';",  # it differs, and cannot be looked at
        "END;",
        *_when(
            "side IS NOT NULL",
            [
                f"IF {strict} THEN",
                f"  said := pg_catalog.current_setting({ended}, true);",
                *_indent(_each_statement(noting, ended)),
                "ELSE",
                f"  said := pg_catalog.current_setting({kept}, true);",
                *_indent(_each_minute(kept, noting.call("side", diverged=True, every=False), "said")),
                "END IF;",
            ],
        ),
        "RETURN NULL;",
    ]
    return _function(name, body, declare, plain=all(pair.plain for pair in pairs))


def _guarded(pair: SyncPair) -> list[str]:
    """Which side of one pair was written without the other: sets `side`, where it was. "new" gives way to the others."""
    new, old = Row("NEW."), Row("OLD.")
    # What the other shape has none of: who inserts, leaves it empty; an UPDATE is to blame where it was full before.
    if not pair.new:
        found = ["IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN", "  this := 'new';", "END IF;"]
    elif not pair.old:
        changed = _differs([old.column(c.name) for c in pair.new], [new.column(c.name) for c in pair.new])
        found = [
            "IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN",
            "  this := 'old';",
            "ELSE",
            *_indent(_asked(pair, old, "was_stale")),
            *_indent(_when(f"{changed} OR NOT was_stale", ["this := 'old';"])),
            "END IF;",
        ]
    else:
        found = [
            *_which_written(pair, None),
            "IF old_written AND new_written THEN",
            "  this := 'both';",
            "ELSIF new_written THEN",
            "  this := 'new';",
            "ELSIF old_written OR TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN",
            "  this := 'old';",
            "ELSE",
            *_indent(_asked(pair, old, "was_stale")),
            *_indent(_when("NOT was_stale", ["this := 'old';"])),  # something else that `up` reads
            "END IF;",
        ]
    asked = _asked(pair, new, "stale")
    keep = (
        "side := CASE WHEN this IS NULL OR this OPERATOR(pg_catalog.=) 'new' THEN COALESCE(side, this) ELSE this END;"
    )
    return ["this := NULL;", *asked, *_when("stale", [*found, keep])]


def _asked(pair: SyncPair, row: Row, flag: str, *, exact: bool = False) -> list[str]:
    """Set a flag: whether a row is unfilled. A new value that has no old one is consistent with NULL."""
    if not _careful(pair):
        return [f"{flag} := {unfilled(pair, row)};"]
    return [
        "BEGIN",
        f"  {flag} := {unfilled(pair, row, exact=exact)};",
        "EXCEPTION WHEN data_exception THEN",
        f"  {flag} := NOT ({_empty(pair.old, row)});",
        "END;",
    ]


def _each_statement(noting: Noting, setting: str) -> list[str]:
    """Note the first row of each of a transaction's statements. The setting ends with the transaction, as the note does
    that is rolled back."""
    stamp = "(pg_catalog.date_part('epoch', pg_catalog.statement_timestamp()) OPERATOR(pg_catalog.*) 1000000)"
    stamp = f"{stamp}::pg_catalog.int8::pg_catalog.text"
    number = "pg_catalog.split_part(said, ' ', 1)::pg_catalog.int4"
    due = (
        f"(CASE WHEN said OPERATOR(pg_catalog.<>) '' THEN {number} OPERATOR(pg_catalog.<) {NOTED_AT_MOST} "
        f"AND pg_catalog.split_part(said, ' ', 2) OPERATOR(pg_catalog.<>) {stamp} ELSE true END)"
    )
    count = f"CASE WHEN said OPERATOR(pg_catalog.<>) '' THEN {number} OPERATOR(pg_catalog.+) 1 ELSE 1 END"
    fresh = f"(pg_catalog.current_setting({_MISSED}, true) OPERATOR(pg_catalog.=) 'x') IS NOT TRUE"
    return _when(
        f"{due} AND {fresh}",
        [
            f"PERFORM pg_catalog.set_config({setting}, pg_catalog.concat({count}, ' ', {stamp}), true);",
            *noting.call("side", diverged=True, every=True),
        ],
    )


def _each_minute(setting: str, note: list[str], said: str) -> list[str]:
    """Note a write, unless the session has lately. First it is remembered, and outside of what may fail: a note that
    cannot be made is not tried again for each row of a bulk statement."""
    clock = "pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())"
    past = f"{said}::pg_catalog.float8 OPERATOR(pg_catalog.<) {clock}"
    due = f"(CASE WHEN {said} OPERATOR(pg_catalog.<>) '' THEN {past} ELSE true END)"
    until = f"({clock} OPERATOR(pg_catalog.+) {NOTED_EACH})::pg_catalog.int8::pg_catalog.text"
    return _when(due, [f"PERFORM pg_catalog.set_config({setting}, {until}, false);", *note])


def _noted(noting: Noting, name: str, authority: Authority) -> list[str]:
    """What notes a write that came through the side alone that has not the authority; where it is, `_sync` knows more.

    For the other rows of a transaction it is one look at a setting: that is what a bulk statement pays for each row.
    """
    side = "new" if authority == "old" else "old"
    setting = literal(f"zdmigrate.noted_{names.digest(name)}_{side}")
    looked = literal(f"zdmigrate.looked_{names.digest(name)}_{side}")
    note = noting.call(literal(side), diverged=False, every=False)
    fresh = f"(pg_catalog.current_setting({looked}, true) OPERATOR(pg_catalog.=) 'x') IS NOT TRUE"
    return _when(
        fresh if authority == "old" else f"old_written AND {fresh}",
        [
            f"PERFORM pg_catalog.set_config({looked}, 'x', true);",
            *_each_minute(setting, note, f"pg_catalog.current_setting({setting}, true)"),
        ],
    )


def trigger(
    table: str, name: str, function: str, *, events: str, when: str | None, timing: str = "BEFORE"
) -> tuple[str, str]:
    """``CREATE TRIGGER`` and ``ENABLE ALWAYS`` (one transaction: a replica role must never write past it).

    Locks: SHARE ROW EXCLUSIVE on the table, both.
    """
    condition = f" WHEN ({when})" if when else ""
    return (
        f"CREATE TRIGGER {ident(name)} {timing} {events} ON {table} FOR EACH ROW{condition} EXECUTE FUNCTION {function}()",
        f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {ident(name)}",
    )


def body_of(function: str) -> str:
    """The body (pg_proc.prosrc) of a function made here; probes compare it with what is there."""
    tag = function[function.index("AS $") + 3 :].split("\n", 1)[0]
    return function.split(tag)[1]


def _identity(pair: SyncPair) -> bool:
    sides = len(pair.old) == len(pair.new) == 1
    return (
        sides
        and pair.old[0].type == pair.new[0].type
        and pair.up == (ident(pair.old[0].name),)
        and pair.down == (ident(pair.new[0].name),)
    )


def _typed(text: str, column: SyncColumn) -> str:
    return f"({text})::{column.type}"


def _ups(pair: SyncPair, row: Row) -> list[str]:
    if _identity(pair):
        return [row.column(pair.old[0].name)]
    return [_typed(row.expression(t, pair.columns), c) for t, c in zip(pair.up, pair.new, strict=True)]


def _downs(pair: SyncPair, row: Row) -> list[str]:
    return [_typed(row.expression(t, pair.columns), c) for t, c in zip(pair.down, pair.old, strict=True)]


def _differs(left: list[str], right: list[str]) -> str:
    return f"pg_catalog.record_image_ne(ROW({', '.join(left)}), ROW({', '.join(right)}))"


def _written(row: Row, columns: tuple[SyncColumn, ...], defaults: Mapping[str, str | None]) -> str:
    """Whether an INSERT gave a side another value than its default."""
    found = []
    for column in columns:
        default, value = defaults.get(column.name), row.column(column.name)
        # Not "IS NOT NULL", which is false for a composite value that has a NULL in it.
        found.append(
            f"{value} IS DISTINCT FROM NULL" if default is None else _differs([value], [_typed(default, column)])
        )
    return " OR ".join(found)


def _sync(pair: SyncPair, authority: Authority, renamed: Mapping[str, str] | None, note: list[str]) -> list[str]:
    """The statements that sync one pair of a row that a statement wrote; `note` is for one that came through the side that
    has not the authority."""
    new = Row("NEW.", renamed or {})
    if not pair.old or not pair.new:
        return _fill(pair, new) if pair.new else _mirror(pair, new)
    mirrored = "new_written AND NOT old_written" if authority == "old" else "new_written"
    if authority == "new" and any(c.default_volatile for c in pair.old):
        # An INSERT that leaves out such a column looks like one that wrote it.
        note = _when("TG_OP OPERATOR(pg_catalog.=) 'UPDATE'", note) if note else []
    body = [
        *_which_written(pair, renamed),
        f"IF {mirrored} THEN",
        *_indent(_mirror(pair, new)),
        *_indent(note if authority == "old" else []),
        "ELSE",
        *_indent(_settle(pair, new)),
        *_indent(note if authority == "new" else []),
        "END IF;",
    ]
    return body if _identity(pair) else [*body, *_when(unfilled(pair, new), _fill(pair, new))]


def _which_written(pair: SyncPair, renamed: Mapping[str, str] | None) -> list[str]:
    """Which sides a statement wrote."""
    new, old = Row("NEW.", renamed or {}), Row("OLD.", renamed or {})
    olds, news = [new.column(c.name) for c in pair.old], [new.column(c.name) for c in pair.new]
    was_old, was_new = [old.column(c.name) for c in pair.old], [old.column(c.name) for c in pair.new]
    defaults = new_defaults(pair)
    old_written = (
        "NOT new_written"
        if any(c.default_volatile for c in pair.old)
        else _written(new, pair.old, {c.name: c.default for c in pair.old})
    )
    return [
        "IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN",
        f"  new_written := {_written(new, pair.new, defaults)};",
        f"  old_written := {old_written};",
        "ELSE",
        f"  new_written := {_differs(was_new, news)};",
        f"  old_written := {_differs(was_old, olds)};",
        "END IF;",
    ]


def _sync_declared(pair: SyncPair) -> tuple[str, ...]:
    if not pair.old or not pair.new:
        return ()
    return ("new_written boolean;", "old_written boolean;", *_declared(pair))


def _settle(pair: SyncPair, row: Row) -> list[str]:
    """Fill what is unfilled, where it was asked before whether anything is."""
    if not pair.new:
        return _mirror(pair, row)
    return _fill_unfilled(pair, row) if _careful(pair) else _fill(pair, row)


def _when(condition: str, lines: list[str]) -> list[str]:
    return [f"IF {condition} THEN", *_indent(lines), "END IF;"]


def _disturbed(pair: SyncPair, row: Row) -> str:
    if _careful(pair):
        return _differs([row.column(c.name) for c in pair.new], _ups(pair, row))
    return unfilled(pair, row)


def _careful(pair: SyncPair) -> bool:
    """Whether the functions must expect `down` to fail, and go on."""
    return bool(pair.old and pair.new) and not _identity(pair)


def _declared(pair: SyncPair) -> tuple[str, ...]:
    return ("stale boolean;",) if _careful(pair) else ()


def _fill_unfilled(pair: SyncPair, row: Row) -> list[str]:
    """`_fill` where the row needs it."""
    return [*_asked(pair, row, "stale", exact=True), *_when("stale", _fill(pair, row))]


def _empty(columns: tuple[SyncColumn, ...], row: Row) -> str:
    return _all(f"{row.column(c.name)} IS NULL" for c in columns)


def _all(conditions: Iterable[str]) -> str:
    return " AND ".join(conditions)


def _any(conditions: Iterable[str]) -> str:
    found = list(conditions)
    return found[0] if len(found) == 1 else " OR ".join(f"({condition})" for condition in found)


def _fill(pair: SyncPair, row: Row) -> list[str]:
    return [
        f"{row.column(c.name)} := {row.expression(text, pair.columns)};"
        for c, text in zip(pair.new, pair.up, strict=True)
    ]


def _mirror(pair: SyncPair, row: Row) -> list[str]:
    lines = [
        f"{row.column(c.name)} := {row.expression(text, pair.columns)};"
        for c, text in zip(pair.old, pair.down, strict=True)
    ]
    if not pair.new or _identity(pair):
        return lines
    handler = [f"{row.column(c.name)} := NULL;" for c in pair.old]
    if pair.on_down_error == "refuse":
        olds, news = (", ".join(c.name for c in columns) for columns in (pair.old, pair.new))
        said = literal(f"the value of {news} {NO_EQUIVALENT} {olds}, which version N still reads: ")
        hint = literal("see on_down_error in the migration; after contract it can be written")
        handler = [
            f"RAISE EXCEPTION USING ERRCODE = SQLSTATE, MESSAGE = pg_catalog.concat({said}, SQLERRM), HINT = {hint};"
        ]
    return ["BEGIN", *_indent(lines), "EXCEPTION WHEN data_exception THEN", *_indent(handler), "END;"]


def _indent(lines: list[str]) -> list[str]:
    return ["  " + line for line in lines]


def _function(name: str, body: list[str], declare: tuple[str, ...] = (), *, plain: bool) -> str:
    # A SET clause costs every call about a microsecond: only where names are looked up at run time, or where a
    # deparsed string has a backslash.
    options = "" if plain else f"SET search_path = {SEARCH_PATH} "
    if any("\\" in line for line in body):
        options += "SET standard_conforming_strings = on "
    return _dollar(name, body, declare, options)


def _dollar(name: str, body: list[str], declare: tuple[str, ...], options: str) -> str:
    head = ["DECLARE", *_indent(list(declare))] if declare else []
    text = "\n".join([*head, "BEGIN", *_indent(body), "END"])
    quoted = dollar(f"\n{text}\n")
    return f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql {options}AS {quoted}"
