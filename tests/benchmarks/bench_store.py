"""How long the state store takes for a large cluster: python tests/benchmarks/bench_store.py [URL]."""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import insert

from slurmext.adapters.sql import SqlStore, migrate
from slurmext.adapters.sql.models import Checkpoint, Preemption
from slurmext.model.state import ActionKind, ActionState, CheckpointRecord, Intent, JobKey, JobRow

if TYPE_CHECKING:
    from collections.abc import Iterator

JOBS = 100_000


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long the block took."""
    start = time.perf_counter()
    yield
    print(f"{what:<55}{(time.perf_counter() - start) * 1000:10.1f} ms", flush=True)


def fresh(row: JobRow, **changes: object) -> JobRow:
    """An equal row of new objects, as a new reading of Slurm gives."""
    return replace(row, job=replace(row.job), name="".join(row.name), **changes)


def fill(store: SqlStore, token: int, rows: list[JobRow]) -> None:
    """200,000 checkpoints of 10,000 jobs and a ledger of 20,000 lines, straight into the tables."""
    with store._db.controlled(token) as connection:
        common = {"cluster": "bench", "path": "/c", "confirmed_s": 0, "node": "n1"}
        connection.execute(
            insert(Checkpoint),
            [common | {"job_id": row.job.job_id, "saved_s": n} for row in rows[:10_000] for n in range(20)],
        )
        common = {"cluster": "bench", "victim_user": "u", "beneficiary": "1", "reason": "R", "from_queue": "a"}
        common |= {"to_queue": "b", "gpus": 8, "lost_gpu_s": 1}
        connection.execute(
            insert(Preemption),
            [
                common | {"victim_job_id": row.job.job_id, "victim_submit_s": row.job.submit_s, "ended_s": n}
                for row in rows[:10_000]
                for n in range(2)
            ],
        )


def main(url: str) -> None:
    """Run all timings on one database."""
    with timed("create the schema"):
        migrate(url)
    store = SqlStore(url, cluster="bench")
    with timed("take the lease (first connection)"):
        token = store.acquire_lease("controller", "bench", 1e9, 0).token
    rows = [
        JobRow(
            job=JobKey(job_id=str(n), submit_s=n),
            name=f"job {n}",
            user=f"user{n % 50}",
            queue=f"org/team{n % 20}",
            state="pending",
            gpus=8,
            reason="QUEUE_MAX",
            message="org/team is at its max of 64 GPUs",
        )
        for n in range(JOBS)
    ]
    with timed(f"save {JOBS:,} new jobs"):
        store.save_jobs(token, rows)
    again = [fresh(row, updated_s=1.0) for row in rows]
    with timed(f"save {JOBS:,} unchanged jobs"):
        store.save_jobs(token, again)
    again = [fresh(row, state="running") if n % 10 == 0 else fresh(row) for n, row in enumerate(rows)]
    with timed(f"save {JOBS:,} jobs, {JOBS // 10:,} changed"):
        store.save_jobs(token, again)
    with timed(f"read {JOBS:,} jobs"):
        assert len(store.jobs()) == JOBS
    with timed("read 1,000 jobs by id"):
        store.jobs(job_ids=[str(n) for n in range(1000)])
    other = SqlStore(url, cluster="bench")
    with timed(f"save {JOBS:,} unchanged jobs, first cycle of a daemon"):
        other.save_jobs(token, again)
    intents = [Intent(kind=ActionKind.RELEASE, job=row.job, reason="", detail={"n": 1}) for row in rows[:1000]]
    with timed("write a plan of 1,000 intents"):
        records = store.record_plan(token, 1, {}, intents)
    with timed("write 100 outcomes, one by one"):
        for record in records[:100]:
            store.advance(token, record.id, ActionState.DONE, 2)
    with timed("read 900 open actions"):
        store.open_actions()
    with timed("write 100 checkpoints, one by one"):
        for n in range(100):
            store.record_checkpoint(
                CheckpointRecord(job_id=str(n), step=n, path="/c", size_bytes=1, saved_s=n, confirmed_s=n, node="n1")
            )
    with timed(f"read {JOBS:,} jobs as the controller"):
        assert len(other.jobs()) == JOBS
    fill(store, token, rows)
    with timed(f"newest checkpoints of {JOBS:,} jobs"):
        store.last_checkpoints([row.job.job_id for row in rows])
    with timed(f"preemption counts of {JOBS:,} jobs"):
        store.preemption_counts([row.job for row in rows])
    store.close()
    other.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as directory:
            main(f"sqlite:///{directory}/state.db")
