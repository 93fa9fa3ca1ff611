"""The registry's models as slurmextd last told them, in a file of root's: a hook reads it when no agent answers.

One model a line: name, revision, fingerprint, owner's uid, gid or `-`, `1` for everyone's, storage (percent-encoded).
"""

from __future__ import annotations

import logging
import os
import pwd
import threading
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from slurmext.agent.files import replace_file
from slurmext.staging.errors import StagingError
from slurmext.staging.names import ModelKey, parse_reference
from slurmext.staging.preload import Registered

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

log = logging.getLogger(__name__)


class KnownModels:
    """Kept over a restart of the agent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._models = _read(path)

    def told(self, models: Sequence[Registered], *, first: bool) -> None:
        """Slurmextd tells its models, in one part or several."""
        with self._lock:
            self._models = [*([] if first else self._models), *models]
            lines = [_line(each) for each in self._models]
        try:
            replace_file(self._path, "".join(lines).encode(), 0o600)
        except OSError as error:
            log.warning("%s: %s", self._path, error.strerror)

    def find(self, reference: str, uid: int) -> Registered | None:
        """What a reference means to a user: without a revision the newest."""
        name, revision = parse_reference(reference)
        with self._lock:
            models = list(self._models)
        gids: list[int] | None = None
        for each in reversed(models):
            if each.key.name != name or revision not in {None, each.key.revision}:
                continue
            gids = gids_of(uid) if gids is None else gids
            if each.public or uid in {0, each.uid} or each.gid in gids:
                return each
        return None


def gids_of(uid: int) -> list[int]:
    """The groups of a user; none of one without a name."""
    try:
        entry = pwd.getpwuid(uid)
        return os.getgrouplist(entry.pw_name, entry.pw_gid)
    except (KeyError, OSError):
        return []


def _line(model: Registered) -> str:
    gid = "-" if model.gid is None else str(model.gid)
    parts = (model.key.name, model.key.revision, model.fingerprint, str(model.uid), gid, str(int(model.public)))
    return "\t".join((*parts, quote(model.storage, safe="/"))) + "\n"


def _read(path: Path) -> list[Registered]:
    found: list[Registered] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return found
    for line in lines:
        try:
            name, revision, fingerprint, uid, gid, public, storage = line.split("\t")
            found.append(
                Registered(
                    key=ModelKey(name, revision), fingerprint=fingerprint, uid=int(uid),
                    gid=None if gid == "-" else int(gid), public=public == "1", storage=unquote(storage),
                )
            )  # fmt: skip
        except (ValueError, StagingError):
            continue
    return found
