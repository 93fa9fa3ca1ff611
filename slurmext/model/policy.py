"""The policy in force, as decisions need it: what the policy file says once it is checked and resolved."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from slurmext.model.queue import Queue
from slurmext.model.slicing import SliceSettings
from slurmext.model.snapshot import Defragment, Settings

PLACEHOLDERS = ("user", "account", "group", "partition")
"""What a template of a queue's path may name: `research/{user}`. `{group}` is the user's primary Unix group."""
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRule:
    """Sends a job that names no queue to `queue`, a path or a template, when every field that is set matches."""

    queue: str
    user: str | None = None
    account: str | None = None
    partition: str | None = None
    group: str | None = None

    def matches(self, *, user: str, account: str, partition: str, groups: Sequence[str]) -> bool:
        """Whether everything the rule names is the job's."""
        return (
            self.user in {None, user}
            and self.account in {None, account}
            and self.partition in {None, partition}
            and (self.group is None or self.group in groups)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`version` 0 means that no policy was applied yet: nothing is managed and nothing is acted on.

    `leaves` are paths of the listed queues that take jobs, `paths` those of all. `dynamic` has the queues whose
    children exist as soon as a job is in them, by path, each with what such a child is like. `removed` are queues that
    an earlier policy had, and when their jobs must leave; `parent/*` stands for such children.
    """

    version: int = 0
    settings: Settings = Settings()
    half_life_s: float = 86400
    timezone: str = "UTC"
    defragment: Defragment = Defragment()
    defragment_schedule: str | None = None
    slices: SliceSettings = SliceSettings()
    slice_oom_retry: bool = False
    queues: tuple[Queue, ...] = ()
    paths: frozenset[str] = frozenset()
    leaves: frozenset[str] = frozenset()
    dynamic: Mapping[str, Queue] = field(default_factory=dict[str, Queue])
    removed: Mapping[str, float] = field(default_factory=dict[str, float])
    default_queue: str | None = None
    rules: tuple[QueueRule, ...] = ()
    max_requeues_per_cycle: int | None = None
    max_requeues_per_hour: int | None = None

    @property
    def asks_groups(self) -> bool:
        """Whether any decision looks at users' Unix groups."""
        templates = [self.default_queue or "", *(rule.queue for rule in self.rules)]
        return (
            any(queue.groups for queue in (*self.queues, *self.dynamic.values()))
            or any(rule.group is not None for rule in self.rules)
            or any("{group}" in template for template in templates)
        )

    def queue_of(
        self, *, asked: str | None, user: str, account: str, partition: str, groups: Sequence[str] = ()
    ) -> str | None:
        """The queue a job belongs to: the one it asked for, else that of the first rule that matches, else the default.

        A rule whose template makes no queue of this job does not match. `groups` has the primary one first.
        """
        if asked is not None:
            return asked
        values = {"user": user, "account": account, "partition": partition, "group": groups[0] if groups else ""}
        for rule in self.rules:
            if rule.matches(user=user, account=account, partition=partition, groups=groups):
                path = self._filled(rule.queue, values)
                if path is not None:
                    return path
        return None if self.default_queue is None else self._filled(self.default_queue, values)

    def _filled(self, template: str, values: Mapping[str, str]) -> str | None:
        if "{" not in template:
            return template
        path = _PLACEHOLDER.sub(lambda found: values.get(found[1], ""), template)
        return path if path in self.leaves or self.dynamic_queue(path) is not None else None

    def dynamic_queue(self, path: str) -> Queue | None:
        """The queue at `path` if it is one that exists as soon as a job is in it."""
        return child_of(self.dynamic, path) if path not in self.paths else None


def child_of(dynamic: Mapping[str, Queue], path: str) -> Queue | None:
    """The child at `path` of a queue that has such children, None when there can be none of that name."""
    above, _, name = path.rpartition("/")
    like = dynamic.get(above)
    return replace(like, path=path) if like is not None and _NAME.fullmatch(name) else None
