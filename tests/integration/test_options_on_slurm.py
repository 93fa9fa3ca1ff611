"""`slurmext install` into a real Slurm, the options at its commands, job_submit's word, `doctor`, `uninstall`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from ruamel.yaml import YAML

from slurmext.options import OPTIONS, Argument
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("slurmctld") is None, reason="needs root and Slurm"),
]
RELEASES = ["native", pytest.param("trixie", marks=pytest.mark.slow), pytest.param("forky", marks=pytest.mark.slow)]
QUEUES = "#default\tresearch\nresearch\t1\t4\trefuse\t\t\nprod\t0\t\trefuse\t\t\nprod/chat\t1\t4\trefuse\troot\t\n"
USER = "nobody"


class Site:
    """A devcluster without slurmext, into which `slurmext install` puts it; slurmextd is played by the test."""

    def __init__(self, cluster, prefix: str = "") -> None:
        self.cluster = cluster
        self.run_dir = cluster.dir / "run" / "slurmext"
        self.site_config = cluster.dir / "etc" / "slurmext.yaml"
        self.slurm_conf_before = self.slurm_conf.read_text()
        with self.site_config.open("w") as out:
            YAML().dump(
                {
                    "version": 1, "cluster": cluster.spec.name, "database": f"sqlite:///{cluster.dir}/db/state.db",
                    "run_dir": str(self.run_dir), "munge_socket": str(cluster.layout.munge_socket),
                    "slurm": {"bin_dir": str(cluster.bin), "conf": str(self.slurm_conf), "user": "slurm"},
                    "agent": {"spool_dir": f"{cluster.dir}/spool"}, "options": {"prefix": prefix},
                },
                out,
            )  # fmt: skip

    @property
    def slurm_conf(self) -> Path:
        return self.cluster.layout.slurm_conf

    def slurmext(self, *args: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "SLURMEXT_CONF": str(self.site_config)}
        command = [sys.executable, "-m", "slurmext.cli.main", *args]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=env)

    @property
    def prefix_dir(self) -> Path:
        return self.cluster.dir / "lib" / "slurmext"

    def install_arguments(self) -> list[str]:
        root = self.cluster.record.root
        include = ["--spank-include", f"{root}/usr/include"] if root else []
        return ["install", "--slurm-conf", str(self.slurm_conf), "--site-config", str(self.site_config),
                "--prefix-dir", str(self.prefix_dir), "--no-units", *include]  # fmt: skip

    def restart(self) -> None:
        for name in ("slurmctld", *(f"slurmd@{node}" for node in self.cluster.node_names)):
            self.cluster.restart(name)

    def beat(self) -> None:
        (self.run_dir / "queues.tsv").write_text(QUEUES)
        (self.run_dir / "heartbeat").write_text(str(int(time.time()) + 600 - 600))

    def sbatch(self, *args: str, user: str | None = None, env: dict[str, str] | None = None, script: str = "sleep 300"):
        self.beat()
        arguments = ["sbatch", "--output=/dev/null", *args]
        text = script if script.startswith("#!") else f"#!/bin/sh\n{script}\n"
        return self.cluster.run(arguments, user=user, env=env, check=False, stdin=text)

    def comment(self, submitted: subprocess.CompletedProcess[str]) -> str:
        assert submitted.returncode == 0, submitted.stderr
        number = submitted.stdout.split()[-1]
        return self.cluster.out("squeue", "-h", "-j", number, "-O", "admin_comment:300").strip()

    def shown(self, submitted: subprocess.CompletedProcess[str]) -> dict[str, str]:
        number = submitted.stdout.split()[-1]
        text = self.cluster.out("scontrol", "show", "job", number)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def clear(self) -> None:
        self.cluster.run(["scancel", "--state=PENDING,RUNNING", "--user=root"], check=False)
        self.cluster.run(["scancel", f"--user={USER}"], check=False)


@pytest.fixture(scope="module", params=RELEASES)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    from slurmext.devcluster.cluster import Devcluster
    from slurmext.devcluster.spec import ClusterSpec

    spec = ClusterSpec(name=f"opt-{request.param}-{os.getpid()}", nodes=2, gpus=4, release=request.param, plain=True)
    with Devcluster.up(spec) as cluster:
        found = Site(cluster)
        done = found.slurmext(*found.install_arguments(), "--yes")
        assert done.returncode == 0, done.stderr + done.stdout
        found.restart()
        yield found


@pytest.fixture(autouse=True)
def no_jobs(site: Site) -> Iterator[None]:
    yield
    site.clear()


@pytest.mark.parametrize("command", ["sbatch", "salloc", "srun"])
def test_help_shows_every_option(site: Site, command: str) -> None:
    """The options stand in --help, with their argument."""
    text = site.cluster.out(command, "--help")
    for option in OPTIONS:
        assert f"--{option.name}" in text
        assert option.metavar in text


@pytest.mark.parametrize("command", ["sbatch", "salloc", "srun"])
def test_no_option_clashes_with_slurms_own(site: Site, command: str) -> None:
    """None of our names is Slurm's, and Slurm does not say that one was ignored."""
    done = site.cluster.run([command, "--help"])
    assert "conflicting option" not in done.stderr
    own = done.stdout.split("Options provided by plugins:")[0]
    tail = done.stdout.split("Options provided by plugins:")[1]
    own += tail[tail.index("GPU scheduling options:") :] if "GPU scheduling options:" in tail else ""
    names = set(re.findall(r"--([a-z][a-z0-9-]+)", own))
    assert "partition" in names
    assert not names & {option.name for option in OPTIONS}


