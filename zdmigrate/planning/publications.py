"""Publications that make the server refuse a table's UPDATEs and DELETEs.

A row that is sent must be identified by what is sent: PostgreSQL checks that for every statement, whoever subscribes
(manual, section 29.1.1, "Replica Identity").
"""

from __future__ import annotations

from zdmigrate.sqltext import ident, literal

_GENERATED = 18
"""Since this version the server refuses an identity with generated columns that are not published."""


def unidentified(schema: str, name: str) -> str:
    """Publications that send changes of the table or a partition of it, whatever its identity is then."""
    return _sending(schema, name, listed="true", whole="true")


def limited(schema: str, name: str) -> str:
    """Those with a column list or a row filter, which may not fit the identity."""
    return _sending(schema, name, listed="(r.prattrs IS NOT NULL OR r.prqual IS NOT NULL)", whole="false")


def unsent(schema: str, name: str, *, stored: bool) -> str:
    """Those that do not send the generated columns which a full identity has: no publication sends virtual ones."""
    left_out = "p.pubgencols <> 's'" if stored else "true"
    return _sending(schema, name, listed=left_out, whole=left_out)


def added(shown: str, *, stored: bool) -> str:
    """How a migration's draft notes that a table gets a generated column."""
    return f"a {'stored' if stored else 'virtual'} generated column of {shown}"


def refuses_generated(major: int) -> bool:
    """Whether the server looks at generated columns at all."""
    return major >= _GENERATED


def _sending(schema: str, name: str, *, listed: str, whole: str) -> str:
    """`listed` limits publications of tables by name, `whole` those of everything or of a schema."""
    relation = f"to_regclass({literal(ident(schema, name))})"
    return (
        "WITH tree AS (SELECT c.oid, c.relnamespace AS nsp FROM pg_class c "
        f"WHERE c.oid = {relation} OR c.oid IN (SELECT relid FROM pg_partition_tree({relation}))) "
        "SELECT p.pubname FROM pg_publication p WHERE (p.pubupdate OR p.pubdelete) AND (EXISTS ("
        f"SELECT FROM pg_publication_rel r JOIN tree ON r.prrelid = tree.oid WHERE r.prpubid = p.oid AND {listed}) "
        f"OR {whole} AND (p.puballtables OR EXISTS (SELECT FROM pg_publication_namespace s JOIN tree ON s.pnnspid = tree.nsp "
        "WHERE s.pnpubid = p.oid)))"
    )
