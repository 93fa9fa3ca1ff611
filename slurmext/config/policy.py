"""The policy file: the queue tree and the site-wide knobs, checked, as model types."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from slurmext.config.quota import Amount, Share, resolve_queues
from slurmext.config.yaml_errors import ConfigError, Document, Loc, Problem, check, load_yaml, nearest
from slurmext.errors import SlurmextError
from slurmext.model.policy import Policy, QueueRule
from slurmext.model.queue import FenceMode, Queue
from slurmext.model.snapshot import Settings

_SORT_KEYS = ("priority", "fifo", "fair")
_MOST_DEPTH = 8


class OverMax(StrEnum):
    """What happens to a job that asks for more than its queue's max: it can never start there."""

    REFUSE = "refuse"
    HOLD = "hold"


def _queue_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", value):
        raise ValueError(
            f"{value!r} is no queue name: letters, digits, '.', '_' and '-', at most 63, starting with a letter or digit"
            + ("; a queue below another goes under its 'children:'" if "/" in value else "")
        )
    return value


def _type_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError(f"{value!r} is no GPU type: write it as in gres.conf, for example h100")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[^\s,#/]+", value):
        raise ValueError(f"{value!r} is no name: one word without spaces, commas, '#' or '/'")
    return value


def _job_sort(value: str) -> str:
    keys = [key.strip() for key in value.split(",")]
    wrong = [key for key in keys if key not in _SORT_KEYS]
    if wrong:
        raise ValueError(
            f"{wrong[0]!r} is no order: a comma list of {', '.join(_SORT_KEYS)}, for example 'priority,fifo'"
            + nearest(wrong[0], _SORT_KEYS)
        )
    return ",".join(keys)


def _nothing_is_empty(value: object) -> object:
    """`research:` with nothing after it is a queue with every key at its default."""
    return {} if value is None else value


QueueName = Annotated[str, AfterValidator(_queue_name)]
TypeName = Annotated[str, AfterValidator(_type_name)]
Name = Annotated[str, AfterValidator(_name)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Gpus = Annotated[int, Field(ge=0, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TypeDocument(_Strict):
    """Quota of one GPU type."""

    guaranteed: Amount | None = Field(default=None, description="GPUs of this type that are there whenever asked for.")
    reserved: Amount | None = Field(default=None, description="The part of guaranteed that is never lent.")
    max: Amount | None = Field(
        default=None, description="Most GPUs of this type, borrowed ones included; null = no limit."
    )


class UserDocument(_Strict):
    """Limits of one user in a queue."""

    max: Gpus | None = Field(default=None, description="Most GPUs the user may hold in the queue; null = no limit.")


class AclDocument(_Strict):
    """Who may submit: a user who is listed, is in a listed group, or submits under a listed account."""

    users: tuple[Name, ...] = Field(default=(), description="User names.")
    groups: tuple[Name, ...] = Field(default=(), description="Unix groups; their members may submit.")
    accounts: tuple[Name, ...] = Field(default=(), description="Slurm accounts.")


class QueueDocument(_Strict):
    """A queue. GPU numbers are absolute, or a share of the parent's number of the same name: '50%'."""

    guaranteed: Amount | None = Field(
        default=None,
        description="GPUs that are there whenever asked for. Not set: the sum of the children's (0 without children).",
    )
    reserved: Amount | None = Field(default=None, description="The part of guaranteed that is never lent. Default 0.")
    max: Amount | None = Field(default=None, description="Most GPUs, borrowed ones included; null = no limit.")
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=1, description="Share of idle GPUs this queue gets when several want to borrow, against its siblings."
    )
    priority: int = Field(default=0, description="Queues of higher priority are served first among siblings.")
    lending_limit: Gpus | None = Field(
        default=None, description="Most unused guaranteed GPUs lent out at a time; null = guaranteed - reserved."
    )
    fence: FenceMode = Field(
        default=FenceMode.NONE, description="in: borrows nothing from outside; out: lends nothing outside; both; none."
    )
    min_runtime_s: Seconds = Field(default=0, description="A job that ran shorter than this is no victim.")
    preemption_delay_s: Seconds = Field(
        default=0, description="How long a job of this queue waits before it evicts others."
    )
    job_sort: Annotated[str, AfterValidator(_job_sort)] = Field(
        default="priority,fifo", description="Order of jobs inside the queue: a comma list of priority, fifo, fair."
    )
    over_max: OverMax | None = Field(
        default=None,
        description="A job asking for more than max: refuse it at submit, or hold it. Default: the settings'.",
    )
    by_type: dict[TypeName, TypeDocument] = Field(
        default={}, description="Quota by GPU type, besides the totals above."
    )
    users: dict[Name, UserDocument] = Field(default={}, description="Limits of single users in this queue.")
    acl: AclDocument | None = Field(
        default=None, description="Who may submit. Not set: whoever may submit to the parent; at the top: everyone."
    )
    children: dict[QueueName, QueueNode] = Field(
        default={}, description="Queues below this one. Jobs go to queues without children."
    )


QueueNode = Annotated[QueueDocument, BeforeValidator(_nothing_is_empty)]


class SettingsDocument(_Strict):
    """Knobs of the whole site."""

    grace_s: Seconds = Field(
        default=60, description="Time a victim has to save a checkpoint when it named none itself."
    )
    requeue_delay_s: Seconds = Field(
        default=121, description="How long a requeued job cannot start again: AuthInfo's cred_expire + 1 s."
    )
    preemption_budget: Count | None = Field(
        default=None, description="How often one job may be evicted; null = no limit."
    )
    near_end_s: Seconds = Field(default=0, description="A job that ends within this time is waited for, not evicted.")
    consolidate: bool = Field(default=True, description="Whether a job may be moved to make room for a gang.")
    max_requeues_per_cycle: Count | None = Field(
        default=None, description="Most evictions in one cycle; null = no limit."
    )
    max_requeues_per_hour: Count | None = Field(default=None, description="Most evictions in an hour; null = no limit.")
    over_max: OverMax = Field(
        default=OverMax.REFUSE,
        description="A job asking for more than its queue's max: refuse it at submit, or hold it.",
    )
    default_queue: str | None = Field(
        default=None,
        description="Queue of a job that names none and matches no placement rule; null = such a job is left to Slurm.",
    )


class PlacementDocument(_Strict):
    """A job that names no queue goes to `queue` when all that is given here matches; the first rule that does counts."""

    queue: str = Field(description="Path of a queue without children.")
    user: Name | None = Field(default=None, description="Name of the submitting user.")
    account: Name | None = Field(default=None, description="Slurm account of the job.")
    partition: Name | None = Field(default=None, description="Partition of the job.")


class PolicyDocument(_Strict):
    """The policy file, version 1."""

    version: Literal[1] = Field(description="Always 1.")
    settings: Annotated[SettingsDocument, BeforeValidator(_nothing_is_empty)] = Field(
        default=SettingsDocument(), description="Knobs of the whole site."
    )
    placement: tuple[PlacementDocument, ...] = Field(
        default=(), description="Which queue a job that names none goes to. The first rule that matches counts."
    )
    queues: dict[QueueName, QueueNode] = Field(description="The queue tree.", min_length=1)


QueueDocument.model_rebuild()


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
    _inherit(checked.queues, "", Acl(), checked.settings.over_max, acls, over_max)
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
        _inherit(item.children, path, acls[path], over_max[path], acls, over_max)


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
                message = "lists nobody; name users, groups or accounts, or leave acl out to let in whoever may use the parent"
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
    """The table job_submit reads: `#default`, a `#rule` per placement rule (`user, account, partition, queue`, empty =
    any), then a line per queue.

    `path, leaf (1|0), effective max GPUs (empty = none), over_max, users (comma; empty = all), accounts (the same)`.
    `expand_group` gives a Unix group's members. An ACL whose groups have no members gets the user `-`, which is
    nobody's name: an empty list would let everyone in.
    """
    lines = [f"#default\t{policy.settings.default_queue or ''}"]
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


__all__ = [
    "Acl",
    "OverMax",
    "PolicyDocument",
    "Share",
    "SitePolicy",
    "load_policy",
    "parse_policy",
    "queue_loc",
    "queues_tsv",
]