@pytest.mark.parametrize(
    "abbreviation", ["--qo=normal", "--part=main", "--gpus-per-n=1", "--qui", "--no-req", "--cpus-per-t=1"]
)
def test_usual_abbreviations_still_work(site: Site, abbreviation: str) -> None:
    """Slurm takes unambiguous abbreviations; those of its own common options stay unambiguous."""
    done = site.cluster.run(["sbatch", "--test-only", abbreviation, "--wrap=true"], check=False)
    assert "ambiguous" not in done.stderr
    assert "unrecognized" not in done.stderr


def test_command_line_over_environment_over_script(site: Site) -> None:
    """Slurm's usual precedence."""
    script = "#!/bin/sh\n#SBATCH --queue=research --gang-min=1\nsleep 1\n"
    assert "queue=research" in site.comment(site.sbatch("--gpus=1", script=script))
    twin = {"SLURMEXT_QUEUE": "prod/chat"}
    assert "queue=prod/chat" in site.comment(site.sbatch("--gpus=1", script=script, env=twin))
    assert "queue=research" in site.comment(site.sbatch("--gpus=1", "--queue=research", script=script, env=twin))


def test_every_option_is_annotated_and_the_job_held(site: Site) -> None:
    """The job waits for slurmextd with all that was asked for."""
    job = site.sbatch(
        "--gpus=2", "--queue=prod/chat", "--ckpt=USR2@30", "--ckpt-dir=/s/a b", "--gpu-types=h100,any", "--gang-min=1",
        "--no-preempt", "--ntasks=2",
    )  # fmt: skip
    assert site.comment(job) == (
        "slurmext/1 queue=prod/chat ckpt=USR2@30 ckpt_dir=/s/a%20b types=h100,any gang_min=1 preempt=no held=1"
    )
    shown = site.shown(job)
    assert (shown["Priority"], shown["Reason"], shown["Requeue"]) == ("0", "JobHeldUser", "1")


def test_ckpt_without_a_value_means_auto(site: Site) -> None:
    """--ckpt alone, in every way to give it."""
    assert "ckpt=auto" in site.comment(site.sbatch("--gpus=1", "--ckpt"))
    assert "ckpt=auto" in site.comment(site.sbatch("--gpus=1", env={"SLURMEXT_CKPT": "auto"}))
    assert "ckpt=auto" in site.comment(site.sbatch("--gpus=1", script="#!/bin/sh\n#SBATCH --ckpt\nsleep 1\n"))


