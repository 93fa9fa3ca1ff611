"""Model preloading on shaped links: `python tests/benchmarks/bench_staging.py [--quick]`.

A real Slurm with a network namespace for each of nine nodes, links limited in both directions. The same model goes from
one node to 1, 2, 4 and 8 others with slurmext's plan, and to 4 with sbcast, in a star, in a tree and with rsync. Then:
a source whose inbound is full, links that are unequal, a relay that is killed, a link that becomes slow, one hop without
limits beside sendfile, shared storage, loading beside safetensors' load_file and the bare disk, the planner.

The last line is JSON: ideal_ratio (N -> time ÷ size/bandwidth; 1.045 are headers), sbcast_over_ours_n4,
star_over_ours_n4, tree_over_ours_n4, rsync_over_ours_n4, direction_mbps, reader_keeps_pct, unequal_ratio (time of the
fast nodes with a slow one among them ÷ without), relay_death_extra_pct, slow_link_extra_pct, hop_over_sendfile,
shared_reads_over_size, cold_over_raw, cold_over_raw_pool (the disk read into memory in large pages, as the pool has),
cold_over_load_file, cold_direct_over_load_file (in a job without an agent),
warm_first_tensor_ms, planner_ms_1000.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parent))

from staging import cold, local, multicast
from staging.nodes import Nodes, memory_room, set_rate

from slurmext.devcluster import ClusterSpec, Devcluster
from slurmext.staging.importer import import_model


def main() -> int:
    """Boot, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model and one round")
    parser.add_argument("--mib", type=int, help="size of the model that is sent [256; quick 64]")
    parser.add_argument("--rate", help="each link, in each direction [200mbit; quick 400mbit]")
    parser.add_argument("--direction-rate", default="1gbit", help="links of the direction test [%(default)s]")
    parser.add_argument("--rounds", type=int, help="rounds of each N [3; quick 1]")
    parser.add_argument(
        "--only",
        default="",
        help="parts to run, comma-separated: ideal,peers,direction,unequal,death,hop,shared,load,plan",
    )
    options = parser.parse_args()
    mib = options.mib or (64 if options.quick else 256)
    options.rate = options.rate or ("400mbit" if options.quick else "200mbit")
    rounds = options.rounds or (1 if options.quick else 3)
    only = set(filter(None, options.only.split(",")))
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        work = Path(folder)
        work.chmod(0o755)
        small = make_model(work / "small", mib, files=1)
        spec = ClusterSpec(name=f"bench-{os.getpid()}", nodes=9, gpus=0, plain=True, netns=True, rate=options.rate)
        if not only or only - {"load", "plan"}:
            with (
                memory_room(12 * mib + 6144) as room,
                Devcluster.up(spec) as cluster,
                Nodes(cluster, room) as nodes,
            ):
                result |= on_nodes(nodes, small, work, options, rounds, only)
        if not only or "load" in only:
            result |= on_one(work, 256 if options.quick else 1536, 1 if options.quick else 7)
        if not only or "plan" in only:
            result["planner_ms_1000"] = round(local.planner_ms(7), 1)
            print(f"\nplan for 1,000 hosts: {result['planner_ms_1000']} ms")
    print(json.dumps(result))
    return 0


