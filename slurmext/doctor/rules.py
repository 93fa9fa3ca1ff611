"""Rules about Slurm's own configuration: each looks at the facts and yields findings. Pure.

Sources: slurm.conf(5) of 22.05, 24.11 and 26.05, and trials on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurmext.doctor.facts import Facts

MAX_REQUEUE_DELAY_S = 30
MIN_KILL_WAIT_S = 20
INFINITE_S = 65533


class Severity(StrEnum):
    """ERROR: a promise of slurmext does not hold. WARNING: it holds badly. NOTE: worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that would hurt: what is set, what happens because of it, and the line or command that mends it."""

    code: str
    severity: Severity
    found: str
    effect: str
    line: str
    file: str = ""


def _conf(facts: Facts, code: str, severity: Severity, found: str, effect: str, line: str) -> Finding:
    return Finding(code=code, severity=severity, found=found, effect=effect, line=line, file=str(facts.slurm_conf))


def requeue_delay(facts: Facts) -> Iterator[Finding]:
    """A requeued job waits until its old credential has expired."""
    if facts.value("AuthInfo") is None:
        return
    delay = facts.setting("SchedulerParameters", "requeue_delay")
    given = facts.setting("AuthInfo", "cred_expire")
    expire = given or "120"
    seconds = int(delay) if delay and delay.isdigit() else int(expire) + 1 if expire.isdigit() else None
    if seconds is None or seconds <= MAX_REQUEUE_DELAY_S:
        return
    newer = facts.release is not None and facts.release >= (25, 11)
    line = (
        facts.joined("SchedulerParameters", "requeue_delay=5") if newer else facts.joined("AuthInfo", "cred_expire=10")
    )
    yield _conf(
        facts, "REQUEUE_DELAY", Severity.WARNING,
        f"requeue_delay={delay}" if delay else f"AuthInfo cred_expire={expire}{'' if given else ' (the default)'}",
        f"a preempted job cannot start again for {seconds} s after its requeue, even on free GPUs", line,
    )  # fmt: skip


def prolog_timeout(facts: Facts) -> Iterator[Finding]:
    """Slurm waits for a hung prolog for ever by default."""
    text = facts.value("PrologEpilogTimeout")
    if text is None:
        return
    specific = [facts.number(name) for name in ("PrologTimeout", "EpilogTimeout")]
    seconds = facts.number("PrologEpilogTimeout")
    infinite = seconds is None or seconds >= INFINITE_S
    if infinite and not all(value is not None and value < INFINITE_S for value in specific):
        yield _conf(
            facts, "PROLOG_TIMEOUT", Severity.WARNING, f"PrologEpilogTimeout={text or 'unset'} (no limit)",
            "a prolog or epilog that hangs keeps its node and its GPUs for ever, and a reclaim waiting for them too",
            "PrologEpilogTimeout=60",
        )  # fmt: skip
    elif seconds is not None and not infinite and seconds < 2 * facts.hook_deadline_s:
        yield _conf(
            facts, "PROLOG_TIMEOUT", Severity.ERROR, f"PrologEpilogTimeout={seconds}",
            f"Slurm kills the hooks before their own deadline of {facts.hook_deadline_s:g} s and drains the node",
            "PrologEpilogTimeout=60",
        )  # fmt: skip


def prolog_flags(facts: Facts) -> Iterator[Finding]:
    """When the prolog runs, and how many at once."""
    if facts.value("PrologFlags") is None:
        return
    flags = facts.words("PrologFlags")
    if not {"alloc", "contain"} & set(flags):
        yield _conf(
            facts, "PROLOG_FLAGS", Severity.ERROR, f"PrologFlags={facts.value('PrologFlags') or '(none)'}",
            "the prolog runs only when the first step starts: salloc jobs and nodes without a step are never prepared",
            facts.joined("PrologFlags", "Alloc"),
        )  # fmt: skip
    if "serial" in flags:
        yield _conf(
            facts, "PROLOG_SERIAL", Severity.WARNING, "PrologFlags has Serial",
            "one prolog or epilog at a time on each node: many small GPU jobs start one after the other",
            facts.joined("PrologFlags", without=("serial",)),
        )  # fmt: skip


def kill_wait(facts: Facts) -> Iterator[Finding]:
    """Seconds between TERM and KILL."""
    seconds = facts.number("KillWait")
    if seconds is not None and seconds < MIN_KILL_WAIT_S:
        yield _conf(
            facts, "KILL_WAIT", Severity.WARNING, f"KillWait={seconds}",
            f"a job at its time limit has {seconds} s between TERM and KILL, too short to write a checkpoint",
            "KillWait=60",
        )  # fmt: skip


def job_requeue(facts: Facts) -> Iterator[Finding]:
    """Only requeueable jobs can be preempted without being lost."""
    if facts.value("JobRequeue") == "0":
        yield _conf(
            facts, "JOB_REQUEUE", Severity.WARNING, "JobRequeue=0",
            "jobs without --requeue or --ckpt cannot be requeued: reclaiming their GPUs would mean cancelling them",
            "JobRequeue=1",
        )  # fmt: skip


def file_append(facts: Facts) -> Iterator[Finding]:
    """A restarted job's output."""
    if facts.value("JobFileAppend") == "0":
        yield _conf(
            facts, "JOB_FILE_APPEND", Severity.NOTE, "JobFileAppend=0",
            "a requeued job overwrites its own output file unless it was submitted with --open-mode=append",
            "JobFileAppend=1",
        )  # fmt: skip


