"""What the harness and the demo need to know."""

VALUES = {"User.country": lambda rng, _: rng.choice(["DE", "FR", "US"])}
NULLS = {"User.country": "??"}
