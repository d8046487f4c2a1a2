"""What one version asks of the database, settled where it is at home, and asked in every other state."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from zdmigrate.compat.footprint import Footprint, MappedTable, Statement
from zdmigrate.compat.probing import judging, kinds, roundtrips, statements
from zdmigrate.compat.probing.asking import Outcome, ask, ask_one
from zdmigrate.compat.probing.binding import names_in
from zdmigrate.compat.probing.client import Answer, Client, Failure, Rows
from zdmigrate.compat.probing.probes import Probe
from zdmigrate.compat.probing.roundtrips import Mapped
from zdmigrate.compat.probing.rows import Row, Samples
from zdmigrate.compat.report import Finding, Layer, State, Unproven, Version
from zdmigrate.postgres.shapes import Relation, Shapes
from zdmigrate.sqltext import ident
from zdmigrate.wording import counted

__all__ = ["Home", "Needs", "Settled", "settle"]

_DATA = ("22", "23", "P0", "57")
"""Classes of errors that are about values and time, not about the statement (manual, appendix A)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A probe that works at home. `rows` are those that it touched there; None: it could only be prepared, and, where it
    `explains`, be planned. `copied` are the columns that a COPY transferred."""

    probe: Probe
    rows: int | None
    copied: int = 0
    explains: bool = False

    @property
    def executes(self) -> bool:
        """Whether there are values with which it can be executed."""
        return self.rows is not None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """A version with its probes. `homes` are the schemas that it may have been written for, the likeliest first."""

    version: Version
    footprint: Footprint
    homes: tuple[Shapes, ...]
    settled: tuple[Settled, ...]
    unproven: tuple[Unproven, ...]
    faithful: frozenset[tuple[str, str]] = frozenset()
    """(table, column) pairs of which an INSERT reads back just what it wrote."""
    defaults: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    """(table, column) pairs that the server fills, always with the same value."""

    @property
    def home(self) -> Shapes:
        """The schema that it should have been written for."""
        return self.homes[0]

    def touching(self, names: frozenset[str]) -> tuple[Settled, ...]:
        """The probes that may use one of these."""
        return tuple(each for each in self.settled if not names.isdisjoint(names_in(each.probe.sql)))

    def examine(self, client: Client, state: State, shapes: Shapes, probes: Sequence[Settled]) -> Iterator[Finding]:
        """What the version cannot do in a state: the catalog's word, then the server's."""
        yield from self._catalog(state, shapes)
        by_probe = {each.probe: each for each in probes}
        for outcome in ask(client, (e.probe for e in probes if e.executes)):
            if (found := self._finding(outcome, by_probe[outcome.probe], state, shapes)) is not None:
                yield found
        yield from self._unprepared(client, state, shapes, probes)

    def finding(self, probe: Probe, failure: Failure, layer: Layer, state: State, shapes: Shapes) -> Finding:
        """A failure, in words."""
        hazard = judging.hazard_of(failure, layer, self.version, self.home, shapes)
        return Finding(
            version=self.version, state=state, layer=layer, subject=probe.subject, message=failure.message,
            remedy=judging.remedy_of(hazard), hazard=hazard, sqlstate=failure.sqlstate, statement=probe.sql, place=probe.place,
        )  # fmt: skip

    def _finding(self, outcome: Outcome, settled: Settled, state: State, shapes: Shapes) -> Finding | None:
        if outcome.failure is not None:
            return self.finding(outcome.probe, outcome.failure, outcome.layer, state, shapes)
        if outcome.copied != settled.copied:
            message = f"transfers {counted(outcome.copied, 'column')} where it transferred {settled.copied}"
            return self._silent_failure(outcome, state, message, "C23")
        if settled.rows and outcome.rows < settled.rows:
            message = f"finds {counted(outcome.rows, 'row')} where it found {settled.rows}"
            return self._silent_failure(outcome, state, message, judging.hazard_of_silence(outcome.probe.sql))
        return None

    def _silent_failure(self, outcome: Outcome, state: State, message: str, hazard: str) -> Finding:
        """The server says nothing against it, and it is not what it was."""
        return Finding(
            version=self.version, state=state, layer=Layer.EXECUTE, subject=outcome.probe.subject, message=message,
            remedy=judging.remedy_of(hazard), hazard=hazard, statement=outcome.probe.sql, place=outcome.probe.place,
        )  # fmt: skip

    def _unprepared(self, client: Client, state: State, shapes: Shapes, probes: Sequence[Settled]) -> Iterator[Finding]:
        client.begin()
        for each in (each for each in probes if not each.executes):
            probe = each.probe
            failure = client.prepare("", probe.sql, probe.types)
            if failure is None and each.explains:
                failure = client.explain(probe.sql, probe.types)
            if failure is not None:
                client.back()
                yield self.finding(probe, failure, Layer.PREPARE, state, shapes)
        client.end()

    def _catalog(self, state: State, shapes: Shapes) -> Iterator[Finding]:
        """What the models name and is not there, or is something else."""
        for table in self.footprint.tables:
            known = _home_of(table, self.homes)
            was = known.find(table.name, table.schema)
            if was is not None:
                for subject, message, hazard in self._changed(table, was, known, shapes):
                    yield Finding(
                        version=self.version, state=state, layer=Layer.CATALOG, subject=subject, message=message,
                        remedy=judging.remedy_of(hazard), hazard=hazard,
                    )  # fmt: skip

    def _changed(
        self, table: MappedTable, was: Relation, home: Shapes, shapes: Shapes
    ) -> Iterator[tuple[str, str, str | None]]:
        known = {*_absent(table, home)}
        for subject, message, column in _absent(table, shapes):
            if (subject, message, column) not in known:
                yield subject, message, judging.hazard_of_absence(self.version, was, column, home, shapes)
        for subject, before, after in _retyped(table, was, shapes):
            yield subject, f"{subject} is {after}, and {before} for the version: drivers give it another type", "C11"


def _absent(table: MappedTable, shapes: Shapes) -> Iterator[tuple[str, str, str | None]]:
    """(what, message, column) of what a table's models name and the database has not."""
    name = table.name if table.schema is None else f"{table.schema}.{table.name}"
    relation = shapes.find(table.name, table.schema)
    if relation is None:
        yield name, f"the models map {name}, which is not there", None
        return
    for column in table.columns:
        if relation.column(column.name) is None:
            yield f"{name}.{column.name}", f"the models map {name}.{column.name}, which is not there", column.name


