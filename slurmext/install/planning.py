"""What is to be installed at this site: reads files and accounts, compiles the plugin, changes nothing."""

from __future__ import annotations

import pwd
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from slurmext.config.site import SiteConfig, load_site
from slurmext.errors import SlurmextError
from slurmext.install import conf_edit, hooks, library, manifest, units
from slurmext.install.changes import Directory, File, InstallPlan, Link
from slurmext.options import PREFIX_RE
from slurmext.share import SHARE
from slurmext.spank.build import DEFAULT_INCLUDE, build, installed_release
from slurmext.spank.job_submit import LuaSite, render

PROLOG_TIMEOUT_S = 60
PRELOAD_SLACK_S = 5
_ENDING_S = 2


class Role(StrEnum):
    """What this host is. ALL = controller and node; a LOGIN host only submits."""

    ALL = "all"
    CONTROLLER = "controller"
    NODE = "node"
    LOGIN = "login"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallSpec:
    """What the admin asked for. `hook_python` runs the hooks on the nodes; `source_dir` has `prolog/` and `epilog/`.

    `system_files` are units, the tmpfiles line, man page and completion.
    """

    slurm_conf: Path
    site_config: Path
    prefix_dir: Path
    spank_include: Path = DEFAULT_INCLUDE
    option_prefix: str | None = None
    role: Role = Role.ALL
    system_files: bool = False
    hook_python: Path = field(default_factory=hooks.interpreter)
    source_dir: Path = SHARE


def make_plan(spec: InstallSpec) -> InstallPlan:
    """The whole installation. Raises SlurmextError for anything that would not work afterwards."""
    text = _read(spec.slurm_conf)
    if text is None and spec.role in {Role.ALL, Role.CONTROLLER}:
        raise SlurmextError(f"{spec.slurm_conf} is not there: name Slurm's own with --slurm-conf")
    draft = _Draft(spec=spec, before=manifest.load(spec.prefix_dir), text=text)
    if not spec.site_config.exists():
        if not draft.has_conf:
            raise SlurmextError(f"{spec.site_config} is not there: copy it from the controller first")
        draft.add(spec.site_config, _first_site_file(draft).encode())
        draft.notes.append(f"{spec.site_config} is made with defaults: look at it")
    site = load_site(spec.site_config) if spec.site_config.exists() else SiteConfig(version=1, cluster=draft.cluster())
    prefix = site.options.prefix if spec.option_prefix is None else spec.option_prefix
    if not PREFIX_RE.fullmatch(prefix):
        raise SlurmextError(f"--option-prefix {prefix!r}: at most 31 of a-z, 0-9 and '-', for example sx-")
    if prefix != site.options.prefix:
        draft.notes.append(
            f"set options: {{prefix: {prefix or repr('')}}} in {spec.site_config}, for messages and the next install"
        )
    draft.directory(spec.prefix_dir)
    _plan_spank(draft, site, prefix)
    if spec.role is not Role.LOGIN:
        _plan_run_dir(draft, site)
    _plan_hooks(draft, site)
    if spec.role in {Role.ALL, Role.CONTROLLER}:
        _plan_job_submit(draft, site, prefix)
    if draft.has_conf:
        _plan_slurm_conf(draft)
    if spec.system_files:
        _plan_system_files(draft, site)
    return draft.finish(site)


