"""What was booted, kept in the cluster's directory so that any later process can use it and take it down."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slurmext.devcluster.errors import BadSpec
from slurmext.devcluster.spec import ClusterSpec, Layout, chosen

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A booted cluster. `root` is the Debian root of another release, `subnet` the first three numbers with --netns.

    `isolated` tells whether its daemons have namespaces of their own.
    """

    spec: ClusterSpec
    ports: Mapping[str, int]
    version: tuple[int, int]
    isolated: bool
    root: Path | None = None
    subnet: str | None = None
    ready_s: float | None = None

    def save(self) -> None:
        """Write it, whole or not at all."""
        path = Layout(self.spec.directory).record
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(as_json(self), indent=1))
        temporary.rename(path)

    @classmethod
    def load(cls, directory: Path) -> Record:
        """Read it. Raises BadSpec when no cluster is there."""
        path = Layout(directory).record
        try:
            raw = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise BadSpec(
                f"no devcluster in {directory}: boot one with `slurmext devcluster up{chosen(directory)}`"
            ) from error
        return from_json(raw, directory)


def as_json(record: Record) -> dict[str, object]:
    """Plain values."""
    return json.loads(json.dumps(dataclasses.asdict(record), default=str))


def from_json(raw: dict[str, Any], directory: Path) -> Record:
    """The record that `as_json` told; the directory may have been named differently then."""
    spec = {**raw["spec"], "dir": directory}
    spec |= {key: tuple(spec[key]) for key in ("gpu_types", "users")}
    root = Path(raw["root"]) if raw["root"] else None
    return Record(**{**raw, "spec": ClusterSpec(**spec), "version": tuple(raw["version"]), "root": root})
