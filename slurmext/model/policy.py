"""The policy in force, as decisions need it: what the policy file says once it is checked and resolved."""

from __future__ import annotations

from dataclasses import dataclass

from slurmext.model.queue import Queue
from slurmext.model.snapshot import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRule:
    """Sends a job that names no queue to `queue` when every field that is set matches."""

    queue: str
    user: str | None = None
    account: str | None = None
    partition: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`version` 0 means that no policy was applied yet: nothing is managed and nothing is acted on."""

    version: int = 0
    settings: Settings = Settings()
    queues: tuple[Queue, ...] = ()
    default_queue: str | None = None
    rules: tuple[QueueRule, ...] = ()
    max_requeues_per_cycle: int | None = None
    max_requeues_per_hour: int | None = None

    def queue_of(self, *, asked: str | None, user: str, account: str, partition: str) -> str | None:
        """The queue a job belongs to: the one it asked for, else the first rule that matches, else the default."""
        if asked is not None:
            return asked
        for rule in self.rules:
            if rule.user in {None, user} and rule.account in {None, account} and rule.partition in {None, partition}:
                return rule.queue
        return self.default_queue
