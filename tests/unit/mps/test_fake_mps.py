"""The fake MPS does what NVIDIA's documentation says of the real one, as far as slurmext leans on it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from slurmext.testing.mps import CLIENT, build, set_faults


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("mps"))


@dataclass
class Share:
    """A daemon's directory."""

    program: Path
    folder: Path
    more: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        pipe = str(self.folder / "pipe")
        return {"PATH": "/usr/bin:/bin", "CUDA_MPS_PIPE_DIRECTORY": pipe, **self.more}

    def run(self, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, *arguments],
            input=typed,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )

    def tell(self, command: str) -> list[str]:
        done = self.run(typed=f"{command}\n")
        assert done.returncode == 0, done.stdout
        return done.stdout.splitlines()

    def client(self, *arguments: str, uid: int | None = None) -> subprocess.Popen[str]:
        argv = [str(self.program.with_name(CLIENT)), *arguments]
        one = subprocess.Popen(argv, env=self.env, user=uid, stdout=subprocess.PIPE, text=True)
        self.started.append(one)
        return one

    def pid(self) -> int:
        return int((self.folder / "pipe/nvidia-cuda-mps-control.pid").read_text())

    def end(self) -> None:
        for one in self.started:
            one.kill()
            one.wait()
            if one.stdout:
                one.stdout.close()
        self.run(typed="quit\n")


@pytest.fixture
def share(program: Path, tmp_path: Path) -> Iterator[Share]:
    share = Share(program, tmp_path)
    yield share
    share.end()


def line(client: subprocess.Popen[str]) -> str:
    assert client.stdout is not None
    return client.stdout.readline().strip()


def test_a_client_gets_a_server_with_the_limits(share: Share) -> None:
    """The percentage and the memory limit set before are the server's; memory is limited for each client."""
    assert share.run("-d").returncode == 0
    share.tell("set_default_active_thread_percentage 25")
    share.tell("set_default_device_pinned_mem_limit 0 1536M")
    assert share.tell("get_default_device_pinned_mem_limit 0") == ["1G"]
    fits, too_much = share.client("--memory", "1536", "--seconds", "30"), share.client("--memory", "1537")
    server = line(fits).split()
    assert (server[0], server[3:]) == ("OK", ["percent", "25"])
    assert line(fits) == "OK memory 1536"
    assert (line(too_much).split()[2], line(too_much)) == (server[2], "CUDA_ERROR_OUT_OF_MEMORY")
    assert share.tell("get_server_list") == [server[2]]
    assert share.tell(f"get_client_list {server[2]}") == [str(fits.pid)]
    assert share.tell(f"get_server_status {server[2]}") == ["ACTIVE"]
    assert str(fits.pid) in share.tell("ps")[1]


def test_no_daemon(share: Share) -> None:
    """Commands fail; a CUDA program goes on without MPS."""
    assert share.run(typed="get_server_list\n").returncode == 1
    assert line(share.client()) == "NO DAEMON"


def test_one_daemon_for_each_directory(share: Share) -> None:
    """A second one says so."""
    assert share.run("-d").returncode == 0
    second = share.run("-d")
    assert (second.returncode, second.stdout) == (1, "An instance of this daemon is already running\n")


def test_a_client_sent_away_leaves_the_others_alone(share: Share) -> None:
    share.run("-d")
    first, second = share.client("--seconds", "30"), share.client("--seconds", "30")
    server = line(first).split()[2]
    line(second)
    share.tell(f"terminate_client {server} {first.pid}")
    assert line(first) == "FAULT"
    assert share.tell(f"get_client_list {server}") == [str(second.pid)]


def test_a_client_killed_at_work_takes_its_server_along(share: Share) -> None:
    """The others of the server fail too, and the server says so until it is started anew."""
    share.run("-d")
    rash, calm = share.client("--seconds", "30", "--in-flight"), share.client("--seconds", "30")
    server = line(rash).split()[2]
    line(calm)
    rash.kill()
    assert line(calm) == "FAULT"
    assert share.tell(f"get_server_status {server}") == ["FAULT"]
    assert line(share.client()) == "MPS_SERVER_FAULT"
    share.tell(f"shutdown_server {server}")
    assert line(share.client()).startswith("OK server")


