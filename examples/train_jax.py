#!/usr/bin/env python3
"""A small training job in JAX that can be preempted: its arrays are part of a Checkpointer's state as they are.

sbatch --ckpt=auto --wrap "python3 examples/train_jax.py --steps 600"
"""

from __future__ import annotations

import argparse
import sys
import time

import jax
import jax.numpy as jnp

from slurmext.checkpoint import Checkpointer, CheckpointError


def loss(weights: dict[str, jax.Array], inputs: jax.Array, wanted: jax.Array) -> jax.Array:
    """Mean squared error of two layers."""
    return jnp.mean((jnp.tanh(inputs @ weights["w1"]) @ weights["w2"] - wanted) ** 2)


@jax.jit
def train_step(weights: dict[str, jax.Array], key: jax.Array) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
    """One batch, one step of gradient descent; returns the new key as well."""
    key, draw = jax.random.split(key)
    inputs = jax.random.normal(draw, (32, 16))
    value, slope = jax.value_and_grad(loss)(weights, inputs, jnp.sin(inputs[:, :4]))
    return jax.tree.map(lambda w, s: w - 0.05 * s, weights, slope), key, value


def main() -> int:
    """Train, saving when due."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--step-time", type=float, default=0.0, metavar="S", help="make each step last longer")
    parser.add_argument("--dir", help="checkpoint directory [--ckpt-dir of the job]")
    options = parser.parse_args()

    first, second, key = jax.random.split(jax.random.PRNGKey(1), 3)
    weights = {"w1": jax.random.normal(first, (16, 64)) / 4, "w2": jax.random.normal(second, (64, 4)) / 8}
    state = {"weights": weights, "key": key}
    ckpt = Checkpointer(state, options.dir)
    done = ckpt.restore()
    print("started" if done is None else f"resumed at step {done}", flush=True)
    value = jnp.zeros(())
    for step in range((done or 0) + 1, options.steps + 1):
        state["weights"], state["key"], value = train_step(state["weights"], state["key"])
        time.sleep(options.step_time)
        if ckpt.due(step) and ckpt.save(step):
            print(f"saved step {step}", flush=True)
    print(f"final loss {float(value)!r} after {options.steps} steps", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CheckpointError as problem:
        sys.exit(f"train_jax: {problem}")
