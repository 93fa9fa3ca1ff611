"""What Slurm and the jobs' own output say happened; nothing here asks slurmext."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurmext.adapters.slurm_cli import fields

if TYPE_CHECKING:
    from pathlib import Path

    from slurmext.devcluster import Devcluster

_FIELD = re.compile(r"(\w+)=(\S*)")
_SAVED = re.compile(r"^saved step (\d+)$", re.MULTILINE)
_RESUMED = re.compile(r"^resumed at step (\d+)$", re.MULTILINE)
_LOSS = re.compile(r"^final loss (\S+) after", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmRecord:
    """A job as `scontrol show job` prints it. Times are Unix seconds."""

    job_id: str
    state: str
    restarts: int
    nodes: tuple[str, ...]
    submit_s: int
    start_s: int | None
    exit_code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a training job printed over all its runs. `last_saved` is what was saved last before each resume."""

    saved: tuple[int, ...]
    resumed: tuple[int, ...]
    last_saved: tuple[int | None, ...]
    loss: str | None


def job(cluster: Devcluster, job_id: str) -> SlurmRecord:
    """The job's record in Slurm."""
    text = cluster.run(
        ["scontrol", "--oneliner", "show", "job", job_id], env={"SLURM_TIME_FORMAT": "%s", "TZ": "UTC"}
    ).stdout
    values = dict(_FIELD.findall(text))
    return SlurmRecord(
        job_id=job_id,
        state=values["JobState"],
        restarts=int(values["Restarts"]),
        nodes=fields.hosts(values.get("NodeList", "")),
        submit_s=fields.unix_time(values["SubmitTime"]) or 0,
        start_s=fields.unix_time(values["StartTime"]),
        exit_code=values["ExitCode"],
    )


def output(path: Path) -> Output:
    """A training job's output file."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    loss = _LOSS.search(text)
    runs = [_SAVED.findall(part) for part in re.split(r"^resumed at step \d+$", text, flags=re.MULTILINE)[:-1]]
    return Output(
        saved=tuple(int(step) for step in _SAVED.findall(text)),
        resumed=tuple(int(step) for step in _RESUMED.findall(text)),
        last_saved=tuple(int(steps[-1]) if steps else None for steps in runs),
        loss=loss[1] if loss else None,
    )
