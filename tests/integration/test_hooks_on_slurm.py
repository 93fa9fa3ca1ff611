"""Hooks and agents on a real Slurm."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.gates import Gate
from tests.waiting import until

if TYPE_CHECKING:
    from slurmext.devcluster import Devcluster

pytestmark = pytest.mark.cluster


def ask(cluster: Devcluster, node: str, request: dict[str, Any]) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(cluster.layout.slurmext_run / f"agent-{node}.sock"))
        connection.sendall(json.dumps(request).encode() + b"\n")
        return json.loads(connection.recv(1 << 20))


def answers(cluster: Devcluster, node: str) -> bool:
    """A killed agent's threads may still close its socket while the next one starts."""
    try:
        return ask(cluster, node, {"op": "status"})["pid"] == cluster.pid(f"agent@{node}")
    except (OSError, ValueError):
        return False


def jobs_on(cluster: Devcluster, node: str) -> list[int]:
    return [job["job_id"] for job in ask(cluster, node, {"op": "status"})["jobs"]]


def submit(cluster: Devcluster, script: str, *flags: str, user: str = "alice") -> int:
    return int(cluster.out("sbatch", "--parsable", "--output=out.%j", *flags, f"--wrap={script}", user=user))


def state(cluster: Devcluster, job_id: int) -> str:
    return cluster.out("scontrol", "--oneliner", "show", "job", str(job_id)).partition("JobState=")[2].split()[0]


def test_a_job_from_prolog_to_epilog(cluster):
    """The agent knows a job while it runs; its tasks know their checkpoint directory, queue and the agent."""
    gate = Gate(cluster)
    job_id = submit(cluster, f"srun env; {gate.wait}", "--gres=gpu:1", "--nodelist=n2", "--queue=research", "--ckpt")
    until(lambda: jobs_on(cluster, "n2") == [job_id])
    gate.open()
    until(lambda: state(cluster, job_id) == "COMPLETED")
    until(lambda: jobs_on(cluster, "n2") == [])
    home = cluster.home("alice")
    lines = (home / f"out.{job_id}").read_text().splitlines()
    assert f"SLURMEXT_CKPT_DIR={home}/slurmext-ckpt/{job_id}" in lines
    assert f"SLURMEXT_AGENT_SOCKET={cluster.layout.slurmext_run}/agent-n2.sock" in lines
    assert "SLURMEXT_QUEUE=research" in lines


def test_jobs_run_where_the_agent_is_dead(cluster):
    """With the node's agent killed a job starts and ends as ever, the node is not drained, and the hooks' log says so."""
    log = cluster.layout.slurmext_run / "hooks.log"
    before = len(log.read_text().splitlines()) if log.exists() else 0
    cluster.kill("agent@n3")
    job_id = submit(cluster, "srun true", "--gres=gpu:1", "--nodelist=n3")
    until(lambda: state(cluster, job_id) == "COMPLETED")
    until(lambda: cluster.out("sinfo", "--noheader", "--nodes=n3", "--format=%T") == "idle")
    until(lambda: len([line for line in log.read_text().splitlines()[before:] if f"job={job_id}" in line]) == 2)


def test_an_agent_back_from_the_dead_knows_its_jobs(cluster):
    """An agent killed and started again while a job runs still knows it, and lets its user confirm a checkpoint."""
    gate = Gate(cluster)
    job_id = submit(cluster, f"{gate.pass_by}; sleep 60", "--gres=gpu:1", "--nodelist=n4")
    until(lambda: gate.reached(str(job_id)))
    assert jobs_on(cluster, "n4") == [job_id]
    cluster.kill("agent@n4")
    cluster.start("agent@n4")
    until(lambda: answers(cluster, "n4"))
    assert jobs_on(cluster, "n4") == [job_id]


def test_another_user_s_job(cluster):
    """Bob can neither confirm a checkpoint of alice's job nor see it at the agent."""
    job_id = submit(cluster, "sleep 60", "--gres=gpu:1", "--nodelist=n1")
    until(lambda: jobs_on(cluster, "n1") == [job_id])
    code = """if True:
        import json, socket, sys, time
        for request in ({"op": "ckpt_confirm", "job_id": int(sys.argv[2]), "step": 1, "path": "/x", "size_bytes": 1,
                         "saved_at_s": time.time()}, {"op": "status"}):
            s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
            s.sendall(json.dumps(request).encode() + b"\\n"); print(s.recv(65536).decode(), end="")
    """
    path = cluster.layout.slurmext_run / "agent-n1.sock"
    confirmed, status = cluster.out("/usr/bin/python3", "-c", code, str(path), str(job_id), user="bob").splitlines()
    assert "is not a job of uid" in json.loads(confirmed)["error"]
    assert json.loads(status)["jobs"] == []
