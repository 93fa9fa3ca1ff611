"""The policy's `slices:` section: how many GPUs may be cut or shared, when, and what is done with them."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from slurmext.config.calendar import Window, cron
from slurmext.config.names import TypeName
from slurmext.model.slicing import GpuUse, SlicePool, SliceSettings

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

ANY_TYPE = "any"
"""The pool of every GPU type that has none of its own."""

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Gpus = Annotated[int, Field(ge=0, strict=True)]


class PoolUse(StrEnum):
    """What GPUs are made ready for that nobody asked for yet."""

    MIG = "mig"
    SHARED = "shared"


def _cron(value: str) -> str:
    cron(value)
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PoolWindowDocument(_Strict):
    """A time at which a pool has other numbers. What is not given here stays as the pool says."""

    start: Annotated[str, AfterValidator(_cron)] | None = Field(
        default=None, description="When it begins, each time: minute, hour, day, month, weekday as in cron."
    )
    hours: Annotated[float, Field(gt=0, le=8784, allow_inf_nan=False)] | None = Field(
        default=None, description="How long it lasts each time; goes with start."
    )
    date: dt.date | None = Field(default=None, description="The day on which it is in force once.")
    days: Annotated[int, Field(ge=1, le=3660, strict=True)] | None = Field(
        default=None, description="How many days from date on. Default 1."
    )
    min: Gpus | None = Field(default=None, description="As in the pool.")
    max: Gpus | None = Field(default=None, description="As in the pool; null = no limit.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.start is None) == (self.date is None):
            raise ValueError("needs either start ('0 20 * * *', with hours) or date (2026-12-24), and not both")
        if (self.start is None) != (self.hours is None):
            raise ValueError("start and hours go together: when it begins, and how long it lasts")
        if not self.model_fields_set & {"min", "max"}:
            raise ValueError("changes nothing; give min or max")
        return self


class PoolDocument(_Strict):
    """How many GPUs of a type may be cut or shared at a time."""

    min: Gpus = Field(
        default=0, description="So many are taken as soon as they are idle, and kept, although nobody wants slices."
    )
    max: Gpus | None = Field(default=None, description="No more than so many; null = no limit, 0 = none.")
    use: PoolUse = Field(
        default=PoolUse.MIG, description="What GPUs of min are made ready for until somebody asks: mig or shared (MPS)."
    )
    calendar: tuple[PoolWindowDocument, ...] = Field(
        default=(), description="Times with another min or max, in settings.timezone: the last that is in force counts."
    )

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min}) is more than max ({self.max})")
        return self


def _nothing_is_empty(value: Any) -> Any:
    return {} if value is None else value


class SlicesDocument(_Strict):
    """Parts of GPUs: MIG instances and MPS shares."""

    pools: dict[TypeName, Annotated[PoolDocument, BeforeValidator(_nothing_is_empty)]] = Field(
        default={}, description="Limits by GPU type; `any` is for every type not named here. Not named: no limit."
    )
    prefer: PoolUse = Field(
        default=PoolUse.MIG, description="What a need (--gpu-mem, --gpu-compute) becomes where both would do."
    )
    hold_after_s: Seconds = Field(
        default=300, description="A request that waited so long has places kept for it until it fits."
    )
    empty_for_s: Seconds = Field(
        default=600, description="A GPU that nobody had a part of for so long is a whole GPU again."
    )
    keep_for_s: Seconds = Field(
        default=120, description="The same at once if whole-GPU jobs wait, but not sooner after it was taken than this."
    )
    defragment: bool = Field(
        default=True, description="Whether jobs with --ckpt may be saved and moved so that a larger slice fits."
    )
    worth_s: Seconds = Field(
        default=3600,
        description="A larger slice that fits is worth its part of a GPU for so long; dearer moves are not made.",
    )
    most_moves: Annotated[int, Field(ge=0, strict=True)] = Field(default=4, description="Most jobs moved at a time.")
    oom_retry: bool = Field(
        default=False,
        description="Every job that runs out of GPU memory on a slice is requeued once with the next size, as with"
        " --gpu-oom-retry.",
    )


def slice_settings(
    document: SlicesDocument, zone: ZoneInfo, now_s: float, *, preemption_budget: int | None, near_end_s: float
) -> SliceSettings:
    """What is in force at that time."""
    return SliceSettings(
        pools=tuple(_pool(name, pool, zone, now_s) for name, pool in sorted(document.pools.items())),
        hold_after_s=document.hold_after_s,
        empty_for_s=document.empty_for_s,
        keep_for_s=document.keep_for_s,
        defragment=document.defragment,
        worth_s=document.worth_s,
        most_moves=document.most_moves,
        prefer=GpuUse(document.prefer.value),
        preemption_budget=preemption_budget,
        near_end_s=near_end_s,
    )


def _pool(name: str, pool: PoolDocument, zone: ZoneInfo, now_s: float) -> SlicePool:
    least, most = pool.min, pool.max
    for position, window in enumerate(pool.calendar):
        when = Window(path=f"slices.{name}", position=position, loc=(), document=window, zone=zone)
        if any(start_s <= now_s < end_s for start_s, end_s in when.spans(now_s, now_s + 1)):
            least = window.min if "min" in window.model_fields_set and window.min is not None else least
            most = window.max if "max" in window.model_fields_set else most
    return SlicePool(
        gpu_type=None if name == ANY_TYPE else name,
        minimum=least if most is None else min(least, most),
        maximum=most,
        use=GpuUse(pool.use.value),
    )
