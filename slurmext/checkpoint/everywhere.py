"""Arrays that every rank holds alike: marked for the engine, which writes a part of them in each rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slurmext.checkpoint.engine.arrays import Sharded, is_array, replicated


def marked(state: Any, world: int) -> Any:
    """The state with its arrays marked as those that all `world` ranks hold."""
    if isinstance(state, Mapping):
        return {name: marked(value, world) for name, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(marked(value, world) for value in state)
    return replicated(state, world) if is_array(state) and not isinstance(state, Sharded) else state


def plain(state: Any) -> Any:
    """Undoes `marked`."""
    if isinstance(state, Sharded):
        return state.local
    if isinstance(state, Mapping):
        return {name: plain(value) for name, value in state.items()}
    return type(state)(plain(value) for value in state) if type(state) in (list, tuple) else state
