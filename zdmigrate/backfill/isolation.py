"""Which rows of a batch cannot be filled, found out without filling any.

A block of PL/pgSQL evaluates the expressions for one row after the other, each with an exception handler of its own. As nothing
is written, its subtransactions take no transaction ids (section 66.1 of the manual, Transactions and Identifiers). What a
constraint refuses is not found here: only the UPDATE knows.
"""

from __future__ import annotations

import json

from psycopg import sql

from zdmigrate.backfill.quarantine import Failure
from zdmigrate.backfill.relations import Relation
from zdmigrate.backfill.session import Session
from zdmigrate.backfill.windows import Batch
from zdmigrate.plan import RowWork

_LONGEST = 1000

# A value is assigned to a field of the table's row type, so that casts and domains have their say. OTHERS leaves
# query_canceled alone: a time-out is nobody's fault.
_BLOCK = """
DECLARE
    zd_tid tid;
    zd_row {relation}%ROWTYPE;
    zd_failed jsonb := '[]';
BEGIN
    FOR zd_tid IN SELECT ctid FROM ONLY {relation} WHERE {which} LOOP
        BEGIN
            SELECT {values} INTO {fields} FROM ONLY {relation} WHERE ctid = zd_tid AND ({unfilled});
        EXCEPTION WHEN OTHERS THEN
            zd_failed := zd_failed || pg_catalog.jsonb_build_array(
                pg_catalog.jsonb_build_array(zd_tid::text, SQLSTATE, pg_catalog.left(SQLERRM, {longest})));
        END;
    END LOOP;
    PERFORM pg_catalog.set_config('zdmigrate.failed', zd_failed::text, false);
END
"""


def failing(session: Session, rows: RowWork, relation: Relation, batch: Batch) -> list[Failure]:
    """The rows of a batch for which an expression raises, at this moment.

    Raises:
        psycopg.errors.QueryCanceled: it took too long; a smaller batch may not.
    """
    block = sql.SQL(_BLOCK).format(
        relation=relation.identifier,
        which=batch.condition,
        values=sql.SQL(", ").join(sql.SQL("({})").format(_raw(text)) for _, text in rows.assignments),
        fields=sql.SQL(", ").join(sql.Identifier("zd_row", name) for name, _ in rows.assignments),
        unfilled=_raw(rows.unfilled),
        longest=sql.Literal(_LONGEST),
    )
    text = block.as_string(session.connection)
    do = sql.SQL("DO {}; SELECT pg_catalog.current_setting('zdmigrate.failed')").format(sql.Literal(text))
    ((found,),) = session.read_last(do)
    return [Failure(tid=tid, sqlstate=state, message=message) for tid, state, message in json.loads(found)]


def _raw(text: str) -> sql.SQL:
    return sql.SQL(text)
