"""`slurmext ckpt` on directories and on what the store knows."""

from __future__ import annotations

import getpass
import json
import os
import re
import resource
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from slurmext.checkpoint import Checkpointer
from slurmext.cli.ckpt_files import FilesError, found_in
from slurmext.model.state import CheckpointRecord, Event, JobKey
from slurmext.model.upkeep import CheckpointCopy, CheckpointCost, FailureRate, FailureRecord

if TYPE_CHECKING:
    from slurmext.testing.memory_store import MemoryStore

Run = Callable[..., Any]
STEPS = (10, 20, 30, 40)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Four checkpoints."""
    place = tmp_path / "run"
    with Checkpointer({"w": np.arange(1000.0), "n": 1}, place, signals=False, keep=len(STEPS)) as ckpt:
        for step in STEPS:
            ckpt.save(step)
    return place


def steps(run: Run, directory: Path) -> list[int]:
    return [found["step"] for found in json.loads(run("ckpt", "show", str(directory), "--json").output)]


def damage(directory: Path, step: int) -> None:
    """Flip a bit in the array file of a checkpoint."""
    (pack,) = next(directory.glob(f"save-*-step-{step}")).glob("rank-*.bin")
    content = bytearray(pack.read_bytes())
    content[100] ^= 1
    pack.unlink()  # unchanged files are shared with other checkpoints
    pack.write_bytes(content)


def test_show_lists_what_is_there_and_needs_no_daemon(run: Run, directory: Path) -> None:
    """Newest first; also of a single one, and of a directory without any."""
    assert steps(run, directory) == [40, 30, 20, 10]
    newest = next(directory.glob("save-*-step-40"))
    assert steps(run, newest) == [40]
    (directory / "empty").mkdir()
    for command in ("show", "verify"):
        empty, nothing = (run("ckpt", command, str(directory / name)) for name in ("empty", "nothing"))
        assert (empty.exit_code, nothing.exit_code) == (1, 2)
        assert "no checkpoint is in" in empty.stderr
        assert "nothing is no directory; name one with checkpoints" in nothing.stderr


def test_verify_names_the_damaged_one(run: Run, directory: Path) -> None:
    """Exit status 1, and the file that does not match."""
    assert run("ckpt", "verify", str(directory)).exit_code == 0
    damage(directory, 30)
    done = run("ckpt", "verify", str(directory), "--json")
    assert done.exit_code == 1
    told = {found["step"]: found["problem"] for found in json.loads(done.output)}
    assert {step for step, problem in told.items() if problem is not None} == {30}
    assert "rank-" in told[30]


def test_list_of_one_job_says_when_there_is_no_such_job(run: Run) -> None:
    """Rather than that it has confirmed nothing."""
    empty, unknown = run("ckpt", "list", "--job", "57"), run("ckpt", "list", "--job", "999")
    assert (empty.exit_code, "job 57 has confirmed no checkpoint yet" in empty.stderr) == (0, True)
    assert (unknown.exit_code, "no job '999'" in unknown.stderr) == (1, True)


def test_verify_takes_a_job_and_reads_where_it_saved_last(run: Run, directory: Path, store: MemoryStore) -> None:
    """By its id, as show and why do; one that saved nothing is told where to look."""
    path = next(directory.glob("save-*-step-40"))
    store.record_checkpoint(
        CheckpointRecord(job_id="42", path=str(path), saved_s=5.0, confirmed_s=6.0, step=40, size_bytes=1, node="n1")
    )
    assert (
        run("ckpt", "verify", "42", "-nP", "-o", "Step,State,Problem").output
        == "40|good|\n30|good|\n20|good|\n10|good|\n"
    )
    done = run("ckpt", "verify", "57")
    assert done.exit_code == 2
    assert "job 57 has confirmed no checkpoint; name the directory" in done.stderr
    unknown = run("ckpt", "verify", "999")
    assert (unknown.exit_code, "no job '999'" in unknown.stderr) == (1, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("place", ["shut", "shut/inner", "shut/inner/save-00000001-step-10"])
def test_a_directory_one_may_not_read_is_said_in_one_line(place: str) -> None:
    """Neither a traceback, nor that nothing is there."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own let nobody else through
        Path(folder).chmod(0o755)
        (Path(folder) / "shut" / "inner").mkdir(parents=True)
        (Path(folder) / "shut").chmod(0o700)
        os.seteuid(65534)
        try:
            with pytest.raises(
                FilesError, match=r"cannot read .*shut.*: Permission denied; a checkpoint is its owner's"
            ):
                found_in(Path(folder) / place)
        finally:
            os.seteuid(0)


