"""The one place that turns Slurm's words into values: job states, times, GPU requests, host lists."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import lru_cache

from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet

from slurmext.model.job import JobState
from slurmext.model.node import NodeState

# https://slurm.schedmd.com/squeue.html#SECTION_JOB-STATE-CODES
JOB_STATES: dict[str, JobState] = {
    "PENDING": JobState.PENDING,
    "REQUEUED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.PENDING,
    "REQUEUE_FED": JobState.PENDING,
    "SPECIAL_EXIT": JobState.PENDING,
    "CONFIGURING": JobState.RUNNING,
    "RUNNING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.RUNNING,
    "STOPPED": JobState.RUNNING,
    "EXPEDITING": JobState.PENDING,
    "POWER_UP_NODE": JobState.RUNNING,
    "COMPLETING": JobState.COMPLETING,
    "SUSPENDED": JobState.SUSPENDED,
}
ENDED_STATES = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "RECONFIG_FAIL",
        "REVOKED",
        "TIMEOUT",
    }
)
_NOTHING = frozenset(
    {"", "(null)", "N/A", "None", "Unknown", "NONE", "UNLIMITED", "Partition_Limit", "NOT_SET", "INVALID"}
)
_DOWN = frozenset(
    {
        "DOWN",
        "FAIL",
        "FUTURE",
        "POWERED_DOWN",
        "POWERING_DOWN",
        "POWER_DOWN",
        "NO_RESPOND",
        "NOT_RESPONDING",
        "INVAL",
        "INVALID_REG",
    }
)
_DRAIN = frozenset(
    {
        "DRAIN",
        "DRAINED",
        "DRAINING",
        "FAILING",
        "MAINT",
        "RESERVED",
        "REBOOT",
        "REBOOT_REQUESTED",
        "REBOOT_ISSUED",
        "PLANNED_DOWN",
        "BLOCKED",
    }
)
_UP = frozenset(
    {
        "IDLE",
        "ALLOCATED",
        "ALLOC",
        "MIXED",
        "COMPLETING",
        "PLANNED",
        "CLOUD",
        "DYNAMIC_NORM",
        "DYNAMIC_FUTURE",
        "PERFCTRS",
        "EXTERNAL",
    }
)

# `gres:gpu:h100:3` (22.05), `gres/gpu:h100:3` (24.11), `gpu:3(S:0)`, `gres/gpu:h100=3`
_GPU = re.compile(r"^(?:gres[:/])?gpu(?::(?P<type>[A-Za-z_][\w.\-]*))?(?:[:=](?P<count>\d+))?(?:\(.*\))?$")


def node_state(text: str) -> NodeState:
    """State set of a node, `IDLE+DRAIN` or `MIXED*` (not responding), as one value."""
    if text.endswith("*"):
        return NodeState.DOWN
    flags = {flag.rstrip("*~#!%$@^-") for flag in text.split("+")}
    if flags & _DOWN:
        return NodeState.DOWN
    if flags & _DRAIN:
        return NodeState.DRAIN
    if flags & _UP:
        return NodeState.UP
    return NodeState.UNKNOWN


def text_or_none(text: str) -> str | None:
    """None for Slurm's many ways to say nothing."""
    return None if text in _NOTHING else text


def unix_time(text: str) -> int | None:
    """Unix seconds as printed under SLURM_TIME_FORMAT=%s; None when not set."""
    return int(text) if text.isdigit() and int(text) > 0 else None


def duration(text: str) -> int | None:
    """Seconds of `[days-]hours:minutes:seconds`, `minutes:seconds` or `days-hours`; None when unlimited or not set."""
    if text_or_none(text) is None:
        return None
    days, _, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if days:
        parts += [0] * (3 - len(parts))
    else:
        parts = [0] * (3 - len(parts)) + parts
    hours, minutes, seconds = parts
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def gpus(text: str) -> tuple[int, tuple[str, ...]]:
    """GPUs in a comma list of gres or tres, and their types in the order named. `cpu=4,gres/gpu=2` is (2, ())."""
    untyped, typed, types = 0, 0, list[str]()
    for part in _split(text):
        found = _GPU.match(part)
        if not found:
            continue
        count = int(found["count"] or 1)
        if found["type"]:
            typed += count
            if found["type"] not in types:
                types.append(found["type"])
        else:
            untyped += count
    # An allocation may name the total and its types side by side (gres/gpu=4,gres/gpu:h100=4).
    return max(untyped, typed), tuple(types)


_TRES = re.compile(r"(?:^|,)(cpu|mem|node)=([0-9.]+)([KMGTP]?)")
_UNIT_MIB = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2, "P": 1024**3}


def tres(text: str, kind: str) -> int:
    """The `cpu`, `node` (a number) or `mem` (MiB) of `cpu=4,mem=8G,node=2`; 0 where it is not said."""
    for found in _TRES.finditer(text):
        if found[1] == kind:
            return math.ceil(float(found[2]) * (_UNIT_MIB[found[3] or "M"] if kind == "mem" else 1))
    return 0


def _split(text: str) -> Iterable[str]:
    """Comma list whose items may hold commas in parentheses: `gpu:h100:2(IDX:0,3),gpu:a100:1(IDX:1)`."""
    return re.split(r",(?![^(]*\))", text) if text_or_none(text) else ()


@lru_cache(maxsize=65536)
def hosts(text: str) -> tuple[str, ...]:
    """Node names of a host list such as `n[1-3,7]`, in order."""
    return tuple(NodeSet(text, resolver=RESOLVER_NOGROUP)) if text_or_none(text) else ()


def host_list(names: Iterable[str]) -> str:
    """The shortest host list of these node names."""
    return str(NodeSet.fromlist(list(names), resolver=RESOLVER_NOGROUP))


def exit_status(text: str) -> int | None:
    """As of wait(2), of `768` or, from 26.05 on, of `3:0` (code and signal); None where it is neither."""
    code, _, signal = text.partition(":")
    if not code.isdigit() or (signal and not signal.isdigit()):
        return None
    return int(code) if not signal else int(code) << 8 | int(signal)
