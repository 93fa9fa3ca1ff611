"""What changes between two policies, key by key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from slurmext.config.quota import Share

if TYPE_CHECKING:
    from slurmext.config.policy import SitePolicy

_SECTION = "section"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """`before` or `after` is None where the key or queue is not there; values are as written or defaulted."""

    where: str
    key: str
    before: str | None
    after: str | None


def diff_policies(before: SitePolicy | None, after: SitePolicy) -> list[Change]:
    """Changes from `before` (None: nothing yet) to `after`: settings, slices, placement, sizes, then queues by path.

    Of what comes or goes as a whole only what is written is told, not every default.
    """
    old = {} if before is None else _flat(before)
    new = _flat(after)
    changes: list[Change] = []
    for place in [*old, *(place for place in new if place not in old)]:
        keys_before, keys_after, where = old.get(place), new.get(place), place[1]
        if keys_before is None or keys_after is None:
            there = before if keys_after is None and before is not None else after
            written = _flat(there, written=True)[place]
            if not written and place[0] == _SECTION and keys_before is None:
                continue
            shown = " ".join(f"{key}={value}" for key, value in written.items() if value != "-") or "all defaults"
            changes.append(
                Change(
                    where=where,
                    key="",
                    before=None if keys_before is None else shown,
                    after=None if keys_after is None else shown,
                )
            )
            continue
        assert before is not None  # noqa: S101  it has keys
        written = _flat(before, written=True).get(place, {}) | _flat(after, written=True)[place]
        for key in [*keys_before, *(key for key in keys_after if key not in keys_before)]:
            one, other = keys_before.get(key), keys_after.get(key)
            if one != other and (key in written or (one is not None and other is not None)):
                changes.append(Change(where=where, key=key, before=one, after=other))
    return changes


def _flat(policy: SitePolicy, *, written: bool = False) -> dict[tuple[str, str], dict[str, str]]:
    """By kind and name: a queue may be called like a section."""
    document = policy.document
    flat = {
        (_SECTION, "settings"): _fields(document.settings, written=written),
        (_SECTION, "slices"): _fields(document.slices, written=written),
    }
    for index, rule in enumerate(document.placement):
        flat["rule", f"placement[{index}]"] = _fields(rule, written=written)
    for name, size in document.sizes.items():
        flat["size", f"sizes.{name}"] = _fields(size, written=written)
    for queue in policy.queues:
        flat["queue", queue.path] = _fields(_document_of(policy, queue.path), written=written)
    return flat


def _document_of(policy: SitePolicy, path: str) -> BaseModel:
    first, *rest = path.split("/")
    item = policy.document.queues[first]
    for name in rest:
        item = item.children[name]
    return item


def _fields(model: BaseModel, prefix: str = "", *, written: bool = False) -> dict[str, str]:
    """Keys and values as shown; with `written` only what the file has."""
    fields: dict[str, str] = {}
    for name in type(model).model_fields:
        if written and name not in model.model_fields_set:
            continue
        value: Any = getattr(model, name)
        if name == "children" or value in ({}, ()):
            continue
        if isinstance(value, BaseModel):
            fields.update(_fields(value, f"{prefix}{name}.", written=written))
        elif isinstance(value, dict):
            for key, item in value.items():
                fields.update(_fields(item, f"{prefix}{name}.{key}.", written=written))
        elif isinstance(value, tuple) and isinstance(value[0], BaseModel):
            for index, item in enumerate(value):
                shown = {key: text for key, text in _fields(item, written=written).items() if text != "-"}
                fields[f"{prefix}{name}[{index}]"] = " ".join(f"{key}={text}" for key, text in shown.items())
        else:
            fields[prefix + name] = show(value)
    return fields


def show(value: object) -> str:
    """A value as one writes it: `-` for none, `50%`, `a,b`."""
    if value is None:
        return "-"
    if isinstance(value, Share):
        return f"{float(value.part * 100):g}%"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list | frozenset):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
