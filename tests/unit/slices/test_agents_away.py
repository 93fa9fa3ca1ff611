"""Nodes whose agents die and stay away, over a Slurm and agents in memory."""

from __future__ import annotations

import pytest
from site_of_slices import POLICY, Site

from slurmext.adapters.tcp.wire import AgentEvent
from slurmext.daemon.slice_events import forgotten
from slurmext.model.job import JobState
from slurmext.model.slice_state import SliceState


def started_without_agent() -> tuple[Site, str, str]:
    """A job that Slurm starts at the moment when the agent of its node dies, before the prolog came."""
    site = Site(POLICY)
    job = site.submit(slice_profile="1g.10gb")
    for _ in range(8):
        site.step()
        if SliceState.READY in site.states(job):
            break
    (one,) = site.slices(job)
    site.agents.prolog = lambda *_: "unknown"  # type: ignore[method-assign]
    site.step()
    assert site.slurm.records[job].state is JobState.RUNNING
    site.agents.away = {one.node}
    del site.agents.prolog
    return site, job, one.node


def test_a_job_whose_agent_stays_away_goes_to_another_node() -> None:
    """Not at once: the agent may have made its slice before it died. It never runs without."""
    site, job, node = started_without_agent()
    site.steps(50)
    assert site.slurm.records[job].restarts == 0
    site.steps(40)
    assert site.slurm.records[job].restarts == 1
    (live,) = site.slices(job)
    assert (live.state, live.node != node) == (SliceState.LIVE, True), site.why()


def test_an_agent_that_comes_back_in_time_says_what_happened() -> None:
    """A slice that was made before it died is the job's: nobody is requeued."""
    site, job, node = started_without_agent()
    site.steps(40)
    site.agents.away = set()
    site.agents.prolog(node, job)
    site.steps(30)
    assert site.slurm.records[job].restarts == 0
    assert site.states(job) == [SliceState.LIVE]


def test_a_daemon_that_begins_does_not_take_agents_that_connect_later_for_dead() -> None:
    """Jobs ran for long while it was down; their agents tell of them when they are back."""
    site, job, node = started_without_agent()
    site.slurm.tick(600)
    site.boot()
    site.steps(10)
    site.agents.away = set()
    site.steps(2)
    site.agents.prolog(node, job)
    site.steps(10)
    assert site.slurm.records[job].restarts == 0, site.why()


def test_nothing_is_released_to_a_node_whose_agent_went_away() -> None:
    """It had agreed; the job gets a place on another node a little later."""
    site = Site(POLICY)
    site.agents.mute = {"n1", "n2"}
    job = site.submit(slice_profile="1g.10gb")
    site.steps(6)
    (one,) = site.slices(job)
    site.store.advance_slices([one.id], SliceState.READY, site.slurm.now())
    site.agents.mute, site.agents.away = set(), {one.node}
    site.steps(4)
    assert site.state(job) == "PENDING", site.why()
    site.steps(20)
    assert site.state(job) == "RUNNING", site.why()
    assert site.slices(job)[0].node != one.node


def test_an_agent_is_told_of_reservations_that_are_over() -> None:
    """What it still keeps when it comes back and nobody will use; what somebody awaits stays."""
    site, job, node = started_without_agent()
    (one,) = site.slices(job)
    said = AgentEvent(node=node, boot="b", seq=1, event="gpus", at_s=1, job_id=None, uid=0,
                      detail={"gpus": [], "reserved": [one.reservation, "old", 7]})  # fmt: skip
    assert forgotten(site.store, said) == ["old"]
    site.steps(90)
    assert forgotten(site.store, said) == sorted([one.reservation, "old"])


def running(site: Site) -> tuple[str, str]:
    """A job that has its slice, on an agent that will not hear of its end; the job and its node."""
    job = site.submit(slice_profile="1g.10gb")
    site.steps(8)
    (one,) = site.slices(job)
    assert one.state is SliceState.LIVE, site.why()
    site.agents.slow = {one.node}
    return job, one.node


@pytest.mark.parametrize("seen", [0, 4])
def test_slices_of_a_job_that_ended_while_its_agent_was_away_are_freed_when_it_is_back(seen: int) -> None:
    """It was not there to see the job end, and says nothing of it: there is nothing to wait for. Also where Slurm was
    not looked at in between.
    """
    site = Site(POLICY)
    job, node = running(site)
    site.agents.away = {node}
    site.steps(2)
    site.end(job)
    site.steps(seen)
    site.agents.away = set()
    assert site.controller.run(site.token).open_actions, "nobody tells when to look again"
    site.steps(5)
    assert site.slices(job) == [], site.why()
    assert not site.controller.run(site.token).open_actions


@pytest.mark.parametrize("was_away", [False, True])
def test_an_agent_that_was_there_when_a_job_ended_is_given_time_to_free_its_slices(was_away: bool) -> None:
    """Also one that had been away earlier in the job's life."""
    site = Site(POLICY)
    job, node = running(site)
    if was_away:
        site.agents.away = {node}
        site.steps(3)
        site.agents.away = set()
        site.steps(5)
    site.end(job)
    site.steps(15)
    assert not [told for told in site.agents.log if told[0] == "withdraw"]
    site.steps(15)
    assert site.slices(job) == [], site.why()


def test_a_job_that_slurm_shows_again_has_not_ended() -> None:
    """Once not shown, it keeps its slice for as long as it runs; its end counts from when it ended."""
    site = Site(POLICY)
    job, _ = running(site)
    record = site.slurm.records.pop(job)
    site.controller.run(site.token)
    site.slurm.records[job] = record
    site.steps(30)
    site.end(job)
    site.steps(10)
    assert not [told for told in site.agents.log if told[0] == "withdraw"]
