"""Acts on jobs with scontrol and scancel."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence

from slurmext.adapters.slurm_cli import fields
from slurmext.adapters.slurm_cli.runner import SlurmRunner

_BATCH = 500
_FIRST = 4294967290
"""A priority just below Slurm's own special values."""
_NEXT_SECOND = "StartTime=now+1"
"""A slurmd starts no run whose credential is of the second in which it was told to end the one before ("already killed,
do not launch batch job", and the job has failed; tried on 22.05)."""
# scontrol release 1,2,3 goes on after a refusal and says which: "Invalid job id specified for job 999"
_SIZES = re.compile(r"(?<!\S)(NumNodes|NumTasks|NumCPUs)=(\d+)")
_REFUSED = re.compile(r"^(?P<why>.+?) for job (?P<job>\S+)$")


class SlurmActuator:
    """Implements Actuator over Slurm's commands."""

    def __init__(self, runner: SlurmRunner, *, holder: str | None = None) -> None:
        """`holder` is the user placeholder jobs run as (None: whoever we are)."""
        self._runner = runner
        self._as_user = [] if holder is None else [f"--uid={holder}"]
        self._updating: list[tuple[frozenset[str], subprocess.Popen[bytes]]] = []

    def release(self, job_ids: Sequence[str]) -> Mapping[str, str]:
        """Release held jobs, many to a call (300 jobs took 0.2 s in one call)."""
        return self._each("release", job_ids)

    def _each(self, command: str, job_ids: Sequence[str]) -> dict[str, str]:
        """`scontrol release|requeue 1,2,3`; why it refused, by job."""
        refused = dict[str, str]()
        for start in range(0, len(job_ids), _BATCH):
            batch = job_ids[start : start + _BATCH]
            answer = self._runner.run("scontrol", [command, ",".join(batch)])
            if answer.code == 0:
                continue
            named = {
                found["job"]: found["why"] for line in answer.stderr.splitlines() if (found := _REFUSED.match(line))
            }
            refused |= named or dict.fromkeys(batch, answer.stderr.splitlines()[-1] if answer.stderr else "refused")
        return refused

    def set_nodes(self, job_id: str, nodes: Sequence[str], *, count: int | None = None) -> None:
        """Require these nodes (empty: none) and, with `count`, give the job that many nodes.

        Its tasks and CPUs shrink with them: a job that asks for four tasks at one a node, or for the CPUs of four, is
        never started on three (tried on 22.05: BadConstraints, or four nodes all the same).
        """
        resize = [] if count is None else self._resized(job_id, count)
        self._runner.must(
            "scontrol",
            ["update", f"JobId={job_id}", *resize, f"ReqNodeList={fields.host_list(nodes) if nodes else ''}"],
        )

    def _resized(self, job_id: str, count: int) -> list[str]:
        shown = self._runner.must("scontrol", ["--oneliner", "show", "job", job_id])
        now = {key: int(found) for key, found in _SIZES.findall(shown)}
        nodes = max(1, now.get("NumNodes", count))
        scaled = [f"{key}={now[key] * count // nodes}" for key in ("NumTasks", "NumCPUs") if now.get(key, 0) >= nodes]
        return [f"NumNodes={count}-{count}", *scaled]

    def hold(self, job_id: str) -> None:
        """Hold as administrator."""
        self._runner.must("scontrol", ["hold", job_id])

    def put_first(self, job_id: str) -> None:
        """Give the highest priority there is; the next hold takes it away again."""
        self._runner.must("scontrol", ["update", f"JobId={job_id}", f"Priority={_FIRST}"])

    def take_over(self, job_id: str) -> None:
        """Hold as administrator and take back the begin time that job_submit.lua's guard gave it."""
        self._runner.must("scontrol", ["update", f"JobId={job_id}", "Priority=0", "StartTime=now"])

    def notify(self, raw_id: str, words: str) -> None:
        """Write a line where batch jobs, srun and salloc write errors.

        `scontrol notify 5_1` would reach another task of array 5 (tried on 22.05): it wants the task's own job id.
        """
        self._runner.must("scontrol", ["notify", raw_id, words])

    def signal(self, job_id: str, signal: str, *, script: bool = True) -> None:
        """Signal every process of every step and, with `script`, the batch shell and its process group (`--full`)."""
        self._runner.must("scancel", [f"--signal={signal}", *(["--full"] if script else []), job_id])

    def requeue(self, job_ids: Sequence[str]) -> Mapping[str, str]:
        """Requeue, many to a call."""
        return self._each("requeue", job_ids)

    def hold_requeued(self, job_ids: Sequence[str]) -> None:
        """Hold, and make eligible with the next second.

        A requeue undoes a hold set before it, so the hold comes after. StartTime replaces the wait of cred_expire + 1
        seconds that a requeued job otherwise has (121 s by default). Nobody waits for the command: with slurmdbd
        slurmctld sleeps a second over a job whose database index it is still setting.
        """
        self._begin_update(job_ids, "Priority=0", _NEXT_SECOND)

    def expedite(self, job_ids: Sequence[str]) -> None:
        """Eligible with the next second: StartTime of a heterogeneous job's number is that of all its components."""
        self._begin_update(job_ids, _NEXT_SECOND)

    def _begin_update(self, job_ids: Sequence[str], *changes: str) -> None:
        self._updating = [(ids, process) for ids, process in self._updating if process.poll() is None]
        under_way = {job_id for ids, _ in self._updating for job_id in ids}
        # scontrol update takes a list of job ids, but no array task in it
        plain = [job_id for job_id in job_ids if job_id.isdecimal() and job_id not in under_way]
        tasks = [job_id for job_id in job_ids if not job_id.isdecimal() and job_id not in under_way]
        for batch in (*(plain[at : at + _BATCH] for at in range(0, len(plain), _BATCH)), *([task] for task in tasks)):
            words = ["update", f"JobId={','.join(batch)}", *changes]
            self._updating.append((frozenset(batch), self._runner.start("scontrol", words)))

    def cancel(self, job_id: str) -> None:
        """Cancel."""
        self._runner.must("scancel", [job_id])

    def hold_gpu(self, name: str, node: str, gpu_type: str, partitions: Sequence[str]) -> str:
        """Submit a job that has one GPU of the node in Slurm's books and does nothing; returns its id.

        One CPU and 1 MiB go with it. It is SlurmUser's, so that no user may end it, and never requeued. Its process
        knows of no GPU: nothing that looks for users of GPUs by their environment takes it for one. `NIL`, because with
        `NONE` the node asks for the user's login environment, which a system user has none of (tried on 26.05).
        """
        gres = "gpu:1" if gpu_type == "gpu" else f"gpu:{gpu_type}:1"
        words = [
            "--parsable", f"--job-name={name}", f"--nodelist={node}", "--nodes=1", "--ntasks=1", "--cpus-per-task=1",
            "--mem=1", f"--gres={gres}", "--no-requeue", f"--priority={_FIRST}", "--output=/dev/null",
            "--error=/dev/null", "--input=/dev/null", "--chdir=/", "--export=NIL",
            *([f"--partition={','.join(partitions)}"] if partitions else []),
            *self._as_user, "--wrap=exec env -i sleep infinity",
        ]  # fmt: skip
        return self._runner.must("sbatch", words).strip().partition(";")[0]

    def unlimit(self, job_id: str) -> None:
        """Let a job run without a time limit, beyond its partition's."""
        self._runner.must("scontrol", ["update", f"JobId={job_id}", "TimeLimit=UNLIMITED"])
