"""The order in which a model's forward pass needs its tensors, told from their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from slurmext.staging.manifest import Manifest
from slurmext.staging.safetensors import Header

_SMALL_BYTES: Final = 16 << 20
_NUMBER: Final = re.compile(r"\d+")
_FIRST: Final = re.compile(r"(?:^|[._])(?:embed\w*|wte|wpe|\w+_embed(?:ding)?s?|shared)(?:[._]|$)")
_LAST: Final = re.compile(r"(?:^|[._])(?:lm_head|output|head|classifier|score)(?:[._]|$)")
_ENCODER: Final = re.compile(r"(?:^|[._])(?:encoder|vision\w*|visual)(?:[._]|$)")


def forward_key(name: str) -> tuple[int, bool, int, str]:
    """Sorts tensors: embeddings, layers by number (encoders before decoders), norms, the head."""
    layer = _NUMBER.search(name)
    if layer is not None and not _LAST.match(name):
        return 1, not _ENCODER.search(name), int(layer[0]), name
    if _LAST.search(name):
        return 3, False, 0, name
    return (0 if _FIRST.search(name) else 2), False, 0, name


def forward_order(manifest: Manifest, headers: Sequence[Header | None]) -> tuple[tuple[int, int], ...]:
    """The order of a model's chunks by the forward pass: headers and small files, then tensors, then what is left.

    `headers` are the files', None of those that are no safetensors. Empty when they lie in that order.
    """
    first = [
        range(manifest.starts[number], manifest.starts[number + 1])
        if header is None and manifest.files[number].size <= _SMALL_BYTES
        else manifest.chunks_of(number, 0, header.data_begin if header is not None else 0)
        for number, header in enumerate(headers)
    ]
    tensors = sorted(
        (forward_key(tensor.name), number, tensor.begin, tensor.end)
        for number, header in enumerate(headers)
        for tensor in (header.tensors if header is not None else ())
    )
    wanted = [*first, *(manifest.chunks_of(number, begin, end) for _, number, begin, end in tensors)]
    order = list(dict.fromkeys(index for chunks in (*wanted, range(manifest.chunk_count)) for index in chunks))
    runs = [
        [index for _, index in run] for _, run in groupby(enumerate(order), key=lambda placed: placed[1] - placed[0])
    ]
    return tuple((run[0], run[-1] + 1) for run in runs) if len(runs) > 1 else ()
