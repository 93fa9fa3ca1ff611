#!/usr/bin/env python3
"""A small real training job that can be preempted: a two-layer classifier with Adam, in NumPy.

    sbatch --ckpt=auto --open-mode=append --wrap "python3 examples/train_numpy.py --steps 600 --step-time 0.1"

It saves when Slurm or slurmext signals it and resumes where it left off. The final loss has the same bits however
often it was interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

# The order of additions in a matrix product depends on the number of threads; one makes runs on any node the same.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from slurmext.checkpoint import Checkpointer, CheckpointError

INPUTS, HIDDEN, CLASSES, BATCH = 128, 384, 10, 64
RATE, BETA1, BETA2, EPSILON = 1e-3, 0.9, 0.999, 1e-8


def new_state(seed: int) -> dict[str, object]:
    """Weights, Adam's two moments and the generator that draws the batches: about 3 MB."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (INPUTS, HIDDEN), "w2": (HIDDEN, HIDDEN), "w3": (HIDDEN, CLASSES)}
    weights = {name: rng.standard_normal(shape, dtype=np.float32) / np.float32(shape[0] ** 0.5)
               for name, shape in shapes.items()}  # fmt: skip
    return {
        "weights": weights,
        "mean": {name: np.zeros_like(value) for name, value in weights.items()},
        "square": {name: np.zeros_like(value) for name, value in weights.items()},
        "rng": rng,
        "loss": 0.0,
    }


def train_step(state: dict, step: int, teacher: np.ndarray) -> float:
    """One batch forward and back, and one Adam step in place; returns the loss before it."""
    weights = state["weights"]
    inputs = state["rng"].standard_normal((BATCH, INPUTS), dtype=np.float32)
    wanted = np.argmax(inputs @ teacher, axis=1)
    rows = np.arange(BATCH)

    hidden1 = np.maximum(inputs @ weights["w1"], 0)
    hidden2 = np.maximum(hidden1 @ weights["w2"], 0)
    scores = hidden2 @ weights["w3"]
    scores -= scores.max(axis=1, keepdims=True)
    chance = np.exp(scores)
    chance /= chance.sum(axis=1, keepdims=True)
    loss = float(-np.log(chance[rows, wanted]).mean())

    slope = chance
    slope[rows, wanted] -= 1
    slope /= BATCH
    slope2 = (slope @ weights["w3"].T) * (hidden2 > 0)
    slope1 = (slope2 @ weights["w2"].T) * (hidden1 > 0)
    gradients = {"w1": inputs.T @ slope1, "w2": hidden1.T @ slope2, "w3": hidden2.T @ slope}
    for name, gradient in gradients.items():
        mean, square = state["mean"][name], state["square"][name]
        mean += (1 - BETA1) * (gradient - mean)
        square += (1 - BETA2) * (gradient * gradient - square)
        weights[name] -= RATE * (mean / (1 - BETA1**step)) / (np.sqrt(square / (1 - BETA2**step)) + EPSILON)
    return loss


def main() -> int:
    """Train, saving when due; prints what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps in all [300]")
    parser.add_argument("--step-time", type=float, default=0.0, metavar="S", help="make each step last this long [0]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--every", type=float, default=600.0, metavar="S", help="save this often without a signal [600]"
    )
    parser.add_argument("--dir", help="checkpoint directory [--ckpt-dir of the job]")
    options = parser.parse_args()

    teacher = np.random.default_rng(0).standard_normal((INPUTS, CLASSES), dtype=np.float32)
    state = new_state(options.seed)
    ckpt = Checkpointer(state, options.dir, every_s=options.every)
    done, kept = ckpt.restore(), None
    print("started" if done is None else f"resumed at step {done}", flush=True)
    for step in range((done or 0) + 1, options.steps + 1):
        started = time.monotonic()
        state["loss"] = train_step(state, step, teacher)
        time.sleep(max(0.0, options.step_time - (time.monotonic() - started)))
        if ckpt.due(step) and ckpt.save(step):
            print(f"saved step {step}", flush=True)
        if ckpt.memory.kept_step != kept:
            kept = ckpt.memory.kept_step
            print(f"step {kept} is in memory", flush=True)
    print(f"final loss {state['loss']!r} after {options.steps} steps", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CheckpointError as problem:
        sys.exit(f"train_numpy: {problem}")