class _Draft:
    """The plan while it grows."""

    def __init__(self, *, spec: InstallSpec, before: manifest.Manifest, text: bytes | None) -> None:
        self.spec = spec
        self.before = before
        self.has_conf = text is not None
        self.conf = conf_edit.strip((text or b"").decode(errors="surrogateescape"))
        self.block: list[str] = []
        self.directories: dict[Path, Directory] = {}
        self.files: list[File] = []
        self.links: list[Link] = []
        self.notes: list[str] = []

    def cluster(self) -> str:
        return (conf_edit.values_of(self.conf, "ClusterName") or ["cluster"])[-1]

    def slurm_user(self, site: SiteConfig) -> pwd.struct_passwd:
        name = (conf_edit.values_of(self.conf, "SlurmUser") or [site.slurm.user])[-1].split("(")[0]
        try:
            return pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
        except KeyError as error:
            raise SlurmextError(
                f"SlurmUser {name} is no account of this host: create it, or correct slurm.conf"
            ) from error

    def directory(self, path: Path, mode: int = 0o755, *, data: bool = False) -> None:
        for parent in reversed(path.parents):
            if not parent.exists() or self.before.made(parent):
                self.directories.setdefault(parent, Directory(path=parent))
        if path not in self.directories and (not path.exists() or self.before.made(path)):
            self.directories[path] = Directory(path=path, mode=mode, data=data)

    def add(self, path: Path, content: bytes, mode: int = 0o644, uid: int = 0, gid: int = 0, *, runtime: bool = False,
            edited: bool = False) -> None:  # fmt: skip
        was = _read(path)
        original = self.before.original(path) if self.before.wrote(path) else was
        if edited and was is not None and not self.before.created(path):
            original = conf_edit.strip(was.decode(errors="surrogateescape")).encode(errors="surrogateescape")
        if original is not None and not runtime:
            info = path.stat()
            mode, uid, gid = (info.st_mode & 0o7777, info.st_uid, info.st_gid)
        self.directory(path.parent)
        self.files.append(
            File(path=path, content=content, was=was, original=original, mode=mode, uid=uid, gid=gid, edited=edited,
                 runtime=runtime)
        )  # fmt: skip

    def set_key(self, key: str, value: str) -> None:
        """Give a global key of slurm.conf a value, in our block."""
        self.conf = conf_edit.comment_out(self.conf, key)
        self.block.append(f"{key}={value}")

    def finish(self, site: SiteConfig) -> InstallPlan:
        url = site.database
        sqlite = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:////") else None
        controls = self.spec.role in {Role.ALL, Role.CONTROLLER}
        if not self.has_conf:
            self.notes.append(
                f"{self.spec.slurm_conf} is not there (configless?): slurm.conf and plugstack.conf are the controller's"
            )
        if sqlite is not None and controls:
            self.directory(sqlite.parent, mode=0o700)
        elsewhere = conf_edit.includes_of(self.conf)
        if elsewhere:
            self.notes.append(
                f"slurm.conf includes {', '.join(elsewhere)}: parameters set there are not seen or changed here; "
                "`slurmext doctor` looks at what Slurm really uses"
            )
        return InstallPlan(
            prefix=self.spec.prefix_dir, directories=tuple(self.directories.values()), files=tuple(self.files),
            links=tuple(self.links), database=url if controls else None, sqlite=sqlite if controls else None,
            run_dir=None if self.spec.role is Role.LOGIN else site.run_dir, notes=tuple(self.notes),
            next_steps=tuple(_next_steps(self.spec)),
        )  # fmt: skip


def _plan_spank(draft: _Draft, site: SiteConfig, prefix: str) -> None:
    spec = draft.spec
    plugin = spec.prefix_dir / "spank" / "slurmext.so"
    draft.add(plugin, build(spec.spank_include, installed_release(site.slurm.bin_dir, spec.slurm_conf)), mode=0o755)
    if not draft.has_conf:
        return
    plugstack = Path(
        (conf_edit.values_of(draft.conf, "PlugStackConfig") or [spec.slurm_conf.parent / "plugstack.conf"])[-1]
    )
    old = (_read(plugstack) or b"").decode(errors="surrogateescape")
    line = f"optional {plugin}" + (f" prefix={prefix}" if prefix else "")
    draft.add(
        plugstack, conf_edit.add_block(conf_edit.strip(old), [line]).encode(errors="surrogateescape"), edited=True
    )


