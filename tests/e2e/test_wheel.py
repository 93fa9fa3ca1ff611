"""A wheel is enough: nothing that slurmext installs, shows or runs is left behind in the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "build", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis", "site"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    """Run a command of a fresh virtual environment that has only the wheel; other packages are this environment's."""
    place = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, place / "source", symlinks=True, ignore=LEFT_OUT)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(place), str(place / "source")], check=True)
    shutil.rmtree(place / "source")
    venv.create(place / "venv", with_pip=False)
    python = place / "venv" / "bin" / "python"
    wheel = next(place.glob("*.whl"))
    subprocess.run([*pip, f"--python={python}", "install", "--no-deps", str(wheel)], check=True)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": sysconfig.get_path("purelib"), "HOME": str(place)}

    def in_venv(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(python.parent / words[0]), *words[1:]]
        return subprocess.run(command, check=False, capture_output=True, text=True, cwd=place, env=environment)

    return in_venv


def test_it_is_the_wheel_that_runs_and_it_has_every_file(run) -> None:
    """Hooks, man page, policies, example, migrations and templates are files of the installed package."""
    done = run("python", "-c", "from slurmext.share import SHARE; print(SHARE)")
    assert "/venv/lib/" in done.stdout, done.stderr
    share = Path(done.stdout.strip())
    for folder in ("slurmext", "prolog", "epilog", "policies", "docs/man", "examples"):
        inside = share.parent if folder == "slurmext" else share / Path(folder).name
        for path in (ROOT / folder).rglob("*"):
            name = path.relative_to(ROOT / folder)
            if "__pycache__" not in path.parts and path.suffix not in {".md", ".new"}:
                assert (inside / name).exists(), path


def test_a_shipped_policy_is_good(run) -> None:
    """`slurmext policy check` needs neither a daemon nor a site file."""
    share = Path(run("python", "-c", "from slurmext.share import SHARE; print(SHARE)").stdout.strip())
    done = run("slurmext", "policy", "check", str(share / "policies" / "two-teams.yaml"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 queues" in done.stdout


def test_install_shows_every_change_and_makes_none(run, tmp_path: Path) -> None:
    """The plugin is compiled, the hooks are there, and a dry run leaves slurm.conf as it was."""
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=x\nSlurmctldHost=localhost\nNodeName=localhost\nPartitionName=p Nodes=ALL\n")
    before = conf.read_text()
    done = run("slurmext", "install", "--dry-run", "--units", f"--slurm-conf={conf}",
               f"--site-config={tmp_path}/slurmext.yaml", f"--prefix-dir={tmp_path}/lib")  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("slurmext.so", "slurmext-prolog", "slurmext-epilog", "job_submit.lua", "slurmext-options.7"):
        assert name in done.stdout
    assert conf.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["slurm.conf"]
