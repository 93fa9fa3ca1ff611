"""`slurmext ckpt estimate` and `why`: how often to save, and what that rests on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slurmext.cli.base import Command
from slurmext.cli.completing import complete_job
from slurmext.cli.formats import moment, parse_span, size, span
from slurmext.cli.render import Output, json_option
from slurmext.errors import UsageError
from slurmext.model.amounts import counted

if TYPE_CHECKING:
    from slurmext.cli.session import Session

DIRECTORY = click.Path(path_type=Path, file_okay=False, exists=True, resolve_path=True)


@click.command(
    "estimate",
    cls=Command,
    examples=[
        ("slurmext ckpt estimate --cost 8s --nodes 16", "how often a job of 16 nodes that loses 8 s per save should"),
        ("slurmext ckpt estimate /scratch/run7 --nodes 16", "for a state as large as the one in this directory"),
        ("slurmext ckpt estimate --cost 5s --mtbf 3h --json", "with a mean time between failures of your own"),
    ],
)
@click.argument("directory", type=DIRECTORY, required=False)
@click.option("--cost", metavar="TIME", help="Training time lost per checkpoint (8s, 2m).")
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="Nodes of the job.")
@click.option("--mtbf", metavar="TIME", help="Mean time between failures of the job (3h); else by nodes.")
@json_option
def estimate(directory: Path | None, cost: str | None, nodes: int, mtbf: str | None, *, as_json: bool) -> None:
    """Estimate how often to save, what that costs, and the memory it takes. Needs no daemon."""
    from slurmext.checkpoint.interval import FIRST_COST_S, LEAST_S, MOST_S, Failures, loss, optimum_s

    nbytes = None
    if directory is not None:
        from slurmext.cli.ckpt_files import found_in

        sizes = [one.size_bytes for one in found_in(directory) if one.size_bytes]
        nbytes = sizes[0] if sizes else None
    cost_s = parse_span(cost) if cost else FIRST_COST_S if nbytes is None else 0.3 * nbytes / nodes / 1e9 + 0.05
    mtbf_s = parse_span(mtbf) if mtbf else Failures().mtbf_s(nodes)
    if cost_s <= 0 or mtbf_s <= 0:
        raise UsageError("--cost and --mtbf must be more than 0; for example --cost 5s --mtbf 3h")
    best_s = optimum_s(cost_s, mtbf_s)
    every_s = min(max(best_s, LEAST_S), MOST_S)
    told = {
        "every_s": every_s, "optimum_s": best_s, "cost_s": cost_s, "mtbf_s": mtbf_s, "nodes": nodes,
        "loss": loss(every_s, cost_s, mtbf_s), "size_bytes": nbytes,
        "memory_bytes_per_node": None if nbytes is None else 2 * nbytes // nodes,
    }  # fmt: skip
    if Output(as_json=as_json).value(told):
        return
    click.echo(f"save every {span(every_s)}: of the time {100 * told['loss']:.2f} % goes to saving and to failures")
    click.echo(f"  a save costs {span(cost_s)} of training" + ("" if cost else " (an assumption; 'ckpt why' measures)"))
    click.echo(
        f"  {counted(nodes, 'node')} {'fails' if nodes == 1 else 'fail'} every {span(mtbf_s)}"
        + ("" if mtbf else " (an assumption until failures are seen)")
    )
    if nbytes is not None:
        click.echo(f"  memory for snapshots: at most {size(2 * nbytes // nodes)} on each node")


@click.command(
    "why",
    cls=Command,
    examples=[
        ("slurmext ckpt why 41", "how often job 41 saves by itself, and what that rests on"),
        ("slurmext ckpt why 41 --json", "the same as data"),
    ],
    exit_codes={1: "no such job, or it is not yours"},
)
@click.argument("job", shell_complete=complete_job)
@json_option
@click.pass_obj
def why(session: Session, job: str, *, as_json: bool) -> None:
    """Say how often JOB saves by itself and why: what a checkpoint costs it, how often jobs of its size fail here."""
    answer: dict[str, Any] = session.ask("ckpt_why", job=job)
    if Output(as_json=as_json).value(answer):
        return
    click.echo("\n".join(_reasons(answer)))


def _reasons(answer: dict[str, Any]) -> list[str]:
    from slurmext.checkpoint.interval import FIRST_COST_S, NODE_MTBF_S, PRIOR_FAILURES, Failures, loss

    cost, known = answer["cost"], answer["failures"]
    site = Failures(count=known["count"], node_s=known["node_s"])
    lines: list[str] = []
    memory = answer.get("memory")
    if cost is None and memory:
        every, each = span(memory["memory_every_s"]), span(memory["memory_cost_s"])
        lines += [
            f"job {answer['job']} saves in memory every {every}, which costs {each} of training each time",
            "  how often it saves on disk it says with its first checkpoint there",
        ]
    elif cost is None:
        lines.append(
            f"job {answer['job']} has not said how often it saves"
            + (": it was submitted without --ckpt" if not answer["ckpt"] else "; it does with its first checkpoint")
        )
    else:
        lost = 100 * loss(cost["every_s"], cost["cost_s"], memory["lost_s"] if memory else cost["mtbf_s"])
        if memory:
            lost += 100 * loss(memory["memory_every_s"], memory["memory_cost_s"], cost["mtbf_s"])
        how = f"{lost:.2f} % of its time goes to that and failures"
        costs = span(cost["cost_s"])
        stood, wrote = span(cost["stall_s"]), span(cost["write_s"])
        lines += [
            f"job {answer['job']} saves every {span(cost['every_s'])}: {how}",
            f"  a checkpoint costs {costs} of training ({cost['saves']} measured)"
            if cost["saves"]
            else f"  a checkpoint costs {costs} of training at most: so long took the first one in all"
            if cost["cost_s"] < FIRST_COST_S
            else f"  a checkpoint is assumed to cost {costs} of training until it is known how much slower steps are"
            " while one is written",
            f"  the last one: {size(cost['size_bytes'])}, standing still {stood}, writing {wrote}",
            f"  a job of {counted(cost['nodes'], 'node')} is expected to fail every {span(cost['mtbf_s'])}"
            + ("" if known["count"] else " (assumed: no failure was seen here yet)"),
        ]
        if memory:
            every, each = span(memory["memory_every_s"]), span(memory["memory_cost_s"])
            lines.append(f"  in between it saves in memory every {every}, which costs {each} of training each time")
            if memory["lost_s"] > cost["mtbf_s"]:
                lines.append(
                    "  most failures leave what is in another node's memory: one that needs the directory is expected"
                    f" every {span(memory['lost_s'])}"
                )
    lines.append(
        f"  this site: {known['count']:.3g} unannounced ends of runs in {span(known['node_s'])} of nodes: "
        f"a node fails every {span(site.mtbf_s(1))}"
    )
    lines.append(f"  (assumed before: one failure in {span(NODE_MTBF_S / PRIOR_FAILURES)} of nodes)")
    lines += [
        f"  {moment(item['at_s'])}  {item['kind']}: a run on {counted(item['node_count'], 'node')},"
        f" {span(item['ran_s'])} old"
        for item in known["recent"]
    ]
    return lines
