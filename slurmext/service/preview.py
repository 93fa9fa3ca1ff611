"""What applying a policy would do to running jobs: who would have to leave, and when."""

from __future__ import annotations

from dataclasses import dataclass

from slurmext.config.policy import SitePolicy
from slurmext.model.job import Job
from slurmext.model.plan import Reason
from slurmext.model.snapshot import Snapshot
from slurmext.policy.departures import departures
from slurmext.policy.supply import NodeTable
from slurmext.policy.tree import queue_tree
from slurmext.service.job_queues import under
from slurmext.service.policies import Policies


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """A running job that has to leave at `at_s` (Unix seconds) if nothing else ends before."""

    job: Job
    reason: Reason
    at_s: float


def takes_away(before: SitePolicy | None, after: SitePolicy, now_s: float) -> bool:
    """Whether the new policy makes a max smaller or removes a queue, with the numbers in force now."""
    if before is None:
        return False
    old, new = before.at(now_s), after.at(now_s)
    if any(path not in new.by_path and new.including([path]) is new for path in old.by_path):
        return True
    if old.dynamic.keys() - new.dynamic.keys():
        return True
    pairs = [(queue, new.by_path[path]) for path, queue in old.by_path.items() if path in new.by_path]
    pairs += [(like, new.dynamic[path]) for path, like in old.dynamic.items() if path in new.dynamic]
    for one, other in pairs:
        limits = [(one.max, other.max)]
        limits += [(q.max, other.by_type[t].max) for t, q in one.by_type.items() if t in other.by_type]
        if any(limit is not None and (most is None or limit < most) for most, limit in limits):
            return True
    return False


def leaving(snapshot: Snapshot, policies: Policies, after: SitePolicy) -> list[Leaving]:
    """Running jobs of the snapshot that would have to leave under the new policy, the soonest first."""
    seen = under(snapshot, policies.would_be(after, snapshot.now_s))
    found = departures(seen, tree=queue_tree(seen), nodes=NodeTable(seen.nodes))
    jobs = {job.id: job for job in snapshot.jobs}
    reasons = {Reason.QUOTA_CUT, Reason.QUEUE_REMOVED}
    told = [(evict.job, evict.reason, float(seen.now_s)) for evict in found.evict]
    told += [(note.job, note.reason, float(note.at_s)) for note in found.note]
    lines = [Leaving(job=jobs[job], reason=reason, at_s=at_s) for job, reason, at_s in told if reason in reasons]
    return sorted(lines, key=lambda line: (line.at_s, line.job.queue, line.job.id))
