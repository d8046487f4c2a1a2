"""The environment's policy. It lives in the database, where no local file can weaken it."""

from __future__ import annotations

import dataclasses
import enum
from datetime import timedelta


class Environment(enum.StrEnum):
    """What a database is for; `production` is meant when nothing was said."""

    PRODUCTION = "production"
    DEVELOPMENT = "development"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long phases must have soaked, whether version N must be proven gone, and whether a phase needs evidence."""

    environment: Environment
    soak: timedelta
    retire_soak: timedelta
    drained: bool
    evidence: bool = False


POLICIES = {
    Environment.PRODUCTION: Policy(
        environment=Environment.PRODUCTION, soak=timedelta(hours=72), retire_soak=timedelta(hours=24), drained=True
    ),
    Environment.DEVELOPMENT: Policy(
        environment=Environment.DEVELOPMENT, soak=timedelta(0), retire_soak=timedelta(0), drained=False
    ),
}


def to_meta(policy: Policy) -> dict[str, str]:
    """The policy as rows of the `meta` table; durations in seconds."""
    return {
        "environment": policy.environment.value,
        "policy.soak": str(policy.soak.total_seconds()),
        "policy.retire_soak": str(policy.retire_soak.total_seconds()),
        "policy.drained": str(policy.drained).lower(),
        "policy.evidence": str(policy.evidence).lower(),
    }


def from_meta(meta: dict[str, str]) -> Policy:
    """The policy that the `meta` table holds."""
    return Policy(
        environment=Environment(meta["environment"]),
        soak=timedelta(seconds=float(meta["policy.soak"])),
        retire_soak=timedelta(seconds=float(meta["policy.retire_soak"])),
        drained=meta["policy.drained"] == "true",
        evidence=meta.get("policy.evidence") == "true",  # databases that were made before it have none
    )
