"""`slurmext model` over a store, without a daemon: import, list, show, share, verify, remove."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from slurmext.cli.main import cli
from slurmext.cli.session import Session
from slurmext.config.site import SiteConfig
from slurmext.model.staged_model import ModelReplica
from slurmext.staging.kinds import StageState, TierKind
from slurmext.staging.names import ModelKey
from slurmext.testing.memory_store import MemoryStore


def tensors(path: Path, *seeds: int) -> Path:
    """A model whose tensor i is 5 MiB of the byte `seeds[i]`: large tensors share chunks."""
    path.mkdir(parents=True, exist_ok=True)
    length = 5 << 20
    head = {
        f"layer.{at}": {"dtype": "U8", "shape": [length], "data_offsets": [at * length, (at + 1) * length]}
        for at in range(len(seeds))
    }
    raw = json.dumps(head).encode()
    content = b"".join(bytes([seed]) * length for seed in seeds)
    (path / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + content)
    (path / "config.json").write_text("{}")
    return path


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def run(tmp_path: Path, store: MemoryStore) -> Any:
    """Runs the command as root, or as another."""
    site = SiteConfig(version=1, cluster="t", run_dir=tmp_path / "run")

    def runner(*words: object, uid: int = 0) -> Result:
        session = Session(site=site, store=store, uid=uid, now=lambda: 5000.0)
        return CliRunner().invoke(cli, ["model", *map(str, words)], obj=session)

    return runner


def test_a_directory_becomes_a_model(run: Any, tmp_path: Path, store: MemoryStore) -> None:
    """Read, checked and registered under its name; the same again says so; `list` and `show` have it."""
    path = tensors(tmp_path / "weights", 1, 2)
    done = run("import", path, "org/base@v1")
    assert done.exit_code == 0, done.output
    assert "org/base@v1 is registered: 2 files, 10.0 MiB" in done.output
    assert "was registered before" in run("import", path, "org/base@v1").output
    [entry] = store.models.models()
    assert (entry.owner, entry.uid, entry.storage, entry.public) == ("root", 0, str(path), False)
    listed = run("list", "-nP", "-o", "Reference,ReadBy,Newest").output
    assert listed == "org/base@v1|owner|yes\n"
    shown = json.loads(run("show", "org/base", "--json").output)
    assert [file["name"] for file in shown["contents"]] == ["config.json", "model.safetensors"]
    assert "model.safetensors" in run("show", "org/base").output


def test_importing_files_that_were_moved_says_from_where_they_are_read(
    run: Any, tmp_path: Path, store: MemoryStore
) -> None:
    """The same bytes at another place: the registry takes it, and names the old one."""
    path = tensors(tmp_path / "weights", 1, 2)
    run("import", path, "org/base@v1")
    moved = path.rename(tmp_path / "archive")
    told = f"it would then be read from {moved}, no longer from {path}"
    assert told in run("import", "--dry-run", moved, "org/base@v1").output
    assert store.models.models()[0].storage == str(path)
    done = run("import", moved, "org/base@v1")
    assert "org/base@v1 was registered before" in done.output
    assert f"it is now read from {moved}, no longer from {path}" in done.output
    assert store.models.models()[0].storage == str(moved)
    assert run("verify", "org/base").exit_code == 0
    assert "no longer" not in run("import", moved, "org/base@v1").output
    assert run("import", moved, "org/base@v1", uid=65534).exit_code == 1


def test_a_dry_run_registers_nothing(run: Any, tmp_path: Path, store: MemoryStore) -> None:
    """It says what would be."""
    done = run("import", "--dry-run", tensors(tmp_path / "w", 1), "org/base@v1")
    assert done.exit_code == 0 and "could be registered" in done.output
    assert store.models.models() == []


def test_what_revisions_share_is_shown(run: Any, tmp_path: Path) -> None:
    """A fine-tune of one of three layers adds a third."""
    run("import", tensors(tmp_path / "a", 1, 2, 3), "org/base@v1", "--public")
    done = run("import", tensors(tmp_path / "b", 1, 9, 3), "org/tuned@v1")
    assert "of it as in org/base@v1" in done.output
    [row] = json.loads(run("list", "org/tuned", "--json").output)
    assert 10 << 20 <= row["shared_bytes"] < 11 << 20 and row["shared_with"] == "org/base@v1"
    assert row["new_bytes"] == row["size"] - row["shared_bytes"]


def test_verify_names_what_changed(run: Any, tmp_path: Path) -> None:
    """Other bytes, other sizes, files that are missing or new; exit code 1."""
    path = tensors(tmp_path / "w", 1, 2)
    (path / "notes.txt").write_text("x")
    run("import", path, "org/base@v1")
    whole = run("verify", "org/base")
    assert whole.exit_code == 0 and "all as they were imported" in whole.output
    with (path / "model.safetensors").open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"?")
    (path / "config.json").write_text("{ }")
    (path / "notes.txt").unlink()
    (path / "more.txt").write_text("y")
    found = run("verify", "org/base", "-nP")
    assert found.exit_code == 1
    assert found.output == (
        "config.json|has 3 bytes, not 2\nmodel.safetensors|has other bytes\n"
        "more.txt|was not there when it was imported\nnotes.txt|is missing\n"
    )


def test_unknown_models_and_revisions_name_the_nearest(run: Any, tmp_path: Path) -> None:
    """As does every command that takes a model."""
    run("import", tensors(tmp_path / "w", 1), "org/base@v1", "--public")
    for words in (["show", "org/bose"], ["stage", "org/bose", "-w", "n1"], ["remove", "org/bose@v1"]):
        done = run(*words)
        assert done.exit_code == 1 and "the nearest: org/base" in done.output
    assert "revisions: org/base@v1" in run("show", "org/base@v7").output
    assert run("show", "../base").exit_code == 2 and "org/model" in run("show", "../base").output


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda raw: raw[:-1], "was cut off"),
        (lambda raw: raw[:5], "too few"),
        (lambda raw: raw[:50], "needs"),
        (lambda raw: raw + b"x", "belong to no tensor"),
        (lambda raw: b"\xff" * 8 + raw[8:], "not a safetensors file"),
        (lambda raw: raw.replace(b'"U8"', b'"X8"', 1), "known are"),
        (lambda raw: raw.replace(b"{", b"[", 1), "no JSON"),
    ],
)
def test_damaged_weights_are_refused(run: Any, tmp_path: Path, store: MemoryStore, damage: Any, told: str) -> None:
    """With the file, what is wrong, and what to do; nothing is registered."""
    file = tensors(tmp_path / "w", 1) / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    done = run("import", tmp_path / "w", "org/base")
    assert done.exit_code == 1 and str(file) in done.output and told in done.output, done.output
    assert store.models.models() == []


def test_names_and_links_that_lead_elsewhere_are_refused(run: Any, tmp_path: Path, store: MemoryStore) -> None:
    """References that are no names, links out of the directory, what is no file, what is not there."""
    path = tensors(tmp_path / "w", 1)
    for reference, told in (
        ("../../etc", "e.g. org/model"),
        ("org/../x", "e.g. org/model"),
        ("a--b", "e.g. org/model"),
        ("org/m@../x", "revision '../x'"),
        ("org/m@", "revision ''"),
    ):
        assert told in run("import", path, reference).output
    (path / "more").symlink_to("/etc/shadow")
    assert "symbolic link" in run("import", path, "org/m").output
    (path / "more").unlink()
    (path / "more").symlink_to("/etc", target_is_directory=True)
    assert "link to a directory" in run("import", path, "org/m").output
    (path / "more").unlink()
    os.mkfifo(path / "more")
    assert "no ordinary file" in run("import", path, "org/m").output
    assert "neither a directory nor a file" in run("import", path / "absent", "org/m").output
    assert store.models.models() == []


def test_sharing_and_removing(run: Any, tmp_path: Path, store: MemoryStore) -> None:
    """Exactly one audience; removing asks, and wants the revision said."""
    run("import", tensors(tmp_path / "w", 1), "org/base@v1")
    assert run("share", "org/base").exit_code == 2
    assert run("share", "org/base", "--public", "--private").exit_code == 2
    assert "would be read by everyone" in run("share", "org/base", "--public", "--dry-run").output
    assert json.loads(run("show", "org/base", "--json").output)["access"] == "owner"
    assert "read by everyone" in run("share", "org/base", "--public").output
    assert store.models.models()[0].public
    assert "your groups" in run("share", "org/base", "--group", "no-such-group").output
    assert "which revision" in run("remove", "org/base").output
    assert "add -i" in run("remove", "org/base@v1").output
    entry = store.models.models()[0]
    copy = ModelReplica(
        node="n1", tier=TierKind.MEMORY, key=entry.key, fingerprint=entry.fingerprint, state=StageState.COMPLETE,
        ready_bytes=entry.size, size=entry.size,
    )  # fmt: skip
    store.models.put_replicas("n1", [copy])
    would = run("remove", "--dry-run", "org/base@v1").output
    assert "would be forgotten" in would and "its copies on 1 node would go" in would
    done = run("remove", "-i", "org/base@v1")
    assert done.exit_code == 0 and "its copies on 1 node go, once no running job uses them" in done.output
    assert store.models.models() == []
    assert (tmp_path / "w" / "model.safetensors").exists()


def test_unpinning_names_the_nodes_that_had_kept_it(run: Any, tmp_path: Path, store: MemoryStore) -> None:
    """Of those that were asked; where there is nothing to undo that is said, and is no failure."""
    run("import", tensors(tmp_path / "w", 1), "org/base@v1")
    never = run("unpin", "org/base")
    assert (never.exit_code, never.stdout, never.stderr) == (0, "", "slurmext: org/base@v1 was kept on no node\n")
    store.models.pin(ModelKey("org/base", "v1"), ["n1", "n2"])
    some = run("unpin", "org/base", "-w", "n[2-3]")
    assert some.stdout == "org/base@v1 is no longer kept on n2\n"
    assert (some.exit_code, some.stderr) == (0, "slurmext: org/base@v1 was not kept on n3\n")
    assert json.loads(run("unpin", "org/base", "--json").stdout)["nodes"] == ["n1"]


def test_where_copies_are(run: Any, tmp_path: Path, store: MemoryStore) -> None:
    """How far on each node; a copy of what was registered anew under the name is called outdated."""
    run("import", tensors(tmp_path / "w", 1), "org/base@v1")
    [entry] = store.models.models()
    copy = ModelReplica(
        node="n1", tier=TierKind.MEMORY, key=entry.key, fingerprint=entry.fingerprint, state=StageState.RECEIVING,
        ready_bytes=entry.size // 4, size=entry.size, pins=("job-12",),
    )  # fmt: skip
    store.models.put_replicas("n1", [copy])
    store.models.put_replicas("n2", [replace(copy, fingerprint="00" * 32)])
    store.models.put_replicas("n3", [replace(copy, key=ModelKey("org/gone", "v1"), fingerprint="11" * 32)])
    rows = run("where", "-nP", "-o", "Model,Node,State,Here,Holders").output.splitlines()
    assert rows == [
        "org/base@v1|n1|receiving|25%|job-12",
        "org/base@v1|n2|outdated|25%|job-12",
        "org/gone@v1|n3|outdated|25%|job-12",
    ]
    [row] = json.loads(run("list", "--json").output)
    assert (row["nodes"], row["arriving"]) == ([], ["n1"])


def test_without_a_daemon_nothing_is_moved(run: Any, tmp_path: Path) -> None:
    """It says who would have to run."""
    run("import", tensors(tmp_path / "w", 1), "org/base@v1")
    done = run("stage", "org/base", "-w", "n[1-2]")
    assert done.exit_code == 1 and "slurmextd" in done.output
    assert run("stage", "org/base").exit_code == 2
    assert run("stage", "org/base", "-w", "n[1").exit_code == 2


def test_following_ends_when_nothing_more_comes() -> None:
    """A node that failed, or waits for what was given up, is not waited for; one that merely waits is."""
    from slurmext.cli.model_follow import follow

    class Answering(Session):
        """Says of n1 that it is complete, of n2 that nothing comes, of n3 that it waits, at the third look no more."""

        looks = 0

        def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
            assert op == "model_where"
            self.looks += 1
            why = "its files are not what was imported" if self.looks > 2 else ""
            states = {"n1": ("complete", ""), "n2": ("failed", "no room"), "n3": ("waiting", why)}
            return {"replicas": [{"node": node, "tier": "memory", "state": state, "why": told}
                                 for node, (state, told) in states.items()]}  # fmt: skip

    session = Answering()
    done = follow(session, "org/m", ["n1", "n2", "n3"], "memory", timeout_s=60, settle_s=0)
    assert session.looks == 3 and done.complete == {"n1"}


def hub_cache(root: Path, text: str = "{}") -> Path:
    """A cache of the hub with one model."""
    model = root / "models--org--small"
    snapshot, blobs = model / "snapshots" / "abc123", model / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "0f").write_text(text)
    (snapshot / "config.json").symlink_to("../../blobs/0f")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc123")
    return model


def test_models_of_the_hub_are_found_in_its_cache(
    run: Any, tmp_path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The revision is the hub's; what is registered as its storage is that snapshot, whatever is fetched later."""
    model = hub_cache(tmp_path / "hub")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    done = run("import", "hub:org/small", "my/small")
    assert done.exit_code == 0, done.output
    [entry] = store.models.models()
    assert str(entry.key) == "my/small@abc123" and entry.storage == str(model / "snapshots" / "abc123")
    assert run("verify", "my/small").exit_code == 0
    assert "--download" in run("import", "hub:org/other", "my/other").output
    assert "ORG/NAME" in run("import", "hub:other", "my/other").output


