"""What jobs use of their slices is told seldom, and once more when they end."""

from __future__ import annotations

import os
import time

import pytest

from slurmext.agent.mps.police import ShareUse
from slurmext.agent.slices.usage import EVERY_S, FIRST_S, Usage


@pytest.fixture
def node(new_node):
    node = new_node("h100")
    node.mig()
    return node


def usage(node):
    return Usage(node.book, node.maker, node.driver, node.events, now=lambda: node.now_s)


def test_peaks_and_means_of_a_slice(node):
    """The limit is the profile's memory, the peak the highest of all samples, SM use the mean of those that count."""
    node.start(1, node.item("1g.10gb", 0))
    gi = node.gpus.slices()[0].gi
    meter = usage(node)
    for memory_mib, percent in ((1000, 100), (7000, 100), (3000, 100)):
        node.gpus.hold(0, os.getpid(), gi=gi, memory_mib=memory_mib, percent=percent)
        meter.look()
        time.sleep(0.12)
    assert node.events.of("slice_sample") == []
    node.now_s += FIRST_S
    meter.look()
    (said,) = node.events.of("slice_sample")
    assert 9000 < said["memory_mib"] < 11_000
    assert said["memory_peak_mib"] >= 7000 and said["memory_now_mib"] < 4000
    assert said["samples"] == 4 and 0 < said["sm_mean_pct"] <= 100 and not said["final"]
    node.gpus.let_go(os.getpid())


def test_it_is_told_seldom_and_at_the_end(node):
    """After a minute, every five minutes, and finally; a job that was never looked at is not told of."""
    node.start(1, node.item("1g.10gb", 0))
    meter = usage(node)
    for _ in range(int(2 * EVERY_S / 10)):
        node.now_s += 10
        meter.look()
    assert len(node.events.of("slice_sample")) == 2
    node.start(2, node.item("1g.10gb", 1))
    node.end(1)
    node.end(2)
    meter.look()
    assert [(event["job_id"], event["final"]) for event in node.events.of("slice_sample")[2:]] == [(1, True)]


def test_of_several_slices_the_fullest_counts(node):
    """One size must do for all of them."""
    node.start(1, node.item("1g.10gb", 0), node.item("1g.10gb", 1))
    for one, memory_mib in zip(node.gpus.slices(), (500, 2500), strict=True):
        node.gpus.set_memory(memory_mib, 0, gi=one.gi)
    meter = usage(node)
    meter.look()
    node.end(1)
    meter.look()
    assert node.events.of("slice_sample")[0]["memory_peak_mib"] == 2500


def test_shares_are_told_as_the_police_saw_them(node):
    """Memory over all processes of the job, against its share's limit."""
    node.start(1, node.item("1g.10gb", 0))
    (reservation,) = node.book.of_job(1)
    seen = ShareUse(reservation=reservation, gpu="x", used_mib=20_000, limit_mib=30_000, processes=())
    meter = usage(node)
    meter.look([seen])
    node.end(1)
    meter.look()
    (said,) = node.events.of("slice_sample")
    assert (said["memory_peak_mib"], said["memory_mib"]) == (20_000, 30_000)


def test_a_driver_that_fails(node):
    """What cannot be measured is not told, and stops nothing."""
    node.start(1, node.item("1g.10gb", 0))
    meter = usage(node)
    node.gpus.set_fault(15, 0)
    node.now_s += 100
    meter.look()
    assert node.events.of("slice_sample") == []
    node.gpus.set_fault(0, 0)
    meter.look()
    assert len(node.events.of("slice_sample")) == 1
