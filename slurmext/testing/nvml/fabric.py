"""The NVLink fabric between simulated nodes."""

from __future__ import annotations

from pathlib import Path


def join_fabric(gpus: Path, uuid: str, clique: int = 0) -> None:
    """Have the GPUs that are described in this file say that they are in the fabric with this UUID (32 hex digits)."""
    gpus.with_name(f"{gpus.name}.fabric").write_text(f"{uuid} {clique}\n", encoding="ascii")
