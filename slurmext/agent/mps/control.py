"""Speaks to nvidia-cuda-mps-control, one daemon for each pipe directory: the classic shell (protocol 2) and MPS v3.

https://docs.nvidia.com/deploy/mps/ (Legacy MPS v2 interface; MPS v3 interface and configuration file).
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slurmext.errors import SlurmextError

log = logging.getLogger(__name__)

PID_FILE = "nvidia-cuda-mps-control.pid"
COMMAND_S = 10.0
START_S = 10.0
_PIDS = re.compile(r"\d+")


class MpsError(SlurmextError):
    """nvidia-cuda-mps-control could not be run or did not do as it was told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareSetup:
    """What a daemon is for: a GPU or MIG instance by UUID, a user, limits on the server's side."""

    folder: Path
    device: str
    uid: int
    share_pct: int
    memory_mib: int

    @property
    def pipe(self) -> Path:
        """Where the daemon's sockets are."""
        return self.folder / "pipe"

    @property
    def logs(self) -> Path:
        """Where it writes."""
        return self.folder / "log"


class MpsControl:
    """Starts, asks and ends control daemons. `protocol` auto: MPS v3 where the program knows it."""

    def __init__(self, program: Path, *, protocol: Literal["auto", "classic", "v3"] = "auto") -> None:
        self._program = program
        self._v3: bool | None = {"classic": False, "v3": True}.get(protocol)

    def start(self, setup: ShareSetup) -> int:
        """Start a daemon and its server with the share's limits; returns the daemon's pid. Raises MpsError.

        The limits are in the daemon's environment as well: a client that came before they were set would have them too.
        """
        arguments = ["-d"]
        if self.speaks_v3():
            config = setup.folder / "mps.toml"
            config.write_text(toml_of(setup), encoding="ascii")
            arguments += ["-p", "3", "-a", str(config)]
        self._run(setup, arguments)
        pid = self._wait_for_pid(setup)
        if not self.speaks_v3():
            self.tell(setup, f"set_default_active_thread_percentage {setup.share_pct}")
            self.tell(setup, f"set_default_device_pinned_mem_limit 0 {setup.memory_mib}M")
            self.tell(setup, f"start_server -uid {setup.uid}")
        return pid

    def speaks_v3(self) -> bool:
        """Whether protocol 3 is used."""
        if self._v3 is None:
            try:
                told = subprocess.run([str(self._program), "--help"], stdin=subprocess.DEVNULL, capture_output=True,
                                      timeout=COMMAND_S, check=False, env=_bare())  # fmt: skip
                self._v3 = b"--protocol" in told.stdout + told.stderr
            except (OSError, subprocess.TimeoutExpired):
                return False
        return self._v3

    def tell(self, setup: ShareSetup, command: str) -> str:
        """One command to a share's classic daemon; its answer. Raises MpsError."""
        return self._run(setup, [], typed=f"{command}\n")

    def servers(self, setup: ShareSetup) -> list[int]:
        """Pids of the share's servers. Raises MpsError."""
        return [int(pid) for pid in _PIDS.findall(self.tell(setup, "get_server_list"))]

    def clients(self, setup: ShareSetup, server: int) -> list[int]:
        """Pids of a server's clients. Raises MpsError."""
        return [int(pid) for pid in _PIDS.findall(self.tell(setup, f"get_client_list {server}"))]

    def is_well(self, setup: ShareSetup) -> bool:
        """Whether no server of the share is in the state that a crashed client left it in. Raises MpsError."""
        if self.speaks_v3():
            return True  # v3 has no word for it
        return not any("FAULT" in self.tell(setup, f"get_server_status {server}") for server in self.servers(setup))

    def terminate_client(self, setup: ShareSetup, server: int, client: int) -> None:
        """Take a client out of its server without harm to the others. Raises MpsError."""
        self.tell(setup, f"terminate_client {server} {client}")

    def quit(self, setup: ShareSetup) -> None:
        """Ask the daemon to end. Raises MpsError."""
        if self.speaks_v3():
            self._run(setup, ["-q"])
        else:
            self.tell(setup, "quit")

    def _wait_for_pid(self, setup: ShareSetup) -> int:
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s:
            pid = pid_in(setup)
            if pid and started(pid):
                return pid
            time.sleep(0.01)
        raise MpsError(f"{self._program} -d left no {PID_FILE} in {setup.pipe}; see {setup.logs}/control.log")

    def _run(self, setup: ShareSetup, arguments: list[str], *, typed: str = "") -> str:
        try:
            done = subprocess.run(
                [str(self._program), *arguments],
                input=typed.encode(),
                # A file rather than a pipe would be needed if the daemon kept it open; it closes what it inherits.
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_environment(setup),
                cwd="/",
                timeout=COMMAND_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise MpsError(f"{self._program} did not answer within {COMMAND_S:g} s ({typed.strip()})") from error
        except OSError as error:
            raise MpsError(f"cannot run {self._program} (agent.slices.mps_control): {error.strerror}") from error
        said = done.stdout.decode(errors="replace").strip()
        if done.returncode != 0:
            raise MpsError(f"{self._program} {' '.join(arguments) or typed.strip()}: {said or done.returncode}")
        return said


def _bare() -> dict[str, str]:
    """No setting of the agent's own reaches a share; only where the driver is found."""
    passed = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "SLURMEXT_SIMULATED_GPUS") if name in os.environ}
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C"} | passed


