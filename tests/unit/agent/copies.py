"""What tests of copies in the agent's memory do again and again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slurmext.agent.copies.store import CopyStore


def put(store: CopyStore, job_id: int, uid: int, name: str, file: str, size: int) -> Path:
    """A file of a checkpoint, as a job's copy of it gets there."""
    path = store.place(job_id, uid, name, file, size)
    path.write_bytes(b"x" * size)
    store.commit(uid, path)
    return path


def told(folder: Path, kind: str = "ckpt_copy") -> list[dict[str, Any]]:
    """What the agent has to say of copies, or of another `kind`, oldest first."""
    lines = [path.read_text() for path in sorted((folder / "spool" / "n1" / "events").iterdir()) if path.is_file()]
    events = [json.loads(line) for text in lines for line in text.splitlines() if line.startswith("{")]
    return [event for event in events if event["event"] == kind]


def in_both_ranks(run: Callable[[int], object]) -> None:
    """At the same time: what a rank does may wait for the other."""
    ranks = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join(60)
