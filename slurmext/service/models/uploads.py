"""Manifests on their way in: sent in parts, since a question is small and a manifest of a terabyte has 40 MB."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from slurmext.errors import SlurmextError, UsageError

MOST_BYTES = 192 << 20
"""Of one manifest: more than the most chunks take."""
MOST_IN_ALL = 512 << 20
KEPT_S = 600.0


class NoUpload(SlurmextError):
    """The manifest is not here, or no longer: send it again from the first part."""


@dataclass(slots=True)
class _Upload:
    at_s: float
    content: bytearray = field(default_factory=bytearray)


class Uploads:
    """One manifest for each user at a time, forgotten ten minutes after its last part."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._held: dict[int, tuple[str, _Upload]] = {}

    def add(self, uid: int, fingerprint: str, at: int, data: bytes) -> int:
        """Take the bytes from position `at` on; at 0 begins anew. Returns how many there are now."""
        now_s = self._now()
        with self._lock:
            for other, (_, old) in list(self._held.items()):
                if now_s - old.at_s > KEPT_S:
                    del self._held[other]
            if at == 0:
                self._held[uid] = fingerprint, _Upload(now_s)
            name, upload = self._held.get(uid, ("", _Upload(now_s)))
            if name != fingerprint or len(upload.content) != at:
                raise NoUpload(f"the manifest is not here up to byte {at}: send it again from its beginning")
            if at + len(data) > MOST_BYTES:
                raise UsageError(f"a manifest of more than {MOST_BYTES >> 20} MiB: split the model")
            if sum(len(held.content) for _, held in self._held.values()) + len(data) > MOST_IN_ALL:
                raise SlurmextError("too many models are being registered at once: try again in a minute")
            upload.content += data
            upload.at_s = now_s
            return len(upload.content)

    def take(self, uid: int, fingerprint: str) -> bytes:
        """The whole manifest, which is kept no longer. Raises NoUpload, also when a part is missing."""
        with self._lock:
            name, upload = self._held.get(uid, ("", _Upload(0)))
            content = bytes(upload.content)
            if name != fingerprint or hashlib.sha256(content).hexdigest() != fingerprint:
                raise NoUpload("the manifest is not here as a whole: send it again from its beginning")
            del self._held[uid]
        return content
