"""What the store shall know of jobs that have ended. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from slurmext.model.cluster import JobRecord
from slurmext.model.heterogeneous import LEFT_TO_SLURM, first_of
from slurmext.model.state import JobKey, JobRow


def ended_rows(
    ended: Iterable[JobRecord], active: Mapping[str, JobKey], rows: Mapping[str, JobRow], now_s: float
) -> tuple[JobRow, ...]:
    """The last row of each job that is not among the `active` any more."""
    final = {record.slurm_id: record for record in ended}
    gone = list[JobRow]()
    for job_id, row in rows.items():
        if row.end_s is not None or active.get(job_id) == row.job:
            continue
        record = final.get(job_id) or final.get(first_of(job_id))
        if record is not None:
            row = _as_it_ran(row, record)  # noqa: PLW2901
        state = record.slurm_state.lower() if record else "ended"
        end_s = float(record.end_s) if record and record.end_s else now_s
        message = row.message if row.message == LEFT_TO_SLURM else _how(record)
        gone.append(replace(row, state=state, end_s=end_s, reason="", message=message, updated_s=now_s))
    return tuple(gone)


def _as_it_ran(row: JobRow, record: JobRecord) -> JobRow:
    """With where and since when it ran last: a short job may have started and ended between two looks.

    While it ended Slurm listed only the nodes that it had not left yet; of an ended one it lists all, and of one that
    did not run, or waited again, none.
    """
    if record.het or not record.placement or not record.start_s:
        return row
    nodes = ",".join(part.node for part in record.placement)
    gpus = row.gpus if record.exclusive else record.tasks * record.gpus_per_task
    return replace(row, nodes=nodes, gpus=gpus, start_s=float(record.start_s))


def _how(record: JobRecord | None) -> str:
    """With what it failed, as far as Slurm tells: `exit code 3, NonZeroExitCode`; empty for one that did not."""
    if record is None or record.slurm_state in {"COMPLETED", "CANCELLED"}:
        return ""
    code, signal = divmod(record.exit_status or 0, 256)
    said = f"killed by signal {signal & 127}" if signal & 127 else f"exit code {code}" if code else ""
    return ", ".join(filter(None, (said, "" if record.reason == "None" else record.reason)))
