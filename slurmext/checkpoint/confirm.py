"""Tells the node's agent that a checkpoint is on disk, so that a preempted job is requeued at once."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Mapping

TIMEOUT_S = 2.0
PAUSE_S = 60.0
_silent_until_s = 0.0


def confirm(*, step: int, path: str, size_bytes: int, on_signal: bool, cost: Mapping[str, float] | None = None) -> bool:
    """True when the agent took it. Never raises and never takes long: without an agent the job gets its full grace."""
    global _silent_until_s  # noqa: PLW0603 - one agent per process
    address, job_id = os.environ.get("SLURMEXT_AGENT_SOCKET"), os.environ.get("SLURM_JOB_ID", "")
    now = time.monotonic()
    if not address or not job_id.isdecimal() or (now < _silent_until_s and not on_signal):
        return False
    request = {"op": "ckpt_confirm", "job_id": int(job_id), "step": step, "path": path, "size_bytes": size_bytes,
               "saved_at_s": time.time(), "on_signal": on_signal, **({"cost": dict(cost)} if cost else {})}  # fmt: skip
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(address)
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n") and len(answer) < 65536 and time.monotonic() < now + 2 * TIMEOUT_S:  # noqa: PLR2004
                chunk = connection.recv(4096)
                if not chunk:
                    break
                answer += chunk
        reply = json.loads(answer)
        if reply.get("ok") is True:
            return True
        problem = reply.get("error", answer[:100])
    except (OSError, ValueError, AttributeError) as error:
        problem = error
    _silent_until_s = now + PAUSE_S
    sys.stderr.write(
        f"slurmext.checkpoint: step {step} is saved, but the agent at {address} did not take note: {problem}\n"
    )
    return False
