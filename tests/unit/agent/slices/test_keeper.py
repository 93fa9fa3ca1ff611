"""A job's slices: there when it starts, gone after it, whatever happens in between."""

from __future__ import annotations

import os

import pytest

from slurmext.testing.nvml import IN_USE, INSUFFICIENT_RESOURCES


def test_a_slice_from_reservation_to_epilog(new_node):
    """Reserved, made at exactly that place for the job's user alone, told to the job's tasks, gone after the epilog."""
    node = new_node("h100")
    node.mig()
    assert node.reserve(7, node.item("1g.10gb", 3)) == "slice_reserved"
    assert node.places() == []
    assert node.taskfile(7) == "wait\n"
    assert node.keeper.prolog(7, 1000) is None
    (one,) = node.gpus.slices()
    assert (one.profile, one.start) == ("1g.10gb", 3)
    uuid = one.computes[0][1]
    assert node.taskfile(7).splitlines() == [
        "slots 1", f"0 CUDA_VISIBLE_DEVICES={uuid}", f"0 NVIDIA_VISIBLE_DEVICES={uuid}", "0 SLURMEXT_SLICE=1g.10gb",
        f"0 SLURMEXT_SLICES={uuid}",
    ]  # fmt: skip
    for path in node.cap_nodes(one):
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (1000, 0o400)
    (said,) = node.events.of("slice_made")
    assert said["items"][0]["uuid"] == uuid and said["ms"] > 0
    node.end(7)
    assert node.places() == []
    assert node.taskfile(7) == ""
    assert node.events.of("slice_freed")[0]["items"][0]["kept"] is False
    assert node.book.made() == node.book.reservations() == []


def test_tasks_are_told_what_their_job_asked_for(new_node):
    """Also by an agent that was started anew in between."""
    node = new_node("h100")
    node.mig()
    node.reserve(7, node.item("1g.10gb", 3), asked={"SLURMEXT_GPU_SLICE": "1g.10gb"})
    node.restart()
    node.keeper.prolog(7, 1000)
    assert node.taskfile(7).splitlines()[-1] == "- SLURMEXT_GPU_SLICE=1g.10gb"


def test_each_task_has_its_own_slice(new_node):
    """Three slices of a job, on two GPUs, are three slots."""
    node = new_node("h100", "h100")
    node.mig()
    assert node.start(7, node.item("1g.10gb", 0), node.item("3g.40gb", 4), node.item("1g.10gb", 2, gpu=1)) is None
    assert node.places() == [(0, "1g.10gb", 0), (0, "3g.40gb", 4), (1, "1g.10gb", 2)]
    lines = node.taskfile(7).splitlines()
    assert lines[0] == "slots 3"
    assert len({line.split(" ", 1)[1] for line in lines if "CUDA" in line}) == 3


def test_siblings_stay(new_node):
    """Making and destroying slices leaves the others on the GPU as they are."""
    node = new_node("a100")
    node.mig()
    node.gpus.set_mig(True)
    node.mig()
    for job, start in ((1, 0), (2, 1), (3, 2)):
        assert node.start(job, node.item("1g.10gb", start)) is None
    before = node.uuids()
    node.end(2)
    assert node.uuids() == {key: uuid for key, uuid in before.items() if key[1] != 1}


@pytest.mark.parametrize("warm_s", [0, 600])
def test_a_warm_slice_is_taken_over(new_node, warm_s):
    """A freed instance is kept and given to the next job with its profile and place, under the same UUID; its nodes are
    the new user's.
    """
    node = new_node("h100", warm_s=warm_s)
    node.mig()
    node.start(1, node.item("2g.20gb", 2), uid=1000)
    first = node.uuids()
    node.end(1)
    assert bool(node.places()) == bool(warm_s)
    for one in node.gpus.slices():
        assert all(path.stat().st_uid == 0 for path in node.cap_nodes(one))
    node.start(2, node.item("2g.20gb", 2), uid=1001)
    assert (node.uuids() == first) == bool(warm_s)
    assert node.events.of("slice_made")[-1]["items"][0].get("warm", False) == bool(warm_s)
    (one,) = node.gpus.slices()
    assert all(path.stat().st_uid == 1001 for path in node.cap_nodes(one))


