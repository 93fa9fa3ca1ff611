"""The models of this node in as many words as one line to slurmextd takes."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final

from slurmext.adapters.tcp.wire import MAX_LINE_BYTES
from slurmext.staging.order import Progress, progress_to_json

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)

_MOST_LOST: Final = 4
_MOST_BYTES: Final = MAX_LINE_BYTES * 3 // 4


def briefs(found: Iterable[Progress]) -> list[dict[str, Any]]:
    """As they are told: as many as one line takes, since of a line that is too long nothing would be told."""
    told: list[dict[str, Any]] = []
    left = _MOST_BYTES
    for one in found:
        told.append(_brief(one))
        left -= len(json.dumps(told[-1])) + 2
        if left < 0:
            log.warning("more models are here than can be told: all but the first %d are not", len(told) - 1)
            return told[:-1]
    return told


def _brief(one: Progress) -> dict[str, Any]:
    told = progress_to_json(one)
    told["lost"] = dict(list(told["lost"].items())[:_MOST_LOST])
    told["received"] = {}
    return told
