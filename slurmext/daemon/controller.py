"""What keeps the controller going: its lease, its heartbeat, and what wakes it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from apscheduler.schedulers.background import BackgroundScheduler
from watchfiles import watch

from slurmext.adapters.munge import MungeAuth
from slurmext.adapters.tcp.agent_server import AgentServer
from slurmext.adapters.tcp.orders import EndJob, TellJob
from slurmext.adapters.tcp.slice_orders import SliceOrders
from slurmext.adapters.tcp.stage_orders import StageOrders
from slurmext.adapters.unix_groups import uids_of
from slurmext.config.site import SiteConfig
from slurmext.daemon.events import AgentEvents
from slurmext.daemon.monitor import Monitor
from slurmext.daemon.query_server import SOCKET_NAME, QueryServer
from slurmext.daemon.run_dir import RunDir
from slurmext.errors import SlurmextError, SlurmUnavailable, StoreConflict, StoreUnavailable
from slurmext.model.plan import Plan
from slurmext.model.snapshot import Snapshot
from slurmext.model.state import Lease
from slurmext.service import bootstrap
from slurmext.service.cycle import CycleResult
from slurmext.service.forecast import forecast_apart
from slurmext.service.query import Queries

log = logging.getLogger(__name__)

LEASE = "controller"
LEASE_S = 15.0
HEARTBEAT_S = 2
FOLLOW_S = 1.0
"""While actions are under way or jobs end, deadlines, starts and free GPUs are looked at this often."""
_LEAST_GAP_S = 0.05
_REST = 2.0
"""Between cycles the daemon rests this many times as long as they take, so that a storm of short jobs leaves
slurmctld most of the machine; not while somebody waits for victims."""
_REST_DEBT_S = 0.5
"""So much rest may be owed: after a quiet time the first cycles follow each other at once."""
_LONGEST_REST_S = 1.0
"""A cycle that waited long for a slow slurmctld is no reason to leave everybody waiting as long again."""
_LEAVING_GAP_S = 0.3
"""So long slurmctld is left alone with the victims it ends, once it has all it needs to start their beneficiary."""
_SUBMIT_LOOKS = (0.01, 0.1, 0.5, 1.5)
"""job_submit runs before the job exists: look again after these waits until it is seen (seconds)."""
_RETENTION_S = 30 * 86400.0
_STAGE_TICK_S = 1.0
"""So often it is noticed that an agent with models went away, or that a link is busy."""
_GROUPS_S = 300
"""So often the members of groups are looked up anew for job_submit."""


class Daemon:
    """One slurmextd. `run` returns after `stop`."""

    def __init__(self, site: SiteConfig) -> None:
        self._site = site
        self._store = bootstrap.open_store(site)
        self._run_dir = RunDir(site.run_dir, readonly=site.daemon.shadow)
        self._monitor: Monitor | None = None
        if site.daemon.check_invariants:
            self._monitor = Monitor(self._store, site.run_dir / "invariants")
        slice_orders = SliceOrders(lambda: self._agents)
        self._controller = bootstrap.controller(
            site,
            self._store,
            on_policy=self._run_dir.write_queues,
            on_look=self._monitor and self._monitor.see,
            end_left=self._end_left,
            tell=self._tell,
            slice_agents=slice_orders,
            on_cards=self._run_dir.write_slices,
            on_view=self._run_dir.write_nodes,
            stage_agents=StageOrders(lambda: self._agents),
        )
        self._holder = f"{socket.gethostname()}:{os.getpid()}"
        self._wake, self._stop = threading.Event(), threading.Event()
        self._submits = threading.Event()
        self._looks: Iterator[float] = iter(())
        self._rested_s = 0.0
        self._lease: Lease | None = None
        self._last: CycleResult | None = None
        self._last_good_s = 0.0
        self._error: str | None = None
        uids = {0, *uids_of(site.slurm.user)}
        munge = MungeAuth.find(bin_dir=site.slurm.bin_dir, socket=site.munge_socket)
        self._events = AgentEvents(self._store, slurm_id=self._controller.slurm_id, wake=self._wake.set,
                                   withdraw=slice_orders.withdraw, staging=self._controller.staging)  # fmt: skip
        live = {"status": self._status, "plan": self._plan, "peers": self._peers}
        queries = Queries(
            store=self._store,
            live=live,
            world=self._world,
            slices=lambda: self._controller.slices.last if self._controller.slices is not None else None,
            forecast=forecast_apart,
            changed=self._wake.set,
            tidy=self._controller.tidying.ask,
            raw_ids=self._controller.raw_ids,
        )
        models = bootstrap.model_requests(site, self._store, self._controller.staging, self._wake.set)
        self._queries = QueryServer(site.run_dir / SOCKET_NAME, queries, models=models, trusted_uids=uids)
        listen = site.daemon.listen
        self._agents = AgentServer(listen, munge, uids, self._events, on_query=self._queries.answer,
                                   failures=self._controller.failures.told)  # fmt: skip
        self._timers = BackgroundScheduler(timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1})

    def stop(self) -> None:
        """Ask `run` to end."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Take the lease and run cycles until stopped."""
        self._run_dir.prepare(self._site.slurm.user)
        if self._monitor is not None:
            self._monitor.start()
        self._timers.add_job(self._renew, "interval", seconds=LEASE_S / 3)
        self._timers.add_job(self._beat, "interval", seconds=HEARTBEAT_S)
        self._timers.add_job(self._wake.set, "interval", seconds=self._site.daemon.interval_s)
        self._timers.add_job(self._tick, "interval", seconds=_STAGE_TICK_S)
        self._timers.add_job(self._prune, "interval", days=1)
        self._timers.add_job(self._refresh_queues, "interval", seconds=_GROUPS_S)
        self._timers.start()
        watcher = threading.Thread(target=self._watch, name="wake", daemon=True)
        watcher.start()
        self._bury_predecessor()
        self._renew()
        serving = waiting = False
        try:
            while not self._stop.is_set():
                if self._lease is None:
                    if not waiting:
                        log.info("%s waits for its turn: another daemon is the controller", self._holder)
                        waiting = True
                    self._stop.wait(1)
                    self._bury_predecessor()
                    self._renew()
                    continue
                if not serving:
                    self._agents.start()
                    self._queries.start()
                    serving = True
                if waiting or self._last is None:
                    waiting = False
                    log.info(
                        "%s is the controller of %s (token %d)", self._holder, self._site.cluster, self._lease.token
                    )
                self._cycle(self._lease)
                self._wait()
        finally:
            self._timers.shutdown(wait=False)
            if serving:
                self._queries.stop()
                self._agents.stop()
            if self._monitor is not None:
                self._monitor.stop()
            if self._lease is not None:
                with contextlib.suppress(SlurmextError):
                    self._store.release_lease(self._lease)
            self._store.close()

    # cycles

    def _cycle(self, lease: Lease) -> None:
        try:
            self._last = self._controller.run(lease.token)
        except (SlurmUnavailable, StoreUnavailable) as error:
            self._failed(f"{error}", "cycle skipped: %s")
            self._stop.wait(1)
            self._wake.set()
        except StoreConflict as error:
            self._failed(f"{error}", "no longer the controller: %s")
            self._lease = None
        except SlurmextError as error:
            self._failed(f"{error}", "cycle skipped: %s")
        except Exception as error:
            log.exception("cycle failed; jobs pass to Slurm unheld until one succeeds")
            self._error = repr(error)
        else:
            self._error, self._last_good_s = None, time.time()
            self._beat()
            if self._last.new_jobs:
                self._looks = iter(())
            self._rest(self._last)

    def _rest(self, last: CycleResult) -> None:
        now = time.monotonic()
        owed_s = min(max(0.0, self._rested_s - now), _REST_DEBT_S) + min(_REST * last.took_s, _LONGEST_REST_S)
        self._rested_s = now + owed_s
        least_s = _LEAVING_GAP_S if last.leaving and not last.evicting else _LEAST_GAP_S
        rest_s = 0.0 if last.evicting else owed_s - _REST_DEBT_S
        if last.next_s is not None and last.open_actions:
            rest_s = min(rest_s, last.next_s - time.time())  # a grace that ends is no time to rest
        self._stop.wait(max(least_s, rest_s))

    def _wait(self) -> None:
        """Until the next reason for a cycle. After a submission was announced that is soon, until the job is there."""
        waits = (self._longest_wait_s(), next(self._looks, None))
        self._wake.wait(min((wait_s for wait_s in waits if wait_s is not None), default=None))
        self._wake.clear()
        if self._submits.is_set():
            self._submits.clear()
            self._looks = iter(_SUBMIT_LOOKS)
            self._stop.wait(next(self._looks))

    def _longest_wait_s(self) -> float | None:
        """When to look again although nobody wakes us: something is under way, or the time alone changes something."""
        if self._last is None:
            return None
        busy = self._last.open_actions + self._last.ending > 0
        if self._last.next_s is None:
            return FOLLOW_S if busy else None
        return min(
            max(_LEAST_GAP_S, self._last.next_s - time.time()), FOLLOW_S if busy else self._site.daemon.interval_s
        )

    def _failed(self, error: str, template: str) -> None:
        if error != self._error:
            log.warning(template, error)
        self._error = error

    def _watch(self) -> None:
        run_dir = self._site.run_dir
        for changes in watch(
            run_dir, stop_event=self._stop, debounce=20, step=5, rust_timeout=5000, yield_on_timeout=False,
            watch_filter=lambda _change, path: path.endswith("/wake") or path.endswith("/submit-wake"), recursive=False,
        ):  # fmt: skip
            if any(path.endswith("submit-wake") for _, path in changes):
                self._submits.set()
            self._wake.set()

    # lease and heartbeat

    def _bury_predecessor(self) -> None:
        """Take over at once from a daemon of this host that was killed, rather than wait for its lease to lapse.

        Should it live after all (in another pid namespace), its next write is refused: its token is the older one.
        """
        with contextlib.suppress(SlurmextError):
            lease = self._store.current_lease(LEASE)
            host, _, pid = (lease.holder if lease else "").rpartition(":")
            if lease is not None and host == socket.gethostname() and not _is_slurmext(pid):
                self._store.release_lease(lease)

    def _renew(self) -> None:
        try:
            lease = self._store.acquire_lease(LEASE, self._holder, LEASE_S, time.time())
        except SlurmextError as error:
            self._failed(str(error), "lease not renewed: %s")
            return
        if lease is None and self._lease is not None:
            log.warning("another daemon took the controller lease")
        if lease is not None and self._lease is not None and lease.token != self._lease.token:
            log.warning("the lease had lapsed: goes on with token %d", lease.token)
        self._lease = lease

    def _prune(self) -> None:
        """Forget events and plans older than a month; the ledger stays."""
        if self._lease is not None:
            try:
                self._store.prune(self._lease.token, time.time() - _RETENTION_S)
            except SlurmextError as error:
                log.warning("old events stay for now: %s", error)

    def _beat(self) -> None:
        """Say that jobs may be held: only while cycles succeed, or nobody would release them."""
        fresh = time.time() - self._last_good_s < max(2 * self._site.daemon.interval_s, 3 * HEARTBEAT_S)
        if self._lease is None or not fresh or self._stop.is_set():
            return
        self._run_dir.write_heartbeat(time.time())

    def _tick(self) -> None:
        if self._lease is not None and self._controller.staging is not None:
            self._controller.staging.tick()

    def _refresh_queues(self) -> None:
        if self._lease is not None:
            self._run_dir.refresh_queues()

    def _end_left(self, nodes: Collection[str], raw_id: str, before_s: float) -> None:
        """Have the agents of these nodes kill what is left of a job."""
        if raw_id.isdecimal():
            self._agents.order(nodes, EndJob(job_id=int(raw_id), started_before_s=before_s))

    def _tell(self, nodes: Sequence[str], raw_id: str, signal: str, script: bool) -> None:  # noqa: FBT001
        """Have the agents of these nodes signal the processes of a job that asked; the first runs its script."""
        for part, here in ((nodes[:1], script), (nodes[1:], False)):
            if raw_id.isdecimal() and part:
                self._agents.order(part, TellJob(job_id=int(raw_id), signal=signal, script=here))

    # what the command line asks

    def _status(self) -> Mapping[str, object]:
        last = self._last
        return {
            "cycle": {
                "at_s": last.at_s if last else None,
                "took_s": last.took_s if last else None,
                "jobs": last.jobs if last else None,
                "rpcs": last.rpcs if last else None,
                "error": self._error,
            },
            "agents": [agent.node for agent in self._agents.connected()],
            **({"invariants": self._monitor.status()} if self._monitor is not None else {}),
        }

    def _peers(self) -> Mapping[str, object]:
        """Where agents reach each other: node -> [host, port]."""
        hosts = {
            agent.node: agent.address.removeprefix("agent-").rpartition(":")[0] for agent in self._agents.connected()
        }
        ports = self._events.copies_ports
        return {node: [host, ports[node]] for node, host in hosts.items() if node in ports}

    def _world(self) -> tuple[Snapshot, Plan] | None:
        last = self._controller.last
        return (last[0].snapshot, last[1]) if last else None

    def _plan(self) -> Mapping[str, object]:
        import json  # noqa: PLC0415

        from slurmext.config.wire import plan_to_json  # noqa: PLC0415

        last = self._controller.last
        return json.loads(plan_to_json(last[1])) if last else {"version": 1}


def _is_slurmext(pid: str) -> bool:
    """Whether the process lives and is one of ours; a zombie has no command line, a reused pid another one."""
    try:
        return b"slurmext" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
