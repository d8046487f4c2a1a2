"""What names a column in a definition of its own: views, policies, triggers, functions with a body of SQL.

The server prints a definition with the names that columns have. The same text, parsed again after another column has taken
a name, means that one: so all of them follow a column to its successor, in the transaction in which names change. What the
server will make of it is tried when the plan is made, on an empty copy of the table.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from zdmigrate import schema
from zdmigrate.errors import Unsafe
from zdmigrate.hazards import Hazard
from zdmigrate.phases import Phase
from zdmigrate.plan import LockMode, TableLock
from zdmigrate.planning import usertriggers
from zdmigrate.planning.names import digest
from zdmigrate.planning.parts import Scope
from zdmigrate.sqltext import Token, dollar, ident, literal, tokens

Types = Mapping[str, str]
"""Columns that give way to others, and those others' types."""

_REMEDIES = {
    "generated column": "it would be computed again for every row under a lock: drop the generated column before (DropColumn) "
    "and add it again after (AddColumn)",
    "materialized view": "it would lose its rows: drop it before and create it again after, or build another one beside it",
    "foreign key": "drop the foreign key before (DropConstraint), give both columns the type, and add it again (AddForeignKey)",
    "publication": "take the column off the list before (ALTER PUBLICATION … SET TABLE), and put it back after",
    "policy": "drop the other table's policy before, and create it again after",
    "rule": "replace the rule by a trigger before",
}
_OTHERS = "drop it before, and create it again after"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rebinding:
    """What is to do around the moment at which other columns get the names.

    `release` takes away what cannot be bound again in place; `let_go` is for a type that is changed in place, which the
    server refuses as long as anything depends on it. `bind` has the definitions as they were. `locks` are those on views,
    to be taken before the table's, as queries do.
    """

    release: tuple[str, ...] = ()
    let_go: tuple[str, ...] = ()
    bind: tuple[str, ...] = ()
    locks: tuple[TableLock, ...] = ()
    recreated: tuple[str, ...] = ()
    """Views that get columns of another type: they are dropped, and created again."""
    shown: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    checks: tuple[_Check, ...] = ()

    def hazards(self, phase: Phase) -> tuple[Hazard, ...]:
        """What views mean that show the new type from a phase on."""
        if not self.recreated:
            return ()
        message = f"{', '.join(self.recreated)} is dropped and created again in one transaction: until {phase} it shows the old "
        remedy = "let both versions cope with either type, or read the table"
        return (Hazard(id="C11", phase=phase, message=f"{message}type, and the new one after", remedy=remedy),)

    def probe(self, plain: str) -> str:
        """A step's probe, with what was changed by hand before or after."""
        if not self.checks:
            return plain
        cases = ""
        for state in ("todo", "done"):
            rows = ", ".join(f"({literal(check.said)}, {check.holds(state)})" for check in self.checks)
            wrong = f"SELECT w.said FROM (VALUES {rows}) w(said, same) WHERE w.same IS NOT TRUE LIMIT 1"
            cases += f" WHEN {literal(state)} THEN coalesce(({wrong}), {literal(state)})"
        return f"SELECT CASE s.state{cases} ELSE s.state END FROM ({plain}) AS s(state)"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Columns as they are at some moment: `types` of those that gave way, and what columns are called (`names`)."""

    types: Types
    names: tuple[tuple[str, str], ...] = ()


def of(
    scope: Scope,
    table: schema.Table,
    *,
    now: Types,
    before: Types | None = None,
    later: Sequence[Stage] = (),
    triggers: Mapping[str, schema.Trigger] | None = None,
    in_place: bool = False,
) -> Rebinding:
    """For columns that give way `now`, after those that did `before`. `later` are the moments that follow.

    `triggers` are those that are to be others by then, by name (None: leave triggers out). `in_place`: the
    types are changed, and `let_go` is what comes before.

    Raises:
        Unsafe: something cannot be carried; it says what, and the remedy.
    """
    before, columns = dict(before or {}), frozenset(now)
    found = [*_bound(scope, table, columns), *_triggers(table, columns, triggers)]
    kept = tuple(_kept(scope, table, columns)) if in_place else ()
    if not found:
        return Rebinding(bind=kept)
    done = (Stage(types=before | dict(now)), *later)
    made = [one.tried(scope, before, now) for one in found]
    if in_place:  # what it shows may be of other types by then than those that the plan knows
        made = [one.surely(scope, before, now) if before.keys() & set(one.about.columns) else one for one in made]
    todo = (Stage(types={}), Stage(types=before)) if before else (Stage(types={}),)
    return Rebinding(
        release=tuple(s for one in made for s in one.release()),
        let_go=tuple(s for one in made for s in one.let_go()),
        bind=(*(s for one in made for s in one.bind()), *kept),
        locks=tuple(lock for one in made for lock in one.locks()),
        recreated=tuple(one.shown for one in made if isinstance(one, _View) and one.anew),
        shown=tuple(f"{one.kind} {one.shown}" for one in made),
        reads=tuple(dict.fromkeys(name for one in made for name in _reads(table, one.about))),
        checks=tuple(
            _Check(
                said=f"the {one.kind} {one.shown} was changed since the plan was made",
                current=_plain(one.current(), table),
                todo=one.texts(scope, todo),
                done=one.texts(scope, done),
                unless=_moved_on(table, one.about.columns, before | dict(now)) if in_place else None,
            )
            for one in made
            if one.checked
        ),
    )


def refuse(scope: Scope, table: schema.Table, column: str, type_: str) -> None:
    """Refuse a column to whose successor something cannot be carried.

    Raises:
        Unsafe: names it, with the remedy.
    """
    carried = {b.identity for b in (*table.views, *table.policies, *table.routines, *table.statistics)}
    carried |= {t.identity for t in table.triggers}
    found = [d for d in table.dependents if d.column == column and d.identity not in carried]
    if found:
        named = ", ".join(f"{d.kind} {d.identity}" for d in found)
        raise Unsafe(
            f"{table.schema}.{table.name}.{column} cannot be given another type: {named} depend on it",
            hint="; ".join(dict.fromkeys(map(_remedy, found))),
        )
    of(scope, table, now={column: type_}, triggers={})


def _remedy(dependent: schema.Dependent) -> str:
    kind = "foreign key" if dependent.kind == "table constraint" else dependent.kind
    if kind == "default value":
        kind = "generated column"
    if kind == "rule" and " materialized view " in dependent.identity:
        kind = "materialized view"
    return next((text for name, text in _REMEDIES.items() if kind.startswith(name)), _OTHERS)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    said: str
    current: str
    todo: tuple[str, ...]
    done: tuple[str, ...]
    unless: str | None = None
    """A condition under which it is another one again when the step is done, because of what came after."""

    def holds(self, state: str) -> str:
        texts = self.todo if state == "todo" else self.done
        same = f"{self.current} IN ({', '.join(map(literal, dict.fromkeys(texts)))})"
        return same if state == "todo" or self.unless is None else f"{same} OR {self.unless}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Thing(abc.ABC):
    """One of them, on its table."""

    table: schema.Table
    kind: str = ""

    @property
    def copy(self) -> str:
        """The copy has the table's own name, by which expressions call their columns where they must."""
        return _copy(self.table)

    @property
    @abc.abstractmethod
    def shown(self) -> str:
        """Its name, for people."""

    @property
    @abc.abstractmethod
    def about(self) -> schema.Bound:
        """What it names."""

    @property
    def checked(self) -> bool:
        """Whether its text is compared before it is replaced."""
        return True

    def release(self) -> tuple[str, ...]:
        """Statements before names change, for what cannot be bound again in place."""
        return ()

    def locks(self) -> tuple[TableLock, ...]:
        return ()

    @abc.abstractmethod
    def let_go(self) -> tuple[str, ...]:
        """Statements after which it does not depend on the columns."""

    @abc.abstractmethod
    def bind(self) -> tuple[str, ...]:
        """Statements that parse its definition again."""

    @abc.abstractmethod
    def current(self) -> str:
        """A SQL expression for the text that it has."""

    @abc.abstractmethod
    def known(self) -> str:
        """The text that it had when the plan was made."""

    @abc.abstractmethod
    def make(self) -> Iterator[str]:
        """On the copy, for the first time."""

    @abc.abstractmethod
    def again(self) -> Iterator[str]:
        """On the copy, once more, as `bind` will."""

    @abc.abstractmethod
    def found(self) -> str:
        """A query for the text that it has on the copy."""

    def tried(self, scope: Scope, before: Types, now: Types) -> _Thing:
        """Itself, or another way to do it, whichever the server accepts.

        Raises:
            Unsafe: it accepts none.
        """
        try:
            self._trial(
                scope, [*_successors(self.table, before), *self.make(), *_successors(self.table, now), *self.again()]
            )
        except Unsafe as error:
            if not scope.draft.questions:  # else by what nobody knows yet: it is planned again with the answers
                raise self._refused(error) from error
        return self

    def surely(self, scope: Scope, before: Types, now: Types) -> _Thing:
        """Itself, done in a way that does not rely on the types of its columns."""
        return self

    def texts(self, scope: Scope, stages: Sequence[Stage]) -> tuple[str, ...]:
        """What it will be at these moments, by the server's own words."""
        return tuple(_bare(self._text(scope, stage), self.table) for stage in stages)

    def _text(self, scope: Scope, stage: Stage) -> str:
        if not stage.types and not stage.names:
            return self.known()
        renames = (f"ALTER TABLE {_copy(self.table)} RENAME COLUMN {ident(a)} TO {ident(b)}" for a, b in stage.names)
        try:
            found = self._trial(scope, [*_successors(self.table, stage.types), *self.make(), *renames])
        except Unsafe as error:
            if scope.draft.questions:
                return ""
            raise self._refused(error) from error
        return found.answer or ""

    def _trial(self, scope: Scope, statements: Sequence[str]) -> schema.Trial:
        begin = f"ALTER TABLE {{table}} RENAME TO {ident(self.table.name)}"
        end = ("SET LOCAL search_path = pg_catalog", self.found())
        return scope.trial(self.table, "; ".join([begin, *statements, *end]))

    def _refused(self, error: Unsafe) -> Unsafe:
        said = error.message.removeprefix(f"{self.table.schema}.{self.table.name}: ")
        return self._impossible(f"does not work with the new type: {said}")

    def _impossible(self, why: str) -> Unsafe:
        shown = f"{self.table.schema}.{self.table.name}"
        return Unsafe(
            f"the {self.kind} {self.shown} uses a column of {shown} that is given another type, and {why}",
            hint=f"drop the {self.kind} before, and create it as it is to be after",
        )

    def _on_copy(self, text: str) -> str:
        return _rename_relation(text, (self.table.schema, self.table.name), self.copy)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _View(_Thing):
    view: schema.View
    role: str
    kind: str = "view"
    anew: bool = False

    @property
    def shown(self) -> str:
        return f"{self.view.schema}.{self.view.name}"

    @property
    def about(self) -> schema.Bound:
        return self.view

    def release(self) -> tuple[str, ...]:
        return self.let_go() if self.anew else ()

    def locks(self) -> tuple[TableLock, ...]:
        return (TableLock(schema=self.view.schema, name=self.view.name, mode=LockMode.ACCESS_EXCLUSIVE),)

    @property
    def _name(self) -> str:
        return ident(self.view.schema, self.view.name)

    def let_go(self) -> tuple[str, ...]:
        if self.anew:
            return (f"DROP VIEW {self._name}",)
        # Of the same columns, so that whatever depends on the view stays.
        shown = (
            f"NULL::{c.type}{'' if c.collation is None else f' COLLATE {c.collation}'} AS {ident(c.name)}"
            for c in self.view.columns_shown
        )
        return (f"CREATE OR REPLACE VIEW {self._name} AS SELECT {', '.join(shown)}",)

    def bind(self) -> tuple[str, ...]:
        options = [f"{name} = {literal(value)}" for name, _, value in (o.partition("=") for o in self.view.options)]
        with_ = f" WITH ({', '.join(options)})" if options else ""
        create = "CREATE VIEW" if self.anew else "CREATE OR REPLACE VIEW"
        statement = f"{create} {self._name}{with_} AS {self.view.definition}"
        return (statement, *self._belongings()) if self.anew else (statement,)

    def _belongings(self) -> Iterator[str]:
        """What is the view's and not its definition's."""
        view, name = self.view, self._name
        roles = ", ".join("PUBLIC" if role is None else ident(role) for role in view.given)
        if roles:
            yield f"REVOKE ALL ON {name} FROM {roles}"
        if view.owner != self.role:
            yield f"ALTER VIEW {name} OWNER TO {ident(view.owner)}"
        for grant in view.grants:
            yield _grant(name, grant)
        if view.comment is not None:
            yield f"COMMENT ON VIEW {name} IS {literal(view.comment)}"
        for column in view.columns_shown:
            for grant in column.grants:
                yield _grant(name, grant, column.name)
            if column.comment is not None:
                yield f"COMMENT ON COLUMN {name}.{ident(column.name)} IS {literal(column.comment)}"

    def current(self) -> str:
        return f"rtrim(pg_get_viewdef(to_regclass({literal(self._name)})), ';')"

    def known(self) -> str:
        return self.view.definition

    def make(self) -> Iterator[str]:
        yield f"CREATE TEMPORARY VIEW zd_view AS {self._on_copy(self.view.definition)}"

    def again(self) -> Iterator[str]:
        if self.anew:
            yield "DROP VIEW pg_temp.zd_view"
        yield f"CREATE OR REPLACE TEMPORARY VIEW zd_view AS {self._on_copy(self.view.definition)}"

    def found(self) -> str:
        return "SELECT rtrim(pg_get_viewdef('pg_temp.zd_view'::regclass), ';')"

    def tried(self, scope: Scope, before: Types, now: Types) -> _Thing:
        view = self.view
        if not view.owned or not view.may_create:
            raise self._impossible(f"{scope.snapshot.role} may not replace it (it is owned by {view.owner})")
        try:
            return _Thing.tried(self, scope, before, now)
        except Unsafe:
            return self.surely(scope, before, now)

    def surely(self, scope: Scope, before: Types, now: Types) -> _Thing:
        view, another = self.view, dataclasses.replace(self, anew=True)
        _Thing.tried(another, scope, before, now)
        if scope.draft.questions:
            return another
        if view.reliant:
            raise self._impossible(
                f"would show a column of another type, which needs it to be dropped, and {', '.join(view.reliant)} "
                f"depend{'s' * (len(view.reliant) == 1)} on it"
            )
        if view.peculiar:
            raise self._impossible(
                f"would show a column of another type, which needs it to be dropped, and would lose {', '.join(view.peculiar)}"
            )
        if not view.may_give:
            raise self._impossible(
                f"would show a column of another type, which needs it to be dropped, and {scope.snapshot.role} may not "
                f"give the new one to {view.owner}"
            )
        return another


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Policy(_Thing):
    policy: schema.Policy
    kind: str = "policy"

    @property
    def shown(self) -> str:
        return f"{self.policy.name} of {self.table.schema}.{self.table.name}"

    @property
    def about(self) -> schema.Bound:
        return self.policy

    def let_go(self) -> tuple[str, ...]:
        clauses = ["USING (false)"] * (self.policy.using is not None)
        clauses += ["WITH CHECK (false)"] * (self.policy.check is not None)
        return (self._alter(clauses),)

    def bind(self) -> tuple[str, ...]:
        return (self._alter(self._clauses()),)

    def _clauses(self) -> list[str]:
        given = (("USING", self.policy.using), ("WITH CHECK", self.policy.check))
        return [f"{word} ({text})" for word, text in given if text is not None]

    def _alter(self, clauses: Sequence[str]) -> str:
        target = ident(self.table.schema, self.table.name)
        return f"ALTER POLICY {ident(self.policy.name)} ON {target} {' '.join(clauses)}"

    def current(self) -> str:
        table = f"to_regclass({literal(ident(self.table.schema, self.table.name))})"
        return f"({_POLICY_TEXT} WHERE p.polrelid = {table} AND p.polname = {literal(self.policy.name)})"

    def known(self) -> str:
        return _joined(self.policy.using, self.policy.check)

    def make(self) -> Iterator[str]:
        yield f"CREATE POLICY zd_policy ON {self.copy} {self._on_copy(' '.join(self._clauses()))}"

    def again(self) -> Iterator[str]:
        yield f"ALTER POLICY zd_policy ON {self.copy} {self._on_copy(' '.join(self._clauses()))}"

    def found(self) -> str:
        return f"{_POLICY_TEXT} WHERE p.polname = 'zd_policy' AND p.polrelid IN ({_TEMPORARY})"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Routine(_Thing):
    routine: schema.Routine
    kind: str = "function"

    @property
    def shown(self) -> str:
        return self.routine.signature

    @property
    def about(self) -> schema.Bound:
        return self.routine

    def let_go(self) -> tuple[str, ...]:
        empty = f"{self.routine.head}AS {dollar('')}"
        return ("SET LOCAL check_function_bodies = off", empty, "SET LOCAL check_function_bodies = on")

    def bind(self) -> tuple[str, ...]:
        return (f"{self.routine.head}{self.routine.body}",)

    def current(self) -> str:
        return f"pg_get_function_sqlbody(to_regprocedure({literal(self.routine.signature)}))"

    def known(self) -> str:
        return self.routine.body

    def make(self) -> Iterator[str]:
        name = (self.routine.schema, self.routine.name)
        head = _rename_relation(self.routine.head, name, ident("pg_temp", self.routine.name), called=True)
        yield f"{head}{self._on_copy(self.routine.body)}".rstrip(";")

    again = make

    def found(self) -> str:
        return "SELECT pg_get_function_sqlbody(p.oid) FROM pg_proc p WHERE p.pronamespace = pg_my_temp_schema()"

    def tried(self, scope: Scope, before: Types, now: Types) -> _Thing:
        if not self.routine.owned or not self.routine.may_create:
            raise self._impossible(f"{scope.snapshot.role} may not replace it")
        return _Thing.tried(self, scope, before, now)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Trigger(_Thing):
    trigger: schema.Trigger
    wanted: schema.Trigger
    """As it is to be bound: what fires for a column that is renamed, too, fires for more by then."""
    kind: str = "trigger"

    @property
    def checked(self) -> bool:
        return self.wanted == self.trigger

    @property
    def shown(self) -> str:
        return f"{self.trigger.name} of {self.table.schema}.{self.table.name}"

    @property
    def about(self) -> schema.Bound:
        found = {d.column for d in self.table.dependents if d.identity == self.trigger.identity}
        return schema.Bound(identity=self.trigger.identity, columns=tuple(sorted(found)))

    def release(self) -> tuple[str, ...]:
        return self.let_go()

    def let_go(self) -> tuple[str, ...]:
        return (usertriggers.drop(self.table, self.trigger),)

    def bind(self) -> tuple[str, ...]:
        return usertriggers.create(self.table, self.wanted)

    def current(self) -> str:
        table = f"to_regclass({literal(ident(self.table.schema, self.table.name))})"
        return (
            f"(SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t WHERE t.tgrelid = {table} "
            f"AND t.tgname = {literal(self.trigger.name)})"
        )

    def known(self) -> str:
        return self.trigger.definition

    def make(self) -> Iterator[str]:
        yield self._on_copy(self.trigger.definition)

    def again(self) -> Iterator[str]:
        yield f"DROP TRIGGER {ident(self.trigger.name)} ON {self.copy}"
        yield from self.make()

    def found(self) -> str:
        return f"SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t WHERE NOT t.tgisinternal AND t.tgrelid IN ({_TEMPORARY})"


