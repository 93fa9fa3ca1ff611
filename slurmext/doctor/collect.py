"""Read the facts of a live cluster. What cannot be read stays unknown."""

from __future__ import annotations

import glob
import json
import pwd
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from slurmext.adapters.nvml import NvmlSliceDriver
from slurmext.adapters.slurm_cli.reader import SlurmReader
from slurmext.adapters.slurm_cli.runner import SlurmRunner
from slurmext.config.policy import stored_policy
from slurmext.doctor.facts import Facts, PathFact, parse_config
from slurmext.doctor.transparency import transparent_fact
from slurmext.errors import GpuDriverError, SlurmextError
from slurmext.service.bootstrap import SystemClock, open_store
from slurmext.spank.build import built_for

if TYPE_CHECKING:
    from slurmext.config.site import SiteConfig, StagingSite
    from slurmext.model.mig import GpuCard

AGENT_TIMEOUT_S = 2.0
_HOOK_NAMES = {"Prolog": "slurmext-prolog", "Epilog": "slurmext-epilog", "TaskProlog": "slurmext-task-prolog"}


def collect(site: SiteConfig) -> Facts:
    """Facts of the cluster of this site file. Raises SlurmUnavailable when slurmctld does not answer."""
    runner = SlurmRunner(site.slurm.bin_dir, site.slurm.conf)
    config = parse_config(runner.must("scontrol", ["show", "config"]))
    slurm_conf = Path(config.get("slurm_conf") or site.slurm.conf or "/etc/slurm/slurm.conf")
    plugstack = Path(config.get("plugstackconfig") or slurm_conf.parent / "plugstack.conf")
    plugin = _listed_plugin(plugstack)
    hooks = {name: fact for name in _HOOK_NAMES if (fact := _hook(name, config)) is not None}
    works, error = _munge(_munge_socket(site, config))
    return Facts(
        config=config,
        release=_release(config.get("slurm_version", "")),
        slurm_conf=slurm_conf,
        slurm_uid=_uid_of(config.get("slurmuser", site.slurm.user)),
        hook_deadline_s=site.agent.hook_deadline_s,
        heartbeat_stale_s=site.daemon.heartbeat_stale_s,
        prolog_wait_s=_prolog_wait_s(site.staging),
        preload_hook_s=_preload_hook_s(hooks.get("Prolog")),
        run_dir=_path(site.run_dir),
        submit_wake=_path(site.run_dir / "submit-wake"),
        queues_tsv=_path(site.run_dir / "queues.tsv"),
        heartbeat_age_s=_heartbeat_age_s(site.run_dir / "heartbeat"),
        job_submit_is_ours=_job_submit_is_ours(slurm_conf.parent / "job_submit.lua"),
        plugstack=plugstack,
        plugin=_path(plugin) if plugin else None,
        plugin_listed=None if plugin is None and not _readable(plugstack) else plugin is not None,
        plugin_release=_plugin_release(plugin),
        hooks=hooks,
        hooks_known=True,
        agents=_agents(site.run_dir),
        transparent=transparent_fact(site.agent.criu) if _agents(site.run_dir) else None,
        munge_works=works,
        munge_error=error,
        guaranteed_gpus=_guaranteed_gpus(site),
        cluster_gpus=cluster_gpus(runner),
        cards=_cards(),
        mps_control=_path(site.agent.slices.mps_control),
    )


def _guaranteed_gpus(site: SiteConfig) -> int | None:
    try:
        store = open_store(site)
        stored = store.current_policy()
        store.close()
        policy = stored_policy(stored) if stored else None
    except SlurmextError:
        return None
    return policy.largest_guarantee(time.time()) if policy else 0


def cluster_gpus(runner: SlurmRunner) -> int | None:
    """GPUs that Slurm has in all; None where it does not answer."""
    try:
        return sum(node.gpus for node in SlurmReader(runner, SystemClock()).read().nodes)
    except SlurmextError:
        return None


def _cards() -> tuple[GpuCard, ...]:
    driver = NvmlSliceDriver()
    try:
        return driver.cards()
    except GpuDriverError:
        return ()
    finally:
        driver.release()