def test_warm_slices_make_room(new_node):
    """A warm instance that is in the way, by memory units or by compute slices, is destroyed for a reservation."""
    node = new_node("h100", warm_s=600)
    node.mig()
    for start in range(4):
        node.start(start + 1, node.item("1g.10gb", start))
        node.end(start + 1)
    assert len(node.places()) == 4
    assert node.start(9, node.item("3g.40gb", 0)) is None
    assert node.places() == [(0, "3g.40gb", 0)]
    node.end(9)
    assert node.start(10, node.item("4g.40gb", 0)) is None
    node.end(10)
    assert node.start(11, node.item("7g.80gb", 0)) is None


def test_compute_slices_run_out_before_memory(new_node):
    """Warm ones that overlap nowhere but leave no compute slices go too."""
    node = new_node("h100", warm_s=600)
    node.mig()
    node.start(1, node.item("4g.40gb", 0))
    node.start(2, node.item("1g.10gb", 6))
    node.end(2)
    assert node.start(3, node.item("3g.40gb", 4)) is None
    assert node.places() == [(0, "3g.40gb", 4), (0, "4g.40gb", 0)] or sorted(node.places()) == [
        (0, "3g.40gb", 4), (0, "4g.40gb", 0)]  # fmt: skip


def test_a_warm_slice_grows_old(new_node):
    """Nobody wants it for a while: it goes."""
    node = new_node("h100", warm_s=600)
    node.mig()
    node.start(1, node.item("1g.10gb", 0))
    node.end(1)
    node.now_s += 599
    assert not node.maker.age()
    node.now_s += 2
    assert node.maker.age() and node.places() == []


def test_no_reservation(new_node):
    """A job that asked for slices and has no reservation is missed: its tasks will not start, nothing is made."""
    node = new_node("h100")
    node.mig()
    assert "no reservation" in node.keeper.prolog(7, 1000, wanted=True)
    assert node.taskfile(7).startswith("miss ")
    assert node.events.of("slice_missed")[0]["reservation"] is None
    node.end(7)
    assert node.taskfile(7) == ""


def test_a_job_without_slices(new_node):
    """Nothing happens."""
    node = new_node("h100")
    assert node.keeper.prolog(7, 1000) is None
    node.end(7)
    assert node.events.said == [] and node.taskfile(7) == ""


def test_a_miss_leaves_nothing_and_nobody_else_is_touched(new_node):
    """The driver refuses the second of three: the first goes too, siblings stay, the reason is told."""
    node = new_node("h100")
    node.mig()
    node.start(1, node.item("1g.10gb", 6))
    sibling = node.uuids()
    node.gpus.on_call("nvmlDeviceCreateGpuInstance*", result=INSUFFICIENT_RESOURCES, skip=1)
    why = node.start(2, *(node.item("1g.10gb", start) for start in (0, 1, 2)))
    assert "1g.10gb at 1" in why
    assert node.uuids() == sibling
    assert node.taskfile(2).startswith("miss ")
    assert [(event["reservation"], event["reason"]) for event in node.events.of("slice_missed")] == [("r2", why)]
    node.end(2)
    assert node.book.of_job(2) == []


def test_in_use_while_made(new_node):
    """A process holds the bare GPU: nothing can be made; the job is missed, the process lives."""
    node = new_node("h100")
    node.mig()
    node.gpus.on_call("nvmlDeviceCreateGpuInstance*", result=IN_USE)
    assert node.start(1, node.item("1g.10gb", 0)) is not None
    assert node.places() == []


@pytest.mark.parametrize(("items", "words"), [
    ([("1g.10gb", 7)], "cannot start at 7"),
    ([("9g.90gb", 0)], "no profile 9g.90gb; it has 1g.10gb"),
    ([("1g.10gb", 0), ("1g.10gb", 0)], "belongs to this job itself"),
    ([("4g.40gb", 0), ("3g.40gb", 4), ("1g.10gb", 6)], "the place belongs to this job itself"),
])  # fmt: skip
def test_what_cannot_be_is_refused_at_once(new_node, items, words):
    """An illegal reservation is answered with the reason; no prolog is needed to find out."""
    node = new_node("h100")
    node.mig()
    assert node.reserve(1, *(node.item(*item) for item in items)) == "slice_missed"
    assert words in node.events.of("slice_missed")[0]["reason"]
    assert node.taskfile(1) == ""


