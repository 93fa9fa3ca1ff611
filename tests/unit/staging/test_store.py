"""What a node holds: the truth about chunks after any end, room, permissions, reuse of pages."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slurmext.staging.access import Access
from slurmext.staging.errors import NoRoom, StagingError
from slurmext.staging.importer import Imported, import_model
from slurmext.staging.names import OWN
from slurmext.staging.store.evict import Resident, victims
from slurmext.staging.store.ready import read_ready
from slurmext.staging.store.tier import Tier, TierKind

from .conftest import receive, write_model

MIB = 1 << 20


def tier_at(root: Path, kind: TierKind = TierKind.MEMORY, *, mib: int = 64, spare_mib: int = 0) -> Tier:
    return Tier(root, kind, capacity_bytes=mib * MIB, spare_bytes=spare_mib * MIB)


@pytest.fixture
def model(tmp_path: Path) -> Imported:
    """Four MiB."""
    return import_model(write_model(tmp_path / "files"), "org/m", "v1")


def test_a_complete_model_is_its_files(memory, model):
    """They have the model's names and bytes, and everyone may read them."""
    tier = tier_at(memory / "t")
    staged = tier.create(model.manifest, Access())
    assert not staged.complete
    receive(staged, model)
    assert staged.complete
    assert staged.ready_bytes == model.manifest.size
    for entry in model.manifest.files:
        path = staged.directory / entry.name
        assert path.read_bytes() == (model.tree.root / entry.name).read_bytes()
        assert path.stat().st_mode & 0o777 == 0o644
    assert tier.create(model.manifest, Access()) is staged


CRASH = """
import os, signal, sys
sys.path[:0] = {path!r}
from pathlib import Path
from staging.conftest import *
from staging.test_store import *
tier = tier_at(Path({root!r}), TierKind({kind!r}))
imported = import_model(Path({files!r}), "org/m", "v1")
staged = tier.create(imported.manifest, Access())
receive(staged, imported, range(3))
if {flush}: staged.flush()
staged.view(4)[:100] = bytes(100)  # half of a chunk
os.kill(os.getpid(), signal.SIGKILL)
"""


def crash(root: Path, files: Path, kind: TierKind, *, flush: bool) -> None:
    tests = str(Path(__file__).parents[1])
    code = CRASH.format(root=str(root), files=str(files), kind=kind.value, flush=flush, path=[tests])
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr


def test_asking_again_for_a_model_shuts_nobody_out(memory, model):
    """Not even for a moment: a job may just be opening its files. Other readers are let in at once."""
    tier = tier_at(memory / "t")
    staged = tier.create(model.manifest, Access())
    before = staged.directory.stat()
    assert before.st_mode & 0o777 == 0o755
    tier.create(model.manifest, Access())
    assert staged.directory.stat().st_ctime_ns == before.st_ctime_ns
    tier.create(model.manifest, Access(uid=0))
    assert staged.directory.stat().st_mode & 0o007 == 0


def test_a_killed_agent_finds_in_memory_what_it_had(memory, model):
    """Every chunk that was announced, and no other; the transfer goes on from there."""
    crash(memory / "t", model.tree.root, TierKind.MEMORY, flush=False)
    staged = tier_at(memory / "t").get(model.manifest.key)
    assert staged is not None
    assert staged.ready_chunks == 3
    assert staged.recheck() == []
    receive(staged, model, range(3, model.manifest.chunk_count))
    assert staged.complete


def test_on_disk_only_what_was_flushed_counts(tmp_path, model):
    """What is announced may not survive a power cut while its bytes do not."""
    crash(tmp_path / "t", model.tree.root, TierKind.DISK, flush=False)
    tier = tier_at(tmp_path / "t", TierKind.DISK)
    staged = tier.get(model.manifest.key)
    assert staged is not None and staged.ready_chunks == 0
    tier.close()
    crash(tmp_path / "u", model.tree.root, TierKind.DISK, flush=True)
    staged = tier_at(tmp_path / "u", TierKind.DISK).get(model.manifest.key)
    assert staged is not None and staged.ready_chunks == 3 and staged.recheck() == []


