"""The hooks as Slurm runs them: whatever the agent does, a job goes on, in time."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import slurmext
from slurmext.hooks import client
from slurmext.install.hooks import SOURCES, wrapper_text
from tests.waiting import until

HOOKS = ("Prolog", "Epilog")
PACKAGE = Path(slurmext.__file__).parent
PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
ENVIRONMENT = {"SLURM_JOB_ID": "12", "SLURM_JOB_UID": "1000", "SLURMD_NODENAME": "n1", "SLURM_JOB_GPUS": "0,1",
               "SPANK_SLURMEXT_QUEUE": 'a "quoted"\\ é', "SECRET": "x"}  # fmt: skip
OK = b'{"ok": true}\n'


def start_ticks(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


class Hooks:
    """The three wrappers, filled in as `slurmext install` does, in a directory of their own."""

    def __init__(self, folder: Path, *, python: str = PYTHON, deadline_s: float = 1) -> None:
        self.run_dir = folder / "run dir"
        self.run_dir.mkdir(exist_ok=True)
        self.paths: dict[str, Path] = {}
        for key, relative in SOURCES.items():
            values = {
                "PYTHON": python,
                "RUN_DIR": str(self.run_dir),
                "DEADLINE_S": f"{deadline_s:g}",
                "PRELOAD_S": f"{deadline_s:g}",
                "PACKAGE_DIR": str(PACKAGE),
            }
            path = folder / relative.name
            path.write_text(wrapper_text(PACKAGE.parent / relative, values))
            path.chmod(0o755)
            self.paths[key] = path

    def run(self, key: str, **environment: str) -> tuple[int, str, float]:
        """Exit status, output and seconds; with no PATH, as slurmd runs a prolog."""
        started = time.monotonic()
        done = subprocess.run(
            [self.paths[key]], env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.stderr == ""
        return done.returncode, done.stdout, time.monotonic() - started

    @property
    def notes(self) -> Path:
        return self.run_dir / "agent-n1.notes"

    def alive(self, pid: object, ticks: str = "") -> None:
        """What an agent of this pid leaves while it runs."""
        self.notes.mkdir(exist_ok=True)
        (self.run_dir / "agent-n1.pid").write_text(f"{pid} {ticks or start_ticks(os.getpid())}\n")

    @property
    def log(self) -> list[str]:
        path = self.run_dir / "hooks.log"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sx", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def agent(folder: Path) -> Iterator[Callable[[Callable[[socket.socket], None]], list[bytes]]]:
    """A stand-in for the agent: calls what the test says on each connection; gives the requests it saw."""
    listeners = []

    def start(behave: Callable[[socket.socket], None]) -> list[bytes]:
        requests: list[bytes] = []

        def serve(listener: socket.socket) -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                requests.append(connection.recv(65536))
                try:
                    behave(connection)
                except OSError:
                    pass

        for name in ("agent-n1.sock", "agent-n1.root.sock"):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(folder / "run dir" / name))
            listener.listen(5)
            listeners.append(listener)
            threading.Thread(target=serve, args=(listener,), daemon=True).start()
        return requests

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def dribble(connection: socket.socket) -> None:
    for _ in range(200):
        connection.sendall(b"x")
        time.sleep(0.05)


BAD_AGENTS = {
    "hangs up": lambda c: c.close(),
    "says nothing": lambda c: time.sleep(5),
    "dribbles": dribble,
    "talks garbage": lambda c: (c.sendall(b"\xff\xfe{[\n"), c.close()),
    "answers no object": lambda c: (c.sendall(b"[1]\n"), c.close()),
    "nests deeply": lambda c: (c.sendall(b"[" * 60000 + b"\n"), c.close()),
    "floods": lambda c: c.sendall(b"x" * 5_000_000),
    "refuses": lambda c: (c.sendall(b'{"ok": false, "error": "no\\nway"}\n'), c.close()),
    "stops halfway": lambda c: (c.sendall(b'{"ok": tr'), c.close()),
}


@pytest.mark.parametrize("key", HOOKS)
@pytest.mark.parametrize("how", BAD_AGENTS)
def test_a_bad_agent_stops_no_job(folder, agent, key, how):
    """Each hook exits 0 within its deadline and leaves one log line, whatever the agent does."""
    hooks = Hooks(folder)
    agent(BAD_AGENTS[how])
    status, output, wall_s = hooks.run(key)
    assert (status, output) == (0, "")
    assert wall_s < 4.5  # its deadline is one second; who is slow here is so for five or more
    assert len(hooks.log) == 1 and "node=n1 job=12" in hooks.log[0]


@pytest.mark.parametrize("key", HOOKS)
def test_no_agent(folder, key):
    """Without an agent's socket a hook exits 0 at once and logs it."""
    hooks = Hooks(folder)
    assert hooks.run(key)[:2] == (0, "")
    assert len(hooks.log) == 1 and "job=12" in hooks.log[0]