@pytest.mark.parametrize(
    "option", [option for option in OPTIONS if option.argument is not Argument.NONE], ids=lambda o: o.name
)
@pytest.mark.parametrize("command", ["sbatch", "salloc", "srun"])
def test_a_bad_value_is_refused_in_one_line(site: Site, command: str, option) -> None:
    """Before anything is submitted: value, rule, example."""
    bad = next(value for value in option.bad if value and "\n" not in value)
    program = "--wrap=true" if command == "sbatch" else "true"
    done = site.cluster.run([command, f"--{option.name}={bad}", program], check=False)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line == (
        f"{command}: error: slurmext: --{option.name}={bad}: must be {option.rule}; "
        f"for example --{option.name}={option.example}"
    )


def test_a_bad_twin_is_refused_unless_overridden(site: Site) -> None:
    """The environment variable is named; the command line may still correct it."""
    twin = {"SLURMEXT_GANG_MIN": "0"}
    refused = site.sbatch("--gpus=1", env=twin)
    assert refused.returncode == 1
    assert "slurmext: SLURMEXT_GANG_MIN=0: must be" in refused.stderr
    assert "gang_min=1" in site.comment(site.sbatch("--gpus=1", "--gang-min=1", env=twin))


def test_unknown_queue_and_too_many_gpus_are_refused(site: Site) -> None:
    """By job_submit, with the nearest queue and the number."""
    unknown = site.sbatch("--gpus=1", "--queue=reserch")
    assert unknown.returncode != 0
    assert "no such queue; did you mean research?" in unknown.stderr
    over = site.sbatch("--gpus-per-node=4", "--nodes=2")
    assert over.returncode != 0
    assert "asks for 8 GPUs and the queue may never have more than 4" in over.stderr


@pytest.mark.parametrize(
    ("request_", "gpus"),
    [
        (["--gpus=5"], 5),
        (["--gpus=h100:5"], 5),
        (["--gres=gpu:3", "--nodes=2"], 6),
        (["--gres=gpu:h100:3", "--nodes=2"], 6),
        (["--gpus-per-node=3", "--nodes=2"], 6),
        (["--gpus-per-task=3", "--ntasks=2"], 6),
        (["--gpus-per-node=3", "--ntasks=4", "--ntasks-per-node=2"], 6),
    ],
)
def test_slurm_spells_gpu_requests_as_we_read_them(site: Site, request_: list[str], gpus: int) -> None:
    """Every way to ask for more GPUs than the queue's max is counted."""
    assert f"asks for {gpus} GPUs" in site.sbatch(*request_).stderr


def test_another_users_queue_is_denied(site: Site) -> None:
    """prod/chat is root's alone."""
    denied = site.sbatch("--gpus=1", "--queue=prod/chat", user=USER)
    assert denied.returncode != 0
    assert f"user {USER} may not use it; you may use research" in denied.stderr


def test_a_user_cannot_release_what_slurmext_holds(site: Site) -> None:
    """Release and placement by the owner fail, root's release works."""
    job = site.sbatch("--gpus=1", user=USER)
    assert job.returncode == 0, job.stderr
    number = job.stdout.split()[-1]
    for change in (
        ["release", number],
        ["update", f"JobId={number}", "ReqNodeList=n1"],
        ["update", f"JobId={number}", "AdminComment=x"],
    ):
        assert site.cluster.run(["scontrol", *change], user=USER, check=False).returncode != 0, change
    assert site.shown(job)["Priority"] == "0"
    site.cluster.run(["scontrol", "release", number])
    assert site.shown(job)["Priority"] != "0"


def test_a_stale_heartbeat_lets_the_job_run(site: Site) -> None:
    """Fail open on a real slurmctld."""
    site.beat()
    (site.run_dir / "heartbeat").write_text("1")
    done = site.cluster.run(["sbatch", "--output=/dev/null", "--gpus=1", "--wrap=sleep 30"])
    assert "held=0" in site.comment(done)
    until(lambda: site.shown(done)["JobState"] in {"RUNNING", "COMPLETED"}, 20, scene=lambda: site.shown(done))


def test_jobs_without_gpus_are_untouched(site: Site) -> None:
    """No annotation, no hold."""
    job = site.sbatch()
    assert site.comment(job) in {"", "(null)", "N/A"}
    assert site.shown(job)["Priority"] != "0"


