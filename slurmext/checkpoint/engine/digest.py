"""Checksums: xxh3-128 where xxhash is installed (about memory speed), else SHA-256 of the standard library."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from slurmext.checkpoint.engine.errors import CheckpointError

try:
    import xxhash
except ImportError:
    xxhash = None

ALGORITHMS = ("xxh3-128", "sha256")


def best() -> str:
    """The fastest algorithm this Python has."""
    return "xxh3-128" if xxhash else "sha256"


def digester(algorithm: str) -> Callable[[Any], str]:
    """A function of some bytes to their checksum in hex. It lets other threads run meanwhile.

    Raises CheckpointError for an algorithm this Python does not have.
    """
    if algorithm == "sha256":
        return lambda content: hashlib.sha256(content).hexdigest()
    if algorithm == "xxh3-128" and xxhash:
        return xxhash.xxh3_128_hexdigest
    remedy = "pip install xxhash" if algorithm == "xxh3-128" else "use the version of slurmext that wrote it"
    raise CheckpointError(f"this checkpoint has {algorithm} checksums, which cannot be checked here: {remedy}")
