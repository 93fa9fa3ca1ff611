"""The agent around the slices: orders from the controller, hooks over its sockets, and who may ask for what."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from agent.conftest import ask, hook
from slurmext.adapters.tcp.orders import FreeWarmSlice, ReserveSlices, SetGpuUse, SliceItem, WithdrawSlices
from slurmext.install.hooks import interpreter
from slurmext.model.slicing import GpuUse
from slurmext.testing.nvml import DRIVER_ROOT, ENVIRONMENT, SimulatedGpus
from tests.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="device nodes are root's")
ASK = """\
import json, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.sendall(sys.argv[2].encode() + b"\\n")
print(connection.makefile().readline())
"""


@pytest.fixture
def gpus(library, folder, monkeypatch):
    gpus = SimulatedGpus.create(folder / "gpus", ("h100",), root=folder / "driver")
    monkeypatch.setenv(ENVIRONMENT, str(gpus.path))
    monkeypatch.setenv(DRIVER_ROOT, str(gpus.root))
    return gpus


@pytest.fixture
def agent(gpus, new_agent):
    return new_agent()


def events(site, name):
    """What waits for the controller, oldest first."""
    files = sorted((site.agent.spool_dir / "n1" / "events").glob("*.json"))
    found = []
    for file in files:
        try:
            found.append(json.loads(file.read_text()))
        except FileNotFoundError:
            continue
    return [event for event in found if event["event"] == name]


def reserve(agent, gpus, job_id, start, uid=65533):
    item = SliceItem(gpu=gpus.uuid(0), profile="1g.10gb", profile_id=19, start=start)
    agent._obey(ReserveSlices(reservation=f"r{job_id}", job_id=job_id, uid=uid, items=(item,)))


def as_user(uid, path, request):
    """The public socket's answer to a user."""
    done = subprocess.run(
        [interpreter(), "-I", "-c", ASK, path, json.dumps(request)],
        user=uid,
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_orders_and_hooks(site, agent, gpus):
    """Use, reservation, prolog, epilog, another use: each is answered by its event, and the inventory follows."""
    root = site.run_dir / "agent-n1.root.sock"
    agent._obey(SetGpuUse(gpu=gpus.uuid(0), use=GpuUse.MIG))
    reserve(agent, gpus, 7, 2)
    until(lambda: events(site, "slice_reserved"))
    assert events(site, "gpu_use")[0]["ok"] is True
    assert ask(root, hook("prolog", 7, uid=65533))["ok"]
    assert [one.start for one in gpus.slices()] == [2]
    (made,) = events(site, "slice_made")
    assert made["job_id"] == 7 and made["items"][0]["uuid"].startswith("MIG-")
    seen = until(lambda: [event for event in events(site, "gpus") if event["gpus"][0]["instances"]])[-1]
    assert (seen["gpus"][0]["use"], seen["gpus"][0]["instances"][0]["job_id"]) == ("mig", 7)
    assert ask(root, hook("epilog", 7, uid=65533))["ok"]
    assert until(lambda: events(site, "slice_freed"))[0]["items"][0]["kept"] is True
    agent._obey(FreeWarmSlice(gpu=gpus.uuid(0), profile="1g.10gb", start=2))
    until(lambda: not gpus.slices())
    agent._obey(SetGpuUse(gpu=gpus.uuid(0), use=GpuUse.WHOLE))
    until(lambda: events(site, "gpus")[-1]["gpus"][0]["use"] == "whole")


def test_an_epilogs_note_before_the_next_prolog(site, agent, gpus):
    """The note of a run's epilog is taken in before the next run's prolog is answered."""
    root = site.run_dir / "agent-n1.root.sock"
    agent._obey(SetGpuUse(gpu=gpus.uuid(0), use=GpuUse.MIG))
    reserve(agent, gpus, 7, 2)
    until(lambda: events(site, "slice_reserved"))
    ask(root, hook("prolog", 7, uid=65533, SLURM_JOB_RESTART_COUNT="0"))
    item = SliceItem(gpu=gpus.uuid(0), profile="1g.10gb", profile_id=19, start=3)
    agent._obey(ReserveSlices(reservation="again", job_id=7, uid=65533, items=(item,), restarts=1))
    until(lambda: len(events(site, "slice_reserved")) == 2)
    agent._notes._stop.set()  # it is late
    agent._notes._thread.join()
    note = site.run_dir / "agent-n1.notes" / "7.0.epilog"
    note.write_bytes(b"SLURM_JOB_ID=7\0SLURM_JOB_UID=65533\0end\0")
    assert ask(root, hook("prolog", 7, uid=65533, SLURM_JOB_RESTART_COUNT="1"))["ok"]
    until(lambda: events(site, "slice_freed"))
    assert not note.exists()
    assert 3 in [one.start for one in gpus.slices()] and agent.slices.keeper._p.book.reservation("again") is not None
    assert [event["reservation"] for event in events(site, "slice_made")] == ["r7", "again"]
    assert agent.node.jobs.get(7) is not None, "the epilog was of the run before"


def test_users_may_ask_for_nothing_of_others(site, agent, gpus):
    """Hooks are root's; a task is a process of its own job; status shows one's own slices."""
    public = site.run_dir / "agent-n1.sock"
    agent._obey(SetGpuUse(gpu=gpus.uuid(0), use=GpuUse.MIG))
    reserve(agent, gpus, 7, 2)
    until(lambda: events(site, "slice_reserved"))
    for uid in (65533, 65534):
        for op in ("prolog", "epilog"):
            assert not as_user(uid, public, hook(op, 7, uid=65533))["ok"]
        refused = as_user(uid, public, {"op": "task", "job_id": 7})
        assert not refused["ok"] and "is not of job 7" in refused["error"]
    assert gpus.slices() == []
    assert [each["job_id"] for each in as_user(65533, public, {"op": "status"})["slices"]] == [7]
    assert as_user(65534, public, {"op": "status"})["slices"] == []


def test_slices_over_a_restart_of_the_agent(site, new_agent, gpus):
    """Stopped and started again, the agent goes on with what it had; a withdrawn reservation frees what was made."""
    first = new_agent()
    first._obey(SetGpuUse(gpu=gpus.uuid(0), use=GpuUse.MIG))
    reserve(first, gpus, 7, 2)
    until(lambda: events(site, "slice_reserved"))
    ask(site.run_dir / "agent-n1.root.sock", hook("prolog", 7, uid=65533))
    before = gpus.slices()
    first.stop()
    second = new_agent()
    assert gpus.slices() == before
    reserve(second, gpus, 7, 2)
    assert len(until(lambda: events(site, "slice_made")[1:])) == 1
    second._obey(WithdrawSlices(reservation="r7"))
    until(lambda: events(site, "slice_freed"))


def test_a_node_without_a_driver(site, new_agent, monkeypatch):
    """Nothing is said of GPUs, and reservations are refused with the reason."""
    monkeypatch.setenv(ENVIRONMENT, "/nonexistent")
    agent = new_agent()
    agent._obey(ReserveSlices(reservation="r", job_id=7, uid=1, items=(SliceItem(gpu="GPU-1", profile="1g", start=0),)))
    assert "driver" in until(lambda: events(site, "slice_missed"))[0]["reason"]
    assert events(site, "gpus") == []
