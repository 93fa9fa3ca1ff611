"""Which process of how many this is, and a name that all processes of the same run share and no other run has."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slurmext.checkpoint.errors import CheckpointError

_LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),  # torchrun, accelerate, deepspeed
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)
_RUN_NAMES = (
    "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT",
    "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Rank `rank` of `world` in the run `run`."""

    rank: int
    world: int
    run: str

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which keeps the clock for all."""
        return self.rank == 0


def here(rank: int | None = None, world: int | None = None, env: Mapping[str, str] = os.environ) -> Place:
    """This process: as given, else as torch.distributed, the launcher or srun says. Raises CheckpointError."""
    if rank is None or world is None:
        found_rank, found_world = _found(env)
        rank = found_rank if rank is None else rank
        world = found_world if world is None else world
    if not 0 <= rank < world:
        raise CheckpointError(f"rank={rank}, world={world}: ranks count from 0 to world - 1")
    return Place(rank=rank, world=world, run=_run(env))


def _found(env: Mapping[str, str]) -> tuple[int, int]:
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    for rank, world in _LAUNCHERS:
        if env.get(rank, "").isdecimal() and env.get(world, "").isdecimal():
            return int(env[rank]), int(env[world])
    # A batch script has SLURM_PROCID too; only a step has SLURM_STEP_NUM_TASKS.
    if env.get("SLURM_STEP_NUM_TASKS", "").isdecimal() and env.get("SLURM_PROCID", "").isdecimal():
        world = int(env["SLURM_STEP_NUM_TASKS"])
        return (int(env["SLURM_PROCID"]), world) if int(env["SLURM_PROCID"]) < world else _of_components(env)
    return 0, 1


def _of_components(env: Mapping[str, str]) -> tuple[int, int]:
    """A step over the components of a heterogeneous job: ranks count through, SLURM_NTASKS is the sum."""
    world = env.get("SLURM_NTASKS", "")
    return int(env["SLURM_PROCID"]), int(world) if world.isdecimal() else int(env["SLURM_PROCID"]) + 1


def _run(env: Mapping[str, str]) -> str:
    """Slurm's ids tell runs apart. Without them a launcher on one machine does: its process and when it started."""
    parts = [f"{name}={env.get(name, '')}" for name in _RUN_NAMES]
    if "SLURM_JOB_ID" not in env and env.get("LOCAL_WORLD_SIZE") == env.get("WORLD_SIZE"):
        parent = os.getppid()
        try:
            started = (
                Path(f"/proc/{parent}/stat")
                .read_text(encoding="ascii", errors="replace")
                .rpartition(")")[2]
                .split()[19]
            )
        except (OSError, IndexError):
            started = ""
        parts.append(f"{parent}@{started}")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
