"""The order in which a model's forward pass needs its tensors, told from their names."""

from __future__ import annotations

import re
from typing import Final

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
