"""Who may do what with models, what is refused, and in which words."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from models.conftest import ANN, BOB, EVE, ROOT, Site, made
from slurmext.errors import SlurmextError, StoreUnavailable, UsageError
from slurmext.model.staged_model import ModelEntry, ModelReplica
from slurmext.service.models.quotas import QuotaExceeded
from slurmext.service.models.uploads import NoUpload
from slurmext.staging.errors import BadManifest, BadModel, NameTaken, UnknownModel
from slurmext.staging.kinds import StageState, TierKind
from slurmext.staging.manifest import CHUNK_BYTES


def copy_of(entry: ModelEntry, node: str, *, pins: tuple[str, ...] = (), done: int | None = None) -> ModelReplica:
    """A copy of it in a node's memory."""
    ready = entry.size if done is None else done
    return ModelReplica(
        node=node, tier=TierKind.MEMORY, key=entry.key, fingerprint=entry.fingerprint, ready_bytes=ready,
        state=StageState.COMPLETE if ready == entry.size else StageState.RECEIVING, size=entry.size, pins=pins,
    )  # fmt: skip


def names(answer: dict[str, Any]) -> list[str]:
    return [row["reference"] for row in answer["models"]]


def test_a_private_model_is_its_owners(site: Site) -> None:
    """To others no request says more than that there is none of that name."""
    site.register(ANN, made("ann/m", 1))
    for op in ("model_show", "model_where", "model_manifest", "model_stage", "model_pin", "model_unpin", "model_evict",
               "model_verify", "model_share", "model_remove"):  # fmt: skip
        with pytest.raises(UnknownModel) as hidden:
            site.ask(EVE, op, model="ann/m@v1", nodes=["n1"])
        with pytest.raises(UnknownModel) as absent:
            site.ask(EVE, op, model="ann/x@v1", nodes=["n1"])
        assert str(hidden.value) == str(absent.value).replace("ann/x", "ann/m")
    assert names(site.ask(EVE, "models")) == []
    assert names(site.ask(ANN, "models")) == names(site.ask(ROOT, "models")) == ["ann/m@v1"]


def test_groups_and_everyone_read_what_is_shared_and_change_nothing(site: Site) -> None:
    """Sharing is for groups the owner is in; readers list and look, the owner and root change."""
    site.register(ANN, made("ann/m", 1), group="nlp")
    assert names(site.ask(BOB, "models")) == ["ann/m@v1"] and names(site.ask(EVE, "models")) == []
    assert site.ask(BOB, "model_show", model="ann/m")["access"] == "group 54321"
    for op in ("model_stage", "model_pin", "model_unpin", "model_evict", "model_share", "model_remove"):
        with pytest.raises(UsageError, match="ann's: only ann and root"):
            site.ask(BOB, op, model="ann/m@v1", nodes=["n1"])
    with pytest.raises(UsageError, match="your groups: ann, nlp"):
        site.ask(ANN, "model_share", model="ann/m", group="wheel")
    with pytest.raises(UsageError, match="not both"):
        site.ask(ANN, "model_share", model="ann/m", group="nlp", public=True)
    site.ask(ROOT, "model_share", model="ann/m", public=True)
    assert names(site.ask(EVE, "models")) == ["ann/m@v1"]
    site.ask(ANN, "model_share", model="ann/m")
    assert names(site.ask(BOB, "models")) == []


def test_importing_again_says_where_the_files_lie_now(site: Site) -> None:
    """The owner's word, nobody else's; nodes are told, and who may read it changes only when that is said."""
    manifest = made("ann/m", 1)
    assert site.register(ANN, manifest, public=True)["storage_before"] is None
    tried = site.register(ANN, manifest, storage="/new", dry_run=True)
    assert (tried["already"], tried["storage"], tried["storage_before"]) == (True, "/new", "/share/m")
    assert site.store.models.resolve("ann/m", 1001).storage == "/share/m"
    for other in (EVE, ROOT):
        with pytest.raises(NameTaken):
            site.register(other, manifest, storage="/evil")
    site.desk.asked.clear()
    assert site.register(ANN, manifest, storage="/new")["storage_before"] == "/share/m"
    entry = site.store.models.resolve("ann/m", 1001)
    assert (entry.storage, entry.public) == ("/new", True)
    assert [asked[0] for asked in site.desk.asked] == ["changed"]
    assert site.register(ANN, manifest, storage="/new", group="nlp")["storage_before"] is None
    entry = site.store.models.resolve("ann/m", 1001)
    assert (entry.gid, entry.public) == (54321, False)


