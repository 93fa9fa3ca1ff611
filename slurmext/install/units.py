"""Files of the system at large: systemd units, the run directory after a reboot, man page, completion."""

from __future__ import annotations

import sys
from pathlib import Path

from slurmext.share import SHARE

UNIT_DIR = Path("/etc/systemd/system")
TMPFILES = Path("/etc/tmpfiles.d/slurmext.conf")


def has_systemd() -> bool:
    """Whether this host was booted with systemd (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def command(name: str, module: str) -> str:
    """How to start a daemon of this installation."""
    script = Path(sys.prefix) / "bin" / name
    return str(script) if script.exists() else f"{sys.executable} -m {module}"


def _unit(description: str, start: str, site_config: Path, after: str, *, more: str = "") -> str:
    return f"""\
[Unit]
Description={description}
Documentation=man:slurmext-options(7)
After=network-online.target munge.service {after}
Wants=network-online.target

[Service]
Environment=SLURMEXT_CONF={site_config}
ExecStart={start}
Restart=always
RestartSec=2
LimitNOFILE=65536
{more}
[Install]
WantedBy=multi-user.target
"""


_OUTLIVED = """\
# MPS daemons of jobs outlive a restart of the agent, which finds them again.
KillMode=process
"""


def unit_files(site_config: Path, run_dir: Path, slurm_user: str) -> dict[Path, str]:
    """Path and content of the units, and of the tmpfiles line that makes `run_dir` at boot."""
    daemon = command("slurmextd", "slurmext.daemon.main")
    agent = command("slurmext-agent", "slurmext.agent.main")
    files = {
        UNIT_DIR / "slurmextd.service": _unit("slurmext controller", daemon, site_config, "slurmctld.service"),
        UNIT_DIR / "slurmext-agent.service": _unit(
            "slurmext node agent", agent, site_config, "slurmd.service", more=_OUTLIVED
        ),
    }
    if run_dir.is_relative_to("/run"):
        files[TMPFILES] = f"d {run_dir} 0755 root root -\nf {run_dir}/submit-wake 0644 {slurm_user} {slurm_user} -\n"
    return files


def user_files() -> dict[Path, Path]:
    """Source and place of what users of the command line read."""
    generated = Path(__file__).parent.parent / "spank" / "generated"
    return {
        generated / "completion.bash": Path("/etc/bash_completion.d/slurmext-options"),
        SHARE / "man" / "slurmext-options.7": Path("/usr/local/share/man/man7/slurmext-options.7"),
    }
