"""What a job asked for with `--preload`, and what that means to its user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from slurmext.staging.errors import StagingError
from slurmext.staging.names import ModelKey, parse_reference

MOST_MODELS: Final = 16
"""So many a job may ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preload:
    """One model of a job: `key` is what `reference` means; `why` says why it does not come, empty while it may.

    `storage` is where it can be read instead.
    """

    reference: str
    key: ModelKey | None = None
    fingerprint: str = ""
    storage: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A model of the registry, as nodes know it: what a job can do with it while slurmextd is away."""

    key: ModelKey
    fingerprint: str
    uid: int
    gid: int | None
    public: bool
    storage: str


def references_in(text: str) -> tuple[str, ...]:
    """The models of `--preload`, each once; what is no name is left out, since not every job comes by sbatch."""
    found: list[str] = []
    for word in text.split(",")[:MOST_MODELS]:
        try:
            parse_reference(word)
        except StagingError:
            continue
        found.append(word)
    return tuple(dict.fromkeys(found))
