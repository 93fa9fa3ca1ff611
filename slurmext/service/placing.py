"""Before a release: Slurm is told where a job is to start, where the plan needs it there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import cast

from slurmext.errors import SlurmRefused
from slurmext.model.state import ActionRecord
from slurmext.ports import Actuator
from slurmext.service.observe import Known, Observation


def place_all(
    actuator: Actuator, actions: Sequence[ActionRecord], observation: Observation
) -> tuple[list[ActionRecord], list[tuple[ActionRecord, str]]]:
    """(releases that are ready, those that Slurm refused to place and why)."""
    ready = _place_together(actuator, actions)
    done = {action.id for action in ready}
    refused = list[tuple[ActionRecord, str]]()
    for action in actions:
        if action.id in done:
            continue
        try:
            _place(actuator, action, observation.known[action.job.job_id])
        except SlurmRefused as why:
            refused.append((action, str(why)))
        else:
            ready.append(action)
    return ready, refused


def _nodes(action: ActionRecord) -> list[str]:
    return cast("list[str]", action.detail.get("nodes") or [])


def _place_together(actuator: Actuator, actions: Iterable[ActionRecord]) -> list[ActionRecord]:
    """Place with one command those that go to the same nodes; returns them. Whom Slurm refuses is tried alone."""
    together = dict[tuple[str, ...], list[ActionRecord]]()
    for action in actions:
        nodes = tuple(_nodes(action))
        if nodes and action.detail.get("node_count") is None and action.job.job_id.isdecimal():
            together.setdefault(nodes, []).append(action)
    placed = list[ActionRecord]()
    for nodes, same in together.items():
        if len(same) > 1:
            with contextlib.suppress(SlurmRefused):
                actuator.set_nodes(",".join(action.job.job_id for action in same), nodes)
                placed += same
    return placed


def _place(actuator: Actuator, action: ActionRecord, known: Known) -> None:
    nodes, count = _nodes(action), action.detail.get("node_count")
    resize = count if isinstance(count, int) else None
    asked = known.first_nodes if not nodes else ",".join(nodes)
    if nodes or resize is not None or known.record.required_nodes != asked:
        actuator.set_nodes(action.job.job_id, nodes or ([asked] if asked else []), count=resize)
