"""To this release's schema: as ``optuna storage upgrade`` does it."""

import os

from optuna.storages import RDBStorage

RDBStorage(os.environ["DATABASE_URL"], skip_compatibility_check=True).upgrade()
