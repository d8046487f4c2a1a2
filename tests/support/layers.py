"""A version's footprint asked before and after a schema change, by every layer that needs no phases."""

from __future__ import annotations

from tests.support.servers import Database, connect
from zdmigrate.compat.footprint import Footprint
from zdmigrate.compat.probing.client import Client
from zdmigrate.compat.probing.needs import Home, Needs, settle
from zdmigrate.compat.probing.warm import WarmClient
from zdmigrate.compat.report import Finding, Layer, State, Version
from zdmigrate.phases import Phase
from zdmigrate.postgres import shapes

CHANGED = State(phase=Phase.EXPAND)


def settled(database: Database, footprint: Footprint, role: str | None = None) -> Needs:
    """What version N needs of a database as it is."""
    with Client(database.server.conninfo(database.name, user=role)) as client:
        home = shapes.read(client.connection, control_schema="zdmigrate")
        return settle(Version.OLD, footprint, [Home(client, home)])


def found(needs: Needs, before: Database, after: Database, ddl: str, role: str | None = None) -> list[Finding]:
    """By every layer: `after` is a copy of `before`, and both get the change."""
    with connect(after) as owner:
        owner.execute(ddl.encode())
    with Client(after.server.conninfo(after.name, user=role)) as client:
        changed = shapes.read(client.connection, control_schema="zdmigrate")
        findings = list(needs.examine(client, CHANGED, changed, needs.settled))
    conninfo = before.server.conninfo(before.name, user=role)
    with Client(conninfo) as client, Client(conninfo) as fresh, connect(before) as owner:
        warm = WarmClient(client, needs.settled)
        warm.warm()
        owner.execute(ddl.encode())
        for probe, failure in warm.repeat(fresh):
            findings.append(needs.finding(probe, failure, Layer.WARM, CHANGED, changed))
    return findings