_TEMPORARY = "SELECT c.oid FROM pg_class c WHERE c.relnamespace = pg_my_temp_schema()"
_POLICY_TEXT = (
    "SELECT concat_ws(' / ', pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) "
    "FROM pg_policy p"
)


def _joined(*texts: str | None) -> str:
    return " / ".join(text for text in texts if text is not None)


def _bound(scope: Scope, table: schema.Table, columns: frozenset[str]) -> Iterator[_Thing]:
    """In an order that is always the same."""
    for view in table.views:
        if columns & set(view.columns):
            yield _View(table=table, view=view, role=scope.snapshot.role)
    for policy in table.policies:
        if columns & set(policy.columns):
            yield _Policy(table=table, policy=policy)
    for routine in table.routines:
        if columns & set(routine.columns):
            yield _Routine(table=table, routine=routine)


def _kept(scope: Scope, table: schema.Table, columns: frozenset[str]) -> Iterator[str]:
    """What statistics objects lose when the server makes them again for a column's new type."""
    for found in table.statistics:
        if columns & set(found.columns):
            name = ident(found.schema, found.name)
            if found.target is not None:
                yield f"ALTER STATISTICS {name} SET STATISTICS {found.target}"
            if found.owner != scope.snapshot.role:
                yield f"ALTER STATISTICS {name} OWNER TO {ident(found.owner)}"


