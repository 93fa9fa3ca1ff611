"""`slurmext-agent --node n1`: start on a compute node, as root, before slurmd."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slurmext import __version__
from slurmext.adapters.devices import NvidiaDevices
from slurmext.adapters.munge import MungeAuth
from slurmext.adapters.munge_library import find_munge
from slurmext.adapters.nvml import NvmlDriver, NvmlSliceDriver
from slurmext.adapters.nvml.fabric import fabric_domain
from slurmext.adapters.slurm_cli.runner import SlurmRunner
from slurmext.adapters.tcp.model_orders import ModelOrder
from slurmext.adapters.tcp.orders import EndJob, TellJob
from slurmext.adapters.tcp.queries import TcpQueryClient
from slurmext.adapters.unix_groups import uids_of
from slurmext.agent import handlers
from slurmext.agent.copies.service import Copies
from slurmext.agent.ending import end_job
from slurmext.agent.files import only_one, own_directory, replace_file
from slurmext.agent.forward import Forwarder
from slurmext.agent.gpus import GpuWatch
from slurmext.agent.jobs import JobTable, jobs_with_processes, started_ticks
from slurmext.agent.listeners import reached_by_slurm
from slurmext.agent.node import Node
from slurmext.agent.notes import Notes
from slurmext.agent.script import tell_script
from slurmext.agent.server import Peer, UnixServer
from slurmext.agent.slices.service import Slices
from slurmext.agent.slurm import SlurmHere
from slurmext.agent.spool import EventSpool
from slurmext.agent.staging.limits import longest_prolog_s
from slurmext.agent.staging.manifests import Manifests
from slurmext.agent.staging.service import Models
from slurmext.config.site import SiteConfig, load_site
from slurmext.errors import SlurmextError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from slurmext.adapters.tcp.orders import Order
    from slurmext.ports import DeviceAccess, GpuDriver, SliceDriver

log = logging.getLogger(__name__)

ROOT = Peer(pid=0, uid=0, gid=0)
"""Who wrote a note: nobody else can."""
SETTLE_S = 60.0
"""A job younger than this may still be in its prolog and have no process yet."""


class Agent:
    """All parts of one node's agent. `trusted_uids` may send hook requests (root, and whoever runs the agent)."""

    def __init__(
        self,
        site: SiteConfig,
        node: str,
        *,
        munge: MungeAuth | None = None,
        trusted_uids: Iterable[int] | None = None,
        driver: GpuDriver | None = None,
        slice_driver: SliceDriver | None = None,
        access: DeviceAccess | None = None,
        in_slurm: Callable[[], Collection[int] | None] | None = None,
        settle_s: float = SETTLE_S,
    ) -> None:
        run_dir = own_directory(site.run_dir, 0o755)
        spool_dir = own_directory(own_directory(site.agent.spool_dir, 0o700) / node, 0o700)
        self._cluster = site.cluster
        self._lock = only_one(spool_dir / "lock")
        uids = {0, os.geteuid()}
        events = EventSpool(spool_dir / "events", node)
        public = run_dir / f"agent-{node}.sock"
        jobs = JobTable(spool_dir / "jobs.jsonl")
        self.gpus = GpuWatch(
            jobs=jobs,
            events=events,
            driver=driver or NvmlDriver(),
            memory=spool_dir / "gpus.jsonl",
            sample_s=site.agent.sample_s,
            busy_percent=site.agent.busy_percent,
            sliced=lambda: self.slices.sliced_minors(),  # noqa: PLW0108  made below
        )
        here = SlurmHere(SlurmRunner(site.slurm.bin_dir, site.slurm.conf, timeout_s=10), node)
        self._in_slurm = in_slurm or here.jobs
        self._settle_s, self._stopping = settle_s, threading.Event()
        self._settling = threading.Thread(target=self._settle, args=[time.time()], name="settling", daemon=True)
        self.slices = Slices(
            site.agent.slices,
            node=node,
            run_dir=run_dir,
            spool_dir=spool_dir,
            events=events,
            driver=slice_driver or NvmlSliceDriver(),
            access=access or NvidiaDevices(slurm_conf=site.slurm.conf),
            with_processes=jobs_with_processes,
            in_slurm=self._in_slurm,
            name_of=here.name_of,
            sample_s=site.agent.sample_s,
        )
        munge = munge or MungeAuth.find(bin_dir=site.slurm.bin_dir, socket=site.munge_socket)
        controllers = uids | _slurm_uids(site.slurm.user)
        controller = TcpQueryClient(site.daemon.address, munge, controllers)
        self.copies = Copies(
            site.agent.copies,
            cluster=site.cluster,
            node=node,
            munge=munge,
            uids=controllers,
            events=events,
            ask=lambda job_id: controller.ask("ckpt_copies", job=str(job_id)),
            alive=lambda: {job.job_id for job in jobs.all()},
        )
        self.models = Models(
            site.staging,
            node=node,
            run_dir=run_dir,
            prover=lambda: find_munge(bin_dir=site.slurm.bin_dir, socket=site.munge_socket),
            uids=uids,
            events=events,
            manifest_of=Manifests(controller.ask),
            connected=lambda: self.forwarder.connected_since_s is not None,
            job_ids=lambda: {job.job_id for job in jobs.all()},
            most_wait_s=lambda: longest_prolog_s(site.slurm.conf),
            domain_of=fabric_domain,
        )
        self.node = Node(
            name=node,
            jobs=jobs,
            events=events,
            gpu_states=self.gpus.states,
            socket_path=str(public),
            trusted_uids=frozenset(uids if trusted_uids is None else trusted_uids),
            controller_since_s=lambda: self.forwarder.connected_since_s,
            slices=self.slices,
            copies=self.copies,
            models=self.models,
            take_notes=lambda: self._notes.take_all(),  # noqa: PLW0108  made below
        )
        self.forwarder = Forwarder(
            events,
            node=node,
            address=site.daemon.address,
            munge=munge,
            controller_uids=controllers,
            hello=self._hello,
            on_order=self._obey,
            on_failures=lambda text: replace_file(run_dir / f"agent-{node}.failures", f"{text}\n".encode(), 0o644),
        )
        self._pid_file = run_dir / f"agent-{node}.pid"
        self._notes = Notes(run_dir / f"agent-{node}.notes", node, lambda note: self._answer(ROOT, note))
        self._servers = [
            UnixServer(run_dir / f"agent-{node}.root.sock", mode=0o600, answer=self._answer, workers=32),
            UnixServer(public, mode=0o666, answer=self._answer),
        ]

    def start(self) -> None:
        """Forget jobs that ended while no agent ran, then answer hooks and connect to the controller."""
        self._forget_ended(jobs_with_processes(), started_before_s=time.time() - self._settle_s)
        self.slices.begin()
        for server in self._servers:
            server.start()
        self._notes.start()
        self.slices.start()
        self.copies.start()
        self.models.start()
        self.gpus.start()
        self.forwarder.start()
        self._settling.start()
        # From now on hooks leave notes instead of asking.
        replace_file(self._pid_file, f"{os.getpid()} {started_ticks(os.getpid())}\n".encode())

    def stop(self) -> None:
        """Stop; events that were not acknowledged stay in the spool."""
        self._stopping.set()
        self._pid_file.unlink(missing_ok=True)
        for server in self._servers:
            server.stop()
        self._notes.stop()
        self.slices.stop()
        self.copies.stop()
        self.models.stop()
        self.gpus.stop()
        self.forwarder.stop()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def _settle(self, began_s: float) -> None:
        """Jobs that were young when this agent began have left their prologs by then: Slurm tells which are over."""
        while not self._stopping.wait(self._settle_s):
            if not any(job.started_s < began_s for job in self.node.jobs.all()):
                return
            if (running := self._in_slurm()) is not None:
                self._forget_ended({*running, *jobs_with_processes()}, started_before_s=began_s)
                return

    def _forget_ended(self, alive: Iterable[int], *, started_before_s: float) -> None:
        for job in self.node.jobs.retain(alive, started_before_s=started_before_s):
            log.info("job %d ended while no agent ran", job.job_id)
            self.node.listeners.forget(job.job_id)
            self.models.epilog(job.job_id)
            self.node.events.add("job_end", job_id=job.job_id, uid=job.uid, inferred=True)

    def _answer(self, peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
        return handlers.answer(self.node, peer, request)

    def _obey(self, order: Order) -> None:
        if isinstance(order, EndJob):
            end_job(order.job_id, started_before_s=order.started_before_s, cluster=self._cluster)
        elif isinstance(order, TellJob):
            self._tell(order)
        elif isinstance(order, ModelOrder):
            self.models.obey(order)
        else:
            self.slices.obey(order)

    def _tell(self, order: TellJob) -> None:
        told = self.node.listeners.tell(
            order.job_id, order.signal, reached=lambda pid: reached_by_slurm(pid, script=order.script)
        )
        number = signal.Signals.__members__.get("SIG" + order.signal)
        if order.script and number is not None:
            tell_script(order.job_id, number, cluster=self._cluster, besides=told)

    def _hello(self) -> dict[str, object]:
        jobs = [job.job_id for job in self.node.jobs.all()]
        self.slices.announce()
        self.models.announce()
        port = self.copies.port
        return {
            "version": __version__,
            "jobs": jobs[:4000],
            "started_s": self.node.started_s,
            "copies_port": port,
            **self.models.greeting,
        }


def _slurm_uids(user: str) -> set[int]:
    found = uids_of(user)
    if not found:
        log.warning("SlurmUser %s is not known here; only a controller run by root is trusted", user)
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--node", default=lambda: os.environ.get("SLURMD_NODENAME") or socket.gethostname().partition(".")[0],
              show_default="SLURMD_NODENAME or the short host name", help="Slurm's name of this node.")  # fmt: skip
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False),
              help="Site file [default: SLURMEXT_CONF or /etc/slurmext/slurmext.yaml].")  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
@click.version_option(__version__, prog_name="slurmext-agent")
def main(node: str, config: Path | None, verbose: bool) -> None:  # noqa: FBT001
    """Look after one compute node: answer Slurm's hooks and jobs, tell the controller what happens.

    Runs in the foreground until SIGTERM. Jobs go on without it: hooks wait at most the site's hook deadline.
    """
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, stream=sys.stderr,
                        format=f"%(asctime)s %(levelname)s agent[{node}] %(message)s")  # fmt: skip
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it has a line for every note
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        agent = Agent(load_site(config), node)
    except SlurmextError as error:
        raise click.ClickException(str(error)) from error
    agent.start()
    log.info("slurmext-agent %s serves node %s at %s", __version__, node, agent.node.socket_path)
    stop.wait()
    agent.stop()


if __name__ == "__main__":
    main()
