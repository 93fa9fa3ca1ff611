"""Where a DataLoader is in its data, and how to go on from there: the same batches in the same order.

`Position.track` makes the loader count what it hands out. After a restore its first pass draws the epoch's order from
the random state that the epoch began with, passes over the batches that were trained on without loading them, and then
puts the random state back. Workers are seeded anew for each batch, so that what they draw at random (augmentation)
depends on the batch and not on which worker had it or when that worker was started.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset

from slurmext.checkpoint.pilot import say
from slurmext.checkpoint.signals import shield_child

_SPREAD = 0x9E3779B97F4A7C15


class Seeded(list[Any]):
    """The indices of a batch, with what workers seed their generators with for it."""

    seed = 0


class Position:
    """How far the program is: in pass `epoch` of its loader, with `taken` batches handed out."""

    def __init__(self, get_random: Callable[[], Any], set_random: Callable[[Any], None], rank: int = 0) -> None:
        self._rank = rank
        self.epoch = 0
        self.taken = 0
        self.ended = False
        self.before_fetch: Callable[[], None] = lambda: None
        self.before_pass: Callable[[], None] = lambda: None
        self._get_random, self._set_random = get_random, set_random
        self._start: Any = None
        self._consumed = 0
        """Samples of this epoch, over all ranks, that runs with other numbers of ranks have used."""
        self._stream: Iterator[Any] = iter(())
        self._resume: Mapping[str, Any] | None = None
        self._chosen = True
        self._loader: Any = None

    def track(self, loader: Any) -> None:
        """Make this loader count. Raises TypeError for what is not a DataLoader."""
        if not isinstance(loader, DataLoader):
            raise TypeError(f"loader is a {type(loader).__name__}; give the torch.utils.data.DataLoader")
        self._loader = loader
        kind = type(loader)
        loader._slurmext = self  # type: ignore[attr-defined]  # noqa: SLF001
        loader.__class__ = _tracked(kind)
        if loader.num_workers:
            loader.worker_init_fn = _Worker(loader.worker_init_fn)

    def state(self) -> dict[str, Any]:
        """What `restore` takes. `ended`: the pass is over, but what the program does after it may not be."""
        if self._resume is not None:  # the pass to go on with has not begun
            return {name: value for name, value in self._resume.items() if name != "rng"}
        sampler = getattr(self._loader, "sampler", None)
        return {
            "epoch": self.epoch, "taken": self.taken, "ended": self.ended, "start": self._start,
            "consumed": self._consumed, "per_batch": self._samples_per_batch(),
            "sampler_epoch": getattr(sampler, "epoch", None),
        }  # fmt: skip

    def restore(self, saved: Mapping[str, Any], rng: Any) -> None:
        """Go on from there with the next pass; `rng` is the random state to go on with."""
        self.epoch = saved["epoch"]
        self._resume = {**saved, "rng": rng}
        self._chosen = True

    def choose(self, epoch: int) -> None:
        """The program begins this epoch; samplers that shuffle by epoch are told."""
        if epoch != self.epoch or self._resume is None:
            self.epoch, self._resume = epoch, None
        self._chosen = True
        for sampler in (getattr(self._loader, "sampler", None), getattr(self._loader, "batch_sampler", None)):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)

    def begin(self, make: Callable[[], Iterator[Any]], base: Any) -> Iterator[Any]:
        """A new pass: its iterator, over the batches of indices that `base` gives (None: it has no indices)."""
        if not self._chosen:
            self.epoch += 1
        self._chosen = False
        saved, self._resume = self._resume, None
        if saved is not None and saved["start"] is not None:
            return self._again(saved, make, base)
        self.taken = self._consumed = 0
        self.ended = False
        if saved is None:
            self.before_pass()
        else:
            self._set_random(saved["rng"])
        self._start = {"random": self._get_random(), "generators": [each.get_state() for each in self._generators()]}
        self._open(base, 0)
        return make()

    def indices(self) -> Iterator[Any]:
        """The batches of indices of the pass that begins."""
        return self._stream

    def _again(self, saved: Mapping[str, Any], make: Callable[[], Iterator[Any]], base: Any) -> Iterator[Any]:
        """The rest of a pass that a former run began."""
        self.ended, self._start, self.taken = saved["ended"], saved["start"], saved["taken"]
        self._consumed = saved["consumed"]
        if self._is_distributed() and (self._consumed or saved["per_batch"] != self._samples_per_batch()):
            self._consumed += saved["taken"] * saved["per_batch"]
            self.taken = 0
        if self._is_distributed() and saved["sampler_epoch"] is not None:
            self._loader.sampler.set_epoch(saved["sampler_epoch"])
        try:
            self._set_random(self._start["random"])
            for each, state in zip(self._generators(), self._start["generators"], strict=False):
                each.set_state(state)
            self._open(base, self.taken)
            if self.ended:
                return iter(())
            inner = make()
            if base is None:
                say(f"this data set cannot be entered in the middle: {self.taken} batches are read and passed over")
                for _ in range(self.taken):
                    next(inner, None)
            return inner
        finally:
            self._set_random(saved["rng"])

    def _open(self, base: Any, skip: int) -> None:
        """Draw the order of the pass from the random state as it is now, and pass over what was trained on."""
        if base is None:
            return
        digest = hashlib.blake2b(self._start["random"]["torch"].numpy().tobytes(), digest_size=8)
        seed = int.from_bytes(digest.digest(), "little") + self._rank
        batches = enumerate(self._rest(base) if self._consumed else iter(base))
        first = next(itertools.islice(batches, skip, None), None)
        rest = batches if first is None else itertools.chain([first], batches)
        self._stream = (_seeded(batch, seed + (number + 1 + self._consumed) * _SPREAD) for number, batch in rest)

    def _generators(self) -> list[torch.Generator]:
        """Those that the loader was given."""
        parts = (self._loader, getattr(self._loader, "sampler", None))
        found = {id(each): each for part in parts if (each := getattr(part, "generator", None)) is not None}
        return list(found.values())

    def _is_distributed(self) -> bool:
        batches = getattr(self._loader, "batch_sampler", None)
        return type(batches) is BatchSampler and isinstance(self._loader.sampler, DistributedSampler)

    def _samples_per_batch(self) -> int:
        """Over all ranks."""
        ranks = self._loader.sampler.num_replicas if self._is_distributed() else 1
        return int(getattr(self._loader, "batch_size", None) or 1) * ranks

    def _rest(self, base: BatchSampler) -> Iterator[list[int]]:
        """What is left of a DistributedSampler's epoch after `_consumed` samples, dealt to the ranks there are now."""
        sampler: Any = base.sampler
        order = list(range(len(sampler.dataset)))
        if sampler.shuffle:
            generator = torch.Generator()
            generator.manual_seed(sampler.seed + sampler.epoch)
            order = torch.randperm(len(order), generator=generator).tolist()
        rest = order[self._consumed :]
        ranks = sampler.num_replicas
        if sampler.drop_last:
            rest = rest[: len(rest) // ranks * ranks]
        elif len(rest) % ranks:
            missing = ranks - len(rest) % ranks
            rest += (order * (missing // len(order) + 1))[:missing]
        mine = rest[sampler.rank :: ranks]
        size = base.batch_size
        for start in range(0, len(mine), size):
            batch = mine[start : start + size]
            if len(batch) == size or not base.drop_last:
                yield batch


def _tracked(kind: type) -> type:
    """A loader's class, counting. With a second base Python would not let a loader change to it."""

    def base_of(loader: Any) -> Any:
        return None if _is_iterable(loader) else kind._index_sampler.fget(loader)  # type: ignore[attr-defined]  # noqa: SLF001

    def passes(loader: Any) -> Iterator[Any]:
        return _Pass(loader._slurmext, lambda: kind.__iter__(loader), base_of(loader))  # type: ignore[attr-defined]  # noqa: SLF001

    def index_sampler(loader: Any) -> Any:
        base = kind._index_sampler.fget(loader)  # type: ignore[attr-defined]  # noqa: SLF001
        return base if _is_iterable(loader) else _Indices(base, loader._slurmext)  # noqa: SLF001

    members = {"__iter__": passes, "_index_sampler": property(index_sampler), "__module__": kind.__module__}
    return type(kind.__name__, (kind,), members)


class _Pass:
    """One pass over a tracked loader."""

    def __init__(self, position: Position, make: Callable[[], Iterator[Any]], base: Any) -> None:
        self._position = position
        self._inner = position.begin(make, base)
        self._epoch = position.epoch

    def __iter__(self) -> _Pass:
        return self

    def __next__(self) -> Any:
        self._position.before_fetch()
        try:
            batch = next(self._inner)
        except StopIteration:
            self._end()
            raise
        self._position.taken += 1
        return batch

    def __del__(self) -> None:
        self._end()  # the program left its loop early

    def _end(self) -> None:
        if self._position.epoch == self._epoch:
            self._position.ended = True


class _Indices:
    """A sampler that passes over what was trained on."""

    def __init__(self, base: Any, position: Position) -> None:
        self._base, self._position = base, position

    def __iter__(self) -> Iterator[Any]:
        return self._position.indices()

    def __len__(self) -> int:
        return len(self._base)


class _Worker:
    """worker_init_fn: this worker outlives a TERM to the whole job, and seeds its generators for each batch."""

    def __init__(self, former: Callable[[int], None] | None) -> None:
        self._former = former

    def __call__(self, worker: int) -> None:
        from torch.utils.data._utils import fetch

        shield_child()
        if self._former is not None:
            self._former(worker)
        plain = fetch._MapDatasetFetcher.fetch  # noqa: SLF001

        def seeded(fetcher: Any, batch: Any) -> Any:
            if isinstance(batch, Seeded):
                _seed(batch.seed)
            return plain(fetcher, batch)

        fetch._MapDatasetFetcher.fetch = seeded  # noqa: SLF001  # in this worker process only


def _seeded(batch: Any, seed: int) -> Any:
    if not isinstance(batch, list):
        return batch
    marked = Seeded(batch)
    marked.seed = seed
    return marked


def _seed(value: int) -> None:
    value &= (1 << 63) - 1
    torch.manual_seed(value)
    random.seed(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(value & 0xFFFFFFFF)


def _is_iterable(loader: Any) -> bool:
    return isinstance(getattr(loader, "dataset", None), IterableDataset)
