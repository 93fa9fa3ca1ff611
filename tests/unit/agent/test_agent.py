"""The agent as its peers see it: hooks of root, a job's own user, and users who mean harm."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from slurmext.agent import handlers
from slurmext.agent.jobs import JobTable, RunningJob, jobs_with_processes
from slurmext.agent.server import Peer
from slurmext.errors import SlurmextError
from tests.waiting import until

from .conftest import ask, confirmation, hook

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")


def events_of(agent) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(agent.node.events._directory.glob("*.json"))]


def as_nobody(code: str) -> subprocess.Popen:
    return subprocess.Popen(["/usr/bin/python3", "-c", textwrap.dedent(code)], user=NOBODY, group=NOBODY, extra_groups=[],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip


def test_a_job_is_known_from_prolog_to_epilog(new_agent, site):
    """The prolog makes a job known and the epilog forgets it; both become events for the controller."""
    agent = new_agent()
    path = site.run_dir / "agent-n1.root.sock"
    assert ask(path, hook("prolog", 7, uid=NOBODY, SPANK_SLURMEXT_QUEUE="prod/chat", SLURM_JOB_GPUS="0,1")) == {
        "ok": True
    }
    job = agent.node.jobs.get(7)
    assert job and (job.uid, job.queue, job.gpus) == (NOBODY, "prod/chat", "0,1")
    assert ask(path, hook("epilog", 7, uid=NOBODY)) == {"ok": True}
    assert agent.node.jobs.get(7) is None
    assert [(e["event"], e["job_id"], e["uid"], e["node"]) for e in events_of(agent)] == [
        ("job_start", 7, NOBODY, "n1"), ("job_end", 7, NOBODY, "n1")]  # fmt: skip


@pytest.mark.parametrize("engine", [None, object()], ids=["none", "broken"])
def test_what_models_do_wrong_is_not_the_epilogs(new_agent, site, monkeypatch, engine):
    """The job's end is told although its models cannot be let go; what was left for its tasks goes."""
    agent = new_agent()
    ask(site.run_dir / "agent-n1.root.sock", hook("prolog", 7, uid=NOBODY))
    agent.models._files.write(7, os.geteuid(), ["print no models here"])
    monkeypatch.setattr(agent.models, "_engine", engine)

    def fail(job_id):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(agent.models._preloads, "end", fail)
    assert ask(site.run_dir / "agent-n1.root.sock", hook("epilog", 7, uid=NOBODY)) == {"ok": True}
    assert [event["event"] for event in events_of(agent)] == ["job_start", "job_end"]
    assert list((site.run_dir / "agent-n1.models").iterdir()) == []
    monkeypatch.setattr(agent.models, "_engine", None)


def test_hooks_socket_is_closed_to_users(new_agent, site):
    """Users reach the public socket only; root's hooks have one they cannot fill."""
    new_agent()
    assert (site.run_dir / "agent-n1.root.sock").stat().st_mode & 0o777 == 0o600
    assert (site.run_dir / "agent-n1.sock").stat().st_mode & 0o777 == 0o666


@needs_root
def test_a_user_cannot_speak_for_slurm(new_agent, site):
    """A prolog, an epilog or a confirmation for someone else's job by a user is refused and leaves no trace."""
    agent = new_agent()
    agent.node.jobs.start(RunningJob(job_id=8, uid=1234, started_s=1.0))
    program = as_nobody(f"""
        import json, socket
        for request in {[hook("prolog", 9, uid=0), hook("epilog", 8, uid=1234), confirmation(8), confirmation(77)]!r}:
            s = socket.socket(socket.AF_UNIX); s.connect({str(site.run_dir / "agent-n1.sock")!r})
            s.sendall(json.dumps(request).encode() + b"\\n"); print(s.recv(65536).decode(), end="")
        s = socket.socket(socket.AF_UNIX)
        try: s.connect({str(site.run_dir / "agent-n1.root.sock")!r}); print("open")
        except PermissionError: print("closed")
    """)
    out, err = program.communicate(timeout=20)
    *replies, last = out.splitlines()
    assert [json.loads(reply)["ok"] for reply in replies] == [False] * 4, err
    assert last == "closed"
    assert [job.job_id for job in agent.node.jobs.all()] == [8]
    assert events_of(agent) == []


