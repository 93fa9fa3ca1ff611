"""Traces that sites and the public have, as ours. Each reader yields TraceJob; times start at the first submission."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from slurmext.errors import UsageError
from slurmext.simulate.workload import TraceJob, shape

Row = dict[str, str]

SACCT_FIELDS = "JobIDRaw,User,Account,Submit,ElapsedRaw,NNodes,AllocTRES,TimelimitRaw,AdminComment"
"""What `sacct -aXnP -o ...` is asked for. AdminComment, where slurmext notes the queue, may be left out."""
SACCT_STATES = "CD,F,TO"
"""The jobs worth asking for: they ran as long as they wanted or could."""
_COMMENT_QUEUE = re.compile(r"^slurmext/\d+ (?:.* )?queue=(\S+)")
_TRES_GPUS = re.compile(r"gres/gpu=(\d+)")
_SWF_FIELDS = 18


def read(path: Path, kind: str) -> list[TraceJob]:
    """The GPU jobs of a file (plain or gzip), from the first submission on. Raises UsageError as `read_dated` does."""
    return read_dated(path, kind)[0]


def read_dated(path: Path, kind: str) -> tuple[list[TraceJob], float]:
    """The same, and when the first submission was, in the file's own seconds (Unix time if it has dates).

    Raises UsageError for a file that is not of this kind.
    """
    if kind not in FORMATS:
        raise UsageError(f"unknown format {kind!r}; one of {', '.join(FORMATS)}")
    try:
        raw = path.read_bytes()
        text = gzip.decompress(raw).decode() if raw[:2] == b"\x1f\x8b" else raw.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return from_zero(parse(text, kind, str(path)))


def parse(text: str, kind: str, name: str) -> list[TraceJob]:
    """The GPU jobs of a text, with the times it has. Raises UsageError for one that is not of this kind."""
    try:
        return list(FORMATS[kind](text))
    except (KeyError, ValueError, IndexError) as error:
        raise UsageError(f"{name} is no {kind} trace: {type(error).__name__} {error}") from error


def from_zero(jobs: list[TraceJob]) -> tuple[list[TraceJob], float]:
    """The jobs with the first submission at second 0, and when that was."""
    first_s = float(min((job.submit_s for job in jobs), default=0))
    return [replace(job, submit_s=job.submit_s - first_s) for job in jobs] if first_s else jobs, first_s


def _rows(text: str, delimiter: str = ",") -> Iterable[Row]:
    return csv.DictReader(io.StringIO(text), delimiter=delimiter)


def _philly(text: str) -> Iterator[TraceJob]:
    """Microsoft Philly as CSV: job_id, vc, submit_s, gpu_num, duration_s."""
    for row in _rows(text):
        if int(row["gpu_num"]) > 0 and float(row["duration_s"]) > 0:
            yield TraceJob(
                id=row["job_id"], queue=row["vc"], submit_s=float(row["submit_s"]),
                duration_s=float(row["duration_s"]), **shape(int(row["gpu_num"])),
            )  # fmt: skip


def _helios(text: str) -> Iterator[TraceJob]:
    """SenseTime Helios: job_id, user, vc, gpu_num, submit_time, duration."""
    for row in _rows(text):
        if int(row["gpu_num"]) > 0 and float(row["duration"]) > 0:
            yield TraceJob(
                id=row["job_id"], queue=row["vc"], user=row["user"], submit_s=_seconds(row["submit_time"]),
                duration_s=float(row["duration"]), **shape(int(row["gpu_num"])),
            )  # fmt: skip


def _openb(text: str) -> Iterator[TraceJob]:
    """Alibaba openb pods: whole-GPU ones; latency-sensitive pods (LS) become the queue `ls`, best-effort ones `be`."""
    for row in _rows(text):
        gpus = int(row["num_gpu"] or 0)
        whole = gpus > 0 and int(row["gpu_milli"] or 0) == 1000  # noqa: PLR2004  thousandths of a GPU
        if whole and row["deletion_time"]:
            lasted = float(row["deletion_time"]) - float(row["creation_time"])
            types = " ".join(row["gpu_spec"].lower().split("|")) if row["gpu_spec"] else ""
            if lasted > 0:
                yield TraceJob(
                    id=row["name"], queue="ls" if row["qos"] == "LS" else "be", submit_s=float(row["creation_time"]),
                    duration_s=lasted, types=types, **shape(gpus),
                )  # fmt: skip


def _swf(text: str) -> Iterator[TraceJob]:
    """Standard Workload Format: processors count as GPUs, the queue is the SWF queue number."""
    for line in text.splitlines():
        parts = line.split()
        if not parts or line.lstrip().startswith(";"):
            continue
        if len(parts) != _SWF_FIELDS:
            raise ValueError(f"a line has {len(parts)} fields, not {_SWF_FIELDS}")
        processors = int(parts[4]) if int(parts[4]) > 0 else int(parts[7])
        if processors > 0 and float(parts[3]) > 0:
            limit = float(parts[8])
            yield TraceJob(
                id=parts[0], queue=f"q{parts[14]}", user=f"u{parts[11]}", submit_s=float(parts[1]),
                duration_s=float(parts[3]), time_limit_s=limit if limit > 0 else None, **shape(processors),
            )  # fmt: skip


def _sacct(text: str) -> Iterator[TraceJob]:
    """`sacct -aXnP -o ...` with the fields of SACCT_FIELDS; the queue is what slurmext noted, else the account."""
    names = SACCT_FIELDS.split(",")
    for line in text.splitlines():
        values = line.split("|", len(names) - 1)
        if values[:1] == names[:1] or not line.strip():
            continue
        if len(values) < len(names) - 1:
            raise ValueError(f"a line has {len(values)} fields, not {len(names)} ({SACCT_FIELDS})")
        row = dict(zip(names, [*values, ""], strict=False))
        noted = _COMMENT_QUEUE.match(row["AdminComment"])
        found = _TRES_GPUS.search(row["AllocTRES"])
        gpus, lasted = int(found[1]) if found else 0, float(row["ElapsedRaw"] or 0)
        if gpus <= 0 or lasted <= 0:
            continue
        count = max(1, int(row["NNodes"] or 1))
        even = gpus % count == 0
        limit = row["TimelimitRaw"]
        yield TraceJob(
            id=row["JobIDRaw"],
            queue=unquote(noted[1]) if noted else row["Account"] or "none",
            user=row["User"],
            submit_s=_seconds(row["Submit"]),
            duration_s=lasted,
            time_limit_s=int(limit) * 60 if limit.isdecimal() else None,
            tasks=count if even else gpus,
            gpus_per_task=gpus // count if even else 1,
        )


def _seconds(stamp: str) -> float:
    """`2026-11-21T05:00:00` or Unix seconds; the zone does not matter, only differences do."""
    if stamp.isdecimal():
        return float(stamp)
    return dt.datetime.fromisoformat(stamp).replace(tzinfo=dt.UTC).timestamp()


FORMATS: dict[str, Callable[[str], Iterator[TraceJob]]] = {
    "sacct": _sacct,
    "philly": _philly,
    "helios": _helios,
    "openb": _openb,
    "swf": _swf,
}
"""Readers by name."""
