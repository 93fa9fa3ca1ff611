"""Models on local disk: what counts after any end, a disk that is full, jobs that read while a model arrives."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import xxhash

from slurmext.staging.access import Access
from slurmext.staging.arriving import Arriving, Stalled
from slurmext.staging.errors import NoRoom, NotStaged
from slurmext.staging.importer import Imported, import_model
from slurmext.staging.loader import load, stream
from slurmext.staging.manifest import FileEntry, Manifest
from slurmext.staging.names import OWN, ModelKey
from slurmext.staging.store.tier import Tier, TierKind

from .conftest import noise, receive, write_model

MIB = 1 << 20


def tier_at(root: Path, kind: TierKind = TierKind.DISK, *, mib: int = 64) -> Tier:
    return Tier(root, kind, capacity_bytes=mib * MIB)


@pytest.fixture
def model(tmp_path: Path) -> Imported:
    """Four MiB."""
    return import_model(write_model(tmp_path / "files"), "org/m", "v1")


CHUNKS, CHUNK = 6000, 512
DYING = """
import random, signal, sys
from slurmext.staging.access import Access
sys.path[:0] = {path!r}
from staging.test_disk_tier import *
tier = tier_at(Path({root!r}), TierKind({kind!r}))
staged = tier.create(fine_grained(), Access())
content = noise(CHUNKS * CHUNK)
for number, index in enumerate(random.Random(7).sample(staged.missing(), len(staged.missing()))):
    staged.view(index)[:] = content[index * CHUNK : (index + 1) * CHUNK]
    assert staged.check(index)
    staged.mark(index)
    if number % 300 == 299:
        staged.flush()
        print(number + 1, flush=True)
    if number == {last}:
        signal.pause()
"""


def fine_grained() -> Manifest:
    """A model of thousands of chunks in little room."""
    content = noise(CHUNKS * CHUNK)
    digests = (xxhash.xxh3_128_digest(content[at : at + CHUNK]) for at in range(0, len(content), CHUNK))
    return Manifest(
        key=ModelKey("org/fine", "v1"),
        files=(FileEntry(name="w.bin", size=len(content), sha256="00" * 32),),
        lengths=array("I", [CHUNK] * CHUNKS),
        digests=b"".join(digests),
    )


@pytest.mark.parametrize("kind", list(TierKind))
def test_thousands_of_chunks_are_what_they_are_said_to_be_after_kill_9(tmp_path, memory, kind):
    """Killed wherever it was, twice: what was flushed (in memory: marked) is there, nothing that is not good is."""
    root = (memory if kind is TierKind.MEMORY else tmp_path) / "t"
    had = 0
    for marks in (600, 1500):
        code = DYING.format(path=[str(Path(__file__).parents[1])], root=str(root), kind=kind.value, last=marks + 1000)
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as agent:
            assert agent.stdout is not None
            while int(agent.stdout.readline()) < marks:
                pass
            os.kill(agent.pid, signal.SIGKILL)
        tier = tier_at(root, kind)
        staged = tier.models()[ModelKey("org/fine", "v1")]
        assert had + marks <= staged.ready_chunks < CHUNKS
        assert staged.recheck() == []
        assert staged.ready_bytes == staged.ready_chunks * CHUNK
        had = staged.ready_chunks
        tier.close()


def test_whoever_waits_for_a_model_on_disk_hears_of_it_when_it_is_there_for_good(tmp_path, model):
    """All its chunks are good before: what a killed agent would have lost is not called complete."""
    tier = tier_at(tmp_path / "t")
    staged = tier.create(model.manifest, Access())
    with staged._flushing:
        receiving = threading.Thread(target=receive, args=(staged, model))
        receiving.start()
        while not staged.complete:
            receiving.join(0.01)
        assert not staged.settled
        assert not staged.wait(0.05)
        assert not load_ready(staged.directory)
    assert staged.wait(10) and staged.settled
    assert load_ready(staged.directory)
    receiving.join()


def load_ready(directory: Path) -> bool:
    """Whether a job finds a model complete there."""
    try:
        return bool(load(directory, framework="numpy"))
    except NotStaged:
        return False


ENDING = """
import os, sys, threading, time
sys.path[:0] = {path!r}
from staging.test_disk_tier import *
imported = import_model(Path({files!r}), "org/m", "v1")
tier = tier_at(Path({root!r}))
staged = tier.create(imported.manifest, Access())
staged._flushing.acquire()  # the disk is slow
threading.Thread(target=receive, args=(staged, imported), daemon=True).start()
while not staged.complete:
    time.sleep(0.01)
threading.Timer(0.3, staged._flushing.release).start()
tier.close()
os._exit(0)
"""


def test_an_agent_that_is_ended_while_the_disk_still_writes_loses_nothing(tmp_path, model):
    """A job's load() finds the model complete afterwards; it did not, and waited for what was all there."""
    code = ENDING.format(path=[str(Path(__file__).parents[1])], root=str(tmp_path / "t"), files=str(model.tree.root))
    subprocess.run([sys.executable, "-c", code], check=True)
    tier = tier_at(tmp_path / "t")
    staged = tier.models()[model.manifest.key]
    assert staged.settled and staged.recheck() == []
    weights = load(staged.directory, framework="numpy")
    assert weights["layer.3"].tobytes() == noise(MIB, 3)


