"""The site file: where Slurm, the state database and the daemons are. `SLURMEXT_CONF`, else the default path."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from slurmext.config.yaml_errors import ConfigError, Document, Problem, check, load_yaml
from slurmext.errors import SlurmextError

DEFAULT_PATH = Path("/etc/slurmext/slurmext.yaml")
ENVIRONMENT = "SLURMEXT_CONF"

_DATABASE_EXAMPLES = "sqlite:////var/lib/slurmext/state.db, postgresql+psycopg://user@host/slurmext"
_PASSWORD = re.compile(r"^[^:/]+://[^/@]*:[^/@]+@")


class UntrustedFileError(SlurmextError):
    """Root does not read a file that another user could have written: `chown root:root FILE; chmod go-w FILE`."""


def _address(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:  # noqa: PLR2004
        raise ValueError(f"must be HOST:PORT, for example 'ctl:6830' (it is {value!r})")
    return value


def _absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError(f"must be an absolute path, for example '/run/slurmext' (it is '{value}')")
    return value


def _database(value: str) -> str:
    scheme, _, rest = value.partition(":")
    if scheme == "file" and rest.startswith("/"):
        return value
    if scheme.split("+")[0] not in {"sqlite", "postgresql", "mysql", "mariadb"} or not rest.startswith("//"):
        raise ValueError(
            f"must be a database URL ({_DATABASE_EXAMPLES}), or file:/path of a file with one (is {_hidden(value)!r})"
        )
    if scheme.startswith("sqlite") and not rest.startswith("////"):
        raise ValueError(
            f"needs an absolute path, so four slashes: 'sqlite:////var/lib/slurmext/state.db' (it is {value!r})"
        )
    return value


def _hidden(url: str) -> str:
    return re.sub(r"(://[^/@:]*):[^/@]+@", r"\1:***@", url)


Address = Annotated[str, AfterValidator(_address)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
PositiveSeconds = Annotated[float, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class SlurmSite(_Strict):
    """Where Slurm is."""

    bin_dir: AbsolutePath = Field(
        Path("/usr/bin"), description="Directory of squeue, scontrol, sbatch …; PATH is never searched."
    )
    conf: AbsolutePath | None = Field(
        None, description="slurm.conf, given to Slurm's commands as SLURM_CONF; null leaves it to Slurm."
    )
    user: str = Field("slurm", description="SlurmUser: the account slurmctld runs as.", min_length=1)


class DaemonSite(_Strict):
    """The controller, slurmextd."""

    listen: Address = Field("0.0.0.0:6830", description="HOST:PORT the daemon listens on for agents.")
    address: Address = Field("localhost:6830", description="HOST:PORT at which agents reach the daemon.")
    interval_s: PositiveSeconds = Field(10, description="Seconds between cycles when nothing wakes the daemon earlier.")
    heartbeat_stale_s: PositiveSeconds = Field(
        30, description="Seconds without a heartbeat after which submitted jobs pass to Slurm unheld (fail open)."
    )
    shadow: bool = Field(False, description="true: plan and record, but change nothing in Slurm.")  # noqa: FBT003
    check_invariants: bool = Field(
        False,  # noqa: FBT003
        description="true: check every cycle against the laws of the queues; what breaks one is an event of the kind "
        "`invariant`, counted in `slurmext daemon status`.",
    )


class SlicesSite(_Strict):
    """Slices of GPUs on each node."""

    warm_s: Annotated[float, Field(ge=0)] = Field(
        600, description="Seconds a freed MIG instance is kept for the next job with its profile and place; 0 = never."
    )
    warm_most: Annotated[int, Field(ge=0)] = Field(4, description="How many of them are kept on one GPU.")
    mps_control: AbsolutePath = Field(
        Path("/usr/bin/nvidia-cuda-mps-control"), description="The program that MPS shares are made with."
    )
    mps_protocol: Literal["auto", "classic", "v3"] = Field(
        "auto", description="How it is spoken to: auto = MPS v3 where the driver has it."
    )
    share_over_memory: Literal["end", "warn"] = Field(
        "end",
        description="What happens to a job whose processes together use more memory than its share: end = its largest "
        "process is killed; warn = it is only told to the controller.",
    )


class CopiesSite(_Strict):
    """Copies of checkpoints in each node's memory, and of another node's."""

    dir: AbsolutePath = Field(
        Path("/dev/shm/slurmext-copies"),  # noqa: S108 - a directory of root's own in it
        description="Where they are: a directory in a memory file system.",
    )
    user_percent: Annotated[float, Field(ge=0, le=90)] = Field(
        10, description="Of the node's memory, for the copies of one user's jobs; 0 = no copies."
    )
    all_percent: Annotated[float, Field(ge=0, le=90)] = Field(25, description="Of the node's memory, for all copies.")
    keep_s: PositiveSeconds = Field(14400, description="Seconds a copy is kept after its job has left the node.")
    listen: Address = Field(
        "0.0.0.0:6831",
        description="HOST:PORT at which other agents bring and fetch copies; another port when it is taken.",
    )


class AgentSite(_Strict):
    """The agent on each node."""

    spool_dir: AbsolutePath = Field(
        Path("/var/lib/slurmext/agent"), description="Where the agent keeps events the daemon has not acknowledged."
    )
    hook_deadline_s: PositiveSeconds = Field(
        5, description="Seconds after which a prolog or epilog goes on without the agent."
    )
    sample_s: PositiveSeconds = Field(
        10, description="Seconds between two looks at the GPUs of jobs; an idle job is reported after six."
    )
    criu: AbsolutePath | None = Field(
        None, description="CRIU 4 or later, for jobs of --ckpt=transparent; null = the node's own."
    )
    busy_percent: Annotated[float, Field(gt=0, le=100)] = Field(
        1, description="Utilisation from which a GPU counts as working; below it is idle."
    )
    slices: SlicesSite = SlicesSite()  # pyright: ignore[reportCallIssue]
    copies: CopiesSite = CopiesSite()  # pyright: ignore[reportCallIssue]


class StagingSite(_Strict):
    """Models staged into the memory of nodes. In directories and hosts, `%n` is the node's name."""

    memory_dir: AbsolutePath = Field(
        Path("/dev/shm/slurmext/models"),  # noqa: S108 - a directory of root's own in it
        description="Where models in memory are; a memory file system is mounted there.",
    )
    memory_mount: bool = Field(
        True,  # noqa: FBT003
        description="false: memory_dir is on a memory file system already, and none is mounted there.",
    )
    memory_percent: Annotated[float, Field(ge=0, le=90)] = Field(
        30, description="Of the node's memory, for models; 0 = no models are staged."
    )
    memory_gib: Positive | None = Field(None, description="The same in GiB; null = as memory_percent says.")
    disk_dir: AbsolutePath | None = Field(None, description="Where models on local disk are; null = no disk tier.")
    disk_gib: Positive = Field(500, description="Room for models on local disk, in GiB.")
    listen: Address = Field(
        "0.0.0.0:6832", description="HOST:PORT at which other agents fetch models; another port when it is taken."
    )
    host: str | None = Field(
        None,
        description="Name or address at which other agents reach a node, as '%n-ib'; null = as slurmextd sees it.",
        min_length=1,
    )
    transport: Literal["sockets", "nixl", "auto"] = Field(
        "sockets", description="How models move: TCP sockets, RDMA through NIXL, or NIXL where it can be used (auto)."
    )
    domain_host: str | None = Field(
        None,
        description="Name or address at which nodes of the same NVLink domain reach a node, as '%n-nvl'; null = as all "
        "others do.",
        min_length=1,
    )
    domain_gbps: Positive | None = Field(
        None,
        description="What a node sends to one of the same NVLink domain without using its network link, Gb/s; null = "
        "nothing, they are only near.",
    )
    link_gbps: Positive = Field(10, description="What a node's network link carries in each direction, Gb/s.")
    tx_cap_gbps: Positive | None = Field(
        None, description="What a node sends of models at most, Gb/s; null = as much as the link carries."
    )
    storage_gbps: Positive = Field(10, description="What one node reads from shared storage, Gb/s.")
    prolog_wait_s: Annotated[float, Field(ge=0, le=3600)] = Field(
        300,
        description="Seconds a job's prolog waits for its models; then the job starts and reads them from where they "
        "are stored.",
    )
    ahead_s: Annotated[float, Field(ge=0)] = Field(
        3600, description="Models of a waiting job are brought to nodes so many seconds before it is likely to start."
    )
    user_registered_gib: Positive | None = Field(
        None, description="What one user's registered models may have in all, GiB; null = no limit."
    )
    user_node_gib: Positive | None = Field(
        None, description="What one user's models may take of a node's memory, GiB; null = no limit."
    )


