"""Everything zdmigrate raises on purpose.

::

    ZdmigrateError                  exit 1   failed
    ├── UsageError                  exit 2   a call or a migration file that is wrong in itself
    │   ├── ConfigError
    │   └── MigrationFileError
    ├── Waiting                     exit 4   a gate or a hold
    ├── Contended                   exit 5   somebody else holds a lock or the lease; throttled
    │   ├── LeaseHeld
    │   └── LockBudgetExceeded
    ├── Unsafe                      exit 6   conflict with the live catalog, incompatible
    ├── Drift                       exit 7   edited in flight, changed by hand, wrong environment
    ├── Irreversible                exit 8
    ├── LeaseLost                   exit 5   somebody took over while we worked
    ├── ConnectionLost              exit 1   the server went away while we worked
    └── ServerUnavailable           exit 1   no scratch server could be found or started

``exit_code`` lives on the class, as click does it. A message names the object; a hint is what to do next,
preferably a command.
"""

from __future__ import annotations


class ZdmigrateError(Exception):
    """Base of all errors; `hint` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.change: int | None = None
        """The position in its migration of the change that it is about, where it is about one."""


class UsageError(ZdmigrateError):
    """The call is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """The configuration file, an environment variable or an option is wrong."""


class MigrationFileError(UsageError):
    """A migration file is wrong in itself; the message starts with ``file:line``."""


class Progressed(ZdmigrateError):
    """Some work was done, the target is not reached yet: call again."""

    exit_code = 3


class Waiting(ZdmigrateError):
    """A gate is not satisfied, or the migration is on hold."""

    exit_code = 4


class Contended(ZdmigrateError):
    """Somebody is in the way right now; retrying may help."""

    exit_code = 5


class LeaseHeld(Contended):
    """Another process works on this migration."""


class LeaseLost(Contended):
    """Another process took the lease over while we worked; nothing of ours was committed afterwards."""


class LockBudgetExceeded(Contended):
    """A lock was not granted within the budget; the message names who holds it."""


class Unsafe(ZdmigrateError):
    """Refused: it does not fit the live catalog, or it would break a version that is alive."""

    exit_code = 6


class Drift(ZdmigrateError):
    """What is there is not what the stored plan says."""

    exit_code = 7


class Irreversible(ZdmigrateError):
    """What was dropped cannot come back, or may only be dropped when asked for by name."""

    exit_code = 8


class ConnectionLost(ZdmigrateError):
    """The server went away while we worked: it crashed, was stopped, or another one took its place."""


class ServerUnavailable(ZdmigrateError):
    """No scratch server could be found or started."""


_SEVERITY = (1, 2, 7, 6, 8, 5, 4, 3, 0)


def worst_exit_code(codes: list[int]) -> int:
    """The exit code of several results: the first of 1 > 2 > 7 > 6 > 8 > 5 > 4 > 3 > 0 that occurs."""
    return next((code for code in _SEVERITY if code in codes), 0)
