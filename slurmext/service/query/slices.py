"""Slices: who has which, the map of the GPUs, what was, and which sizes would have done.

Whoever does not see everything is shown that a place is taken and how large it is, not by whom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from slurmext.errors import SlurmextError
from slurmext.model.slice_state import SliceRecord
from slurmext.model.slicing import GpuUse, InstanceState, SlicedGpu
from slurmext.policy.slicing.fragmentation import Fragmentation, card_state, fragmentation, free_milli
from slurmext.policy.slicing.kinds import kind_of
from slurmext.service.query.cards import cards_now, slice_values
from slurmext.service.query.context import Context
from slurmext.service.query.jobs import known_job
from slurmext.service.query.viewer import Answer, Question, Viewer, whose
from slurmext.service.slices.advice import Advice, advise

_TAKEN = "taken"
_MOST_ADVICE = 50


def listed(context: Context, viewer: Viewer, asked: Question) -> Answer:
    """Slices that somebody has or awaits: all for whoever sees all, else the viewer's own."""
    minors = {card.uuid: card.minor for card in cards_now(context)}
    user = whose(viewer, asked)
    records = context.store.slices(user=user, limit=asked.limit)
    return {"slices": [slice_values(record, minors) for record in records]}


def profiles(context: Context, _viewer: Viewer, _asked: Question) -> Answer:
    """What the GPUs here can be cut into, by type."""
    found: dict[tuple[str, str, int], dict[str, object]] = {}
    cards = cards_now(context)
    fits = {(fit.gpu_type, fit.profile): fit.fits for fit in fragmentation(cards).fits}
    for card in cards:
        geometry = card.geometry
        for profile in geometry.profiles if geometry else ():
            key = card.gpu_type, profile.name, profile.memory_mib
            row = found.setdefault(
                key,
                {
                    "gpu_type": card.gpu_type, "profile": profile.name, "memory_mib": profile.memory_mib,
                    "compute_slices": profile.compute_slices, "sm": profile.sm, "sm_of": card.sm,
                    "memory_units": profile.memory_units, "of_units": geometry.memory_units if geometry else 0,
                    "most": profile.most, "gpus": 0, "automatic": profile.automatic,
                    "fits_now": fits.get((card.gpu_type, profile.name), 0),
                },
            )  # fmt: skip
            row["gpus"] = int(str(row["gpus"])) + 1
    return {"profiles": list(found.values())}


def mapped(context: Context, viewer: Viewer, _asked: Question) -> Answer:
    """Each GPU's units with who sits where, and how much of what is free can be used."""
    records = context.store.slices()
    cards = cards_now(context)
    by_gpu: dict[str, list[SliceRecord]] = {}
    for record in records:
        by_gpu.setdefault(record.gpu, []).append(record)
    kept = [card for card in cards if viewer.sees_all or card.use is not GpuUse.UNKNOWN]
    return {
        "now_s": context.now(),
        "gpus": [_card(card, by_gpu.get(card.uuid, ()), viewer) for card in kept],
        "fragmentation": fragments(fragmentation(cards)),
    }


def fragments(found: Fragmentation) -> dict[str, object]:
    """As JSON values, in GPUs."""
    return {
        "gpus": found.gpus,
        "free_gpus": found.free_milli / 1000,
        "percent": found.percent,
        "fits": [asdict(fit) for fit in found.fits],
    }


def _card(card: SlicedGpu, records: Sequence[SliceRecord], viewer: Viewer) -> Answer:
    owners = {record.job.job_id: record.user for record in records}
    fits = {}
    if card.geometry is not None and card.use is GpuUse.MIG:
        kind = kind_of(card.geometry)
        state = card_state(card, kind)
        fits = {p.name: n for i, p in enumerate(kind.profiles) if p.automatic and (n := kind.count(state, i))}
    return {
        "node": card.node,
        "minor": card.minor,
        "uuid": card.uuid,
        "gpu_type": card.gpu_type,
        "use": card.use.value,
        "leaving": card.leaving,
        "memory_mib": card.memory_mib,
        "memory_units": card.geometry.memory_units if card.geometry else None,
        "free_gpus": free_milli(card) / 1000,
        "fits": fits,
        "parts": _parts(card, owners, viewer),
    }


def _parts(card: SlicedGpu, owners: Mapping[str, str], viewer: Viewer) -> list[Answer]:
    parts = list[Answer]()
    for instance in sorted(card.instances, key=lambda one: one.start):
        profile = card.geometry.profile(instance.profile) if card.geometry else None
        mine = viewer.sees_all or owners.get(instance.job) == viewer.user
        state = instance.state.value
        if not mine and instance.state in {InstanceState.BUSY, InstanceState.RESERVED}:
            state = _TAKEN
        parts.append(
            {
                "kind": "mig",
                "profile": instance.profile,
                "start": instance.start,
                "units": profile.memory_units if profile else 1,
                "state": state,
                "job": instance.job if mine and instance.job else None,
                "user": owners.get(instance.job) if mine else None,
                "uuid": instance.uuid if mine else None,
            }
        )
    for share in card.shares:
        mine = viewer.sees_all or owners.get(share.job) == viewer.user
        parts.append(
            {
                "kind": "share",
                "percent": share.percent,
                "memory_mib": share.memory_mib if mine else None,
                "state": "busy" if mine else _TAKEN,
                "job": share.job if mine else None,
                "user": owners.get(share.job) if mine else None,
            }
        )
    return parts


def history(context: Context, viewer: Viewer, asked: Question) -> Answer:
    """Slices that were, oldest first, those that still are included."""
    minors = {card.uuid: card.minor for card in cards_now(context)}
    user = whose(viewer, asked)
    jobs = None if asked.job is None else [known_job(context, viewer, asked.job).job.job_id]
    records = context.store.slices(active=False, user=user, job_ids=jobs, since_s=asked.since_s, limit=asked.limit)
    return {"slices": [slice_values(record, minors) for record in records]}


def advised(context: Context, viewer: Viewer, asked: Question) -> Answer:
    """Which size a job, or each of the viewer's last ones, would have done with."""
    if asked.job is not None:
        row = known_job(context, viewer, asked.job)
        found = _advice(context, [row.job.job_id])
        if not found:
            raise SlurmextError(
                f"nothing was measured of job {row.job.job_id} on a part of a GPU"
                " (agents look every 10 s at running jobs with --gpu-slice, --gpu-mem or --gpu-share)"
            )
        return {"advice": [asdict(advice) for advice in found]}
    user = whose(viewer, asked)
    records = context.store.slices(active=False, user=user, since_s=asked.since_s, limit=asked.limit)
    jobs = list(dict.fromkeys(record.job.job_id for record in reversed(records)))[:_MOST_ADVICE]
    return {"advice": [asdict(advice) for advice in _advice(context, jobs[::-1])]}


def _advice(context: Context, job_ids: Sequence[str]) -> list[Advice]:
    cards = cards_now(context)
    samples = context.store.slice_samples(job_ids=job_ids)
    records = context.store.slices(active=False, job_ids=job_ids)
    found = list[Advice]()
    for job_id in job_ids:
        mine = [record for record in records if record.job.job_id == job_id and record.live_s is not None]
        measured = {sample.job for sample in samples}
        key = next((record.job for record in reversed(mine) if record.job in measured), None)
        run = [record for record in mine if record.job == key]
        advice = advise(run, [sample for sample in samples if sample.job == key], cards)
        if advice is not None:
            found.append(advice)
    return found
