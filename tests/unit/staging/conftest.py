"""Small models, made without any library: safetensors is eight bytes, JSON and the tensors."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from slurmext.staging.access import Access
from slurmext.staging.importer import Imported, import_model
from slurmext.staging.store.staged import StagedModel
from slurmext.staging.store.tier import Tier, TierKind


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]], *, header: dict[str, Any] | None = None) -> bytes:
    """A file of these tensors (type, shape, bytes), or with the header given."""
    made: dict[str, Any] = {}
    at = 0
    for name, (dtype, shape, content) in tensors.items():
        made[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(content)]}
        at += len(content)
    raw = json.dumps(made if header is None else header).encode()
    return len(raw).to_bytes(8, "little") + raw + b"".join(content for _, _, content in tensors.values())


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that are the same for the same seed."""
    return random.Random(seed).randbytes(size)


def write_model(directory: Path, *, tensors: int = 4, tensor_bytes: int = 1 << 20, seeds: Iterable[int] = ()) -> Path:
    """A directory with weights and a configuration; tensor i is noise of its seed."""
    directory.mkdir(parents=True, exist_ok=True)
    given = list(seeds) or list(range(tensors))
    content = {f"layer.{at}": ("U8", [tensor_bytes], noise(tensor_bytes, seed)) for at, seed in enumerate(given)}
    (directory / "model.safetensors").write_bytes(safetensors(content))
    (directory / "config.json").write_text("{}")
    return directory


def receive(staged: StagedModel, imported: Imported, chunks: Iterable[int] | None = None) -> None:
    """Fill in chunks as a transfer does."""
    for index in chunks if chunks is not None else range(staged.manifest.chunk_count):
        chunk = staged.manifest.chunk(index)
        with imported.tree.open(staged.manifest.files[chunk.file].name) as descriptor:
            staged.view(index)[:] = os.pread(descriptor, chunk.length, chunk.offset)
        assert staged.check(index)
        staged.mark(index)


def stage(root: Path, files: Path, name: str, *, revision: str = "v1", complete: bool = True) -> Path:
    """A staged model, as an agent leaves it."""
    imported = import_model(files, name, revision)
    tier = Tier(root, TierKind.MEMORY, capacity_bytes=1 << 28)
    staged = tier.create(imported.manifest, Access())
    receive(staged, imported, range(imported.manifest.chunk_count - (0 if complete else 1)))
    tier.close()
    return staged.directory


@pytest.fixture
def memory() -> Iterable[Path]:
    """A directory on tmpfs."""
    import shutil
    import tempfile

    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="slurmext-test-", dir=base))
    yield path
    shutil.rmtree(path, ignore_errors=True)
