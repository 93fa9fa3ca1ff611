"""The demo's second act: many small jobs on parts of a few GPUs, drawn while they run, judged by what they and the
simulated drivers say.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slurmext.adapters.query_client import QueryClient
from slurmext.demo.checks import Check
from slurmext.demo.storm import Storm, Verdict, Wish, mixed
from slurmext.devcluster import ClusterSpec, Devcluster
from slurmext.devcluster.errors import BadSpec
from slurmext.errors import SlurmextError

if TYPE_CHECKING:
    from slurmext.demo.story import Say

MIG_JOBS, SHARE_JOBS, SEED = 40, 20, 3
NODES, GPUS, CPUS = 2, 4, 48
PATIENCE_S, CLEAN_S = 90.0, 30.0
DRAW_S = 0.5
_POLICY = """# Slices for a team; GPUs nobody has a part of go back to whole use after three seconds.
version: 1
settings: {default_queue: lab}
queues:
  lab: {guaranteed: 8}
slices: {empty_for_s: 3, keep_for_s: 1}
"""

Show = Callable[[Mapping[str, Any]], None]
"""Draws the answer of `slurmext slice map --json`."""


def play_slices(spec: ClusterSpec, say: Say, show: Show) -> list[Check]:
    """Boot two nodes of their own, run the jobs, take them down. Raises SlurmextError when a step cannot be taken."""
    spec = replace(
        spec, name=f"{spec.name}-slices", dir=None, nodes=NODES, gpus=GPUS, cpus=CPUS,
        site={**spec.site, "agent": {"slices": {"warm_s": 2}}},
    )  # fmt: skip
    with contextlib.suppress(BadSpec):
        former = Devcluster.attach(spec.directory)
        if not any(former.status().values()):
            former.down()
    say(f"booting a second Slurm: {NODES} nodes with {GPUS} simulated H100 each, whole GPUs in Slurm's eyes")
    cluster = Devcluster.up(spec, say)
    try:
        _apply_policy(cluster)
        return _storm(cluster, say, show)
    finally:
        cluster.down()


def _apply_policy(cluster: Devcluster) -> None:
    policy = cluster.dir / "policy.yaml"
    policy.write_text(_POLICY)
    cluster.run([sys.executable, "-P", "-m", "slurmext.cli.main", "policy", "apply", str(policy), "--immediate"])
    table = cluster.layout.slurmext_run / "slices.tsv"
    deadline = time.monotonic() + PATIENCE_S
    while not table.exists():
        if time.monotonic() > deadline:
            raise SlurmextError(f"the agents did not tell what their GPUs can be cut into: see {cluster.layout.log}")
        time.sleep(0.2)


def _storm(cluster: Devcluster, say: Say, show: Show) -> list[Check]:
    wishes = mixed(MIG_JOBS, SHARE_JOBS, seed=SEED, longest_s=3.0)
    client = QueryClient(cluster.layout.slurmext_run / "daemon.sock")
    with Storm(cluster, wishes) as storm:
        began = time.monotonic()
        storm.submit()
        say(
            f"{MIG_JOBS} jobs of MIG instances and {SHARE_JOBS} of MPS shares"
            " (sbatch --gpu-slice, --gpu-mem, --gpu-share)"
        )
        say("the map: [17 ] is job 17's place, [warm] one that is kept for the next job, · free, - of use to nobody")
        begun = False
        while storm.ended() < len(storm.jobs) and time.monotonic() - began < PATIENCE_S:
            with contextlib.suppress(SlurmextError):
                found = client.ask("slice_map")
                begun = begun or any(card["parts"] for card in found["gpus"])
                if begun:
                    show(found)
            time.sleep(DRAW_S)
        took_s = time.monotonic() - began
        say(f"{storm.ended()} of {len(storm.jobs)} jobs have ended after {took_s:.0f} s")
        clean = storm.wait_clean(CLEAN_S)
        verdict = storm.judge()
    return _checks(wishes, verdict, took_s, clean=clean)


def _checks(wishes: Sequence[Wish], verdict: Verdict, took_s: float, *, clean: bool) -> list[Check]:
    return [
        Check(
            what=f"{len(wishes)} jobs on parts of {NODES * GPUS} GPUs ran to their end",
            good=verdict.runs == len(wishes) and not verdict.lost,
            found=f"{verdict.runs} ran within {took_s:.0f} s" + _first(verdict.lost),
        ),
        Check(
            what="every one on a legal slice of its own, of the size it asked for",
            good=not verdict.illegal and not verdict.misplaced,
            found=f"{len(verdict.illegal)} illegal, {len(verdict.misplaced)} misplaced"
            + _first([*verdict.illegal, *verdict.misplaced]),
        ),
        Check(
            what="nothing is left: no instance, no placeholder job, no drained node",
            good=clean and not verdict.leftover and not verdict.drained,
            found=f"{len(verdict.leftover)} instances left, {len(verdict.drained)} nodes drained"
            + _first([*verdict.leftover, *verdict.drained]),
        ),
    ]


def _first(found: Sequence[str]) -> str:
    return f" ({found[0]})" if found else ""
