"""When a process that Slurm told to end may do so."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from slurmext.checkpoint import deadline
from slurmext.checkpoint.board import GONE, Board

TERM_AFTER_SAVE_S = 60.0
"""A TERM so soon after a save is about the same end."""
_LINGER_S = 120.0
_SOON_S = 2.0


def until_free(
    *, leads: bool, board: Board | None, superseded: Callable[[], bool], expected: Callable[[], bool]
) -> None:
    """Wait for as long as Slurm takes the job for a running one.

    A job that leaves within the grace of a preemption counts as completed on some releases and never comes back; one
    that waits for the KILL is requeued. Rank 0 (`leads`) asks Slurm, the others watch the board. Where Slurm cannot be
    asked, as in a container, a TERM soon after a confirmed checkpoint (`expected`) is that of slurmextd's requeue. What
    Slurm says may be of the next run: not every Slurm waits for all processes of the one before (`superseded`).
    """
    deadline_s = time.monotonic() + _LINGER_S
    while "SLURM_JOB_ID" in os.environ and time.monotonic() < deadline_s:
        if leads:
            if superseded():
                break
            awaited = expected()
            found = deadline.ask_slurm(timeout_s=_SOON_S if awaited else deadline.ASK_S)
            if found[0] != deadline.RUNNING if found is not None else awaited:
                break
        elif board is not None and board.decided()[0] >= GONE:
            break
        time.sleep(2.0 if leads else 0.2)
