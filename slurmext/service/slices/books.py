"""GPUs in and out of Slurm's books: a placeholder job has a GPU there for as long as it is cut or shared.

The intent is in the store before Slurm is asked, and the placeholder is named after it, so that a daemon that died in
between finds it again. A GPU goes back only after its agent has said that nobody is on it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from slurmext.errors import SlurmRefused
from slurmext.model.cluster import ClusterView, JobRecord
from slurmext.model.job import JobState
from slurmext.model.slice_state import GpuHold, GpuRecord, HoldState
from slurmext.model.slicing import GpuUse, ReturnGpu, TakeGpu
from slurmext.ports import Clock, Placeholders, SliceAgents, Store
from slurmext.service.slices.memory import PLACEHOLDER, SliceMemory

log = logging.getLogger(__name__)

START_PATIENCE_S = 30.0
"""How long Slurm may take to start a placeholder, and its agent to say which GPU it got."""
READY_PATIENCE_S = 60.0
"""How long an agent may take to make a GPU ready."""
LOST_S = 10.0
"""An intent that no placeholder job shows for is given up after this time."""
AGAIN_S = 5.0
"""An order that nobody has answered is given again after this time."""
REFUSED_S = 60.0
"""A node where a GPU could not be taken is left alone for so long."""


class Books:
    """Carries out and follows what a plan takes and returns."""

    def __init__(
        self, store: Store, placeholders: Placeholders, agents: SliceAgents, clock: Clock, *, owners: Collection[int]
    ) -> None:
        """`owners` are the uids whose jobs may be placeholders: anybody can call a job like one."""
        self._store, self._placeholders, self._agents, self._clock = store, placeholders, agents, clock
        self._owners = owners
        self._told = dict[tuple[str, GpuUse], float]()
        self._ended = dict[str, float]()
        self._awaited_s = dict[int, float]()
        self.refused = dict[str, float]()
        """Nodes where nothing is taken until then."""
        self.why = dict[str, str]()
        """Why not."""

    # what a plan asks for

    def take(self, token: int, take: TakeGpu, view: ClusterView, memory: SliceMemory) -> bool:
        """Take a GPU out of whole use, or turn one that is held already to another use."""
        now_s = self._clock.now()
        if take.gpu:
            return self._turn(token, take, memory, now_s)
        if self.refused.get(take.node, 0) > now_s:
            return False
        for_whom = f"for job {take.job}" if take.job else "as the policy wants"
        hold = self._store.add_hold(
            token,
            GpuHold(node=take.node, gpu_type=take.gpu_type, use=take.use, for_job=take.job, why=for_whom,
                    created_s=now_s, changed_s=now_s),
        )  # fmt: skip
        room = view.room.get(take.node)
        try:
            job_id = self._placeholders.hold_gpu(
                _name(hold), take.node, take.gpu_type, () if room is None else room.partitions
            )
        except SlurmRefused as refused:
            log.warning("no GPU of %s can be taken for slices: %s", take.node, refused)
            self._shut(take.node, str(refused), now_s)
            self._change(token, hold, HoldState.ENDED, why=str(refused))
            return False
        self._change(token, hold, HoldState.SUBMITTED, job_id=job_id)
        return True

    def _shut(self, node: str, why: str, now_s: float) -> None:
        self.refused[node], self.why[node] = now_s + REFUSED_S, why

    def shut(self, now_s: float) -> dict[str, str]:
        """Nodes where no GPU can be taken now, and why."""
        return {node: self.why.get(node, "") for node, until_s in self.refused.items() if until_s > now_s}

    def _turn(self, token: int, take: TakeGpu, memory: SliceMemory, now_s: float) -> bool:
        hold = next((hold for hold in memory.holds if hold.gpu == take.gpu and hold.state is HoldState.HELD), None)
        if hold is None or hold.use is take.use:
            return False
        self._change(token, replace(hold, use=take.use, for_job=take.job), HoldState.HELD)
        self._set_use(hold.node, hold.gpu, take.use, now_s)
        return True

    def give_back(self, token: int, order: ReturnGpu, memory: SliceMemory) -> bool:
        """Have the agent clear a GPU; the placeholder ends when it has."""
        hold = next((hold for hold in memory.holds if hold.gpu == order.gpu and hold.state is HoldState.HELD), None)
        if hold is None:
            return False
        self._change(token, hold, HoldState.CLEARING, why=order.why)
        self._set_use(hold.node, hold.gpu, GpuUse.WHOLE, self._clock.now())
        return True

    # what is under way

    def follow(self, token: int, view: ClusterView, memory: SliceMemory, *, awaited: Collection[str]) -> None:
        """Take every hold as far as Slurm and agents allow, and end placeholders that nobody knows of. `awaited` are
        jobs for whom others are leaving: a GPU that is taken for one of them may not be free yet.
        """
        now_s = self._clock.now()
        self._awaited_s = {
            hold.id: now_s if hold.for_job in awaited else self._awaited_s.get(hold.id, 0) for hold in memory.holds
        }
        jobs = {record.slurm_id: record for record in view.jobs if self._ours(record)}
        gpus = {gpu.uuid: gpu for gpu in memory.gpus}
        for hold in memory.holds:
            if view.read_s > hold.changed_s:  # else what was seen is older than what was done
                self._follow(token, hold, jobs, gpus, memory, now_s)
        self._end_strays(jobs.values(), memory, now_s)
        self._clear_unheld(memory, now_s)
        self._hold_again(token, view, memory)

    def _follow(
        self,
        token: int,
        hold: GpuHold,
        jobs: Mapping[str, JobRecord],
        gpus: Mapping[str, GpuRecord],
        memory: SliceMemory,
        now_s: float,
    ) -> None:
        record = jobs.get(hold.job_id) if hold.job_id else None
        if record is not None and record.name != _name(hold):
            record = None  # Slurm reuses ids
        age_s = now_s - hold.changed_s
        if hold.state is HoldState.INTENT:
            found = next((job for job in jobs.values() if job.name == _name(hold)), None)
            if found is not None:
                self._change(token, hold, HoldState.SUBMITTED, job_id=found.slurm_id)
            elif age_s > LOST_S:
                self._change(token, hold, HoldState.ENDED, why="not submitted")
        elif record is None:
            if hold.state is HoldState.SUBMITTED:
                log.warning(
                    "placeholder job %s on %s ended before it was known which GPU it got", hold.job_id, hold.node
                )
                self._shut(hold.node, "its placeholder job ended at once", now_s)
            if hold.state in {HoldState.HELD, HoldState.CLEARING}:
                log.warning("placeholder job %s of a GPU of %s is gone from Slurm", hold.job_id, hold.node)
            self._change(token, hold, HoldState.ENDED)
        elif hold.state is HoldState.SUBMITTED:
            self._find_gpu(token, hold, record, memory, now_s)
        elif hold.state is HoldState.HELD:
            self._follow_held(token, hold, gpus.get(hold.gpu), now_s)
        elif hold.state is HoldState.CLEARING:
            gpu = gpus.get(hold.gpu)
            if gpu is not None and gpu.use is GpuUse.WHOLE and gpu.at_s >= hold.changed_s - 1:
                self._cancel(hold.job_id, now_s)
                self._change(token, hold, HoldState.LEAVING)
            else:
                self._set_use(hold.node, hold.gpu, GpuUse.WHOLE, now_s)
        elif hold.state is HoldState.LEAVING:
            self._cancel(hold.job_id, now_s)

    def _follow_held(self, token: int, hold: GpuHold, gpu: GpuRecord | None, now_s: float) -> None:
        """Until its agent says that it is what it shall be; one that cannot be made so goes back."""
        if gpu is None or gpu.use is hold.use:
            return
        if gpu.use is GpuUse.WHOLE and now_s - hold.changed_s > READY_PATIENCE_S:
            why = f"its agent could not make it ready for {hold.use.value} use"
            log.warning("GPU %s of %s goes back: %s", hold.gpu, hold.node, why)
            self._shut(hold.node, why, now_s)
            self._cancel(hold.job_id, now_s)
            self._change(token, hold, HoldState.LEAVING, why=why)
            return
        self._make_ready(hold, gpu, now_s)

    def _find_gpu(self, token: int, hold: GpuHold, record: JobRecord, memory: SliceMemory, now_s: float) -> None:
        late = now_s - max(hold.changed_s, self._awaited_s[hold.id]) > START_PATIENCE_S
        gpu = None
        if record.state is JobState.RUNNING:
            gpu = self._gpu_of(hold, memory)
        if gpu is not None:
            try:
                self._placeholders.unlimit(hold.job_id)
            except SlurmRefused as refused:
                log.warning("placeholder job %s keeps its time limit: %s", hold.job_id, refused)
            self._change(token, hold, HoldState.HELD, gpu=gpu.uuid)
            self._make_ready(replace(hold, gpu=gpu.uuid), gpu, now_s)
        elif late:
            why = "its agent did not say which GPU it got" if record.state is JobState.RUNNING else record.reason
            log.warning("no GPU of %s can be taken for slices: %s", hold.node, why)
            self._shut(hold.node, why, now_s)
            self._cancel(hold.job_id, now_s)
            self._change(token, hold, HoldState.LEAVING, why=why)

    def _gpu_of(self, hold: GpuHold, memory: SliceMemory) -> GpuRecord | None:
        """The GPU that Slurm gave the placeholder, as the node's agent saw it start."""
        since_s = hold.created_s - 5
        taken = {other.gpu for other in memory.holds if other.gpu}
        for event in reversed(self._store.events(job_id=hold.job_id, since_s=since_s, limit=50)):
            if event.kind != "job_start" or event.source != f"agent:{hold.node}":
                continue
            numbers = str(event.detail.get("gpus", "")).split(",")
            for gpu in memory.gpus:
                if gpu.node == hold.node and str(gpu.minor) in numbers and gpu.uuid not in taken:
                    return gpu
        return None

    def _make_ready(self, hold: GpuHold, gpu: GpuRecord | None, now_s: float) -> None:
        if gpu is not None and gpu.use is not hold.use:
            self._set_use(hold.node, hold.gpu, hold.use, now_s)

    def _set_use(self, node: str, gpu: str, use: GpuUse, now_s: float) -> None:
        if now_s - self._told.get((gpu, use), 0) >= AGAIN_S:
            self._told = {key: at_s for key, at_s in self._told.items() if now_s - at_s < AGAIN_S}
            self._told[gpu, use] = now_s
            self._agents.set_use(node, gpu, use)

    def _end_strays(self, ours: Iterable[JobRecord], memory: SliceMemory, now_s: float) -> None:
        """Placeholders whose hold is over, or that a daemon submitted as it died."""
        names = {_name(hold) for hold in memory.holds}
        for record in ours:
            if record.name not in names and record.state is not JobState.COMPLETING:
                self._cancel(record.slurm_id, now_s)

    def _ours(self, record: JobRecord) -> bool:
        return record.name.startswith(PLACEHOLDER) and record.uid in self._owners and record.annotation is None

    def _clear_unheld(self, memory: SliceMemory, now_s: float) -> None:
        """GPUs in sliced use that nothing holds in Slurm's books go back as soon as nobody is on them."""
        held = {hold.gpu for hold in memory.holds if hold.gpu} | {record.gpu for record in memory.records}
        for gpu in memory.gpus:
            if gpu.uuid not in held and gpu.use in {GpuUse.MIG, GpuUse.SHARED} and gpu.node in memory.connected:
                self._set_use(gpu.node, gpu.uuid, GpuUse.WHOLE, now_s)

    def _hold_again(self, token: int, view: ClusterView, memory: SliceMemory) -> None:
        """Somebody ended a placeholder while jobs have slices of its GPU: Slurm must not give that GPU to others.

        Slurm may give another idle one of the node instead: that is held as well, until it is the right one's turn.
        """
        used = {record.gpu for record in memory.records}
        exposed = [gpu for gpu in memory.gpus if gpu.uuid in used and gpu.use in {GpuUse.MIG, GpuUse.SHARED}]
        if not exposed or not (exposed := self._unheld(exposed)):
            return
        types = {node.name: node.gpu_type for node in view.nodes}
        for gpu in exposed:
            if gpu.node in types:
                log.warning("GPU %d of %s has slices and is not held in Slurm's books", gpu.minor, gpu.node)
                self.take(token, TakeGpu(node=gpu.node, gpu_type=types[gpu.node], use=gpu.use), view, memory)

    def _unheld(self, gpus: Sequence[GpuRecord]) -> list[GpuRecord]:
        """Those of them that no placeholder has, one for each node where none is about to start."""
        holds = self._store.holds()
        held = {hold.gpu for hold in holds if hold.gpu}
        coming = {hold.node for hold in holds if hold.state in {HoldState.INTENT, HoldState.SUBMITTED}}
        found = {gpu.node: gpu for gpu in gpus if gpu.uuid not in held and gpu.node not in coming}
        return list(found.values())

    def _cancel(self, job_id: str, now_s: float) -> None:
        if now_s - self._ended.get(job_id, 0) < AGAIN_S:
            return
        self._ended = {known: at_s for known, at_s in self._ended.items() if now_s - at_s < AGAIN_S}
        self._ended[job_id] = now_s
        try:
            self._placeholders.cancel(job_id)
        except SlurmRefused as refused:
            log.info("placeholder %s: %s", job_id, refused)

    def _change(self, token: int, hold: GpuHold, state: HoldState, **values: str) -> None:
        changed = replace(hold, state=state, changed_s=self._clock.now(), **values)
        log.info("hold %d of a GPU of %s (job %s): %s %s", hold.id, hold.node, changed.job_id, state, changed.why)
        self._store.change_hold(token, changed)


def _name(hold: GpuHold) -> str:
    return f"{PLACEHOLDER}{hold.id}"
