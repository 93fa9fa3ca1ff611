"""The NVLink domain of a node: told to slurmextd before there is a model, and again with the inventory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.conftest import KeyedMunge
from agent.staging.conftest import eventually
from slurmext.agent.staging.service import Models
from slurmext.config.site import StagingSite


class Events:
    """Writes down what is told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return 0

    def add(self, event: str, **detail: Any) -> None:
        self.told.append({"event": event, **detail})


def models(folder: Path, events: Events, domain: str) -> Models:
    values = {"memory_dir": folder / "%n", "memory_mount": False, "memory_gib": 0.001, "listen": "127.0.0.1:1",
              "domain_host": "%n-nvl", "domain_gbps": 400}  # fmt: skip
    return Models(
        StagingSite(**values), node="n1", run_dir=folder, prover=KeyedMunge, uids={0}, events=events,  # type: ignore[arg-type]
        manifest_of=lambda _key: b"", connected=lambda: True, job_ids=set, domain_of=lambda: domain,
    )  # fmt: skip


def test_the_domain_is_told_as_soon_as_it_is_known(tmp_path: Path) -> None:
    """A driver that nobody uses may take seconds to say it: the agent has connected by then."""
    events = Events()
    node = models(tmp_path, events, "fab.1")
    node.start()
    try:
        eventually(lambda: events.told)
        said = events.told[0]
        assert (said["event"], said["domain"], said["domain_host"], said["domain_bps"]) == (
            "models", "fab.1", "n1-nvl", 4e11,
        )  # fmt: skip
        assert node.greeting["models"]["domain"] == "fab.1"  # type: ignore[index]
        node.engine()
        node.announce()
        eventually(lambda: len(events.told) > 1)
        assert events.told[-1]["domain"] == "fab.1"
    finally:
        node.stop()
