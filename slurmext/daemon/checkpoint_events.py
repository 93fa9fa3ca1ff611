"""What agents say of checkpoints, for the store. What comes from a job's owner is bounded and never a path to open."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from slurmext.adapters.tcp.wire import AgentEvent
from slurmext.model.state import CheckpointRecord
from slurmext.model.upkeep import CheckpointCopy, CheckpointCost
from slurmext.ports import Store

COPY = "ckpt_copy"
_TIERS = frozenset({"memory", "peer", "directory"})
_NOWHERE = "-"
"""In place of a node: the checkpoint directory belongs to none."""
_COST = ("stall_s", "write_s", "cost_s", "every_s", "mtbf_s")


def store_copy(store: Store, event: AgentEvent) -> None:
    """A copy of a checkpoint has grown, is whole, or is gone. It goes by the job's SLURM_JOB_ID."""
    tier, name = event.detail.get("tier"), event.detail.get("name")
    size, done = event.detail.get("size_bytes"), event.detail.get("done_bytes")
    if event.job_id is None or tier not in _TIERS or not isinstance(name, str):
        return
    if isinstance(size, int) and isinstance(done, int) and 0 <= done <= size:
        store.record_copy(
            CheckpointCopy(
                job_id=event.job_id,
                node=_NOWHERE if tier == "directory" else event.node,
                name=name[:255],
                tier=str(tier),
                size_bytes=size,
                done_bytes=done,
                at_s=event.at_s,
            )
        )


def checkpoint_of(event: AgentEvent, job_id: str) -> CheckpointRecord:
    """A checkpoint that a job confirmed."""
    detail = event.detail
    step, size, saved = detail.get("step"), detail.get("size_bytes"), detail.get("saved_at_s")
    return CheckpointRecord(
        job_id=job_id,
        step=step if isinstance(step, int) else None,
        path=str(detail.get("path", ""))[:4096],
        size_bytes=size if isinstance(size, int) else None,
        # a job's own clock or claim never puts its checkpoint into the future
        saved_s=min(float(saved) + event.behind_s, event.at_s) if isinstance(saved, int | float) else event.at_s,
        confirmed_s=event.at_s,
        node=event.node,
    )


def cost_of(event: AgentEvent, job_id: str) -> CheckpointCost | None:
    """What the job says that saving costs it; None where it does not say."""
    told: Mapping[str, Any] = event.detail.get("cost") or {}
    seconds = {name: told.get(name) for name in _COST}
    counts = {name: told.get(name) for name in ("saves", "nodes")}
    size = event.detail.get("size_bytes")
    if not all(isinstance(value, int | float) and math.isfinite(value) and value >= 0 for value in seconds.values()):
        return None
    if not all(isinstance(value, int) and 0 <= value < 1 << 31 for value in counts.values()):
        return None
    return CheckpointCost(
        job_id=job_id,
        at_s=event.at_s,
        size_bytes=size if isinstance(size, int) else 0,
        saves=int(counts["saves"] or 0),
        nodes=int(counts["nodes"] or 0),
        **{name: float(value or 0) for name, value in seconds.items()},
    )
