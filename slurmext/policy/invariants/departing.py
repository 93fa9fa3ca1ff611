"""Laws of who leaves for nobody in particular: only when it is due, only as many as needed, and not too few."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from slurmext.model.job import Job, JobState
from slurmext.model.node import NodeState
from slurmext.model.plan import Evict, EvictAction, Reason
from slurmext.policy.departures import WITHOUT_BENEFICIARY
from slurmext.policy.invariants.case import Case, summed
from slurmext.policy.victims import ends_within, shrunk, spared


def departures_are_due(case: Case) -> Iterator[str]:
    """A job leaves for nobody only for a reason that allows it, when its time has come, and if nothing spares it."""
    jobs = {job.id: job for job in case.before.jobs}
    now_s = case.before.now_s
    names = [evict.job for evict in case.departures]
    also = {evict.job for evict in case.plan.evict} | {move.job for move in case.plan.move}
    if len(set(names)) < len(names) or not also.isdisjoint(names):
        yield f"departures {names} leave twice"
    for evict in case.departures:
        job = jobs[evict.job]
        if evict.reason not in WITHOUT_BENEFICIARY or evict.to_queue:
            yield f"{job.id} leaves for nobody because of {evict.reason} to {evict.to_queue!r}"
        if not _may_leave(case, job):
            yield f"{job.id} may not leave"
        tasks = job.placed_gpus // job.gpus_per_task
        least = job.least_tasks if evict.action is EvictAction.SHRINK else 0
        if tasks - evict.tasks < least or (least == 0 and evict.tasks != tasks):
            yield f"{job.id} loses {evict.tasks} of {tasks} tasks"
        gone_s = case.before.removed.get(job.queue, now_s + 1)
        if evict.reason is Reason.QUEUE_REMOVED and (gone_s > now_s or job.queue in case.tree.leaf_of):
            yield f"{job.id} leaves {job.queue}, which is not removed or not yet"
        if evict.reason is Reason.IDLE_GPUS and not _idled_enough(case, job):
            yield f"{job.id} has not idled for as long as {job.queue} allows"
    for note in case.plan.note:
        if note.at_s <= now_s:
            yield f"{note.job} is told at {now_s:g} what happens at {note.at_s:g}"


def cuts_are_minimal(case: Case) -> Iterator[str]:
    """Without any one of those who leave for a cut (or one task of a shrinking one) a queue stays above its max."""
    cuts = [evict for evict in case.departures if evict.reason is Reason.QUOTA_CUT]
    for evict in cuts:
        rest = [other for other in case.departures if other is not evict]
        if evict.action is EvictAction.SHRINK and evict.tasks > 1:
            rest.append(replace(evict, tasks=evict.tasks - 1))
        if not _over(case, rest, of=evict.job):
            yield f"{evict.job} need not leave"


def cuts_are_complete(case: Case) -> Iterator[str]:
    """No cut queue stays above its max while somebody of it who may leave stays."""
    going = {evict.job: evict for evict in case.departures}
    for path, gpu_type in _over(case, case.departures):
        for job in case.before.jobs:
            evict = going.get(job.id)
            if evict is not None and evict.action is not EvictAction.SHRINK:
                continue
            left = shrunk(job, [(evict.tasks, {})]) if evict else job.placement
            helps = gpu_type is None or any(_type(case, part.node) == gpu_type for part in left)
            if helps and _counts(case, job, path) and _may_leave(case, job):
                yield f"{path} stays above its max and {job.id} in it"


def _over(case: Case, leaving: Collection[Evict], of: str | None = None) -> list[tuple[str, str | None]]:
    """(queue, type) of the cut queues (those `of` a job) that are above their max when these have left."""
    found: list[tuple[str, str | None]] = []
    going = {evict.job: evict for evict in leaving}
    named = next((job for job in case.before.jobs if job.id == of), None)
    for queue in case.before.queues:
        if queue.cut_s is None or queue.cut_s > case.before.now_s:
            continue
        if named is not None and not _counts(case, named, queue.path):
            continue
        used: dict[str, int] = {}
        for job in case.before.jobs:
            if not _counts(case, job, queue.path):
                continue
            evict = going.get(job.id)
            left = job.placement
            if evict is not None:
                left = shrunk(job, [(evict.tasks, {})]) if evict.action is EvictAction.SHRINK else ()
            for gpu_type, gpus in summed((_type(case, part.node), part.gpus) for part in left).items():
                used[gpu_type] = used.get(gpu_type, 0) + gpus
        if queue.max is not None and sum(used.values()) > queue.max:
            found.append((queue.path, None))
        for gpu_type, quota in queue.by_type.items():
            if quota.max is not None and used.get(gpu_type, 0) > quota.max:
                found.append((queue.path, gpu_type))
    return found


def _counts(case: Case, job: Job, path: str) -> bool:
    """Whether the job counts against the cut queue: it is there to stay, and was before the cut was due."""
    queue = next(queue for queue in case.before.queues if queue.path == path)
    settings, now_s = case.before.settings, case.before.now_s
    stays = job.state in {JobState.RUNNING, JobState.SUSPENDED, JobState.UNKNOWN} and job.evicting_for is None
    inside = job.queue in case.tree.leaf_of and (job.queue == path or job.queue.startswith(path + "/"))
    before = job.started_s is None or queue.cut_s is None or job.started_s < queue.cut_s
    return stays and inside and before and not (settings.near_end_s and ends_within(job, now_s, settings.near_end_s))


def _idled_enough(case: Case, job: Job) -> bool:
    """Whether its queue's time and grace are over, and what its owner asked for."""
    rule = next((queue.idle for queue in case.before.queues if queue.path == job.queue), None)
    if rule is None or job.idle_since_s is None:
        return False
    warned_s = max(job.idle_since_s + rule.after_s, job.keep_until_s or 0)
    return warned_s + rule.grace_s <= case.before.now_s


def _type(case: Case, node: str) -> str:
    return case.nodes[node].gpu_type if node in case.nodes else ""


def _may_leave(case: Case, job: Job) -> bool:
    if job.state is not JobState.RUNNING or job.evicting_for is not None or job.gpus_per_task <= 0:
        return False
    known = {NodeState.UP, NodeState.DRAIN}
    nodes = [case.nodes.get(part.node) for part in job.placement]
    if not nodes or any(node is None or node.state not in known for node in nodes):
        return False
    leaf = case.tree.leaf_of.get(job.queue)
    min_runtime_s = 0 if leaf is None else case.tree.nodes[leaf].min_runtime_s
    return spared(job, case.before.settings, case.before.now_s, min_runtime_s) is None