@needs_root
def test_a_job_confirms_its_own_checkpoint(new_agent, site):
    """The job's user confirms; the event says what was saved."""
    agent = new_agent()
    agent.node.jobs.start(RunningJob(job_id=8, uid=NOBODY, started_s=1.0))
    program = as_nobody(f"""
        import json, socket
        s = socket.socket(socket.AF_UNIX); s.connect({str(site.run_dir / "agent-n1.sock")!r})
        s.sendall(json.dumps({confirmation(8, on_signal=1)!r}).encode() + b"\\n"); print(s.recv(65536).decode(), end="")
    """)
    assert json.loads(program.communicate(timeout=20)[0]) == {"ok": True}
    (event,) = events_of(agent)
    assert {k: event[k] for k in ("event", "job_id", "uid", "step", "path", "size_bytes")} == {
        "event": "checkpoint", "job_id": 8, "uid": NOBODY, "step": 300, "path": "/s/c", "size_bytes": 9}  # fmt: skip


@pytest.mark.parametrize("change", [
    {"step": -1}, {"step": "3"}, {"step": True}, {"path": "a\nb"}, {"path": "x" * 5000}, {"size_bytes": 1 << 70}, {"saved_at_s": "now"},
    {"saved_at_s": float("nan")}, {"job_id": 0}, {"job_id": "8"}, {"job_id": None},
])  # fmt: skip
def test_confirmations_that_make_no_sense_are_refused(new_agent, change):
    """Every field has a range; outside it the answer names the field."""
    agent = new_agent()
    agent.node.jobs.start(RunningJob(job_id=8, uid=5, started_s=1.0))
    reply = handlers.answer(agent.node, Peer(pid=1, uid=5, gid=5), confirmation(8) | change)
    assert reply["ok"] is False and next(iter(change)) in reply["error"]


def test_confirmations_are_limited(new_agent):
    """A job that confirms in a tight loop is told to save less often, and others are not affected."""
    agent = new_agent()
    for job_id in (801, 802):
        agent.node.jobs.start(RunningJob(job_id=job_id, uid=5, started_s=1.0))
    replies = [handlers.answer(agent.node, Peer(pid=1, uid=5, gid=5), confirmation(801))["ok"] for _ in range(30)]
    assert replies == [True] * 20 + [False] * 10
    assert handlers.answer(agent.node, Peer(pid=1, uid=5, gid=5), confirmation(802))["ok"]


@pytest.mark.parametrize("garbage", [
    b"\n", b"{}\n", b"[]\n", b"null\n", b"\xff\xfe\n", b'{"op": ["prolog"]}\n', b"[" * 60000 + b"\n", b'{"op": "prolog"}\n',
    b'{"op": "prolog", "job_id": ' + b"9" * 5000 + b"}\n", b"x" * 200000 + b"\n",
    json.dumps(hook("prolog", 5, uid=1) | {"env": "x"}).encode() + b"\n", json.dumps(hook("prolog", 5, uid=1, node="n2")).encode() + b"\n",
    json.dumps(hook("prolog", 5, uid=1, SLURM_JOB_GPUS="a\nb")).encode() + b"\n",
    json.dumps(hook("prolog", 5, uid=1) | {"env": {"SPANK_SLURMEXT_QUEUE": ["x"]}}).encode() + b"\n",
])  # fmt: skip
def test_garbage_is_survived(new_agent, site, garbage):
    """Whatever the bytes, the agent answers the next request."""
    agent = new_agent()
    path = site.run_dir / "agent-n1.sock"
    try:
        reply = ask(path, garbage)
        assert reply["ok"] is (b'"env": "x"' in garbage)
    except (OSError, ValueError):
        pass  # hung up on
    assert ask(path, {"op": "status"})["node"] == "n1"
    assert 5 not in {job.job_id for job in agent.node.jobs.all()} or b'"env": "x"' in garbage


