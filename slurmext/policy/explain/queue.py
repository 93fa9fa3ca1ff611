"""What a queue may count on and why: its fair share at every level, who borrows and lends, who starves. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from slurmext.model.plan import Plan
from slurmext.model.snapshot import Snapshot
from slurmext.policy.explain.books import Books, books_of, lineage, placements, within
from slurmext.policy.explain.stakes import stakes_of
from slurmext.policy.share import Stake
from slurmext.policy.tree import HIDDEN_LEAF, ROOT, QueueTree, queue_tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One queue of a level, in GPUs. `uses` is after the plan, slices by their part; `own` marks the jobs of the parent
    itself.

    `lends` are idle GPUs of its guarantee that others use; `short` is what it lacks of its fair share while jobs wait.
    `past` is what it borrowed lately, in GPUs as they count against what it borrows now.
    """

    path: str
    guaranteed: int
    wants: int
    uses: float
    kept: int
    weight: float
    priority: int
    past: float
    share: float
    lends: int
    short: float
    own: bool = False
    shares_guarantee: bool = False

    @property
    def borrows(self) -> float:
        """GPUs it uses beyond its guarantee; one that shares its parent's has no guarantee to be beyond."""
        return 0 if self.shares_guarantee else max(0, self.uses - self.guaranteed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The queues under `parent` ("": the cluster) and the GPUs they share. `kept` stay idle; `beyond` are left when
    everybody has what it wants within its guarantee; `borrowed` is what the parent itself uses beyond its guarantee.
    """

    parent: str
    gpus: float
    kept: int
    beyond: float
    borrowed: float
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueAccount:
    """One queue's account. `sliced` of what it `uses` is in slices. `guaranteed` is that of `shares_with` where the
    queue shares its parent's guarantee, and `borrowed` is beyond it. `types` has the levels once more for each GPU type
    that has quotas, in GPUs of that type.
    """

    path: str
    uses: float
    sliced: float
    guaranteed: int
    borrowed: float
    shares_with: str | None
    reserved: int
    max: int | None
    share: float
    levels: tuple[Level, ...]
    types: dict[str, tuple[Level, ...]]
    waiting_jobs: int
    waiting_gpus: float
    waiting_since_s: float | None
    reasons: dict[str, int]
    starving: tuple[Row, ...]


def queue_account(snapshot: Snapshot, plan: Plan, path: str) -> QueueAccount:
    """The account of the queue at `path`. Raises KeyError when the snapshot has no such queue."""
    tree, books = queue_tree(snapshot), books_of(snapshot, plan)
    index = tree.by_path[path]
    stakes = stakes_of(snapshot, plan, tree)
    levels = tuple(_levels(tree, stakes, books.used, index))
    types = dict[str, tuple[Level, ...]]()
    for gpu_type in sorted({name for node in tree.nodes for name in (*node.type_guaranteed, *node.type_max)}):
        typed = stakes_of(snapshot, plan, tree, gpu_type)
        types[gpu_type] = tuple(_levels(tree, typed, _used_of_type(snapshot, plan, gpu_type), index))
    waiting = [job for job in snapshot.jobs if job.id in plan.reasons and within(job.queue, path)]
    owner = tree.own(index)
    limits = [most for at in tree.nodes[index].lineage if (most := tree.nodes[at].max) is not None]
    return QueueAccount(
        path=path,
        uses=books.used[path],
        sliced=books.sliced.get(path, 0),
        guaranteed=owner.guaranteed,
        borrowed=min(books.used[path], max(0, books.used[owner.path] - owner.guaranteed)),
        shares_with=owner.path if owner.index != index else None,
        reserved=tree.nodes[index].reserved,
        max=min(limits, default=None),
        share=stakes[index].share,
        levels=levels,
        types=types,
        waiting_jobs=len(waiting),
        waiting_gpus=sum(job.gpus for job in waiting),
        waiting_since_s=min((float(job.submitted_s) for job in waiting), default=None),
        reasons=dict(Counter(plan.reasons[job.id].value for job in waiting).most_common()),
        starving=tuple(_starving(tree, stakes, books)),
    )


def _used_of_type(snapshot: Snapshot, plan: Plan, gpu_type: str) -> Counter[str]:
    of_type = {node.name for node in snapshot.nodes if node.gpu_type == gpu_type}
    used = Counter[str]()
    for job, placement in placements(snapshot, plan):
        gpus = sum(part.gpus for part in placement if part.node in of_type)
        for at in lineage(job.queue) if gpus else ():
            used[at] += gpus
    return used


def _levels(tree: QueueTree, stakes: Sequence[Stake], used: Mapping[str, float], index: int) -> Iterable[Level]:
    """From the cluster down to the queue's own children."""
    for at in (ROOT, *reversed(tree.nodes[index].lineage)):
        node = tree.nodes[at]
        if not node.children:
            continue
        plain = [_row(tree, stakes, used, child) for child in node.children]
        gpus = stakes[at].share
        floor = sum(row.guaranteed for row in plain)
        whole = max(node.guaranteed, used[node.path]) if at else gpus + stakes[at].kept
        lent = int(max(0, sum(row.borrows for row in plain) - max(0, int(whole) - floor)))
        rows = tuple(_with_loan(row, part) for row, part in zip(plain, _loans(plain, lent), strict=True))
        sure = sum(min(row.wants, row.guaranteed) for row in rows)
        yield Level(
            parent=node.path,
            gpus=gpus,
            kept=stakes[at].kept,
            beyond=max(0.0, gpus - sure),
            borrowed=max(0, used[node.path] - stakes[at].guaranteed) if at else 0,
            rows=rows,
        )


def _row(tree: QueueTree, stakes: Sequence[Stake], used: Mapping[str, float], index: int) -> Row:
    node, stake = tree.nodes[index], stakes[index]
    own = node.key.endswith(HIDDEN_LEAF)
    uses = used[node.path]
    if own:
        uses -= sum(used[tree.nodes[i].path] for i in tree.nodes[node.lineage[1]].children if i != index)
    return Row(
        path=node.path,
        guaranteed=stake.guaranteed,
        wants=stake.wants,
        uses=uses,
        kept=stake.kept,
        weight=stake.weight,
        priority=stake.priority,
        past=stake.past,
        share=stake.share,
        lends=0,
        short=max(0.0, stake.share - uses) if stake.wants > uses else 0.0,
        own=own,
        shares_guarantee=node.shares_guarantee and not own,
    )


def _with_loan(row: Row, lends: int) -> Row:
    return replace(row, lends=lends)


def _loans(rows: Sequence[Row], lent: int) -> list[int]:
    """How many of the `lent` GPUs each row lends: GPUs have no names, so in proportion to what lies idle."""
    idle = [int(max(0, row.guaranteed - max(row.uses, row.kept))) for row in rows]
    total = sum(idle)
    lent = min(lent, total)
    parts = [count * lent // total if total else 0 for count in idle]
    order = sorted(range(len(rows)), key=lambda n: (-(idle[n] * lent % total if total else 0), rows[n].path))
    for number in order[: lent - sum(parts)]:
        parts[number] += 1
    return parts


def _starving(tree: QueueTree, stakes: Sequence[Stake], books: Books) -> Iterable[Row]:
    """Leaves with waiting jobs and a GPU or more less than their fair share, the neediest first."""
    rows = [_row(tree, stakes, books.used, leaf) for leaf in sorted(set(tree.leaf_of.values()))]
    return sorted((row for row in rows if row.short >= 1), key=lambda row: (-row.short, row.path))
