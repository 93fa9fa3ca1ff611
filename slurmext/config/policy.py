"""The policy file: the queue tree and the site-wide knobs, checked, as model types."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from slurmext.config.calendar import zone_of
from slurmext.config.names import is_template
from slurmext.config.policy_document import OverMax, PolicyDocument, QueueDocument, SettingsDocument
from slurmext.config.quota import ANY_NAME, resolve_queues
from slurmext.config.schedule import Schedule
from slurmext.config.slices import slice_settings
from slurmext.config.yaml_errors import ConfigError, Document, Loc, Problem, check, load_yaml, nearest
from slurmext.errors import SlurmextError
from slurmext.model.policy import Policy, QueueRule, child_of
from slurmext.model.snapshot import Defragment, Settings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from slurmext.model.queue import Queue
    from slurmext.model.slicing import SliceSettings
    from slurmext.model.state import PolicyVersion

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
    """A checked policy. `queues` has a parent before its children; `acls` and `over_max` are the effective ones.

    `queues` are the numbers without any calendar; `at` gives the policy with those in force at a time.
    `dynamic` has what the children of a queue are like that exist as soon as a job is in them; `including` adds such.
    """

    document: PolicyDocument
    queues: tuple[Queue, ...]
    acls: Mapping[str, Acl] = field(repr=False)
    over_max: Mapping[str, OverMax] = field(repr=False)
    by_path: Mapping[str, Queue] = field(repr=False)
    parents: frozenset[str] = field(repr=False)
    dynamic: Mapping[str, Queue] = field(repr=False)
    guarantees: Mapping[str, int] = field(repr=False)
    schedule: Schedule = field(repr=False, compare=False)

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
                headroom_gpus=knobs.headroom.gpus,
                headroom_drainable=knobs.headroom.drainable,
                past_factor=knobs.fair_share.past_factor,
            ),
            half_life_s=knobs.fair_share.half_life_h * 3600,
            timezone=knobs.timezone,
            defragment=Defragment(worth_s=knobs.defragment.worth_s, most_moves=knobs.defragment.most_moves),
            defragment_schedule=knobs.defragment.schedule,
            slices=self.slices_at(time.time()),
            slice_oom_retry=self.document.slices.oom_retry,
            queues=self.queues,
            paths=frozenset(self.by_path),
            leaves=frozenset(self.leaves),
            dynamic=self.dynamic,
            default_queue=knobs.default_queue,
            rules=tuple(
                QueueRule(
                    queue=rule.queue,
                    user=rule.user,
                    account=rule.account,
                    partition=rule.partition,
                    group=rule.group,
                )
                for rule in self.document.placement
            ),
            max_requeues_per_cycle=knobs.max_requeues_per_cycle,
            max_requeues_per_hour=knobs.max_requeues_per_hour,
        )

    def slices_at(self, now_s: float) -> SliceSettings:
        """What is in force of the slices section at that time."""
        return slice_settings(
            self.document.slices,
            self.schedule.zone,
            now_s,
            preemption_budget=self.settings.preemption_budget,
            near_end_s=self.settings.near_end_s,
        )

    def queues_at(self, now_s: float) -> tuple[Queue, ...]:
        """The queues with the numbers in force at that time, and the calendar's next changes of them."""
        return self.schedule.at(now_s).queues

    def at(self, now_s: float) -> SitePolicy:
        """The policy with the numbers in force at that time."""
        in_force = self.schedule.at(now_s)
        queues = in_force.queues
        if queues is self.queues:
            return self
        by_path = {queue.path: queue for queue in queues}
        return replace(self, queues=queues, by_path=by_path, guarantees=_guarantees(queues), dynamic=in_force.dynamic)

    def largest_max(self, path: str, now_s: float) -> int | None:
        """Like `effective_max`, with the most that the calendar gives each of these queues within a year."""
        largest = self.schedule.largest_max(now_s)
        return min((most for above in _upwards(path) if (most := largest[above]) is not None), default=None)

    def including(self, paths: Iterable[str]) -> SitePolicy:
        """The policy with those of `paths` as queues that exist as soon as a job is in them, each below its parent."""
        found = [child_of(self.dynamic, path) for path in sorted(set(paths) - self.by_path.keys())]
        new = [queue for queue in found if queue is not None]
        if not new:
            return self
        above = {queue.path: queue.path.rpartition("/")[0] for queue in new}
        below: dict[str, list[Queue]] = {}
        for queue in new:
            below.setdefault(above[queue.path], []).append(queue)
        queues = [each for queue in self.queues for each in (queue, *below.get(queue.path, ()))]
        over_max = {path: self.over_max[f"{parent}/{ANY_NAME}"] for path, parent in above.items()}
        return replace(
            self,
            queues=tuple(queues),
            acls={**self.acls, **{path: self.acls[parent] for path, parent in above.items()}},
            over_max={**self.over_max, **over_max},
            by_path={**self.by_path, **{queue.path: queue for queue in new}},
            guarantees={**self.guarantees, **{queue.path: queue.guaranteed or 0 for queue in new}},
        )

    @property
    def groups(self) -> tuple[str, ...]:
        """Unix groups that any limit, ACL or placement rule names."""
        limits = {group for queue in (*self.queues, *self.dynamic.values()) for group in queue.groups}
        allowed = {group for acl in self.acls.values() for group in acl.groups}
        rules = {rule.group for rule in self.document.placement if rule.group is not None}
        return tuple(sorted(limits | allowed | rules))

    def largest_guarantee(self, now_s: float) -> int:
        """The most GPUs that are guaranteed in all at any time of the year from `now_s` on."""
        return max(
            sum(gpus for path, gpus in _guarantees(queues).items() if path and "/" not in path)
            for queues in self.schedule.different_states(now_s)
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


def parse_policy(text: str, source: str = "policy", *, now_s: float | None = None) -> SitePolicy:
    """Check the text of a policy; `source` is the file named in errors. Raises ConfigError.

    Calendars must add up in the year that begins at `now_s` (Unix seconds; None: now).
    """
    policy, document = _parsed(text, source)
    policy.schedule.check(document, time.time() if now_s is None else now_s)
    return policy


def stored_policy(version: PolicyVersion) -> SitePolicy:
    """A policy that was checked when it was applied. Its calendars are not checked again: that year may be over."""
    return _parsed(version.document, f"policy version {version.version}")[0]


def _parsed(text: str, source: str) -> tuple[SitePolicy, Document]:
    document = load_yaml(text, source)
    checked = check(document, PolicyDocument)
    resolved = resolve_queues(document, checked.queues)
    queues = resolved.queues
    parents = frozenset(queue.path.rpartition("/")[0] for queue in queues) - {""} | resolved.dynamic.keys()
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
        dynamic=resolved.dynamic,
        guarantees=_guarantees(queues),
        schedule=Schedule(document, checked.queues, resolved, zone_of(checked.settings.timezone)),
    )
    problems = [
        *_depth_problems(document, queues),
        *_target_problems(document, policy),
        *_acl_problems(document, checked),
    ]
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line or 0))
    return policy, document


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
        if item.dynamic is not None:
            over_max[f"{path}/{ANY_NAME}"] = item.dynamic.over_max or over_max[path]
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
        if is_template(path):
            problems += _template_problems(document, policy, loc, path)
            continue
        if path in policy.parents:
            names = [leaf for leaf in policy.leaves if leaf.startswith(f"{path}/")]
            below = ", ".join([*names, f"{path}/{{user}} (made of the job)"] if path in policy.dynamic else names)
            message = f"{path!r} has queues below it, and jobs go to queues without children: {below}"
        else:
            message = (
                f"there is no queue {path!r}{nearest(path, policy.leaves) or '; queues: ' + ', '.join(policy.leaves)}"
            )
        problems.append(document.problem(loc, message))
    for index, rule in enumerate(policy.document.placement):
        everything = rule.user is rule.account is rule.partition is rule.group is None
        if everything and not is_template(rule.queue):
            message = "matches every job; name a user, a group, an account or a partition, or set default_queue instead"
            problems.append(document.problem(("placement", index), message))
    return problems


def _template_problems(document: Document, policy: SitePolicy, loc: Loc, template: str) -> list[Problem]:
    """A template below a queue that is written out must be able to make a queue of somebody."""
    above, _, _ = template.rpartition("/")
    if not above or is_template(above) or above in policy.parents:
        return []
    if above in policy.by_path:
        message = f"{template!r} makes queues below {above}, which has no 'dynamic:'; {above} needs 'dynamic: {{}}'"
    else:
        known = policy.parents or policy.by_path
        message = f"there is no queue {above!r}{nearest(above, known) or '; queues: ' + ', '.join(policy.by_path)}"
    return [document.problem(loc, message)]