@pytest.mark.parametrize("key", HOOKS)
def test_a_living_agent_gets_a_note(folder, key):
    """While the process that the agent's pid file names lives, a hook leaves a note and does not start Python."""
    hooks = Hooks(folder, python="/bin/false")
    hooks.alive(os.getpid())
    assert hooks.run(key, SPANK_SLURMEXT_CKPT_DIR="/a b/$(c)\n\\0", SLURM_JOB_RESTART_COUNT="1")[:2] == (0, "")
    (note,) = hooks.notes.iterdir()
    assert note.name == f"12.1.{key.lower()}"
    *items, end, nothing = note.read_bytes().decode().split("\0")
    assert (end, nothing) == ("end", "")
    values = dict(item.split("=", 1) for item in items)
    assert (values["SLURM_JOB_ID"], values["SLURM_JOB_UID"]) == ("12", "1000")
    if key == "Prolog":
        assert values["SPANK_SLURMEXT_QUEUE"] == ENVIRONMENT["SPANK_SLURMEXT_QUEUE"]
        assert values["SPANK_SLURMEXT_CKPT_DIR"] == "/a b/$(c)\n\\0"
    assert hooks.log == []


@pytest.mark.parametrize("key", HOOKS)
@pytest.mark.parametrize("why", ["dead", "zombie", "another process", "garbage", "no folder", "folder full"])
def test_when_no_note_can_be_left_the_agent_is_asked(folder, agent, key, why):
    """A dead agent's pid file, one that makes no sense, or a folder that cannot be written: the socket decides."""
    hooks = Hooks(folder)
    requests = agent(lambda c: c.sendall(OK))
    gone, zombie = subprocess.Popen(["/bin/true"]), subprocess.Popen(["/bin/true"])
    gone.wait()
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    match why:
        case "dead":
            hooks.alive(gone.pid)
        case "zombie":
            hooks.alive(zombie.pid, start_ticks(zombie.pid))
        case "another process":
            hooks.alive(os.getpid(), f"{int(start_ticks(os.getpid())) - 1}")  # the pid is used anew
        case "garbage":
            hooks.alive("x; exit 1")
        case _:
            hooks.alive(os.getpid())
    if why == "no folder":
        hooks.notes.rmdir()
    if why == "folder full":
        (hooks.notes / f"12..{key.lower()}").symlink_to("/dev/full")
    assert hooks.run(key)[:2] == (0, "")
    assert json.loads(requests[0])["op"] == key.lower()
    assert hooks.log == []
    zombie.wait()


@pytest.mark.parametrize("key", HOOKS)
def test_a_dead_agents_socket(folder, key):
    """A socket nobody listens on any more (agent killed) is as good as none."""
    hooks = Hooks(folder)
    for name in ("agent-n1.sock", "agent-n1.root.sock"):
        socket.socket(socket.AF_UNIX).bind(str(hooks.run_dir / name))
    assert hooks.run(key)[:2] == (0, "")
    assert len(hooks.log) == 1 and "refused" in hooks.log[0]


def test_a_full_backlog(folder):
    """An agent that accepts nothing while others queue up before it: the prolog waits its deadline, not longer."""
    hooks = Hooks(folder)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(hooks.run_dir / "agent-n1.root.sock"))
    listener.listen(0)
    waiting = socket.socket(socket.AF_UNIX)
    waiting.connect(str(hooks.run_dir / "agent-n1.root.sock"))
    status, _, wall_s = hooks.run("Prolog")
    assert status == 0 and 0.9 < wall_s < 10 and len(hooks.log) == 1