def test_prune_keeps_what_is_good(run: Run, directory: Path) -> None:
    """A damaged one does not count among those that stay; nothing goes in a dry run, or when too few are good."""
    damage(directory, 40)
    assert "goes   save-00000004" in run("ckpt", "prune", str(directory), "--dry-run").output
    assert steps(run, directory) == [40, 30, 20, 10]
    assert run("ckpt", "prune", str(directory), "-i").exit_code == 0
    assert steps(run, directory) == [30, 20]
    damage(directory, 30)
    damage(directory, 20)
    done = run("ckpt", "prune", str(directory), "-i")
    assert done.exit_code == 1
    assert "only 0 of 2" in done.stderr
    assert steps(run, directory) == [30, 20]


@pytest.fixture
def of_an_array(tmp_path: Path) -> Path:
    """Two tasks of an array with one --ckpt-dir: four checkpoints of the first, two of the second."""
    place = tmp_path / "array"
    for task, saved in enumerate((STEPS, STEPS[:2])):
        with Checkpointer({"w": np.arange(1000.0)}, place / f"task-{task}", signals=False, keep=len(STEPS)) as ckpt:
            for step in saved:
                ckpt.save(step)
    return place


def names(run: Run, directory: Path) -> set[str]:
    """Of all that is there, without serial numbers."""
    shown = json.loads(run("ckpt", "show", str(directory), "--json").output)
    return {re.sub("save-[0-9]+-", "", found["name"]) for found in shown}


def test_each_task_of_an_array_keeps_its_own_newest(run: Run, of_an_array: Path) -> None:
    """Also where one of them has too few good ones: that is said, and nothing of its goes."""
    assert run("ckpt", "prune", str(of_an_array), "--keep", "2", "-i").exit_code == 0
    assert names(run, of_an_array) == {"task-0/step-40", "task-0/step-30", "task-1/step-20", "task-1/step-10"}
    damage(of_an_array / "task-1", 20)
    damage(of_an_array / "task-1", 10)
    done = run("ckpt", "prune", str(of_an_array), "--keep", "1", "-i")
    assert (done.exit_code, "task-1 are good: none of them goes" in done.stderr) == (0, True)
    assert names(run, of_an_array) == {"task-0/step-40", "task-1/step-20", "task-1/step-10"}


def test_one_task_is_rolled_back_and_no_other(run: Run, of_an_array: Path) -> None:
    """A directory of several tasks is refused with the name of one; the checkpoint itself may be named as well."""
    refused = run("ckpt", "restore", str(of_an_array), "--step", "20", "-i")
    assert (refused.exit_code, "2 tasks; name one of them, as" in refused.stderr) == (2, True)
    (chosen,) = (of_an_array / "task-0").glob("save-*-step-20")
    assert run("ckpt", "restore", str(chosen), "-i").exit_code == 0
    with Checkpointer({"w": np.zeros(1000)}, of_an_array / "task-0", signals=False) as ckpt:
        assert ckpt.restore() == 20
    assert names(run, of_an_array) == {"task-0/step-20", "task-0/step-10", "task-1/step-20", "task-1/step-10"}


def test_a_copy_that_does_not_fit_leaves_nothing(run: Run, directory: Path, tmp_path: Path) -> None:
    """One line with the cause; the same command works once there is room."""
    target = tmp_path / "small" / "copy"
    target.mkdir(parents=True)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        done = run("ckpt", "restore", str(directory), "--to", str(target))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (done.exit_code, f"to {target}: File too large" in done.stderr) == (1, True)
    assert [path.name for path in target.iterdir()] == [".lock"]
    assert run("ckpt", "restore", str(directory), "--to", str(target)).exit_code == 0
    assert steps(run, target) == [40]