def _retyped(table: MappedTable, was: Relation, shapes: Shapes) -> Iterator[tuple[str, str, str]]:
    """(what, type before, type after) of columns whose values are of another kind than at home."""
    now = shapes.find(table.name, table.schema)
    if now is None:
        return
    for mapped in table.columns:
        before, after = was.column(mapped.name), now.column(mapped.name)
        if before is not None and after is not None and not kinds.alike(before, after):
            yield f"{now}.{mapped.name}", before.type, after.type


@dataclasses.dataclass(frozen=True, slots=True)
class Home:
    """A state that a version may have been written for. `client` is connected there, as the application."""

    client: Client
    shapes: Shapes
    samples: Samples = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", Samples(self.client, self.shapes))


def settle(
    version: Version,
    footprint: Footprint,
    homes: Sequence[Home],
    *,
    meeting: Home | None = None,
    names: frozenset[str] | None = None,
    known: Mapping[str, Settled] = MappingProxyType({}),
) -> Needs:
    """Make the probes, and ask them where the version is at home.

    Of `homes`, the first is where it should be; what it needs and only another one has, it needs all the same: a second
    application may still use what the first one's migration drops. `names` are those of what changes: round trips are
    made of tables that are among them (None: of all). `known` are probes of statements that another version has
    settled, and that touch nothing of it.

    What the new version is free to do when the old shape is gone, it leaves until then: a made probe whose values are
    refused in the last of the homes, where the migration has not begun, is not asked. Nor is a made upsert on a key that
    is not there yet in `meeting`, the last state in which both versions live. A recorded one is.
    """
    tables = [table for table in footprint.tables if names is None or table.name in names]
    settled = [each for table in tables for each in _made(table, homes, meeting)]
    for home in homes:
        home.client.begin()
    rows = (statements.as_insert(statement, homes[0].shapes) for statement in footprint.statements)
    asked = (*footprint.statements, *(made for made in rows if made is not None))
    found = [_known(s, known) or _recorded(version, s, homes) for s in asked]
    for home in homes:
        home.client.end()
    return Needs(
        version=version,
        footprint=footprint,
        homes=tuple(home.shapes for home in homes),
        settled=(*settled, *(each for each in found if isinstance(each, Settled))),
        unproven=(
            *_homeless(version, footprint, homes),
            *_silent(version, tables, homes, settled),
            *_unexecuted(version, homes[0].shapes, [e for e in found if isinstance(e, Settled)], settled, names),
            *(each for each in found if isinstance(each, Unproven)),
        ),
        faithful=frozenset(pair for table in tables for pair in _faithful(table, _at_home(table, homes))),
        defaults=dict(pair for table in tables for pair in _defaults(table, _at_home(table, homes))),
    )


