"""How long the state store takes for a large cluster: `python tests/benchmarks/bench_store.py [--quick] [URL]`.

The last line is JSON: what was timed, in milliseconds.
"""

from __future__ import annotations

import argparse
import json
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

TIMINGS_MS: dict[str, float] = {}


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long the block took."""
    start = time.perf_counter()
    yield
    TIMINGS_MS[what] = round((time.perf_counter() - start) * 1000, 1)
    print(f"{what:<55}{TIMINGS_MS[what]:10.1f} ms", flush=True)


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


def measure(url: str, many: int) -> None:
    """Run all timings on one database with `many` jobs."""
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
        for n in range(many)
    ]
    with timed(f"save {many:,} new jobs"):
        store.save_jobs(token, rows)
    again = [fresh(row, updated_s=1.0) for row in rows]
    with timed(f"save {many:,} unchanged jobs"):
        store.save_jobs(token, again)
    again = [fresh(row, state="running") if n % 10 == 0 else fresh(row) for n, row in enumerate(rows)]
    with timed(f"save {many:,} jobs, {many // 10:,} changed"):
        store.save_jobs(token, again)
    with timed(f"read {many:,} jobs"):
        assert len(store.jobs()) == many
    with timed("read 1,000 jobs by id"):
        store.jobs(job_ids=[str(n) for n in range(1000)])
    other = SqlStore(url, cluster="bench")
    with timed(f"save {many:,} unchanged jobs, first cycle of a daemon"):
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
    with timed(f"read {many:,} jobs as the controller"):
        assert len(other.jobs()) == many
    fill(store, token, rows)
    with timed(f"newest checkpoints of {many:,} jobs"):
        store.last_checkpoints([row.job.job_id for row in rows])
    with timed(f"preemption counts of {many:,} jobs"):
        store.preemption_counts([row.job for row in rows])
    store.close()
    other.close()


def main() -> None:
    """A database of its own unless a URL is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", help="an empty database [SQLite in a temporary directory]")
    parser.add_argument("--quick", action="store_true", help="a tenth of the jobs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        measure(options.url or f"sqlite:///{directory}/state.db", 10_000 if options.quick else 100_000)
    print(json.dumps(TIMINGS_MS))


if __name__ == "__main__":
    main()