def _plan_run_dir(draft: _Draft, site: SiteConfig) -> None:
    draft.directory(site.run_dir, data=True)
    draft.directory(site.agent.spool_dir, mode=0o700, data=True)
    if draft.spec.role is not Role.NODE:
        user = draft.slurm_user(site)
        draft.add(site.run_dir / "submit-wake", b"0", uid=user.pw_uid, gid=user.pw_gid, runtime=True)


def _plan_system_files(draft: _Draft, site: SiteConfig) -> None:
    spec = draft.spec
    if spec.role is not Role.LOGIN:
        user = draft.slurm_user(site).pw_name
        for path, content in units.unit_files(spec.site_config, site.run_dir, user).items():
            other = {Role.NODE: "slurmextd.service", Role.CONTROLLER: "slurmext-agent.service"}.get(spec.role)
            if path.name != other:
                draft.add(path, content.encode())
    for source, target in units.user_files().items():
        if source.exists():
            draft.add(target, source.read_bytes())


def _plan_job_submit(draft: _Draft, site: SiteConfig, prefix: str) -> None:
    slurm_uid = draft.slurm_user(site).pw_uid
    path = draft.spec.slurm_conf.parent / "job_submit.lua"
    former_path = draft.spec.slurm_conf.parent / "job_submit.site.lua"
    former = draft.before.original(path) if draft.before.wrote(path) else _read(path)
    if former is not None:
        draft.add(former_path, _read(former_path) or former)
        draft.notes.append(f"the site's own job_submit.lua goes on as {former_path}, called first")
    script = render(
        LuaSite(
            run_dir=str(site.run_dir),
            stale_s=site.daemon.heartbeat_stale_s,
            partitions=site.managed.partitions,
            require_gpu=site.managed.require_gpu,
            prefix=prefix,
            trusted_uids=tuple(sorted({0, slurm_uid})),
            former=str(former_path) if former is not None else None,
            transparent=str(draft.spec.prefix_dir / library.TRANSPARENT),
        )
    )
    draft.add(path, script.encode())


def _plan_hooks(draft: _Draft, site: SiteConfig) -> None:
    values = {
        "PYTHON": str(draft.spec.hook_python),
        "RUN_DIR": str(site.run_dir),
        "DEADLINE_S": f"{site.agent.hook_deadline_s:g}",
        "PRELOAD_S": f"{_preload_s(draft, site):g}",
        "PACKAGE_DIR": str(draft.spec.prefix_dir),
    }
    client = Path(__file__).parent.parent / "hooks" / "client.py"
    with_files = draft.spec.role is not Role.LOGIN
    if client.exists() and with_files:
        draft.add(draft.spec.prefix_dir / "hooks" / "client.py", client.read_bytes())
    if with_files:
        _plan_library(draft, site)
    for key, relative in hooks.SOURCES.items():
        source = draft.spec.source_dir / relative
        if not source.exists():
            draft.notes.append(f"{source} is not in this installation, so {key} is left alone")
            continue
        existing = [value for value in conf_edit.values_of(draft.conf, key) if value]
        there = hooks.place(key, existing, draft.spec.prefix_dir)
        if with_files:
            draft.add(there.wrapper, hooks.wrapper_text(source, values).encode(), mode=0o755)
            if there.chain:
                draft.add(there.chain[0], there.chain[1].encode(), mode=0o755)
            for path, target in there.links:
                draft.directory(path.parent)
                draft.links.append(Link(path=path, target=target))
        if draft.has_conf and there.value is not None:
            draft.set_key(key, there.value)


def _preload_s(draft: _Draft, site: SiteConfig) -> float:
    """The agent answers within its own time; one that hangs is waited for a little longer. A prolog that Slurm ends
    drains the node, so with what was waited for slices before, never for as long as Slurm waits.
    """
    limits = [word for key in ("PrologTimeout", "PrologEpilogTimeout") for word in conf_edit.values_of(draft.conf, key)]
    known = [int(word) for word in limits if word.isdecimal()] or [PROLOG_TIMEOUT_S]
    begun = [int(word) for word in conf_edit.values_of(draft.conf, "BatchStartTimeout") if word.isdecimal()]
    most_s = min(
        min(known) - site.agent.hook_deadline_s - _ENDING_S, (begun or [PROLOG_TIMEOUT_S])[-1] + PRELOAD_SLACK_S
    )
    return max(1.0, min(site.staging.prolog_wait_s + PRELOAD_SLACK_S, most_s))


