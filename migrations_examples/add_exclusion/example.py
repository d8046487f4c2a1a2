"""What the harness and the demo need to know."""

from sqlalchemy.dialects.postgresql import Range


def _free(rng: object, _: int) -> Range[int]:
    """Far from all others: the number is given once."""
    start = 1_000_000 + 10 * rng.getrandbits(50)  # type: ignore[attr-defined]
    return Range(start, start + 5)


VALUES = {"Booking.during": _free}
