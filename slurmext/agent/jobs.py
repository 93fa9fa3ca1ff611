"""The jobs running on this node, as prolog and epilog reported them; a journal carries them over a restart."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from slurmext.agent.files import append_line, replace_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

log = logging.getLogger(__name__)

COMPACT_LINES = 4096
BATCH = "batch"
"""The step that is the job's script."""
_STEPD = re.compile(rb"slurmstepd: \[(\d+)(?:\.(\w*))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningJob:
    """A job on this node. `started_s` is Unix seconds; `gpus` are device indices as Slurm gave them."""

    job_id: int
    uid: int
    started_s: float
    restarts: int = 0
    gpus: str = ""
    queue: str = ""
    ckpt: str = ""
    ckpt_dir: str = ""


class JobTable:
    """Jobs by id. Threads may call any method; each change is in the journal before the method returns."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._jobs = _replay(journal)
        self._lines = 0
        self._compact()

    def start(self, job: RunningJob) -> RunningJob | None:
        """Remember a job; returns what was known under its id before."""
        with self._lock:
            former = self._jobs.get(job.job_id)
            self._jobs[job.job_id] = job
            self._write({"op": "start", "job": asdict(job)})
        return former

    def end(self, job_id: int) -> RunningJob | None:
        """Forget a job; returns what was known of it."""
        with self._lock:
            former = self._jobs.pop(job_id, None)
            if former is not None:
                self._write({"op": "end", "job_id": job_id})
        return former

    def get(self, job_id: int) -> RunningJob | None:
        """The job, if it runs here."""
        with self._lock:
            return self._jobs.get(job_id)

    def all(self) -> list[RunningJob]:
        """Every job on this node, oldest id first."""
        with self._lock:
            return [self._jobs[job_id] for job_id in sorted(self._jobs)]

    def retain(self, alive: Iterable[int], *, started_before_s: float) -> list[RunningJob]:
        """Forget jobs that started before then and are not alive; returns them."""
        keep = set(alive)
        gone = [job for job in self.all() if job.job_id not in keep and job.started_s < started_before_s]
        return [job for job in gone if self.end(job.job_id) is not None]

    def _write(self, entry: dict[str, object]) -> None:
        # A journal that cannot be written (disk full) must not stop a job: the table in memory goes on.
        try:
            append_line(self._journal, json.dumps(entry))
        except OSError as error:
            log.warning("%s: %s; a restart of the agent would not know this", self._journal, error.strerror)
            return
        self._lines += 1
        if self._lines > COMPACT_LINES + 4 * len(self._jobs):
            self._compact()

    def _compact(self) -> None:
        lines = [json.dumps({"op": "start", "job": asdict(job)}) for job in self._jobs.values()]
        try:
            replace_file(self._journal, "".join(f"{line}\n" for line in lines).encode())
            self._lines = len(lines)
        except OSError as error:
            log.warning("%s cannot be compacted: %s", self._journal, error.strerror)


def _replay(journal: Path) -> dict[int, RunningJob]:
    """What the journal says. A line torn by a crash or damaged is skipped: the rest still holds."""
    jobs: dict[int, RunningJob] = {}
    names = {field.name for field in fields(RunningJob)}
    try:
        text = journal.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return jobs
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            if entry["op"] == "start":
                job = RunningJob(**{key: value for key, value in entry["job"].items() if key in names})
                jobs[job.job_id] = job
            elif entry["op"] == "end":
                jobs.pop(entry["job_id"], None)
        except (ValueError, KeyError, TypeError, AttributeError):
            log.warning("%s: skipped the damaged line %.60r", journal, line)
    return jobs


def jobs_with_processes(proc: str = "/proc") -> dict[int, set[int]]:
    """Job id -> uids of its processes, read from the slurmstepd processes of this machine.

    A stepd names its step (`slurmstepd: [12.batch]`) and runs as root, so no user can make one up. Hooks and agents
    must not call Slurm for this (prolog_epilog guide).
    """
    stepds: dict[int, int] = {}
    parents: dict[int, list[int]] = {}
    for name in os.listdir(proc):
        if not name.isdigit():
            continue
        pid = int(name)
        job_id = stepd_job(pid, proc)
        if job_id is not None:
            stepds[pid] = job_id
        parents.setdefault(parent_of(pid, proc), []).append(pid)
    found: dict[int, set[int]] = {}
    for pid, job_id in stepds.items():
        uids = {uid for child in parents.get(pid, ()) if (uid := _uid_of(child, proc)) is not None}
        found.setdefault(job_id, set()).update(uids)
    return found


def job_of_process(pid: int, proc: str = "/proc") -> int | None:
    """The job a process belongs to: the step of the nearest slurmstepd above it."""
    for _ in range(256):
        if pid <= 1:
            return None
        job_id = stepd_job(pid, proc)
        if job_id is not None:
            return job_id
        pid = parent_of(pid, proc)
    return None


def stepd_job(pid: int, proc: str = "/proc") -> int | None:
    """The job of a root-owned slurmstepd, None for any other process."""
    step = stepd_step(pid, proc)
    return None if step is None else step[0]


def is_batch_stepd(pid: int, job_id: int, proc: str = "/proc") -> bool:
    """Whether it is the root-owned slurmstepd of the job's batch script."""
    return stepd_step(pid, proc) == (job_id, BATCH)


def stepd_step(pid: int, proc: str = "/proc") -> tuple[int, str] | None:
    """The job and the step (`0`, `batch`, `extern`) of a slurmstepd, None for any other process.

    Anybody can call a process so. Slurm's is root's by its real user: a program with root's set-user-ID bit that a user
    started under such a name (`su` has a child of the user's below it) has his, and slurmstepd itself takes on its
    job's user now and then, but for the real one.
    """
    try:
        with open(f"{proc}/{pid}/cmdline", "rb") as file:  # noqa: PTH123 - hundreds of these
            found = _STEPD.match(file.read(200))
    except OSError:
        return None
    return (int(found[1]), found[2].decode()) if found is not None and real_uid(pid, proc) == 0 else None


def parent_of(pid: int, proc: str = "/proc") -> int:
    """The parent's pid, 0 when the process is gone."""
    return parent_and_group(pid, proc)[0]


def parent_and_group(pid: int, proc: str = "/proc") -> tuple[int, int]:
    """The parent's pid and the process group (proc(5), stat), both 0 when the process is gone."""
    try:
        with open(f"{proc}/{pid}/stat", "rb") as file:  # noqa: PTH123
            words = file.read(4096).rpartition(b")")[2].split()
            return int(words[1]), int(words[2])
    except (OSError, ValueError, IndexError):
        return 0, 0


def started_ticks(pid: int | str, proc: str = "/proc") -> int | None:
    """When a process started, in ticks since boot (proc(5), stat), None when it is gone. With the pid it names one
    process for ever.
    """
    try:
        with open(f"{proc}/{pid}/stat", "rb") as file:  # noqa: PTH123
            return int(file.read(4096).rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def real_uid(pid: int, proc: str = "/proc") -> int | None:
    """Who started a process (proc(5), status), None when it is gone."""
    try:
        with open(f"{proc}/{pid}/status", "rb") as file:  # noqa: PTH123
            return next((int(line.split()[1]) for line in file if line.startswith(b"Uid:")), None)
    except (OSError, ValueError, IndexError):
        return None


def _uid_of(pid: int, proc: str) -> int | None:
    try:
        return os.stat(f"{proc}/{pid}").st_uid  # noqa: PTH116
    except OSError:
        return None
