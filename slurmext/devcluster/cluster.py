"""A devcluster in use: run commands in it, stop and start its parts, take it down."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Final, Self

from slurmext.devcluster import boot, netns, processes, roots, users
from slurmext.devcluster.components import Component, components
from slurmext.devcluster.errors import BadSpec, DevclusterError
from slurmext.devcluster.record import Record
from slurmext.devcluster.spec import BASE, ClusterSpec, Layout
from slurmext.testing.nvml import SimulatedGpus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from slurmext.devcluster.packages import Say

_GRACE_S: Final = 10


def _silent(_text: str) -> None:
    return


class Devcluster:
    """A running cluster. Get one with `up` or `attach`; as a context manager it is taken down at the end.

    Components are named `munged`, `slurmctld`, `slurmd@n1`, `agent@n1`, `slurmextd`, and with dbd `mariadbd` and
    `slurmdbd`.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.spec = record.spec
        self.layout = Layout(record.spec.directory)

    @classmethod
    def up(cls, spec: ClusterSpec, say: Say = _silent) -> Self:
        """Boot a cluster and wait until every node is idle. Raises DevclusterError, with nothing left behind."""
        return cls(boot.up(spec, say))

    @classmethod
    def attach(cls, directory: Path) -> Self:
        """The cluster that was booted in this directory. Raises BadSpec when there is none."""
        return cls(Record.load(directory))

    @classmethod
    def list(cls) -> list[Self]:
        """The clusters in the default place, by name."""
        found: list[Self] = []
        for path in sorted(BASE.glob("*/cluster.json")):
            try:
                found.append(cls.attach(path.parent))
            except BadSpec:  # another process is removing it
                continue
        return found

    @property
    def dir(self) -> Path:
        return self.layout.root

    @property
    def bin(self) -> Path:
        """Wrappers of the Slurm commands."""
        return self.layout.bin

    @property
    def node_names(self) -> tuple[str, ...]:
        return self.spec.node_names

    @property
    def site_config(self) -> Path:
        """The configuration slurmext reads in this cluster."""
        return self.layout.site_config

    @property
    def python_path(self) -> Path:
        """A PYTHONPATH with what jobs import of slurmext, which every user can read and every release's Python runs."""
        return self.layout.python

    @property
    def env(self) -> dict[str, str]:
        """What a process needs to use the cluster: its commands first in PATH, its configuration."""
        return {
            "PATH": f"{self.layout.bin}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "SLURM_CONF": str(self.layout.slurm_conf),
            "SLURMEXT_CONF": str(self.layout.site_config),
            "SLURMEXT_DEVCLUSTER": str(self.layout.root),
        }

    def environment(self, user: str | None = None) -> dict[str, str]:
        """A whole environment for a command: the caller's, or what a user has after logging in."""
        if user is None:
            foreign = ("SLURM", "SBATCH", "SALLOC")
            return {key: value for key, value in os.environ.items() if not key.startswith(foreign)} | self.env
        kept = {key: os.environ[key] for key in ("LANG", "TERM", "TZ") if key in os.environ}
        path = f"{self.layout.bin}:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
        home = str(self.home(user))
        return {**self.env, **kept, "PATH": path, "HOME": home, "USER": user, "LOGNAME": user, "SHELL": "/bin/bash"}

    def gpus(self, node: str) -> SimulatedGpus:
        """The simulated GPUs of a node: what they do, and how they fail. Raises BadSpec, UsageError when not root."""
        users.require_root("says what a devcluster's GPUs do")
        path = self.layout.nvml / f"{node}.gpus"
        if not path.exists():
            raise BadSpec(f"no simulated GPUs on {node!r}: nodes {', '.join(self.node_names)}, --gpus above 0")
        return SimulatedGpus(path)

    def home(self, user: str) -> Path:
        """A directory in the cluster that this user owns. Raises BadSpec when there is no such user."""
        home = self.layout.home / user
        if not home.exists():
            entry = users.known(user)
            users.require_root("makes a user's directory in a devcluster")
            home.mkdir(mode=0o755)
            os.chown(home, entry.pw_uid, entry.pw_gid)
        return home

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        check: bool = True,
        timeout_s: float = 60,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the cluster as root or as `user`, from the user's directory in it.

        Raises DevclusterError with what it printed when it fails (unless `check` is False) or takes too long.
        """
        cwd = cwd or (self.home(user) if user else self.layout.root)
        whole = self.environment(user) | dict(env or {})
        try:
            done = subprocess.run(
                argv,
                check=False,
                capture_output=True,
                text=True,
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                env=whole,
                executable=shutil.which(argv[0], path=whole["PATH"]),
                cwd=cwd,
                timeout=timeout_s,
                user=user,
                group=pwd.getpwnam(user).pw_gid if user else None,
                extra_groups=os.getgrouplist(user, pwd.getpwnam(user).pw_gid) if user else None,
            )
        except subprocess.TimeoutExpired as error:
            raise DevclusterError(f"{' '.join(argv)}: not done after {timeout_s} s") from error
        if check and done.returncode != 0:
            raise DevclusterError(f"{' '.join(argv)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")
        return done

    def out(self, *argv: str, user: str | None = None) -> str:
        """What a command printed, stripped."""
        return self.run(argv, user=user).stdout.strip()

    def become(self, user: str) -> None:
        """Turn this very process into one of `user`, for good. Raises BadSpec when there is no such user."""
        users.require_root("becomes another user")
        entry = users.known(user)
        self.home(user)
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)

    # Components.

    @property
    def components(self) -> dict[str, Component]:
        """Every part by name, in the order of starting."""
        return components(self.record)

    def pid(self, name: str) -> int | None:
        """The pid of a component, None when it does not run."""
        processes.reap()
        return processes.pid_of(self._known(name), self.layout)

    def status(self) -> dict[str, int | None]:
        """The pid of every component, None for those that do not run."""
        return {name: self.pid(name) for name in self.components}

    def kill(self, name: str, sig: int = signal.SIGKILL) -> None:
        """Send a signal to a component, and wait for its end if the signal is KILL."""
        users.require_root("signals a devcluster's processes")
        pid = self.pid(name)
        if pid is None:
            raise DevclusterError(f"{name} does not run")
        processes.send(pid, sig)
        if sig == signal.SIGKILL:
            processes.await_true(lambda: self.pid(name) is None, timeout_s=5)

    def stop(self, name: str) -> bool:
        """End a component as a service manager would: TERM, and KILL after 10 s. False when it did not run."""
        users.require_root("stops a devcluster's processes")
        pid = self.pid(name)
        if pid is None:
            return False
        processes.stop(pid, grace_s=_GRACE_S)
        return True

    def start(self, name: str) -> None:
        """Start a component that does not run, and wait until it answers."""
        users.require_root("starts a devcluster's processes")
        if self.pid(name) is None:
            boot.start(self.components[self._known(name)], self.layout)

    def restart(self, name: str) -> None:
        """Stop and start a component."""
        self.stop(name)
        self.start(name)

    def _known(self, name: str) -> str:
        if name not in self.components:
            raise BadSpec(f"no component {name!r}: one of {', '.join(self.components)}")
        return name

    def cancel_all(self, timeout_s: float = 60) -> None:
        """Cancel every job and wait until Slurm has none left. Raises DevclusterError."""

        def empty() -> bool:
            jobs = sorted(set(self.out("squeue", "--noheader", "--format=%A").split()))
            if jobs:
                self.run(["scancel", *jobs], check=False)
            return not jobs

        if not processes.await_true(empty, timeout_s=timeout_s, every_s=0.2):
            raise DevclusterError(f"jobs that do not end: {self.out('squeue')}")

    # The end.

    def down(self, *, keep: bool = False) -> None:
        """Stop everything, jobs included, and remove the directory (or keep it, to read its logs).

        Raises DevclusterError when something is left.
        """
        boot.tear_down(self.record, keep=keep)

    def leftovers(self) -> list[str]:
        """What still exists of the cluster on this host: processes, mounts, links, the directory."""
        left = [processes.describe([pid]) for pid in processes.members(self.layout)]
        left += [f"mount {point}" for point in roots.mounts_below(self.layout.root)]
        if self.record.subnet and netns.bridge_exists(self.record):
            left.append(f"bridge {netns.bridge(self.record)}")
        left += [str(path) for path in (self.layout.memory, self.layout.root) if path.exists()]
        return left

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.down()