@pytest.mark.parametrize("key", HOOKS)
@pytest.mark.parametrize("python", ["/nonexistent/python3", "/bin/false"])
def test_a_broken_python_stops_no_job(folder, agent, key, python):
    """An interpreter that is gone or dies cannot drain the node."""
    hooks = Hooks(folder, python=python)
    agent(lambda c: c.sendall(OK))
    done = subprocess.run([hooks.paths[key]], env=ENVIRONMENT, capture_output=True, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("environment", [{"SLURM_JOB_ID": ""}, {"SLURM_JOB_ID": "x"}, {"SLURM_JOB_UID": "me"}])
def test_a_strange_environment_stops_no_job(folder, agent, environment):
    """Variables that are missing or make no sense end in status 0 and a log line."""
    hooks = Hooks(folder)
    agent(lambda c: c.sendall(OK))
    assert hooks.run("Prolog", **environment)[0] == 0
    assert len(hooks.log) == 1


def test_only_a_finding_fails_the_prolog(folder, agent):
    """When the agent found something wrong with the node the prolog fails with its words in the log; nothing else does."""
    hooks = Hooks(folder)
    agent(lambda c: c.sendall(b'{"ok": true, "finding": "GPU 3 is gone"}\n'))
    assert hooks.run("Prolog")[0] == 1
    assert "GPU 3 is gone" in hooks.log[0]
    assert hooks.run("Epilog")[0] == 0


def test_what_a_hook_tells_the_agent(folder, agent):
    """The request names job, user and node, and of the environment only what the agent uses."""
    hooks = Hooks(folder)
    requests = agent(lambda c: c.sendall(OK))
    assert hooks.run("Prolog", SPANK_SLURMEXT_CKPT="x" * 5000)[0] == 0
    assert json.loads(requests[0]) == {
        "op": "prolog", "job_id": 12, "uid": 1000, "node": "n1",
        "env": {name: ENVIRONMENT[name] for name in ("SLURM_JOB_ID", "SLURM_JOB_UID", "SLURM_JOB_GPUS", "SPANK_SLURMEXT_QUEUE")},
    }  # fmt: skip
    assert hooks.log == []


@pytest.mark.parametrize(("environment", "expected"), [
    ({"SLURM_SUBMIT_DIR": "/home/a b"}, "export SLURMEXT_CKPT_DIR=/home/a b/slurmext-ckpt/12\n"),
    ({"SLURM_SUBMIT_DIR": "/home/a", "SLURMEXT_CKPT_DIR": "/scratch/x"}, ""),
    ({"SLURM_SUBMIT_DIR": "/home/%s\\n"}, "export SLURMEXT_CKPT_DIR=/home/%s\\n/slurmext-ckpt/12\n"),
    ({"SLURM_SUBMIT_DIR": "/home/a\nexport LD_PRELOAD=/evil"}, ""),
    ({"SLURM_SUBMIT_DIR": "relative"}, ""),
    ({}, ""),
    ({"SLURM_TASKS_PER_NODE": "2(x3)", "SLURM_NNODES": "3", "SLURM_NTASKS": "8"},
     "export SLURM_NTASKS=6\nexport SLURM_NPROCS=6\n"),
    ({"SLURM_TASKS_PER_NODE": "2(x3)", "SLURM_NNODES": "3", "SLURM_NTASKS": "6"}, ""),
    ({"SLURM_TASKS_PER_NODE": "2(x3)", "SLURM_NNODES": "3", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}, ""),
    ({"SLURM_TASKS_PER_NODE": "2,1", "SLURM_NNODES": "2", "SLURM_NTASKS": "8"}, ""),
    ({"SLURM_TASKS_PER_NODE": "1(x3)", "SLURM_NNODES": "3", "SLURM_NTASKS": "a[$(id)]"}, ""),
])  # fmt: skip
@pytest.mark.parametrize("with_agent", [True, False])
def test_what_slurm_reads_from_the_task_prolog(folder, agent, environment, expected, with_agent):
    """A task learns where its checkpoints go (the same place after a requeue) and the agent's socket if it has one."""
    hooks = Hooks(folder, python="/bin/false")
    line = f"export SLURMEXT_AGENT_SOCKET={hooks.run_dir}/agent-n1.sock\n" if with_agent else ""
    if with_agent:
        agent(lambda c: c.close())
    assert hooks.run("TaskProlog", **environment)[:2] == (0, line + expected)


def test_the_log_is_not_followed_through_a_link(folder):
    """Root writes its log line into no file that a link points to."""
    hooks = Hooks(folder)
    victim = folder / "victim"
    victim.write_text("")
    (hooks.run_dir / "hooks.log").symlink_to(victim)
    for name in ("agent-n1.sock", "agent-n1.root.sock"):
        socket.socket(socket.AF_UNIX).bind(str(hooks.run_dir / name))
    assert hooks.run("Prolog")[0] == 0
    assert victim.read_text() == ""


def test_the_client_stands_alone(tmp_path):
    """A copy of the one file runs without the package, without site-packages and on the system's own Python."""
    copy = tmp_path / "client.py"
    shutil.copy(client.__file__, copy)
    done = subprocess.run([PYTHON, "-I", "-S", copy, "prolog", str(tmp_path / "none"), "1", str(tmp_path / "log")],
                          env=ENVIRONMENT, check=False)  # fmt: skip
    assert done.returncode == 0
    assert "FileNotFoundError" in (tmp_path / "log").read_text()


def test_a_blocked_alarm_is_unblocked(folder, agent):
    """Slurmd may hand down a mask that blocks SIGALRM (not every sh clears it); the deadline holds all the same."""
    hooks = Hooks(folder)
    agent(dribble)
    arguments = [
        PYTHON,
        "-I",
        "-S",
        client.__file__,
        "prolog",
        str(hooks.run_dir / "agent-n1.root.sock"),
        "1",
        str(folder / "log"),
    ]
    code = f"import os, signal; signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGALRM}}); os.execv({PYTHON!r}, {arguments!r})"
    started = time.monotonic()
    assert subprocess.run([PYTHON, "-c", code], env=ENVIRONMENT, check=False, timeout=30).returncode == 0
    assert time.monotonic() - started < 8  # the agent goes on for ten


@pytest.mark.skipif(os.geteuid() != 0, reason="the agent trusts root's hooks")
def test_agent_killed_during_a_prolog(folder):
    """A real agent that dies with a prolog's request in hand: the hook ends at once, long before its deadline."""
    hooks = Hooks(folder, deadline_s=5)
    config = folder / "site.yaml"
    config.write_text(json.dumps({"version": 1, "cluster": "t", "run_dir": str(hooks.run_dir), "slurm": {"user": "root"},
                                  "agent": {"spool_dir": f"{folder}/spool", "copies": {"dir": f"{folder}/copies"}}, "daemon": {"address": "127.0.0.1:9"},
                                  "staging": {"memory_dir": f"{folder}/models/m"}}))  # fmt: skip
    hooks.run_dir.chmod(0o755)
    folder.chmod(0o755)
    program = subprocess.Popen([sys.executable, "-m", "slurmext.agent.main", "--node", "n1", "--config", str(config)],
                               stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        while not (hooks.run_dir / "agent-n1.sock").exists():
            assert program.poll() is None
            time.sleep(0.05)
        until((hooks.run_dir / "agent-n1.pid").exists)
        assert hooks.run("Prolog")[0] == 0
        until(lambda: not list(hooks.notes.iterdir()))
        assert hooks.log == []
        (hooks.run_dir / "agent-n1.pid").unlink()  # so that the hook asks
        program.send_signal(19)  # SIGSTOP: the connection is made, the answer never comes
        threading.Timer(1.0, program.kill).start()
        status, _, wall_s = hooks.run("Prolog")
        assert status == 0 and 0.8 < wall_s < 4.5
        assert len(hooks.log) == 1
    finally:
        program.kill()
        program.wait()
