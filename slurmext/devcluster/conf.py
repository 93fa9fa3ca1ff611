"""The configuration files of a cluster, rendered from `templates/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import jinja2
from ruamel.yaml import YAML

from slurmext.devcluster import netns
from slurmext.testing import mps

if TYPE_CHECKING:
    from pathlib import Path

    from slurmext.devcluster.spec import ClusterSpec, Layout

_TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("slurmext.devcluster"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # noqa: S701 - configuration files, not HTML
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Who listens where. `node_hostname` is None where every node has a hostname of its own."""

    ctl_host: str
    ctl_addr: str
    node_addrs: Mapping[str, str]
    node_hostname: str | None
    ports: Mapping[str, int]


def render_all(
    spec: ClusterSpec, layout: Layout, network: Network, *, version: tuple[int, int], root: Path | None
) -> None:
    """Write every configuration file. `version` is Slurm's (22, 5); `root` the Debian root of another release."""
    values = {
        "spec": spec,
        "layout": layout,
        "net": network,
        "version": version,
        "plugin_dir": plugin_dir(root) if root else None,
        "nodes": [(name, spec.gpu_type(index)) for index, name in enumerate(spec.node_names)],
    }
    names = [
        "slurm.conf",
        "gres.conf",
        "cgroup.conf",
        "plugstack.conf",
        "hosts",
        *(["slurmdbd.conf"] if spec.dbd else []),
    ]
    for name in names:
        text = _TEMPLATES.get_template(f"{name}.j2").render(values)
        if name == "slurm.conf":
            text = _overridden(text, spec.conf)
        (layout.etc / name).write_text(text)
    if not spec.plain:
        with layout.site_config.open("w") as out:
            YAML().dump(_site(spec, layout, network), out)


def plugin_dir(root: Path) -> Path:
    """Where the Debian packages of a root keep Slurm's plugins."""
    return next((root / "usr/lib").glob("*/slurm-wlm"))


def _overridden(text: str, keys: Mapping[str, str]) -> str:
    """slurm.conf with these global keys instead of its own: Slurm complains about a key given twice."""
    wanted = {key.lower() for key in keys}
    kept = [line for line in text.splitlines() if line.partition("=")[0].strip().lower() not in wanted]
    return "\n".join([*kept, *(f"{key}={value}" for key, value in keys.items() if value)]) + "\n"


def _site(spec: ClusterSpec, layout: Layout, network: Network) -> dict[str, object]:
    endpoint = f"{network.ctl_addr}:{network.ports['slurmextd']}"
    site: dict[str, object] = {
        "version": 1,
        "cluster": spec.name,
        "database": f"sqlite:///{layout.state}/slurmext/state.db",
        "run_dir": str(layout.slurmext_run),
        "slurm": {"bin_dir": str(layout.bin), "conf": str(layout.slurm_conf), "user": "slurm"},
        "daemon": {"listen": endpoint, "address": endpoint, "check_invariants": True},
        "agent": {
            "spool_dir": str(layout.state / "agent"),
            "slices": {"mps_control": str(layout.nvml / mps.CONTROL)},
            # A directory of the cluster's, which goes with it, in place of the machine's memory.
            "copies": {
                "dir": str(layout.state / "copies"),
                "listen": "0.0.0.0:6831" if spec.netns else "127.0.0.1:6831",
            },
        },
        "munge_socket": str(layout.munge_socket),
        # Mounts made later than the jobs' namespace are not seen there, and this is memory already.
        "staging": {
            "memory_dir": f"{layout.memory}/%n",
            "memory_mount": False,
            "memory_gib": 2,
            # As long as this slurm.conf lets a prolog run (PrologEpilogTimeout) less what it needs for itself.
            "prolog_wait_s": 50,
            "listen": "0.0.0.0:6832" if spec.netns else "127.0.0.1:6832",
            "link_gbps": netns.bits_per_s(spec.rate) / 1e9 if spec.netns else 10,
        },
    }
    return _merged(site, spec.site)


def _merged(old: Mapping[str, object], new: Mapping[str, object]) -> dict[str, object]:
    """`old` with what `new` has, section by section."""
    merged = dict(old)
    for key, value in new.items():
        known = merged.get(key)
        both = isinstance(known, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(known, value) if both else value
    return merged