def _release(version: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def _uid_of(user: str) -> int | None:
    found = re.search(r"\((\d+)\)", user)
    if found:
        return int(found[1])
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def _path(path: Path) -> PathFact | None:
    try:
        info = path.stat()
    except FileNotFoundError:
        return PathFact(path=path, exists=False)
    except OSError:
        return None
    return PathFact(path=path, exists=True, uid=info.st_uid, mode=info.st_mode)


def _readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _heartbeat_age_s(path: Path) -> float | None:
    try:
        return max(0.0, time.time() - int(path.read_text(encoding="ascii").strip()))
    except (FileNotFoundError, ValueError):
        return float("inf")
    except OSError:
        return None


def _job_submit_is_ours(path: Path) -> bool | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").startswith("-- slurmext:")
    except FileNotFoundError:
        return False
    except OSError:
        return None


def _listed_plugin(plugstack: Path, depth: int = 0) -> Path | None:
    """The slurmext.so that plugstack.conf or a file it includes names."""
    try:
        lines = plugstack.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split("#", 1)[0].split()
        if words[:1] == ["include"] and len(words) > 1 and depth < 5:  # noqa: PLR2004
            for name in sorted(glob.glob(str(plugstack.parent / words[1]))):  # noqa: PTH207  pattern may be absolute
                found = _listed_plugin(Path(name), depth + 1)
                if found is not None:
                    return found
        elif len(words) > 1 and Path(words[1]).name == "slurmext.so":
            return Path(words[1])
    return None


def _plugin_release(plugin: Path | None) -> tuple[int, int] | None:
    try:
        return built_for(plugin.read_bytes()) if plugin else None
    except OSError:
        return None


def _hook(name: str, config: dict[str, str]) -> PathFact | None:
    """Our wrapper behind a slurm.conf value: the program itself, one match of its pattern, or what a script calls."""
    ours = _HOOK_NAMES[name]
    values = [value for key, value in config.items() if re.fullmatch(rf"{name.lower()}(\[\d+\])?", key) and value]
    for value in values:
        if Path(value).name == ours:
            return _path(Path(value))
        for match in glob.glob(value):  # noqa: PTH207  slurm.conf holds a pattern
            if Path(match).resolve().name == ours:
                return _path(Path(match))
            try:
                text = Path(match).read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            found = re.search(rf"(/\S*/{ours})\b", text)
            if found:
                return _path(Path(found[1]))
    return None


def _prolog_wait_s(site: StagingSite) -> float | None:
    return site.prolog_wait_s if site.memory_gib is not None or site.memory_percent > 0 else None


def _preload_hook_s(prolog: PathFact | None) -> float | None:
    try:
        text = prolog.path.read_text(encoding="utf-8") if prolog is not None else ""
    except (OSError, UnicodeDecodeError):
        return None
    found = re.search(r' preload "\$run\.root\.sock" ([0-9.]+) ', text)
    return float(found[1]) if found else None


def _agents(run_dir: Path) -> dict[str, bool]:
    """Each agent with a socket here (`agent-NODE.sock`; `agent-NODE.root.sock` is for root's hooks alone)."""
    paths = [path for path in run_dir.glob("agent-*.sock") if not path.name.endswith(".root.sock")]
    return {path.name.removeprefix("agent-").removesuffix(".sock"): _answers(path) for path in paths}


def _answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(AGENT_TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(b'{"op": "status"}\n')
            with connection.makefile("rb") as replies:
                return bool(json.loads(replies.readline()).get("ok"))
    except (OSError, ValueError, AttributeError):
        return False


def _munge_socket(site: SiteConfig, config: dict[str, str]) -> str | None:
    """The site file's, else Slurm's; None = munge's own default."""
    found = re.search(r"(?:^|,)socket=([^,]+)", config.get("authinfo", ""))
    return str(site.munge_socket) if site.munge_socket else found[1] if found else None


def _munge(socket_path: str | None) -> tuple[bool | None, str | None]:
    """Whether a credential made here can be read here."""
    chosen = ["-S", socket_path] if socket_path else []
    try:
        made = subprocess.run(
            ["/usr/bin/munge", "-n", *chosen], capture_output=True, timeout=10, check=False, stdin=subprocess.DEVNULL
        )
        if made.returncode == 0:
            made = subprocess.run(
                ["/usr/bin/unmunge", *chosen], input=made.stdout, capture_output=True, timeout=10, check=False
            )
    except FileNotFoundError:
        return None, None
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    said = made.stderr.decode(errors="replace").strip()
    return made.returncode == 0, (said.splitlines()[-1] if said else None)
