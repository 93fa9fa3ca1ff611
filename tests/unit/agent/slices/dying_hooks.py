"""A node whose hooks are processes of their own, each killed while the agent works for it, and what comes then."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from types import SimpleNamespace
from typing import Any

from agent.conftest import ask, hook
from slurmext.adapters.tcp.orders import SliceItem
from slurmext.agent import handlers
from slurmext.agent.jobs import JobTable
from slurmext.agent.node import Node as AgentNode
from slurmext.agent.server import Peer, UnixServer
from slurmext.hooks import client
from slurmext.install.hooks import interpreter
from slurmext.testing.nvml import DIES_AFTER, DIES_BEFORE

from .node import Node

UID = 1000
IN_THE_CALL_MS = 15
"""So long the agent stays in the call after the hook's death: what comes then comes meanwhile."""
PATIENCE_S = 30


class Then(StrEnum):
    """What comes after a prolog's death."""

    NOTHING = "nothing"
    AGAIN = "the prolog again"
    EPILOG = "the epilog, and later the job's next run"
    WITHDRAWN = "an order to withdraw, and later the job's next run"


class DyingHooks:
    """A day on a node. `plan` says for each hook of the day, by its number, at which of its NVML calls it dies (None:
    it lives), before or after the call is carried out, and what comes then. `made` are the calls of each hook.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.jobs = JobTable(node.folder / "jobs.jsonl")
        slices = SimpleNamespace(prolog=node.keeper.prolog, epilog=node.keeper.epilog)
        agent = AgentNode(name="n1", jobs=self.jobs, events=node.events, socket_path="", slices=slices)  # type: ignore[arg-type]
        self._path = node.folder / "root.sock"
        self._victim: Callable[[int], object] | None = None
        self._answer = lambda peer, request: handlers.answer(agent, peer, request)
        self.server = UnixServer(self._path, mode=0o600, answer=self._arm_and_answer, workers=8)
        self.server.start()
        self._runs: dict[int, int] = {}
        self._places: dict[int, tuple[SliceItem, ...]] = {}
        self.plan: Mapping[int, tuple[int, int, Then]] = {}
        self.made: list[list[str]] = []
        self.problems: list[str] = []

    # one job's hooks

    def start(self, job_id: int, *items: SliceItem) -> None:
        """Reserve, and run the prolog until the job has its slices, whatever happens to the first one."""
        self._places[job_id] = items
        self._reserve(job_id)
        then = self._run("prolog", job_id)
        if then is Then.AGAIN:
            self._check(self._ask("prolog", job_id).get("ok") is True, f"job {job_id}: the prolog was refused")
        elif then in {Then.EPILOG, Then.WITHDRAWN}:
            if then is Then.EPILOG:
                self._ask("epilog", job_id)
            else:
                self.node.keeper.withdraw(self._name(job_id))
            self._rest()
            mine = [made for made in self.node.book.made() if made.reservation == self._name(job_id)]
            self._check(not mine and not self.node.book.of_job(job_id), f"job {job_id} ended and left {mine}")
            self._check(self.node.taskfile(job_id) == "", f"job {job_id} ended and left its tasks' file")
            self._runs[job_id] = self._runs.get(job_id, 0) + 1
            self._reserve(job_id)
            self._ask("prolog", job_id)
        self._rest()
        self._check(self.node.taskfile(job_id).startswith("slots "), f"job {job_id}: {self.node.taskfile(job_id)!r}")

    def end(self, job_id: int) -> None:
        """Run the epilog; once more when it died. Nothing of the job stays but what is warm."""
        if self._run("epilog", job_id) is Then.AGAIN:
            self._ask("epilog", job_id)
        self._rest()
        self._check(not self.node.book.of_job(job_id), f"job {job_id} ended and is still there")

    def withdraw(self, job_id: int) -> None:
        self.node.keeper.withdraw(self._name(job_id))
        self._rest()

    def _name(self, job_id: int) -> str:
        return f"r{job_id}.{self._runs.get(job_id, 0)}"

    def _reserve(self, job_id: int) -> None:
        said = self.node.reserve(job_id, *self._places[job_id], uid=UID, name=self._name(job_id))
        self._check(said == "slice_reserved", f"job {job_id} got {said}: {self.node.events.said[-1]}")

    def _ask(self, op: str, job_id: int) -> dict[str, Any]:
        return ask(self._path, self._request(op, job_id), timeout_s=PATIENCE_S)

    def _request(self, op: str, job_id: int) -> dict[str, Any]:
        env = {"SLURM_JOB_RESTART_COUNT": str(self._runs.get(job_id, 0)), "SPANK_SLURMEXT_GPU_SLICE": "1g.10gb"}
        return hook(op, job_id, uid=UID, **env)

    def _run(self, op: str, job_id: int) -> Then | None:
        """One hook of the day; what comes after it when it was killed."""
        number = len(self.made)
        before = len(self.node.gpus.calls())
        planned = self.plan.get(number)
        if planned is None:
            self._ask(op, job_id)
        else:
            self._run_and_kill(op, job_id, *planned[:2])
        if planned is None or op == "epilog":
            self._rest()
        self.made.append([call.name for call in self.node.gpus.calls()[before:]])
        return planned[2] if planned else None

    def _run_and_kill(self, op: str, job_id: int, call: int, death: int) -> None:
        def arm(pid: int) -> None:
            self.node.gpus.on_call("*", death=death, delay_ms=IN_THE_CALL_MS, skip=call, times=1, pid=os.getpid(),
                                   victim=pid)  # fmt: skip

        self._victim = arm
        request = self._request(op, job_id)
        env = {"SLURM_JOB_ID": str(job_id), "SLURM_JOB_UID": str(UID), "SLURMD_NODENAME": "n1"} | request["env"]
        command = [interpreter(), "-I", "-S", client.__file__, op, self._path, str(PATIENCE_S), os.devnull]
        process = subprocess.Popen(command, env=env)
        # Not reaped before the rule is gone: nobody else may get its number meanwhile.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        if op == "epilog":
            self._rest()  # it is answered before its slices are freed
        self.node.gpus.disarm()
        status = process.wait()
        self._check(status == -9 or op == "epilog", f"job {job_id}: its {op} ended with {status}, nobody killed it")

    def _arm_and_answer(self, peer: Peer, request: Mapping[str, Any]) -> Mapping[str, Any]:
        arm, self._victim = self._victim, None
        if arm is not None:
            arm(peer.pid)
        return self._answer(peer, request)

    def _rest(self) -> None:
        """Wait until no thread of the agent works for anybody; one that never ends is a problem of its own."""
        deadline_s = time.monotonic() + PATIENCE_S
        while self.server._busy.total() or self.node.keeper._making:
            if time.monotonic() > deadline_s:
                self.problems.append(f"threads hang: {self.server._busy} {self.node.keeper._making}")
                return
            time.sleep(0.001)
        self.node.settle()

    def _check(self, holds: object, problem: str) -> None:
        if not holds:
            self.problems.append(f"{problem} ({dict(self.plan)})")

    # a day

    def day(self, plan: Mapping[int, tuple[int, int, Then]], first: int) -> list[list[str]]:
        """Hooks of all kinds: slices made anew, of two at once, warm ones taken over and others destroyed to make room.
        Jobs get numbers from `first` on. Returns each hook's calls.
        """
        node, self.plan, self.made = self.node, plan, []
        node.gpus.clear_calls()
        node.mig(0)
        self.start(first, node.item("1g.10gb", 0), node.item("3g.40gb", 4))
        self.start(first + 1, node.item("1g.10gb", 1, gpu=1))
        self.end(first)  # kept warm
        self.start(first + 2, node.item("3g.40gb", 4))  # taken over
        self.start(first + 3, node.item("2g.20gb", 0))  # destroys a warm one
        self.end(first + 2)
        return self.made

    def night(self, first: int) -> None:
        """Every job is over, and warm slices are too old."""
        for job_id in (first + 1, first + 3):
            self.end(job_id)
        self.node.now_s += 10_000
        self.node.maker.age()


def samples(names: list[str], changes: Iterable[str], *, every: bool) -> list[int]:
    """At which of its calls a hook is to die: at each that changes something and its neighbours, at the ends."""
    changing = [at for at, name in enumerate(names) if any(word in name for word in changes)]
    near = {at + by for at in changing for by in (-1, 0, 1)} | {0, len(names) - 1}
    return [at for at in range(len(names)) if every or at in near]


def plans(made: list[list[str]], changes: Iterable[str], *, every: bool) -> list[dict[int, tuple[int, int, Then]]]:
    """Days until each hook has died at each chosen call: in every way with `every`, else in one after the other."""
    ways = [(death, then) for then in Then for death in (DIES_BEFORE, DIES_AFTER)]
    found: list[dict[int, tuple[int, int, Then]]] = []
    for number, names in enumerate(made):
        chosen = samples(names, changes, every=every)
        turns = [(at, *way) for at in chosen for way in ways] if every else [
            (at, *ways[(turn + number) % len(ways)]) for turn, at in enumerate(chosen)
        ]  # fmt: skip
        found += [{} for _ in range(len(turns) - len(found))]
        for day, turn in zip(found, turns, strict=False):
            day[number] = turn
    return found
