"""Munge credentials through its own `munge` and `unmunge` (munge(1), unmunge(1)): who made this payload."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from slurmext.errors import SlurmextError

TIMEOUT_S = 10


class MungeError(SlurmextError):
    """A credential could not be made or is not good; munged must run on both nodes with the same key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A checked credential: the uid of its maker and what it was made over."""

    uid: int
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MungeAuth:
    """Makes and checks credentials. `socket` is munged's, None for munge's own default."""

    munge: Path
    unmunge: Path
    socket: Path | None = None

    @classmethod
    def find(cls, *, bin_dir: Path = Path("/usr/bin"), socket: Path | None = None) -> MungeAuth:
        """The binaries next to Slurm's, else /usr/bin. Raises MungeError."""
        for folder in (bin_dir, Path("/usr/bin")):
            if (folder / "munge").exists() and (folder / "unmunge").exists():
                return cls(munge=folder / "munge", unmunge=folder / "unmunge", socket=socket)
        raise MungeError(f"neither {bin_dir} nor /usr/bin has munge and unmunge: apt install munge")

    def encode(self, payload: bytes) -> str:
        """A credential over the payload, made as this process's user. Raises MungeError."""
        return self._run(self.munge, payload).decode().strip()

    def decode(self, credential: str) -> Credential:
        """Check a credential (munged accepts each only once). Raises MungeError."""
        # An empty line separates the metadata from the payload (unmunge(1)).
        output = self._run(self.unmunge, credential.encode(), "--keys=STATUS,UID")
        head, separator, payload = output.partition(b"\n\n")
        values = dict(line.split(":", 1) for line in head.decode().splitlines() if ":" in line)
        try:
            # "UID:   root (0)"; the name may be unknown here, the number never is.
            return Credential(
                uid=int(values["UID"].rpartition("(")[2].rstrip(") ")), payload=payload if separator else b""
            )
        except (KeyError, ValueError) as error:
            raise MungeError(f"{self.unmunge} answered {head[:100]!r}") from error

    def _run(self, program: Path, content: bytes, *options: str) -> bytes:
        socket = [f"--socket={self.socket}"] if self.socket else []
        try:
            done = subprocess.run([str(program), *socket, *options], input=content, capture_output=True, check=False,
                                  timeout=TIMEOUT_S)  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MungeError(f"{program}: {error}") from error
        if done.returncode != 0:
            # unmunge says on stdout what is wrong with a credential ("STATUS: Replayed credential (17)").
            words = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            raise MungeError(f"{program.name}: {words[0] if words else f'exit status {done.returncode}'}")
        return done.stdout
