"""What every store promises of leases: one holder at a time, tokens that only grow, nothing written with an old one."""

from __future__ import annotations

from typing import Any

import pytest

from slurmext.errors import StoreConflict
from slurmext.model.state import (
    ActionState,
    JobRow,
    Lease,
    StoredFence,
)
from tests.contract.records import KEY, evict, taken

# lease


def test_first_holder_gets_token_one(store: Any) -> None:
    """The first lease has token 1 and ends after its time to live."""
    lease = store.acquire_lease("controller", "a", 15, 1000.25)
    assert lease == Lease(name="controller", holder="a", token=1, expires_s=1015.25)
    assert store.current_lease("controller") == lease


def test_renewing_keeps_the_token(store: Any) -> None:
    """The holder renews before or after the end, with the same token."""
    store.acquire_lease("controller", "a", 15, 1000)
    assert store.acquire_lease("controller", "a", 15, 1010) == Lease(
        name="controller", holder="a", token=1, expires_s=1025
    )
    assert store.acquire_lease("controller", "a", 15, 2000).token == 1


def test_another_waits_for_the_end_then_gets_the_next_token(store: Any) -> None:
    """While a lease stands nobody else gets it; when it is over the next holder's token is one higher."""
    store.acquire_lease("controller", "a", 15, 1000)
    assert store.acquire_lease("controller", "b", 15, 1014.999) is None
    assert store.current_lease("controller").holder == "a"
    assert store.acquire_lease("controller", "b", 15, 1015).token == 2
    assert store.acquire_lease("controller", "a", 15, 1016) is None


def test_released_lease_is_free_at_once_and_tokens_go_on(store: Any) -> None:
    """Giving up lets the next one in immediately, and the first holder comes back with a new token."""
    lease = store.acquire_lease("controller", "a", 15, 1000)
    store.release_lease(lease)
    assert store.current_lease("controller") is None
    assert store.acquire_lease("controller", "b", 15, 1001).token == 2
    store.release_lease(lease)  # no longer ours: nothing happens
    assert store.current_lease("controller").holder == "b"


def test_clock_that_runs_ahead_takes_the_lease_once(store: Any) -> None:
    """A host an hour ahead takes the lease early; the others then wait it out, and the first one's writes fail."""
    first = store.acquire_lease("controller", "a", 15, 1000)
    assert store.acquire_lease("controller", "ahead", 15, 1001 + 3600).token == 2
    assert store.acquire_lease("controller", "a", 15, 1002) is None
    with pytest.raises(StoreConflict):
        store.save_jobs(first.token, [JobRow(job=KEY)])


def test_leases_are_apart_by_name(store: Any) -> None:
    """Two leases do not know of each other."""
    assert store.acquire_lease("controller", "a", 15, 1000).token == 1
    assert store.acquire_lease("staging", "b", 15, 1000).token == 1


def test_no_lease_before_the_first(store: Any) -> None:
    """A fresh store has no lease, and no token is good."""
    assert store.current_lease("controller") is None
    with pytest.raises(StoreConflict):
        store.replace_fences(0, [])


@pytest.mark.parametrize(
    "write",
    [
        lambda s, t, a: s.save_jobs(t, [JobRow(job=KEY)]),
        lambda s, t, a: s.record_plan(t, 1021, {}, [evict()]),
        lambda s, t, a: s.advance(t, a, ActionState.DONE, 1021),
        lambda s, t, a: s.replace_fences(t, [StoredFence(beneficiary=KEY, placement={"n1": 1}, created_s=1)]),
        lambda s, t, a: s.record_preemption(t, taken()),
        lambda s, t, a: s.prune(t, 5000),
    ],
    ids=["save_jobs", "record_plan", "advance", "replace_fences", "record_preemption", "prune"],
)
def test_stale_token_writes_nothing(store: Any, token: int, write: Any) -> None:
    """After a takeover every write of the old controller raises StoreConflict, and the store is as before."""
    [action] = store.record_plan(token, 1000, {}, [evict()])
    assert store.acquire_lease("controller", "second", 15, 1020).token == token + 1
    with pytest.raises(StoreConflict, match="stale"):
        write(store, token, action.id)
    assert store.jobs() == store.fences() == store.preemptions() == store.events() == []
    assert store.actions() == [action]
