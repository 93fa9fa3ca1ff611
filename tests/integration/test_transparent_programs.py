"""The keeper of --ckpt=transparent without Slurm: what programs it saves, brings back, and goes on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slurmext.checkpoint.transparent import dumps, files, namespaces
from slurmext.devcluster import criu
from slurmext.devcluster.errors import DevclusterError
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.cluster

RUN = """\
import sys
from pathlib import Path
from slurmext.checkpoint.engine.errors import CheckpointError
from slurmext.checkpoint.transparent import dumps
from slurmext.checkpoint.transparent.wrapper import Wrapper, say
def finish(folder, about):
    if Path("disk-is-full").exists():
        raise CheckpointError("the disk is full")
    return dumps.finish(folder, about)
directory, criu, stay_s, every_s, *command = sys.argv[1:]
try:
    times = {"stay_s": float(stay_s), "every_s": float(every_s)}
    sys.exit(Wrapper(command, Path(directory), criu, finish=finish, **times).run() >> 8)
except CheckpointError as error:
    say(str(error))
    sys.exit(75)
"""
COUNTER = """\
import os, sys, tempfile, threading, time
log = open(sys.argv[1], "a", buffering=1)
temporary = tempfile.TemporaryFile()
temporary.write(b"x" * 100_000)
reader, writer = os.pipe()
ticks = [0]
def tick():
    while True:
        ticks[0] += 1
        time.sleep(0.01)
threading.Thread(target=tick, daemon=True).start()
child = os.fork()
if child == 0:
    for number in range(100_000):
        os.write(writer, b"%d\\n" % number)
        time.sleep(0.02)
for line in os.fdopen(reader):
    print(line, end="", flush=True)
    log.write(line)
    if ticks[0] < 0:
        break
"""


@pytest.fixture(scope="session")
def program() -> str:
    """A CRIU that is new enough."""
    try:
        return str(criu.ensure(print))
    except DevclusterError as error:
        pytest.skip(str(error))


@pytest.fixture
def keep(program: str, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts a program under the keeper; its output goes to `out`."""
    started: list[subprocess.Popen[bytes]] = []
    (tmp_path / "dumps").mkdir()

    def start(*command: str, stay_s: float = 60, every_s: float = 0) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", RUN, str(tmp_path / "dumps"), program, str(stay_s), str(every_s), *command]
        with (tmp_path / "out").open("ab") as out:
            started.append(subprocess.Popen(argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=tmp_path))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def said(tmp_path: Path) -> str:
    return (tmp_path / "out").read_text(errors="replace")


def numbers(text: str) -> list[int]:
    return [int(line) for line in text.splitlines() if line.isdigit()]


@pytest.fixture
def counter(tmp_path: Path) -> list[str]:
    (tmp_path / "counter.py").write_text(COUNTER)
    return [sys.executable, str(tmp_path / "counter.py"), str(tmp_path / "log")]


