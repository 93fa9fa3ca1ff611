"""Watches whether the GPUs of this node's jobs work, and tells the controller when that changes.

Said is little: that a job's GPUs idle once they did for REPORT_AFTER samples, again every so often while they still do,
at once when they work again or nobody knows, and a summary now and then. Since an idle job is confirmed again and
again, a node that falls silent (agent dead, driver hung, network gone) is soon one of which nobody knows.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from slurmext.agent.files import replace_file
from slurmext.agent.jobs import job_of_process

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from slurmext.agent.jobs import JobTable
    from slurmext.agent.spool import EventSpool
    from slurmext.model.gpu import GpuSample
    from slurmext.ports import GpuDriver

log = logging.getLogger(__name__)

REPORT_AFTER = 6
"""Samples. A shorter pause is not reported: jobs that wait for data or users now and then stay silent."""
VALID_FOR = 18
"""Samples. So long an idle report counts when it is not confirmed; it is after REPORT_AFTER."""
STALE_AFTER = 3
"""Samples. Over a longer gap between two looks nobody knows what a GPU did."""
SUMMARY_S = 1800.0

NEW, WORKING, IDLE, UNKNOWN = "", "working", "idle", "unknown"


@dataclass(slots=True, kw_only=True)
class Watched:
    """What is known of a job's GPUs. Times are Unix seconds; percentages and peak are over this run of the job."""

    job_id: int
    started_s: float
    gpus: int
    looked_s: float
    state: str = NEW
    idle_since_s: float | None = None
    told: str = ""
    told_s: float = 0.0
    looks: int = 0
    percent_sum: float = 0.0
    peak_memory_mib: int | None = None


class GpuWatch:
    """A thread that looks every `sample_s` seconds at the GPUs of jobs. They work from `busy_percent` on.

    `job_of` tells the job of a process, `sliced` the minor numbers of GPUs that are cut or shared: who has one of those
    in Slurm's books only holds its place.
    """

    def __init__(
        self,
        *,
        jobs: JobTable,
        events: EventSpool,
        driver: GpuDriver,
        memory: Path,
        sample_s: float = 10.0,
        busy_percent: float = 1.0,
        now: Callable[[], float] = time.time,
        job_of: Callable[[int], int | None] = job_of_process,
        sliced: Callable[[], Collection[int]] = tuple,
    ) -> None:
        self._jobs, self._events, self._driver, self._memory = jobs, events, driver, memory
        self._sample_s, self._busy_percent, self._now = sample_s, busy_percent, now
        self._job_of, self._sliced = job_of, sliced
        self._watched = _remembered(memory)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpus", daemon=True)

    def start(self) -> None:
        """Look in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; a driver that hangs is not waited for."""
        self._stop.set()
        self._thread.join(1)

    def states(self) -> dict[int, str]:
        """What each job's GPUs do, by job."""
        return {job_id: watched.state for job_id, watched in list(self._watched.items())}

    def look(self) -> None:
        """Look at the GPUs of every job once and report what is to be reported."""
        sliced = set(self._sliced())
        jobs = {job.job_id: (job, numbers) for job in self._jobs.all()
                if (numbers := numbers_in(job.gpus)) and not sliced.issuperset(numbers)}  # fmt: skip
        for job_id in [job_id for job_id in self._watched if job_id not in jobs]:
            self._ended(self._watched.pop(job_id))
        if not jobs:
            self._driver.release()
            self._memory.unlink(missing_ok=True)
            return
        samples = self._driver.sample()
        now_s = self._now()
        for job, numbers in jobs.values():
            watched = self._watched.get(job.job_id)
            if watched is None or watched.started_s != job.started_s:
                watched = Watched(job_id=job.job_id, started_s=job.started_s, gpus=len(numbers),
                                  looked_s=job.started_s)  # fmt: skip
                self._watched[job.job_id] = watched
            self._update(watched, numbers, samples, now_s)
            self._report(watched, now_s)
        self._remember()

    def _update(self, watched: Watched, numbers: Collection[int], samples: Sequence[GpuSample], now_s: float) -> None:
        known, whole = of_numbers(numbers, samples)
        gap = now_s - watched.looked_s > STALE_AFTER * self._sample_s
        if any(map(self._works, known)) or self._works_elsewhere(watched.job_id, known, samples):
            watched.state, watched.idle_since_s = WORKING, None
        elif gap or not whole:
            watched.state, watched.idle_since_s = UNKNOWN, None
        elif watched.state != IDLE:
            # It stopped at some time after the look before this one; after UNKNOWN nobody can say.
            since_s = now_s if watched.state == UNKNOWN else watched.looked_s
            watched.state, watched.idle_since_s = IDLE, since_s
        watched.looked_s = now_s
        if known and watched.state != UNKNOWN:
            watched.looks += 1
            watched.percent_sum += sum(sample.mean_percent for sample in known) / len(known)
            used = [sample.memory_mib for sample in known if sample.memory_mib is not None]
            if used:
                watched.peak_memory_mib = max(*used, watched.peak_memory_mib or 0)

    def _works(self, sample: GpuSample) -> bool:
        return sample.peak_percent >= self._busy_percent

    def _works_elsewhere(self, job_id: int, own: Collection[GpuSample], samples: Collection[GpuSample]) -> bool:
        """Whether a process of the job works on a GPU that its numbers do not seem to name.

        Where gres.conf lists some of a node's GPUs, Slurm counts only those (tried on 22.05).
        """
        others = (sample for sample in samples if sample not in own and self._works(sample))
        return any(self._job_of(pid) == job_id for sample in others for pid in sample.pids)

    def _report(self, watched: Watched, now_s: float) -> None:
        patience_s = REPORT_AFTER * self._sample_s
        said_s = now_s - watched.told_s
        if watched.state == IDLE:
            long = now_s - (watched.idle_since_s or now_s) >= patience_s
            due = long and (watched.told != IDLE or said_s >= patience_s)
        elif not watched.told:
            due = now_s - watched.started_s >= patience_s
        else:
            due = watched.told != watched.state or said_s >= SUMMARY_S
        if due:
            self._tell(watched, watched.state, now_s)

    def _ended(self, watched: Watched) -> None:
        if watched.looks:
            self._tell(watched, UNKNOWN, watched.looked_s, final=True)

    def _tell(self, watched: Watched, state: str, now_s: float, *, final: bool = False) -> None:
        self._events.add(
            "gpu_activity",
            job_id=watched.job_id,
            at_s=now_s,
            state=state,
            changed=state != watched.told and not final,
            idle_since_s=watched.idle_since_s if state == IDLE else None,
            valid_s=VALID_FOR * self._sample_s,
            started_s=watched.started_s,
            gpus=watched.gpus,
            mean_percent=round(watched.percent_sum / watched.looks, 1) if watched.looks else None,
            peak_memory_mib=watched.peak_memory_mib,
        )
        watched.told, watched.told_s = state, now_s

    def _remember(self) -> None:
        """Over a restart of the agent nothing is forgotten, nor said twice."""
        lines = [json.dumps(asdict(watched)) for watched in self._watched.values()]
        try:
            replace_file(self._memory, "".join(f"{line}\n" for line in lines).encode())
        except OSError as error:
            log.warning("%s: %s; a restart of the agent would not know this", self._memory, error.strerror)

    def _run(self) -> None:
        while not self._stop.wait(self._sample_s):
            try:
                self.look()
            except Exception:
                log.exception("looking at the GPUs failed; what they do is unknown")