@needs_root
def test_a_user_who_holds_connections_delays_no_hook(new_agent, site):
    """A user who keeps 60 connections open and sends a byte in each (slowloris) delays neither hooks nor other users."""
    new_agent()
    public = site.run_dir / "agent-n1.sock"
    flood = as_nobody(f"""
        import socket, time
        held = []
        print("flooding", flush=True)
        while True:
            for s in list(held):
                try:
                    s.recv(100)
                    held.remove(s)  # hung up on, or told off
                except BlockingIOError: pass
                except OSError: held.remove(s)
            while len(held) < 60:
                try:
                    s = socket.socket(socket.AF_UNIX); s.settimeout(0.2); s.connect({str(public)!r}); s.send(b"{{"); s.setblocking(False)
                    held.append(s)
                except OSError: break
            time.sleep(0.01)
    """)
    flood.stdout.readline()
    time.sleep(0.5)
    hooks, others = [], []
    for job_id in range(1, 21):
        started = time.monotonic()
        assert ask(site.run_dir / "agent-n1.root.sock", hook("prolog", job_id, uid=1)) == {"ok": True}
        hooks.append(time.monotonic() - started)
        started = time.monotonic()
        assert ask(public, {"op": "status"})["ok"]
        others.append(time.monotonic() - started)
    assert flood.poll() is None
    flood.kill()
    flood.communicate()
    # A machine that is busy may stop us once or twice; a flood would hold up every one.
    assert sorted(hooks)[-3] < 1.0, hooks
    assert sorted(others)[-3] < 1.0, others


def test_a_restarted_agent_knows_its_jobs(new_agent, site):
    """Jobs outlive the agent: with a journal torn in its last line, too."""
    new_agent().node.jobs.start(RunningJob(job_id=8, uid=5, started_s=time.time(), queue="a/b"))
    new_agent_journal = site.agent.spool_dir / "n1" / "jobs.jsonl"
    with new_agent_journal.open("a") as file:
        file.write('{"op": "start", "job": {"job_id": 9, "ui')
    table = JobTable(new_agent_journal)
    assert [(job.job_id, job.queue) for job in table.all()] == [(8, "a/b")]


def test_jobs_that_ended_unseen_are_forgotten_at_start(new_agent):
    """A job without a slurmstepd whose epilog found no agent is reported as ended; a young one may be in its prolog."""
    first = new_agent()
    first.node.jobs.start(RunningJob(job_id=4_000_000_001, uid=5, started_s=time.time() - 1000))
    first.node.jobs.start(RunningJob(job_id=4_000_000_002, uid=5, started_s=time.time()))
    first.stop()
    second = new_agent()
    assert [job.job_id for job in second.node.jobs.all()] == [4_000_000_002]
    assert [(e["event"], e["job_id"], e["inferred"]) for e in events_of(second)] == [("job_end", 4_000_000_001, True)]


def test_a_young_job_that_ended_unseen_is_forgotten_once_slurm_can_tell(new_agent):
    """Its epilog found no agent either; one that Slurm still has, and those of this agent's own time, stay."""
    first = new_agent()
    for job_id in (4_000_000_001, 4_000_000_002):
        first.node.jobs.start(RunningJob(job_id=job_id, uid=5, started_s=time.time()))
    first.stop()
    answers = iter([None, None])
    second = new_agent(in_slurm=lambda: next(answers, {4_000_000_002}), settle_s=0.3)
    second.node.jobs.start(RunningJob(job_id=4_000_000_003, uid=5, started_s=time.time() + 5))
    until(lambda: [job.job_id for job in second.node.jobs.all()] == [4_000_000_002, 4_000_000_003])
    assert [(e["event"], e["job_id"]) for e in events_of(second)] == [("job_end", 4_000_000_001)]


