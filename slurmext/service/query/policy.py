"""The policy's text and its versions."""

from __future__ import annotations

from dataclasses import asdict

from slurmext.errors import SlurmextError, UsageError
from slurmext.service.query.context import Context
from slurmext.service.query.viewer import MOST_ROWS, Answer, Question, Viewer, require_all


def text(context: Context, viewer: Viewer, asked: Question) -> Answer:
    require_all(viewer)
    if asked.version is None:
        stored = context.store.current_policy()
        if stored is None:
            raise SlurmextError("no policy was applied yet; 'slurmext policy apply FILE' applies the first")
        return asdict(stored)
    versions = context.store.policy_versions(MOST_ROWS)
    for stored in versions:
        if stored.version == asked.version:
            return asdict(stored)
    newest = versions[0].version if versions else 0
    raise UsageError(f"there is no policy version {asked.version}; the newest is {newest} ('slurmext policy list')")


def versions(context: Context, viewer: Viewer, asked: Question) -> Answer:
    require_all(viewer)
    return {"policies": [asdict(stored) for stored in context.store.policy_versions(asked.limit)]}
