"""What the tasks of a job hear of its models on this node."""

from __future__ import annotations

from pathlib import Path

from agent.staging.conftest import Cluster
from slurmext.agent.staging.catalogue import KnownModels
from slurmext.agent.staging.preloads import Preloads
from slurmext.staging.importer import Imported


class Files:
    """What the tasks of each job get."""

    def __init__(self) -> None:
        self.lines: dict[int, list[str]] = {}

    def add(self, _event: str, **_detail: object) -> None:
        """As a spool that nobody reads."""

    def write(self, job_id: int, _uid: int, lines: list[str]) -> None:
        self.lines[job_id] = lines


def test_a_node_that_missed_the_models_takes_back_what_the_jobs_first_node_was_told(
    cluster: Cluster, model: Imported, tmp_path: Path
) -> None:
    """Steps have the environment of the batch script, which had its models or read them from storage."""
    engine = cluster.start("n0")
    cluster.seed("n0", model)
    files = Files()
    preloads = Preloads(
        node="n0", engine=lambda: engine, files=files, events=files, connected=lambda: False,  # type: ignore[arg-type]
        catalogue=KnownModels(tmp_path / "catalogue"),
    )  # fmt: skip
    preloads.prepare(1, 0, "org/m", 5)
    [place, other] = files.lines[1]
    assert place.startswith("export SLURMEXT_STAGED=/")
    assert other == "unset SLURMEXT_PRELOAD_FALLBACK"
    preloads.prepare(2, 0, "org/none", 5)
    assert files.lines[2][:2] == ["unset SLURMEXT_STAGED", "unset SLURMEXT_PRELOAD_FALLBACK"]
