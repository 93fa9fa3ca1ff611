"""What a job tells its node's agent: who is to hear the checkpoint signal, and that a checkpoint is on disk."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from slurmext.checkpoint import agent

TIMEOUT_S, URGENT_S = 2.0, 10.0
"""How long to go on asking a crowded agent: a job that is to leave gets its whole grace if this fails."""
PAUSE_S = 60.0
_silent_until_s = 0.0
_said_out_of_sight = False


def confirm(*, step: int, path: str, size_bytes: int, on_signal: bool, cost: Mapping[str, float] | None = None) -> bool:
    """True when the agent took it. Never raises and never takes long: without an agent the job gets its full grace."""
    global _silent_until_s  # noqa: PLW0603 - one agent per process
    place, now = agent.known(), time.monotonic()
    if place is None or (now < _silent_until_s and not on_signal):
        return False
    request = {"op": "ckpt_confirm", "job_id": place[1], "step": step, "path": path, "size_bytes": size_bytes,
               "saved_at_s": time.time(), "on_signal": on_signal, **({"cost": dict(cost)} if cost else {})}  # fmt: skip
    try:
        # An agent that starts anew is waited for; a container without its directory waits for nothing.
        insist = on_signal and not agent.out_of_sight(place[0])
        reply, _ = agent.ask(place[0], request, patience_s=URGENT_S if on_signal else TIMEOUT_S, insist=insist)
        if reply.get("ok") is True:
            return True
        problem = reply.get("error", reply)
    except (OSError, ValueError) as error:
        problem = error
    _silent_until_s = now + PAUSE_S
    sys.stderr.write(
        f"slurmext.checkpoint: step {step} is saved, but the agent at {place[0]} did not take note: {problem}\n"
    )
    return False


def announce(signal_name: str, *, leads: bool = True) -> bool:
    """Have the agent send this process the checkpoint signal (`USR1`), for Slurm's own may not reach it.

    What Slurm sends to a batch script goes to the script's process group: not to what has a session of its own, like
    the workers of torchrun. Said again now and then, for the agent may have been restarted. Never raises. The process
    that `leads` says once in the job's output when the agent is out of its sight.
    """
    global _said_out_of_sight  # noqa: PLW0603 - one agent per process
    place = agent.known()
    if place is None:
        return False
    if agent.out_of_sight(place[0]):
        if leads and not _said_out_of_sight:
            _said_out_of_sight = True
            folder = Path(place[0]).parent
            sys.stderr.write(
                f"slurmext.checkpoint: the node's agent cannot be seen from here, there is no {folder}: mount that "
                "into the container; without it the job keeps its GPUs until its grace is over, saved or not\n"
            )
        return False
    try:
        reply, _ = agent.ask(
            place[0], {"op": "ckpt_listen", "job_id": place[1], "signal": signal_name}, patience_s=URGENT_S
        )
    except (OSError, ValueError):
        return False  # it still hears what Slurm sends
    return reply.get("ok") is True