def on_nodes(
    nodes: Nodes, small: Path, work: Path, options: argparse.Namespace, rounds: int, only: set[str]
) -> dict[str, object]:
    """What needs several nodes."""

    def wanted(part: str) -> bool:
        return not only or part in only

    manifest = import_model(small, "bench/small").manifest
    nodes.learn(manifest)
    if wanted("shared"):
        ratio = multicast.shared_reads(nodes, manifest, options.rate, small, work)
        print(f"\nread from shared storage for 4 nodes: {ratio:.3f} of its size")
        result: dict[str, object] = {"shared_reads_over_size": round(ratio, 3)}
    else:
        result = {}
    multicast.seed(nodes, manifest, small)
    ours_s = 0.0
    if any(map(wanted, ("ideal", "peers", "death"))):
        print(f"\n{manifest.size >> 20} MiB over links of {options.rate}: seconds, and ÷ (size/bandwidth)")
        ratios = multicast.ideal_ratios(nodes, manifest, options.rate, rounds if wanted("ideal") else 1)
        ours_s = ratios[4] * manifest.size * 8 / multicast.netns.bits_per_s(options.rate)
        result["ideal_ratio"] = ratios
    if wanted("peers"):
        print("\n4 nodes, others on the same links (s, and ÷ ours)")
        for name, peer in (("sbcast", multicast.sbcast), ("star", multicast.star), ("tree", multicast.tree),
                           ("rsync", multicast.rsync)):  # fmt: skip
            taken = peer(nodes, manifest, 4)
            result[f"{name}_over_ours_n4"] = round(taken / ours_s, 2)
            print(f"  {name:<8}{taken:8.2f}{taken / ours_s:8.2f}", flush=True)
    if wanted("unequal"):
        ratio = multicast.unequal(nodes, manifest, options.rate)
        result["unequal_ratio"] = round(ratio, 3)
        print(f"\none of 5 links ten times slower: the fast ones take {ratio:.3f} of the time without it")
    if wanted("death"):
        extra = multicast.relay_death(nodes, manifest, options.rate, ours_s)
        slow = multicast.slowed_link(nodes, manifest, options.rate, ours_s)
        result |= {"relay_death_extra_pct": extra, "slow_link_extra_pct": slow}
        print(f"\nrelay killed at 40 %: {extra} % longer; relay's link ten times slower from then on: {slow} % longer")
    if wanted("direction"):
        for name in nodes.names[:5]:
            set_rate(nodes, name, options.direction_rate)
        mbps, keeps = multicast.direction(nodes, manifest, options.direction_rate)
        result |= {"direction_mbps": mbps, "reader_keeps_pct": keeps}
        print(
            f"\n{options.direction_rate}, source's inbound full: {mbps} Mb/s; the other source's reader keeps {keeps} %"
        )
    nodes.evict(manifest, nodes.names)
    if wanted("hop"):
        print("\none hop without limits")
        large = make_model(work / "large", 256 if options.quick else 2048, files=1)
        big = import_model(large, "bench/large").manifest
        nodes.learn(big)
        multicast.seed(nodes, big, large)
        ours, raw = multicast.one_hop(nodes, big, options.rate, 3 if options.quick else 7)
        result["hop_over_sendfile"] = round(ours / raw, 3)
        print(f"  {ours / raw:.3f}")
    return result


def on_one(work: Path, mib: int, rounds: int) -> dict[str, object]:
    """What needs one node."""
    directory = make_model(work / "cold", mib, files=3)
    manifest = import_model(directory, "bench/cold").manifest
    print(f"\n{mib} MiB from disk (direct: without an agent's pool)")
    with memory_room(3 * mib + 512) as room:
        rates = cold.cold(directory, manifest, work, room, rounds)
        with cold.Agent(work, room, mib + 256) as agent:
            agent.begin(manifest, directory)
            agent.stage(manifest, directory, "memory")
            agent.wait(manifest, "memory")
            warm = local.warm_ms(str(manifest.key), agent.memory, 5)
    told = ", ".join(f"{name} {taken:.1f} ms" for name, taken in warm.items())
    print(f"\nstaged model, name to first tensor: {told}")
    return {
        "cold_over_raw": round(rates["ours"] / rates["raw"], 3),
        "cold_over_raw_pool": round(rates["ours"] / rates["raw_pool"], 3),
        "cold_over_load_file": round(rates["ours"] / rates["load_file"], 3),
        "cold_direct_over_load_file": round(rates["direct"] / rates["load_file"], 3),
        "warm_first_tensor_ms": round(max(warm.values()), 1),
    }


def make_model(directory: Path, mib: int, *, files: int) -> Path:
    """A model of random 16-bit weights."""
    directory.mkdir()
    rng = np.random.default_rng(1)
    per_file = max(1, mib // files // 8)
    for number in range(files):
        tensors = {
            f"layer{number}.{at}": rng.integers(0, 1 << 16, (2048, 2048), dtype=np.uint16) for at in range(per_file)
        }
        save_file(tensors, directory / f"model-{number}.safetensors")
    return directory


if __name__ == "__main__":
    sys.exit(main())
