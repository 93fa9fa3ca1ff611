"""An agent that begins anew, and one that looks again: journal, driver and Slurm are brought together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmext.agent.slices.journal import Book
from slurmext.agent.slices.records import Stage


@pytest.fixture
def node(new_node):
    node = new_node("h100", "h100", warm_s=600)
    node.mig()
    return node


def test_a_restart_changes_nothing(node):
    """Jobs keep their slices, reservations wait, warm ones stay warm, tasks read the same."""
    node.start(1, node.item("1g.10gb", 0), node.item("2g.20gb", 0, gpu=1))
    node.start(2, node.item("1g.10gb", 1))
    node.end(2)
    node.reserve(3, node.item("3g.40gb", 4))
    before = node.uuids(), node.taskfile(1), node.book.made(), node.book.reservations()
    (node.folder / "n1.slices" / "1").unlink()
    (node.folder / "n1.slices" / "77").write_text("wait\n")
    node.restart()
    assert (node.uuids(), node.taskfile(1), node.book.made(), node.book.reservations()) == before
    assert node.taskfile(3) == "wait\n" and node.taskfile(77) == ""


def test_a_prolog_that_was_interrupted(node):
    """Its slices go, the job is missed and requeued, its tasks do not start."""
    node.start(1, node.item("1g.10gb", 0))
    (reservation,) = node.book.of_job(1)
    node.book.keep(replace(reservation, stage=Stage.MAKING))
    node.restart()
    assert node.places() == [] or node.book.made()[0].piece == "warm"
    assert "restarted" in node.taskfile(1)
    assert node.events.of("slice_missed")[-1]["reservation"] == "r1"


def test_a_job_that_ended_while_no_agent_ran(node):
    """No process here and Slurm does not run it: freed. As long as Slurm runs it, or says nothing: not."""
    node.start(1, node.item("1g.10gb", 0))
    node.now_s += 3600
    node.restart()
    assert node.book.of_job(1)
    node.in_slurm = {1}
    node.now_s += 3600
    node.reconciler.again()
    assert node.book.of_job(1)
    node.in_slurm, node.alive = set(), {1}
    node.now_s += 3600
    node.reconciler.again()
    assert node.book.of_job(1)
    node.alive = set()
    node.reconciler.again()
    node.settle()
    assert not node.book.of_job(1)


def test_a_young_job_is_left_alone(node):
    """It may still be in its prolog."""
    node.start(1, node.item("1g.10gb", 0))
    node.in_slurm = set()
    node.now_s += 30
    node.reconciler.again()
    assert node.book.of_job(1)


def test_slurm_is_not_asked_all_the_time(node):
    """A multi-node job may have no process on a node for hours."""
    node.start(1, node.item("1g.10gb", 0))
    asked = []
    node.reconciler._in_slurm = lambda: asked.append(1) or {1}
    node.now_s += 100
    for _ in range(10):
        node.now_s += 30
        node.reconciler.again()
    assert len(asked) == 1


def test_somebody_destroyed_a_slice(node):
    """It is told once; nothing else is destroyed, also not what stands there since then."""
    node.start(1, node.item("1g.10gb", 0))
    (made,) = node.book.made()
    node.driver.destroy(made.instance)
    other = node.driver.create(made.gpu, "1g.10gb", 0)
    node.reconciler.again()
    node.reconciler.again()
    assert len(node.events.of("slice_lost")) == 1
    node.end(1)
    assert node.uuids() == {("1g.10gb", 0): other.uuid}


def test_a_journal_that_was_torn(node):
    """A line that was cut short, or is none of ours, costs that line alone."""
    node.start(1, node.item("1g.10gb", 0))
    path = node.folder / "slices.jsonl"
    path.write_text(
        path.read_text() + '{"made": {"gpu"\n\x00\x00\n[]\n{"later": {"x": 1}}\n{"reservation": {"job_id": '
    )
    node.restart()
    assert [each.stage for each in node.book.of_job(1)] == [Stage.LIVE]
    assert len(node.places()) == 1
    node.reserve(2, node.item("1g.10gb", 1))
    assert Book(path).of_job(2)


def test_a_journal_that_is_gone(node):
    """Nobody knows whose the instances are: they are left alone, and nothing new goes there."""
    node.start(1, node.item("1g.10gb", 0))
    (node.folder / "slices.jsonl").unlink()
    node.restart()
    assert len(node.places()) == 1
    node.mig()
    assert node.reserve(2, node.item("1g.10gb", 0)) == "slice_missed"


def test_the_journal_stays_small(node):
    """A thousand changes are compacted away; what is known stays known."""
    node.reserve(1, node.item("1g.10gb", 0))
    (reservation,) = node.book.of_job(1)
    for _ in range(5000):
        node.book.keep(reservation)
    assert len((node.folder / "slices.jsonl").read_text().splitlines()) < 2100
    assert Book(node.folder / "slices.jsonl").of_job(1) == [reservation]


def test_leftovers_of_an_ended_job(node, monkeypatch):
    """What its user still has running on its slice is ended after a while, and only that."""
    import os
    import subprocess

    node.start(1, node.item("1g.10gb", 0), uid=65534)
    gi = node.gpus.slices()[0].gi
    own = subprocess.Popen(["sleep", "60"], user=65534)
    roots = subprocess.Popen(["sleep", "60"])
    for process in (own, roots):
        node.gpus.hold(0, process.pid, gi=gi)
    node.end(1)
    assert node.leftovers.end() == 0
    node.now_s += 6
    assert node.leftovers.end() == 1
    assert own.wait() == -9 and roots.poll() is None
    roots.kill()
    roots.wait()
    node.keeper.tend()
    assert node.places() == [] and os.getpid()
