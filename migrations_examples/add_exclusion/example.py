"""Facts for the tests and for `zdmigrate demo --example add_exclusion`."""

from sqlalchemy.dialects.postgresql import Range

OVERRIDES = {"exclusion_scan": "the application waits that long"}
VALUES = {"Booking.seats": lambda _, number: Range(number * 4, number * 4 + 3)}
