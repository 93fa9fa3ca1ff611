"""Parts of GPUs in `slurmext job explain`: what a job has or awaits, or had."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from slurmext.cli.formats import clock

Answer = Mapping[str, Any]
_SAID = {"reserved": "reserved", "ready": "reserved, its node knows", "live": "in use"}


def slices(answer: Answer) -> Iterator[str]:
    """What it has or awaits of GPUs, and what a need was turned into."""
    return _told("Slices", answer.get("slices") or (), _now)


def slices_had(answer: Answer) -> Iterator[str]:
    """Which parts of GPUs an ended job had, and what a need was turned into."""
    return _told("Slices it had", answer.get("had_slices") or (), _then)


def _told(title: str, found: Sequence[Answer], about: Callable[[Answer], str]) -> Iterator[str]:
    if not found:
        return
    yield ""
    yield title
    for each in found:
        memory = f", {each['memory_mib']} MiB" if each["memory_mib"] else ""
        yield f"  {each['slice']}{memory} {about(each)} {each['milli'] / 1000:.2f} GPUs"
    for why in sorted({each["why"] for each in found if each["why"]}):
        yield f"  {why}"


def _now(each: Answer) -> str:
    place = f"at unit {each['start']} of " if each["start"] is not None else "of "
    gpu = "?" if each["minor"] is None else each["minor"]
    return f"{place}GPU {gpu} on {each['node']}: {_SAID.get(each['state'], each['state'])}; counts as"


def _then(each: Answer) -> str:
    until = "" if each["ended_s"] is None else f" to {clock(each['ended_s'])}"
    return f"of a GPU ({each['gpu_type']}) on {each['node']}, {clock(each['live_s'])}{until}; counted as"
