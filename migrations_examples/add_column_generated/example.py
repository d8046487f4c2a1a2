"""What the harness and the demo need to know."""

UP = {"User.initial": lambda row: row["name"][:1].upper()}
