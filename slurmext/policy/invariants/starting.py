"""Laws of what starts: room, shape, limits, and one reason for everybody else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from slurmext.model.job import JobState
from slurmext.model.node import NodeState
from slurmext.model.plan import QueueUsage
from slurmext.policy.invariants.case import Case, summed, within
from slurmext.policy.tree import ROOT


def no_overcommit(case: Case) -> Iterator[str]:
    """Releases fit on what is idle; fences and moves fit on what is idle or leaves; only nodes that are up are used."""
    held, leaving = case.held(), case.leaving()
    starts = summed((part.node, part.gpus) for release in case.plan.release for part in release.placement)
    kept = summed((part.node, part.gpus) for fence in case.plan.fence for part in fence.placement)
    # Who moves for somebody whom others leave for goes where those were; everybody else where nobody is.
    with_others = [move for move in case.plan.move if move.beneficiary in case.victims]
    alone = [move for move in case.plan.move if move.beneficiary not in case.victims]
    targets = summed((part.node, part.gpus) for move in alone for part in move.target)
    later_targets = summed((part.node, part.gpus) for move in with_others for part in move.target)
    sources = summed((part.node, part.gpus) for move in case.plan.move for part in move.source)
    freed = case.freed(case.plan.evict)
    for name in sorted({*starts, *kept, *targets, *later_targets}):
        node = case.nodes.get(name)
        if node is None or node.state is not NodeState.UP:
            yield f"node {name} is not up"
            continue
        now = held.get(name, 0) + starts.get(name, 0) + targets.get(name, 0)
        if starts.get(name, 0) + targets.get(name, 0) and now > node.gpus:
            yield f"{name}: {now} GPUs in use of {node.gpus}"
        out = freed.get(name, 0) + leaving.get(name, 0) + sources.get(name, 0)
        promised = kept.get(name, 0) + later_targets.get(name, 0)
        later = now + promised - out
        if promised and later > node.gpus:
            yield f"{name}: {later} GPUs promised of {node.gpus}"


def placements_fit_the_job(case: Case) -> Iterator[str]:
    """Whole tasks, between the least and the most, within tasks_per_node, on accepted types, one entry a node."""
    for release in case.plan.release:
        job, size = case.jobs[release.job], case.jobs[release.job].gpus_per_task
        if size == 0:
            continue
        tasks = sum(part.gpus for part in release.placement) // size
        if any(part.gpus % size or part.gpus <= 0 for part in release.placement):
            yield f"{job.id}: a task is split between nodes"
        if not job.least_tasks <= tasks <= job.tasks:
            yield f"{job.id}: {tasks} tasks, not {job.least_tasks} to {job.tasks}"
        if job.tasks_per_node is not None and any(part.gpus > job.tasks_per_node * size for part in release.placement):
            yield f"{job.id}: more than {job.tasks_per_node} tasks on a node"
        names = [part.node for part in release.placement]
        if len(set(names)) < len(names) or not set(names) <= set(case.accepted(job)):
            yield f"{job.id}: nodes {names}"


def never_above_max(case: Case) -> Iterator[str]:
    """No queue, type, user or group is above a max because of a release."""
    ledger = case.ledger(promised=False)
    people = _gpus_of_people(case)
    for release in case.plan.release:
        job = case.jobs[release.job]
        for index in case.tree.nodes[case.tree.leaf_of[job.queue]].lineage:
            node = case.tree.nodes[index]
            if node.max is not None and ledger.held.total[index] > node.max:
                yield f"{job.id}: {node.path} holds {ledger.held.total[index]} of max {node.max}"
            for gpu_type, most in node.type_max.items():
                used = case.by_type((part.node, part.gpus) for part in release.placement).get(gpu_type, 0)
                if used and ledger.held.of_type(index, gpu_type) > most:
                    yield f"{job.id}: {node.path} holds {ledger.held.of_type(index, gpu_type)} {gpu_type} of max {most}"
            most = node.most_of(job.user)
            if most is not None and people[node.path, "user", job.user] > most:
                yield f"{job.id}: {job.user} is above {most} in {node.path}"
            for group in set(job.groups) & set(node.group_max):
                if people[node.path, "group", group] > node.group_max[group]:
                    yield f"{job.id}: group {group} is above {node.group_max[group]} in {node.path}"
            if not node.may_borrow and not within(case, ledger, job, node):
                yield f"{job.id}: {node.path} borrows through its fence"


def _gpus_of_people(case: Case) -> Counter[tuple[str, str, str]]:
    """GPUs held after the releases per (queue path, "user" or "group", name): counted by hand, not by the ledger."""
    found = Counter[tuple[str, str, str]]()
    for job in case.snapshot.jobs:
        gpus = job.placed_gpus if job.placement or job.state is JobState.UNKNOWN else job.gpus
        if job.state is JobState.PENDING:
            gpus = sum(part.gpus for part in case.released[job.id].placement) if job.id in case.released else 0
        parts = job.queue.split("/")
        for path in ("/".join(parts[:depth]) for depth in range(1, len(parts) + 1)):
            found[path, "user", job.user] += gpus
            for group in set(job.groups):
                found[path, "group", group] += gpus
    return found


def non_preemptible_within_guarantee(case: Case) -> Iterator[str]:
    """Jobs that may not be preempted start within their own queue's guarantee only; borrowers beside them may go."""
    held = case.ledger(promised=False).held
    for release in case.plan.release:
        if release.queue_usage is QueueUsage.BORROWED:
            job = case.jobs[release.job]
            parts = case.by_type((part.node, part.gpus) for part in release.placement)
            held.add(case.tree.leaf_of[job.queue], job, parts, sign=-1)
            if not job.preemptible:
                yield f"{job.id} borrows"
    for release in case.plan.release:
        job = case.jobs[release.job]
        node = case.tree.nodes[case.tree.leaf_of[job.queue]]
        if (
            not job.preemptible
            and not case.tree.typed
            and not node.shares_guarantee
            and held.total[node.index] > node.guaranteed
        ):
            yield f"{job.id}: {node.path} is over its guarantee"