@pytest.mark.parametrize("storage", ["m", "/a/../b", "/a/..", "/" + "ü" * 2048, "/a\nb"])
def test_storage_is_an_absolute_path(site: Site, storage: str) -> None:
    """As long as the kernel takes one at most: agents are told of many in one line."""
    with pytest.raises(UsageError, match="storage"):
        site.register(ANN, made("ann/m", 1), storage=storage)


def test_names_cannot_be_taken_over(site: Site) -> None:
    """Nobody adds a revision to another's name, root neither: whoever asks for the newest gets the owner's."""
    site.register(ANN, made("org/llama", 1), public=True)
    for other in (EVE, ROOT):
        with pytest.raises(NameTaken):
            site.register(other, made("org/llama", 9, revision="v2"), public=True)
        with pytest.raises(NameTaken):
            site.register(other, made("org/llama", 9, revision="v2"), dry_run=True)
    for dry_run in (None, True):
        with pytest.raises(NameTaken, match="other content"):
            site.register(ANN, made("org/llama", 9), dry_run=dry_run)
    assert names(site.ask(EVE, "models")) == ["org/llama@v1"]


def test_a_manifest_arrives_whole_or_not_at_all(site: Site) -> None:
    """Parts in order, of one user; what is missing, late, of another or damaged is refused."""
    manifest = made("ann/m", *range(40))
    fingerprint = site.upload(ANN, manifest, parts=7)
    with pytest.raises(NoUpload):
        site.ask(EVE, "model_register", fingerprint=fingerprint, storage="/share/m")
    assert site.ask(ANN, "model_register", fingerprint=fingerprint, storage="/share/m")["chunks"] == 40
    with pytest.raises(NoUpload):
        site.ask(ANN, "model_register", fingerprint=fingerprint, storage="/share/m")
    raw = manifest.dump()
    part = base64.b64encode(raw[:50]).decode()
    site.ask(ANN, "model_upload", fingerprint=fingerprint, at=0, data=part)
    with pytest.raises(NoUpload, match="from its beginning"):
        site.ask(ANN, "model_upload", fingerprint=fingerprint, at=70, data=part)
    with pytest.raises(NoUpload, match="as a whole"):
        site.ask(ANN, "model_register", fingerprint=fingerprint, storage="/share/m")
    site.clock[0] += 601
    with pytest.raises(NoUpload):
        site.ask(ANN, "model_upload", fingerprint=fingerprint, at=50, data=part)
    with pytest.raises(UsageError, match="base64"):
        site.ask(ANN, "model_upload", fingerprint=fingerprint, at=0, data="?!")


def test_manifests_that_lie_are_refused(site: Site) -> None:
    """Names that would leave the directory, chunks that do not cover the files, references that are none."""
    import hashlib

    raw = made("ann/m", 1).dump()
    for old, new, error in (
        (b"model.safetensors", b"../../../etc/cron", BadModel),
        (b"model.safetensors", b".slurmext/manife", BadModel),
        (b'"ann/m"', b'"../m"', SlurmextError),
        (str(CHUNK_BYTES).encode(), str(CHUNK_BYTES + 1).encode(), BadManifest),
        (b'"chunks":1', b'"chunks":2', BadManifest),
    ):
        forged = raw.replace(old, new, 1)
        assert forged != raw
        fingerprint = hashlib.sha256(forged).hexdigest()
        site.ask(EVE, "model_upload", fingerprint=fingerprint, at=0, data=base64.b64encode(forged).decode())
        with pytest.raises(error):
            site.ask(EVE, "model_register", fingerprint=fingerprint, storage="/share/m")
    for storage in ("relative", "/share/../etc", "/a\nb"):
        with pytest.raises(UsageError):
            site.register(EVE, made("eve/m", 1), storage=storage)
    assert site.store.models.models() == []


