"""The gentle steps for one pending job: start it on idle GPUs, or promise it GPUs that come free by themselves.

Each step either settles the job or leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Mapping

from slurmext.model.job import Job, Placement
from slurmext.model.plan import Note, QueueUsage, Reason, Release
from slurmext.model.snapshot import Fence
from slurmext.policy.herd import Need, Victims
from slurmext.policy.placement import place
from slurmext.policy.round import Promise, Round, Standing
from slurmext.policy.staging.warmer import warmer
from slurmext.policy.supply import FreeIndex, NodePart, mask_of


class Admission(Round):
    """Start and wait."""

    def start_on_own_type(self, leaf: int, job: Job) -> bool:
        """Start the job on idle GPUs of a type that it is guaranteed; True when it starts."""
        own = [flavor for flavor in self.flavors(job) if self.standing_on(leaf, job, flavor[1]) is Standing.FULL]
        if job.gpus <= 0 or self.drained(leaf, job, {"": job.least_tasks * job.gpus_per_task}):
            return False
        return self._start_on(own, leaf, job) is None

    def start(self, leaf: int, job: Job, standing: Standing, wanted: Placement = ()) -> Reason | None:
        """Start the job on GPUs that are idle now. Returns None when it starts, else the limit or NO_FREE_GPUS.

        `wanted` is tried first (a fence kept for it).
        """
        if job.gpus_per_task <= 0 or job.tasks <= 0:
            self.release.append(Release(job=job.id, placement=(), queue_usage=QueueUsage.GUARANTEED))
            return None
        shape = self.shape(leaf, job, standing)
        if self.drained(leaf, job, {"": job.least_tasks * job.gpus_per_task}):
            return Reason.PRE_DRAIN
        if shape in self.unfit and not wanted:
            return self.unfit[shape]
        why = self._start_on(self.flavors(job), leaf, job, wanted)
        if why is not None:
            self.unfit[shape] = why
        return why

    def _start_on(
        self, flavors: list[tuple[int, str | None]], leaf: int, job: Job, wanted: Placement = ()
    ) -> Reason | None:
        why: Reason | None = None
        for mask, gpu_type in flavors:
            allowed, limit = self.tasks_allowed(self.ledger.held, leaf, job, gpu_type)
            if allowed < job.least_tasks:
                why = why or limit
                continue
            # An elastic job starts with its least: others come first, and what is left over at the end is its.
            parts, limit = self._idle_place(leaf, job, job.least_tasks, mask, wanted)
            if parts is not None:
                self._release(leaf, job, parts, mask)
                return None
            why = limit if why in {None, Reason.NO_FREE_GPUS} or limit is Reason.NO_FREE_GPUS else why
        return why or Reason.NO_FREE_GPUS

    def _idle_place(
        self, leaf: int, job: Job, allowed: int, mask: int, wanted: Placement
    ) -> tuple[list[NodePart] | None, Reason]:
        now, size = self.supply.now, job.gpus_per_task
        tasks = min(allowed, now.capacity(size, mask, job.tasks_per_node, allowed))
        kept = Reason.NO_FREE_GPUS
        while tasks >= job.least_tasks:
            parts = self._as_wanted(job, tasks, mask, wanted, now) or place(now, tasks, size, mask, job.tasks_per_node)
            if parts is None:
                break
            if job.warm:
                parts = warmer(parts, self.nodes.mask_of(job.warm), mask, self.supply, self.nodes)
            by_type = self.nodes.by_type(parts)
            if self.tree.typed:
                limit = self.ledger.over_limit(self.ledger.held, leaf, job, by_type)
                if limit is None and not job.preemptible:
                    own = self.own_queue(leaf)
                    limit = None if self.ledger.held.within_guarantee(own, by_type) else Reason.OVER_GUARANTEE
                if limit is not None:
                    return None, limit
            if self.drained(leaf, job, by_type):
                kept = Reason.PRE_DRAIN
            elif not self.ledger.may_borrow(leaf, by_type, now.idle):
                kept = Reason.LENDING_LIMIT
            elif not self.ledger.leaves_headroom(leaf, job, by_type, now.idle):
                kept = Reason.HEADROOM
            else:
                return parts, Reason.NO_FREE_GPUS
            tasks -= 1
        return None, kept

    def _as_wanted(self, job: Job, tasks: int, mask: int, wanted: Placement, free: FreeIndex) -> list[NodePart] | None:
        """The wanted placement, if it still holds for exactly this many tasks."""
        parts = self.nodes.parts(wanted)
        if not parts or len(parts) != len(wanted) or sum(gpus for _, gpus in parts) != tasks * job.gpus_per_task:
            return None
        fits = all(mask >> i & 1 and free.free[i] >= gpus and gpus % job.gpus_per_task == 0 for i, gpus in parts)
        return parts if fits and len({index for index, _ in parts}) == len(parts) else None

    def _release(self, leaf: int, job: Job, parts: list[NodePart], mask: int) -> None:
        by_type = self.nodes.by_type(parts)
        own = self.ledger.held.within_guarantee(self.own_queue(leaf), by_type)
        self._tell(leaf, job, by_type)
        self.supply.take_now(parts)
        self.ledger.start(leaf, job, by_type)
        usage = QueueUsage.GUARANTEED if own else QueueUsage.BORROWED
        self.release.append(Release(job=job.id, placement=self.placement(parts), queue_usage=usage))
        if job.least_tasks < job.tasks:
            self.growing.append((leaf, job, parts, mask))

    def _tell(self, leaf: int, job: Job, gpus: Mapping[str, int]) -> None:
        """Its owner shall know when the calendar may cost the job its GPUs."""
        if self.ledger.drain is None or not self.tree.nodes[leaf].tells:
            return
        at_s = self.ledger.drain.in_the_way(leaf, job, gpus)
        if at_s is not None:
            self.notes.append(Note(job=job.id, reason=Reason.PRE_DRAIN, at_s=at_s))

    def grow(self) -> bool:
        """Give elastic jobs that start now what nobody else could use. True when one left GPUs for more elsewhere."""
        grown: dict[str, Release] = {}
        moved = False
        for number, (leaf, job, parts, mask) in enumerate(self.growing):
            if self.supply.now.capacity(job.gpus_per_task, mask, job.tasks_per_node, 1) == 0:
                continue
            by_type = self.nodes.by_type(parts)
            self.supply.give_back(parts)
            self.ledger.stop(leaf, job, by_type)
            gpu_type = next(iter(by_type)) if self.tree.typed else None
            allowed, _ = self.tasks_allowed(self.ledger.held, leaf, job, gpu_type)
            more, _ = self._idle_place(leaf, job, allowed, mask, ())
            if more is not None and sum(gpus for _, gpus in more) > sum(gpus for _, gpus in parts):
                own = self.ledger.held.within_guarantee(self.own_queue(leaf), self.nodes.by_type(more))
                usage = QueueUsage.GUARANTEED if own else QueueUsage.BORROWED
                grown[job.id] = Release(job=job.id, placement=self.placement(more), queue_usage=usage)
                moved = moved or any(index not in dict(more) for index, _ in parts)
                parts = more  # noqa: PLW2901
                self.notes = [note for note in self.notes if note.job != job.id]
                self._tell(leaf, job, self.nodes.by_type(more))
                self.growing[number] = (leaf, job, parts, mask)
            self.supply.take_now(parts)
            self.ledger.start(leaf, job, self.nodes.by_type(parts))
        self.release = [grown.get(release.job, release) for release in self.release]
        if moved:
            self.unfit.clear()
        return moved

    def promised(self, job: Job) -> bool:
        """Credit what is already being evicted for the job; True when there is any."""
        parts = self.evicted_for.pop(job.id, [])
        self.supply.leaving(parts, self.nodes.usable)
        if parts:
            self.hunt.changed(index for index, _ in parts)
        return bool(parts)

    def wait(self, leaf: int, job: Job, *, evicting: bool, wanted: Placement = ()) -> bool:
        """Promise the job GPUs that come free without anybody being told to go now."""
        levels = [self.supply.soon]
        if self.snapshot.settings.near_end_s > 0:
            levels.append(self.supply.near)
        for free in levels:
            for mask, gpu_type in self.flavors(job):
                allowed, _ = self.tasks_allowed(self.ledger.lasting, leaf, job, gpu_type)
                size = job.gpus_per_task
                tasks = job.least_tasks
                if allowed < tasks:
                    continue
                asked = self._as_wanted(job, tasks, mask, wanted, free)
                parts = asked or place(free, tasks, size, mask, job.tasks_per_node)
                if parts is None:
                    continue
                near = free is self.supply.near
                idle = self.supply.take_near(parts) if near else self.supply.take_soon(parts)
                self.ledger.start(leaf, job, self.nodes.by_type(parts))
                # What a running job holds until its near end cannot be fenced; only what is idle needs keeping then.
                if near:
                    self.keep(job, idle)
                else:
                    self.promises.append(
                        Promise(leaf=leaf, job=job, need=self.need(job, mask, ()), parts=parts, idle=idle)
                    )
                self.reasons[job.id] = Reason.RECLAIMING if evicting else Reason.WAITING_NEAR_END
                return True
        return False

    def need(self, job: Job, mask: int, inside: tuple[tuple[int, int], ...]) -> Need:
        return Need(
            tasks=job.least_tasks,
            size=job.gpus_per_task,
            mask=mask,
            per_node=job.tasks_per_node,
            inside=inside,
        )

    def promised_place(self, free: FreeIndex, need: Need, victims: Victims) -> list[NodePart] | None:
        """Where the beneficiary goes: where its own victims leave, so that others' promises stay independent."""
        own = mask_of({index for taking in victims.values() for index, _ in taking.parts}) & need.mask
        return place(free, need.tasks, need.size, own, need.per_node) or place(
            free, need.tasks, need.size, need.mask, need.per_node
        )

    def keep(self, job: Job, parts: list[NodePart]) -> None:
        if parts:
            self.fence.append(Fence(beneficiary=job.id, placement=self.placement(parts)))
