"""A bar for each node while a model comes to it."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurmext.cli.session import Session

EVERY_S = 0.5
SETTLE_S = 3.0
"""A failure from before the request shows at first; what still says so after this is meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What each node has at the end, and which are complete."""

    replicas: list[dict[str, Any]]
    complete: frozenset[str]
    took_s: float


def follow(
    session: Session, reference: str, nodes: Sequence[str], tier: str, *, timeout_s: float | None,
    settle_s: float = SETTLE_S,
) -> Followed:  # fmt: skip
    """Look until every node has it or failed, or the time is over."""
    began_s = time.monotonic()
    with ExitStack() as stack:
        bars = stack.enter_context(_Bars(nodes)) if sys.stderr.isatty() else None
        while True:
            found = session.ask("model_where", model=reference)["replicas"]
            rows = {row["node"]: row for row in found if row["tier"] == tier and row["node"] in nodes}
            if bars is not None:
                bars.show(rows)
            took_s = time.monotonic() - began_s
            complete = frozenset(node for node, row in rows.items() if row["state"] == "complete")
            failed = {node for node, row in rows.items() if _is_over(row) and took_s > settle_s}
            over = timeout_s is not None and took_s >= timeout_s
            if over or len(complete | failed) == len(set(nodes)):
                absent = [_absent(node) for node in nodes if node not in rows]
                return Followed(replicas=[*rows.values(), *absent], complete=complete, took_s=took_s)
            time.sleep(EVERY_S)


def _is_over(row: dict[str, Any]) -> bool:
    """Whether nothing more comes: what waits and says why was given up."""
    return row["state"] == "failed" or (row["state"] == "waiting" and bool(row["why"]))


def _absent(node: str) -> dict[str, Any]:
    return {"node": node, "state": "absent", "why": "its agent has not begun", "percent": 0.0}


class _Bars:
    """One line for each node, on standard error."""

    def __init__(self, nodes: Sequence[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(binary_units=True),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
        self._tasks = {node: self._progress.add_task(node, total=None) for node in nodes}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, rows: dict[str, dict[str, Any]]) -> None:
        """How far each is."""
        for node, row in rows.items():
            self._progress.update(self._tasks[node], total=row["size"] or None, completed=row["ready_bytes"])
