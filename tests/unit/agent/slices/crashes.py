"""`python crashes.py FOLDER before|after [power|twice] [all]`: an agent dies at its NVML calls, one after the other.

At each that changes something and at its neighbours, and at some of the others; with `all` at every one.

A process of its own that forks: each agent is a fresh process, and a fork takes a hundredth of an interpreter's start.
The last line is JSON: how many calls were tried, and what was wrong after which.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from agent.slices.node import Node
from slurmext.adapters.tcp.orders import SetGpuUse
from slurmext.agent.slices.records import Piece, Stage
from slurmext.model.slicing import GpuUse
from slurmext.testing.nvml import DIES_AFTER, DIES_BEFORE, SimulatedGpus

WARM_S = 600
CHANGES = ("SetMigMode", "Create", "Destroy")


def life(node: Node) -> None:
    """What an agent does in a day."""
    node.mig(0)
    node.start(1, node.item("1g.10gb", 0), node.item("3g.40gb", 4))
    node.start(2, node.item("1g.10gb", 1, gpu=1))
    node.end(1)  # kept warm
    node.start(3, node.item("3g.40gb", 4))  # taken over
    node.start(4, node.item("2g.20gb", 0))  # destroys a warm one
    node.keeper.withdraw("r3")
    node.settle()
    node.end(4)
    node.uses.set(SetGpuUse(gpu=node.gpus.uuid(0), use=GpuUse.WHOLE))
    node.reserve(5, node.item("1g.10gb", 3, gpu=1))


def wrong(node: Node, foreign: list[Any]) -> str:
    """What is not as it must be after an agent began anew; "" when all is well."""
    there = node.gpus.slices()
    if [one for one in there if one in foreign] != foreign:
        return f"a foreign instance was touched: {there}"
    owners: dict[tuple[str, int], str] = {}
    for made in node.book.made():
        owners[made.place] = made.reservation
    for one in there:
        made = node.book.at(node.gpus.uuid(one.gpu), one.start)
        if one in foreign:
            continue
        if made is None or made.piece not in {Piece.BUSY, Piece.WARM}:
            return f"an orphan: {one}, known as {made}"
        if len(one.computes) != 1 or one.computes[0][1] != made.uuid:
            return f"not the one that was made: {one}, known as {made}"
        holder = node.book.reservation(made.reservation)
        if made.piece is Piece.BUSY and (holder is None or holder.stage is not Stage.LIVE):
            return f"nobody has {one}: {holder}"
    taken: dict[tuple[str, int], str] = {}
    for each in node.book.reservations():
        for item in each.items if each.stage is Stage.LIVE else ():
            if taken.setdefault((item.gpu, item.start or 0), each.reservation) != each.reservation:
                return f"two owners of {item}"
            made = node.book.at(item.gpu, item.start or 0)
            if made is None or made.reservation != each.reservation:
                return f"job {each.job} is live without {item}"
    return ""


def clear(node: Node, foreign: list[Any]) -> str:
    """Every job is over: what is left then; "" when nothing is, and everything works anew."""
    node.in_slurm = set()
    node.now_s += 10_000
    node.reconciler.again()
    node.settle()
    for each in node.book.reservations():
        node.keeper.withdraw(each.reservation)
    node.settle()
    node.now_s += 10_000
    node.maker.age()
    left = [one for one in node.gpus.slices() if one not in foreign]
    if left or node.book.made() or node.book.reservations():
        return f"left over: {left} {node.book.made()} {node.book.reservations()}"
    node.mig()
    why = node.start(9, node.item("3g.40gb", 4), node.item("4g.40gb", 0))
    return f"no new job can start: {why} {node.events.said[-3:]}" if why else ""


def in_child(work: Any) -> int:
    """Run it in a process of its own; its status, negative when it was killed."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = work() or 0
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> int:
    """Die at the first call, then at the second, until an agent lives through its day."""
    base, when, *how = Path(sys.argv[1]), *sys.argv[2:]
    death = DIES_BEFORE if when == "before" else DIES_AFTER
    ctypes.CDLL(str(base / "lib" / "libnvidia-ml.so.1"))
    template = base / "template"

    def prepare() -> None:
        node = Node(template, "h100", "h100", warm_s=WARM_S)
        node.restart()
        node.gpus.set_mig(True, 1)
        node.mig(1)
        node.driver.create(node.gpus.uuid(1), "1g.10gb", 6)  # somebody else's

    template.mkdir()
    if in_child(prepare):
        return 1
    foreign = SimulatedGpus(template / "gpus").slices()
    problems: list[str] = []
    chosen, count = calls_to_die_at(base, template, every="all" in how)
    for call in chosen:
        folder = base / "node"
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["cp", "-a", template, folder], check=True)  # device nodes as well
        move(folder)
        if in_child(partial(die_at, folder, call, death)) != -9:
            problems.append(f"call {call}: nobody died")
        gone, boot = foreign, "boot-1"
        if "power" in how:
            SimulatedGpus(folder / "gpus").reset()
            gone, boot = [], "boot-2"
        if "twice" in how:
            in_child(partial(die_again, folder, call % 23, death))
        if in_child(partial(look, folder, gone, base / "problem", boot)):
            problems.append(f"call {call}: {(base / 'problem').read_text()}")
    print(json.dumps({"calls": count, "tried": len(chosen), "problems": problems[:10], "wrong": len(problems)}))
    return 0


def calls_to_die_at(base: Path, template: Path, *, every: bool) -> tuple[list[int], int]:
    """Which of a day's calls, counted from 0, and how many there are."""
    folder, listed = base / "node", base / "calls"
    subprocess.run(["cp", "-a", template, folder], check=True)
    move(folder)

    def record() -> None:
        node = Node(folder, warm_s=WARM_S)
        node.gpus.clear_calls()
        life(node)
        listed.write_text(" ".join(call.name for call in node.gpus.calls()))

    assert in_child(record) == 0
    names = listed.read_text().split()
    changing = [at for at, name in enumerate(names) if any(word in name for word in CHANGES)]
    near = {at + by for at in changing for by in (-1, 0, 1) if 0 <= at + by < len(names)}
    return (list(range(len(names))) if every else sorted(near | set(range(0, len(names), 25)))), len(names)


def move(folder: Path) -> None:
    """The copied state file says where its tree is."""
    gpus = SimulatedGpus(folder / "gpus")
    gpus._state.root = os.fsencode(folder / "driver")
    gpus.clear_calls()


def die_at(folder: Path, call: int, death: int) -> None:
    node = Node(folder, warm_s=WARM_S)
    node.gpus.on_call("*", death=death, skip=call, times=1, pid=os.getpid())
    life(node)


def die_again(folder: Path, call: int, death: int) -> None:
    node = Node(folder, warm_s=WARM_S)
    node.gpus.on_call("*", death=death, skip=call, times=1, pid=os.getpid())
    node.restart()


def look(folder: Path, foreign: list[Any], problem: Path, boot: str) -> int:
    problem.write_text("it could not begin anew")
    node = Node(folder, warm_s=WARM_S)
    node.gpus.clear_calls()
    node.boot = boot
    node.restart()
    text = wrong(node, foreign) or clear(node, foreign)
    problem.write_text(text)
    return bool(text)


if __name__ == "__main__":
    sys.exit(main())