class ManagedSite(_Strict):
    """Which jobs slurmext looks after; all others are left to Slurm untouched."""

    partitions: tuple[str, ...] = Field((), description="Partitions whose jobs are managed; [] = every partition.")
    require_gpu: bool = Field(True, description="true: only jobs that ask for GPUs are managed.")  # noqa: FBT003


class OptionsSite(_Strict):
    """The options slurmext adds to sbatch, salloc and srun."""

    prefix: str = Field(
        "",
        description="Put before every option's name: 'sx-' makes --queue --sx-queue.",
        pattern=r"^([a-z][a-z0-9-]*)?$",
    )


class SiteConfig(_Strict):
    """The site file, version 1."""

    version: Literal[1] = Field(description="Always 1.")
    cluster: str = Field(description="Slurm's ClusterName.", pattern=r"^[A-Za-z0-9_.-]+$")
    database: Annotated[str, AfterValidator(_database)] = Field(
        "sqlite:////var/lib/slurmext/state.db",
        description="URL of the state database; one with a password goes into a root-only file, named as file:/path.",
    )
    run_dir: AbsolutePath = Field(Path("/run/slurmext"), description="Directory of sockets, heartbeat and wake files.")
    slurm: SlurmSite = SlurmSite()  # pyright: ignore[reportCallIssue]
    daemon: DaemonSite = DaemonSite()  # pyright: ignore[reportCallIssue]
    agent: AgentSite = AgentSite()  # pyright: ignore[reportCallIssue]
    staging: StagingSite = StagingSite()  # pyright: ignore[reportCallIssue]
    munge_socket: AbsolutePath | None = Field(None, description="munged's socket; null = munge's own default.")
    managed: ManagedSite = ManagedSite()  # pyright: ignore[reportCallIssue]
    options: OptionsSite = OptionsSite()  # pyright: ignore[reportCallIssue]


