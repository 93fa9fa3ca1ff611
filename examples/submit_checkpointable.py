#!/usr/bin/env python3
"""A submitit job that is checkpointed when it is preempted or reaches its time limit.

    python3 examples/submit_checkpointable.py --folder logs --steps 600

`--ckpt=USR2@60` sends the signal that submitit takes: it pickles the callable, safely, and requeues the job.
"""

from __future__ import annotations

import argparse
import sys
import time

import submitit

from slurmext.checkpoint.frameworks.submitit import Checkpointable


class Counter(Checkpointable):
    """Counts; `done` is what a requeued job goes on from."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, steps: int) -> int:
        """To `steps`, ten a second."""
        while self.done < steps:
            time.sleep(0.1)
            self.done += 1
        return self.done


def main() -> int:
    """Submit and wait."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="submitit-logs", help="must be shared by all nodes")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--local", action="store_true", help="without Slurm")
    options = parser.parse_args()
    executor = submitit.AutoExecutor(options.folder, cluster="local" if options.local else None)
    executor.update_parameters(timeout_min=60)
    if not options.local:
        executor.update_parameters(slurm_additional_parameters={"ckpt": "USR2@60"})
    print(f"counted to {executor.submit(Counter(), options.steps).result()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
