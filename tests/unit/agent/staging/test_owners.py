"""Whose rights storage is read with, and whose bytes may become part of whose models."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from staging.conftest import write_model

from agent.staging.conftest import Cluster
from slurmext.adapters.transport.files import FileInlet
from slurmext.adapters.transport.identity import reading_as
from slurmext.agent.staging.catalogue import KnownModels
from slurmext.agent.staging.preloads import Preloads
from slurmext.staging.access import Access
from slurmext.staging.importer import import_model
from slurmext.staging.manifest import Manifest
from slurmext.staging.order import Source, StageState
from slurmext.staging.plan.fabric import STORAGE
from slurmext.staging.store.tier import TierKind
from slurmext.staging.transport import LinkLost, Peer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
ANN, BOB = pwd.getpwnam("nobody"), pwd.getpwnam("daemon")


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that everyone may enter: pytest's own is root's alone."""
    path = Path(tempfile.mkdtemp(prefix="slurmext-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def given_to(path: Path, uid: int, mode: int) -> Path:
    """A model's directory of this user's."""
    for each in [path, *path.rglob("*")]:
        os.chown(each, uid, 65534)
        each.chmod(mode if each.is_dir() else mode & 0o666)
    return path


def inlet(path: Path, manifest: Manifest, uid: int | None) -> FileInlet:
    return FileInlet(Peer(node=STORAGE, address=str(path)), path, manifest, owner=uid)


def test_storage_is_read_with_the_owners_rights(open_dir):
    """What the owner may not read is not read for him, though root could; what only he may read is."""
    path = given_to(write_model(open_dir / "m"), ANN.pw_uid, 0o700)
    manifest = import_model(path, "org/m", "v1").manifest
    opened = inlet(path, manifest, ANN.pw_uid)
    opened.want(range(manifest.chunk_count))
    run = opened.receive()
    assert not isinstance(run, int)
    place = bytearray(manifest.lengths[run.first])
    opened.fill(run.first, memoryview(place))
    assert any(place)
    opened.close()
    with pytest.raises(LinkLost):
        inlet(path, manifest, BOB.pw_uid)
    inlet(path, manifest, None).close()


def test_a_model_registered_over_anothers_files_is_never_read(open_dir):
    """A user who knows what a private file consists of (its manifest) and names its path gets none of it staged."""
    secret = given_to(write_model(open_dir / "secret"), 0, 0o700)
    manifest = import_model(secret, "bob/mine", "v1").manifest
    cluster = Cluster(open_dir / "room")
    try:
        engine = cluster.start("n1")
        engine.learn(manifest)
        order = replace(
            cluster.order(manifest), sources=(Source(peer=Peer(node=STORAGE, address=str(secret))),),
            access=Access(uid=BOB.pw_uid), owner=BOB.pw_uid,
        )  # fmt: skip
        engine.stage(order)
        assert not engine.wait(manifest.key, 0.5)
        [progress] = engine.progress()
        assert progress.ready_bytes == 0 and STORAGE in (progress.lost or {})
    finally:
        cluster.stop()


def test_links_put_in_place_later_lead_nowhere(open_dir):
    """Between import and staging the owner swaps a file, or a directory on the way, for a link to root's files."""
    secret = given_to(write_model(open_dir / "secret"), 0, 0o700)
    path = given_to(write_model(open_dir / "m"), ANN.pw_uid, 0o755)
    manifest = import_model(path, "org/m", "v1").manifest
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").symlink_to(secret / "model.safetensors")
    with pytest.raises(LinkLost):
        inlet(path, manifest, ANN.pw_uid)
    with pytest.raises(LinkLost):
        inlet(path, manifest, None)
    shutil.rmtree(path)
    path.symlink_to(secret)
    with pytest.raises(LinkLost):
        inlet(path, manifest, ANN.pw_uid)


def test_only_this_thread_changes_and_it_changes_back(open_dir):
    """Other threads go on as root meanwhile, with all their groups; afterwards so does this one, whatever happened."""
    (open_dir / "root").write_text("x")
    (open_dir / "root").chmod(0o600)
    inside, done = threading.Event(), threading.Event()
    other: list[object] = []

    def beside() -> None:
        inside.wait(5)
        other.append(((open_dir / "root").read_text(), os.getgroups()))
        done.set()

    groups = os.getgroups()
    thread = threading.Thread(target=beside)
    thread.start()

    def fails_inside() -> None:
        with reading_as(ANN.pw_uid):
            inside.set()
            done.wait(5)
            (open_dir / "root").read_text()

    with pytest.raises(PermissionError):
        fails_inside()
    thread.join(5)
    assert other == [("x", groups)]
    assert (open_dir / "root").read_text() == "x" and os.getgroups() == groups


def test_groups_of_the_owner_count(open_dir, monkeypatch):
    """A model that its owner reads through a group is read; a uid without a name is refused in words."""
    (open_dir / "f").write_text("x")
    os.chown(open_dir / "f", 0, 4242)
    (open_dir / "f").chmod(0o640)
    with reading_as(ANN.pw_uid), pytest.raises(PermissionError):
        (open_dir / "f").read_text()
    monkeypatch.setattr(os, "getgrouplist", lambda _name, gid: [gid, 4242])
    with reading_as(ANN.pw_uid):
        assert (open_dir / "f").read_text() == "x"
    with pytest.raises(LinkLost, match="has no name"), reading_as(3_999_999):
        pass


@pytest.fixture
def two(open_dir) -> Iterator[tuple[Cluster, Callable[..., Manifest]]]:
    """An agent, and a way to have it hold a model of somebody's."""
    cluster = Cluster(open_dir / "room")
    engine = cluster.start("n1")

    def hold(name: str, path: Path, owner: int, access: Access, *, reads: bool = True) -> Manifest:
        manifest = import_model(path, name, "v1").manifest
        engine.learn(manifest)
        sources = (Source(peer=Peer(node=STORAGE, address=str(path) if reads else "/nowhere")),)
        engine.stage(replace(cluster.order(manifest), sources=sources, access=access, owner=owner))
        engine.wait(manifest.key, 10 if reads else 0.5)
        return manifest

    yield cluster, hold
    cluster.stop()


@pytest.mark.parametrize(
    ("holder", "access", "shared"),
    [
        (ANN.pw_uid, Access(uid=ANN.pw_uid), False),
        (ANN.pw_uid, Access(), False),
        (0, Access(uid=0), False),
        (0, Access(), True),
        (BOB.pw_uid, Access(uid=BOB.pw_uid), True),
    ],
)
def test_chunks_are_taken_only_from_who_could_do_no_harm(two, open_dir, holder, access, shared):
    """Another user's model, public or not, gives nothing to and gets nothing into mine by matching checksums."""
    cluster, hold = two
    path = given_to(write_model(open_dir / "m"), holder, 0o755)
    hold("org/theirs", path, holder, access)
    mine = hold("org/mine", path, BOB.pw_uid, Access(uid=BOB.pw_uid), reads=False)
    staged = cluster.engines["n1"].find(mine.key)
    assert staged is not None
    assert (staged.ready_chunks > 0) is shared


def test_whose_a_model_is_survives_the_agent(two, open_dir):
    """The rule holds after a restart; of a model whose owner is not known nothing is taken."""
    cluster, hold = two
    path = given_to(write_model(open_dir / "m"), ANN.pw_uid, 0o755)
    theirs = hold("org/theirs", path, ANN.pw_uid, Access(gid=12))
    cluster.engines.pop("n1").stop()
    engine = cluster.start("n1")
    staged = engine.find(theirs.key)
    assert staged is not None and (staged.owner, staged.access) == (ANN.pw_uid, Access(gid=12))
    cluster.engines.pop("n1").stop()
    (cluster.room / "n1" / "memory" / "org--theirs" / "v1" / ".slurmext" / "owner").unlink()
    engine = cluster.start("n1")
    staged = engine.find(theirs.key, TierKind.MEMORY)
    assert staged is not None and staged.owner is None
    assert [each.state for each in engine.progress()] == [StageState.COMPLETE]


class Nobody:
    """A spool, and tasks, that nobody reads."""

    def add(self, _event: str, **_detail: object) -> None: ...

    def write(self, *_lines: object) -> None: ...


def test_a_job_is_given_only_what_its_user_may_read(two, open_dir):
    """Also while slurmextd is away and a node goes by what it holds: another's model is not even said to be there."""
    cluster, hold = two
    path = given_to(write_model(open_dir / "m"), ANN.pw_uid, 0o755)
    hold("org/hers", path, ANN.pw_uid, Access(uid=ANN.pw_uid))
    hold("org/all", path, ANN.pw_uid, Access())
    preloads = Preloads(
        node="n1", engine=lambda: cluster.engines["n1"], files=Nobody(), events=Nobody(),
        connected=lambda: False, catalogue=KnownModels(open_dir / "catalogue"),
    )  # fmt: skip
    hers = {each.model.reference: each for each in preloads.prepare(1, ANN.pw_uid, "org/hers,org/all", 5)}
    assert all(each.complete for each in hers.values())
    his = {each.model.reference: each for each in preloads.prepare(2, BOB.pw_uid, "org/hers,org/all,org/none", 5)}
    assert his["org/all"].complete
    assert his["org/hers"].staged is None and his["org/hers"].why == his["org/none"].why
    held = {str(one.key): one.pins for one in cluster.engines["n1"].progress()}
    assert held == {"org/hers@v1": ("job-1",), "org/all@v1": ("job-1", "job-2")}
