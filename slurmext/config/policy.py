"""The policy file: the queue tree and the site-wide knobs, checked, as model types."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slurmext.config.policy_document import OverMax, PolicyDocument, QueueDocument, SettingsDocument
from slurmext.config.quota import resolve_queues
from slurmext.config.yaml_errors import ConfigError, Document, Loc, Problem, check, load_yaml, nearest
from slurmext.errors import SlurmextError
from slurmext.model.policy import Policy, QueueRule
from slurmext.model.snapshot import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from slurmext.model.queue import Queue

_MOST_DEPTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Acl:
    """Who may submit to a queue; all empty = everyone."""

    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    accounts: frozenset[str] = frozenset()

    @property
    def open(self) -> bool:
        """Everyone may submit."""
        return not (self.users or self.groups or self.accounts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePolicy:
    """A checked policy. `queues` has a parent before its children; `acls` and `over_max` are the effective ones."""

    document: PolicyDocument
    queues: tuple[Queue, ...]
    acls: Mapping[str, Acl] = field(repr=False)
    over_max: Mapping[str, OverMax] = field(repr=False)
    by_path: Mapping[str, Queue] = field(repr=False)
    parents: frozenset[str] = field(repr=False)
    guarantees: Mapping[str, int] = field(repr=False)

    @property
    def settings(self) -> SettingsDocument:
        """Site-wide knobs, the applier's budgets among them."""
        return self.document.settings

    def as_model(self, version: int) -> Policy:
        """The policy as decisions need it; `version` is the store's."""
        knobs = self.settings
        return Policy(
            version=version,
            settings=Settings(
                requeue_delay_s=knobs.requeue_delay_s,
                grace_s=knobs.grace_s,
                preemption_budget=knobs.preemption_budget,
                near_end_s=knobs.near_end_s,
                consolidate=knobs.consolidate,
            ),
            queues=self.queues,
            default_queue=knobs.default_queue,
            rules=tuple(
                QueueRule(queue=rule.queue, user=rule.user, account=rule.account, partition=rule.partition)
                for rule in self.document.placement
            ),
            max_requeues_per_cycle=knobs.max_requeues_per_cycle,
            max_requeues_per_hour=knobs.max_requeues_per_hour,
        )

    @property
    def leaves(self) -> tuple[str, ...]:
        """Paths of the queues jobs can be in."""
        return tuple(queue.path for queue in self.queues if queue.path not in self.parents)

    def effective_max(self, path: str) -> int | None:
        """Least max of the queue and those above it, in GPUs; None = no limit."""
        limits = [queue.max for queue in map(self.by_path.__getitem__, _upwards(path)) if queue.max is not None]
        return min(limits, default=None)

    def guaranteed(self, path: str) -> int:
        """Guaranteed GPUs, the children's sum where none is written."""
        return self.guarantees[path]

    def may_use(self, path: str, *, user: str, account: str = "", groups: Collection[str] = ()) -> bool:
        """Whether a user, submitting under `account`, may put a job into the queue."""
        acl = self.acls[path]
        return acl.open or user in acl.users or account in acl.accounts or not acl.groups.isdisjoint(groups)


def _guarantees(queues: tuple[Queue, ...]) -> dict[str, int]:
    """Effective guarantees; children come after their parent, so walking backwards meets them first."""
    sums: dict[str, int] = {}
    effective: dict[str, int] = {}
    for queue in reversed(queues):
        effective[queue.path] = sums.get(queue.path, 0) if queue.guaranteed is None else queue.guaranteed
        above = queue.path.rpartition("/")[0]
        sums[above] = sums.get(above, 0) + effective[queue.path]
    return effective


def _upwards(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(len(parts), 0, -1)]