def site_path(path: Path | None = None) -> Path:
    """The site file in use: `path`, else SLURMEXT_CONF, else /etc/slurmext/slurmext.yaml."""
    if path is not None:
        return Path(path)
    return Path(os.environ.get(ENVIRONMENT) or DEFAULT_PATH)


class NoSiteFileError(SlurmextError):
    """There is none where it was looked for: slurmext is not installed on this host."""


def load_site(path: Path | None = None) -> SiteConfig:
    """Read and check the site file. Raises ConfigError (file:line), UntrustedFileError, SlurmextError (not there).

    A database named as file:/path is replaced by what stands in that file where it may be read; for other users the
    value stays `file:/path`.
    """
    where = site_path(path)
    text, info = _read(where)
    document = load_yaml(text, str(where))
    site = check(document, SiteConfig)
    if _PASSWORD.match(site.database) and stat.S_IMODE(info.st_mode) & 0o044:
        raise ConfigError([_password_problem(document, where)])
    if site.database.startswith("file:"):
        return _with_database_of_file(document, site)
    return site


def _password_problem(document: Document, where: Path) -> Problem:
    return document.problem(
        ("database",),
        f"has a password, and every user may read this file; write the URL into a file of mode 0600 next to it "
        f"and put 'database: file:{where.parent}/database.url' here",
    )


def _with_database_of_file(document: Document, site: SiteConfig) -> SiteConfig:
    source = Path(site.database.removeprefix("file:"))
    if not os.access(source, os.R_OK) and os.geteuid() != 0:
        return site
    try:
        text, _ = _read(source)
        url = _database(text.strip())
    except (SlurmextError, ValueError) as error:
        raise ConfigError([document.problem(("database",), f"{source}: {error}")]) from error
    return site.model_copy(update={"database": url})


def _read(path: Path) -> tuple[str, os.stat_result]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise NoSiteFileError(
            f"{path} is not there: run 'slurmext install' as root, or name the site file with --config or {ENVIRONMENT}"
        ) from error
    except OSError as error:
        raise SlurmextError(f"{path} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode):
            raise SlurmextError(f"{path} is not a regular file: name the site file with --config or {ENVIRONMENT}")
        if os.geteuid() == 0:
            _require_trusted(path, info)
        content = file.read(1 << 20)
    try:
        return content.decode(), info
    except UnicodeDecodeError as error:
        raise SlurmextError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error


def _require_trusted(path: Path, info: os.stat_result) -> None:
    """A file or a folder above it that another user can write decides what root executes; refuse it."""
    _require_root_only(path, info)
    for parent in path.resolve().parents:
        _require_root_only(parent, parent.stat())


def _require_root_only(path: Path, info: os.stat_result) -> None:
    mode = stat.S_IMODE(info.st_mode)
    if info.st_uid != 0:
        raise UntrustedFileError(
            f"{path} belongs to uid {info.st_uid}, and root reads only what root alone can write: chown root {path}"
        )
    sticky_directory = stat.S_ISDIR(info.st_mode) and mode & stat.S_ISVTX
    if mode & 0o022 and not sticky_directory:
        raise UntrustedFileError(
            f"{path} can be written by others (mode {mode:04o}), so root does not read it: chmod go-w {path}"
        )