def test_jobs_are_found_by_their_slurmstepd(tmp_path):
    """Job and user of a process come from the slurmstepd above it, which root started; a user's look-alike is not
    believed, be it that root's rights come from a set-user-ID bit. That slurmstepd itself takes on its user for a moment
    changes nothing.
    """

    def process(pid: int, parent: int, title: bytes, real: int, effective: int) -> None:
        place = tmp_path / str(pid)
        place.mkdir()
        (place / "cmdline").write_bytes(title)
        (place / "stat").write_text(f"{pid} (a) b) S {parent} 0 0")
        (place / "status").write_text(f"Name:\tx\nUid:\t{real}\t{effective}\t0\t{effective}\n")
        os.chown(place, effective, effective)

    if os.geteuid() != 0:
        pytest.skip("needs root to make files of other users")
    process(10, 1, b"slurmstepd: [12.batch]\0", 0, 0)
    process(11, 10, b"bash\0", 1000, 1000)
    process(20, 1, b"slurmstepd: [13.0]\0", 1000, 1000)
    process(21, 20, b"python\0", 1000, 1000)
    process(30, 1, b"slurmstepd: [14.0]\0", 1000, 0)
    process(31, 30, b"python\0", 1000, 1000)
    process(40, 1, b"slurmstepd: [15.0]\0", 0, 1001)
    process(41, 40, b"python\0", 1001, 1001)
    assert jobs_with_processes(str(tmp_path)) == {12: {1000}, 15: {1001}}


def test_one_agent_per_node(new_agent):
    """A second agent for the node says who is there, and leaves the first one's socket alone."""
    first = new_agent()
    with pytest.raises(SlurmextError, match=rf"another agent .* \(pid {os.getpid()}"):
        new_agent()
    assert ask(first.node.socket_path, {"op": "status"})["ok"]


def test_run_dir_of_a_user_is_refused(new_agent, site):
    """Root puts no socket where others could replace it."""
    site.run_dir.mkdir()
    site.run_dir.chmod(0o777)
    with pytest.raises(SlurmextError, match="only its owner"):
        new_agent()


def test_the_place_for_models_is_roots_before_anybody_asks_for_one(new_agent, folder):
    """It is below a directory that is everyone's: a user who was first would keep the node from having models."""
    new_agent()
    place = (folder / "models").stat()
    assert (place.st_uid, place.st_mode & 0o777) == (os.geteuid(), 0o755)
    assert list((folder / "models").iterdir()) == []


def note(folder: Path, name: str, *items: str) -> Path:
    path = folder / name
    path.write_bytes("".join(f"{item}\0" for item in items).encode())
    return path


def test_notes_of_hooks_are_taken_in(new_agent, site):
    """A note makes a job known, or ends it, within a fraction of a second, and is gone then."""
    agent = new_agent()
    folder = site.run_dir / "agent-n1.notes"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (site.run_dir / "agent-n1.pid").read_text().split()[0] == str(os.getpid())
    note(folder, "7.1.prolog", "SLURM_JOB_UID=5", "SLURM_JOB_GPUS=0,1", "end")
    until(lambda: agent.node.jobs.get(7))
    job = agent.node.jobs.get(7)
    assert (job.uid, job.gpus, job.restarts) == (5, "0,1", 1)
    note(folder, "7.1.epilog", "SLURM_JOB_UID=5", "SLURM_JOB_EXIT_CODE2=0:0", "end")
    until(lambda: agent.node.jobs.get(7) is None)
    until(lambda: not list(folder.iterdir()))
    assert [(e["event"], e.get("exit_code")) for e in events_of(agent)] == [("job_start", None), ("job_end", "0:0")]
    agent.stop()
    assert not folder.exists() and not (site.run_dir / "agent-n1.pid").exists()


