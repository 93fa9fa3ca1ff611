"""Quota numbers of the policy tree: percentages become GPUs, and the tree is checked to add up."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PlainValidator

from slurmext.config.yaml_errors import ConfigError, Document, Loc, Problem
from slurmext.model.queue import IdleAction, IdleRule, PreDrain, Queue, TypeQuota, UserLimit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from slurmext.config.policy_document import QueueDocument, TypeDocument

ANY_NAME = "*"
"""Stands for the name of a child that exists once a job is in it; no queue has that name."""
_PERCENT = r"^(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?)\s?%$"


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the parent queue's number of the same name, 0 to 1."""

    part: Fraction

    def of(self, whole: int) -> int:
        """Whole GPUs, rounded down, so that shares never add up to more than the whole."""
        return int(self.part * whole)


def _amount(value: object) -> int | Share:
    if isinstance(value, Share) or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    if isinstance(value, str) and re.match(_PERCENT, value.strip()):
        return Share(Fraction(value.strip().rstrip("%").strip()) / 100)
    raise ValueError(f"must be a number of GPUs, or a share of the parent queue such as '50%' (it is {value!r})")


Amount = Annotated[
    int | Share,
    PlainValidator(
        _amount,
        json_schema_input_type=Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=_PERCENT)],
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    """A queue with its numbers resolved. `guaranteed` is never None: it is the children's sum where none is written."""

    queue: Queue
    guaranteed: int
    loc: Loc
    children: tuple[_Node, ...]
    dynamic: _Node | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The queues, a parent before its children; `dynamic` has what the children of a path are like that come and go."""

    queues: tuple[Queue, ...]
    dynamic: Mapping[str, Queue]


def resolve_queues(
    document: Document,
    queues: Mapping[str, QueueDocument],
    *,
    moved: Mapping[Loc, Loc] | None = None,
    when: str = "",
    checked: bool = True,
) -> Resolved:
    """The tree as model queues. Raises ConfigError with all that does not add up, unless `checked` is False.

    Keys that a calendar sets stand where `moved` says; `when` is added to each error.
    """
    resolver = _Resolver(document, moved or {}, when)
    roots = [resolver.queue(name, item, None, ("queues", name)) for name, item in queues.items()]
    for root in roots if checked else ():
        resolver.check(root)
    if resolver.problems and checked:
        raise ConfigError(sorted(resolver.problems, key=lambda problem: problem.line or 0))
    nodes = [node for root in roots for node in _walk(root)]
    return Resolved(
        queues=tuple(node.queue for node in nodes),
        dynamic={node.queue.path: node.dynamic.queue for node in nodes if node.dynamic is not None},
    )


def _walk(node: _Node) -> Iterator[_Node]:
    yield node
    for child in node.children:
        yield from _walk(child)


def _idle_rule(item: QueueDocument, parent: Queue | None) -> IdleRule | None:
    """The queue's own rule, else its parent's."""
    own = item.idle
    if own is None:
        return None if parent is None else parent.idle
    if own.action == "none":
        return None
    action = IdleAction(own.action.value)
    return IdleRule(after_s=own.after_s, grace_s=own.grace_s, action=action, max_extend_s=own.max_extend_s)


class _Resolver:
    def __init__(self, document: Document, moved: Mapping[Loc, Loc], when: str) -> None:
        self.document, self.moved, self.when = document, moved, when
        self.problems: list[Problem] = []

    def problem(self, loc: Loc, message: str) -> None:
        self.problems.append(self.document.problem(self.moved.get(loc, loc), message + self.when))

    def number(self, value: int | Share | None, whole: int | None, parent: str | None, loc: Loc) -> int | None:
        if not isinstance(value, Share):
            return value
        if parent is None:
            self.problem(loc, "is a share, but a queue at the top has no parent; write a number of GPUs")
            return None
        if whole is None:
            self.problem(
                loc, f"is a share of {parent}'s {loc[-1]}, which is not set; set it there or write a number here"
            )
            return None
        return value.of(whole)

    def queue(self, path: str, item: QueueDocument, parent: Queue | None, loc: Loc) -> _Node:
        above = None if parent is None else parent.path
        number = {
            key: self.number(getattr(item, key), getattr(parent, key, None), above, (*loc, key))
            for key in ("guaranteed", "reserved", "max")
        }
        queue = Queue(
            path=path,
            guaranteed=number["guaranteed"],
            reserved=number["reserved"] or 0,
            max=number["max"],
            weight=item.weight,
            priority=item.priority,
            lending_limit=item.lending_limit,
            fence=item.fence,
            min_runtime_s=item.min_runtime_s,
            preemption_delay_s=item.preemption_delay_s,
            job_sort=item.job_sort,
            pre_drain=item.pre_drain or (PreDrain.REFUSE if parent is None else parent.pre_drain),
            by_type={
                name: self.type_quota(quota, parent, name, (*loc, "by_type", name))
                for name, quota in item.by_type.items()
            },
            idle=_idle_rule(item, parent),
            users={name: UserLimit(max=limit.max) for name, limit in item.users.items()},
            groups={name: UserLimit(max=limit.max) for name, limit in item.groups.items()},
            each_user_max=None if item.each_user is None else item.each_user.max,
        )
        children = tuple(
            self.queue(f"{path}/{name}", child, queue, (*loc, "children", name))
            for name, child in item.children.items()
        )
        guaranteed = sum(child.guaranteed for child in children) if queue.guaranteed is None else queue.guaranteed
        dynamic = None
        if item.dynamic is not None:
            # What comes and goes below never changes what the queue itself is guaranteed.
            queue = replace(queue, guaranteed=guaranteed)
            dynamic = self.dynamic(item.dynamic, queue, (*loc, "dynamic"))
        return _Node(queue=queue, guaranteed=guaranteed, loc=loc, children=children, dynamic=dynamic)

    def dynamic(self, item: QueueDocument, parent: Queue, loc: Loc) -> _Node:
        """What each child is like that exists once a job is in it. Without a guarantee it uses its parent's."""
        for key in ("children", "acl", "dynamic"):
            if getattr(item, key):
                self.problem((*loc, key), f"a queue that exists once a job is in it has no {key}; leave it out")
        node = self.queue(f"{parent.path}/{ANY_NAME}", item.model_copy(update={"dynamic": None}), parent, loc)
        shares = node.guaranteed == 0 and not any(quota.guaranteed for quota in node.queue.by_type.values())
        return replace(node, queue=replace(node.queue, guaranteed=node.guaranteed, shares_guarantee=shares))

    def type_quota(self, quota: TypeDocument, parent: Queue | None, gpu_type: str, loc: Loc) -> TypeQuota:
        above = None if parent is None else f"{parent.path} ({gpu_type})"
        whole = None if parent is None else parent.by_type.get(gpu_type)
        number = {
            key: self.number(getattr(quota, key), getattr(whole, key, None), above, (*loc, key))
            for key in ("guaranteed", "reserved", "max")
        }
        return TypeQuota(guaranteed=number["guaranteed"] or 0, reserved=number["reserved"] or 0, max=number["max"])

    def check(self, node: _Node) -> None:
        queue = node.queue
        self.order(node.loc, node.guaranteed, queue.reserved, queue.max, written=queue.guaranteed is not None)
        for gpu_type, quota in queue.by_type.items():
            self.order((*node.loc, "by_type", gpu_type), quota.guaranteed, quota.reserved, quota.max, written=True)
        of_types = sum(quota.guaranteed for quota in queue.by_type.values())
        if of_types > node.guaranteed:
            self.problem(
                (*node.loc, "by_type"),
                f"guarantees {of_types} GPUs by type, more than the {node.guaranteed} of {queue.path}'s guaranteed;"
                f" write 'guaranteed: {of_types}' or lower a type",
            )
        if queue.lending_limit is not None and queue.lending_limit > node.guaranteed - queue.reserved:
            self.problem(
                (*node.loc, "lending_limit"),
                f"{queue.lending_limit} is above guaranteed - reserved = {node.guaranteed - queue.reserved},"
                f" which is all that {queue.path} can lend",
            )
        if queue.guaranteed is not None:
            shares = [(child, child.guaranteed) for child in node.children]
            self.children_fit(node, shares, queue.guaranteed, "", (*node.loc, "guaranteed"))
        for gpu_type, quota in queue.by_type.items():
            shares = [
                (child, child.queue.by_type[gpu_type].guaranteed)
                for child in node.children
                if gpu_type in child.queue.by_type
            ]
            self.children_fit(node, shares, quota.guaranteed, f"{gpu_type} ", (*node.loc, "by_type", gpu_type))
        for child in node.children:
            self.check(child)
        if node.dynamic is not None:
            self.check(node.dynamic)
            if node.dynamic.guaranteed > node.guaranteed:
                self.problem(
                    (*node.dynamic.loc, "guaranteed"),
                    f"each queue would be guaranteed {node.dynamic.guaranteed} GPUs, more than {queue.path}'s own"
                    f" {node.guaranteed}, which they share; lower it or raise {queue.path}",
                )

    def order(self, loc: Loc, guaranteed: int, reserved: int, most: int | None, *, written: bool) -> None:
        origin = "" if written else ", the sum of its children's,"
        if reserved > guaranteed:
            self.problem(
                (*loc, "reserved"),
                f"{reserved} is above guaranteed {guaranteed}; reserved <= guaranteed <= max must hold",
            )
        if most is not None and guaranteed > most:
            self.problem(
                (*loc, "max"),
                f"{most} is below guaranteed {guaranteed}{origin}; reserved <= guaranteed <= max must hold",
            )

    def children_fit(
        self, node: _Node, shares: list[tuple[_Node, int]], whole: int, gpu_type: str, parent_loc: Loc
    ) -> None:
        """The error stands at the child that brings the sum over the parent's, and names both."""
        sums = accumulate(share for _, share in shares)
        first = next((child for (child, _), total in zip(shares, sums, strict=True) if total > whole), None)
        if first is None:
            return
        everyone = sum(share for _, share in shares)
        each = " + ".join(f"{item.queue.path} {share}" for item, share in shares if share)
        tail = parent_loc[len(node.loc) :]
        at = (*first.loc, *tail) if tail[0] == "by_type" else (*first.loc, "guaranteed")
        self.problem(
            at,
            f"the children of {node.queue.path} guarantee {everyone} {gpu_type}GPUs ({each}), more than"
            f" {node.queue.path}'s own {whole} (line {self.document.line(self.moved.get(parent_loc, parent_loc))});"
            f" lower a child or raise {node.queue.path}",
        )
