"""What a queue is entitled to and what it used, in words, for `slurmext queue explain`."""

from __future__ import annotations

from typing import Any

from slurmext.cli.formats import moment, span
from slurmext.model.amounts import amount, counted

_DAYS_SHOWN = 7


def waiting(row: dict[str, Any]) -> str:
    """How many jobs wait for how many GPUs."""
    jobs = row["pending_jobs"]
    return f"{counted(jobs, 'job')} wait{'s' if jobs == 1 else ''} for {counted(row['pending_gpus'], 'GPU')}"


def past_use(answer: dict[str, Any], queue: str) -> list[str]:
    """GPU-hours per queue and day; the newest days where there are many."""
    days = max((len(row["days_gpu_h"]) for row in answer["past_use"]), default=0)
    if not days:
        return [f"No job used GPUs of {queue} or beside it since {moment(answer['since_s'])}."]
    shown = min(days, _DAYS_SHOWN)
    head = ["queue", *(f"-{back} d" if back else "last 24 h" for back in range(shown - 1, -1, -1)), "sum"]
    table = [head]
    for row in answer["past_use"]:
        depth = row["queue"].count("/") - queue.count("/")
        if depth > 1:
            continue
        numbers = [*row["days_gpu_h"][-shown:], row["gpu_h"]]
        table.append([row["queue"], *(f"{number:.1f}" for number in numbers)])
    width = [max(len(cells[column]) for cells in table) for column in range(len(head))]
    lines = [
        f"  {'>' if cells[0] == queue else ' '} "
        + "  ".join(cell.rjust(width[column]) if column else cell.ljust(width[0]) for column, cell in enumerate(cells))
        for cells in table
    ]
    return [f"GPU-hours used, day by day, since {moment(answer['since_s'])}", *(line.rstrip() for line in lines)]


def sentences(row: dict[str, Any], *, more: bool) -> list[str]:
    """What the queue's numbers mean; with `more` what it uses as well, which its account tells better."""
    path, guaranteed, used = row["path"], row["guaranteed"], row["used"]
    most = row["effective_max"]
    beyond = "as many as are idle" if most is None else f"up to {most} in all"
    parent = path.rpartition("/")[0]
    said = [
        f"{path} shares what {parent} is guaranteed with the other queues there."
        if row["shares_guarantee"]
        else f"{path} is guaranteed {counted(guaranteed, 'GPU')}: when its jobs ask, whoever borrowed any gives back.",
        f"Beyond them it may borrow idle GPUs, {beyond}, until their owner asks."
        if row["fence"] not in {"in", "both"}
        else "It borrows nothing beyond them (fence).",
    ]
    if more and row["borrowed"]:
        borrows = f"{amount(row['borrowed'])} {'is' if row['borrowed'] == 1 else 'are'} borrowed"
        said.append(f"It uses {amount(used)} now, so {borrows} and may be reclaimed, checkpoint first.")
    elif more and row["shares_guarantee"]:
        said.append(f"It uses {amount(used)} now, nothing borrowed.")
    elif more:
        idle = guaranteed - max(used, row["reserved"])
        lent = 0 if row["fence"] in {"out", "both"} else max(0, idle)
        lent = lent if row["lending_limit"] is None else min(lent, row["lending_limit"])
        said.append(f"It uses {amount(used)} now, nothing borrowed; of the rest {amount(lent)} may be lent to others.")
    if more and row["pending_jobs"]:
        said.append(
            f"{waiting(row)}: 'slurmext job list --queue {path} --state pending -o JobID,GPUs,Reason,Message' says why."
        )
    if row["min_runtime_s"]:
        said.append(f"Its jobs are not preempted in their first {span(row['min_runtime_s'])}.")
    if not row["leaf"]:
        said.append("Jobs go to the queues below it, not to this one.")
    elif not row["may_use"]:
        said.append("You may not submit to it.")
    return said
