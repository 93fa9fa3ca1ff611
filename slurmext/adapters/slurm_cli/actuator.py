"""Acts on jobs with scontrol and scancel."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from slurmext.adapters.slurm_cli import fields
from slurmext.adapters.slurm_cli.runner import SlurmRunner

_BATCH = 500
# scontrol release 1,2,3 goes on after a refusal and says which: "Invalid job id specified for job 999"
_REFUSED = re.compile(r"^(?P<why>.+?) for job (?P<job>\S+)$")


class SlurmActuator:
    """Implements Actuator over Slurm's commands."""

    def __init__(self, runner: SlurmRunner) -> None:
        self._runner = runner

    def release(self, job_ids: Sequence[str]) -> Mapping[str, str]:
        """Release held jobs, many to a call (300 jobs took 0.2 s in one call)."""
        refused = dict[str, str]()
        for start in range(0, len(job_ids), _BATCH):
            batch = job_ids[start : start + _BATCH]
            answer = self._runner.run("scontrol", ["release", ",".join(batch)])
            if answer.code == 0:
                continue
            named = {
                found["job"]: found["why"] for line in answer.stderr.splitlines() if (found := _REFUSED.match(line))
            }
            refused |= named or dict.fromkeys(batch, answer.stderr.splitlines()[-1] if answer.stderr else "refused")
        return refused

    def set_nodes(self, job_id: str, nodes: Sequence[str], *, count: int | None = None) -> None:
        """Require these nodes (empty: none) and, with `count`, give the job that many nodes."""
        resize = [] if count is None else [f"NumNodes={count}"]
        self._runner.must(
            "scontrol",
            ["update", f"JobId={job_id}", *resize, f"ReqNodeList={fields.host_list(nodes) if nodes else ''}"],
        )

    def hold(self, job_id: str) -> None:
        """Hold as administrator."""
        self._runner.must("scontrol", ["hold", job_id])

    def take_over(self, job_id: str) -> None:
        """Hold as administrator and take back the begin time that job_submit.lua's guard gave it."""
        self._runner.must("scontrol", ["update", f"JobId={job_id}", "Priority=0", "StartTime=now"])

    def signal(self, job_id: str, signal: str) -> None:
        """Signal the batch shell and every process of every step (`--full`)."""
        self._runner.must("scancel", [f"--signal={signal}", "--full", job_id])

    def requeue(self, job_id: str) -> None:
        """Requeue, hold, and make eligible at once.

        A requeue undoes a hold set before it, so the hold comes after, while the job is COMPLETING. StartTime then
        replaces the wait of cred_expire + 1 seconds that a requeued job otherwise has (121 s by default).
        """
        self._runner.must("scontrol", ["requeue", job_id])
        self.hold_requeued(job_id)

    def hold_requeued(self, job_id: str) -> None:
        """The second half of `requeue`, on its own for a daemon that died in between."""
        self._runner.must("scontrol", ["update", f"JobId={job_id}", "Priority=0", "StartTime=now", "ReqNodeList="])

    def cancel(self, job_id: str) -> None:
        """Cancel."""
        self._runner.must("scancel", [job_id])
