"""The cards slices are on, and slices as plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from slurmext.model.slice_state import SliceRecord
from slurmext.model.slicing import SlicedGpu
from slurmext.service.query.context import Context
from slurmext.service.query.viewer import Answer
from slurmext.service.slices.cards import cards_of


def cards_now(context: Context) -> tuple[SlicedGpu, ...]:
    """The cards as the last cycle saw them; without a daemon as agents described them last."""
    seen = context.slices()
    if seen is not None:
        return seen[0].gpus
    gpus = context.store.gpus()
    nodes = {gpu.node for gpu in gpus}
    world = context.world()
    types = dict.fromkeys(nodes, "gpu")
    types |= {} if world is None else {node.name: node.gpu_type for node in world[0].nodes}
    return cards_of(
        gpus, context.store.slices(), context.store.holds(), gpu_types=types, connected=nodes,
        empty_since={}, freed={},
    )  # fmt: skip


def of_job(context: Context, job_id: str) -> list[Answer]:
    """What a job has or awaits now, for its explanation."""
    minors = {card.uuid: card.minor for card in cards_now(context)}
    return [slice_values(record, minors) for record in context.store.slices(job_ids=[job_id])]


def slice_values(record: SliceRecord, minors: Mapping[str, int]) -> Answer:
    """A slice as JSON values; `minors` are the numbers of the GPUs."""
    values = asdict(record)
    key = values.pop("job")
    what = record.profile or f"{record.share_pct}%"
    return {**key, **values, "slice": what, "minor": minors.get(record.gpu), "gpu_uuid": record.gpu}
