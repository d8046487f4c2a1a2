"""What is asked of the server: statements with values, made once where the version is at home, asked in every state."""

from __future__ import annotations

import dataclasses

__all__ = ["Probe"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A statement with ``$1`` for its values, asked in a transaction that is rolled back.

    `types` are those that the driver declares for the values, all unknown where empty. `subject` is what people call
    the probe, `place` where it was recorded. `warm`: drivers may keep it prepared.
    """

    subject: str
    sql: str
    values: tuple[str | None, ...] = ()
    types: tuple[str, ...] = ()
    place: str | None = None
    warm: bool = True