def test_fetching_from_the_hub_goes_into_its_cache(tmp_path: Path) -> None:
    """With the hub's own library; what it says when that fails is passed on."""
    from slurmext.staging.errors import StagingError
    from slurmext.staging.hub import fetch

    def download(*, repo_id: str, revision: str | None, cache_dir: str) -> None:
        assert (repo_id, revision, cache_dir) == ("org/small", "main", str(tmp_path))
        hub_cache(tmp_path)

    assert (fetch("org/small", "main", cache=tmp_path, download=download) / "snapshots" / "abc123").is_dir()

    def offline(**_: object) -> None:
        raise ConnectionError("no route\nto host")

    with pytest.raises(StagingError, match="hub:org/small could not be fetched: no route to host"):
        fetch("org/small", cache=tmp_path, download=offline)


def test_models_are_completed(run: Any, tmp_path: Path, store: MemoryStore) -> None:
    """With those that may be read."""
    from click import Context

    from slurmext.cli.completing import complete_model

    run("import", tensors(tmp_path / "w", 1), "org/base@v1")
    site = SiteConfig(version=1, cluster="t", run_dir=tmp_path / "run")

    def completed(uid: int, text: str) -> list[str]:
        context = Context(cli, obj=Session(site=site, store=store, uid=uid, now=lambda: 5000.0))
        return [item.value for item in complete_model(context, cli.params[0], text)]

    assert completed(0, "org/") == ["org/base@v1"] and completed(0, "x") == []
    assert completed(65534, "") == []
