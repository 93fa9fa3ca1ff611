"""Runs one Slurm command; translates its failures."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slurmext.errors import SlurmRefused, SlurmUnavailable

# What the commands say when slurmctld (or the way to it) is the trouble rather than the request.
_UNREACHABLE = (
    "Unable to contact slurm controller",
    "Unable to contact",
    "Connection refused",
    "Connection timed out",
    "Socket timed out",
    "Zero Bytes were transmitted",
    "Could not establish a configuration source",
    "Protocol authentication error",
    "backup controller",
    "in standby mode",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command printed, and its exit code."""

    stdout: str
    stderr: str
    code: int


class SlurmRunner:
    """Runs commands of one Slurm installation: `bin_dir/<command>` with its SLURM_CONF. Counts calls in `calls`."""

    def __init__(self, bin_dir: Path, conf: Path | None = None, *, timeout_s: float = 30) -> None:
        self._bin_dir = bin_dir
        self._timeout_s = timeout_s
        self.calls = 0
        self._env = {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C",
            # times as Unix seconds, whatever the site's zone and clock changes
            "SLURM_TIME_FORMAT": "%s",
            "TZ": "UTC",
        }
        if conf is not None:
            self._env["SLURM_CONF"] = str(conf)
        elif "SLURM_CONF" in os.environ:
            self._env["SLURM_CONF"] = os.environ["SLURM_CONF"]

    def run(self, command: str, args: Sequence[str], *, env: Mapping[str, str] | None = None) -> Answer:
        """The command's answer, whatever its exit code. Raises SlurmUnavailable when Slurm is out of reach."""
        self.calls += 1
        path = self._bin_dir / command
        try:
            done = subprocess.run(
                [str(path), *args],
                env=self._env | dict(env or {}),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise SlurmUnavailable(f"{command} did not answer within {self._timeout_s:g} s; is slurmctld up?") from late
        except OSError as missing:
            raise SlurmUnavailable(
                f"cannot run {path}: {missing.strerror}; set slurm.bin_dir in slurmext.yaml"
            ) from missing
        answer = Answer(
            stdout=done.stdout.decode(errors="replace"),
            stderr=done.stderr.decode(errors="replace").strip(),
            code=done.returncode,
        )
        if answer.code != 0 and any(sign in answer.stderr for sign in _UNREACHABLE):
            raise SlurmUnavailable(f"{command}: {answer.stderr.splitlines()[-1]}")
        return answer

    def start(self, command: str, args: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a command that nobody waits for. Raises SlurmUnavailable when it cannot be run."""
        self.calls += 1
        path = self._bin_dir / command
        try:
            return subprocess.Popen(
                [str(path), *args],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError as missing:
            raise SlurmUnavailable(
                f"cannot run {path}: {missing.strerror}; set slurm.bin_dir in slurmext.yaml"
            ) from missing

    def must(self, command: str, args: Sequence[str]) -> str:
        """Standard output of a command that must succeed. Raises SlurmRefused with Slurm's words otherwise."""
        answer = self.run(command, args)
        if answer.code != 0:
            said = answer.stderr.splitlines()[-1] if answer.stderr else f"exit code {answer.code}"
            raise SlurmRefused(f"{command} {' '.join(args)}: {said}")
        return answer.stdout