def test_nothing_is_removed_while_a_job_uses_the_directory(run: Run, directory: Path) -> None:
    """The job's lock says who."""
    held = os.fork()
    if held == 0:  # another process: a lock is no obstacle to the one that has it
        from slurmext.checkpoint.engine.lock import DirectoryLock

        DirectoryLock(directory)
        (directory.parent / "ready").touch()
        import time

        time.sleep(30)
        os._exit(0)
    try:
        while not (directory.parent / "ready").exists():
            pass
        done = run("ckpt", "prune", str(directory), "-i")
        assert done.exit_code == 1
        assert "is using the checkpoint directory" in done.stderr
        assert steps(run, directory) == [40, 30, 20, 10]
    finally:
        os.kill(held, 9)
        os.waitpid(held, 0)


def test_the_next_run_begins_from_an_older_one(run: Run, directory: Path) -> None:
    """Newer ones are put aside, not removed; the library then restores that step."""
    assert "would begin" in run("ckpt", "restore", str(directory), "--step", "20", "--dry-run").output
    assert run("ckpt", "restore", str(directory), "--step", "20", "-i").exit_code == 0
    with Checkpointer({"w": np.zeros(1000), "n": 0}, directory, signals=False) as ckpt:
        assert ckpt.restore() == 20
    assert sorted(path.name[-2:] for path in (directory / "aside").iterdir()) == ["30", "40"]
    done = run("ckpt", "restore", str(directory), "--step", "25", "-i")
    assert done.exit_code == 1
    assert "no checkpoint of step 25; steps there: 20, 10" in done.stderr


def test_a_run_branches_off(run: Run, directory: Path) -> None:
    """The copy is whole and another run goes on from it; one that has checkpoints of its own is left alone."""
    other = directory.parent / "other"
    assert run("ckpt", "restore", str(directory), "--step", "30", "--to", str(other)).exit_code == 0
    state = {"w": np.zeros(1000), "n": 0}
    with Checkpointer(state, other, signals=False) as ckpt:
        assert ckpt.restore() == 30
    assert (state["w"] == np.arange(1000.0)).all()
    again = run("ckpt", "restore", str(directory), "--step", "10", "--to", str(other))
    assert again.exit_code == 1
    assert "copy into an empty directory" in again.stderr


def test_only_its_owner_changes_a_directory(run: Run, directory: Path) -> None:
    """Looking is free to whoever may read."""
    for command in (("prune", "-i"), ("restore", "-i")):
        done = run("ckpt", command[0], str(directory), *command[1:], uid=os.geteuid() + 4321)
        assert done.exit_code == 2
        assert f"belongs to {getpass.getuser()}; only its owner" in done.stderr
        assert f"(sudo -u {getpass.getuser()})" in done.stderr


def test_estimate_says_how_often(run: Run, directory: Path) -> None:
    """From a cost and a failure rate, or a directory's size; nonsense is refused."""
    told = json.loads(run("ckpt", "estimate", "--cost", "5s", "--mtbf", "3h", "--json").output)
    assert told["every_s"] == pytest.approx(325, abs=3)
    assert told["loss"] == pytest.approx(0.0302, abs=0.0005)
    assert "at most" in run("ckpt", "estimate", str(directory), "--nodes", "4").output
    assert run("ckpt", "estimate", "--cost", "0").exit_code == 2


def test_why_shows_what_the_interval_rests_on(run: Run, store: MemoryStore, seeded: Any) -> None:
    """The job's measured cost, and the site's failures; before the first checkpoint that it is not known yet."""
    assert "has not said how often it saves" in run("ckpt", "why", "41").output
    store.record_checkpoint_cost(
        CheckpointCost(job_id="41", at_s=seeded.now, saves=7, nodes=128, size_bytes=78 << 30, stall_s=0.9, write_s=21.0,
                       cost_s=5.0, every_s=325.0, mtbf_s=10_800.0)
    )  # fmt: skip
    store.save_failure_rate(1, FailureRate(count=31, node_s=1e9, at_s=seeded.now))
    store.record_failure(
        1, FailureRecord(job=JobKey(job_id="9", submit_s=1), at_s=seeded.now, kind="NODE_FAIL", nodes="n7", node_count=1,
                         ran_s=3600.0)
    )  # fmt: skip
    said = run("ckpt", "why", "41").output
    assert "job 41 saves every 5 min 25 s: 3.02 %" in said
    assert "a checkpoint costs 5 s of training (7 measured)" in said
    assert "31 unannounced ends of runs" in said
    assert "assumed to cost" not in said
    assert "NODE_FAIL: a run on 1 node, 1 h old" in said
    assert json.loads(run("ckpt", "why", "41", "--json").output)["cost"]["nodes"] == 128
    assert run("ckpt", "why", "999").exit_code == 1


