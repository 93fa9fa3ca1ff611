"""Sizes: named request templates, so that `--size=small` says it all."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, model_validator

from slurmext.config.names import TypeName
from slurmext.errors import UsageError
from slurmext.options import BY_NAME, check

_MEMORY = re.compile(r"([1-9][0-9]{0,11})([MGT])")
_MIB = {"M": 1, "G": 1024, "T": 1024 * 1024}
_TIME = re.compile(
    r"(?:(?P<days>\d{1,4})-(?P<dh>\d{1,2})(?::(?P<dm>\d{1,2})(?::(?P<ds>\d{1,2}))?)?"
    r"|(?:(?P<hours>\d{1,4}):)?(?P<minutes>\d{1,6}):(?P<seconds>\d{1,2})|(?P<only>\d{1,7}))"
)


def _memory(value: str) -> str:
    if not _MEMORY.fullmatch(value):
        raise ValueError(f"{value!r} is no amount of memory: a whole number and M, G or T, for example 64G")
    return value


def _time(value: object) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _TIME.fullmatch(text) or minutes_of(text) == 0:
        raise ValueError(
            f'{value!r} is no time limit: as for sbatch --time, in quotes, for example "4:00:00" or "1-12"'
        )
    return text


def minutes_of(text: str) -> int:
    """Minutes of a time limit as sbatch takes it, rounded up: `90`, `90:00`, `1:30:00`, `1-12`, `1-12:30:00`."""
    found = _TIME.fullmatch(text)
    assert found is not None  # noqa: S101  checked when the policy was read
    part = {key: int(value or 0) for key, value in found.groupdict().items()}
    seconds = part["ds"] + part["seconds"]
    minutes = part["dm"] + part["minutes"] + part["only"]
    hours = part["dh"] + part["hours"] + 24 * part["days"]
    return hours * 60 + minutes + -(-seconds // 60)


def _option(name: str) -> Callable[[str], str]:
    """The rule of the sbatch option of that name."""

    def checked(value: str) -> str:
        try:
            return check(BY_NAME[name], value)
        except UsageError as error:
            raise ValueError(str(error)) from error

    return checked


class SizeDocument(BaseModel):
    """What `--size=NAME` asks for. What a user asks for himself wins."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpus_per_node: Annotated[int, Field(ge=0, le=1024, strict=True)] = Field(
        default=0, description="Whole GPUs on each node; required unless the size is a part of a GPU."
    )
    gpu_slice: Annotated[str, AfterValidator(_option("gpu-slice"))] | None = Field(
        default=None, description="A part of a GPU instead: a MIG profile as for sbatch --gpu-slice, such as 1g.10gb."
    )
    gpu_mem: Annotated[str, AfterValidator(_option("gpu-mem"))] | None = Field(
        default=None, description="A part of a GPU with so much GPU memory, as for sbatch --gpu-mem."
    )
    gpu_compute: Annotated[str, AfterValidator(_option("gpu-compute"))] | None = Field(
        default=None, description='A part of a GPU with so much of its compute power, such as "30%".'
    )
    gpu_share: Annotated[str, AfterValidator(_option("gpu-share"))] | None = Field(
        default=None, description='A share of a GPU as for sbatch --gpu-share, such as "25%,mem=10G".'
    )
    nodes: Annotated[int, Field(ge=1, le=100_000, strict=True)] = Field(default=1, description="Nodes.")
    tasks_per_node: Annotated[int, Field(ge=1, le=10_000, strict=True)] | None = Field(
        default=None, description="Tasks started on each node; null = Slurm's own default."
    )
    cpus_per_gpu: Annotated[int, Field(ge=1, le=10_000, strict=True)] | None = Field(
        default=None, description="CPUs for each GPU (of a part of a GPU: for each task); null = Slurm's own default."
    )
    memory_per_gpu: Annotated[str, AfterValidator(_memory)] | None = Field(
        default=None,
        description="Host memory for each GPU (of a part of a GPU: on each node), such as 64G; null = Slurm's own"
        " default.",
    )
    time: Annotated[str, PlainValidator(_time, json_schema_input_type=str | int)] | None = Field(
        default=None, description='Time limit as for sbatch --time, such as "4:00:00"; null = the partition\'s default.'
    )
    types: tuple[TypeName, ...] = Field(default=(), description="GPU types it runs on, best first; empty = any.")
    summary: str = Field(default="", max_length=200, description="What it is for; shown by slurmext size list.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        parts = [name for name in ("gpu_slice", "gpu_mem", "gpu_compute", "gpu_share") if getattr(self, name)]
        if bool(parts) == bool(self.gpus_per_node):
            raise ValueError("a size has gpus_per_node (1 or more), or one of gpu_slice, gpu_mem, gpu_share")
        if len(parts) > 1 and ("gpu_slice" in parts or "gpu_share" in parts):
            raise ValueError(f"{' and '.join(parts)}: a profile, or memory and compute, or a share, says it all")
        return self

    @property
    def sliced(self) -> bool:
        """Whether it is a part of a GPU."""
        return not self.gpus_per_node

    @property
    def memory_mib(self) -> int | None:
        """Host memory for each GPU in MiB."""
        found = _MEMORY.fullmatch(self.memory_per_gpu or "")
        return None if found is None else int(found[1]) * _MIB[found[2]]

    @property
    def time_min(self) -> int | None:
        """The time limit in minutes."""
        return None if self.time is None else minutes_of(self.time)
