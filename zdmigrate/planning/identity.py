"""Identity columns: their sequences, and from which number on they count.

The numbers of a sequence outlive a rollback, so they are only ever moved forwards, and from one sequence to another only
while nobody can draw any.
"""

from __future__ import annotations

from zdmigrate import schema
from zdmigrate.errors import Unsafe
from zdmigrate.planning.parts import Scope, alter
from zdmigrate.sqltext import dollar, ident, literal

TYPES = ("smallint", "integer", "bigint")


def refuse(scope: Scope, table: schema.Table, column: str, type_: str) -> None:
    """Refuse what the server has no identity columns for.

    Raises:
        Unsafe: with the remedy.
    """
    shown = f"{table.schema}.{table.name}.{column}"
    if type_.lower() not in TYPES:
        raise Unsafe(f"{shown} is of type {type_}, and an identity is {', '.join(TYPES)}", hint="choose one of these")
    if table.partitioned and scope.snapshot.major < 17:
        raise Unsafe(
            f"{table.schema}.{table.name} is partitioned, and before PostgreSQL 17 partitions have no identity columns: an "
            "INSERT into one would get no number",
            hint="keep a sequence as the column's default, or upgrade",
        )
    if not table.may_create:
        raise Unsafe(
            f"{scope.snapshot.role} may not create sequences in schema {table.schema}",
            hint=f"GRANT CREATE ON SCHEMA {ident(table.schema)} TO {ident(table.owner)}",
        )


def add(table: schema.Table, column: str, options: str, *, always: bool = False, called: str | None = None) -> str:
    """``ALTER TABLE … ADD GENERATED …``: catalog only, whatever the table holds. `called` is the sequence's name."""
    kind = "ALWAYS" if always else "BY DEFAULT"
    named = "" if called is None else f"SEQUENCE NAME {ident(table.schema, called)} "
    suffix = f" ({named}{options})" if named or options else ""
    return alter(table, f"ALTER COLUMN {ident(column)} ADD GENERATED {kind} AS IDENTITY{suffix}")


def number_source(table: schema.Table, column: str) -> str:
    """An expression for the sequence of a column, whatever the server called it."""
    name = literal(ident(table.schema, table.name))
    return f"pg_catalog.pg_get_serial_sequence({name}, {literal(column)})::pg_catalog.regclass"


def continued(table: schema.Table, column: str, old: str) -> str:
    """Let the column's sequence go on where another one, `old` (qualified and quoted), is."""
    return f"SELECT pg_catalog.setval({number_source(table, column)}, o.last_value, o.is_called) FROM {old} AS o"


def given_back(table: schema.Table, column: str, old: str) -> str:
    """The way back: `old` goes on where the column's sequence is, if a number was drawn from that at all."""
    reached = f"SELECT pg_catalog.pg_sequence_last_value({number_source(table, column)}) AS number"
    return f"SELECT pg_catalog.setval({literal(old)}, r.number) FROM ({reached}) AS r WHERE r.number IS NOT NULL"


def caught_up(table: schema.Table, column: str, *, down: bool) -> str:
    """Move the column's sequence beyond every number in the table; to be run outside a transaction.

    The table is read first. Only then, for an instant, nobody draws numbers (ALTER SEQUENCE blocks nextval), so that the
    sequence is never moved back.
    """
    name, (furthest, beyond) = ident(column), ("min", "<") if down else ("max", ">")
    body = f"""
DECLARE
  numbers pg_catalog.regclass := {number_source(table, column)};
  furthest bigint := (SELECT {furthest}({name}) FROM {ident(table.schema, table.name)});
BEGIN
  EXECUTE format('ALTER SEQUENCE %s NO CYCLE', numbers);
  IF furthest {beyond}= (SELECT seqstart FROM pg_sequence WHERE seqrelid = numbers)
     AND furthest {beyond} coalesce(pg_sequence_last_value(numbers), furthest {"+" if down else "-"} 1) THEN
    PERFORM setval(numbers, furthest);
  END IF;
END
"""
    return f"DO {dollar(body)}"


def options(sequence: schema.Sequence, *, start: int | None, increment: int | None) -> str:
    """The options of a sequence that is like another one."""
    cycle = "CYCLE" if sequence.cycle else "NO CYCLE"
    return (
        f"INCREMENT BY {sequence.increment if increment is None else increment} "
        f"MINVALUE {sequence.minimum} MAXVALUE {sequence.maximum} "
        f"START WITH {sequence.start if start is None else start} CACHE {sequence.cache} {cycle}"
    )


def settings(table: schema.Table, column: str, old: schema.Sequence) -> tuple[str, ...]:
    """Privileges and comment of the old sequence, for the column's: version N may use it by its name."""
    if not old.grants and old.comment is None:
        return ()
    statements = []
    for grant in old.grants:
        grantee = "PUBLIC" if grant.grantee is None else ident(grant.grantee)
        option = " WITH GRANT OPTION" if grant.grantable else ""
        text = f"GRANT {grant.privilege} ON SEQUENCE %s TO "
        statements.append(f"  EXECUTE format({literal(text)}, numbers) || {literal(grantee + option)};")
    if old.comment is not None:
        statements.append(
            f"  EXECUTE format({literal('COMMENT ON SEQUENCE %s IS %L')}, numbers, {literal(old.comment)});"
        )
    lines = [
        "",
        "DECLARE",
        f"  numbers pg_catalog.regclass := {number_source(table, column)};",
        "BEGIN",
        *statements,
        "END",
        "",
    ]
    return (f"DO {dollar(chr(10).join(lines))}",)