def test_why_tells_of_saves_in_memory(run: Run, store: MemoryStore, seeded: Any) -> None:
    """What they cost, how often, and that fewer failures are left for the directory; and nothing once there are none."""
    store.record_checkpoint_cost(
        CheckpointCost(job_id="41", at_s=seeded.now, saves=7, nodes=128, size_bytes=78 << 30, stall_s=0.9, write_s=21.0,
                       cost_s=5.0, every_s=839.0, mtbf_s=10_800.0)
    )  # fmt: skip
    cost = {"cost_s": 5.0, "memory_every_s": 30.0, "memory_cost_s": 0.2, "lost_s": 72_000.0}
    for at_s, told in ((1.0, cost), (2.0, {"cost_s": 5.0})):
        store.record_event(
            Event(at_s=seeded.now + at_s, source="agent:n1", kind="checkpoint", job_id="41", detail={"cost": told})
        )
        said = run("ckpt", "why", "41").output
        assert ("saves in memory every 30 s, which costs 200 ms of training" in said) == (told is cost)
        assert ("one that needs the directory is expected every 20 h" in said) == (told is cost)
        assert ("1.98 % of its time" if told is cost else "4.48 % of its time") in said


@pytest.mark.parametrize(
    ("stall_s", "write_s", "cost_s", "words"),
    [
        (0.1, 1.0, 5.0, "is assumed to cost 5 s of training until it is known how much slower steps are"),
        (0.003, 0.004, 0.007, "costs 7 ms of training at most: so long took the first one in all"),
    ],
)
def test_why_says_what_is_only_assumed(
    run: Run, store: MemoryStore, seeded: Any, stall_s: float, write_s: float, cost_s: float, words: str
) -> None:
    """The cost before a save was measured to its end, which is no more than the first one took in all; and the
    failures before any was seen.
    """
    store.record_checkpoint_cost(
        CheckpointCost(job_id="41", at_s=seeded.now, saves=0, nodes=1, size_bytes=1 << 30, stall_s=stall_s,
                       write_s=write_s, cost_s=cost_s, every_s=600.0, mtbf_s=18e6)
    )  # fmt: skip
    said = run("ckpt", "why", "41").output
    assert f"a checkpoint {words}" in said
    assert said.count("a checkpoint ") == 1
    assert "a job of 1 node is expected to fail every 208 d 8 h (assumed: no failure was seen here yet)" in said


def test_a_job_that_has_saved_in_memory_only_says_how_often(run: Run, store: MemoryStore, seeded: Any) -> None:
    """Before any checkpoint on disk; and the empty list of those names where to look."""
    assert "nodes' memory" not in run("ckpt", "list", "--job", "57").stderr
    store.record_event(
        Event(at_s=seeded.now, source="agent:n1", kind="memory_saves", job_id="57",
              detail={"cost": {"memory_every_s": 5.0, "memory_cost_s": 0.004, "lost_s": 18e6}})
    )  # fmt: skip
    store.record_copy(
        CheckpointCopy(job_id="57", node="n2", name="save-00000003-step-48", tier="peer", size_bytes=2, done_bytes=2,
                       at_s=5.0)
    )  # fmt: skip
    said = run("ckpt", "why", "57").output
    assert "job 57 saves in memory every 5 s, which costs 4 ms of training each time" in said
    assert "has not said" not in said
    listed = run("ckpt", "list", "--job", "57")
    assert "job 57 has confirmed no checkpoint yet; 'slurmext ckpt show 57' has what it saved" in listed.stderr


def test_copies_in_memory_are_shown_with_their_progress(run: Run, store: MemoryStore) -> None:
    """Where they are, and how much of each is there."""
    store.record_copy(
        CheckpointCopy(job_id="41", node="n2", name="save-00000003-step-9", tier="peer", size_bytes=200, done_bytes=50,
                       at_s=5.0)
    )  # fmt: skip
    assert run("ckpt", "show", "41", "-nP", "-o", "Tier,Node,Done").output == "peer|n2|25 %\n"
    assert "no node has a copy" in run("ckpt", "show", "57").stderr
