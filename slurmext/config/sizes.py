"""Sizes: named request templates, so that `--size=small` says it all."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator

from slurmext.config.names import TypeName

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


class SizeDocument(BaseModel):
    """What `--size=NAME` asks for. What a user asks for himself wins."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpus_per_node: Annotated[int, Field(ge=1, le=1024, strict=True)] = Field(description="GPUs on each node.")
    nodes: Annotated[int, Field(ge=1, le=100_000, strict=True)] = Field(default=1, description="Nodes.")
    tasks_per_node: Annotated[int, Field(ge=1, le=10_000, strict=True)] | None = Field(
        default=None, description="Tasks started on each node; null = Slurm's own default."
    )
    cpus_per_gpu: Annotated[int, Field(ge=1, le=10_000, strict=True)] | None = Field(
        default=None, description="CPUs for each GPU; null = Slurm's own default."
    )
    memory_per_gpu: Annotated[str, AfterValidator(_memory)] | None = Field(
        default=None, description="Host memory for each GPU, such as 64G; null = Slurm's own default."
    )
    time: Annotated[str, PlainValidator(_time, json_schema_input_type=str | int)] | None = Field(
        default=None, description='Time limit as for sbatch --time, such as "4:00:00"; null = the partition\'s default.'
    )
    types: tuple[TypeName, ...] = Field(default=(), description="GPU types it runs on, best first; empty = any.")
    summary: str = Field(default="", max_length=200, description="What it is for; shown by slurmext size list.")

    @property
    def memory_mib(self) -> int | None:
        """Host memory for each GPU in MiB."""
        found = _MEMORY.fullmatch(self.memory_per_gpu or "")
        return None if found is None else int(found[1]) * _MIB[found[2]]

    @property
    def time_min(self) -> int | None:
        """The time limit in minutes."""
        return None if self.time is None else minutes_of(self.time)