def _known(statement: Statement, known: Mapping[str, Settled]) -> Settled | None:
    """What another version has settled, where its driver declares the same types."""
    found = known.get(statement.sql)
    return found if found is not None and found.probe.types == statements.declared(statement) else None


def _home_of(table: MappedTable, homes: Sequence[Shapes]) -> Shapes:
    """The first that has all of a table."""
    return next((shapes for shapes in homes if not any(_absent(table, shapes))), homes[0])


def _at_home(table: MappedTable, homes: Sequence[Home]) -> Home:
    shapes = _home_of(table, [home.shapes for home in homes])
    return next(home for home in homes if home.shapes is shapes)


def _made(table: MappedTable, homes: Sequence[Home], meeting: Home | None) -> Iterator[Settled]:
    home, strictest = _at_home(table, homes), homes[-1]
    found = roundtrips.mapped(table, home.shapes)
    probes = [] if found is None else list(roundtrips.probes_of(found, home.samples))
    if home is not strictest:
        asked = ask(strictest.client, probes)
        probes = [o.probe for o in asked if o.failure is None or not _too_free(o.failure, table)]
    if meeting is not None:
        asked = ask(meeting.client, probes)
        probes = [o.probe for o in asked if o.failure is None or o.failure.sqlstate != "42P10"]
    yield from (Settled(probe=o.probe, rows=o.rows) for o in ask(home.client, probes) if o.failure is None)


def _faithful(table: MappedTable, home: Home) -> Iterator[tuple[str, str]]:
    found = roundtrips.mapped(table, home.shapes)
    if found is None:
        return
    made = home.samples.make(found.relation, roundtrips.NEW)
    row = {name: value for name, value in made.items() if name in found.names}
    listed = ", ".join(map(ident, row))
    given = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    sql = f"INSERT INTO {found.target} ({listed}) VALUES ({given}) RETURNING {listed}"
    home.client.begin()
    if row and home.client.prepare("", sql) is None:
        answer = home.client.execute("", tuple(row.values()))
        if isinstance(answer, Rows) and answer.rows:
            back = zip(row.items(), answer.rows[0], strict=True)
            yield from ((str(found.relation), name) for (name, value), read in back if value == read)
    home.client.end()


def _defaults(table: MappedTable, home: Home) -> Iterator[tuple[tuple[str, str], str]]:
    """What two rows get that give no more than they must: a clock or a sequence gives them different values."""
    found = roundtrips.mapped(table, home.shapes)
    filled = [] if found is None else [column.name for column in found.columns if column.filled == "server"]
    if found is None or not filled:
        return
    rows = (home.samples.make(found.relation, number) for number in (roundtrips.NEW, roundtrips.NEW + 1))
    first, second = (_filled(home.client, found, filled, row) for row in rows)
    for name, one, other in zip(filled, first, second, strict=False):
        if one is not None and one == other:
            yield (str(found.relation), name), one


def _filled(client: Client, found: Mapped, names: Sequence[str], row: Row) -> tuple[str | None, ...]:
    """What the server gives these columns of a minimal row."""
    given = roundtrips.minimal(found, roundtrips.full_row(found, row))
    client.begin()
    answer: Answer | None = client.prepare(
        "", f"{roundtrips.insert(found, given)} RETURNING {', '.join(map(ident, names))}"
    )
    if answer is None:
        answer = client.execute("", tuple(given.values()))
    client.end()
    return answer.rows[0] if isinstance(answer, Rows) and answer.rows else ()


def _too_free(failure: Failure, table: MappedTable) -> bool:
    """Whether old constraints refuse it; a value that is missing in a column that the version does not know is no freedom."""
    if failure.sqlstate == "23502":
        return judging.column_in(failure) in {column.name for column in table.columns}
    return failure.sqlstate.startswith(_DATA) or failure.sqlstate == "42P10"