def test_damaged_state_is_no_truth(tmp_path, model):
    """A ready file that was cut off, changed or is another model's counts for nothing; a bad manifest removes the model."""
    tier = tier_at(tmp_path / "t", TierKind.DISK)
    staged = tier.create(model.manifest, Access())
    receive(staged, model)
    tier.close()
    ready = staged.directory / OWN / "ready"
    whole = ready.read_bytes()
    for content in (b"", whole[:-1], whole[:70] + b"\x01\x01" + whole[72:-4] + b"abcd", b"x" * len(whole)):
        ready.write_bytes(content)
        tier = tier_at(tmp_path / "t", TierKind.DISK)
        found = tier.get(model.manifest.key)
        assert found is not None and found.ready_chunks == 0
        tier.close()
        ready.write_bytes(whole)
    tier = tier_at(tmp_path / "t", TierKind.DISK)
    assert tier.models()[model.manifest.key].complete
    tier.close()
    (staged.directory / OWN / "manifest").write_bytes(b"{}")
    assert tier_at(tmp_path / "t", TierKind.DISK).models() == {}
    assert not staged.directory.exists()


def test_rechecking_finds_bytes_that_went_bad(memory, model):
    """They are forgotten, so they are fetched again."""
    tier = tier_at(memory / "t")
    staged = tier.create(model.manifest, Access())
    receive(staged, model)
    staged.view(2)[5] ^= 1
    assert staged.recheck() == [2]
    assert staged.missing() == [2]
    assert read_ready(staged.directory / OWN / "ready", model.manifest.chunk_count, staged.fingerprint)[2] == 0


def test_half_made_models_are_removed(memory, model):
    """What an agent was laying out when it died is not there afterwards."""
    tier = tier_at(memory / "t")
    staged = tier.create(model.manifest, Access())
    tier.close()
    staged.directory.rename(staged.directory.with_name(".new-v1"))
    assert tier_at(memory / "t").models() == {}
    assert list((memory / "t" / "org--m").iterdir()) == []


def several(tmp_path: Path, count: int) -> list[Imported]:
    return [
        import_model(write_model(tmp_path / f"f{at}", seeds=(at, 50, 51, 52)), "org/m", f"v{at}") for at in range(count)
    ]


def test_room_is_made_by_evicting_and_never_the_pinned(memory, tmp_path):
    """Whoever was used least goes; with everything pinned the newcomer is refused and everything stays."""
    models = several(tmp_path, 4)
    tier = tier_at(memory / "t", mib=9)
    first, second = (tier.create(model.manifest, Access()) for model in models[:2])
    receive(first, models[0])
    tier.used(second.key)
    tier.create(models[2].manifest, Access())
    assert set(tier.models()) == {second.key, models[2].manifest.key}
    assert not first.directory.exists()
    assert tier.pin(second.key, "job-1") and tier.pin(models[2].manifest.key, "job-2")
    with pytest.raises(NoRoom, match="pinned"):
        tier.create(models[3].manifest, Access())
    with pytest.raises(StagingError, match="job-1"):
        tier.evict(second.key)
    tier.close()
    tier = tier_at(memory / "t", mib=9)
    assert tier.models()[second.key].pins == {"job-1"}
    tier.unpin(second.key, "job-1")
    tier.create(models[3].manifest, Access())
    assert second.key not in tier.models()