def test_notes_wait_for_the_agent(new_agent, site):
    """What hooks noted while no agent ran is taken in at its start, in the order of events, with their times."""
    folder = site.run_dir / "agent-n1.notes"
    folder.mkdir(parents=True)
    site.run_dir.chmod(0o755)
    long_ago = time.time() - 20
    for name in ("9.1.prolog", "9.0.epilog", "9.0.prolog", "10.0.prolog"):
        os.utime(note(folder, name, "SLURM_JOB_UID=5", "end"), (long_ago, long_ago))
    agent = new_agent()
    assert [(e["event"], e["job_id"], round(e["at_s"] - long_ago)) for e in events_of(agent)] == [
        ("job_start", 10, 0), ("job_start", 9, 0), ("job_end", 9, 0), ("job_start", 9, 0)]  # fmt: skip
    assert {job.job_id for job in agent.node.jobs.all()} == {9, 10}


def test_damaged_notes(new_agent, site):
    """A note still being written is waited for; one cut short, or no note at all, harms nothing."""
    agent = new_agent()
    folder = site.run_dir / "agent-n1.notes"
    path = note(folder, "7.0.prolog", "SLURM_JOB_UID=5")
    (folder / "8.0.prolog").write_bytes(b"")
    os.utime(folder / "8.0.prolog", (1, 1))
    note(folder, "9.0.prolog", "SLURM_JOB_UID=x", "end")
    (folder / "11.0.prolog").mkdir()
    (folder / "12.0.prolog").symlink_to("/etc/passwd")
    note(folder, "notes.txt", "end")
    note(folder, "13.0.prolog", "SLURM_JOB_UID=5", "end")
    until(lambda: agent.node.jobs.get(13))
    assert agent.node.jobs.get(7) is None
    with path.open("ab") as file:
        file.write(b"end\0")
    until(lambda: agent.node.jobs.get(7))
    assert [job.job_id for job in agent.node.jobs.all()] == [7, 13]
    assert sorted(os.listdir(folder)) == ["11.0.prolog", "12.0.prolog", "notes.txt"]


def test_kill_9_loses_no_event(folder, site):
    """An agent killed at random points keeps every event whose hook was answered, each exactly once on disk."""
    config = folder / "site.yaml"
    config.write_text(json.dumps(json.loads(site.model_dump_json())))
    answered: list[int] = []
    path = site.run_dir / "agent-n1.root.sock"
    for life in range(4):
        program = subprocess.Popen([sys.executable, "-m", "slurmext.agent.main", "--node", "n1", "--config", str(config)],
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        try:
            _wait_for(path)
            deadline = time.monotonic() + 0.05 + 0.07 * life
            job_id = 1000 * (life + 1)
            while time.monotonic() < deadline or job_id < 1000 * (life + 1) + 6:
                job_id += 1
                if ask(path, hook("prolog", job_id, uid=5))["ok"]:
                    answered.append(job_id)
            sender = socket.socket(socket.AF_UNIX)
            sender.connect(str(path))
            sender.sendall(json.dumps(hook("prolog", job_id + 1, uid=5)).encode() + b"\n")
        finally:
            program.kill()
            program.wait()
    spool = site.agent.spool_dir / "n1"
    events = [json.loads(file.read_text()) for file in sorted((spool / "events").glob("*.json"))]
    on_disk = [event["job_id"] for event in events]
    assert len(answered) > 20
    assert set(answered) <= set(on_disk) and len(on_disk) == len(set(on_disk))
    assert len({(event["boot"], event["seq"]) for event in events}) == len(events)
    assert set(answered) <= {job.job_id for job in JobTable(spool / "jobs.jsonl").all()}


def _wait_for(path: Path) -> None:
    for _ in range(300):
        try:
            if ask(path, {"op": "status"})["ok"]:
                return
        except (OSError, ValueError):
            time.sleep(0.05)
    raise AssertionError(f"nobody answers at {path}")
