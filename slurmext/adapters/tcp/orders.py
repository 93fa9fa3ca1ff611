"""Orders of the controller to an agent, as data and as lines. `parse_order` reads what `line` wrote.

An order may arrive more than once and after it was overtaken by events; the agent says what became of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from slurmext.adapters.tcp.model_orders import MODEL_PARSERS, ModelOrder
from slurmext.model.slicing import GpuUse

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+-]{0,127}")
"""UUIDs, profiles (`1g.10gb+me`), ids of reservations and jobs (`12_3`)."""
_VARIABLE = re.compile(r"SLURMEXT_[A-Z_]{1,40}")
_MOST_ITEMS = 512
_PERCENT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class EndJob:
    """An order to the agent: kill what is left on its node of a job that was requeued. Only runs that began before
    `started_before_s` (Unix seconds) are meant.
    """

    job_id: int
    started_before_s: float

    def line(self) -> dict[str, Any]:
        """As it is sent."""
        return {"end": {"job_id": self.job_id, "started_before_s": self.started_before_s}}


@dataclass(frozen=True, slots=True, kw_only=True)
class TellJob:
    """Send `signal` (`USR1`) to the processes of a job that asked the agent for it: Slurm may not reach them. With
    `script` also to those of its batch script that catch it, for Slurm was not asked to.
    """

    job_id: int
    signal: str
    script: bool = False

    def line(self) -> dict[str, Any]:
        """As it is sent."""
        return {"tell": {"job_id": self.job_id, "signal": self.signal, "script": self.script}}


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceItem:
    """One slice: on GPU `gpu` (UUID) the profile at a first memory unit, or `share_pct` of its SMs and `memory_mib`."""

    gpu: str
    profile: str | None = None
    profile_id: int | None = None
    start: int | None = None
    share_pct: int | None = None
    memory_mib: int | None = None

    @property
    def is_mig(self) -> bool:
        """Whether it is a MIG instance; else an MPS share."""
        return self.profile is not None

    def fields(self) -> dict[str, Any]:
        """What is set."""
        if self.profile is not None:
            return {"gpu": self.gpu, "profile": self.profile, "profile_id": self.profile_id, "start": self.start}
        return {"gpu": self.gpu, "share_pct": self.share_pct, "memory_mib": self.memory_mib}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveSlices:
    """Make these slices when the job's prolog comes. The agent answers with `slice_reserved` (or `slice_missed`).

    `job_id` is Slurm's number (SLURM_JOB_ID); `job` what it is called if that is something else (`12_3`, a task whose
    own number is not known yet). With `restarts` only the run that was requeued so often is meant. A new reservation
    of a job replaces an unused one before it. `asked` are the variables of the options that ask for them.
    """

    reservation: str
    job_id: int
    uid: int
    items: tuple[SliceItem, ...]
    restarts: int | None = None
    job: str = ""
    asked: Mapping[str, str] = field(default_factory=dict)

    def line(self) -> dict[str, Any]:
        """As it is sent."""
        return {"slices": {
            "reservation": self.reservation, "job_id": self.job_id, "job": self.job or str(self.job_id),
            "restarts": self.restarts, "uid": self.uid, "items": [item.fields() for item in self.items],
            "asked": dict(self.asked),
        }}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class WithdrawSlices:
    """Forget a reservation; what was made for it is freed, for its job does not run here. Answered: `slice_freed`."""

    reservation: str

    def line(self) -> dict[str, Any]:
        """As it is sent."""
        return {"withdraw": {"reservation": self.reservation}}


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeWarmSlice:
    """Destroy an instance that nobody has. Answered with `gpus`, the inventory, when it is gone."""

    gpu: str
    profile: str
    start: int

    def line(self) -> dict[str, Any]:
        """As it is sent."""
        return {"free_warm": {"gpu": self.gpu, "profile": self.profile, "start": self.start}}


@dataclass(frozen=True, slots=True, kw_only=True)
class SetGpuUse:
    """Make a GPU that nobody uses ready for `mig` or `shared` use, or clear it for `whole`. Answered: `gpu_use`."""

    gpu: str
    use: GpuUse

    def line(self) -> dict[str, Any]:
        """As it is sent."""
        return {"use": {"gpu": self.gpu, "use": self.use.value}}


Order = EndJob | TellJob | ReserveSlices | WithdrawSlices | FreeWarmSlice | SetGpuUse | ModelOrder
OrderKind = Literal["end", "tell", "slices", "withdraw", "free_warm", "use"]


def parse_order(line: Mapping[str, Any]) -> Order | None:
    """An order of the controller; None for one that this version does not know."""
    for kind, parse in {**_PARSERS, **MODEL_PARSERS}.items():
        asked = line.get(kind)
        if isinstance(asked, dict):
            return parse(asked)
    return None


def _end(asked: Mapping[str, Any]) -> EndJob | None:
    job_id, before_s = asked.get("job_id"), asked.get("started_before_s")
    if not _count(job_id) or not isinstance(before_s, int | float):
        return None
    return EndJob(job_id=job_id, started_before_s=float(before_s))


def _tell(asked: Mapping[str, Any]) -> TellJob | None:
    job_id, signal = asked.get("job_id"), asked.get("signal")
    script = asked.get("script") is True
    return TellJob(job_id=job_id, signal=signal, script=script) if _count(job_id) and _name(signal) else None


def _slices(asked: Mapping[str, Any]) -> ReserveSlices | None:
    job_id, uid, restarts = asked.get("job_id"), asked.get("uid"), asked.get("restarts")
    name, job, listed = asked.get("reservation"), asked.get("job", ""), asked.get("items")
    good = (
        _count(job_id) and _count(uid) and (restarts is None or _count(restarts)) and _name(name)
        and (job == "" or _name(job)) and isinstance(listed, list) and 0 < len(listed) <= _MOST_ITEMS
    )  # fmt: skip
    if not good:
        return None
    items = [item for each in listed if isinstance(each, dict) and (item := _item(each)) is not None]
    if len(items) != len(listed):
        return None
    return ReserveSlices(
        reservation=str(name),
        job_id=job_id,
        uid=uid,
        items=tuple(items),
        restarts=restarts,
        job=job or str(job_id),
        asked=_variables(asked.get("asked")),
    )


def _variables(asked: object) -> dict[str, str]:
    rows = asked.items() if isinstance(asked, dict) else ()
    return {name: value for name, value in rows if _VARIABLE.fullmatch(name) and isinstance(value, str)}


def _item(asked: Mapping[str, Any]) -> SliceItem | None:
    gpu, profile = asked.get("gpu"), asked.get("profile")
    if not _name(gpu):
        return None
    if profile is not None:
        profile_id, start = asked.get("profile_id"), asked.get("start")
        good = _name(profile) and _count(start) and (profile_id is None or _count(profile_id))
        return SliceItem(gpu=gpu, profile=profile, profile_id=profile_id, start=start) if good else None
    share_pct, memory_mib = asked.get("share_pct"), asked.get("memory_mib")
    good = _count(share_pct) and 0 < share_pct <= _PERCENT and _count(memory_mib)
    return SliceItem(gpu=gpu, share_pct=share_pct, memory_mib=memory_mib) if good else None


def _withdraw(asked: Mapping[str, Any]) -> WithdrawSlices | None:
    name = asked.get("reservation")
    return WithdrawSlices(reservation=name) if _name(name) else None


def _free_warm(asked: Mapping[str, Any]) -> FreeWarmSlice | None:
    gpu, profile, start = asked.get("gpu"), asked.get("profile"), asked.get("start")
    good = _name(gpu) and _name(profile) and _count(start)
    return FreeWarmSlice(gpu=gpu, profile=profile, start=start) if good else None


def _use(asked: Mapping[str, Any]) -> SetGpuUse | None:
    gpu, use = asked.get("gpu"), asked.get("use")
    uses = {each.value: each for each in GpuUse if each is not GpuUse.UNKNOWN}
    return SetGpuUse(gpu=gpu, use=uses[use]) if _name(gpu) and isinstance(use, str) and use in uses else None


_PARSERS = {"end": _end, "tell": _tell, "slices": _slices, "withdraw": _withdraw, "free_warm": _free_warm, "use": _use}


def _name(value: object) -> Any:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _count(value: object) -> Any:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
