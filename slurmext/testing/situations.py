"""Random situations for a live cluster: who borrows its GPUs, and who then comes for what it is guaranteed.

A situation is drawn from a seed, so that one that went wrong can be played again. `stage.py` plays them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

NODES, NODE_GPUS = 4, 8
GRACE_S = 3
POLICY = f"""\
version: 1
settings: {{grace_s: {GRACE_S}, requeue_delay_s: 6}}
queues:
  science:
    guaranteed: 16
    children:
      vision: {{guaranteed: 8}}
      speech: {{guaranteed: 8}}
  prod: {{guaranteed: 16}}
  scavenge: {{guaranteed: 0}}
"""
GUARANTEED = {"science/vision": 8, "science/speech": 8, "prod": 16}

RUNS = "#!/bin/bash\necho $SLURM_JOB_ID >> {folder}/running\n"
STUBBORN = "echo $$ >> {folder}/stubborn\ntrap '' TERM\nwhile :; do sleep 0.5; done\n"
CONFIRM = """\
import json, os, socket, time
with socket.socket(socket.AF_UNIX) as s:
    s.connect(os.environ["SLURMEXT_AGENT_SOCKET"])
    said = {"op": "ckpt_confirm", "job_id": int(os.environ["SLURM_JOB_ID"]), "step": 1, "path": "", "size_bytes": 0,
            "saved_at_s": time.time(), "on_signal": True}
    s.sendall(json.dumps(said).encode() + b"\\n")
    s.recv(4096)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How a borrower behaves: what its script does, what it asks sbatch for, and in one line why it is here."""

    about: str
    script: str = "exec sleep 3600\n"
    options: tuple[str, ...] = ()
    shapes: tuple[tuple[int, int], ...] = ((1, 1), (1, 2), (1, 4), (1, 8))
    """Nodes and GPUs on each that jobs of this kind have."""
    array: int = 1


KINDS: Mapping[str, Kind] = {
    "plain": Kind(about="knows no checkpoint, ends on TERM"),
    "saves": Kind(
        about="saves on the signal and confirms 0.3 s later",
        script="trap 'sleep 0.3; /usr/bin/python3 -IS {folder}/confirm.py' USR1\nwhile :; do sleep 0.2; done\n",
        options=(f"--ckpt=USR1@{GRACE_S}",),
    ),
    "deaf": Kind(about="never answers the signal, ends on TERM", options=("--ckpt=auto",)),
    "dies": Kind(about="is killed by the signal", options=(f"--ckpt=USR1@{GRACE_S}",)),
    "lingers": Kind(
        about="takes 1.5 s to end after TERM", script="trap 'sleep 1.5; exit' TERM\nwhile :; do sleep 0.2; done\n"
    ),
    "ignores": Kind(about="ignores TERM", script=STUBBORN),
    "stubborn": Kind(about="never answers the signal and ignores TERM", script=STUBBORN, options=("--ckpt=auto",)),
    "array": Kind(about="is an array of 4", array=4, shapes=((1, 1), (1, 2))),
    "gang": Kind(about="is a gang on two or three nodes", shapes=((2, 4), (3, 2), (2, 8), (2, 2))),
    "steps": Kind(about="runs in srun steps", script="srun --overlap --gres=none sleep 3600\n"),
    "ends": Kind(about="ends by itself within seconds", script="sleep {short_s}\n"),
}
MIXED = "mixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Borrower:
    """A job that runs when the beneficiary comes."""

    kind: str
    queue: str
    nodes: int
    gpus: int

    @property
    def total(self) -> int:
        """GPUs of the job, or of its whole array."""
        return self.nodes * self.gpus * KINDS[self.kind].array


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Borrowers, then a job of `nodes` x `gpus` in `queue`, within its guarantee; `phase_s` after a full second."""

    seed: int
    kind: str
    borrowers: tuple[Borrower, ...]
    queue: str
    nodes: int
    gpus: int
    phase_s: float

    def __str__(self) -> str:
        who = " ".join(f"{b.kind}:{b.nodes}x{b.gpus}@{b.queue}" for b in self.borrowers)
        return f"seed {self.seed} ({self.kind}): {self.nodes}x{self.gpus} of {self.queue} comes to {who}"


def situation(seed: int) -> Situation:
    """The situation of this seed; kinds take turns."""
    draw = random.Random(seed)  # noqa: S311  no secret
    kinds = [*KINDS, MIXED]
    kind = kinds[seed % len(kinds)]
    taker = draw.choice(list(GUARANTEED))
    nodes, gpus = draw.choice(
        [(n, g) for n in (1, 2, 3, 4) for g in (1, 2, 4, 6, 8) if n * g <= GUARANTEED[taker]]
    )  # fmt: skip
    others = ["scavenge", "scavenge", *(queue for queue in GUARANTEED if queue != taker)]
    free = NODES * NODE_GPUS
    borrowers: list[Borrower] = []
    for _ in range(100):
        one = draw.choice(list(KINDS)) if kind == MIXED else kind
        count, each = draw.choice(KINDS[one].shapes)
        borrower = Borrower(kind=one, queue=draw.choice(others), nodes=count, gpus=each)
        if borrower.total <= free:
            borrowers.append(borrower)
            free -= borrower.total
        if not free:
            break
    draw.shuffle(borrowers)
    return Situation(
        seed=seed, kind=kind, borrowers=tuple(borrowers), queue=taker, nodes=nodes, gpus=gpus, phase_s=draw.random()
    )