def saved_and_gone(keep: Callable[..., Any], counter: list[str], tmp_path: Path) -> None:
    """A run that counted, saved on the signal and was taken away."""
    before = said(tmp_path) if (tmp_path / "out").exists() else ""
    process = keep(*counter)
    until(lambda: len(numbers(said(tmp_path))) > len(numbers(before)) + 20)
    process.send_signal(signal.SIGUSR1)
    until(lambda: said(tmp_path).count("saved") > before.count("saved"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_processes_threads_pipes_and_temporary_files_come_back(
    keep: Callable[..., Any], counter: list[str], tmp_path: Path
) -> None:
    """Every number is counted once, in the output and in the program's own log."""
    saved_and_gone(keep, counter, tmp_path)
    count = len(numbers(said(tmp_path)))
    keep(*counter)
    until(lambda: len(numbers(said(tmp_path))) > count + 20)
    assert "goes on from" in said(tmp_path)
    counted = numbers(said(tmp_path))
    assert counted == list(range(len(counted)))
    logged = numbers((tmp_path / "log").read_text())
    assert logged == list(range(len(logged)))


def test_a_damaged_dump_is_named_and_the_one_before_is_used(
    keep: Callable[..., Any], counter: list[str], tmp_path: Path
) -> None:
    """A flipped bit in the newest; with every dump damaged the program begins anew."""
    saved_and_gone(keep, counter, tmp_path)
    saved_and_gone(keep, counter, tmp_path)
    newest, before = dumps.newest_first(tmp_path / "dumps")
    pages = newest.path / "pages-1.img"
    content = bytearray(pages.read_bytes())
    content[len(content) // 2] ^= 1
    pages.write_bytes(content)
    keep(*counter)
    until(lambda: said(tmp_path).count(f"goes on from {before.path}") == 2)
    assert f"{newest.path} is damaged and not used: pages-1.img does not match its checksum" in said(tmp_path)
    assert "is cut back to" in said(tmp_path), "the log had grown since then"


def test_a_program_that_nobody_takes_away_goes_on_where_it_was(
    keep: Callable[..., Any], counter: list[str], tmp_path: Path
) -> None:
    """The reclaim was called off: after a while the program is brought back in place."""
    process = keep(*counter, stay_s=0.5)
    until(lambda: len(numbers(said(tmp_path))) > 20)
    process.send_signal(signal.SIGUSR1)
    until(lambda: "nobody took the job away" in said(tmp_path))
    count = len(numbers(said(tmp_path)))
    until(lambda: len(numbers(said(tmp_path))) > count + 20)
    counted = numbers(said(tmp_path))
    assert counted == list(range(len(counted)))


def test_dumps_now_and_then_do_not_stop_the_program(
    keep: Callable[..., Any], counter: list[str], tmp_path: Path
) -> None:
    """Killed without warning it goes on from the last one, its log cut back to there; two dumps are kept."""
    process = keep(*counter, every_s=0.7)
    until(lambda: said(tmp_path).count("saved") >= 3)
    process.kill()
    process.wait()
    assert len(dumps.newest_first(tmp_path / "dumps")) == 2
    keep(*counter)
    until(lambda: "goes on from" in said(tmp_path))
    count = len(numbers((tmp_path / "log").read_text()))
    until(lambda: len(numbers((tmp_path / "log").read_text())) > count + 20)
    logged = numbers((tmp_path / "log").read_text())
    assert logged == list(range(len(logged)))


def test_what_a_program_read_must_still_be_the_same(tmp_path: Path) -> None:
    """A file that changed, or is gone, is named; one that grew is cut back and nothing of it is lost."""
    read, written = tmp_path / "data", tmp_path / "log"
    read.write_text("12345")
    written.write_text("one two")
    entries = [
        {"path": str(read), "size": 5, "writes": False},
        {"path": str(written), "size": 3, "writes": True},
    ]
    (line,) = files.cut_back(entries, tmp_path)
    assert "is cut back to 3 bytes" in line
    assert written.read_text() == "one"
    assert (tmp_path / "after-dump-1-log").read_text() == " two"
    read.write_text("123456")
    with pytest.raises(Exception, match="it was changed"):
        files.cut_back(entries, tmp_path)
    read.unlink()
    with pytest.raises(Exception, match="is not here"):
        files.cut_back(entries, tmp_path)


def test_the_exit_status_is_the_programs(keep: Callable[..., Any], tmp_path: Path) -> None:
    """Also of one that ends while it is being saved."""
    assert keep("/bin/sh", "-c", "echo hello; exit 7").wait(20) == 7
    assert "hello" in said(tmp_path)


def test_the_clock_goes_on_where_it_was() -> None:
    """A program that sleeps until a point of its monotonic clock does not oversleep on a node booted later."""
    code = (
        "import json, os, sys, time\n"
        "from slurmext.checkpoint.transparent import namespaces\n"
        "namespaces.enter(clock_s=(5e6, 6e6))\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    print(json.dumps([time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME), os.getpid()]), flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(pid, 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "make namespaces" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    monotonic, boottime, pid = json.loads(done.stdout)
    assert (round(monotonic), round(boottime), pid) == (5_000_000, 6_000_000, 1)
    assert os.getpid() != 1
    assert namespaces.LAST_CAP >= 40


def test_a_dump_that_cannot_be_made_durable_costs_nothing(
    keep: Callable[..., Any], counter: list[str], tmp_path: Path
) -> None:
    """The program, which stands still in what CRIU wrote, is brought back from that."""
    (tmp_path / "disk-is-full").touch()
    process = keep(*counter)
    until(lambda: len(numbers(said(tmp_path))) > 20)
    process.send_signal(signal.SIGUSR1)
    until(lambda: "no checkpoint: the disk is full; the program goes on" in said(tmp_path))
    count = len(numbers(said(tmp_path)))
    until(lambda: len(numbers(said(tmp_path))) > count + 20)
    counted = numbers(said(tmp_path))
    assert counted == list(range(len(counted)))