def _triggers(
    table: schema.Table, columns: frozenset[str], others: Mapping[str, schema.Trigger] | None
) -> Iterator[_Trigger]:
    if others is None:
        return
    for trigger in table.triggers:
        if usertriggers.depends(table, trigger, columns):
            yield _Trigger(table=table, trigger=trigger, wanted=others.get(trigger.name, trigger))


def _reads(table: schema.Table, bound: schema.Bound) -> Iterator[str]:
    yield from (f"{table.schema}.{table.name}.{column}" for column in bound.columns)
    yield from bound.reads


def _moved_on(table: schema.Table, columns: Sequence[str], types: Types) -> str:
    """Whether columns have other names or types than those that they have after a change in place."""
    live = [column for name in columns if (column := table.column(name)) is not None]
    expected = ", ".join(f"({c.number}, {literal(c.name)}, {literal(types.get(c.name, c.type))})" for c in live)
    return (
        f"EXISTS (SELECT FROM (VALUES {expected}) e(number, name, type) WHERE NOT EXISTS (SELECT FROM pg_attribute a "
        f"WHERE a.attrelid = to_regclass({literal(ident(table.schema, table.name))}) AND a.attnum = e.number "
        "AND a.attname = e.name AND format_type(a.atttypid, a.atttypmod) = e.type))"
    )


