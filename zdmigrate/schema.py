"""The catalog as values: what a planner may know about a live database.

A `Snapshot` is read by `zdmigrate.postgres.catalog` (or from a file written by ``plan --write-stats``) and holds
the tables that the migrations name, nothing else. Expressions are the server's deparsed text, made under
``search_path = pg_catalog``, so that everything outside pg_catalog is qualified.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column. `type` is what ``format_type`` prints; `default_volatile` is None without a default."""

    name: str
    number: int
    type: str
    collation: str | None = None
    not_null: bool = False
    default: str | None = None
    default_volatile: bool | None = None
    identity: str = ""
    generated: str = ""
    comment: str | None = None
    grants: tuple[Grant, ...] = ()
    statistics_target: int | None = None
    storage: str | None = None
    compression: str | None = None
    options: tuple[str, ...] = ()
    owned_sequences: tuple[str, ...] = ()
    hashable: bool = True
    """Whether the type has a hash function: unique keys of others cannot queue on advisory locks."""
    type_brings: tuple[str, ...] = ()
    """What the type does to a column that is added with it: ``constraints`` (a domain's), ``a default``."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A privilege on a column or a table; `grantee` is None for PUBLIC."""

    grantee: str | None
    privilege: str
    grantable: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index. `keys` are the key columns' expressions in order, `columns` every column it mentions.

    `tail` is the definition from the access method on: ``btree (lower(email)) WHERE active``.
    """

    name: str
    unique: bool
    primary: bool
    valid: bool
    columns: tuple[str, ...]
    keys: tuple[str, ...]
    tail: str
    predicate: str | None = None
    nulls_not_distinct: bool = False
    constraint: str | None = None
    replica_identity: bool = False
    clustered: bool = False
    tablespace: str | None = None
    comment: str | None = None
    partition_names: tuple[tuple[str, str], ...] = ()
    """(``schema.partition``, name of the partition's index), on a partitioned table."""
    oids: tuple[int, ...] = ()
    """Its own, and those of its partitions' indexes: what is built anew has another one."""
    references: tuple[str, ...] = ()
    """The foreign keys, of whatever table, that rest on it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A constraint. `kind` is pg_constraint.contype: c, f, n, p, u, x. `definition` without the name."""

    name: str
    kind: str
    columns: tuple[str, ...]
    definition: str
    validated: bool = True
    deferrable: bool = False
    deferred: bool = False
    references: tuple[str, str] | None = None
    """Schema and name of the table that a foreign key points to."""
    referenced_types: tuple[str, ...] = ()
    """The types of the columns that it points to, in the order of `columns`."""
    inherited: bool = False
    comment: str | None = None
    needed_by: tuple[str, ...] = ()
    """What depends on the constraint itself: foreign keys on a key, views that group by it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """A trigger of the table's users (internal ones and ours are left out). `enabled` is tgenabled."""

    name: str
    enabled: str
    before: bool
    row: bool
    events: tuple[str, ...]
    update_of: tuple[str, ...] = ()
    definition: str = ""
    comment: str | None = None
    identity: str = ""
    """What `Dependent.identity` calls it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function whose text may be about the table: one of its triggers', or one that mentions its name.

    `identity` is what ``regprocedure`` prints, `columns` are the table's columns whose names are words of its text;
    `named` where the table's own name is one.
    """

    identity: str
    columns: tuple[str, ...]
    named: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """The sequence that belongs to a column: a serial one's, or an identity's (`internal`).

    `identity` is what ``regclass`` prints; `dependents` are others that draw numbers from it, partitions aside.
    """

    column: str
    schema: str
    name: str
    identity: str
    internal: bool
    start: int
    increment: int
    minimum: int
    maximum: int
    cache: int
    cycle: bool
    grants: tuple[Grant, ...] = ()
    comment: str | None = None
    dependents: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dependent:
    """Another object that depends on a column; `kind` is the server's name for it (view, policy, …)."""

    column: str
    kind: str
    identity: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Something whose definition names columns of the table: the same text, parsed again, means who has the names then.

    `identity` is what `Dependent.identity` calls it; `reads` are columns of other tables that it names
    (``schema.table.column``).
    """

    identity: str
    columns: tuple[str, ...]
    reads: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ViewColumn:
    """A column of a view; `collation` where it is not its type's."""

    name: str
    type: str
    collation: str | None = None
    comment: str | None = None
    grants: tuple[Grant, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class View(Bound):
    """A plain view. `definition` is its query.

    `peculiar` is what a view that is dropped and created again would lose; `given` are the roles (None: PUBLIC) to whom
    default privileges of the connected role give something on every new view.
    """

    schema: str
    name: str
    owner: str
    definition: str
    columns_shown: tuple[ViewColumn, ...]
    options: tuple[str, ...] = ()
    comment: str | None = None
    grants: tuple[Grant, ...] = ()
    given: tuple[str | None, ...] = ()
    owned: bool = True
    may_create: bool = True
    """Whether the connected role may create views in its schema."""
    may_give: bool = True
    """Whether it may make a new view the owner's."""
    reliant: tuple[str, ...] = ()
    """What depends on the view itself."""
    peculiar: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Policy(Bound):
    """A policy of the table."""

    name: str
    using: str | None = None
    check: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Routine(Bound):
    """A function or procedure whose body is parsed SQL. `head` is its definition without `body`."""

    schema: str
    name: str
    signature: str
    head: str
    body: str
    owned: bool = True
    may_create: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Statistics(Bound):
    """An extended statistics object of the table. `tail` is the definition after the name."""

    schema: str
    name: str
    owner: str
    tail: str
    target: int | None = None
    comment: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reliant:
    """Something that keeps a table from being dropped without CASCADE.

    `constraint` and `columns` say where a foreign key of another table is: (schema, table, name) and its columns there.
    """

    identity: str
    constraint: tuple[str, str, str] | None = None
    columns: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A relation that stores rows: the table itself, or a partition."""

    schema: str
    name: str
    parent_schema: str | None = None
    parent_name: str | None = None
    partitioned: bool = False
    foreign: bool = False
    replica_identity: str = "d"
    replica_index: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table as its planner sees it. `owned`: the connected role may alter it."""

    schema: str
    name: str
    oid: int
    kind: str
    owner: str
    owned: bool
    rows: int
    bytes: int
    columns: tuple[Column, ...]
    indexes: tuple[Index, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    partition_triggers: tuple[Trigger, ...] = ()
    """Those that partitions, or children, have by themselves."""
    functions: tuple[Function, ...] = ()
    dependents: tuple[Dependent, ...] = ()
    views: tuple[View, ...] = ()
    policies: tuple[Policy, ...] = ()
    routines: tuple[Routine, ...] = ()
    statistics: tuple[Statistics, ...] = ()
    partitions: tuple[Leaf, ...] = ()
    partition_columns: tuple[str, ...] = ()
    is_partition: bool = False
    inherits: bool = False
    """Whether it is part of an inheritance tree."""
    is_child: bool = False
    """Whether it inherits from another table."""
    children: tuple[Leaf, ...] = ()
    """What inherits from it, directly or not; of a partitioned table none."""
    may_create: bool = True
    """Whether the connected role may create indexes: that needs CREATE on the table's schema."""
    may_reference: bool = True
    """Whether the connected role may make foreign keys to the table."""
    rules: tuple[str, ...] = ()
    publications: tuple[str, ...] = ()
    grants: tuple[Grant, ...] = ()
    """To others than its owner."""
    row_security: bool = False
    hides_rows: bool = False
    """Whether its row-level security, or that of a partition or child, holds for the connected role too."""
    reliant: tuple[Reliant, ...] = ()
    sequences: tuple[Sequence, ...] = ()
    comment: str | None = None
    replica_identity: str = "d"
    """pg_class.relreplident: d, f, n, or i for the index that says `replica_identity`."""

    @property
    def partitioned(self) -> bool:
        """Whether rows live in partitions."""
        return self.kind == "p"

    @property
    def all_triggers(self) -> tuple[Trigger, ...]:
        """Whatever fires for writes into the table."""
        return (*self.triggers, *self.partition_triggers)

    def column(self, name: str) -> Column | None:
        """The column of that name."""
        return next((column for column in self.columns if column.name == name), None)

    def index(self, name: str) -> Index | None:
        """The index of that name."""
        return next((index for index in self.indexes if index.name == name), None)

    @property
    def column_names(self) -> frozenset[str]:
        """All names of columns."""
        return frozenset(column.name for column in self.columns)

    @property
    def relation_names(self) -> frozenset[str]:
        """Names that generated indexes and constraints must not collide with."""
        return frozenset(i.name for i in self.indexes) | frozenset(c.name for c in self.constraints)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExpressionFacts:
    """What the server said of an expression over a table's rows; `error` is its message where it refused it."""

    schema: str
    table: str
    expression: str
    type: str | None = None
    volatile: bool = False
    error: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TypeFacts:
    """How the server calls a type that a migration names; `error` is its message where it does not know it."""

    text: str
    canonical: str | None = None
    brings: tuple[str, ...] = ()
    error: str | None = None
    labels: tuple[str, ...] = ()
    """Those of an enum."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """DDL tried on an empty temporary copy of a table, which is rolled back; ``{table}`` stands for the copy.

    `definition` is the server's own text of the one index or constraint that was made, `columns` are the names that it
    gave to an index's columns (``lower`` for ``lower(email)``), `defaults` are those of all columns afterwards,
    `messages` what it said at debug1 (``rewriting table``, ``verifying table``), and `error` its message where it
    refused. `answer` is what the last of several statements returned, where it is a query for one text.
    """

    schema: str
    table: str
    statement: str
    definition: str | None = None
    columns: tuple[str, ...] = ()
    defaults: tuple[tuple[str, str], ...] = ()
    messages: tuple[str, ...] = ()
    answer: str | None = None
    error: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a change must know of the server before it can plan: an expression over a table, a trial, a type, a table.

    With neither expression nor trial nor type it asks for the table itself. `given` are the statements by which the
    migration makes the table: they are executed first, and rolled back.
    """

    schema: str = ""
    table: str = ""
    expression: str | None = None
    trial: str | None = None
    type: str | None = None
    given: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """The table that statements would make, as the catalog would have it; `error` is the server's message instead."""

    schema: str
    table: str
    statements: tuple[str, ...]
    made: Table | None = None
    error: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ColumnStorage:
    """A column as its relation's rows hold it. `width` (bytes, of a value that is not NULL), `null_share` and
    `correlation` are None where ANALYZE has not seen it; `length` is None for a type of variable length."""

    name: str
    align: int
    length: int | None
    width: int | None = None
    null_share: float | None = None
    correlation: float | None = None
    toastable: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IndexStorage:
    """An index of a relation. `columns` are those that it mentions; the first is what its entries are sorted by."""

    name: str
    columns: tuple[str, ...]
    pages: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """What statistics say of a relation with rows: the table of that name, or one of its partitions (`relation`).

    `rows` is None where nobody has ever analyzed or vacuumed it, else as of then, when it had `counted_pages`; `pages`
    are those it has now. For forecasts: no plan depends on it.
    """

    schema: str
    table: str
    relation: str
    pages: int
    rows: float | None = None
    counted_pages: int = 0
    dead_rows: int = 0
    fillfactor: int = 100
    toast_bytes: int = 0
    unlogged: bool = False
    full_identity: bool = False
    locks_rows: bool = False
    """Whether it has a BEFORE UPDATE row trigger: each row is then locked before it is updated."""
    columns: tuple[ColumnStorage, ...] = ()
    indexes: tuple[IndexStorage, ...] = ()

    def column(self, name: str) -> ColumnStorage | None:
        """The column of that name."""
        return next((column for column in self.columns if column.name == name), None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """The server's settings on which the amount of WAL depends. `checkpoint_bytes` and `checkpoint_seconds` are those
    between two checkpoints at the most; `standbys` and `feedback` are None where the role may not see them."""

    block_size: int = 8192
    logical: bool = False
    full_page_writes: bool = True
    compression: bool = False
    checkpoint_bytes: int = 512 << 20
    checkpoint_seconds: int = 300
    standbys: int | None = None
    feedback: bool | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The part of a database that a plan is made for."""

    server_version: int
    role: str
    may_suppress_triggers: bool
    tables: tuple[Table, ...]
    control_schema: str = "zdmigrate"
    expressions: tuple[ExpressionFacts, ...] = ()
    types: tuple[TypeFacts, ...] = ()
    trials: tuple[Trial, ...] = ()
    creations: tuple[Creation, ...] = ()
    asked: tuple[tuple[str, str], ...] = ()
    """The tables that were looked for, found or not."""
    storage: tuple[Storage, ...] = ()
    server: ServerFacts | None = None
    """Both only where `zdmigrate.postgres.statistics.sized` was asked; not in files of an older zdmigrate."""

    @property
    def major(self) -> int:
        """The server's major version."""
        return self.server_version // 10000

    def table(self, schema: str, name: str) -> Table | None:
        """The table of that name."""
        return next((t for t in self.tables if (t.schema, t.name) == (schema, name)), None)
