"""How often to save: from what a checkpoint costs, as measured, and how often jobs of this size fail here.

A job that saves every t seconds loses c/t of its time to saving (c: training time lost per checkpoint) and, at a mean
time between failures M, on average t/(2 M) to doing work again. Daly's expansion of the optimum (J. T. Daly, A higher
order estimate of the optimum checkpoint interval for restart dumps, FGCS 22, 2006), of which Young's sqrt(2 c M) is the
first term:

    t = sqrt(2 c M) (1 + sqrt(c / 2 M) / 3 + (c / 2 M) / 9) - c        for c < 2 M, else M

Preemptions do not count as failures: they are announced, and the job saves when it is told. Standard library only.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

NODE_MTBF_S = 5000 * 3600.0
"""What is assumed of a node before anything is known of the site: 419 unexpected interruptions in 54 days of 16,384
H100 on 2,048 nodes are one in 6,300 node hours (The Llama 3 Herd of Models, 2024); smaller sites do somewhat worse."""
PRIOR_FAILURES = 1.0
"""The assumption weighs as much as so many failures seen."""
FIRST_COST_S = 5.0
LEAST_S, MOST_S = 10.0, 3600.0
"""Never longer than people would forgive, though on few nodes it would be worth it."""
PEER_COVERS = 0.85
"""Of failures, those after which another node's memory still has what was saved there: 85 % stop one node at most (A.
Moody et al., Design, Modeling, and Evaluation of a Scalable Multi-level Checkpointing System, SC 2010)."""
KEEP_COSTS = 7
"""The median of the last costs counts: one save on a crowded disk must not move the interval, a disk that stays slow
does so within four."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Unannounced ends of jobs of this site: `count` in `node_s` seconds of nodes (a job of 4 nodes for an hour is 4
    node hours).
    """

    count: float = 0.0
    node_s: float = 0.0

    @property
    def per_node_s(self) -> float:
        """The rate of one node, per second: what was seen, with the assumption for as long as little was."""
        return (PRIOR_FAILURES + self.count) / (PRIOR_FAILURES * NODE_MTBF_S + self.node_s)

    def mtbf_s(self, nodes: int) -> float:
        """Mean time between failures of a job on so many nodes, in seconds."""
        return 1.0 / (self.per_node_s * max(nodes, 1))

    @classmethod
    def told(cls, environment: Mapping[str, str] | None = None) -> Failures:
        """As the job finds it in SLURMEXT_FAILURES (`count/node-seconds`); nothing known where it does not."""
        text = (os.environ if environment is None else environment).get("SLURMEXT_FAILURES", "")
        count, slash, node_s = text.partition("/")
        try:
            found = cls(count=float(count), node_s=float(node_s)) if slash else cls()
        except ValueError:
            return cls()
        return found if math.isfinite(found.count + found.node_s) and min(found.count, found.node_s) >= 0 else cls()


def optimum_s(cost_s: float, mtbf_s: float) -> float:
    """Daly's interval between the ends of two saves, in seconds of training."""
    if cost_s >= 2 * mtbf_s:
        return mtbf_s
    small = cost_s / (2 * mtbf_s)
    return math.sqrt(2 * cost_s * mtbf_s) * (1 + math.sqrt(small) / 3 + small / 9) - cost_s


def loss(every_s: float, cost_s: float, mtbf_s: float) -> float:
    """The part of the time that goes to saving and to work done again, to first order."""
    return cost_s / (every_s + cost_s) + every_s / (2 * mtbf_s)


