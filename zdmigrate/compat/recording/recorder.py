"""What was seen of every statement; only what is new is written. Seen ones cost a look-up and a walk up the stack."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from zdmigrate.compat.normalising.normalise import Constant, Normalised, normalised
from zdmigrate.compat.normalising.selection import temporary_tables
from zdmigrate.compat.recording.lines import Lines
from zdmigrate.compat.recording.places import Found, Place, Places

__all__ = ["Recorder", "Sent", "Slot"]

KNOWN = 20_000
"""So many texts are remembered. More of them are made of values, and each is seen only once."""
SAMPLES = 3
LONGEST_SAMPLE = 1_000

Measure = Callable[[Any], int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A parameter as the driver sends it: its type's name in pg_type, and how long a value is (None: it has no length)."""

    type: str = "unknown"
    measure: Measure | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What a driver says of a statement when it is new.

    `bound`: the driver puts values into the text itself. `text` gives a value as the server reads it.
    """

    sql: str
    slots: Sequence[Slot] = ()
    prepared: bool = True
    bound: bool = False
    text: Callable[[int, Any], str | None] | None = None


class Recorder:
    """One for a process, whatever the number of drivers."""

    def __init__(self, lines: Lines) -> None:
        settings = lines.settings()
        self._lines = lines
        self._places = Places(settings["root"])
        self._literals = bool(settings.get("literals"))
        self._known: dict[Hashable, _Seen] = {}

    def sent(self, key: Hashable, values: Sequence[Any], describe: Callable[[], Sent]) -> None:
        """A statement is sent; `describe` is asked when `key` is new. Raises nothing."""
        try:
            seen = self._known.get(key)
            if seen is None:
                seen = self._remember(key, describe())
            if seen.nothing:
                return
            seen.found = self._places.current(seen.found)
            if seen.see(values):
                self._write(seen)
        except Exception as error:  # noqa: BLE001  # the application must not notice
            self.failed(error)

    def failed(self, error: BaseException) -> None:
        """Something of ours went wrong."""
        self._lines.failed("a statement was not recorded", error)

    def _remember(self, key: Hashable, sent: Sent) -> _Seen:
        if len(self._known) >= KNOWN:
            self._known.clear()
        for table in temporary_tables(sent.sql):
            self._lines.temporary(table)
        found = _Seen(sent, normalised(sent.sql, bound=sent.bound), literals=self._literals)
        self._known[key] = found
        return found

    def _write(self, seen: _Seen) -> None:
        place = seen.new_place
        for statement in seen.statements:
            line = seen.described(statement)
            if place is not None:
                line["place"] = self._places.text(place)
            self._lines.statement(line)


class _Seen:
    """What this process has seen of one text."""

    __slots__ = (
        "_literals", "_longest", "_measures", "_nulls", "_places", "_samples", "_sent", "found", "new_place",
        "nothing", "statements",
    )  # fmt: skip

    def __init__(self, sent: Sent, statements: list[Normalised], *, literals: bool) -> None:
        self._sent = sent
        self._literals = literals
        self._measures = [slot.measure for slot in sent.slots]
        self._longest = [-1] * len(sent.slots)
        self._nulls = [False] * len(sent.slots)
        self._samples: list[set[str]] = [set() for _ in sent.slots] if literals else []
        self._places: set[Place | None] = set()
        self.statements = statements
        self.nothing = not statements
        self.found: Found | None = None
        self.new_place: Place | None = None

    def see(self, values: Sequence[Any]) -> bool:
        """Whether anything of an execution at the place that was `found` is new."""
        place = None if self.found is None else self.found.place
        new = place not in self._places
        self.new_place = place if new else None
        self._places.add(place)
        longest, nulls, measures = self._longest, self._nulls, self._measures
        for number, value in enumerate(values):
            if value is None:
                if not nulls[number]:
                    nulls[number] = new = True
                continue
            measure = measures[number]
            length = 0 if measure is None else measure(value)
            if length > longest[number]:
                longest[number] = length
                new = True
        return self._sampled(values) or new if self._literals else new

    def described(self, statement: Normalised) -> dict[str, Any]:
        """Everything that is known of one of the text's statements."""
        parameters = [self._parameter(sources) for sources in statement.sources]
        found: dict[str, Any] = {"sql": statement.sql}
        if parameters:
            found["parameters"] = parameters
        if statement.once or not self._sent.prepared:
            found["prepared"] = False
        return found

    def _parameter(self, sources: Sequence[int | Constant]) -> dict[str, Any]:
        """None says nothing of a type: what is only ever None has type unknown."""
        types: set[str] = set()
        samples: set[str] = set()
        null, longest = False, 0
        for source in sources:
            if isinstance(source, Constant):
                types.add("unknown")
                longest = max(longest, len(source.value))
                samples.add(source.value)
            elif source <= len(self._longest):
                number = source - 1
                null = null or self._nulls[number]
                longest = max(longest, self._longest[number])
                if self._longest[number] >= 0:
                    types.add(self._sent.slots[number].type)
                if self._literals:
                    samples |= self._samples[number]
        found: dict[str, Any] = {"types": sorted(types)}
        if null:
            found["null"] = True
        if longest:
            found["longest"] = longest
        if self._literals and samples:
            found["samples"] = sorted(each for each in samples if len(each) <= LONGEST_SAMPLE)[:SAMPLES]
        return found

    def _sampled(self, values: Sequence[Any]) -> bool:
        if self._sent.text is None:
            return False
        new = False
        for number, value in enumerate(values):
            text = None if value is None else self._sent.text(number, value)
            samples = self._samples[number]
            if text is None or text in samples or len(text) > LONGEST_SAMPLE:
                continue
            if len(samples) >= SAMPLES and text > max(samples):
                continue
            samples.add(text)
            samples.difference_update(sorted(samples)[SAMPLES:])
            new = True
        return new