def _plan_library(draft: _Draft, site: SiteConfig) -> None:
    prefix_dir = draft.spec.prefix_dir
    for path, content in library.files(prefix_dir):
        draft.add(path, content)
    program = library.transparent_program(prefix_dir, draft.spec.hook_python, site.agent.criu)
    draft.add(prefix_dir / library.TRANSPARENT, program.encode(), mode=0o755)


def _plan_slurm_conf(draft: _Draft) -> None:
    """The same lines on every host, whatever its role: Slurm compares slurm.conf between hosts."""
    plugins = _words(draft.conf, "JobSubmitPlugins")
    if not {"lua", "job_submit/lua"} & set(plugins):
        draft.set_key("JobSubmitPlugins", ",".join([*plugins, "lua"]))
    flags = _words(draft.conf, "PrologFlags")
    # Without Alloc the Prolog runs only when the first step starts, too late to prepare the node for the job.
    if not {"alloc", "contain"} & {flag.lower() for flag in flags}:
        draft.set_key("PrologFlags", ",".join([*(flag for flag in flags if flag.lower() != "none"), "Alloc"]))
    # Slurm's default is to wait for a prolog for ever.
    if not conf_edit.values_of(draft.conf, "PrologEpilogTimeout"):
        draft.set_key("PrologEpilogTimeout", str(PROLOG_TIMEOUT_S))
    # 10 s by default: a batch job whose prolog takes longer is taken for lost when its node happens to register.
    if not conf_edit.values_of(draft.conf, "BatchStartTimeout"):
        draft.set_key("BatchStartTimeout", str(PROLOG_TIMEOUT_S))
    content = conf_edit.add_block(draft.conf, draft.block).encode(errors="surrogateescape")
    draft.add(draft.spec.slurm_conf, content, edited=True)


def _words(text: str, key: str) -> list[str]:
    return [word.strip() for word in ",".join(conf_edit.values_of(text, key)[-1:]).split(",") if word.strip()]


def _first_site_file(draft: _Draft) -> str:
    user = (conf_edit.values_of(draft.conf, "SlurmUser") or ["slurm"])[-1].split("(")[0]
    return (
        "# slurmext's site file; `slurmext policy` has the queues. Every key: docs/reference/site.md\n"
        f"version: 1\ncluster: {draft.cluster()}\ndatabase: sqlite:////var/lib/slurmext/state.db\n"
        f"run_dir: /run/slurmext\nslurm: {{bin_dir: /usr/bin, conf: {draft.spec.slurm_conf}, user: {user}}}\n"
    )


def _next_steps(spec: InstallSpec) -> list[str]:
    steps: list[str] = []
    if spec.role is not Role.LOGIN:
        steps.append(
            "restart slurmctld and every slurmd (JobSubmitPlugins and PrologFlags are read at start; for later changes "
            "`scontrol reconfigure` does)"
        )
    daemons = {"slurmextd": "slurmext.daemon.main", "slurmext-agent": "slurmext.agent.main"}
    hosts = {Role.ALL: daemons, Role.CONTROLLER: ["slurmextd"], Role.NODE: ["slurmext-agent"], Role.LOGIN: []}
    for name in hosts[spec.role]:
        if spec.system_files:
            steps.append(f"systemctl daemon-reload && systemctl enable --now {name}")
        else:
            steps.append(f"start SLURMEXT_CONF={spec.site_config} {units.command(name, daemons[name])}")
    if spec.role is Role.CONTROLLER:
        steps.append("slurmext install --role node on every compute node, --role login on every submit host")
    if spec.role is not Role.NODE:
        steps.append("slurmext doctor")
    return steps


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