def test_a_model_that_arrives_on_disk_is_streamed(tmp_path, model):
    """The file that says what is good is replaced now and then there, and is not there at first."""
    tier = tier_at(tmp_path / "t")
    staged = tier.create(model.manifest, Access())
    assert not (staged.directory / OWN / "ready").exists()
    given: list[str] = []

    def take() -> None:
        for name, tensor in stream(staged.directory, framework="numpy", wait_s=30):
            assert tensor.tobytes() == noise(MIB, int(name[-1]))
            given.append(name)

    taker = threading.Thread(target=take)
    taker.start()
    count = model.manifest.chunk_count
    for begin, end, wanted in ((0, count - 3, 2), (count - 3, count, 4)):
        receive(staged, model, range(begin, end))
        staged.flush()
        while len(given) < wanted and taker.is_alive():
            taker.join(0.01)
    taker.join(10)
    assert given == [f"layer.{at}" for at in range(4)]


def test_a_model_that_comes_again_elsewhere_is_not_the_one_that_was_waited_for(tmp_path, model):
    """Evicted and received anew, its files are others: nothing is given of the old ones."""
    tier = tier_at(tmp_path / "t")
    staged = tier.create(model.manifest, Access())
    receive(staged, model, [0, 1])
    staged.flush()
    file = staged.directory / "model.safetensors"
    waited_for = Arriving(staged.directory, [file], wait_s=30)
    tier.evict(staged.key)
    receive(tier.create(model.manifest, Access()), model)
    with pytest.raises(Stalled, match="evicted"):
        waited_for.wait(0, 0, file.stat().st_size)


def test_a_directory_is_waited_for(tmp_path, model):
    """As long as was said; then it is named as what it is: not complete."""
    tier = tier_at(tmp_path / "t")
    staged = tier.create(model.manifest, Access())
    with pytest.raises(NotStaged, match="is not complete: wait"):
        load(staged.directory, framework="numpy")
    threading.Timer(0.2, lambda: receive(staged, model)).start()
    assert len(load(staged.directory, framework="numpy", wait_s=30)) == 4


@contextmanager
def small_disk(path: Path, mib: int) -> Iterator[Path]:
    path.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(path)], check=False).returncode
    ):
        pytest.skip("cannot mount here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_disk_that_became_full_loses_nothing_and_goes_on_when_there_is_room(tmp_path, model):
    """Somebody else fills it while a model arrives: said with the reason; with room again it needs no byte anew."""
    with small_disk(tmp_path / "disk", 80) as disk:
        tier = tier_at(disk / "t")
        staged = tier.create(model.manifest, Access())
        receive(staged, model, range(3))
        staged.flush()
        free = os.statvfs(disk)
        with (disk / "else").open("wb") as other:
            os.posix_fallocate(other.fileno(), 0, free.f_bavail * free.f_frsize)
        with pytest.raises(NoRoom, match="No space left on device"):
            receive(staged, model, range(3, model.manifest.chunk_count))
        assert staged.fault is not None and "No space left" in staged.fault
        assert not staged.settled and not staged.wait(0)
        again = tier_at(disk / "t").models()[model.manifest.key]
        assert again.ready_chunks == 3 and again.recheck() == []
        (disk / "else").unlink()
        assert tier.create(model.manifest, Access()) is staged
        staged.flush()
        assert staged.settled
        tier.close()
        assert tier_at(disk / "t").models()[model.manifest.key].complete


@contextmanager
def limited(what: int, value: int) -> Iterator[None]:
    """A limit of this process for a moment."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def test_what_could_not_be_laid_out_takes_no_room(tmp_path, model):
    """A quota that ends in the middle of it: the reason is said and nothing is left behind."""
    tier = tier_at(tmp_path / "t")
    with limited(resource.RLIMIT_FSIZE, MIB), pytest.raises(NoRoom, match="File too large"):
        tier.create(model.manifest, Access())
    assert tier.models() == {}
    assert [path for path in (tmp_path / "t").rglob("*") if path.is_file()] == []
    receive(tier.create(model.manifest, Access()), model)
    assert tier.models()[model.manifest.key].settled


CRAMPED = """
import resource, sys
sys.path[:0] = {path!r}
from staging.test_disk_tier import *
resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
assert tier_at(Path({root!r})).models() == {{}}
"""


def test_models_that_cannot_be_opened_now_are_not_removed(tmp_path):
    """Too many open files, for one: the next agent finds them."""
    files = write_model(tmp_path / "many")
    for number in range(60):
        (files / f"{number}.txt").write_text("x")
    model = import_model(files, "org/m", "v1")
    tier = tier_at(tmp_path / "t")
    receive(tier.create(model.manifest, Access()), model)
    tier.close()
    code = CRAMPED.format(path=[str(Path(__file__).parents[1])], root=str(tmp_path / "t"))
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "is left alone: [Errno 24] Too many open files" in done.stderr
    assert tier_at(tmp_path / "t").models()[model.manifest.key].complete
