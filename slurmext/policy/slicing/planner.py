"""`plan_slices(snapshot) -> SlicePlan`: who gets which places now, what GPUs change their use, and why others wait.

Jobs are asked in the order in which whole-GPU jobs are: within guarantees first, then towards the fair share. For each
the gentlest thing that helps is done: places that are free now (warm instances that are in the way are destroyed);
a GPU that is taken into sliced use; slices on their way out; moves of jobs that consented; for guaranteed demand,
slices and then whole GPUs that others borrowed; and for a request that has waited long, a place held until it is free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from slurmext.model.job import HOLDING, Job
from slurmext.model.plan import Reason
from slurmext.model.slicing import SliceJob, SlicePlan, SliceSnapshot
from slurmext.policy.caps import CAP_REASONS, cap_sentence, over_caps, takes_place
from slurmext.policy.order import arrival
from slurmext.policy.round import Standing
from slurmext.policy.slicing.finder import Request
from slurmext.policy.slicing.kinds import GPU_PARTS
from slurmext.policy.slicing.needs import Refusal
from slurmext.policy.slicing.quota import whole_in_parts
from slurmext.policy.slicing.vacating import Vacating
from slurmext.policy.slicing.why import why_not

WANTS_A_GPU = frozenset({Reason.SLICE_FULL, Reason.SLICE_FRAGMENTED, Reason.SLICE_HELD, Reason.RECLAIMING})
"""Who waits for one of these could use a GPU that is empty now."""


def plan_slices(snapshot: SliceSnapshot) -> SlicePlan:
    """The one slice plan for this snapshot, whatever the order of its lists. Pure and total."""
    return SlicePlanner().plan(snapshot)


class SlicePlanner:
    """`plan_slices()` for one snapshot after the other: whole-GPU jobs that are the same are not counted anew."""

    def __init__(self) -> None:
        self._whole: dict[str, tuple[Job, Job]] = {}

    def plan(self, snapshot: SliceSnapshot) -> SlicePlan:
        """The same as `plan_slices(snapshot)`."""
        known = self._whole
        self._whole = {}
        for job in sorted((job for job in snapshot.whole if job.state in HOLDING), key=lambda job: job.id):
            before = known.get(job.id)
            same = before is not None and before[0] is job
            self._whole[job.id] = before if before is not None and same else (job, whole_in_parts(job))
        return _Asking(snapshot, [counted for _, counted in self._whole.values()]).plan()


class _Asking(Vacating):
    """One plan: everybody asked, in order."""

    def plan(self) -> SlicePlan:
        self.keep_targets()
        self.owe()
        self._asked: set[str] = set()
        self._unfit: dict[tuple[object, ...], Reason] = {}
        self._held: set[tuple[object, ...]] = set()
        self._placeless: list[tuple[SliceJob, list[Request]]] = []
        waiting = self._eligible()
        for job in self._owed(waiting):
            leaf = self.quotas.leaf(self.shadows[job.id])
            if leaf is not None:
                self._ask(leaf, self.shadows[job.id], self._standing(leaf, job))
        # Who had places held goes on waiting for them: else whoever is asked before would take each as it comes free.
        held = {hold.job for hold in self.snapshot.holds}
        before = sorted((job for job in waiting if job.id in held), key=lambda job: (job.submitted_s, job.id))
        self.quotas.in_order(self._types_of, self._ask, [self.shadows[job.id] for job in before])
        self._say_why()
        self.pools.fill()
        wanting = {
            gpu_type
            for job, _ in self._placeless
            if self.reasons.get(job.id) in WANTS_A_GPU and (wanted := self.wish(job)) is not None
            for gpu_type in self.wants.gpu_types(wanted)
        }
        started = {reserve.job for reserve in self.reserve}
        return SlicePlan(
            reserve=tuple(sorted(self.reserve, key=lambda reserve: reserve.job)),
            free_warm=tuple(sorted(self.free_warm, key=lambda free: (free.node, free.gpu, free.start))),
            take_gpu=tuple(sorted(self.pools.take, key=lambda take: (take.node, take.gpu_type, take.gpu, take.job))),
            return_gpu=tuple(self.pools.give_back(wanting)),
            move=tuple(sorted(self.move, key=lambda move: move.job)),
            evict=tuple(sorted(self.evict, key=lambda evict: evict.job)),
            hold=tuple(sorted(self.hold, key=lambda hold: hold.job)),
            reasons={job.id: self.reasons[job.id] for job in self.pending if job.id not in started},
            details={job.id: self.details[job.id] for job in self.pending if job.id in self.details},
            counts={job.id: self.shadows[job.id].gpus / GPU_PARTS for job in self.pending if job.id not in started},
        )

    def _eligible(self) -> list[SliceJob]:
        """Jobs that may be asked at all; the others get their reason."""
        now_s = self.snapshot.now_s
        found: list[SliceJob] = []
        for job in self.pending:
            wanted = self.wants.wish(job)
            refusal = wanted if isinstance(wanted, Refusal) else self.wants.too_large(job, wanted)
            if self.quotas.leaf(self.shadows[job.id]) is None:
                self.say(job.id, Reason.UNKNOWN_QUEUE)
            elif not self.yard.card_types:
                self.say(job.id, Reason.UNKNOWN_STATE, "no node has reported its GPUs yet")
            elif refusal is not None:
                self.refuse(job, refusal)
            elif job.blocked is not None or (job.eligible_s is not None and job.eligible_s > now_s):
                self.say(job.id, Reason.NOT_ELIGIBLE, job.blocked or "")
            else:
                found.append(job)
                continue
            self._asked.add(job.id)
        return self._within_caps(found)

    def _within_caps(self, waiting: list[SliceJob]) -> list[SliceJob]:
        """Without those of whom Slurm would start no more."""
        capped = [job for job in waiting if job.caps]
        if not capped:
            return waiting
        running = Counter(cap.name for job in self.jobs.values() if takes_place(job) for cap in job.caps)
        capped.sort(key=lambda job: (-job.priority, *arrival(job)))
        over = over_caps(capped, running, self._promised())
        for job_id, cap in over.items():
            self.say(job_id, CAP_REASONS[cap.kind], cap_sentence(self.jobs[job_id], cap.kind, running))
        self._asked |= over.keys()
        return [job for job in waiting if job.id not in over]

    def _promised(self) -> set[str]:
        """Those whom others make or made room for, and those a GPU was taken for."""
        owed = {other for other in self.leaving.values() if other is not None}
        owed |= {take.job for take in self.snapshot.taking}
        return owed | {hold.job for hold in self.snapshot.holds if hold.promised}

    def _owed(self, waiting: Sequence[SliceJob]) -> list[SliceJob]:
        """Those to whom something is promised: nobody gets in between."""
        owed = self._promised()

        def key(job: SliceJob) -> tuple[int, float, str]:
            leaf = self.quotas.leaf(self.shadows[job.id])
            standing = Standing.BORROW if leaf is None else self._standing(leaf, job)
            return standing, float(job.submitted_s), job.id

        return sorted((job for job in waiting if job.id in owed), key=key)

    def _types_of(self, job_id: str) -> Sequence[str | None]:
        if not self.quotas.tree.typed:
            return (None,)
        wanted = self.wish(self.jobs[job_id])
        return (None,) if wanted is None else self.wants.gpu_types(wanted)

    def _standing(self, leaf: int, job: SliceJob) -> Standing:
        return self.quotas.standing(leaf, self.shadows[job.id], self._types_of(job.id))

    def _ask(self, leaf: int, shadow: Job, standing: Standing) -> bool:
        """Do for the job the gentlest thing that helps; True when it got something."""
        job = self.jobs[shadow.id]
        wanted = self.wish(job)
        if job.id in self._asked or wanted is None:
            return False
        self._asked.add(job.id)
        flavors = [(kind,) for kind in self._in_order_of(job)] if self.quotas.tree.typed else [None]
        requests = [request for types in flavors for request in self.wants.requests(job, wanted, types)]
        shape = self._shape(leaf, job, requests, standing)
        why = self._unfit.get(shape)
        if why is None:
            why = self.start(leaf, shadow, job, requests)
            if why is None:
                return True
        self.say(job.id, why)
        if why is not Reason.SLICE_FULL:
            self._unfit[shape] = why
            return False
        self._placeless.append((job, requests))
        if shape not in self._unfit and self._room_is_made(leaf, shadow, job, requests, standing):
            return True
        self._unfit[shape] = why
        queue_shape = shape[:2]
        if queue_shape not in self._held and self.hold_for(job, requests):
            self._held.add(queue_shape)
        return False

    def _in_order_of(self, job: SliceJob) -> Sequence[str]:
        wanted = self.wish(job)
        usable = [] if wanted is None else self.wants.gpu_types(wanted)
        return [kind for kind in job.types if kind in usable] or usable

    def _room_is_made(
        self, leaf: int, shadow: Job, job: SliceJob, requests: Sequence[Request], standing: Standing
    ) -> bool:
        promised = job.id in self.leaving.values()
        if self.awaits(leaf, shadow, job, requests):
            return True
        if (standing is not Standing.BORROW or promised) and self.wait(leaf, shadow, job, requests):
            return True
        if self.quotas.delayed(leaf, shadow):
            return False
        if self.make_room(leaf, shadow, job, requests):
            return True
        if standing is Standing.BORROW:
            return False
        return self.reclaim(leaf, shadow, job, requests) or self.vacate(leaf, shadow, job, requests)

    def _shape(self, leaf: int, job: SliceJob, requests: Sequence[Request], standing: Standing) -> tuple[object, ...]:
        """Jobs of the same shape share their fate within a plan: what is free or allowed only shrinks."""
        numbers = tuple(request.number for request in requests)
        limited = (job.time_limit_s,) if self.quotas.tree.changes else ()
        promised = job.id if job.id in self.leaving.values() else ""
        delayed = self.quotas.delayed(leaf, self.shadows[job.id])
        who = job.user, job.groups, job.preemptible, standing, promised, delayed
        return numbers, job.need.nodes, leaf, *who, *limited

    def _say_why(self) -> None:
        """The dominant reason of those for whom there is no place, looked for once all is planned."""
        known: dict[tuple[object, ...], tuple[Reason, str]] = {}
        for job, requests in self._placeless:
            if self.reasons.get(job.id) is not Reason.SLICE_FULL or job.id in self.details:
                continue
            key = tuple(request.number for request in requests), job.need.nodes
            if key not in known:
                known[key] = why_not(self, job, requests)
            self.say(job.id, *known[key])
