"""What ranks make of each other's promises: one step, which all can still reach, and one reason."""

from __future__ import annotations

from collections.abc import Callable

from slurmext.checkpoint.board import ABANDONED, GONE, Board
from slurmext.checkpoint.reasons import MEMORY, Reason, weightiest

Until = Callable[[Callable[[], bool]], bool]
"""Waits for a condition; False when it does not come true in time."""


def decision(board: Board, number: int, reason: Reason, *, leads: bool, world: int, until: Until) -> tuple[int, Reason]:
    """The step of save `number`, or ABANDONED, and this rank's reason for it: its own, unless others have a weightier
    one than that it is time for a save in memory.
    """
    if leads:
        target, why = _largest_promise(board, number, reason, world, until)
        board.decide(number, target, why)
    else:
        found = until(lambda: board.decided()[0] >= number)
        decided, target, why = board.decided()
        if not found or decided != number:
            target = ABANDONED
    if reason == MEMORY:
        return target, why or reason
    return (ABANDONED if why == MEMORY else target), reason


def _largest_promise(board: Board, number: int, reason: Reason, world: int, until: Until) -> tuple[int, Reason]:
    steps, reasons, missing = list[int](), set[Reason](), set(range(world))

    def all_there() -> bool:
        for rank in sorted(missing):
            promised, step, why = board.promised(rank)
            if promised < number:
                return False
            missing.discard(rank)
            reasons.add(why)
            steps.append(ABANDONED if promised >= GONE else step)
        return True

    if not until(all_there) or ABANDONED in steps:
        return ABANDONED, reason
    return max(steps), weightiest(reasons)
