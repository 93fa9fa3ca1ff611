"""What every store promises about past use, the in-memory fake included."""

from __future__ import annotations

from typing import Any

import pytest

from slurmext.errors import StoreConflict
from slurmext.model.state import PastUse

USES = [PastUse(queue="lab", gpus=0.25, at_s=1000.5), PastUse(queue="org/team", gpus=12.0, at_s=1000.5)]


def test_past_use_is_exactly_what_was_saved_last(store: Any, token: int) -> None:
    """By queue, every digit kept."""
    assert store.past_use() == []
    store.save_past_use(token, USES[::-1])
    assert store.past_use() == USES
    store.save_past_use(token, USES[1:])
    assert store.past_use() == USES[1:]


def test_only_the_controller_saves_past_use(store: Any, token: int) -> None:
    """A daemon that lost its lease writes nothing."""
    store.save_past_use(token, USES)
    with pytest.raises(StoreConflict):
        store.save_past_use(token + 1, [])
    assert store.past_use() == USES
