"""An agent in a temporary directory, and a stand-in for munge that signs with a shared key."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slurmext.adapters.munge import Credential, MungeError
from slurmext.agent.main import Agent
from slurmext.checkpoint import confirm
from slurmext.config.site import SiteConfig
from tests.waiting import until

JOB = 31
"""What this process is a job of with the `agent`, and with no other: how often a job confirms is counted."""


class KeyedMunge:
    """Like munge: a credential is good under the same key, once, and carries its maker's uid."""

    def __init__(self, *, uid: int = 0, key: bytes = b"k", spent: set[str] | None = None) -> None:
        self.uid = uid
        self._key = key
        self._spent = set() if spent is None else spent

    def encode(self, payload: bytes) -> str:
        body = f"{self.uid}:{os.urandom(4).hex()}:{payload.hex()}"
        return f"MUNGE:{body}:{hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()}"

    def decode(self, credential: str) -> Credential:
        body, _, mark = credential.removeprefix("MUNGE:").rpartition(":")
        if not hmac.compare_digest(mark, hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()):
            raise MungeError("Invalid credential")
        if credential in self._spent:
            raise MungeError("Replayed credential")
        self._spent.add(credential)
        uid, _, payload = body.split(":")
        return Credential(uid=int(uid), payload=bytes.fromhex(payload))


def ask(path: str | Path, request: Any, timeout_s: float = 5) -> dict[str, Any]:
    """One request to a unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        connection.sendall(request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n")
        received = b""
        while not received.endswith(b"\n") and (chunk := connection.recv(65536)):
            received += chunk
    return json.loads(received)


def hook(op: str, job_id: int, *, uid: int, node: str = "n1", **env: str) -> dict[str, Any]:
    """A hook's request."""
    return {"op": op, "job_id": job_id, "uid": uid, "node": node, "env": env}


def start_job(folder: Path, job_id: int, uid: int, restarts: int = 0) -> None:
    """The job's prolog tells the agent of it."""
    request = hook("prolog", job_id, uid=uid, SLURM_JOB_RESTART_COUNT=str(restarts))
    assert ask(folder / "run" / "agent-n1.root.sock", request)["ok"]


def environment(agent: Agent, job_id: int) -> dict[str, str]:
    """By which the job's processes find the agent."""
    return {"SLURMEXT_AGENT_SOCKET": agent.node.socket_path, "SLURM_JOB_ID": str(job_id)}


def confirmation(job_id: int, **changes: object) -> dict[str, Any]:
    """A job's confirmation of step 300."""
    return {
        "op": "ckpt_confirm",
        "job_id": job_id,
        "step": 300,
        "path": "/s/c",
        "size_bytes": 9,
        "saved_at_s": 1.7e9,
    } | changes


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory others may pass through (pytest's own is 0700), with a path short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="sx", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def site(folder: Path) -> SiteConfig:
    return SiteConfig.model_validate({
        "version": 1, "cluster": "t", "run_dir": f"{folder}/run",
        "daemon": {"address": "127.0.0.1:9"}, "agent": {"spool_dir": f"{folder}/spool", "copies": {"dir": f"{folder}/copies"}}, "slurm": {"user": "root"},
        "staging": {"memory_dir": f"{folder}/models/m"},
    })  # fmt: skip


@pytest.fixture
def new_agent(site: SiteConfig) -> Iterator[Callable[..., Agent]]:
    """Starts agents of node n1, one after the other; `stop` them for the next."""
    agents: list[Agent] = []

    def start(**options: Any) -> Agent:
        agents.append(Agent(site, "n1", munge=KeyedMunge(), **options))  # type: ignore[arg-type]
        agents[-1].start()
        return agents[-1]

    yield start
    for agent in agents:
        agent.stop()
    # What they are at they end, with a word to the spool: its directory goes next.
    until(lambda: not [one for one in threading.enumerate() if re.fullmatch(r"copies(-out)?-\d+", one.name)])


@pytest.fixture
def agent(new_agent: Callable[..., Agent], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """An agent that this process is a job of."""
    started = new_agent()
    start_job(folder, JOB, os.geteuid())
    for name, value in environment(started, JOB).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(confirm, "_silent_until_s", 0.0)  # what becomes of this agent is not held against others
    return started
