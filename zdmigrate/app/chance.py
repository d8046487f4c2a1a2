"""Random numbers that leave the application's own sequence alone: whoever seeds `random` wants to see it again."""

from __future__ import annotations

import os
import random

CHANCE = random.Random()
os.register_at_fork(after_in_child=CHANCE.seed)  # children that were forked together must not come together
