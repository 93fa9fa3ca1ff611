"""A plan is data: named buckets of frozen actions, and one dominant reason for every job that stays pending."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from slurmext.model.job import Placement, Seconds
from slurmext.model.snapshot import Fence


class Reason(StrEnum):
    """Why a job stays pending, or why it must leave. The value is the stable code users see."""

    # pending
    QUEUE_MAX = "QUEUE_MAX"
    USER_MAX = "USER_MAX"
    OVER_GUARANTEE = "OVER_GUARANTEE"
    LENDING_LIMIT = "LENDING_LIMIT"
    QUEUE_FENCE = "QUEUE_FENCE"
    NO_NODE_FITS = "NO_NODE_FITS"
    NO_FREE_GPUS = "NO_FREE_GPUS"
    FRAGMENTED = "FRAGMENTED"
    BEHIND_IN_QUEUE = "BEHIND_IN_QUEUE"
    RECLAIMING = "RECLAIMING"
    PREEMPTING = "PREEMPTING"
    CONSOLIDATING = "CONSOLIDATING"
    WAITING_NEAR_END = "WAITING_NEAR_END"
    NOT_ELIGIBLE = "NOT_ELIGIBLE"
    GROUP_MAX = "GROUP_MAX"
    HEADROOM = "HEADROOM"
    PRE_DRAIN = "PRE_DRAIN"
    ARRAY_MAX = "ARRAY_MAX"
    SLURM_LIMIT = "SLURM_LIMIT"
    UNKNOWN_QUEUE = "UNKNOWN_QUEUE"
    UNKNOWN_STATE = "UNKNOWN_STATE"
    SLICE_UNKNOWN = "SLICE_UNKNOWN"
    SLICE_AMBIGUOUS = "SLICE_AMBIGUOUS"
    SLICE_TOO_LARGE = "SLICE_TOO_LARGE"
    SLICE_FULL = "SLICE_FULL"
    SLICE_FRAGMENTED = "SLICE_FRAGMENTED"
    SLICE_HELD = "SLICE_HELD"
    SLICE_TAKING_GPU = "SLICE_TAKING_GPU"
    SLICE_POOL = "SLICE_POOL"
    SLICE_NODE = "SLICE_NODE"
    SLICE_MISSED = "SLICE_MISSED"
    # leaving
    RECLAIM_GUARANTEE = "RECLAIM_GUARANTEE"
    PREEMPT_PRIORITY = "PREEMPT_PRIORITY"
    CONSOLIDATE = "CONSOLIDATE"
    QUOTA_CUT = "QUOTA_CUT"
    QUEUE_REMOVED = "QUEUE_REMOVED"
    IDLE_GPUS = "IDLE_GPUS"
    DEFRAGMENT = "DEFRAGMENT"


class QueueUsage(StrEnum):
    """Whether a release uses what is the queue's own or what it borrows."""

    GUARANTEED = "guaranteed"
    BORROWED = "borrowed"


class EvictAction(StrEnum):
    """How a victim leaves."""

    REQUEUE = "requeue"
    CANCEL = "cancel"
    SHRINK = "shrink"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Let a pending job start on `placement`."""

    job: str
    placement: Placement
    queue_usage: QueueUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class Evict:
    """Take `tasks` tasks of a running job away for `beneficiary`. `lost_gpu_s` is work lost since its checkpoint.

    A quota cut, a removed queue and idle GPUs have no beneficiary: it is empty, and so is `to_queue`.
    """

    job: str
    action: EvictAction
    beneficiary: str
    reason: Reason
    tasks: int
    lost_gpu_s: Seconds
    from_queue: str
    to_queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Checkpoint-requeue a job from one place to another so that `beneficiary` fits."""

    job: str
    source: Placement
    target: Placement
    beneficiary: str
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Tell a running job's owner what will happen to it at `at_s` and why. Nothing is done to the job."""

    job: str
    reason: Reason
    at_s: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do now. A victim never also appears in `release`; `reasons` has every job still pending, once."""

    version: Literal[1] = 1
    release: tuple[Release, ...] = ()
    evict: tuple[Evict, ...] = ()
    move: tuple[Move, ...] = ()
    fence: tuple[Fence, ...] = ()
    note: tuple[Note, ...] = ()
    reasons: Mapping[str, Reason] = field(default_factory=dict[str, Reason])
