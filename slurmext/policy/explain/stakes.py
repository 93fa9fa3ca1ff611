"""What every queue wants, from the jobs of a snapshot: the demand behind the fair share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from slurmext.model.job import Job, JobState
from slurmext.model.node import NodeState
from slurmext.model.plan import Plan, Reason
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Snapshot
from slurmext.policy.caps import CAP_REASONS
from slurmext.policy.share import Stake, fair_shares
from slurmext.policy.tree import QueueTree

_Wish = tuple[int, Job, int]
"""A job, its leaf, and the GPUs it uses or asks for."""
_STAYS = frozenset({JobState.RUNNING, JobState.SUSPENDED, JobState.UNKNOWN})
_ASKS_NOT = frozenset(
    {
        *CAP_REASONS.values(),
        Reason.NOT_ELIGIBLE,
        Reason.NO_NODE_FITS,
        Reason.UNKNOWN_QUEUE,
        Reason.UNKNOWN_STATE,
    }
)
"""Jobs that wait for one of these want nothing now, whatever is free."""


def stakes_of(snapshot: Snapshot, plan: Plan, tree: QueueTree, gpu_type: str | None = None) -> tuple[Stake, ...]:
    """The stake of every queue by index, of all GPUs or of one type."""
    types = {node.name: node.gpu_type for node in snapshot.nodes}
    up = {node.name for node in snapshot.nodes if node.state is NodeState.UP}
    there = [node for node in snapshot.nodes if node.state is NodeState.UP and gpu_type in {None, node.gpu_type}]
    known = sorted({node.gpu_type for node in snapshot.nodes if node.state is NodeState.UP})
    gpus = sum(node.gpus for node in there)
    wanted: list[_Wish] = []
    for job in snapshot.jobs:
        leaf = tree.leaf_of.get(job.queue)
        if leaf is None:
            continue
        if job.state in _STAYS and job.evicting_for is None:
            held = [part for part in job.placement if gpu_type in {None, types.get(part.node)}]
            # what stands for slices has no place, and of which type they are is not known
            placeless = job.gpus if job.state is JobState.RUNNING and not job.placement and gpu_type is None else 0
            wanted.append((leaf, job, sum(part.gpus for part in held) or placeless))
            gpus += sum(part.gpus for part in held if part.node not in up)
        elif job.state is JobState.PENDING and plan.reasons.get(job.id) not in _ASKS_NOT:
            wanted.append((leaf, job, job.gpus if gpu_type in {None, _first_type(job, known)} else 0))
    demand = Counter[int]()
    for leaf, _, count in wanted:
        demand[leaf] += count
    settings = snapshot.settings
    return fair_shares(
        tree,
        demand,
        gpus,
        gpu_type=gpu_type,
        headroom=0 if settings.headroom_drainable or gpu_type else settings.headroom_gpus,
        limits=_user_limits(snapshot, tree, wanted) if gpu_type is None else {},
        past={path: settings.past_factor * gpus for path, gpus in snapshot.past_gpus.items()},
    )


def _first_type(job: Job, known: Sequence[str]) -> str | None:
    """The type a pending job asks for first; one that takes any counts for the first by name, as it is placed."""
    return next((name for name in (job.types or known) if name in known), None)


def _user_limits(snapshot: Snapshot, tree: QueueTree, wanted: Sequence[_Wish]) -> dict[int, int]:
    """The most that the limits of users, of groups and of jobs that may not borrow let each queue use."""
    queues = {queue.path: queue for queue in snapshot.queues}
    per_user: dict[int, Counter[str]] = {}
    per_group: dict[int, Counter[str]] = {}
    fixed, total = Counter[int](), Counter[int]()
    for leaf, job, count in wanted:
        for index in tree.nodes[leaf].lineage:
            per_user.setdefault(index, Counter())[job.user] += count
            total[index] += count
            for group in job.groups:
                per_group.setdefault(index, Counter())[group] += count
        fixed[leaf] += 0 if job.preemptible else count
    limits: dict[int, int] = {}
    for index, users in per_user.items():
        node = tree.nodes[index]
        queue = queues.get(node.path)
        if queue is None:
            continue
        most = sum(_capped(count, _user_max(queue, user)) for user, count in users.items())
        for group, count in per_group.get(index, Counter[str]()).items():
            most = min(most, total[index] - count + _capped(count, _group_max(queue, group)))
        if fixed[index]:
            most = min(most, total[index] - fixed[index] + min(fixed[index], node.guaranteed))
        if most < total[index]:
            limits[index] = most
    return limits


def _capped(count: int, most: int | None) -> int:
    return count if most is None else min(count, most)


def _user_max(queue: Queue, user: str) -> int | None:
    listed = queue.users.get(user)
    return queue.each_user_max if listed is None else listed.max


def _group_max(queue: Queue, group: str) -> int | None:
    listed = queue.groups.get(group)
    return None if listed is None else listed.max
