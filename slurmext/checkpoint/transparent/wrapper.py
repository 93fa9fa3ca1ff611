"""What a job of `--ckpt=transparent` runs in place of its script.

`main` starts the script, or what the newest good dump has of it, and copies its output. On the checkpoint signal it
dumps the program, confirms, and waits to be requeued; when nobody takes the job away it brings the program back and
goes on. A program that cannot be dumped is told why in the job's output, and goes on undisturbed.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slurmext.checkpoint import deadline
from slurmext.checkpoint.confirm import confirm
from slurmext.checkpoint.engine.errors import BadCheckpointError, CheckpointError, write_error
from slurmext.checkpoint.engine.lock import DirectoryLock
from slurmext.checkpoint.transparent import criu, dumps, files, obstacles
from slurmext.checkpoint.transparent.run import Run

NEAR_END_S = 600.0
STAY_S = 60.0
"""After a dump on the signal the job expects to be requeued; if it is not by then, it goes on."""
REMEDY = (
    "what cannot be saved from outside can save itself: submit it with --ckpt=auto, and have it use slurmext.checkpoint"
)
MARK = b"#slurmext: the job's own script\n"
_NO_RESTORE = 75


class Wrapper:
    """Keeps one program through its runs. `stay_s` as STAY_S; `every_s` seconds between dumps without a signal,
    0 for none; `finish` makes what CRIU wrote a dump.
    """

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        program: str,
        *,
        stay_s: float = STAY_S,
        every_s: float = 0.0,
        finish: Callable[[Path, Mapping[str, Any]], dumps.Dump] = dumps.finish,
    ) -> None:
        self._command, self._directory, self._criu = list(command), directory, program
        self._stay_s, self._every_s = stay_s, every_s
        self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._asked = self._leave = self._confirmed = self._advised = False
        self._finish = finish
        self._unsealed: dumps.Dump | None = None
        self._next_s = time.monotonic() + every_s if every_s else float("inf")

    def run(self) -> int:
        """Until the program ends; the exit status to end with. Raises CheckpointError when it cannot be started."""
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGUSR1, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_term)
        dump = self._choose()
        while True:
            status = self._one_run(dump)
            if status is not None:
                return status
            dump = self._stay()
            if dump is None:
                return 0  # requeued: nobody looks at this status

    def _choose(self) -> dumps.Dump | None:
        """The newest dump that is good; others are named."""
        for path, why in dumps.damaged(self._directory):
            say(f"{path} is damaged and not used: {why}")
        for dump in dumps.newest_first(self._directory):
            try:
                dumps.verify(dump)
            except BadCheckpointError as error:
                say(f"{dump.path} is damaged and not used: {error}")
                continue
            return dump
        return None

    def _one_run(self, dump: dumps.Dump | None) -> int | None:
        """Start or restore, and serve; an exit status, or None when the program was saved and is not running."""
        if dump is not None:
            for line in files.cut_back(list(dump.about["open_files"]), dump.path):
                say(line)
        run = Run(self._criu, self._command, dump)
        try:
            started = run.receive(None)
            if started is None or "started" not in started:
                why = (started or {}).get("failed", "it ended at once")
                if dump is None:
                    raise CheckpointError(f"cannot keep the program: {why}")
                raise CheckpointError(f"cannot go on from {dump.path}: {why}")
            if dump is not None:
                say(f"goes on from {dump.path} ({started['started']['took_s']:.2f} s)")
            return self._serve(run)
        finally:
            run.close()

    def _serve(self, run: Run) -> int | None:
        while True:
            timeout_s = max(0.0, min(self._next_s - time.monotonic(), 3600.0))
            select.select([run.talk, self._wake[0]], [], [], timeout_s)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake[0], 4096)
            if self._leave:
                self._leave = False
                run.send({"signal": int(signal.SIGTERM)})
            on_signal, self._asked = self._asked, False
            if on_signal or time.monotonic() >= self._next_s:
                if self._dump(run, on_signal=on_signal):
                    return None
                continue
            said = run.receive(0.0)
            if said is not None and "ended" in said:
                return said["ended"]["status"]

    def _dump(self, run: Run, *, on_signal: bool) -> bool:
        """Dump; True when the program stands still in it."""
        self._next_s = time.monotonic() + self._every_s if self._every_s else float("inf")
        try:
            folder = dumps.draft(self._directory)
        except CheckpointError as error:
            say(f"no checkpoint: {error}; the program goes on")
            return False
        run.send({"dump": str(folder), "leave_running": not on_signal})
        said = run.receive(None)
        if said is None or "dumped" not in said:
            if folder.exists():
                _keep_log(folder, self._directory)
            if said is not None and "ended" in said:  # it ended as we asked
                run.again(said)
                return False
            say(f"no checkpoint: {(said or {}).get('refused', 'the program is gone')}; the program goes on")
            if not self._advised:
                self._advised = True
                say(REMEDY)
            return False
        about = said["dumped"]
        run.drain(everything=on_signal)
        made = self._seal(
            folder,
            {
                "pid": about["pid"], "pipes": about["pipes"], "clock": about["clock"], "open_files": about["files"],
                "gpu": about["gpu"], "took_s": about["took_s"], "job": os.environ.get("SLURM_JOB_ID"),
                "node": os.environ.get("SLURMD_NODENAME") or socket.gethostname(), "command": self._command,
                "directory": str(Path.cwd()),
            },
        )  # fmt: skip
        if made is None:
            return on_signal
        size = dumps.size_bytes(made)
        say(
            f"saved {about['processes']} processes in {made.path} ({size >> 20} MiB, dumped in {about['took_s']:.2f} s)"
        )
        self._confirmed = confirm(step=made.serial, path=str(made.path), size_bytes=size, on_signal=on_signal)
        dumps.prune(self._directory)
        return on_signal

    def _seal(self, folder: Path, about: Mapping[str, Any]) -> dumps.Dump | None:
        """The dump, once it is on disk. Where that cannot be, what CRIU wrote is all there is of the program: it is
        brought back from that at once.
        """
        try:
            return self._finish(folder, about)
        except CheckpointError as error:
            say(f"no checkpoint: {error}; the program goes on")
            self._unsealed = dumps.Dump(path=folder, serial=0, about=about)
            return None

    def _stay(self) -> dumps.Dump | None:
        """Wait to be taken away; the dump to go on from when that does not happen."""
        if self._unsealed is not None:
            dump, self._unsealed = self._unsealed, None
            return dump
        if not self._confirmed:
            _requeue_near_end()
        until_s = time.monotonic() + self._stay_s
        while (left_s := until_s - time.monotonic()) > 0 and not self._leave:
            select.select([self._wake[0]], [], [], left_s)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake[0], 4096)
        if self._leave:
            return None
        self._asked = False
        say(f"nobody took the job away within {self._stay_s:g} s: it goes on here")
        return dumps.newest_first(self._directory)[0]

    def _on_signal(self, *_: object) -> None:
        self._asked = True

    def _on_term(self, *_: object) -> None:
        self._leave = True


def _requeue_near_end() -> None:
    """Without slurmext's daemons, and with the time limit near, nobody else requeues the job."""
    end_s = deadline.known_end_s()
    if end_s is None:
        asked = deadline.ask_slurm()
        end_s = asked[1] if asked else None
    scontrol, job = shutil.which("scontrol"), os.environ.get("SLURM_JOB_ID", "")
    if end_s is None or scontrol is None or deadline.seconds_left(end_s) > NEAR_END_S:
        return
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run([scontrol, "requeue", job], check=False, stdin=subprocess.DEVNULL, timeout=30)


