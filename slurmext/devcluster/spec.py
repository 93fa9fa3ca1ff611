"""What cluster is wanted (`ClusterSpec`), and where its files lie (`Layout`)."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slurmext.devcluster.errors import BadSpec
from slurmext.devcluster.roots import RELEASES

if TYPE_CHECKING:
    from collections.abc import Mapping

BASE: Final = Path("/var/lib/slurmext-dev")
MEMORY: Final = Path("/dev/shm/slurmext-dev-")  # noqa: S108 - root makes it; the cluster's name follows
USUAL: Final = "dev"
NATIVE: Final = "native"

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,30}")
_TYPE: Final = re.compile(r"[a-z][a-z0-9_]*")
_RATE: Final = re.compile(r"[0-9]+(bit|kbit|mbit|gbit)")
_USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
# A unix socket's path has at most 107 bytes, and the longest of ours adds about 40 to the cluster's directory.
_MAX_DIR: Final = 64
_MAX_NODES: Final = 200  # one /24 of addresses with --netns


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """The cluster to boot. Raises BadSpec when it is not possible.

    `gpu_types` are dealt to the nodes in order: two types on four nodes give two nodes of each. `conf` replaces or
    adds global slurm.conf keys, `site` top-level sections of the site configuration. `plain` is Slurm without slurmext.
    """

    name: str = USUAL
    dir: Path | None = None
    nodes: int = 4
    gpus: int = 8
    gpu_types: tuple[str, ...] = ("h100",)
    cpus: int | None = None
    memory_mib: int = 65536
    release: str = NATIVE
    netns: bool = False
    rate: str = "1gbit"
    dbd: bool = False
    plain: bool = False
    users: tuple[str, ...] = ()
    cred_expire_s: int = 5
    conf: Mapping[str, str] = field(default_factory=dict)
    site: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise BadSpec(f"name {self.name!r}: lower-case letters, digits and dashes, e.g. --name dev2")
        if not 1 <= self.nodes <= _MAX_NODES:
            raise BadSpec(f"nodes {self.nodes}: 1 to {_MAX_NODES}, e.g. --nodes 4")
        if not 0 <= self.gpus <= 64:  # noqa: PLR2004
            raise BadSpec(f"gpus {self.gpus}: 0 to 64 on each node, e.g. --gpus 8")
        if self.release != NATIVE and self.release not in RELEASES:
            raise BadSpec(f"release {self.release!r}: one of {', '.join([NATIVE, *RELEASES])}")
        if not _RATE.fullmatch(self.rate):
            raise BadSpec(f"rate {self.rate!r}: a number with bit, kbit, mbit or gbit, e.g. --rate 1gbit")
        if not self.gpu_types or not all(_TYPE.fullmatch(kind) for kind in self.gpu_types):
            raise BadSpec(f"gpu type {','.join(self.gpu_types)!r}: names as in slurm.conf, e.g. --gpu-type h100,a100")
        if bad := [user for user in self.users if not _USER.fullmatch(user)]:
            raise BadSpec(f"user {bad[0]!r} is no user name, e.g. --users alice,bob")
        if not self.directory.is_absolute() or len(str(self.directory)) > _MAX_DIR:
            raise BadSpec(f"directory {self.directory}: an absolute path of at most {_MAX_DIR} characters")

    @property
    def directory(self) -> Path:
        """Where the cluster lives."""
        return self.dir or BASE / self.name

    @property
    def node_names(self) -> tuple[str, ...]:
        """`n1` to `nN`."""
        return tuple(f"n{index}" for index in range(1, self.nodes + 1))

    @property
    def cpus_per_node(self) -> int:
        """Two for each GPU unless said otherwise."""
        return self.cpus or max(2, 2 * self.gpus)

    def gpu_type(self, index: int) -> str:
        """The GPU type of the node with this index, counted from 0."""
        return self.gpu_types[index * len(self.gpu_types) // self.nodes]


def chosen(directory: Path) -> str:
    """What names the cluster of this directory on a command line, with a space before it; nothing for the usual one."""
    if directory.parent != BASE:
        return f" --dir {shlex.quote(str(directory))}"
    return "" if directory.name == USUAL else f" --name {directory.name}"


@dataclass(frozen=True, slots=True)
class Layout:
    """Every path of a cluster, all below `root`."""

    root: Path

    @property
    def record(self) -> Path:
        """What was booted: the spec, the ports and the addresses. A directory without it is not ours to remove."""
        return self.root / "cluster.json"

    @property
    def bin(self) -> Path:
        """Wrappers of the Slurm commands."""
        return self.root / "bin"

    @property
    def etc(self) -> Path:
        """Configuration."""
        return self.root / "etc"

    @property
    def slurm_conf(self) -> Path:
        return self.etc / "slurm.conf"

    @property
    def site_config(self) -> Path:
        return self.etc / "slurmext.yaml"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def memory(self) -> Path:
        """Models staged into the memory of its nodes, a directory each."""
        return MEMORY.with_name(f"{MEMORY.name}{self.root.name}")

    @property
    def marker(self) -> Path:
        """Mounted on itself in the cluster's mount namespace: whoever sees that mount belongs to the cluster."""
        return self.run / "ns"

    @property
    def pids(self) -> Path:
        return self.run / "pids"

    @property
    def munge_socket(self) -> Path:
        return self.run / "munge" / "socket"

    @property
    def slurmext_run(self) -> Path:
        return self.run / "slurmext"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def dev(self) -> Path:
        """The simulated GPU devices."""
        return self.root / "dev"

    @property
    def nvml(self) -> Path:
        """The simulated NVIDIA driver, and a file for each node with what its GPUs do."""
        return self.root / "nvml"

    @property
    def home(self) -> Path:
        """A working directory for each test user."""
        return self.root / "home"

    @property
    def prefix(self) -> Path:
        """Where `slurmext install` puts its plugin and hooks."""
        return self.root / "slurmext"

    @property
    def python(self) -> Path:
        """The package as jobs of ordinary users can read it: put it on their PYTHONPATH."""
        return self.root / "python"