def test_two_jobs_never_share_a_place(new_node):
    """A second reservation that overlaps the first is refused, whatever the controller believes."""
    node = new_node("h100")
    node.mig()
    node.reserve(1, node.item("3g.40gb", 0))
    for job, item in ((2, node.item("1g.10gb", 3)), (3, node.item("4g.40gb", 0))):
        assert node.reserve(job, item) == "", "the first one may be given up already"
        assert node.reserve(job, item) == "slice_missed"
    assert node.reserve(4, node.item("1g.10gb", 4)) == "slice_reserved"
    node.keeper.prolog(1, 1000)
    node.keeper.withdraw("r4")
    assert node.reserve(5, node.item("1g.10gb", 0)) == "slice_missed"
    node.end(1)
    assert node.reserve(6, node.item("1g.10gb", 0)) == "slice_reserved"


def test_a_gpu_in_other_use_is_not_cut(new_node):
    """A whole GPU is nobody's to cut."""
    node = new_node("h100")
    assert node.reserve(1, node.item("1g.10gb", 0)) == "slice_missed"
    assert "whole use" in node.events.of("slice_missed")[0]["reason"]


def test_foreign_instances_stay(new_node):
    """What somebody else made is in nobody's way but its own, and outlives everything."""
    node = new_node("h100")
    node.mig()
    foreign = node.driver.create(node.gpus.uuid(0), "1g.10gb", 0)
    assert node.reserve(1, node.item("1g.10gb", 0)) == "slice_missed"
    assert node.start(2, node.item("1g.10gb", 1)) is None
    node.end(2)
    node.restart()
    assert node.uuids() == {("1g.10gb", 0): foreign.uuid}


def test_somebody_was_faster(new_node):
    """Somebody else made an instance at the reserved place before the prolog came: a miss, and theirs stays."""
    node = new_node("h100")
    node.mig()
    node.reserve(1, node.item("1g.10gb", 0))
    foreign = node.driver.create(node.gpus.uuid(0), "1g.10gb", 0)
    assert node.keeper.prolog(1, 1000) is not None
    assert node.uuids() == {("1g.10gb", 0): foreign.uuid}
    node.restart()
    assert node.uuids() == {("1g.10gb", 0): foreign.uuid}


def test_the_same_order_again(new_node):
    """At each stage an order that comes again gets the answer of that stage, and brings nothing back."""
    node = new_node("h100")
    node.mig()
    item = node.item("1g.10gb", 0)
    assert node.reserve(1, item) == node.reserve(1, item) == "slice_reserved"
    node.keeper.prolog(1, 1000)
    assert node.reserve(1, item) == "slice_made"
    node.end(1)
    assert node.reserve(1, item) == "slice_freed"
    assert node.keeper.prolog(1, 1000, wanted=True) is not None


def test_a_requeued_job(new_node):
    """The next run's reservation does not serve the run before, nor does that run's late epilog free it."""
    node = new_node("h100")
    node.mig()
    node.start(1, node.item("1g.10gb", 0), name="a", restarts=0)
    assert node.reserve(1, node.item("1g.10gb", 1), name="b", restarts=1) == "slice_reserved"
    node.end(1)
    assert node.places() == [] and node.taskfile(1) == "wait\n"
    assert node.keeper.prolog(1, 1000, restarts=1) is None
    assert node.places() == [(0, "1g.10gb", 1)]


def test_a_run_that_started_by_itself(new_node):
    """Slurm requeued a job and started it again where nothing is reserved for that run: a miss."""
    node = new_node("h100")
    node.mig()
    node.reserve(1, node.item("1g.10gb", 0), restarts=0)
    assert "no reservation" in node.keeper.prolog(1, 1000, restarts=1)
    assert node.places() == []
    assert [each.reservation for each in node.book.of_job(1)] == ["r1"]


def test_an_epilog_that_never_came(new_node):
    """The next run's prolog frees what the run before had."""
    node = new_node("h100")
    node.mig()
    node.start(1, node.item("1g.10gb", 0), name="a", restarts=0)
    node.reserve(1, node.item("1g.10gb", 1), name="b", restarts=1)
    assert node.keeper.prolog(1, 1000, restarts=1) is None
    node.settle()
    assert node.places() == [(0, "1g.10gb", 1)]


def test_a_prolog_that_comes_twice(new_node):
    """Nothing happens the second time."""
    node = new_node("h100")
    node.mig()
    node.start(1, node.item("1g.10gb", 0))
    before = node.uuids()
    assert node.keeper.prolog(1, 1000, wanted=True) is None
    assert node.uuids() == before and len(node.events.of("slice_made")) == 1


def test_another_users_job(new_node):
    """A reservation serves only the user it is for."""
    node = new_node("h100")
    node.mig()
    node.reserve(1, node.item("1g.10gb", 0), uid=1000)
    assert "uid 1000" in node.keeper.prolog(1, 1001)
    assert node.places() == []


