"""What the store shall know of the managed jobs after a cycle. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from slurmext.model.heterogeneous import LEFT_TO_SLURM
from slurmext.model.job import Job, JobState
from slurmext.model.plan import Reason
from slurmext.model.slicing import SliceJob
from slurmext.model.state import JobRow
from slurmext.service.observe import Known, Observation
from slurmext.service.reason_history import with_reason


def job_rows(
    observation: Observation, reasons: Mapping[str, Reason], messages: Mapping[str, str], now_s: float
) -> list[JobRow]:
    """What the store shall know of the managed jobs after this cycle."""
    rows = [*observation.ended, *(_left_to_slurm(known, now_s) for known in observation.het.values())]
    for job in (*observation.snapshot.jobs, *observation.slices):
        known = observation.known.get(job.id)
        if known is None:
            continue  # stands for what slices use
        record = known.record
        gpus, nodes = _held(job, known)
        rows.append(
            JobRow(
                job=known.key,
                name=record.name,
                user=record.user,
                account=record.account,
                queue=known.queue or "",
                state="released"
                if record.state is JobState.PENDING and job.state is JobState.RUNNING
                else record.state.value,
                gpus=gpus,
                nodes=nodes,
                reason=reasons[job.id].value if job.id in reasons else "",
                message=messages.get(job.id, ""),
                reasons=with_reason(known.reasons, reasons[job.id].value if job.id in reasons else "", now_s),
                ckpt=record.annotation.ckpt if record.annotation else None,
                preempted=job.preempted,
                restarts=record.restarts,
                start_s=float(record.start_s) if record.start_s and record.state is not JobState.PENDING else None,
                requested_nodes=known.first_nodes,
                updated_s=now_s,
            )
        )
    return rows


def _left_to_slurm(known: Known, now_s: float) -> JobRow:
    """So that its owner can ask for it, and for what it saved."""
    record = known.record
    return JobRow(
        job=known.key,
        name=record.name,
        user=record.user,
        account=record.account,
        state=record.state.value,
        gpus=record.gpus_per_task,
        nodes=",".join(part.node for part in record.placement),
        reason=record.reason if record.state is JobState.PENDING else "",
        message=LEFT_TO_SLURM,
        ckpt=record.annotation.ckpt if record.annotation else None,
        restarts=record.restarts,
        start_s=float(record.start_s) if record.start_s and record.state is not JobState.PENDING else None,
        requested_nodes=known.first_nodes,
        updated_s=now_s,
    )


def _held(job: Job | SliceJob, known: Known) -> tuple[int, str]:
    """GPUs and nodes of the job; while it ends Slurm lists only what it has not left yet, but it had all."""
    nodes, row = ",".join(_nodes_of(job)), known.row
    if job.state is JobState.COMPLETING and row is not None and row.start_s in {None, known.record.start_s}:
        return row.gpus, row.nodes or nodes
    return job.gpus if isinstance(job, Job) else 0, nodes


def _nodes_of(job: Job | SliceJob) -> list[str]:
    if isinstance(job, Job):
        return [part.node for part in job.placement]
    return sorted({place.node for place in job.places}) if job.state is not JobState.PENDING else []