def test_the_job_sees_its_options_and_survives_an_early_signal(site: Site) -> None:
    """--ckpt=auto: SIGUSR1 is ignored in batch shell and step, and the values are in the environment."""
    out = site.cluster.dir / "early.out"
    out.unlink(missing_ok=True)
    script = (
        "#!/bin/sh\nkill -USR1 $$; echo shell $SLURMEXT_CKPT $SLURMEXT_QUEUE\n"
        "srun sh -c 'kill -USR1 $$; echo step $SLURMEXT_CKPT'\nenv | grep -c SLURM_SPANK_ || true\n"
    )
    site.beat()
    job = site.cluster.run(
        ["sbatch", f"--output={out}", "--gpus=1", "--ckpt", "--gang-min=1", "--queue=research"], stdin=script
    )
    site.cluster.run(["scontrol", "release", job.stdout.split()[-1]])
    until(
        lambda: out.exists() and out.read_text().count("\n") >= 3, 30,
        scene=lambda: out.read_text() if out.exists() else site.shown(job),
    )  # fmt: skip
    assert out.read_text().splitlines() == ["shell auto research", "step auto", "0"]


def test_a_broken_script_refuses_no_job(site: Site) -> None:
    """An unreadable queue table: the job passes."""
    table = site.run_dir / "queues.tsv"
    site.beat()
    table.write_bytes(b"\xff\x00\t\t\t\n\n\t\n#default\n")
    done = site.cluster.run(["sbatch", "--output=/dev/null", "--gpus=1", "--wrap=true"], check=False)
    assert done.returncode == 0, done.stderr


def test_doctor_reads_the_live_cluster(site: Site) -> None:
    """What is wrong here, and only that: nobody beats the heart; the plugin's release matches."""
    (site.run_dir / "heartbeat").unlink(missing_ok=True)
    done = site.slurmext("doctor", "--json")
    assert done.returncode == 1, done.stderr
    codes = set(re.findall(r'"code": "(\w+)"', done.stdout))
    assert "HEARTBEAT" in codes
    ours = "SPANK_RELEASE SPANK_MISSING JOB_SUBMIT JOB_SUBMIT_SCRIPT PROLOG_TIMEOUT PROLOG_FLAGS HOOK_MISSING"
    slurms = "REQUEUE_DELAY MUNGE SELECT_TYPE SUBMIT_WAKE RUN_DIR"
    assert not codes & {*ours.split(), *slurms.split()}


def test_a_site_prefix_renames_the_options(site: Site) -> None:
    """--option-prefix: sx- makes --queue --sx-queue; the twins keep their names."""
    site.slurmext(*site.install_arguments(), "--yes", "--option-prefix", "sx-")
    try:
        assert "--sx-queue" in site.cluster.out("sbatch", "--help")
        assert (
            "--sx-queue=a b: must be"
            in site.cluster.run(["sbatch", "--sx-queue=a b", "--wrap=true"], check=False).stderr
        )
        assert "queue=prod/chat" in site.comment(site.sbatch("--gpus=1", "--sx-queue=prod/chat"))
        assert "queue=prod/chat" in site.comment(site.sbatch("--gpus=1", env={"SLURMEXT_QUEUE": "prod/chat"}))
    finally:
        site.slurmext(*site.install_arguments(), "--yes")


def test_zz_uninstall_leaves_slurm_as_it_was(site: Site) -> None:
    """Configuration byte for byte; Slurm runs on without the options; this test is the last."""
    done = site.slurmext("uninstall", "--prefix-dir", str(site.prefix_dir), "--yes")
    assert done.returncode == 0, done.stderr
    assert site.slurm_conf.read_text() == site.slurm_conf_before
    assert not site.prefix_dir.parent.exists()
    assert not (site.slurm_conf.parent / "job_submit.lua").exists()
    assert not site.run_dir.exists() or not any(site.run_dir.iterdir())
    site.restart()
    assert "--gang-min" not in site.cluster.out("sbatch", "--help")
    assert site.cluster.run(["sbatch", "--output=/dev/null", "--gpus=1", "--wrap=true"]).returncode == 0