def _recorded(version: Version, statement: Statement, homes: Sequence[Home]) -> Settled | Unproven:
    """The statement with the first values that the server accepts, where it can be executed at all."""
    found = [_at(home, version, statement) for home in homes]
    return next((each for each in found if isinstance(each, Settled)), found[0])


def _at(home: Home, version: Version, statement: Statement) -> Settled | Unproven:
    client = home.client
    refused = client.prepare("", statement.sql, statements.declared(statement))
    if refused is not None:
        client.back()
        return _unproven(version, statement, refused)
    types = client.parameter_types("")
    for probe in statements.variants(statement, home.samples, home.shapes, types):
        outcome = ask_one(client, probe)
        if outcome.failure is None:
            return Settled(probe=outcome.probe, rows=outcome.rows, copied=outcome.copied)
        refused = outcome.failure
    if refused is not None and not refused.sqlstate.startswith(_DATA):
        return _unproven(version, statement, refused)
    probe = statements.probe_of(statement, ())
    explains = client.explain(probe.sql, probe.types) is None
    client.back()
    return Settled(probe=probe, rows=None, explains=explains)


def _unproven(version: Version, statement: Statement, failure: Failure) -> Unproven:
    where = "before the migration" if version is Version.OLD else "after the migration"
    return Unproven(
        version=version, subject=statement.sql, reason=f"it fails {where} already: {failure.sqlstate} {failure.message}",
        place=statement.places[0] if statement.places else None,
    )  # fmt: skip


def _homeless(version: Version, footprint: Footprint, homes: Sequence[Home]) -> Iterator[Unproven]:
    where = "before the migration" if version is Version.OLD else "after the migration"
    for table in footprint.tables:
        for subject, message, _ in _absent(table, _at_home(table, homes).shapes):
            yield Unproven(version=version, subject=subject, reason=f"{message} {where}: is this the right schema?")
        for subject, message in _unlabelled(table, _at_home(table, homes).shapes):
            yield Unproven(version=version, subject=subject, reason=f"{message} {where}: is this the right schema?")


def _unlabelled(table: MappedTable, shapes: Shapes) -> Iterator[tuple[str, str]]:
    """(what, message) of labels that a version writes, and the column's enum has not."""
    relation = shapes.find(table.name, table.schema)
    for column in table.columns:
        live = None if relation is None else relation.column(column.name)
        missing = sorted({*column.labels} - {*live.labels}) if live is not None and live.labels else []
        if missing:
            listed = ", ".join(map(repr, missing))
            yield f"{relation}.{column.name}", f"the models have {listed}, which the type of {column.name} has not,"


def _unexecuted(
    version: Version, shapes: Shapes, recorded: Sequence[Settled], made: Sequence[Settled], names: frozenset[str] | None
) -> Iterator[Unproven]:
    """Statements that write what changes, of which no values are known that the server accepts; nor is there another probe
    that writes the table."""
    for probe in (each.probe for each in recorded if not each.executes):
        relation = statements.written(probe.sql, shapes)
        if relation is None or (names is not None and relation.name not in names):
            continue
        if not _has_insert(relation, made):
            reason = "no values are known that the server accepts, so it was never executed; give rows of your own"
            yield Unproven(version=version, subject=probe.sql, reason=reason, place=probe.place)


def _has_insert(relation: Relation, made: Sequence[Settled]) -> bool:
    subjects = (each.probe.subject for each in made)
    return any(subject.startswith("insert") and subject.endswith(f" of {relation}") for subject in subjects)


def _silent(
    version: Version, tables: Sequence[MappedTable], homes: Sequence[Home], settled: Sequence[Settled]
) -> Iterator[Unproven]:
    """Tables that can be written, of which no row could be made: nothing was proven about writing them."""
    for table in tables:
        home = _at_home(table, homes)
        relation = home.shapes.find(table.name, table.schema)
        if relation is None or relation.kind not in "rp" or not table.columns:
            continue
        if not _has_insert(relation, settled):
            said = home.samples.refusals.get((relation.schema, relation.name))
            reason = "no row could be made that the server accepts" + (f" ({said})" if said else "")
            yield Unproven(version=version, subject=str(relation), reason=f"{reason}; give rows of your own")
