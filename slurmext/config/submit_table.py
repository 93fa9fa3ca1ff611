"""The table job_submit.lua reads: everything it must know of the policy, one line each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurmext.config.quota import ANY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from slurmext.config.policy import Acl, SitePolicy
    from slurmext.config.sizes import SizeDocument


@dataclass(frozen=True, slots=True, kw_only=True)
class NameService:
    """What of this host's groups the table needs. `all_gids` has every group's number by name, as far as it is told."""

    members: Callable[[str], Collection[str]]
    gid: Callable[[str], int | None] = lambda _group: None
    all_gids: Callable[[], Mapping[str, int]] = dict


def queues_tsv(policy: SitePolicy, names: NameService, *, now_s: float | None = None) -> str:
    """The lines, with tabs between fields.

    * `#default`, queue or template; `#het`, pass or refuse
    * `#rule`, user, account, partition (empty = any), queue or template, group (empty = any)
    * `#group`, name, number, members (comma): the groups that rules name
    * `#gid`, number, name: every group, where a template has `{group}`
    * `#size`, name, nodes, GPUs a node, tasks a node, CPUs a GPU, MiB a GPU, minutes, types (comma), and for
      parts of GPUs MIG profile, GPU memory, compute, share, as the options take them; empty = not said
    * path, leaf (1 or 0), max GPUs (empty = none), over_max, users (comma; empty = all), accounts (the same)

    A path that ends in `/*` stands for children that exist as soon as a job is in them. An ACL whose groups have no
    members gets the user `-`, which is nobody's name: an empty list would let everyone in. Max is the largest that the
    calendar knows in the year from `now_s` on (None: now): a job that only fits at night may be submitted by day.
    """
    at_s = time.time() if now_s is None else now_s
    default = policy.settings.default_queue or ""
    rules = policy.document.placement
    lines = [f"#default\t{default}", f"#het\t{policy.settings.het_jobs.value}"]
    lines += [
        "\t".join(("#rule", rule.user or "", rule.account or "", rule.partition or "", rule.queue, rule.group or ""))
        for rule in rules
    ]
    for group in sorted({rule.group for rule in rules if rule.group is not None}):
        gid = names.gid(group)
        lines.append(f"#group\t{group}\t{'' if gid is None else gid}\t{','.join(sorted(names.members(group)))}")
    if any("{group}" in template for template in (default, *(rule.queue for rule in rules))):
        lines += [f"#gid\t{gid}\t{name}" for name, gid in sorted(names.all_gids().items())]
    lines += [_size_line(name, size) for name, size in policy.document.sizes.items()]
    for queue in policy.queues:
        most = policy.largest_max(queue.path, at_s)
        leaf = queue.path not in policy.parents
        lines.append(_queue_line(policy, queue.path, policy.acls[queue.path], most, names, leaf=leaf))
        like = policy.dynamic.get(queue.path)
        if like is not None:
            limits = [limit for limit in (most, like.max) if limit is not None]
            child = f"{queue.path}/{ANY_NAME}"
            lines.append(
                _queue_line(policy, child, policy.acls[queue.path], min(limits, default=None), names, leaf=True)
            )
    return "\n".join(lines) + "\n"


def _queue_line(policy: SitePolicy, path: str, acl: Acl, most: int | None, names: NameService, *, leaf: bool) -> str:
    users = set(acl.users).union(*(names.members(group) for group in acl.groups))
    if not acl.open and not users and not acl.accounts:
        users = {"-"}
    return "\t".join(
        (
            path,
            "1" if leaf else "0",
            "" if most is None else str(most),
            policy.over_max[path].value,
            ",".join(sorted(users)),
            ",".join(sorted(acl.accounts)),
        )
    )


def _size_line(name: str, size: SizeDocument) -> str:
    numbers = (
        size.nodes, size.gpus_per_node, size.tasks_per_node, size.cpus_per_gpu, size.memory_mib, size.time_min,
    )  # fmt: skip
    shown = ("" if number is None else str(number) for number in numbers)
    slices = (size.gpu_slice, size.gpu_mem, size.gpu_compute, size.gpu_share) if size.sliced else ()
    return "\t".join(("#size", name, *shown, ",".join(size.types), *(part or "" for part in slices)))
