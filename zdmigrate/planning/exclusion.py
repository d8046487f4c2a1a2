"""EXCLUDE constraints that a migration adds.

There is no way to build one while others write (manual, ALTER TABLE: the table is locked with ACCESS EXCLUSIVE while its index is
built). So the table must be new or tiny, or somebody accepts that it stands still.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from zdmigrate.errors import Unsafe, UsageError
from zdmigrate.hazards import Hazard
from zdmigrate.plan import Gate, Mode, Step
from zdmigrate.planning import probes
from zdmigrate.planning.constraints import Addition, NewConstraint, on_copy
from zdmigrate.planning.draft import TableDraft
from zdmigrate.planning.parts import TINY_BYTES, TINY_ROWS, Scope, is_tiny
from zdmigrate.sqltext import ident, literal

_OPERATOR = re.compile(r"[-+*/<>=~!@#%^&|`?]{1,63}")

_FEW = 10_000
"""Up to so many rows, each is compared with each to name those that conflict."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exclusion(NewConstraint):
    """EXCLUDE USING method (element WITH operator, …) WHERE (predicate).

    An element is a column's name, or an expression in parentheses.
    """

    method: str
    elements: tuple[tuple[str, str], ...]
    where: str | None = None

    kind = "x"
    label = "excl"

    def __post_init__(self) -> None:
        for _, operator in self.elements:
            if not _OPERATOR.fullmatch(operator):
                raise UsageError(f"AddExclusion: {operator!r} is not an operator")
        named = [element for element, _ in self.elements if not _is_expression(element)]
        if self.name is None and len(set(named)) < len(self.elements):
            raise UsageError("AddExclusion: with an expression, or the same column twice, it needs a name: name=")

    @property
    def clause(self) -> str:
        listed = ", ".join(f"{_element(element)} WITH {operator}" for element, operator in self.elements)
        where = "" if self.where is None else f" WHERE ({self.where})"
        return f"EXCLUDE USING {ident(self.method)} ({listed}){where}"

    def columns(self, table: TableDraft) -> tuple[str, ...]:
        found = [table.column(element).name for element, _ in self.elements if not _is_expression(element)]
        texts = [element for element, _ in self.elements if _is_expression(element)]
        for text in (*texts, *(() if self.where is None else (self.where,))):
            found += sorted(table.named_in(text))
        return tuple(dict.fromkeys(found))

    def definition(self, scope: Scope, table: TableDraft) -> str | None:
        statement = on_copy(table, f"ALTER TABLE {{table}} ADD CONSTRAINT zd_trial_excl {self.clause}")
        try:
            return scope.trial(table.live, statement).definition
        except Unsafe as error:
            if "operator class" in error.message:
                raise Unsafe(
                    error.message, hint="for plain types the extension btree_gist has them: CREATE EXTENSION btree_gist"
                ) from error
            raise

    def _named_after(self, columns: tuple[str, ...]) -> str:
        return "_".join(element for element, _ in self.elements)

    def _refuse(self, addition: Addition) -> None:
        if addition.live.partitioned:
            raise Unsafe(
                f"{addition.table.shown} is partitioned: an exclusion constraint would be built on all partitions at once, "
                "while nobody reads or writes",
                hint="add it to each partition by hand, in a quiet moment",
            )

    def _steps(self, addition: Addition) -> Iterator[Step]:
        yield Step(
            id=addition.scope.step_id(addition.phase, f"add.{addition.name}"),
            title=f"add {addition.name}, and build its index while nobody reads or writes",
            phase=addition.phase,
            mode=Mode.AUTOCOMMIT,  # of one statement: a transaction of ours would be cancelled where it takes long
            probe=probes.constraint_as(addition.live, addition.name, addition.definition),
            do=(addition.add(self.clause),),
            undo=(addition.drop,),
            locks=self._locks(addition),
            undo_locks=self._locks(addition),
            scans=True,
            refused_by=self._violations(addition),
        )

    def _hazards(self, addition: Addition) -> Iterator[Hazard]:
        if not addition.table.fresh and not is_tiny(addition.live):
            yield Hazard(
                id="L11", phase=addition.phase, message=self._said(addition), remedy=_REMEDY, accept="exclusion_scan"
            )

    def _gates(self, addition: Addition) -> Iterator[Gate]:
        if addition.table.fresh:
            return
        target = ident(addition.live.schema, addition.live.name)
        # Counted, because statistics may be old; no further than it matters.
        large = (
            f"SELECT {literal(addition.table.shown)} WHERE pg_total_relation_size({literal(target)}) > {TINY_BYTES} "
            f"OR (SELECT count(*) FROM (SELECT FROM {target} LIMIT {TINY_ROWS + 1}) r) > {TINY_ROWS}"
        )
        detail = f"{self._said(addition)}; {_REMEDY}"
        yield Gate(name="exclusion_scan", phase=addition.phase, detail=detail, exit_code=6, query=large)

    def _said(self, addition: Addition) -> str:
        live = addition.live
        return (
            f"{addition.table.shown} has about {live.rows} rows ({live.bytes >> 10} kB with its indexes), which nobody reads or "
            f"writes while the index of {addition.name} is built"
        )

    def _violations(self, addition: Addition) -> str | None:
        """Pairs of rows that conflict, where finding them takes no longer than building the index."""
        if addition.live.rows > _FEW and all(operator != "=" for _, operator in self.elements):
            return None
        values = ", ".join(f"{_element(element)} AS e{n}" for n, (element, _) in enumerate(self.elements))
        meet = " AND ".join(f"a.e{n} {operator} b.e{n}" for n, (_, operator) in enumerate(self.elements))
        where = "" if self.where is None else f" WHERE ({self.where})"
        target, shown = ident(addition.live.schema, addition.live.name), literal(addition.table.shown)
        return (
            f"WITH r AS (SELECT ctid AS at, {values} FROM {target}{where}) "
            f"SELECT format('rows %s and %s of %s conflict by %s', a.at, b.at, {shown}, {literal(addition.name)}) "
            f"FROM r a JOIN r b ON a.at < b.at AND {meet} LIMIT 5"
        )


_REMEDY = 'do it in a quiet moment and accept it: --override exclusion_scan="reason"; or fill a new table that has it'


def _is_expression(element: str) -> bool:
    return element.startswith("(") and element.endswith(")")


def _element(element: str) -> str:
    return element if _is_expression(element) else ident(element)
