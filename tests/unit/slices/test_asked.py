"""What a job's tasks are told of what it asked for: the options' variables, whatever said so."""

from __future__ import annotations

import pytest

from slurmext.adapters.slurm_cli.annotation import parse
from slurmext.adapters.tcp.orders import ReserveSlices, SliceItem, parse_order
from slurmext.service.slices.asked import asked


@pytest.mark.parametrize(
    ("note", "variables"),
    [
        ("slice=1g.10gb", {"SLURMEXT_GPU_SLICE": "1g.10gb"}),
        ("slice=1g.10gb%2Bme:2", {"SLURMEXT_GPU_SLICE": "1g.10gb+me:2"}),
        ("share=25,10240", {"SLURMEXT_GPU_SHARE": "25%,mem=10240M"}),
        ("gpu_mem=18432 gpu_compute=30", {"SLURMEXT_GPU_MEM": "18432M", "SLURMEXT_GPU_COMPUTE": "30%"}),
        ("gpu_compute=30", {"SLURMEXT_GPU_COMPUTE": "30%"}),
        ("queue=research", {}),
    ],
)
def test_the_variables_of_a_request(note: str, variables: dict[str, str]) -> None:
    """As one would type them."""
    assert asked(parse(f"slurmext/1 {note} held=1")) == variables
    assert asked(None) == {}


def test_an_order_carries_them_and_nothing_else() -> None:
    """What is no variable of ours stays out of tasks' environments."""
    item = SliceItem(gpu="GPU-1", profile="1g.10gb", start=0)
    order = ReserveSlices(reservation="r", job_id=7, uid=1, items=(item,), asked={"SLURMEXT_GPU_SLICE": "1g.10gb"})
    assert parse_order(order.line()) == ReserveSlices(
        reservation="r", job_id=7, job="7", uid=1, items=(item,), asked={"SLURMEXT_GPU_SLICE": "1g.10gb"}
    )
    line = order.line()
    for strange in ({"LD_PRELOAD": "/x", "SLURMEXT_A=B": "c", "SLURMEXT_N": 3}, None, ["SLURMEXT_A"], 3):
        line["slices"]["asked"] = strange
        parsed = parse_order(line)
        assert isinstance(parsed, ReserveSlices) and parsed.asked == {}
