"""A queue's account in words."""

from __future__ import annotations

from slurmext.model.amounts import amount, counted
from slurmext.model.plan import Plan
from slurmext.model.snapshot import Snapshot
from slurmext.policy.explain.books import within
from slurmext.policy.explain.queue import Level, QueueAccount, Row, queue_account
from slurmext.policy.tree import queue_tree

_WHOLE = 0.05
"""Shares closer than this to a whole number are shown as one."""


def explain_queue(snapshot: Snapshot, plan: Plan, path: str) -> str:
    """The account in words. Lines of text."""
    tree = queue_tree(snapshot)
    if path not in tree.by_path:
        return f"There is no queue {path!r}; queues: {', '.join(sorted(tree.by_path))}."
    return "\n".join(account_lines(queue_account(snapshot, plan, path), snapshot.now_s))


def account_lines(account: QueueAccount, now_s: float) -> list[str]:
    """The account as lines of text."""
    at_most = "without a limit" if account.max is None else f"at most {account.max}"
    parts = f" ({amount(account.sliced)} in slices)" if account.sliced else ""
    within_own = account.uses - account.borrowed
    whose = f" to all of {account.shares_with} together" if account.shares_with else ""
    lines = [
        (
            f"Queue {account.path} uses {counted(account.uses, 'GPU')}{parts}: {amount(within_own)} of"
            f" {account.guaranteed} guaranteed{whose}, {amount(account.borrowed)} borrowed, {at_most}."
        ),
        f"Its fair share now is {_gpus(account.share)} GPU{_s(account.share)}{_against(account)}.",
        _waiting(account, now_s),
        "",
        "Why this share: what is handed out at each level, in GPUs",
    ]
    for level in account.levels:
        lines += _level_lines(level, account.path)
    for gpu_type, levels in account.types.items():
        lines += ["", f"Of these, type {gpu_type} has quotas of its own"]
        for level in levels:
            lines += _level_lines(level, account.path)
    return lines + _market(account)


def _against(account: QueueAccount) -> str:
    over = account.uses - account.share
    if over >= 1:
        return f", {_gpus(over)} less than it uses: what is above goes back as jobs end or when an owner asks"
    if -over >= 1 and account.waiting_jobs:
        return f", {_gpus(-over)} more than it uses"
    return ""


def _waiting(account: QueueAccount, now_s: float) -> str:
    if not account.waiting_jobs:
        return "No job waits in it."
    jobs = account.waiting_jobs
    why = ", ".join(f"{count} {reason}" for reason, count in account.reasons.items())
    since = f", the first for {now_s - account.waiting_since_s:.0f} s" if account.waiting_since_s is not None else ""
    waits = f"{jobs} job{'s wait' if jobs > 1 else ' waits'}"
    return f"{waits} for {counted(account.waiting_gpus, 'GPU')}{since}: {why}."


def _level_lines(level: Level, path: str) -> list[str]:
    name = f"queue {level.parent}" if level.parent else "the cluster"
    notes = [f"{_gpus(level.gpus)} GPU{_s(level.gpus)} of {name} to share"]
    if level.kept:
        notes.append(f"{level.kept} kept idle (reserved, lending limits, fences)")
    notes.append(f"{_gpus(level.beyond)} left beyond what is wanted within guarantees, shared by weight")
    lines = [f"  {'; '.join(notes)}"]
    head = ("queue", "guaranteed", "wants", "uses", "weight", "priority", "lately", "share")
    table = [head, *(_cells(row) for row in level.rows)]
    shown = {"priority": any(row.priority for row in level.rows), "lately": any(row.past for row in level.rows)}
    if shown["lately"]:
        lines.append("  lately: what a queue borrowed before now counts as if it borrowed so many GPUs more")
    width = [max(len(cells[column]) for cells in table) for column in range(len(head))]
    for number, cells in enumerate(table):
        on_path = number > 0 and (within(path, level.rows[number - 1].path) and not level.rows[number - 1].own)
        cells_shown = [
            cell.ljust(width[column]) if column == 0 else cell.rjust(width[column])
            for column, cell in enumerate(cells)
            if shown.get(head[column], True)
        ]
        lines.append(f"  {'>' if on_path else ' '} {'  '.join(cells_shown)}".rstrip())
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    name = f"{row.path} (its own jobs)" if row.own else row.path
    numbers = (row.guaranteed, row.wants, amount(row.uses), f"{row.weight:g}", row.priority)
    return (name, *(str(number) for number in numbers), _gpus(row.past), _gpus(row.share))


def _market(account: QueueAccount) -> list[str]:
    lines: list[str] = []
    for level in account.levels:
        borrowers = [f"{row.path} {amount(row.borrows)}" for row in level.rows if row.borrows]
        lenders = [f"{row.path} {row.lends}" for row in level.rows if row.lends]
        if not borrowers:
            continue
        where = f"In {level.parent}" if level.parent else "In the cluster"
        total, lent = sum(row.borrows for row in level.rows), sum(row.lends for row in level.rows)
        outside = min(level.borrowed, total - lent)
        free = total - lent - outside
        sources = (
            f"idle guarantees of {', '.join(lenders)}" if lenders else "",
            f"{amount(outside)} that {level.parent} itself borrows" if outside else "",
            f"{amount(free)} nobody is guaranteed" if free else "",
        )
        source = " and ".join(filter(None, sources))
        lines.append(f"{where} beyond guarantees: {', '.join(borrowers)}; they come from {source}.")
    if account.starving:
        hungry = ", ".join(f"{row.path} {_gpus(row.short)}{_owed(row)}" for row in account.starving)
        lines.append(f"Below their fair share while jobs wait: {hungry}.")
    return ["", *lines] if lines else []


def _owed(row: Row) -> str:
    owed = min(row.guaranteed, row.wants) - row.uses
    return f" ({amount(owed)} of its guarantee)" if owed > 0 else ""


def _s(count: float) -> str:
    return "" if _gpus(count) == "1" else "s"


def _gpus(count: float) -> str:
    nearest = round(count)
    return str(nearest) if abs(count - nearest) < _WHOLE else f"{count:.1f}"
