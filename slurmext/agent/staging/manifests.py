"""Manifests of models, as slurmextd has them in its registry."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Protocol

from slurmext.staging.errors import NotStaged

if TYPE_CHECKING:
    from slurmext.staging.names import ModelKey

_MOST_PARTS = 4096


class Ask(Protocol):
    """A question to slurmextd. Raises SlurmextError."""

    def __call__(self, op: str, **arguments: object) -> dict[str, Any]: ...


class Manifests:
    """Asks for a manifest, part by part."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def __call__(self, key: ModelKey) -> bytes:
        """The manifest's bytes, unchecked. Raises SlurmextError."""
        raw = b""
        for _ in range(_MOST_PARTS):
            answer = self._ask("model_manifest", model=str(key), at=len(raw))
            try:
                part = base64.b64decode(str(answer["data"]), validate=True)
                size = int(answer["size"])
            except (KeyError, ValueError, binascii.Error) as error:
                raise NotStaged(f"{key}: slurmextd sent no manifest") from error
            raw += part
            if len(raw) >= size or not part:
                return raw
        raise NotStaged(f"{key}: its manifest has no end")