def test_what_users_may_register_is_limited(site_of: Callable[..., Site]) -> None:
    """The same again costs nothing, root is not limited, and removing makes room."""
    site = site_of(registered_bytes=5 * CHUNK_BYTES)
    site.register(ANN, made("ann/a", 1, 2, 3))
    site.register(ANN, made("ann/a", 1, 2, 3))
    with pytest.raises(QuotaExceeded, match="model remove"):
        site.register(ANN, made("ann/b", 1, 2, 3))
    site.register(BOB, made("bob/b", 1, 2, 3))
    site.register(ROOT, made("site/b", *range(9)))
    site.ask(ANN, "model_remove", model="ann/a@v1")
    site.register(ANN, made("ann/b", 1, 2, 3))


def test_what_users_have_in_a_nodes_memory_is_limited(site_of: Callable[..., Site]) -> None:
    """What is there counts once; a node where nothing is has room. Without a limit users pin nothing."""
    site = site_of(node_bytes=5 * CHUNK_BYTES)
    for name in ("ann/a", "ann/b"):
        site.register(ANN, made(name, 1, 2, 3))
    first, second = (site.store.models.resolve(name, 1001) for name in ("ann/a", "ann/b"))
    site.store.models.put_replicas("n1", [copy_of(first, "n1", done=5)])
    for op in ("model_stage", "model_pin"):
        with pytest.raises(QuotaExceeded, match="memory of n1"):
            site.ask(ANN, op, model="ann/b", nodes=["n1"])
        site.ask(ANN, op, model="ann/a", nodes=["n1", "n2"])
    site.ask(ANN, "model_stage", model="ann/b", nodes=["n1"], tier="disk")
    assert [asked[2] for asked in site.desk.asked if "wants" in asked[0]] == [("n1", "n2"), ("n1", "n2"), ("n1",)]
    assert site.store.models.resolve("ann/a", 0).pinned_nodes == ("n1", "n2")
    assert second.pinned_nodes == ()
    unlimited = site_of()
    unlimited.register(ANN, made("ann/a", 1))
    with pytest.raises(UsageError, match="only root pins"):
        unlimited.ask(ANN, "model_pin", model="ann/a", nodes=["n1"])
    unlimited.ask(ROOT, "model_pin", model="ann/a", nodes=["n1"])


def test_a_node_without_that_tier_is_refused(site: Site) -> None:
    """Rather than waited for: its agent would never begin. Of a node that has not said what it has nothing is assumed."""
    site.register(ANN, made("ann/b", 1))
    for nodes, said in ((["n1", "n2"], "n2 has no disk"), (["n4", "n2"], "n2, n4 have no disk")):
        with pytest.raises(
            SlurmextError, match=f"{said} for models .staging.disk_dir of the site file.: --tier memory"
        ):
            site.ask(ANN, "model_stage", model="ann/b", nodes=nodes, tier="disk")
    site.ask(ANN, "model_stage", model="ann/b", nodes=["n1", "n3"], tier="disk")
    assert [nodes for what, _, nodes in site.desk.asked if "wants" in what] == [("n1", "n3")]


def test_a_model_larger_than_a_nodes_room_is_refused_with_the_rooms(site: Site) -> None:
    """Before anything is moved; registering says what the largest room is."""
    answer = site.register(ANN, made("ann/m", *range(5)))
    assert answer["largest_room"] == 100 * CHUNK_BYTES
    with pytest.raises(SlurmextError, match="2.5 MiB, n4 has room for 2 MiB .* the most of any node is 50 MiB"):
        site.ask(ANN, "model_stage", model="ann/m", nodes=["n1", "n4"])
    site.ask(ANN, "model_stage", model="ann/m", nodes=["n1", "n3"])
    assert [asked[2] for asked in site.desk.asked if "wants" in asked[0]] == [("n1", "n3")]


