"""What the harness and the demo need to know."""

OVERRIDES = {"view_limits": "neither version copies into it or truncates it"}
