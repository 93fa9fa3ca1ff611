"""What `slurmext job explain` says of the parts of GPUs that a job has, awaits or had."""

from __future__ import annotations

from typing import Any

import pytest

from slurmext.cli.explain_slices import slices, slices_had
from slurmext.cli.formats import clock

PROFILE = {"slice": "1g.10gb", "memory_mib": None, "node": "n1", "milli": 143, "why": "--gpu-mem=9G is 1g.10gb",
           "start": 4, "minor": 1, "state": "live"}  # fmt: skip
SHARE = {**PROFILE, "slice": "25%", "memory_mib": 10240, "milli": 250, "why": "", "start": None, "minor": None,
         "state": "ready"}  # fmt: skip
RAN = {"gpu_type": "h100", "live_s": 1000.0, "ended_s": 1060.0}


def test_what_it_has_and_awaits_is_said_with_its_place_and_what_it_counts() -> None:
    assert list(slices({"slices": [PROFILE, SHARE]})) == [
        "", "Slices",
        "  1g.10gb at unit 4 of GPU 1 on n1: in use; counts as 0.14 GPUs",
        "  25%, 10240 MiB of GPU ? on n1: reserved, its node knows; counts as 0.25 GPUs",
        "  --gpu-mem=9G is 1g.10gb",
    ]  # fmt: skip


def test_what_it_had_is_said_with_when() -> None:
    """One whose end nobody told has none."""
    had = [{**PROFILE, **RAN}, {**SHARE, **RAN, "ended_s": None}]
    assert list(slices_had({"had_slices": had})) == [
        "", "Slices it had",
        f"  1g.10gb of a GPU (h100) on n1, {clock(1000.0)} to {clock(1060.0)}; counted as 0.14 GPUs",
        f"  25%, 10240 MiB of a GPU (h100) on n1, {clock(1000.0)}; counted as 0.25 GPUs",
        "  --gpu-mem=9G is 1g.10gb",
    ]  # fmt: skip


@pytest.mark.parametrize("answer", [{}, {"slices": [], "had_slices": []}])
def test_of_whole_gpus_nothing_is_said(answer: dict[str, Any]) -> None:
    assert [*slices(answer), *slices_had(answer)] == []
