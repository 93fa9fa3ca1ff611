"""Takes a question to whoever answers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from slurmext.errors import UsageError
from slurmext.service.query import copies, daemon, extend, history, jobs, policy, queues, sizes, slices
from slurmext.service.query.context import Context
from slurmext.service.query.viewer import Answer, Question, Viewer

_OPERATIONS: Mapping[str, Callable[[Context, Viewer, Question], Answer]] = {
    "jobs": jobs.listed,
    "job_show": jobs.shown,
    "job_explain": jobs.explained,
    "job_extend": extend.extended,
    "queues": queues.listed,
    "sizes": sizes.listed,
    "queue_explain": queues.explained,
    "slices": slices.listed,
    "slice_profiles": slices.profiles,
    "slice_map": slices.mapped,
    "slice_history": slices.history,
    "slice_advise": slices.advised,
    "defragment": daemon.defragment,
    "history": history.events,
    "checkpoints": history.checkpoints,
    "ckpt_copies": copies.copies,
    "ckpt_why": copies.why,
    "status": daemon.status,
    "policy": policy.text,
    "policies": policy.versions,
    "plan": daemon.plan,
}


@dataclass(slots=True, kw_only=True)
class Queries(Context):
    """Answers over a store, filtered by who asks."""

    def answer(self, viewer: Viewer, op: str, arguments: Mapping[str, object]) -> Answer:
        """The answer to one request. Raises UsageError (not understood, not allowed), SlurmextError (not there)."""
        if op not in _OPERATIONS:
            raise UsageError(f"the question {op!r} is unknown; known: {', '.join(_OPERATIONS)}")
        return _OPERATIONS[op](self, viewer, Question.of(arguments))