class Interval:
    """The interval of one job, kept up to date. `nodes`: of the job. `least_s`, `most_s` bound it.

    Feed it `cost(seconds)` after each save, and `ran(seconds)` and `failed()` where the program itself survives
    failures; `every_s` is the answer.
    """

    def __init__(
        self,
        *,
        nodes: int = 1,
        failures: Failures | None = None,
        first_cost_s: float = FIRST_COST_S,
        least_s: float = LEAST_S,
        most_s: float = MOST_S,
    ) -> None:
        self._nodes = max(nodes, 1)
        self._failures = Failures() if failures is None else failures
        self._first_cost_s, self._least_s, self._most_s = first_cost_s, least_s, most_s
        self._costs: deque[float] = deque(maxlen=KEEP_COSTS)
        self._memory_costs: deque[float] = deque(maxlen=KEEP_COSTS)
        self._on_peer = False

    @classmethod
    def of_job(cls, environment: Mapping[str, str] | None = None, **bounds: float) -> Interval:
        """For the job this process runs in."""
        known = os.environ if environment is None else environment
        nodes = known.get("SLURM_JOB_NUM_NODES") or known.get("SLURM_NNODES") or "1"
        return cls(nodes=int(nodes) if nodes.isdecimal() else 1, failures=Failures.told(known), **bounds)

    def cost(self, seconds: float) -> None:
        """A save cost so much training time. Nonsense (clocks that jump) is passed over."""
        if math.isfinite(seconds) and seconds >= 0:
            self._costs.append(max(seconds, 1e-3))

    def at_most(self, seconds: float) -> None:
        """A save took so long in all: until one was measured, it is not assumed to cost more."""
        if math.isfinite(seconds) and seconds >= 0:
            self._first_cost_s = min(self._first_cost_s, max(seconds, 1e-3))

    def kept(self, seconds: float, *, on_peer: bool) -> None:
        """A save in memory cost so much; `on_peer`: another node has these as well."""
        if math.isfinite(seconds) and seconds >= 0:
            self._memory_costs.append(max(seconds, 1e-3))
        self._on_peer = on_peer

    def not_kept(self) -> None:
        """Memory has nothing new for now: all failures count for saves to the directory again."""
        self._on_peer = False

    def ran(self, seconds: float) -> None:
        """The job ran so long without a failure."""
        if math.isfinite(seconds) and seconds > 0:
            self._failures = Failures(count=self._failures.count, node_s=self._failures.node_s + seconds * self._nodes)

    def failed(self) -> None:
        """The job failed and goes on."""
        self._failures = Failures(count=self._failures.count + 1, node_s=self._failures.node_s)

    @property
    def cost_s(self) -> float:
        """What a save costs now."""
        return median(self._costs) if self._costs else self._first_cost_s

    @property
    def mtbf_s(self) -> float:
        """Mean time between failures of the job."""
        return self._failures.mtbf_s(self._nodes)

    @property
    def lost_s(self) -> float:
        """Mean time between failures that need what is in the directory: those that memory does not survive."""
        return self.mtbf_s / (1 - PEER_COVERS) if self._on_peer else self.mtbf_s

    @property
    def every_s(self) -> float:
        """Seconds from one save to the next, to the directory."""
        return self._bound(optimum_s(self.cost_s, self.lost_s))

    @property
    def memory_costs(self) -> int:
        """How many saves in memory were measured, of late."""
        return len(self._memory_costs)

    @property
    def memory_cost_s(self) -> float:
        """What a save in memory costs now; before one was measured, as much as one to the directory."""
        return median(self._memory_costs) if self._memory_costs else self.cost_s

    @property
    def memory_every_s(self) -> float:
        """Seconds from any save to the next one in memory: most failures find what is there."""
        return self._bound(optimum_s(self.memory_cost_s, self.mtbf_s))

    def _bound(self, seconds: float) -> float:
        return min(max(seconds, self._least_s), self._most_s)

    def told(self) -> dict[str, float]:
        """What goes to the site with a confirmation (`slurmext ckpt why`)."""
        return {
            "saves": len(self._costs), "nodes": self._nodes, "cost_s": self.cost_s, "every_s": self.every_s,
            "mtbf_s": self.mtbf_s,
        }  # fmt: skip

    def reasons(self) -> dict[str, float | int]:
        """What the answer rests on, in plain numbers (`slurmext ckpt why`)."""
        return {
            "every_s": self.every_s, "cost_s": self.cost_s, "costs_measured": len(self._costs), "nodes": self._nodes,
            "mtbf_s": self.mtbf_s, "failures": self._failures.count, "node_s": self._failures.node_s,
            "loss": loss(self.every_s, self.cost_s, self.mtbf_s),
        }  # fmt: skip