def _environment(setup: ShareSetup) -> dict[str, str]:
    return _bare() | {
        "CUDA_MPS_PIPE_DIRECTORY": str(setup.pipe),
        "CUDA_MPS_LOG_DIRECTORY": str(setup.logs),
        "CUDA_VISIBLE_DEVICES": setup.device,
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(setup.share_pct),
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={setup.memory_mib}M",
    }


def toml_of(setup: ShareSetup) -> str:
    """The share as an MPS v3 configuration file."""
    return (
        'schema_version = "1.0"\n\n[servers.share]\n'
        f'allowed_devices = "{setup.device}"\n'
        f'pinned_memory_limit = "{setup.memory_mib}M"\n'
        f'active_thread_percentage = "{setup.share_pct}"\n'
        f"uid = {setup.uid}\n"
    )


def pid_in(setup: ShareSetup) -> int:
    """What the daemon wrote of itself; 0 when there is nothing."""
    try:
        return int((setup.pipe / PID_FILE).read_text(encoding="ascii").strip() or 0)
    except (OSError, ValueError):
        return 0


def started(pid: int, proc: str = "/proc") -> str:
    """When the process started, in ticks since boot; "" when it is gone or a zombie. With the pid it names one."""
    try:
        with open(f"{proc}/{pid}/stat", "rb") as file:  # noqa: PTH123
            fields = file.read(4096).rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if not fields or fields[0] in {b"Z", b"X"} else fields[19].decode()


def daemons_of(pid: int, proc: str = "/proc") -> list[int]:
    """The processes that a control daemon started: its servers."""
    found = []
    for name in os.listdir(proc):
        if name.isdigit():
            try:
                with open(f"{proc}/{name}/stat", "rb") as file:  # noqa: PTH123
                    if int(file.read(4096).rpartition(b")")[2].split()[1]) == pid:
                        found.append(int(name))
            except (OSError, ValueError, IndexError):
                continue
    return found


def end_process(pid: int, ticks: str, *, patience_s: float = 3.0) -> bool:
    """TERM and then KILL exactly this process; True once it is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            return True
        try:
            if started(pid) != ticks:
                return True
            signal.pidfd_send_signal(handle, number)
        except OSError:
            return True
        finally:
            os.close(handle)
        until_s = time.monotonic() + patience_s
        while time.monotonic() < until_s:
            if started(pid) != ticks:
                return True
            time.sleep(0.01)
    return False
