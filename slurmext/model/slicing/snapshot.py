"""Everything the slice planner may look at, the policy's knobs among it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from slurmext.model.job import Job, Seconds
from slurmext.model.queue import Queue
from slurmext.model.slicing.cards import GpuUse, SlicedGpu, SliceNode
from slurmext.model.slicing.jobs import SliceDemand, SliceJob
from slurmext.model.slicing.plan import HoldPlaces, TakeGpu


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicePool:
    """How many GPUs of a type (None: of every type not listed) may be in sliced use now, as policy and calendar say.

    `minimum` are taken as they become idle and kept although nobody wants slices; `maximum` None: no limit.
    `use` is what GPUs that nobody asked for yet are made ready for.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    gpu_type: str | None = None
    minimum: int = 0
    maximum: int | None = None
    use: GpuUse = GpuUse.MIG


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceSettings:
    """Knobs of slice planning. A request older than `hold_after_s` has places held for it; a GPU goes back to whole
    use after `empty_for_s` without a job, at once if a whole-GPU job waits for it and it was taken `keep_for_s` ago.
    A job is moved when what is gained, for `worth_s` seconds, is more than what the move costs; at most `most_moves`.
    `prefer` decides a need that both kinds could meet equally well. The others as in Settings.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    pools: tuple[SlicePool, ...] = ()
    hold_after_s: Seconds = 300
    empty_for_s: Seconds = 600
    keep_for_s: Seconds = 120
    defragment: bool = True
    worth_s: Seconds = 3600
    move_cost_s: Seconds = 60
    most_moves: int = 4
    prefer: GpuUse = GpuUse.MIG
    preemption_budget: int | None = None
    near_end_s: Seconds = 0
    past_factor: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceSnapshot:
    """Everything `plan_slices()` may look at.

    `whole` are the whole-GPU jobs: they use the same quotas; `beside` is what those that run have on each node besides
    GPUs (CPUs, MiB). `wanted_gpus` is how many GPUs of each type ("": of any) they wait for because none is free,
    `owed` are those of them for whom nothing else is being done. `idle_gpus` of the nodes are those left after
    whole-GPU jobs were planned.
    `taking` are takes under way that no GPU shows yet; `holds` are the last plan's: who has one comes before others.
    `mix` is what came lately (empty: the jobs at hand): what is left free is judged by what it could take of that.
    `past_gpus` is as in Snapshot. A GPU that is not listed, or whose `use` is UNKNOWN, is not planned on.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    version: Literal[1] = 1
    now_s: Seconds = 0
    settings: SliceSettings = SliceSettings()
    nodes: tuple[SliceNode, ...] = ()
    gpus: tuple[SlicedGpu, ...] = ()
    queues: tuple[Queue, ...] = ()
    jobs: tuple[SliceJob, ...] = ()
    whole: tuple[Job, ...] = ()
    beside: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, "tuple[int, int]"])
    wanted_gpus: Mapping[str, int] = field(default_factory=dict[str, int])
    owed: tuple[str, ...] = ()
    taking: tuple[TakeGpu, ...] = ()
    holds: tuple[HoldPlaces, ...] = ()
    mix: tuple[SliceDemand, ...] = ()
    past_gpus: Mapping[str, float] = field(default_factory=dict[str, float])
