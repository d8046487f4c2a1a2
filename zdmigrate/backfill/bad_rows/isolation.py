"""Which rows cannot be filled, found out without filling any.

A block of PL/pgSQL evaluates the expressions for a few rows at a time, and one by one for those of which one has failed, each
with an exception handler of its own. As nothing is written, its subtransactions take no transaction ids (section 66.1 of the
manual, Transactions and Identifiers). What a constraint refuses is not found here: only the UPDATE knows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from psycopg import sql

from zdmigrate.backfill.bad_rows.quarantine import Failure
from zdmigrate.backfill.relations import Relation
from zdmigrate.backfill.session import Session
from zdmigrate.plan import RowWork

_LONGEST = 1000
_TOGETHER = 16
"""Rows that are evaluated at once: one in a hundred that fails makes 15 of 100 such groups fail."""

# Values are assigned to fields of the table's row type, so that casts and domains have their say. OTHERS leaves
# query_canceled alone: a time-out is nobody's fault; and what ASSERT says in a function, which is the row's.
_BLOCK = """
DECLARE
    zd_tids tid[] := ARRAY(SELECT ctid FROM ONLY {relation} WHERE {which} AND ctid <> ALL ({known}::tid[]));
    zd_tid tid;
    zd_row {relation}%ROWTYPE;
    zd_failed jsonb := '[]';
BEGIN
    FOR zd_first IN 1 .. pg_catalog.cardinality(zd_tids) BY {together} LOOP
        BEGIN
            FOR {fields} IN SELECT {values} FROM ONLY {relation}
                WHERE ctid = ANY (zd_tids[zd_first : zd_first + {together} - 1]) AND ({unfilled})
            LOOP
            END LOOP;
        EXCEPTION WHEN OTHERS OR ASSERT_FAILURE THEN
            FOREACH zd_tid IN ARRAY zd_tids[zd_first : zd_first + {together} - 1] LOOP
                BEGIN
                    SELECT {values} INTO {fields} FROM ONLY {relation} WHERE ctid = zd_tid AND ({unfilled});
                EXCEPTION WHEN OTHERS OR ASSERT_FAILURE THEN
                    zd_failed := zd_failed || pg_catalog.jsonb_build_array(
                        pg_catalog.jsonb_build_array(zd_tid::text, SQLSTATE, pg_catalog.left(SQLERRM, {longest})));
                END;
            END LOOP;
        END;
    END LOOP;
    PERFORM pg_catalog.set_config('zdmigrate.failed', zd_failed::text, false);
END
"""


def failing(
    session: Session, rows: RowWork, relation: Relation, which: sql.Composable, *, known: Sequence[str] = ()
) -> list[Failure]:
    """The rows that `which` takes for which an expression raises, at this moment; those of the `known` tids are not tried.

    Raises:
        psycopg.errors.QueryCanceled: it took too long; fewer rows may not.
    """
    block = sql.SQL(_BLOCK).format(
        relation=relation.identifier,
        which=which,
        known=sql.Literal(list(known)),
        values=sql.SQL(", ").join(sql.SQL("({})").format(_raw(text)) for _, text in rows.assignments),
        fields=sql.SQL(", ").join(sql.Identifier("zd_row", name) for name, _ in rows.assignments),
        unfilled=_raw(rows.unfilled),
        longest=sql.Literal(_LONGEST),
        together=sql.Literal(_TOGETHER),
    )
    text = block.as_string(session.connection)
    do = sql.SQL("DO {}; SELECT pg_catalog.current_setting('zdmigrate.failed')").format(sql.Literal(text))
    ((found,),) = session.read(do)
    return [Failure(tid=tid, sqlstate=state, message=message) for tid, state, message in json.loads(found)]


def _raw(text: str) -> sql.SQL:
    return sql.SQL(text)
