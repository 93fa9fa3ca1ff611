"""What a job's --ckpt asks of the daemon: which signal, how long to wait after it, when before the time limit. Pure."""

from __future__ import annotations

import re

from slurmext.model.cluster import JobRecord
from slurmext.model.job import JobState

CHAIN = ",chain"
"""Ends a --ckpt whose job shall be checkpointed and requeued before its time limit ends."""
SLACK_S = 45.0
"""Slurm looks at time limits every 30 s, and a cycle and a requeue take their time."""
MOST_OF_RUN = 0.5
"""A short limit is not all grace."""
_CKPT = re.compile(r"^(?:SIG)?(?P<signal>[A-Z][A-Z0-9+\-]*)@(?P<seconds>\d+)$")
_AUTO_SIGNAL = "USR1"


def checkpoint_signal(ckpt: str | None, grace_s: float) -> tuple[str, float] | None:
    """(signal, longest wait in seconds) of a --ckpt value; None for a job that knows no checkpoint signal.

    `auto` and `transparent` wait the policy's grace; `USR1@30` at most 30 s of it. `,chain` may follow.
    """
    if ckpt is None:
        return None
    found = _CKPT.match(ckpt.removesuffix(CHAIN))
    if found is None:
        return _AUTO_SIGNAL, grace_s
    return found["signal"], min(float(found["seconds"]), grace_s)


def due_s(record: JobRecord, grace_s: float) -> float | None:
    """When a running job is to be told to save for its limit; None for one that is not in a chain."""
    note = record.annotation
    ckpt = note.ckpt if note else None
    if ckpt is None or not ckpt.endswith(CHAIN) or record.state is not JobState.RUNNING:
        return None
    if not (record.batch and record.requeue) or not record.start_s or not record.time_limit_s:
        return None
    warn = checkpoint_signal(ckpt, grace_s)
    wait_s = (warn[1] if warn else grace_s) + SLACK_S
    end_s = record.end_s or record.start_s + record.time_limit_s
    return end_s - min(wait_s, MOST_OF_RUN * record.time_limit_s)