def load_policy(path: Path) -> SitePolicy:
    """Read and check a policy file. Raises ConfigError with `file:line: key: message` lines."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SlurmextError(f"{path} cannot be read: {why}") from error
    return parse_policy(text, str(path))


def parse_policy(text: str, source: str = "policy") -> SitePolicy:
    """Check the text of a policy; `source` is the file named in errors. Raises ConfigError."""
    document = load_yaml(text, source)
    checked = check(document, PolicyDocument)
    queues = resolve_queues(document, checked.queues)
    parents = frozenset(queue.path.rpartition("/")[0] for queue in queues) - {""}
    acls: dict[str, Acl] = {}
    over_max: dict[str, OverMax] = {}
    _inherit(checked.queues, "", Acl(), checked.settings.over_max, acls=acls, over_max=over_max)
    policy = SitePolicy(
        document=checked,
        queues=queues,
        acls=acls,
        over_max=over_max,
        by_path={queue.path: queue for queue in queues},
        parents=parents,
        guarantees=_guarantees(queues),
    )
    problems = [
        *_depth_problems(document, queues),
        *_target_problems(document, policy),
        *_acl_problems(document, checked),
    ]
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line or 0))
    return policy


def _inherit(
    queues: Mapping[str, QueueDocument],
    above: str,
    acl: Acl,
    over: OverMax,
    *,
    acls: dict[str, Acl],
    over_max: dict[str, OverMax],
) -> None:
    for name, item in queues.items():
        path = f"{above}/{name}" if above else name
        own = item.acl
        acls[path] = (
            acl
            if own is None
            else Acl(users=frozenset(own.users), groups=frozenset(own.groups), accounts=frozenset(own.accounts))
        )
        over_max[path] = over if item.over_max is None else item.over_max
        _inherit(item.children, path, acls[path], over_max[path], acls=acls, over_max=over_max)


def queue_loc(path: str) -> Loc:
    """Where a queue stands in the document: `a/b` -> queues, a, children, b."""
    first, *rest = path.split("/")
    return ("queues", first, *(part for name in rest for part in ("children", name)))


def _depth_problems(document: Document, queues: tuple[Queue, ...]) -> list[Problem]:
    return [
        document.problem(
            queue_loc(queue.path), f"{queue.path} is more than {_MOST_DEPTH} levels deep; make the tree flatter"
        )
        for queue in queues
        if queue.path.count("/") == _MOST_DEPTH
    ]


def _acl_problems(document: Document, checked: PolicyDocument) -> list[Problem]:
    """An ACL with nobody in it reads like 'nobody' and would mean 'everybody'; make the author say which."""

    def visit(queues: Mapping[str, QueueDocument], loc: Loc) -> list[Problem]:
        found: list[Problem] = []
        for name, item in queues.items():
            here = (*loc, name)
            if item.acl is not None and not (item.acl.users or item.acl.groups or item.acl.accounts):
                message = "lists nobody; name users, groups or accounts, or leave it out to do as the parent does"
                found.append(document.problem((*here, "acl"), message))
            found += visit(item.children, (*here, "children"))
        return found

    return visit(checked.queues, ("queues",))


def _target_problems(document: Document, policy: SitePolicy) -> list[Problem]:
    targets: list[tuple[Loc, str | None]] = [(("settings", "default_queue"), policy.settings.default_queue)]
    targets += [(("placement", index, "queue"), rule.queue) for index, rule in enumerate(policy.document.placement)]
    problems: list[Problem] = []
    for loc, path in targets:
        if path is None or path in policy.leaves:
            continue
        if path in policy.parents:
            below = ", ".join(leaf for leaf in policy.leaves if leaf.startswith(f"{path}/"))
            message = f"{path!r} has queues below it, and jobs go to queues without children: {below}"
        else:
            message = (
                f"there is no queue {path!r}{nearest(path, policy.leaves) or '; queues: ' + ', '.join(policy.leaves)}"
            )
        problems.append(document.problem(loc, message))
    for index, rule in enumerate(policy.document.placement):
        if rule.user is None and rule.account is None and rule.partition is None:
            message = "matches every job; name a user, an account or a partition, or set settings.default_queue instead"
            problems.append(document.problem(("placement", index), message))
    return problems


def queues_tsv(policy: SitePolicy, expand_group: Callable[[str], Collection[str]]) -> str:
    """The table job_submit reads: `#default`, `#het` (pass or refuse), a `#rule` per placement rule (`user, account,
    partition, queue`, empty = any), then a line per queue.

    `path, leaf (1|0), effective max GPUs (empty = none), over_max, users (comma; empty = all), accounts (the same)`.
    `expand_group` gives a Unix group's members. An ACL whose groups have no members gets the user `-`, which is
    nobody's name: an empty list would let everyone in.
    """
    lines = [f"#default\t{policy.settings.default_queue or ''}", f"#het\t{policy.settings.het_jobs.value}"]
    lines += [
        "\t".join(("#rule", rule.user or "", rule.account or "", rule.partition or "", rule.queue))
        for rule in policy.document.placement
    ]
    for queue in policy.queues:
        acl = policy.acls[queue.path]
        users = set(acl.users).union(*(expand_group(group) for group in acl.groups))
        if not acl.open and not users and not acl.accounts:
            users = {"-"}
        most = policy.effective_max(queue.path)
        fields = (
            queue.path,
            "0" if queue.path in policy.parents else "1",
            "" if most is None else str(most),
            policy.over_max[queue.path].value,
            ",".join(sorted(users)),
            ",".join(sorted(acl.accounts)),
        )
        lines.append("\t".join(fields))
    return "\n".join(lines) + "\n"
