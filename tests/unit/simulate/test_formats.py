"""Traces of sites and of the public, read into ours, and the file they are kept in."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from slurmext.cli.main import cli
from slurmext.errors import UsageError
from slurmext.simulate import formats, workload

SACCT = """\
JobIDRaw|User|Account|Submit|ElapsedRaw|NNodes|AllocTRES|TimelimitRaw
11|alice|prod|2026-11-01T10:00:00|3600|2|billing=2,cpu=2,gres/gpu=16,node=2|120
12|bob|research|2026-11-01T10:00:30|60|1|cpu=1,gres/gpu:h100=1,gres/gpu=1|UNLIMITED
13|bob|research|2026-11-01T10:01:00|60|1|cpu=1|60
14|bob|research|2026-11-01T10:02:00|0|1|gres/gpu=1|60
"""
SWF = """\
; Version: 2.2
1 0 5 100 4 -1 -1 4 200 -1 1 7 1 1 2 1 -1 -1
2 60 5 50 16 -1 -1 16 -1 -1 1 8 1 1 3 1 -1 -1
3 70 5 -1 16 -1 -1 16 -1 -1 0 8 1 1 3 1 -1 -1
"""
PHILLY = "job_id,vc,submit_s,gpu_num,duration_s,warm\np1,a,10,1,100,0\np2,b,20,16,50,0\np3,b,20,0,50,0\n"
HELIOS = (
    "job_id,user,vc,gpu_num,submit_time,duration\n1,u1,va,8,2020-04-01 00:00:10,30\n2,u2,vb,12,2020-04-01 00:00:40,5\n"
)
OPENB = (
    "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time\n"
    "pod1,1000,1000,2,1000,V100M16|V100M32,LS,Running,100,400,100\n"
    "pod2,1000,1000,1,500,,BE,Running,100,400,100\n"
    "pod3,1000,1000,1,1000,,BE,Running,150,400,150\n"
)


def write(tmp_path: Path, text: str, name: str = "in") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("sacct", SACCT, [("11", "prod", 0, 3600, 2, 8, 7200), ("12", "research", 30, 60, 1, 1, None)]),
        ("swf", SWF, [("1", "q2", 0, 100, 1, 4, 200), ("2", "q3", 60, 50, 2, 8, None)]),
        ("philly", PHILLY, [("p1", "a", 0, 100, 1, 1, None), ("p2", "b", 10, 50, 2, 8, None)]),
        ("helios", HELIOS, [("1", "va", 0, 30, 1, 8, None), ("2", "vb", 30, 5, 12, 1, None)]),
        ("openb", OPENB, [("pod1", "ls", 0, 300, 1, 2, None), ("pod3", "be", 50, 250, 1, 1, None)]),
    ],
)
def test_each_format_is_read(tmp_path: Path, kind: str, text: str, expected: list[tuple[object, ...]]) -> None:
    """Jobs with GPUs that ran, from the first submission on, as few nodes as possible."""
    jobs = formats.read(write(tmp_path, text), kind)
    found = [(j.id, j.queue, j.submit_s, j.duration_s, j.tasks, j.gpus_per_task, j.time_limit_s) for j in jobs]
    assert found == expected


def test_importing_tells_when_a_history_began(tmp_path: Path) -> None:
    """As `simulate --start` wants it; a trace that has no dates began at no time."""
    files = {"sacct": write(tmp_path, SACCT, "sacct"), "philly": write(tmp_path, PHILLY, "philly")}
    told = {
        kind: CliRunner().invoke(cli, ["trace", "import", "--from", kind, str(file), str(tmp_path / f"{kind}.csv")])
        for kind, file in files.items()
    }
    assert told["sacct"].output.endswith("2 jobs of 2 queues in 0.0 days, from 2026-11-01T10:00:00 on\n")
    assert told["philly"].output.endswith("2 jobs of 2 queues in 0.0 days\n")


def test_gzip_is_seen(tmp_path: Path) -> None:
    """A compressed file is read like a plain one."""
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(PHILLY.encode()))
    assert len(formats.read(path, "philly")) == 2


@pytest.mark.parametrize("kind", ["philly", "swf", "sacct", "openb", "helios"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, kind: str) -> None:
    """With the name of the file, and without a traceback."""
    with pytest.raises(UsageError, match=f"is no {kind} trace"):
        formats.read(write(tmp_path, "x,y\n1,2\n"), kind)


def test_a_trace_survives_its_file(tmp_path: Path) -> None:
    """Saved and loaded it is the same."""
    jobs = formats.read(write(tmp_path, OPENB), "openb")
    workload.save(tmp_path / "t.csv", jobs)
    assert workload.load(tmp_path / "t.csv") == jobs


def test_a_bad_trace_names_file_line_and_column(tmp_path: Path) -> None:
    """So that it can be mended."""
    with pytest.raises(UsageError, match=r"t.csv:3: duration_s: .*valid"):
        workload.load(write(tmp_path, "id,queue,submit_s,duration_s\n1,a,0,5\n2,a,0,soon\n", "t.csv"))
    with pytest.raises(UsageError, match="unknown column 'gpu'"):
        workload.load(write(tmp_path, "id,queue,gpu\n", "t.csv"))


POLICY = "version: 1\nsettings: {grace_s: 60}\nqueues:\n  a: {guaranteed: 8}\n  b: {guaranteed: 8}\n"


def test_simulate_from_the_command_line(tmp_path: Path) -> None:
    """A history imported, replayed under a policy beside its peers, every law checked."""
    run = CliRunner().invoke
    raw = write(tmp_path, PHILLY, "philly.csv")
    assert run(cli, ["trace", "import", "--from", "philly", str(raw), str(tmp_path / "t.csv")]).exit_code == 0
    cluster = write(tmp_path, "version: 1\nnodes: {'n[1-2]': 8}\n", "cluster.yaml")
    policy = write(tmp_path, POLICY, "policy.yaml")
    words = ["simulate", "-f", str(cluster), "--policy", str(policy), "--trace", str(tmp_path / "t.csv")]
    done = run(cli, [*words, "--compare", "static", "--compare", "qos", "--compare", "pool", "--check", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert set(told) == {"slurmext", "static", "qos", "pool", "broken_laws"}
    assert told["slurmext"]["jobs"] == 2
    assert told["broken_laws"] == []
    table = run(cli, words)
    assert table.exit_code == 0
    assert "slurmext" in table.output


@pytest.mark.parametrize(
    ("cluster", "trace", "said"),
    [
        ("version: 1\nnodes: {n1: 8}\nnode: 3\n", "id,queue,submit_s,duration_s\n1,a,0,5\n", "node"),
        ("version: 1\nnodes: {n1: 8}\n", "id,queue,submit_s,duration_s\n1,zz,0,5\n", "queue 'zz'"),
        ("version: 1\nnodes: {'n[1-2]': 8, n2: 4}\n", "id,queue,submit_s,duration_s\n1,a,0,5\n", "n2 is named twice"),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, cluster: str, trace: str, said: str) -> None:
    """One line that says what is wrong."""
    files = [write(tmp_path, cluster, "c.yaml"), write(tmp_path, POLICY, "p.yaml"), write(tmp_path, trace, "t.csv")]
    done = CliRunner().invoke(
        cli, ["simulate", "-f", str(files[0]), "--policy", str(files[1]), "--trace", str(files[2])]
    )
    assert done.exit_code in {1, 2}
    assert said in done.output
