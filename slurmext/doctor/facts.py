"""What the doctor knows of a cluster. None = could not be found out, and no rule acts on it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurmext.model.mig import GpuCard


@dataclass(frozen=True, slots=True, kw_only=True)
class PathFact:
    """A file or directory: owner and mode; `exists` False when it is not there."""

    path: Path
    exists: bool
    uid: int = -1
    mode: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TransparentFact:
    """What --ckpt=transparent needs: CRIU, its version, and whether users may make user namespaces."""

    criu: Path | None
    version: tuple[int, int] | None
    namespaces: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """`config` is what `scontrol show config` says, names in lower case, `(null)` as an empty string."""

    config: Mapping[str, str]
    release: tuple[int, int] | None = None
    slurm_conf: Path = Path("/etc/slurm/slurm.conf")
    slurm_uid: int | None = None
    hook_deadline_s: float = 5
    heartbeat_stale_s: float = 30
    prolog_wait_s: float | None = None
    """How long the site has prologs wait for models; None where no models are staged."""
    preload_hook_s: float | None = None
    """How long the prolog of this host waits for an agent that does not answer about models."""
    run_dir: PathFact | None = None
    submit_wake: PathFact | None = None
    queues_tsv: PathFact | None = None
    heartbeat_age_s: float | None = None
    """Infinity where there is no heartbeat."""
    job_submit_is_ours: bool | None = None
    plugstack: Path | None = None
    plugin: PathFact | None = None
    """The SPANK plugin that plugstack.conf names; None where it names none (then `plugin_listed` is False)."""
    plugin_listed: bool | None = None
    plugin_release: tuple[int, int] | None = None
    hooks: Mapping[str, PathFact] = field(default_factory=dict[str, PathFact])
    """Our wrapper behind Prolog, Epilog and TaskProlog; absent key = slurm.conf does not lead to it."""
    hooks_known: bool = False
    agents: Mapping[str, bool] = field(default_factory=dict[str, bool])
    """Node -> whether its agent on this host answers."""
    munge_error: str | None = None
    munge_works: bool | None = None
    guaranteed_gpus: int | None = None
    """GPUs that the policy in force guarantees at most, all top-level queues together, calendars included; 0
    without a policy."""
    cluster_gpus: int | None = None
    transparent: TransparentFact | None = None
    """None where no job runs: on a controller without an agent."""
    cards: tuple[GpuCard, ...] = ()
    """The GPUs of this host, as its driver tells; none where there is no driver."""
    mps_control: PathFact | None = None

    def value(self, name: str) -> str | None:
        """The configured value, None when this release has no such parameter."""
        return self.config.get(name.lower())

    def words(self, name: str) -> list[str]:
        """A comma list in lower case."""
        return [word.strip().lower() for word in (self.value(name) or "").split(",") if word.strip()]

    def number(self, name: str) -> int | None:
        """The leading number of a value such as `30 sec`."""
        found = re.match(r"\d+", self.value(name) or "")
        return int(found[0]) if found else None

    def setting(self, name: str, key: str) -> str | None:
        """`5` for key `cred_expire` in `socket=/x,cred_expire=5`."""
        for word in (self.value(name) or "").split(","):
            found, equals, value = word.strip().partition("=")
            if found.lower() == key and equals:
                return value
        return None

    def joined(self, name: str, *added: str, without: tuple[str, ...] = ()) -> str:
        """The slurm.conf line that adds words to a comma list, or takes some out."""
        kept = [word for word in (self.value(name) or "").split(",") if word and word.lower() not in {"none", *without}]
        kept = [word for word in kept if not any(word.split("=")[0] == new.split("=")[0] for new in added)]
        return f"{name}={','.join([*kept, *added])}"


def parse_config(text: str) -> dict[str, str]:
    """`scontrol show config` as a mapping; the host-dependent headings are passed over."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and name.strip() and not name.startswith(" "):
            value = value.strip()
            found.setdefault(name.strip().lower(), "" if value in {"(null)", "N/A"} else value)
    return found