def headroom_is_left(case: Case) -> Iterator[str]:
    """Who borrows in the cluster starts only where the headroom stays idle after all that starts.

    Where drainable GPUs count too, that is asked of those alone who cannot be drained.
    """
    settings, ledger = case.snapshot.settings, case.ledger(promised=False)
    drainable = sum(
        min(max(0, ledger.held.total[node.index] - node.guaranteed), _drainable(case, node.index))
        for node in case.tree.nodes
        if node.parent == ROOT and settings.headroom_drainable
    )
    left = sum(case.idle().values()) + drainable
    for release in case.plan.release if settings.headroom_gpus and left < settings.headroom_gpus else ():
        job = case.jobs[release.job]
        top = case.tree.nodes[case.tree.nodes[case.tree.leaf_of[job.queue]].lineage[-1]]
        asks_nothing = settings.headroom_drainable and job.preemptible and job.requeue
        if release.queue_usage is QueueUsage.BORROWED and not asks_nothing and not case.tree.typed:
            own = case.tree.nodes[case.tree.leaf_of[job.queue]]
            if ledger.held.total[top.index] > top.guaranteed and ledger.held.total[own.index] > own.guaranteed:
                yield f"{job.id} borrows and leaves {left} of {settings.headroom_gpus} GPUs"


def _drainable(case: Case, top: int) -> int:
    found = 0
    for job in case.snapshot.jobs:
        leaf = case.tree.leaf_of.get(job.queue, ROOT)
        if top in case.tree.nodes[leaf].lineage and job.preemptible and job.requeue:
            placement = case.released[job.id].placement if job.id in case.released else job.placement
            runs = job.id in case.released or (job.state is JobState.RUNNING and job.evicting_for is None)
            found += sum(part.gpus for part in placement) if runs else 0
    return found


def one_reason_each(case: Case) -> Iterator[str]:
    """`reasons` has exactly the jobs that are pending after the plan."""
    pending = {job.id for job in case.snapshot.jobs if job.state is JobState.PENDING} - set(case.released)
    for job_id in sorted(pending ^ set(case.plan.reasons)):
        yield f"{job_id} {'has no reason' if job_id in pending else 'is not pending'}"
    names = [release.job for release in case.plan.release]
    if len(set(names)) < len(names) or any(case.jobs[name].state is not JobState.PENDING for name in names):
        yield f"releases {names}"
    both = {evict.job for evict in case.plan.evict} & set(case.released)
    if both:
        yield f"{sorted(both)} are victims and released"
