"""Which process of how many this is."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from slurmext.checkpoint.errors import CheckpointError

_LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),  # torchrun, accelerate, deepspeed
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Rank `rank` of `world`."""

    rank: int
    world: int

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which keeps the clock for all."""
        return self.rank == 0


def here(rank: int | None = None, world: int | None = None, env: Mapping[str, str] = os.environ) -> Place:
    """The rank of this process: as given, as torch.distributed, the launcher or srun says. Raises CheckpointError."""
    if rank is None or world is None:
        found_rank, found_world = _found(env)
        rank = found_rank if rank is None else rank
        world = found_world if world is None else world
    if not 0 <= rank < world:
        raise CheckpointError(f"rank={rank}, world={world}: ranks count from 0 to world - 1")
    return Place(rank=rank, world=world)


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
