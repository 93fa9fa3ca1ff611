"""The openb trace packed onto the openb cluster, as in Weng et al., "Beware of Fragmentation" (USENIX ATC'23).

1,213 nodes with 6,212 GPUs; the 8,152 pods of the default list in an order shuffled by the seed, then pods drawn from
the list again until what arrived asks for more GPUs than there are. Nothing ever ends; a pod that does not fit is
turned away. Told is the part of all GPUs that is not allocated when arrived requests reach 100 %.

Packed as MPS shares a pod gets the percent it asks for. As MIG slices, on cards cut like an H100, it gets the smallest
profile that has as much memory and as many SMs; what it did not ask for counts as not allocated.
"""

from __future__ import annotations

import csv
import gzip
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from slurmext.model.slicing import GpuUse, SlicedGpu, SliceNeed, SliceNode, SliceSnapshot
from slurmext.policy.slicing.cards import FULL_PCT, Tenant, Yard
from slurmext.policy.slicing.finder import Pick, Request, Site
from slurmext.policy.slicing.gradient import Group, Mix
from slurmext.policy.slicing.needs import Wish, wish
from slurmext.testing.slicing import gpus

NODES, PODS = "openb_node_list_gpu_node.csv.gz", "openb_pod_list_default.csv.gz"
CARD_MIB = 100
"""Cards have as many MiB as percent, so that both limits of a share say the same."""


@dataclass(frozen=True, slots=True)
class Pod:
    """Thousandths of a CPU, MiB, and `gpus` GPUs of `percent` each."""

    cpus: int
    memory_mib: int
    gpus: int
    percent: int


