"""The option table: one row per extended sbatch option, and the rule its value must follow.

Everything that knows an option is generated from here (`python -m slurmext.options generate`): the C header of the
SPANK plugin, the table of job_submit.lua, man page, shell completion, reference page and the keyword arguments of the
Python helper. `python -m slurmext.options generate --check` fails when one of them is stale.

The value rules exist three times, in Python here, in C (`spank/rules.h`) and in Lua
(`spank/lua/values.lua`), because a value is checked where the user types it and again where it is trusted.
Every row therefore carries good and bad values, and the tests hold all three to the same verdict.
"""

from __future__ import annotations

import re

from slurmext.options.checkpoints import AUTO_CHECKPOINT
from slurmext.options.row import LARGEST_MEMORY_MIB, SIGNALS, Argument, Kind, Option
from slurmext.options.rules import check, is_set, is_valid, memory_mib, percent
from slurmext.options.table import BY_NAME, OPTIONS

PREFIX_RE = re.compile(r"(?:[a-z][a-z0-9-]{0,30})?")

__all__ = [
    "AUTO_CHECKPOINT",
    "BY_NAME",
    "LARGEST_MEMORY_MIB",
    "OPTIONS",
    "PREFIX_RE",
    "SIGNALS",
    "Argument",
    "Kind",
    "Option",
    "check",
    "is_set",
    "is_valid",
    "memory_mib",
    "percent",
]