def _copy(table: schema.Table) -> str:
    return ident("pg_temp", table.name)


def _successors(table: schema.Table, types: Types) -> Iterator[str]:
    """On the copy: the columns give way, as they will."""
    for name, type_ in types.items():
        yield f"ALTER TABLE {_copy(table)} RENAME COLUMN {ident(name)} TO {ident(f'zd_gone_{digest(name)}')}"
        yield f"ALTER TABLE {_copy(table)} ADD COLUMN {ident(name)} {type_}"


def _rename_relation(text: str, name: tuple[str, str], new: str, *, called: bool = False) -> str:
    """A definition with another relation (or function, where it is `called`) in a qualified name's place."""
    pieces = list(tokens(text))
    made: list[str] = []
    place = 0
    while place < len(pieces):
        if _is_name(pieces, place, name, called=called):
            made.append(new)
            place += 3
        else:
            made.append(pieces[place].text)
            place += 1
    return "".join(made)


def _is_name(pieces: list[Token], place: int, name: tuple[str, str], *, called: bool) -> bool:
    if len(pieces) < place + 3 or pieces[place + 1].text != ".":
        return False
    before = pieces[place - 1].text if place else ""
    after = pieces[place + 3].text if len(pieces) > place + 3 else ""
    if before in (".", "::") or after == "." or (after == "(") is not called:
        return False
    return (pieces[place].name, pieces[place + 2].name) == name


def _bare(text: str, table: schema.Table) -> str:
    """A text that is the same on the table and on its copy: quotes come and go with names, and so does the schema."""
    name, plain = table.name.replace('"', ""), text.replace('"', "")
    for home in ("pg_temp", table.schema.replace('"', "")):
        plain = plain.replace(f"{home}.{name}", name)
    return plain


def _plain(expression: str, table: schema.Table) -> str:
    """The same in SQL."""
    full, name = (text.replace('"', "") for text in (f"{table.schema}.{table.name}", table.name))
    return f"replace(replace({expression}, '\"', ''), {literal(full)}, {literal(name)})"


def _grant(view: str, grant: schema.Grant, column: str | None = None) -> str:
    what = grant.privilege if column is None else f"{grant.privilege} ({ident(column)})"
    who = "PUBLIC" if grant.grantee is None else ident(grant.grantee)
    return f"GRANT {what} ON {view} TO {who}{' WITH GRANT OPTION' * grant.grantable}"
