"""The demo's third act: a job on eight nodes finds its model in the memory of each, and the next one finds it there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from slurmext.demo import records
from slurmext.demo.checks import Check
from slurmext.devcluster import ClusterSpec, Devcluster, namespaces
from slurmext.devcluster.errors import BadSpec
from slurmext.errors import SlurmextError

if TYPE_CHECKING:
    from pathlib import Path

    from slurmext.demo.story import Say

NODES, MIB, RATE = 8, 96, "1gbit"
PATIENCE_S = 60.0
_USER = "alice"
_POLICY = """version: 1
settings: {default_queue: serving}
queues:
  serving: {guaranteed: 8}
"""
# What each of the eight tasks does: say when its first line ran, and what it finds.
_SCRIPT = "srun sh -c 'echo $(date +%s.%N) $(sha256sum <$SLURMEXT_STAGED/model.safetensors)'"
_FIRST_LINE = re.compile(r"^(\d+\.\d+) ([0-9a-f]{64})", re.MULTILINE)
_COMPLETE = re.compile(r"acme/llama@v1 is complete: (.*)")
_FROM_STORAGE = re.compile(r"(\d+) bytes from \(storage\)")


def play_models(spec: ClusterSpec, say: Say) -> list[Check]:
    """Boot eight nodes, run two jobs, take them down. Raises SlurmextError when a step cannot be taken."""
    links = namespaces.supported()
    spec = replace(spec, name=f"{spec.name}-models", dir=None, nodes=NODES, gpus=1, netns=links,
                   rate=RATE, users=(_USER,))  # fmt: skip
    with contextlib.suppress(BadSpec):
        former = Devcluster.attach(spec.directory)
        if not any(former.status().values()):
            former.down()
    told = f", each behind a link of 1 Gb/s ({MIB * 8 * 1.048576 / 1000:.1f} s for the model)" if links else ""
    say(f"booting a third Slurm: {NODES} nodes{told}")
    cluster = Devcluster.up(spec, say)
    try:
        return _Act(cluster, say).play()
    finally:
        cluster.down()


class _Act:
    def __init__(self, cluster: Devcluster, say: Say) -> None:
        self._cluster, self._say = cluster, say

    def play(self) -> list[Check]:
        policy = self._cluster.dir / "policy.yaml"
        policy.write_text(_POLICY)
        self._slurmext("policy", "apply", str(policy), "--immediate")
        folder = self._cluster.dir / "llama"
        size = _make_model(folder)
        self._slurmext("model", "import", str(folder), "acme/llama@v1", "--public")
        digest = self._cluster.out("sha256sum", str(folder / "model.safetensors")).split()[0]
        cold, first = self._run(f"sbatch --preload=acme/llama -N{NODES}: {MIB} MiB to {NODES} nodes")
        arrivals = self._arrivals()
        warm, second = self._run("the same again")
        read = sum(int(count) for line in arrivals for count in _FROM_STORAGE.findall(line))
        again = len(self._arrivals()) - len(arrivals)
        return [
            Check(
                what=f"a job on {NODES} nodes finds its model in the memory of each, byte for byte",
                good=[word for _, word in first] == [digest] * NODES,
                found=f"{sum(word == digest for _, word in first)} of {NODES} right, first lines after {cold:.1f} s",
            ),
            Check(
                what="shared storage was read once, the nodes passed it on",
                good=read == size and len(arrivals) == NODES,
                found=f"{read >> 20} MiB read from storage for {NODES} x {size >> 20} MiB",
            ),
            Check(
                what="the next job on these nodes starts warm",
                good=[word for _, word in second] == [digest] * NODES and again == 0,
                found=f"nothing sent, first lines after {warm:.1f} s",
            ),
        ]

    def _run(self, words: str) -> tuple[float, list[tuple[float, str]]]:
        """Seconds from sbatch to the last of the first lines, and what each task printed: when, and which digest."""
        self._say(words)
        began = time.time()
        argv = ["sbatch", "--parsable", f"-N{NODES}", "--ntasks-per-node=1", "--gres=gpu:1", "--mem=10",
                "--preload=acme/llama", "--output=%j.out", f"--wrap={_SCRIPT}"]  # fmt: skip
        job = self._cluster.run(argv, user=_USER).stdout.strip()
        while records.job(self._cluster, job).state not in {"COMPLETED", "FAILED", "CANCELLED"}:
            if time.time() - began > PATIENCE_S:
                raise SlurmextError(f"job {job} has not ended: see {self._cluster.layout.log}")
            time.sleep(0.1)
        text = (self._cluster.home(_USER) / f"{job}.out").read_text()
        found = [(float(at), digest) for at, digest in _FIRST_LINE.findall(text)]
        return max((at for at, _ in found), default=began) - began, found

    def _arrivals(self) -> list[str]:
        """What agents logged of models that arrived."""
        logs = (self._cluster.layout.log / f"agent@{node}.out" for node in self._cluster.spec.node_names)
        return [told for log in logs for told in _COMPLETE.findall(log.read_text())]

    def _slurmext(self, *words: str) -> None:
        self._cluster.run([sys.executable, "-P", "-m", "slurmext.cli.main", *words])


def _make_model(folder: Path) -> int:
    """A safetensors file of random bytes; returns its size."""
    folder.mkdir(mode=0o755)
    size = MIB << 20
    head = json.dumps({"weights": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    head += b" " * (-len(head) % 8)
    file = folder / "model.safetensors"
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(head)) + head)
        for _ in range(MIB):
            out.write(os.urandom(1 << 20))
    return file.stat().st_size
