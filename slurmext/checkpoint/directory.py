"""Where a job's checkpoints are when nobody says where."""

from __future__ import annotations

import os
from pathlib import Path


def default_directory() -> Path:
    """SLURMEXT_CKPT_DIR (`--ckpt-dir`), else slurmext-ckpt/<job id> where the job was submitted.

    The job id stays the same when Slurm requeues the job, so that the next run finds what this one saved. Tasks of an
    array that were given one directory have a folder each in it.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if given := os.environ.get("SLURMEXT_CKPT_DIR"):
        folder, task = Path(given), os.environ.get("SLURM_ARRAY_TASK_ID")
        return folder / f"task-{task}" if task is not None and folder.name != job else folder
    return Path(os.environ.get("SLURM_SUBMIT_DIR") or ".", "slurmext-ckpt", job or "local")


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a directory."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
