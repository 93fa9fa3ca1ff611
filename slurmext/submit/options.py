"""slurmext's options as keyword arguments, for sbatch and for submitit.

Generated from slurmext/options/ by `python -m slurmext.options generate`; do not edit.
"""

from __future__ import annotations

from os import PathLike, fspath
from typing import TYPE_CHECKING

from slurmext.options import BY_NAME, check

if TYPE_CHECKING:
    from collections.abc import Sequence


def sbatch_parameters(
    *,
    queue: str | None = None,
    ckpt: str | bool | None = None,
    ckpt_dir: str | PathLike[str] | None = None,
    gpu_types: str | Sequence[str] | None = None,
    gang_min: int | None = None,
    gpu_slice: str | None = None,
    gpu_mem: str | int | None = None,
    gpu_compute: str | int | None = None,
    gpu_share: str | None = None,
    gpu_oom_retry: bool = False,
    size: str | Sequence[str] | None = None,
    preload: str | Sequence[str] | None = None,
    no_preempt: bool = False,
    prefix: str = "",
) -> dict[str, str | bool]:
    """Option names and checked values, in the form of submitit's `slurm_additional_parameters`.

    >>> sbatch_parameters(queue="prod/chat", ckpt="auto")
    {'queue': 'prod/chat', 'ckpt': 'auto'}

    Args:
        queue: run in this quota queue, e.g. prod/chat.
        ckpt: checkpoint on this signal before the job is preempted, within so many seconds (True = auto).
        ckpt_dir: keep the job's checkpoints in this directory (absolute path).
        gpu_types: accept these GPU types, best first; 'any' accepts all.
        gang_min: start with, and shrink to, no fewer than this many tasks.
        gpu_slice: run on a part of a GPU: a MIG profile, e.g. 1g.10gb or 3g.40gb:2.
        gpu_mem: run on a part of a GPU with at least this much GPU memory.
        gpu_compute: run on a part of a GPU with at least this share of its compute power.
        gpu_share: share a GPU with others: so much of its compute and memory, e.g. 25%,mem=10G.
        gpu_oom_retry: out of GPU memory on a slice: start again once, on the next larger size.
        size: ask for what this size says: GPUs, nodes, CPUs, memory, time.
        preload: have these models in every node's memory before the job starts, e.g. org/model@main.
        no_preempt: never preempt this job; it then uses guaranteed GPUs only.
        prefix: the site's option prefix, "" where it has none.

    Raises:
        slurmext.errors.UsageError: a value breaks its option's rule; the message names value, rule and an example.

    """
    given = {
        "queue": queue,
        "ckpt": ckpt,
        "ckpt-dir": ckpt_dir,
        "gpu-types": gpu_types,
        "gang-min": gang_min,
        "gpu-slice": gpu_slice,
        "gpu-mem": gpu_mem,
        "gpu-compute": gpu_compute,
        "gpu-share": gpu_share,
        "gpu-oom-retry": gpu_oom_retry,
        "size": size,
        "preload": preload,
        "no-preempt": no_preempt,
    }
    return {
        prefix + name: _checked(name, value, prefix)
        for name, value in given.items()
        if value is not None and value is not False
    }


def sbatch_arguments(
    *,
    queue: str | None = None,
    ckpt: str | bool | None = None,
    ckpt_dir: str | PathLike[str] | None = None,
    gpu_types: str | Sequence[str] | None = None,
    gang_min: int | None = None,
    gpu_slice: str | None = None,
    gpu_mem: str | int | None = None,
    gpu_compute: str | int | None = None,
    gpu_share: str | None = None,
    gpu_oom_retry: bool = False,
    size: str | Sequence[str] | None = None,
    preload: str | Sequence[str] | None = None,
    no_preempt: bool = False,
    prefix: str = "",
) -> list[str]:
    """The same as a list of sbatch, salloc or srun arguments.

    >>> sbatch_arguments(queue="prod/chat", no_preempt=True)
    ['--queue=prod/chat', '--no-preempt']
    """
    parameters = sbatch_parameters(
        queue=queue,
        ckpt=ckpt,
        ckpt_dir=ckpt_dir,
        gpu_types=gpu_types,
        gang_min=gang_min,
        gpu_slice=gpu_slice,
        gpu_mem=gpu_mem,
        gpu_compute=gpu_compute,
        gpu_share=gpu_share,
        gpu_oom_retry=gpu_oom_retry,
        size=size,
        preload=preload,
        no_preempt=no_preempt,
        prefix=prefix,
    )
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in parameters.items()]


def _checked(name: str, value: object, prefix: str) -> str | bool:
    option = BY_NAME[name]
    if value is True:
        if option.argument == "none":
            return True
        value = option.default
    if isinstance(value, (list, tuple)):
        value = ",".join(str(part) for part in value)
    return check(option, fspath(value) if isinstance(value, PathLike) else str(value), prefix)
