#!/usr/bin/env python3
"""A small transformer that can be preempted at any moment, on one process or many (gloo on CPUs, NCCL on GPUs).

    sbatch --ckpt=auto --ntasks=4 --wrap "srun python3 examples/train_torch.py --epochs 5"
    sbatch --ckpt=auto --wrap "srun -n1 torchrun --nproc-per-node=4 examples/train_torch.py --epochs 5"

The line with `attach` is all that makes it so. The printed digests of weights and data order are the same however often
it was interrupted, while it computed, loaded data, evaluated or compiled.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the order of additions depends on the number of threads
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # the warning that find_unused_parameters costs a little

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

import slurmext.checkpoint

WORDS, LENGTH, WIDTH = 64, 16, 32


class Text(Dataset):
    """Made-up sentences; each is spoilt at random when it is loaded, as augmentation does."""

    def __init__(self, size: int, load_s: float) -> None:
        self.size, self.load_s = size, load_s

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        """The number of the sentence and its words."""
        time.sleep(self.load_s)
        words = (torch.arange(LENGTH + 1) * (index % 7 + 1) + index) % WORDS
        words[random.randrange(LENGTH)] = torch.randint(WORDS, ()).item()  # noqa: S311
        return index, words


class Transformer(nn.Module):
    """Two layers, with dropout, and batch normalisation for running means."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Parameter(torch.zeros(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.out = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, WORDS)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """The scores of the word that follows each."""
        hidden = self.layers(self.words(words) + self.places)
        return self.out(self.norm(hidden.transpose(1, 2)).transpose(1, 2))


class Seen:
    """A digest of the numbers of all sentences that were trained on, in their order."""

    def __init__(self) -> None:
        self.digest, self.count = "", 0

    def add(self, numbers: torch.Tensor) -> None:
        """A batch was trained on."""
        self.digest = hashlib.sha256(f"{self.digest}{numbers.tolist()}".encode()).hexdigest()
        self.count += len(numbers)

    def state_dict(self) -> dict[str, object]:
        """What is saved."""
        return {"digest": self.digest, "count": self.count}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """What was saved."""
        self.__dict__.update(state)


def join() -> tuple[int, int]:
    """The rank of this process, and of how many."""
    world = int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or 1)
    rank = int(os.environ.get("RANK") or (os.environ.get("SLURM_PROCID") if world > 1 else 0) or 0)
    if world > 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")  # give it where there are several nodes
        os.environ.setdefault("MASTER_PORT", str(20000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20000))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", rank=rank, world_size=world)
    return rank, world


def main() -> int:  # noqa: PLR0915 - a script reads best from top to bottom
    """Train, evaluate after each epoch, print digests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--sentences", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8, help="for each process")
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers for each process")
    parser.add_argument("--load-time", type=float, default=0.0, metavar="S", help="to load one sentence")
    parser.add_argument("--step-time", type=float, default=0.0, metavar="S", help="make each step last longer")
    parser.add_argument("--eval-time", type=float, default=0.0, metavar="S", help="make each evaluation last longer")
    parser.add_argument("--compile", metavar="BACKEND", help="torch.compile with this backend")
    parser.add_argument("--compile-time", type=float, default=0.0, metavar="S", help="make compiling last longer")
    parser.add_argument("--every", type=float, default=600.0, metavar="S", help="seconds between checkpoints")
    parser.add_argument("--dir", help="checkpoint directory [--ckpt-dir of the job]")
    parser.add_argument("--log", help="directory to note in which sentences each step was on")
    options = parser.parse_args()

    rank, world = join()
    device = (
        torch.device("cuda", rank % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
    )
    torch.manual_seed(1 + rank)
    random.seed(1 + rank)
    torch.set_num_threads(1)
    model: nn.Module = Transformer().to(device)
    if world > 1:
        # Without this DDP divides the gradients otherwise after a run's first step, and sums are rounded otherwise.
        model = DistributedDataParallel(model, find_unused_parameters=True)
    if options.compile:
        model = torch.compile(model, backend=slow(options.compile, options.compile_time))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    data = Text(options.sentences, options.load_time)
    sampler = DistributedSampler(data, num_replicas=world, rank=rank, seed=5)
    loader = DataLoader(data, options.batch, sampler=sampler, num_workers=options.workers)
    seen = Seen()

    ckpt = slurmext.checkpoint.attach(
        model, optimizer, scheduler, loader, extra={"seen": seen}, dir=options.dir, every_s=options.every
    )

    say = print if rank == 0 else lambda *_, **__: None
    say("started" if ckpt.resumed is None else f"resumed at step {ckpt.resumed}", flush=True)
    for epoch in ckpt.epochs(options.epochs):
        model.train()
        for numbers, words in loader:
            scores = model(words[:, :-1].to(device))
            loss = nn.functional.cross_entropy(scores.flatten(0, 1), words[:, 1:].to(device).flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            seen.add(numbers)
            note(options.log, rank, world, ckpt.step + 1, epoch, numbers)
            time.sleep(options.step_time)
        say("evaluating", flush=True)
        say(f"epoch {epoch} step {ckpt.step} loss {evaluate(model, device, options.eval_time):.4f}", flush=True)
    weights = hashlib.sha256(b"".join(v.cpu().numpy().tobytes() for v in model.state_dict().values())).hexdigest()
    print(f"rank {rank} of {world}: weights {weights[:16]} data {seen.digest[:16]} sentences {seen.count}", flush=True)
    ckpt.close()
    if world > 1:
        dist.destroy_process_group()
    return 0


def evaluate(model: nn.Module, device: torch.device, pause_s: float) -> float:
    """The loss on a few sentences."""
    model.eval()
    with torch.no_grad():
        words = torch.stack([(torch.arange(LENGTH + 1) * 3 + index) % WORDS for index in range(16)]).to(device)
        scores = model(words[:, :-1])
        time.sleep(pause_s)
        return nn.functional.cross_entropy(scores.flatten(0, 1), words[:, 1:].flatten()).item()


def note(folder: str | None, rank: int, world: int, step: int, epoch: int, numbers: torch.Tensor) -> None:
    """Which sentences this rank's step was on."""
    if folder:
        with open(os.path.join(folder, f"{world}-{rank}"), "a", encoding="ascii") as log:  # noqa: PTH118, PTH123
            log.write(f"{step} {epoch} {' '.join(map(str, numbers.tolist()))}\n")


def slow(backend: str, pause_s: float) -> object:
    """A compiler that takes its time."""
    compiler = torch._dynamo.lookup_backend(backend)  # noqa: SLF001

    def compiled(graph: object, inputs: object, **options: object) -> object:
        time.sleep(pause_s)
        return compiler(graph, inputs, **options)

    return compiled


if __name__ == "__main__":
    try:
        sys.exit(main())
    except slurmext.checkpoint.CheckpointError as problem:
        sys.exit(f"train_torch: {problem}")