def pods_of(folder: Path) -> list[Pod]:
    """The pods in order of name."""
    with gzip.open(folder / PODS, "rt", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["name"])
    return [
        Pod(int(row["cpu_milli"]), int(row["memory_mib"]), int(row["num_gpu"]), int(row["gpu_milli"]) // 10)
        for row in rows
    ]


def snapshot_of(folder: Path, use: GpuUse) -> SliceSnapshot:
    """The nodes, empty, with all GPUs in that use."""
    with gzip.open(folder / NODES, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    nodes = tuple(
        SliceNode(name=row["sn"], free_cpus=int(row["cpu_milli"]), free_memory_mib=int(row["memory_mib"]))
        for row in rows
    )
    cut = gpus("", "h100", 1)[0]
    blank = replace(cut, use=use) if use is GpuUse.MIG else SlicedGpu(node="", uuid="", use=use, memory_mib=CARD_MIB)
    every = tuple(
        replace(blank, node=row["sn"], uuid=f"{row['sn']}-{n}", minor=n) for row in rows for n in range(int(row["gpu"]))
    )
    return SliceSnapshot(nodes=nodes, gpus=every)


def arrivals(pods: list[Pod], seed: int, until: int) -> Iterator[Pod]:
    """Shuffled, then drawn at random, until `until` percent of a GPU were asked for."""
    rng = random.Random(seed)
    order = pods.copy()
    rng.shuffle(order)
    asked, number = 0, 0
    while asked < until:
        pod = order[number] if number < len(order) else rng.choice(pods)
        number += 1
        asked += pod.gpus * pod.percent
        yield pod


MAX_CPUS, MAX_GPUS = 128_000, 8 * FULL_PCT
"""Of the largest node."""

PUBLISHED = {"random": 13.70, "best_fit": 7.14, "fgd": 4.77}
"""Means of 10 seeds, from the paper's artifact."""

Place = Callable[[Pod], "tuple[int, tuple[Pick, ...]] | None"]


class Packing:
    """The cluster and one way of choosing places: `random`, `best_fit`, `ours`, or `ours_mig`."""

    def __init__(self, folder: Path, way: str, seed: int, pods: list[Pod]) -> None:
        self.use = GpuUse.MIG if way == "ours_mig" else GpuUse.SHARED
        self.yard = Yard(snapshot_of(folder, self.use))
        self.random = random.Random(seed)
        self.requests: dict[Pod, Request] = {}
        groups: dict[tuple[int, int], Group] = {}
        for pod, count in Counter(pods).items():
            asked = self._wish(pod)
            number = len(self.requests)
            self.requests[pod] = Request(number, asked, self.use, pod.gpus, pod.cpus, pod.memory_mib, (), frozenset())
            if pod.gpus:
                parts = asked.parts(self.yard.card_types) * pod.gpus
                group = groups.setdefault((pod.gpus, pod.percent), Group(asked, pod.gpus, parts))
                group.weight += count
                group.beside.append((pod.cpus, pod.memory_mib, count))
        self.site = Site(self.yard, Mix(groups.values()))
        self.place: Place = {"random": self._random, "best_fit": self._best_fit}.get(way, self._ours)

    def _wish(self, pod: Pod) -> Wish:
        if self.use is GpuUse.MIG:
            kind = self.yard.card_types[0].kind
            assert kind is not None
            most = max(profile.memory_mib for profile in kind.profiles)
            need = SliceNeed(memory_mib=most * pod.percent // FULL_PCT, compute_pct=pod.percent, per_node=pod.gpus)
        else:
            need = SliceNeed(share_pct=pod.percent or 1, memory_mib=pod.percent, per_node=pod.gpus)
        found = wish(need, self.yard.card_types, choice=self.use)
        assert isinstance(found, Wish), found
        return found

    def run(self, pods: Iterator[Pod]) -> float:
        """Percent of all GPUs that are not allocated in the end."""
        used = 0
        for pod in pods:
            found = self.place(pod)
            if found is None:
                continue
            number, picks = found
            host = self.yard.hosts[number]
            host.take(pod.cpus, pod.memory_mib)
            for pick in picks:
                share = pick.share
                size = (0, 0) if share is None else (share.percent, share.memory_mib)
                host.cards[pick.card].put(Tenant("", pick.spot, *size))
                used += pod.percent
            self.site.changed(number)
        total = sum(len(host.cards) for host in self.yard.hosts) * FULL_PCT
        return FULL_PCT - used * FULL_PCT / total

    def _ours(self, pod: Pod) -> tuple[int, tuple[Pick, ...]] | None:
        found = self.site.finder(self.requests[pod], 0).best(1)
        return None if found is None else (found[0][0], found[0][1].picks)

    def _fitting(self, pod: Pod) -> list[tuple[int, list[int]]]:
        fits: list[tuple[int, list[int]]] = []
        for number, host in enumerate(self.yard.hosts):
            if host.has(pod.cpus, pod.memory_mib):
                cards = [c.position for c in host.cards if c.shared.percent + pod.percent <= FULL_PCT]
                if len(cards) >= pod.gpus:
                    fits.append((number, cards))
        return fits

    def _picks(self, pod: Pod, cards: list[int]) -> tuple[Pick, ...]:
        size = self.requests[pod].wish.shares[0]
        return tuple(Pick(card, GpuUse.SHARED, None, size) for card in cards[: pod.gpus])

    def _random(self, pod: Pod) -> tuple[int, tuple[Pick, ...]] | None:
        fits = self._fitting(pod)
        if not fits:
            return None
        number, cards = self.random.choice(fits)
        self.random.shuffle(cards)
        return number, self._picks(pod, cards)

    def _best_fit(self, pod: Pod) -> tuple[int, tuple[Pick, ...]] | None:
        """Least left of CPUs and GPUs, both as parts of the largest node's; whole percents, ties at random."""
        fits = self._fitting(pod)
        if not fits:
            return None

        def score(number: int) -> int:
            host = self.yard.hosts[number]
            free = sum(FULL_PCT - card.shared.percent for card in host.cards) - pod.gpus * pod.percent
            left = ((host.cpus or 0) - pod.cpus) / MAX_CPUS / 2 + free / MAX_GPUS / 2
            return int((1 - left) * 100)

        scores = [score(number) for number, _ in fits]
        best = max(scores)
        number, cards = self.random.choice([fit for fit, one in zip(fits, scores, strict=True) if one == best])
        host = self.yard.hosts[number]
        cards.sort(key=lambda card: -host.cards[card].shared.percent)
        return number, self._picks(pod, cards)


def unallocated(folder: Path, way: str, seed: int) -> float:
    """Percent of GPUs not allocated at 100 % arrivals."""
    pods = pods_of(folder)
    packing = Packing(folder, way, seed, pods)
    total = sum(len(host.cards) for host in packing.yard.hosts) * FULL_PCT
    return packing.run(arrivals(pods, seed, total))
