"""Changes to a policy's text that keep its comments, order and layout."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from slurmext.config.policy import SitePolicy, parse_policy
from slurmext.config.policy_document import QueueDocument
from slurmext.config.yaml_errors import load_yaml, nearest
from slurmext.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LIST_KEYS = {"acl.users", "acl.groups", "acl.accounts"}
_MAP_KEYS = {"by_type": ("guaranteed", "reserved", "max"), "users": ("max",), "groups": ("max",)}
_SINGLE_KEYS = ["each_user.max", "idle.after_s", "idle.grace_s", "idle.action", "idle.max_extend_s"]
"""Keys of a queue that are mappings with fixed fields."""
_UNSET = {"", "default"}


def parse_changes(assignments: Mapping[str, str]) -> dict[str, object]:
    """`{'max': '24', 'acl.users': 'a,b'}` as values; None = the default. Raises UsageError on an unknown key."""
    changes: dict[str, object] = {}
    for key, text in assignments.items():
        _require_known(key)
        if text in _UNSET:
            changes[key] = None
        elif key in _LIST_KEYS:
            changes[key] = [part.strip() for part in text.split(",") if part.strip()]
        else:
            changes[key] = load_yaml(f"value: {text}", f"{key}={text}").data["value"]  # pyright: ignore[reportIndexIssue]
            if changes[key] is None:
                changes[key] = _Null
    return changes


class _Null:
    """An explicit null: no limit, where a missing key would mean something else."""


def settable_keys() -> list[str]:
    """Keys that `queue set` takes."""
    plain = [
        name
        for name in QueueDocument.model_fields
        if name not in {"by_type", "users", "groups", "each_user", "idle", "acl", "calendar", "children"}
    ]
    return [
        *plain,
        *_SINGLE_KEYS,
        *sorted(_LIST_KEYS),
        *(f"{key}.NAME.{sub}" for key, subs in _MAP_KEYS.items() for sub in subs),
    ]


def _require_known(key: str) -> None:
    head, _, rest = key.partition(".")
    known = settable_keys()
    if key in known:
        return
    if head in _MAP_KEYS and rest.rpartition(".")[0] and rest.rpartition(".")[2] in _MAP_KEYS[head]:
        return
    raise UsageError(f"{key!r} is no key of a queue{nearest(key, known) or '; keys: ' + ', '.join(known)}")


def set_queue(text: str, path: str, changes: Mapping[str, object], *, create: bool = False) -> tuple[str, SitePolicy]:
    """The policy text with a queue's keys changed, and the policy it makes.

    Raises UsageError when the queue is not there (with `create`: when its parent is not), ConfigError when the result
    is no valid policy.
    """
    before = parse_policy(text)
    if path not in before.by_path and not create:
        raise UsageError(f"there is no queue {path!r}{nearest(path, before.by_path) or '; add it with --create'}")
    yaml = _round_trip(text)
    tree: Any = yaml.load(text)
    node = _find(tree, path, create=path not in before.by_path)
    for key, value in changes.items():
        _assign(node, key.split("."), value)
    out = io.StringIO()
    yaml.dump(tree, out)
    return out.getvalue(), parse_policy(out.getvalue(), "changed policy")


def _round_trip(text: str) -> YAML:
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 4096  # never fold a line the author did not fold
    first_step = re.search(r"^( +)[^ #\n-]", text, re.MULTILINE)
    mapping = len(first_step[1]) if first_step else 2
    item = re.search(r"^( *)[^ #\n][^\n]*:[^\S\n]*(?:#[^\n]*)?\n(?:[^\S\n]*(?:#[^\n]*)?\n)*( *)- ", text, re.MULTILINE)
    offset = len(item[2]) - len(item[1]) if item else 2
    yaml.indent(mapping=mapping, sequence=offset + 2, offset=offset)
    yaml.explicit_start = text.startswith("---")  # pyright: ignore[reportAttributeAccessIssue]
    yaml.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _find(tree: Any, path: str, *, create: bool) -> Any:
    holder, key = tree, "queues"
    parts = path.split("/")
    for depth, name in enumerate(parts):
        siblings = _child(holder, key)
        if name not in siblings:
            if not create or depth < len(parts) - 1:
                raise UsageError(
                    f"there is no queue {'/'.join(parts[: depth + 1])!r} to put {path!r} under; create it first"
                )
            siblings[name] = {}
        holder, key = siblings, name
        if depth < len(parts) - 1:
            holder, key = _child(siblings, name), "children"
    return _child(holder, key)


def _child(holder: Any, key: str) -> Any:
    """The mapping at `key`, made where there is none (a queue written as `name:` has none)."""
    if holder.get(key) is None:
        holder[key] = type(holder)()
    return holder[key]


def _assign(node: Any, keys: list[str], value: object) -> None:
    head, *inner = keys
    # names of users and types may contain dots: the first part is the key, the last the field
    parts = [head] if not inner else [head, *inner] if len(inner) == 1 else [head, ".".join(inner[:-1]), inner[-1]]
    for part in parts[:-1]:
        if value is None and node.get(part) is None:
            return
        node = _child(node, part)
    if value is None:
        node.pop(parts[-1], None)
    else:
        node[parts[-1]] = None if value is _Null else value
