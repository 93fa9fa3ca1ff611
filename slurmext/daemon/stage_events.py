"""What agents say of models, told to the desk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from slurmext.adapters.tcp.wire import AgentEvent
from slurmext.service.staging.desk import StageDesk
from slurmext.staging.preload import MOST_MODELS

MODELS = "models"
WANTED = "preload_wanted"


def about_models(desk: StageDesk, event: AgentEvent) -> bool | None:
    """Tell the desk: True when the next cycle should see it, False when not; None for an event that others want as
    well, or that is not about models. Raises StoreUnavailable.
    """
    if event.event == MODELS:
        return desk.said(event.node, event.detail)
    if event.event == WANTED:
        listed = event.detail.get("models")
        names = cast("list[object]", listed) if isinstance(listed, list) else []
        if event.job_id is not None and event.uid is not None:
            references = [name for name in names[:MOST_MODELS] if isinstance(name, str)]
            desk.asked(event.node, int(event.job_id), event.uid, references)
        return False
    if event.event == "hello" and isinstance(said := event.detail.get("models"), dict):
        desk.greeted(event.node, cast("Mapping[str, object]", said))
    elif event.event == "job_end" and event.job_id is not None:
        desk.left(event.node, int(event.job_id))
    return None
