"""Which size a job on a part of a GPU would have done with, from what was measured of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slurmext.model.slice_state import SliceRecord, SliceSample
from slurmext.model.slicing import Profile, SlicedGpu
from slurmext.service.slices.grow import next_larger
from slurmext.service.slices.outgrown import ran_out

MEMORY_MARGIN = 1.1
"""So much more memory than its peak is advised: the next run may need a little more."""
FULL_SM_PCT = 90
"""A slice whose SMs were this busy on average would be faster if it had more."""
_ENOUGH_SAMPLES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What a job had and used, and what to ask for next time. `options` "": as before; `why` says so in one line."""

    job_id: str
    user: str
    had: str
    memory_mib: int | None
    memory_peak_mib: int | None
    sm_mean_pct: float | None
    sm_peak_pct: float | None
    samples: int
    oom: bool
    options: str
    why: str


def advise(records: Sequence[SliceRecord], samples: Sequence[SliceSample], cards: Sequence[SlicedGpu]) -> Advice | None:
    """For one run of one job; None where nothing was measured. Of several nodes the one that used most counts."""
    if not records or not samples:
        return None
    record = records[-1]
    peak = max((sample.memory_peak_mib or 0 for sample in samples), default=0) or None
    mean = max((s.sm_mean_pct for s in samples if s.sm_mean_pct is not None), default=None)
    top = max((s.sm_peak_pct for s in samples if s.sm_peak_pct is not None), default=None)
    count, oom = sum(sample.samples for sample in samples), any(ran_out(sample) for sample in samples)
    limit = next((sample.memory_mib for sample in samples if sample.memory_mib), record.memory_mib)
    card = next((card for card in cards if card.uuid == record.gpu), None)
    if card is None:
        card = next((card for card in cards if card.gpu_type == record.gpu_type), None)
    if oom:
        options, why = _larger(record, card)
    elif peak is None or count < _ENOUGH_SAMPLES:
        options, why = "", "too little was measured to say: it was there too briefly, or used no GPU"
    elif record.profile is None:
        options, why = _share(record, peak, mean)
    else:
        options, why = _profile(record, card, peak, mean)
    return Advice(
        job_id=record.job.job_id,
        user=record.user,
        had=record.profile or f"{record.share_pct}%,mem={record.memory_mib}M",
        memory_mib=limit,
        memory_peak_mib=peak,
        sm_mean_pct=mean,
        sm_peak_pct=top,
        samples=count,
        oom=oom,
        options=options,
        why=why,
    )


def _larger(record: SliceRecord, card: SlicedGpu | None) -> tuple[str, str]:
    if record.profile is None:
        memory = 2 * (record.memory_mib or 0)
        if card is not None and card.memory_mib:
            memory = min(memory, card.memory_mib)
        return f"--gpu-share={record.share_pct}%,mem={memory}M", "its GPU memory was used up"
    larger = None if card is None else next_larger(record.profile, card)
    if larger is None:
        return "", "its GPU memory was used up, and there is no larger profile: ask for a whole GPU"
    return f"--gpu-slice={larger.name}", "its GPU memory was used up"


def _share(record: SliceRecord, peak: int, mean: float | None) -> tuple[str, str]:
    """The driver tells no SM use of MPS clients one by one: the percentage stays."""
    memory = _rounded(peak)
    if memory >= (record.memory_mib or 0):
        return "", f"its memory fits: {peak} of {record.memory_mib} MiB"
    del mean
    return f"--gpu-share={record.share_pct}%,mem={memory}M", f"it used {peak} of {record.memory_mib} MiB"


def _profile(record: SliceRecord, card: SlicedGpu | None, peak: int, mean: float | None) -> tuple[str, str]:
    geometry = None if card is None else card.geometry
    now = None if geometry is None else geometry.profile(record.profile or "")
    if geometry is None or now is None:
        return "", "its card is not there any more"
    wanted_sm = 0 if mean is None else now.sm * mean / 100
    busy = mean is not None and mean >= FULL_SM_PCT
    fitting = [
        profile
        for profile in geometry.profiles
        if profile.automatic
        and profile.memory_mib >= peak * MEMORY_MARGIN
        and profile.sm >= (now.sm if busy else wanted_sm)
    ]
    best = min(fitting, key=_cost, default=now)
    used = f"it used {peak} of {now.memory_mib} MiB" + ("" if mean is None else f" and {mean:.0f} % of its SMs")
    if busy:
        faster = min((p for p in geometry.profiles if p.automatic and p.sm > now.sm), key=_cost, default=None)
        if faster is not None and _cost(best) >= _cost(now):
            return "", f"{used}: it fits, and {faster.name} would probably be faster"
    if _cost(best) >= _cost(now):
        return "", f"{used}: it fits"
    if mean is None and best.sm < now.sm:
        used += f"; its SM use was not measured, and {best.name} has {best.sm} SMs, {now.name} {now.sm}"
    return f"--gpu-slice={best.name}", used


def _cost(profile: Profile) -> tuple[int, int]:
    return profile.memory_units, profile.compute_slices


def _rounded(peak_mib: int) -> int:
    """With the margin, in steps of 256 MiB."""
    return -(-int(peak_mib * MEMORY_MARGIN) // 256) * 256