@pytest.mark.skipif(os.geteuid() != 0, reason="clients of other users are started by root")
def test_one_user_at_a_time(share: Share) -> None:
    """Another user's client waits until the first user's are gone; only root gives commands."""
    for folder in (share.folder, *share.folder.parents[:3], share.program.parent, *share.program.parent.parents[:2]):
        if folder != Path("/tmp"):
            folder.chmod(0o755)
    share.run("-d")
    first, second = share.client("--seconds", "1", uid=61_234), share.client(uid=61_235)
    began, server = time.monotonic(), line(first)
    assert line(second) not in {"", server}
    assert time.monotonic() - began > 0.8
    done = subprocess.run(
        [share.program], input="quit\n", env=share.env, user=61_234, capture_output=True, text=True, check=False
    )
    assert done.stdout == "Permission denied\n"


def test_quit_waits_for_clients(share: Share) -> None:
    """Unless it is told how long."""
    share.run("-d")
    client, pid = share.client("--seconds", "30"), share.pid()
    line(client)
    share.tell("quit")
    time.sleep(0.4)
    os.kill(pid, 0)
    share.tell("quit -t 0")
    assert line(client) == "FAULT"
    for _ in range(1000):
        if not (share.folder / "pipe/control").exists():
            break
        time.sleep(0.02)
    assert not (share.folder / "pipe/nvidia-cuda-mps-control.pid").exists()


def test_servers_end_with_a_daemon_that_is_killed(share: Share) -> None:
    share.run("-d")
    client = share.client("--seconds", "30")
    server = int(line(client).split()[2])
    os.kill(share.pid(), signal.SIGKILL)
    assert line(client) == "FAULT"
    for _ in range(1000):
        try:
            os.kill(server, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError("the server lives on")


def test_v3_takes_servers_from_a_file(share: Share) -> None:
    """Protocol 3: a server for each entry, with its limits, from the start."""
    config = share.folder / "mps.toml"
    config.write_text(
        'schema_version = "1.0"\n\n[servers.share]\nallowed_devices = "GPU-1"\npinned_memory_limit = "512M"\n'
        f'active_thread_percentage = "30"\nuid = {os.getuid()}\n'
    )
    assert "--protocol" in share.run("--help").stdout
    assert share.run("-d", "-p", "3", "-a", str(config)).returncode == 0
    assert len(share.run("server", "list").stdout.splitlines()) == 1
    client = share.client("--memory", "513")
    assert line(client).endswith("percent 30")
    assert line(client) == "CUDA_ERROR_OUT_OF_MEMORY"
    assert share.run("-q").returncode == 0


def test_an_older_driver_has_no_v3(tmp_path: Path) -> None:
    share = Share(build(tmp_path / "old", v3=False), tmp_path)
    assert "--protocol" not in share.run("--help").stdout
    assert share.run("-d", "-p", "3").returncode == 1
    assert not (tmp_path / "pipe").exists()


def test_what_goes_wrong_on_a_node(program: Path, tmp_path: Path) -> None:
    """Failures and delays are told by a file beside the node's GPUs."""
    gpus = tmp_path / "n1.gpus"
    share = Share(program, tmp_path, {"SLURMEXT_SIMULATED_GPUS": str(gpus)})
    set_faults(gpus, "start fail")
    assert share.run("-d").returncode == 1
    set_faults(gpus, "delay 300")
    began = time.monotonic()
    assert share.run("-d").returncode == 0
    assert time.monotonic() - began > 0.3
    set_faults(gpus, "quit hang")
    share.tell("quit")
    time.sleep(0.3)
    assert share.tell("get_server_list") == []
    set_faults(gpus)
    share.end()