def _keep_log(folder: Path, directory: Path) -> None:
    """CRIU's log of a dump that was refused, for whoever wonders; the rest goes."""
    with contextlib.suppress(OSError):
        (folder / criu.DUMP_LOG).replace(directory / "refused.log")
    shutil.rmtree(folder, ignore_errors=True)


def say(text: str) -> None:
    """A line in the job's output."""
    sys.stderr.write(f"slurmext: {text}\n")
    sys.stderr.flush()


def own_script(text: bytes, directory: Path) -> Path:
    """The job's own script out of the one that Slurm runs, under a name that is the same on every node."""
    path = directory / "script"
    if path.exists() and path.read_bytes() == text:
        return path
    draft = directory / f".script-{os.getpid()}"
    with draft.open("xb") as file:
        file.write(text)
    draft.chmod(0o700)
    draft.replace(path)
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """`wrapper [--criu PATH] SCRIPT [ARGUMENT…]`: SCRIPT holds the job's own after a line MARK, or is the program."""
    words = list(sys.argv[1:] if argv is None else argv)
    given = None
    if words[:1] == ["--criu"]:
        given, words = words[1], words[2:]
    try:
        directory = dumps.home(os.environ)
        directory.mkdir(parents=True, exist_ok=True)
        _, _, own = Path(words[0]).read_bytes().partition(MARK) if Path(words[0]).is_file() else (b"", b"", b"")
        lock = DirectoryLock(directory)
    except (OSError, CheckpointError) as error:
        say(str(error if isinstance(error, CheckpointError) else write_error(dumps.home(os.environ), error)))
        return 1
    with contextlib.closing(_Unlocker(lock)):
        if own:
            try:
                words[0] = str(own_script(own, directory))
            except OSError as error:
                say(str(write_error(directory, error)))
                return 1
        return _keep(words, directory, given)


def _keep(words: list[str], directory: Path, given: str | None) -> int:
    waiting = bool(dumps.newest_first(directory))
    try:
        if why := obstacles.of_job(os.environ):
            raise CheckpointError(f"--ckpt=transparent cannot save this job: {why}")  # noqa: TRY301
        every_s = float(os.environ.get("SLURMEXT_CKPT_EVERY_S") or 0)
        status = Wrapper(words, directory, criu.find(given), every_s=every_s).run()
    except CheckpointError as error:
        say(str(error))
        if waiting:
            say(f"the job does not begin anew while its checkpoint is in {directory}: remove that to start from the "
                "beginning, or submit it with the same --ckpt-dir where it can go on")  # fmt: skip
            return _NO_RESTORE
        say("the program runs without checkpoints")
        return subprocess.run(words, check=False).returncode
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


class _Unlocker:
    def __init__(self, lock: DirectoryLock) -> None:
        self._lock = lock

    def close(self) -> None:
        self._lock.release()


if __name__ == "__main__":
    sys.exit(main())
