"""Orders of the controller survive the wire, and nonsense is none."""

from __future__ import annotations

import json

import pytest

from slurmext.adapters.tcp.orders import (
    EndJob,
    FreeWarmSlice,
    ReserveSlices,
    SetGpuUse,
    SliceItem,
    TellJob,
    WithdrawSlices,
    parse_order,
)
from slurmext.adapters.tcp.stage_orders import StageOrders
from slurmext.adapters.tcp.wire import MAX_LINE_BYTES
from slurmext.model.slicing import GpuUse
from slurmext.staging.names import ModelKey
from slurmext.staging.preload import Registered

MIG = SliceItem(gpu="GPU-1", profile="1g.10gb+me", profile_id=20, start=0)
SHARE = SliceItem(gpu="GPU-1", share_pct=25, memory_mib=10240)
ORDERS = [
    EndJob(job_id=7, started_before_s=1.5),
    TellJob(job_id=7, signal="USR1"),
    TellJob(job_id=7, signal="USR2", script=True),
    ReserveSlices(reservation="r-1", job_id=7, uid=1000, items=(MIG, MIG), restarts=2, job="5_1"),
    ReserveSlices(reservation="1", job_id=7, job="7", uid=0, items=(SHARE,)),
    WithdrawSlices(reservation="r-1"),
    FreeWarmSlice(gpu="GPU-1", profile="1g.10gb", start=3),
    SetGpuUse(gpu="GPU-1", use=GpuUse.SHARED),
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: type(order).__name__)
def test_an_order_arrives_as_it_was_given(order):
    """Sent as a line and read again it is the same."""
    assert parse_order(json.loads(json.dumps(order.line()))) == order


GOOD = {"reservation": "r", "job_id": 7, "uid": 1, "restarts": None, "items": [MIG.fields()]}


@pytest.mark.parametrize("change", [
    {"job_id": -1}, {"job_id": "7"}, {"uid": None}, {"restarts": 1.5}, {"items": []}, {"items": [7]},
    {"items": [MIG.fields() | {"start": None}]}, {"items": [SHARE.fields() | {"share_pct": 0}]},
    {"items": [SHARE.fields() | {"share_pct": 101}]}, {"items": [MIG.fields(), {}]}, {"reservation": "../x"},
    {"items": [MIG.fields() | {"gpu": "a\nb"}]}, {"job": "5/1"}, {"items": [MIG.fields()] * 513},
])  # fmt: skip
def test_nonsense_is_no_order(change):
    """A field that cannot be meant so makes the whole order unknown; half an order is never carried out."""
    assert parse_order({"slices": GOOD}) is not None
    assert parse_order({"slices": GOOD | change}) is None


@pytest.mark.parametrize("line", [
    {"withdraw": {}}, {"use": {"gpu": "GPU-1", "use": "unknown"}}, {"use": {"gpu": "GPU-1", "use": []}},
    {"free_warm": {"gpu": "GPU-1", "profile": "1g", "start": -1}}, {"reset": {"gpu": "GPU-1"}}, {},
    {"tell": {"job_id": 7}}, {"tell": {"job_id": -1, "signal": "USR1"}}, {"tell": {"job_id": 7, "signal": "USR1\n"}},
])  # fmt: skip
def test_unknown_orders(line):
    """What this version does not know is None."""
    assert parse_order(line) is None


@pytest.mark.parametrize("count", [0, 1, 300])
@pytest.mark.parametrize("letter", ["a", "\U0001f600"])
def test_a_catalogue_comes_in_lines_that_agents_take(count, letter):
    """However long the paths are that users give: an agent hangs up on a line that is too long."""
    models = tuple(
        Registered(key=ModelKey(f"org/m{number}", "v1"), fingerprint="ab" * 32, uid=1000, gid=None, public=True,
                   storage="/" + letter * 4095)
        for number in range(count)
    )  # fmt: skip
    told = []

    class Server:
        def order(self, nodes, order):
            assert nodes == ["n1"] and len(json.dumps(order.line())) < MAX_LINE_BYTES
            told.append(parse_order(json.loads(json.dumps(order.line()))))

    StageOrders(Server).catalogue(["n1"], models)
    assert tuple(model for part in told for model in part.models) == models
    assert [part.first for part in told] == [True] + [False] * (len(told) - 1)