def scheduler(facts: Facts) -> Iterator[Finding]:
    """How soon Slurm looks at a job that slurmextd released."""
    words = facts.words("SchedulerParameters")
    for word in ("defer", "defer_batch"):
        if word in words:
            yield _conf(
                facts, "SCHEDULER_DEFER", Severity.WARNING, f"SchedulerParameters has {word}",
                "a released job waits for the next periodic scheduling pass (up to sched_interval, 60 s by default)",
                facts.joined("SchedulerParameters", without=(word,)),
            )  # fmt: skip
    kind = facts.value("SchedulerType")
    if kind and kind != "sched/backfill":
        yield _conf(
            facts, "SCHEDULER_TYPE", Severity.WARNING, f"SchedulerType={kind}",
            "a released job that does not fit yet blocks every later one; slurmext counts on backfill",
            "SchedulerType=sched/backfill",
        )  # fmt: skip


def preemption(facts: Facts) -> Iterator[Finding]:
    """Two preemptors do not know of each other."""
    kind = facts.value("PreemptType")
    if kind and kind != "preempt/none":
        yield _conf(
            facts, "PREEMPT_TYPE", Severity.WARNING, f"PreemptType={kind}",
            "Slurm may preempt jobs that slurmext protects, and take GPUs that slurmext fenced for another job",
            "PreemptType=preempt/none",
        )  # fmt: skip


def selection(facts: Facts) -> Iterator[Finding]:
    """GPUs are only allocated one by one with cons_tres."""
    kind = facts.value("SelectType")
    if kind and kind != "select/cons_tres":
        yield _conf(
            facts, "SELECT_TYPE", Severity.ERROR, f"SelectType={kind}",
            "GPUs are not allocated one by one, so quotas cannot be kept", "SelectType=select/cons_tres",
        )  # fmt: skip
    if facts.value("GresTypes") is not None and "gpu" not in facts.words("GresTypes"):
        yield _conf(
            facts, "GRES_TYPES", Severity.ERROR, f"GresTypes={facts.value('GresTypes') or '(none)'}",
            "Slurm knows no GPUs: no job can ask for one", facts.joined("GresTypes", "gpu"),
        )  # fmt: skip


def gpu_accounting(facts: Facts) -> Iterator[Finding]:
    """Accounting opens the GPU driver in every step."""
    tres = facts.words("AccountingStorageTRES")
    uses = [word for word in tres if word in {"gres/gpuutil", "gres/gpumem"}]
    newer = facts.release is not None and facts.release >= (23, 2)
    if newer and uses and "disablegpuacct" not in facts.words("JobAcctGatherParams"):
        yield _conf(
            facts, "GPU_ACCT", Severity.WARNING, f"AccountingStorageTRES has {','.join(uses)} without DisableGPUAcct",
            "every step holds the GPU driver open, so a GPU's MIG layout cannot be changed and a prolog may fail",
            facts.joined("JobAcctGatherParams", "DisableGPUAcct"),
        )  # fmt: skip
    if facts.value("AcctGatherEnergyType") == "acct_gather_energy/gpu":
        yield _conf(
            facts, "GPU_ENERGY", Severity.WARNING, "AcctGatherEnergyType=acct_gather_energy/gpu",
            "slurmd holds the GPU driver open all the time, so a GPU's MIG layout cannot be changed",
            "AcctGatherEnergyType=acct_gather_energy/none",
        )  # fmt: skip
    kind = facts.value("AccountingStorageType")
    if kind == "accounting_storage/slurmdbd" and not any(word.split(":")[0] == "gres/gpu" for word in tres):
        yield _conf(
            facts, "GPU_TRES", Severity.NOTE, "AccountingStorageTRES has no gres/gpu",
            "slurmdbd records no GPU time, so reports from Slurm cannot be compared with slurmext's",
            facts.joined("AccountingStorageTRES", "gres/gpu"),
        )  # fmt: skip


def configuration_differs(facts: Facts) -> Iterator[Finding]:
    """Slurmctld warns about nodes with another slurm.conf."""
    if (facts.value("HASH_VAL") or "").startswith("Different"):
        yield Finding(
            code="CONF_DIFFERS", severity=Severity.WARNING, found=f"HASH_VAL={facts.value('HASH_VAL')}",
            effect="slurm.conf was changed and slurmctld has not read it: its values are not those judged here",
            line="scontrol reconfigure",
        )  # fmt: skip


RULES = (
    requeue_delay,
    prolog_timeout,
    prolog_flags,
    kill_wait,
    job_requeue,
    file_append,
    scheduler,
    preemption,
    selection,
    gpu_accounting,
    configuration_differs,
)