def test_a_model_larger_than_the_tier_is_refused(memory, model):
    """And says how large both are."""
    with pytest.raises(NoRoom, match="has 4 MiB, the memory tier 3 MiB"):
        tier_at(memory / "t", mib=3).create(model.manifest, Access())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_is_an_error_not_a_crash(tmp_path, model):
    """Room is taken before anything is received; where memory runs out while receiving, receiving fails."""
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)], check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        tier = tier_at(mount / "t", TierKind.DISK)
        with pytest.raises(NoRoom):
            tier.create(model.manifest, Access())
        assert tier.models() == {}
        assert not any((mount / "t").rglob("*.safetensors"))
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_private_models_are_their_users_alone(memory, model):
    """The owner reads it, another user does not, neither can write; a group's members read the group's."""
    nobody, other = pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("daemon")
    memory.chmod(0o755)
    tier = tier_at(memory / "t")
    staged = tier.create(model.manifest, Access(uid=nobody))
    receive(staged, model)
    path = staged.directory / "config.json"

    def tries(uid: int, gid: int, mode: str) -> bool:
        words = ["/usr/bin/test", "-w" if "+" in mode else "-r", str(path)]
        return subprocess.run(words, user=uid, group=gid, extra_groups=[], check=False).returncode == 0

    assert tries(nobody, 65534, "rb")
    assert not tries(nobody, 65534, "r+b")
    assert not tries(other.pw_uid, other.pw_gid, "rb")
    tier.create(model.manifest, Access(gid=other.pw_gid))
    assert tries(other.pw_uid, other.pw_gid, "rb")
    assert not tries(nobody + 1, 65533, "rb")
    tier.create(model.manifest, Access())
    assert tries(nobody + 1, 65533, "rb")
    assert not tries(other.pw_uid, other.pw_gid, "r+b")


def test_pages_are_reused_but_never_a_private_models(memory, tmp_path):
    """The file of a public model given up serves the next; one that a job still maps does not, nor a private one."""
    import mmap

    models = several(tmp_path, 3)
    tier = tier_at(memory / "t", spare_mib=32)

    def inode_of(at: int) -> int:
        staged = tier.create(models[at].manifest, Access())
        receive(staged, models[at])
        return (staged.directory / "model.safetensors").stat().st_ino

    first = inode_of(0)
    tier.evict(models[0].manifest.key)
    assert inode_of(1) == first
    with (tier.path_of(models[1].manifest.key) / "model.safetensors").open("rb") as file:
        kept = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    before = kept[:]
    tier.evict(models[1].manifest.key)
    assert inode_of(2) != first
    assert kept[:] == before
    kept.close()
    tier.evict(models[2].manifest.key)
    private = tier.create(models[0].manifest, Access(gid=12345))
    receive(private, models[0])
    was = (private.directory / "model.safetensors").stat().st_ino
    tier.evict(private.key)
    assert all(path.stat().st_ino != was for path in (memory / "t" / ".spare").iterdir())


def test_what_is_cheapest_to_do_without_goes_first():
    """Old, seldom used and fast to fetch; no more than needed."""
    old = Resident(name="old", size=100, pinned=False, used_s=0)
    often = Resident(name="often", size=100, pinned=False, used_s=0, uses=9)
    fresh = Resident(name="fresh", size=100, pinned=False, used_s=90_000)
    pinned = Resident(name="pinned", size=1000, pinned=True, used_s=0)
    everything = [pinned, fresh, often, old]
    assert [one.name for one in victims(everything, 50, 100_000) or ()] == ["old"]
    assert [one.name for one in victims(everything, 150, 100_000) or ()] == ["old", "fresh"]
    assert victims(everything, 301, 100_000) is None
    assert victims(everything, 0, 100_000) == ()
    small = Resident(name="small", size=10, pinned=False, used_s=0, uses=0)
    assert [one.name for one in victims([small, old], 100, 1.0) or ()] == ["old"]


def test_manifest_files_are_readable_json_first_lines(memory, model):
    """So that an administrator can look."""
    staged = tier_at(memory / "t").create(model.manifest, Access())
    line = (staged.directory / OWN / "manifest").read_bytes().partition(b"\n")[0]
    assert json.loads(line)["model"] == "org/m"
    shutil.rmtree(memory / "t")