def numbers_in(gpus: str) -> tuple[int, ...]:
    """The numbers in SLURM_JOB_GPUS: `0,1` or `0-3,6`; empty when it has none or is something else."""
    found: set[int] = set()
    for part in gpus.split(",") if gpus else ():
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            return ()
        found.update(range(int(first), min(int(last or first), int(first) + 1023) + 1))
    return tuple(sorted(found))


def of_numbers(numbers: Collection[int], samples: Collection[GpuSample]) -> tuple[list[GpuSample], bool]:
    """The GPUs that Slurm's numbers may mean, and whether all of them could be read.

    With File=/dev/nvidia[0-7] they are minor numbers, with AutoDetect=nvml the driver's order: mostly the same, and
    where they differ both are taken, so that a job whose GPU works is never called idle.
    """
    by_minor = {sample.minor: sample for sample in samples}
    by_index = {sample.index: sample for sample in samples}
    found = {by[number].minor for by in (by_minor, by_index) for number in numbers if number in by}
    whole = all(number in by for by in (by_minor, by_index) for number in numbers)
    return [by_minor[minor] for minor in sorted(found)], whole


def _remembered(memory: Path) -> dict[int, Watched]:
    """What the agent before this one knew; a damaged line is nothing known."""
    names = {field.name for field in fields(Watched)}
    found: dict[int, Watched] = {}
    try:
        lines = memory.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            values: Mapping[str, object] = json.loads(line)
            watched = Watched(**{key: value for key, value in values.items() if key in names})  # type: ignore[arg-type]
            found[watched.job_id] = watched
        except (ValueError, TypeError, AttributeError):
            log.warning("%s: skipped the damaged line %.60r", memory, line)
    return found