def test_a_task_of_an_array(new_node):
    """Reserved as 100_3 when Slurm had no number for it, found when it starts as 104; another task is not."""
    node = new_node("h100")
    node.mig()
    node.names |= {104: "100_3", 105: "100_4"}
    node.reserve(100, node.item("1g.10gb", 0), job="100_3", name="r")
    assert node.keeper.prolog(105, 1000, wanted=True) is not None
    assert node.keeper.prolog(104, 1000, wanted=True) is None
    assert "slots" in node.taskfile(104)
    node.end(104)
    assert node.places() == []


def test_withdrawn(new_node):
    """A reservation that is withdrawn is freed at whatever stage it is."""
    node = new_node("h100")
    node.mig()
    node.reserve(1, node.item("1g.10gb", 0))
    node.keeper.withdraw("r1")
    assert node.taskfile(1) == "" and len(node.events.of("slice_freed")) == 1
    node.start(2, node.item("1g.10gb", 0))
    node.keeper.withdraw("r2")
    node.settle()
    assert node.places() == [] and len(node.events.of("slice_freed")) == 2
    node.keeper.withdraw("r2")
    node.keeper.withdraw("never heard of")
    assert len(node.events.of("slice_freed")) == 4


def test_a_process_that_stays(new_node):
    """An instance that is still open after the epilog is freed as soon as it can be; nothing is forced."""
    node = new_node("h100")
    node.mig()
    node.start(1, node.item("1g.10gb", 0))
    node.gpus.hold(0, os.getpid(), gi=node.gpus.slices()[0].gi)
    node.end(1)
    assert node.places() == [(0, "1g.10gb", 0)] and node.events.of("slice_freed") == []
    assert [node.reserve(2, node.item("1g.10gb", 0)) for _ in range(2)] == ["", "slice_missed"]
    node.keeper.tend()
    assert node.events.of("slice_freed") == []
    node.gpus.let_go(os.getpid())
    node.keeper.tend()
    assert node.places() == [] and len(node.events.of("slice_freed")) == 1


def test_a_full_disk(new_node, monkeypatch):
    """What cannot be written down is not made."""
    node = new_node("h100")
    node.mig()
    node.reserve(1, node.item("1g.10gb", 0))
    node.book._path = node.folder / "full"
    node.book._path.symlink_to("/dev/full")
    assert "written down" in node.keeper.prolog(1, 1000)
    assert node.places() == []


def test_tasks_of_one_array_wait_side_by_side(new_node):
    """Reservations of an array's tasks, all under the array's number, do not replace each other."""
    node = new_node("h100")
    node.mig()
    for task in range(3):
        assert node.reserve(100, node.item("1g.10gb", task), job=f"100_{task}", name=f"r{task}") == "slice_reserved"
    node.names |= {100 + task: f"100_{task}" for task in range(3)}
    for task in (1, 0, 2):
        assert node.keeper.prolog(100 + task, 1000, wanted=True) is None
        assert f"1g.10gb at {task}" in f"{node.places()[-1][1]} at {task}"
    assert node.places() == [(0, "1g.10gb", 0), (0, "1g.10gb", 1), (0, "1g.10gb", 2)]
    for task in range(3):
        (reservation,) = node.book.of_job(100 + task)
        assert reservation.items[0].start == task


def test_a_warm_slice_that_somebody_has_open(new_node):
    """It is not given to the next job while a process is on it; that job is missed, the process lives."""
    node = new_node("h100", warm_s=600)
    node.mig()
    node.start(1, node.item("1g.10gb", 0))
    node.end(1)
    node.gpus.hold(0, os.getpid(), gi=node.gpus.slices()[0].gi)
    assert "in use" in node.start(2, node.item("1g.10gb", 0))
    node.gpus.let_go(os.getpid())
    assert node.start(3, node.item("1g.10gb", 1)) is None


def test_a_slice_is_given_back_once(new_node):
    """What is freed late, when another job has the instance already, stays that job's."""
    node = new_node("h100", warm_s=600)
    node.mig()
    node.start(1, node.item("1g.10gb", 0))
    (old,) = node.book.made()
    node.end(1)
    node.start(2, node.item("1g.10gb", 0))
    before = node.gpus.slices(), node.book.made()
    assert node.maker.retire(old, job_id=1, keep=False)
    assert (node.gpus.slices(), node.book.made()) == before
    (one,) = node.gpus.slices()
    assert all(path.stat().st_uid == 1000 for path in node.cap_nodes(one))
