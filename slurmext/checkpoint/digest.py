"""Checksums: xxh3-128 where xxhash is installed (about memory speed), else SHA-256 of the standard library."""

from __future__ import annotations

import hashlib
from typing import Any

from slurmext.checkpoint.errors import CheckpointError

try:
    import xxhash
except ImportError:
    xxhash = None

BEST = "xxh3-128" if xxhash else "sha256"


def hasher(algorithm: str = BEST) -> Any:
    """A hashlib-like object. Raises CheckpointError for one this Python does not have."""
    if algorithm == "sha256":
        return hashlib.sha256()
    if algorithm == "xxh3-128" and xxhash:
        return xxhash.xxh3_128()
    remedy = "pip install xxhash" if algorithm == "xxh3-128" else "use the version of slurmext that wrote it"
    raise CheckpointError(f"this checkpoint has {algorithm} checksums, which cannot be checked here: {remedy}")


def digest(content: bytes, algorithm: str = BEST) -> str:
    """The checksum of some bytes, in hex."""
    checksum = hasher(algorithm)
    checksum.update(content)
    return checksum.hexdigest()
