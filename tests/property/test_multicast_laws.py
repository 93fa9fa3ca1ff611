"""What holds for every multicast plan, whatever the cluster looks like."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slurmext.staging.plan.conduct import Conductor, Report
from slurmext.staging.plan.fabric import STORAGE, Host, MulticastPlan, Rack, Replica, Request, Storage
from slurmext.staging.plan.multicast import plan_multicast

MANY = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
G = 1e9
SIZE = 1 << 29


def hosts_of(count: int, **same) -> tuple[Host, ...]:
    return tuple(Host(name=f"n{at:03}", **({"tx_bps": G, "rx_bps": G} | same)) for at in range(count))


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """A cluster with unequal links and loads, racks, NVLink domains, replicas, storage, hosts that are away."""
    count = draw(st.integers(1, 24))
    rate = st.sampled_from([G / 10, G, G, G, 4 * G])
    hosts = []
    for at in range(count):
        tx, rx = draw(rate), draw(rate)
        domain = draw(st.sampled_from(["", "", "d0", "d1"]))
        hosts.append(
            Host(
                name=f"n{at:03}",
                tx_bps=tx,
                rx_bps=rx,
                tx_used_bps=draw(st.sampled_from([0, 0, tx / 2, tx])),
                rx_used_bps=draw(st.sampled_from([0, 0, rx / 2, rx])),
                tx_cap_bps=draw(st.sampled_from([None, None, G / 3])),
                rx_cap_bps=draw(st.sampled_from([None, None, G / 4])),
                rack=draw(st.sampled_from(["r0", "r1", "r2"])),
                domain=domain,
                domain_bps=100 * G if domain else 0,
            )
        )
    names = [host.name for host in hosts]
    held = draw(st.lists(st.sampled_from(names), max_size=3, unique=True))
    targets = draw(st.lists(st.sampled_from([*names, "away"]), unique=True))
    storage = draw(st.sampled_from([None, Storage(read_bps=2 * G)]))
    racks = (Rack(name="r0", up_bps=2 * G, down_bps=2 * G),) if draw(st.booleans()) else ()
    return Request(
        size_bytes=draw(st.sampled_from([1, 1 << 20, SIZE, 140 << 30])),
        hosts=tuple(hosts),
        replicas=tuple(Replica(host=name, read_bps=draw(st.sampled_from([None, G / 2]))) for name in held),
        targets=tuple(targets),
        storage=storage,
        racks=racks,
        held={name: draw(st.sampled_from([0.0, 0.5])) for name in targets},
        current={name: (draw(st.sampled_from(names)),) for name in targets if draw(st.booleans())},
    )


@MANY
@given(requests())
def test_every_target_is_served_by_someone_who_has_it_before(request):
    """From a replica, storage or a target served before it: never in a circle, never by itself, nobody twice."""
    plan = plan_multicast(request)
    have = {replica.host for replica in request.replicas} & {host.name for host in request.hosts}
    wanted = set(request.targets) - {replica.host for replica in request.replicas}
    served = [one.node for one in plan.assignments]
    assert len(served) == len(set(served))
    assert set(served) | set(plan.unserved) == wanted
    if have or request.storage:
        assert set(plan.unserved) <= {"away"}
    usable = have or ({STORAGE} if request.storage else set())
    for one in plan.assignments:
        assert one.feeds
        assert sum(feed.share for feed in one.feeds) == pytest.approx(1)
        assert {feed.source for feed in one.feeds} <= usable
        assert one.node not in {*one.backups, *(feed.source for feed in one.feeds)}
        assert set(one.backups) <= usable, "a backup is never behind oneself"
        usable = usable | {one.node}


@MANY
@given(requests())
def test_no_link_is_promised_twice(request):
    """Leases fit into what is free of each link, by direction, caps included."""
    plan = plan_multicast(request)
    hosts = {host.name: host for host in request.hosts}
    for lease in plan.leases:
        if lease.node != STORAGE:
            host = hosts[lease.node]
            free = host.tx_free_bps if lease.direction == "tx" else host.rx_free_bps
            assert lease.rate_bps <= max(free, 1.0) * 1.001


@MANY
@given(requests(), st.randoms(use_true_random=False))
def test_the_order_of_what_is_asked_does_not_matter(request, chance: random.Random):
    """The same cluster gives the same plan."""

    def mixed(values):
        values = list(values)
        chance.shuffle(values)
        return tuple(values)

    other = replace(
        request, hosts=mixed(request.hosts), replicas=mixed(request.replicas), targets=mixed(request.targets)
    )
    assert plan_multicast(other) == plan_multicast(request)


@MANY
@given(requests())
def test_storage_is_read_by_one(request):
    """And only when no host has the model."""
    plan = plan_multicast(request)
    readers = [one.node for one in plan.assignments for feed in one.feeds if feed.source == STORAGE]
    reached = {replica.host for replica in request.replicas} & {host.name for host in request.hosts}
    assert len(readers) <= 1
    assert not (readers and reached)


@MANY
@given(st.integers(1, 12), st.integers(1, 5), st.sampled_from([3, 10, 30]))
def test_slow_hosts_do_not_slow_the_fast_ones(fast, slow, times):
    """However many there are: those with full links get what they would get without them."""
    quick = hosts_of(fast + 1)
    snails = tuple(Host(name=f"a{at}", tx_bps=G / times, rx_bps=G / times) for at in range(slow))
    request = Request(
        size_bytes=SIZE, hosts=(*quick, *snails), replicas=(Replica(host="n000"),),
        targets=tuple(host.name for host in (*quick, *snails)),
    )  # fmt: skip
    rates = {one.node: one.rate_bps for one in plan_multicast(request).assignments}
    assert all(rates[host.name] >= 0.99 * G for host in quick[1:])
    assert all(rates[host.name] >= 0.99 * G / times for host in snails)


@pytest.mark.parametrize("count", [1, 2, 8, 64])
def test_many_take_about_as_long_as_one(count):
    """Over equal links."""
    plan = plan_for(hosts_of(count + 1))
    assert plan.estimate_s <= 1.1 * SIZE * 8 / G


def plan_for(hosts: tuple[Host, ...], *replicas: str) -> MulticastPlan:
    return plan_multicast(
        Request(
            size_bytes=SIZE,
            hosts=hosts,
            replicas=tuple(Replica(host=name) for name in replicas or ("n000",)),
            targets=tuple(host.name for host in hosts),
        )
    )


def test_a_small_model_for_many_goes_over_shorter_chains():
    """Where the pipeline would take longer than the bytes."""
    plan = plan_multicast(
        Request(size_bytes=1 << 23, hosts=hosts_of(65), replicas=(Replica(host="n000"),), targets=tuple(f"n{at:03}" for at in range(65)))
    )  # fmt: skip
    assert max(one.depth for one in plan.assignments) <= 32


def test_a_source_that_only_receives_is_a_good_source():
    """Links are full duplex: what counts of a source is its way out."""
    plan = plan_multicast(
        Request(
            size_bytes=SIZE,
            hosts=(
                Host(name="in", tx_bps=G, rx_bps=G, rx_used_bps=G),
                Host(name="out", tx_bps=G, rx_bps=G, tx_used_bps=G),
                Host(name="t", tx_bps=G, rx_bps=G),
            ),
            replicas=(Replica(host="in"), Replica(host="out")),
            targets=("t",),
        )
    )
    assert [feed.source for feed in plan.assignments[0].feeds] == ["in"]


def test_sources_that_are_slow_alone_are_striped():
    """And those behind take it all from the first, which has it at the sum of their rates."""
    hosts = (*hosts_of(3), Host(name="s1", tx_bps=G / 2, rx_bps=G), Host(name="s2", tx_bps=G / 2, rx_bps=G))
    first, *others = plan_for(hosts, "s1", "s2").assignments
    assert {feed.source: round(feed.share, 2) for feed in first.feeds} == {"s1": 0.5, "s2": 0.5}
    assert first.rate_bps == pytest.approx(G)
    assert all(len(one.feeds) == 1 and one.rate_bps == pytest.approx(G) for one in others)


def test_a_domain_is_fed_once():
    """Hosts of one NVLink domain take the model over the network once."""
    hosts = (Host(name="n000", tx_bps=G, rx_bps=G), *(
        Host(name=f"d{at}", tx_bps=G, rx_bps=G, domain="nvl", domain_bps=100 * G) for at in range(6)))  # fmt: skip
    plan = plan_for(hosts)
    inside = {host.name for host in hosts if host.domain}
    assert sum(feed.source not in inside for one in plan.assignments for feed in one.feeds) == 1
    assert plan.estimate_s < 1.05 * SIZE * 8 / G


def test_a_racks_uplink_is_crossed_once():
    """Hosts of a rack are neighbours in the chain."""
    hosts = tuple(Host(name=f"n{at:03}", tx_bps=G, rx_bps=G, rack=f"r{at % 4}") for at in range(32))
    crossed: dict[str, int] = defaultdict(int)
    rack = {host.name: host.rack for host in hosts}
    for one in plan_for(hosts).assignments:
        for feed in one.feeds:
            if rack[feed.source] != rack[one.node]:
                crossed[rack[one.node]] += 1
    assert all(times <= 1 for times in crossed.values())


# The conductor.


def conducting(count: int = 5) -> Conductor:
    hosts = hosts_of(count)
    return Conductor(
        Request(size_bytes=SIZE, hosts=hosts, replicas=(Replica(host="n000"),), targets=tuple(host.name for host in hosts[1:]))
    )  # fmt: skip


def sources(conductor: Conductor) -> dict[str, str]:
    return {one.node: one.feeds[0].source for one in conductor.plan.assignments}


def test_who_hangs_on_a_lost_relay_gets_another_source():
    """Only those whose source or backups changed are told."""
    conductor = conducting()
    assert [one.node for one in conductor.changes(0)] == ["n001", "n002", "n003", "n004"]
    assert conductor.changes(1) == ()
    conductor.lost("n002")
    assert [one.node for one in conductor.changes(2)] == ["n003", "n004"]
    assert sources(conductor) == {"n001": "n000", "n003": "n001", "n004": "n003"}
    conductor.back("n002")
    conductor.changes(3)
    assert "n002" in sources(conductor)


def test_a_source_that_is_lost_is_replaced_by_who_has_most():
    """With no complete replica left nobody is served; with one, whoever completed first."""
    conductor = conducting()
    conductor.changes(0)
    conductor.report(Report(node="n001", held=1, rate_bps=0, complete=True), 1)
    conductor.lost("n000")
    conductor.changes(2)
    assert sources(conductor)["n002"] == "n001"
    assert conductor.waiting == ("n002", "n003", "n004")


def run_slow(conductor: Conductor, slow: str, rate: float, until_s: float, held: float = 0.4) -> None:
    """Reports four times a second: the slow one gets `rate`, those behind it starve."""
    now = 1.0
    while now < until_s:
        behind = False
        for node in ("n001", "n002", "n003", "n004"):
            starved = behind
            behind = behind or node == slow
            own = rate if node == slow or starved else 0.95 * G
            conductor.report(Report(node=node, held=held, rate_bps=own, starved=starved), now)
        now += 0.25


def test_a_link_that_became_slow_goes_to_the_end():
    """Whoever starves behind it is no suspect and gets a fast source."""
    conductor = conducting()
    conductor.changes(0)
    run_slow(conductor, "n002", G / 10, 3.5)
    conductor.changes(4)
    assert sources(conductor)["n003"] == "n001"
    assert sources(conductor)["n002"] in {"n003", "n004"}


def test_a_slow_link_is_noticed_within_three_reports():
    """Two slow ones in a row may be chance, at four a second."""
    conductor = conducting()
    conductor.changes(0)
    for at in range(8):
        conductor.report(Report(node="n002", held=0.4, rate_bps=0.95 * G), at / 4)
    conductor.report(Report(node="n002", held=0.4, rate_bps=0.1 * G), 2)
    conductor.report(Report(node="n002", held=0.4, rate_bps=0.1 * G), 2.25)
    assert conductor.changes(2.3) == ()
    conductor.report(Report(node="n002", held=0.4, rate_bps=0.1 * G), 2.5)
    assert {one.node for one in conductor.changes(2.5)} >= {"n002", "n003"}


def test_links_that_need_a_moment_to_become_fast_do_not_change_places_for_ever():
    """As those of RDMA do, which are set up anew."""
    conductor, began, changed = conducting(3), dict[str, float](), list[float]()
    for at in range(160):
        now = at / 4
        for one in conductor.changes(now):
            began[one.node] = now
            changed.append(now)
        for node, since in began.items():
            rate = 0.95 * G if now - since > 1.8 else 0.0
            conductor.report(Report(node=node, held=0.4, rate_bps=rate), now)
    assert max(changed) < 15


def test_a_target_that_gets_nothing_yet_is_not_called_slow():
    """Its link begins, or its source is dead: then it turns to another by itself, and slurmextd hears that it is gone."""
    conductor = conducting()
    conductor.changes(0)
    for at in range(16):
        conductor.report(Report(node="n002", held=0.4, rate_bps=0.0), at / 4)
        assert conductor.changes(at / 4) == ()


def test_a_source_whose_way_out_was_slow_is_found_out():
    """The one that seemed slow is fast from another source: then it was the source's fault."""
    conductor = conducting()
    conductor.changes(0)
    run_slow(conductor, "n002", G / 10, 3.5)
    conductor.changes(4)
    conductor.report(Report(node="n002", held=0.5, rate_bps=0.95 * G), 5)
    conductor.changes(5)
    rates = {one.node: one.rate_bps for one in conductor.plan.assignments}
    assert rates["n002"] == pytest.approx(G)
    assert "n001" not in sources(conductor).values() or rates["n001"] == pytest.approx(G)


def test_a_transfer_ends_when_all_have_it_or_are_gone():
    """Those that failed for good are not waited for."""
    conductor = conducting(4)
    conductor.changes(0)
    conductor.report(Report(node="n001", held=1, rate_bps=0, complete=True), 1)
    conductor.report(Report(node="n002", held=0, rate_bps=0, failed=True), 1)
    assert not conductor.complete
    conductor.lost("n003")
    assert conductor.complete
