"""slurmext.checkpoint on a Slurm that has no slurmext: neither options, nor slurmextd, nor agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.programs import PACKAGES, RANKS, python_with
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurmext.devcluster import Devcluster

pytestmark = pytest.mark.cluster


@pytest.mark.slow  # a time limit is a minute at least, and Slurm looks at them twice a minute
@pytest.mark.timeout(400)
def test_a_job_requeues_itself_before_its_limit_if_it_asked_for_it(new_cluster: Callable[..., Devcluster]) -> None:
    """With SLURMEXT_CKPT=…,chain, as a plain program, under srun or over components; else --signal has it save, and end."""
    cluster = new_cluster(plain=True, nodes=3, conf={"KillWait": "4"})
    home = cluster.home("alice")
    program = home / "program.py"
    program.write_text(RANKS)
    run = f"{python_with('numpy')} {program}"
    chain = "export SLURMEXT_CKPT=USR1@10,chain\n"
    scripts = {
        "alone": (["--requeue"], f"{chain}{run}"),
        "srun": (["--requeue", "-n2"], f"{chain}srun {run}"),
        "components": (["--requeue", "-n1", ":", "--requeue", "--time=1", "-n2"], f"{chain}srun --het-group=0,1 {run}"),
        "signal": (["--requeue", "--signal=USR1@20"], f"export SLURMEXT_CKPT=USR1@10\nsrun {run}"),
    }
    jobs = {}
    for name, (options, script) in scripts.items():
        (home / f"{name}.sh").write_text(f"#!/bin/sh\n{script}\n")
        given = ["--time=1", "--open-mode=append", f"--output={name}.out", *options]
        env = {"RUNS": "1", "PYTHONPATH": f"{cluster.layout.python}:{PACKAGES}"}
        argv = ["sbatch", "--parsable", *given, str(home / f"{name}.sh")]
        jobs[name] = cluster.run(argv, user="alice", env=env).stdout.strip()

    def text(name: str) -> str:
        return (home / f"{name}.out").read_text() if (home / f"{name}.out").exists() else ""

    def shown() -> dict[str, list[str]]:
        """State and restarts of each."""
        rows = cluster.out(
            "squeue", "--states=all", "--noheader", "--Format=JobID:20,State:20,RestartCnt:20"
        ).splitlines()
        return {row.split()[0]: row.split()[1:] for row in rows}

    until(
        lambda: not {shown()[job][0] for job in jobs.values()} & {"PENDING", "RUNNING", "COMPLETING"}, 200,
        scene=lambda: (shown(), [text(name) for name in jobs]), pause_s=0.5,
    )  # fmt: skip
    found = {name: shown()[job] for name, job in jobs.items()}
    assert found == {name: ["COMPLETED", "1"] for name in ("alone", "srun", "components")} | {
        "signal": ["TIMEOUT", "0"]
    }, [text(name) for name in jobs]
    for name, ranks in (("alone", 1), ("srun", 2), ("components", 3)):
        said = text(name)
        assert said.count("and is requeued") == 1, said
        resumed = [line.partition(" from ")[2].split()[0] for line in said.splitlines() if " of run 1" in line]
        assert len(resumed) == said.count("done") == ranks, said
        assert len(set(resumed) - {"0"}) == 1, said
    assert "saved" in text("signal")
