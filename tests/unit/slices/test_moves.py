"""Jobs that agreed to move, over a Slurm and agents in memory."""

from __future__ import annotations

from site_of_slices import POLICY, Site


def test_while_a_job_moves_no_other_one_is_moved_for_the_same() -> None:
    """It is requeued before its old place is free; until then that place is on its way to who waits for it."""
    site = Site(POLICY, nodes=1, gpus=2)
    halves = [site.submit(slice_profile="3g.40gb", ckpt="USR1@5") for _ in range(4)]
    site.steps(8)
    on = {job: site.slices(job)[0].gpu for job in halves}
    stay = [next(job for job in halves if on[job] == gpu) for gpu in sorted(set(on.values()))]
    for job in set(halves) - set(stay):
        site.end(job)
    site.step()
    site.agents.slow = {"n1"}
    large = site.submit("prod", slice_profile="7g.80gb")
    site.steps(15)
    assert sum(site.slurm.records[job].restarts for job in stay) == 1, site.why()
    assert site.state(large) == "PENDING"
    site.agents.slow = set()
    site.steps(10)
    assert site.state(large) == "RUNNING", site.why()
    assert [site.state(job) for job in stay] == ["RUNNING"] * 2
    assert sum(site.slurm.records[job].restarts for job in stay) == 1


def test_a_place_is_free_when_its_agent_said_so_whatever_an_older_description_shows() -> None:
    """The agent tells that a slice is free, and a moment later what its GPUs look like."""
    site = Site(POLICY, nodes=1, gpus=2)
    halves = [site.submit(slice_profile="3g.40gb", ckpt="USR1@5") for _ in range(4)]
    site.steps(8)
    on = {job: site.slices(job)[0].gpu for job in halves}
    site.agents.inventory = lambda _node: None  # type: ignore[method-assign]
    for job in [job for job in halves if on[job] == on[halves[0]]]:
        site.end(job)
    large = site.submit("prod", slice_profile="7g.80gb")
    site.steps(6)
    assert site.state(large) == "RUNNING", site.why()
    assert sum(site.slurm.records[job].restarts for job in halves) == 0
