"""CRIU as an ordinary user inside a user namespace: `criu dump` and `criu restore` (criu(8)), and what they refuse."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from slurmext.checkpoint.engine.errors import CheckpointError
from slurmext.checkpoint.transparent import namespaces

LEAST = 4
GHOSTS = "64G"
"""Deleted files that are still open go along up to this size: shared memory of data loaders is made of them."""
DUMP_LOG, RESTORE_LOG = "dump.log", "restore.log"
_PLACES = ("/usr/sbin/criu", "/usr/local/sbin/criu", "/usr/local/bin/criu", "/usr/bin/criu")
_ERROR = re.compile(r"Error \([^)]*\): (?P<what>.*)")
# CRIU says these on every run of a user; it goes on without.
_HARMLESS = ("Unexpected error: -1(Operation not permitted)", "Can't setup RLIMIT_NOFILE")
_MEANINGS = (
    (r"[Cc]onnected TCP socket|tcp-established|Dumping.*inet.*failed", "it has an open network connection"),
    (r"External socket|external stream|unix socket.*(peer|external)|ext-unix-sk|not connected.*unix",
     "it is connected to a program outside of the job (a unix socket)"),
    (r"Can't lookup mount|Can't find .*mountpoint", "it has a file open on a mount that only root can see"),
    (r"File (?P<file>.*) has bad (size|mode|build-ID)", "{file} has changed since the checkpoint"),
    (r"Can't open file (?P<file>.*) on restore", "{file} is not on this node"),
    (r"nvidia|/dev/infiniband|Can't dump file.*chr|Unsupported.*(chr|device)|file of unknown type",
     "it has a device open whose state CRIU cannot save"),
    (r"tty|terminal|ctl_tty", "it has a terminal open"),
    (r"ptrace|traced by|Unable to.*(seize|interrupt)", "a debugger holds one of its processes"),
    (r"cpu.*(not supported|incompatible|feature)|CPU", "this node's processor lacks features of the one it ran on"),
    (r"No space left", "no space is left for the dump"),
)  # fmt: skip


class CriuError(CheckpointError):
    """CRIU could not save or restore the program; the message says why, and where CRIU's own log is."""


def find(given: str | None = None) -> str:
    """The path of a CRIU that is new enough. Raises CriuError with what to install."""
    asked = given or os.environ.get("SLURMEXT_CRIU")
    found = asked or next((path for path in _PLACES if Path(path).exists()), None) or shutil.which("criu")
    if not found:
        raise CriuError("--ckpt=transparent needs CRIU 4 or later on the node, and there is none: install criu")
    try:
        said = subprocess.run([found, "--version"], check=False, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CriuError(f"{found} cannot be run: {error}") from error
    version = re.search(r"Version: (\d+)\.(\d+)", said)
    if version is None or int(version[1]) < LEAST:
        name = f"{version[1]}.{version[2]}" if version else "of an unknown version"
        raise CriuError(f"--ckpt=transparent needs CRIU {LEAST} or later, and {found} is {name}: install a newer one")
    return found


def dump(program: str, pid: int, folder: Path, pipes: list[int], *, leave: bool = False) -> float:
    """Save the process `pid` and those below it into `folder`, and end them unless they are to be left, stopped.

    `pipes` are inodes of pipes that lead out of the program. Returns the seconds it took. Raises CriuError: the
    program goes on as if nothing had been.
    """
    outside = [word for inode in pipes for word in ("--external", f"pipe:[{inode}]")]
    words = ["dump", "--tree", str(pid), "--log-file", DUMP_LOG, *outside]
    return _run(program, [*words, *(["--leave-stopped"] if leave else [])], folder, DUMP_LOG, ())


def restore(program: str, folder: Path, pipes: dict[int, int]) -> float:
    """Bring the program of `folder` back; `pipes` maps inodes of its pipes to descriptors that take their place.

    Returns the seconds it took. Raises CriuError: nothing runs then.
    """
    words = ["restore", "--restore-detached", "--log-file", RESTORE_LOG]
    for inode, descriptor in pipes.items():
        words += ["--inherit-fd", f"fd[{descriptor}]:pipe:[{inode}]"]
    return _run(program, words, folder, RESTORE_LOG, tuple(pipes.values()))


def _run(program: str, words: list[str], folder: Path, log: str, descriptors: tuple[int, ...]) -> float:
    began_s = time.monotonic()
    command = [
        program,
        words[0],
        "--unprivileged",
        "--images-dir",
        str(folder),
        "--ghost-limit",
        GHOSTS,
        "-v2",
        *words[1:],
    ]
    restoring = words[0] == "restore"
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=not restoring,  # restored processes must not keep our pipes open
        stdout=subprocess.DEVNULL if restoring else None,
        stderr=subprocess.DEVNULL if restoring else None,
        pass_fds=descriptors,
        preexec_fn=lambda: namespaces.give_capabilities(set_uid=not restoring),
    )
    if done.returncode != 0:
        raise CriuError(f"{reason(folder / log)} (CRIU's log: {folder / log})")
    return time.monotonic() - began_s


def reason(log: Path) -> str:
    """What CRIU's log says went wrong, in plain words where it is known."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "CRIU did not start"
    errors = [found["what"] for line in lines if (found := _ERROR.search(line))]
    errors = [what for what in errors if not any(word in what for word in _HARMLESS)]
    for what in errors:
        for pattern, meaning in _MEANINGS:
            if found := re.search(pattern, what):
                return f"{meaning.format(**found.groupdict())}: {what}"
    return errors[0] if errors else "CRIU failed without a word"
