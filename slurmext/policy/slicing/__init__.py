"""Who gets which slice of which GPU: `plan_slices(SliceSnapshot) -> SlicePlan`, pure as all of `policy`.

From what the hardware allows to what is planned: `kinds` (legal places of a card), `needs` (what a job's wish means on
each type of card), `cards` (what is free), `gradient` (what is lost by putting something somewhere), `finder` (the best
place), `quota` (who may), `making_room` (evict, move, hold), `pools` (GPUs between whole and sliced use), `planner`.
"""

from slurmext.policy.slicing.planner import SlicePlanner, plan_slices

__all__ = ["SlicePlanner", "plan_slices"]
