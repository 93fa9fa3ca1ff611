"""What a program says it is, in a manifest: a word of its own, or its configuration, of which a difference is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from slurmext.checkpoint.engine.errors import CheckpointError

_CONFIGURATION = "config:"
_LONGEST_WORD, _LONGEST_VALUE, _MOST_ENTRIES = 500, 80, 2000


def described(identity: str | Mapping[str, Any] | None) -> str | None:
    """As it stands in a manifest: a word as it is, a configuration as JSON of its entries, nested ones by `a.b`.

    Long values are told apart by a hash. Raises CheckpointError for what is neither.
    """
    if identity is None or isinstance(identity, str):
        if identity is not None and len(identity) > _LONGEST_WORD:
            return "sha256:" + hashlib.sha256(identity.encode()).hexdigest()
        return identity or None
    if not isinstance(identity, Mapping):
        raise CheckpointError(
            f"identity is a {type(identity).__name__}: give a word, like a hash of the code, or a dict, like the "
            "configuration of the run"
        )
    entries = dict(_entries(identity, ""))
    if len(entries) > _MOST_ENTRIES:
        return "sha256:" + hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
    return _CONFIGURATION + json.dumps(entries, sort_keys=True)


def difference(theirs: str, ours: str) -> str | None:
    """The first difference, in words; None when there is none."""
    if theirs == ours:
        return None
    if not (theirs.startswith(_CONFIGURATION) and ours.startswith(_CONFIGURATION)):
        return f"code or configuration {_word(theirs)}, this is {_word(ours)}"
    saved, now = (json.loads(text[len(_CONFIGURATION) :]) for text in (theirs, ours))
    name = min(name for name in saved.keys() | now.keys() if saved.get(name) != now.get(name))
    if name not in now:
        return f"{name}={saved[name]}, and this run has no {name}"
    if name not in saved:
        return f"no {name}, and this run has {name}={now[name]}"
    return f"{name}={saved[name]}, and this run has {name}={now[name]}"


def _word(text: str) -> str:
    return "a configuration" if text.startswith(_CONFIGURATION) else repr(text)


def _entries(value: Mapping[Any, Any], before: str) -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        name = f"{before}{key}"
        if isinstance(item, Mapping):
            yield from _entries(item, f"{name}.")
            continue
        text = repr(item)
        if len(text) > _LONGEST_VALUE:
            text = f"{text[: _LONGEST_VALUE // 2]}… (sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]})"
        yield name, text