def test_without_the_database_requests_fail_in_words(site: Site) -> None:
    """Nothing is half done: afterwards the same request works, with the manifest sent again."""
    manifest = made("ann/m", 1)
    fingerprint = site.upload(ANN, manifest)
    site.store.down = True
    for op, more in (("models", {}), ("model_register", {"fingerprint": fingerprint, "storage": "/m"})):
        with pytest.raises(StoreUnavailable):
            site.ask(ANN, op, **more)
    site.store.down = False
    assert site.store.models.models() == []
    assert not site.register(ANN, manifest)["already"]


def test_what_is_held_is_not_evicted(site: Site) -> None:
    """Nodes where a job or a pin has it are named with who; the others are told."""
    site.register(ANN, made("ann/m", 1))
    entry = site.store.models.resolve("ann/m", 1001)
    site.store.models.put_replicas("n1", [copy_of(entry, "n1", pins=("job-7",))])
    site.store.models.put_replicas("n2", [copy_of(entry, "n2")])
    answer = site.ask(ANN, "model_evict", model="ann/m")
    assert (answer["nodes"], answer["kept"]) == (["n2"], {"n1": ["job-7"]})
    assert ("evict from memory", entry.key, ("n2",)) in site.desk.asked
    site.store.models.put_replicas("n1", [copy_of(entry, "n1", pins=("admin",))])
    assert site.ask(ANN, "model_evict", model="ann/m", nodes=["n1"])["kept"] == {}  # a pin taken back, not told yet
    site.ask(ROOT, "model_pin", model="ann/m", nodes=["n1"])
    assert site.ask(ANN, "model_evict", model="ann/m", nodes=["n1"])["kept"] == {"n1": ["admin"]}
    with pytest.raises(SlurmextError, match="not in the memory of n3"):
        site.ask(ANN, "model_evict", model="ann/m", nodes=["n2", "n3"])
    assert site.ask(ANN, "model_verify", model="ann/m")["nodes"] == ["n1", "n2"]


def test_nodes_that_are_not_there_are_named(site: Site) -> None:
    """With those that are near."""
    site.register(ANN, made("ann/m", 1))
    with pytest.raises(SlurmextError, match="no agent is connected of n11; near that: n"):
        site.ask(ANN, "model_stage", model="ann/m", nodes=["n1", "n11"])
    with pytest.raises(SlurmextError, match="of zzz; there are n1, n2, n3, n4"):
        site.ask(ANN, "model_stage", model="ann/m", nodes=["zzz"])
    with pytest.raises(UsageError, match="-w NODES"):
        site.ask(ANN, "model_stage", model="ann/m")
    for wrong in ("n1", [1], ["n" * 300], {"n1": 1}):
        with pytest.raises(UsageError, match="list of names"):
            site.ask(ANN, "model_stage", model="ann/m", nodes=wrong)


def test_shared_chunks_count_as_agents_would_share_them(site: Site) -> None:
    """With one's own and root's public models; a private model is not named to those who may not read it."""
    site.register(ANN, made("ann/a", 1, 2, 3), public=True)
    assert site.register(BOB, made("bob/b", 1, 2, 3))["shared_bytes"] == 0
    assert site.register(ANN, made("ann/c", 1, 2, 9), public=True)["shared_with"] == "ann/a@v1"
    site.register(ROOT, made("site/s", 1, 2), public=True)
    assert site.register(BOB, made("bob/d", 1, 9))["shared_with"] in {"site/s@v1", "bob/b@v1"}
    site.ask(ANN, "model_share", model="ann/a")
    [row] = [row for row in site.ask(EVE, "models")["models"] if row["reference"] == "ann/c@v1"]
    assert row["shared_with"] == "" and row["shared_bytes"] == 2 * CHUNK_BYTES


def test_readers_see_how_many_hold_a_copy_not_who(site: Site) -> None:
    """The owner and root see the jobs."""
    site.register(ANN, made("ann/m", 1), public=True)
    entry = site.store.models.resolve("ann/m", 1001)
    site.store.models.put_replicas("n1", [copy_of(entry, "n1", pins=("job-7",))])
    [theirs] = site.ask(EVE, "model_where")["replicas"]
    [hers] = site.ask(ANN, "model_where")["replicas"]
    assert (theirs["held"], theirs["pins"], hers["pins"]) == (1, [], ["job-7"])


def test_unpinning_takes_pins_back(site: Site) -> None:
    """On some nodes, or without any named on all; the desk hears of it."""
    site.register(ROOT, made("site/m", 1))
    site.ask(ROOT, "model_pin", model="site/m", nodes=["n1", "n2", "n3"])
    site.ask(ROOT, "model_unpin", model="site/m", nodes=["n2"])
    assert site.store.models.models()[0].pinned_nodes == ("n1", "n3")
    before = [asked[0] for asked in site.desk.asked].count("changed")
    site.ask(ROOT, "model_unpin", model="site/m", dry_run=True)
    assert site.store.models.models()[0].pinned_nodes == ("n1", "n3")
    site.ask(ROOT, "model_unpin", model="site/m")
    assert site.store.models.models()[0].pinned_nodes == ()
    assert [asked[0] for asked in site.desk.asked].count("changed") == before + 1


def test_changes_are_in_the_history(site: Site) -> None:
    """Who registered, shared and removed what; dry runs are not."""
    site.register(ANN, made("ann/m", 1), dry_run=True)
    site.register(ANN, made("ann/m", 1))
    site.ask(ANN, "model_share", model="ann/m", public=True)
    site.ask(ROOT, "model_remove", model="ann/m@v1")
    told = [(event.kind, event.message) for event in site.store.events()]
    assert told == [
        ("model.registered", "ann registered ann/m@v1"),
        ("model.shared", "ann shared ann/m@v1"),
        ("model.removed", "root removed ann/m@v1"),
    ]


def test_a_removed_model_is_gone_at_once_for_everybody(site: Site) -> None:
    """A copy that is still on a node is root's to see only; registered anew it is another model."""
    site.register(ANN, made("ann/m", 1), public=True)
    entry = site.store.models.resolve("ann/m", 1001)
    site.store.models.put_replicas("n1", [copy_of(entry, "n1")])
    site.ask(ANN, "model_remove", model="ann/m@v1")
    assert site.ask(EVE, "model_where")["replicas"] == []
    [row] = site.ask(ROOT, "model_where")["replicas"]
    assert row["state"] == "outdated"
    site.register(EVE, made("ann/m", 2), public=True)
    assert site.ask(EVE, "models")["models"][0]["nodes"] == []


def test_times_come_from_the_daemons_clock(site: Site) -> None:
    """A clock that went back makes no older revision the newest."""
    site.register(ANN, made("ann/m", 1))
    site.clock[0] -= 4000
    site.register(ANN, made("ann/m", 2, revision="v2"))
    rows = {row["revision"]: row["newest"] for row in site.ask(ANN, "models")["models"]}
    assert rows == {"v1": False, "v2": True}
    assert site.ask(ANN, "model_show", model="ann/m")["revision"] == "v2"
    assert replace(site.store.models.models()[0], number=0).created_s == 5000.0


def test_requests_that_make_no_sense(site: Site) -> None:
    """Are told so."""
    for op, arguments in (
        ("model_show", {}),
        ("model_show", {"model": 3}),
        ("model_show", {"model": "a\tb"}),
        ("model_upload", {"fingerprint": "x", "at": -1, "data": ""}),
        ("model_upload", {"fingerprint": "x", "at": True, "data": ""}),
        ("model_stage", {"model": "ann/m", "nodes": ["n1"], "tier": "tape"}),
        ("model_nothing", {}),
    ):
        site.register(ANN, made("ann/m", 1))
        with pytest.raises(UsageError):
            site.ask(ANN, op, **arguments)
