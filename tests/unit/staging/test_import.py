"""Import: what a model consists of; files that would lead elsewhere are refused."""

from __future__ import annotations

import hashlib
import os
import re
import tracemalloc
from array import array
from pathlib import Path

import pytest
import xxhash

from slurmext.options.models import PRELOAD
from slurmext.staging.errors import BadManifest, BadModel, BadReference
from slurmext.staging.importer import import_model
from slurmext.staging.manifest import (
    CHUNK_BYTES,
    FileEntry,
    FileKind,
    Manifest,
    cuts,
    parse_manifest,
    shared_chunks,
)
from slurmext.staging.names import ModelKey, check_file_name, parse_reference

from .conftest import noise, write_model


def test_every_byte_is_in_one_chunk_with_its_checksum(tmp_path):
    """Chunks cover each file once, in order; checksums are of what is in them."""
    directory = write_model(tmp_path / "m", tensors=2, tensor_bytes=5 << 20)
    (directory / "notes").mkdir()
    (directory / "notes" / "empty.txt").write_text("")
    manifest = import_model(directory, "org/m").manifest
    assert [entry.name for entry in manifest.files] == ["config.json", "model.safetensors", "notes/empty.txt"]
    assert [entry.kind for entry in manifest.files] == [FileKind.OPAQUE, FileKind.SAFETENSORS, FileKind.OPAQUE]
    seen = {entry.name: b"" for entry in manifest.files}
    for index in range(manifest.chunk_count):
        chunk = manifest.chunk(index)
        name = manifest.files[chunk.file].name
        content = (directory / name).read_bytes()[chunk.offset : chunk.offset + chunk.length]
        assert chunk.offset == len(seen[name])
        assert len(content) == chunk.length <= CHUNK_BYTES
        assert xxhash.xxh3_128_digest(content) == manifest.digest(index)
        seen[name] += content
    for entry in manifest.files:
        assert hashlib.sha256(seen[entry.name]).hexdigest() == entry.sha256
        assert manifest.chunks_of(manifest.files.index(entry), 0, entry.size) == range(
            *manifest.starts[manifest.files.index(entry) :][:2]
        )


def test_the_same_files_give_the_same_revision(tmp_path):
    """And other files another."""
    first = import_model(write_model(tmp_path / "a"), "org/m").manifest
    again = import_model(write_model(tmp_path / "b"), "org/m").manifest
    other = import_model(write_model(tmp_path / "c", seeds=(9, 1, 2, 3)), "org/m").manifest
    assert first == again
    assert other.key.revision != first.key.revision


def test_a_manifest_survives_being_written_down(tmp_path):
    """And a changed one is not believed."""
    manifest = import_model(write_model(tmp_path / "m"), "org/m", "v1").manifest
    raw = manifest.dump()
    assert parse_manifest(raw, fingerprint=manifest.fingerprint()) == manifest
    with pytest.raises(BadManifest, match="not the one"):
        parse_manifest(raw[:-1] + b"x", fingerprint=manifest.fingerprint())
    for cut in (0, 10, len(raw) // 2, len(raw) - 1):
        with pytest.raises(BadManifest):
            parse_manifest(raw[:cut])
    with pytest.raises(BadModel, match="would leave"):
        parse_manifest(raw.replace(b'"config.json"', b'"../etc/foo"'))


def test_a_manifest_that_was_made_to_harm_is_refused_at_once():
    """Any user may send one: it takes neither time nor memory beyond its own size."""
    count = 100_000
    good = Manifest(
        key=ModelKey("org/m", "v1"), files=(FileEntry(name="config.json", size=count, sha256="ab" * 32),),
        lengths=array("I", [1]) * count, digests=bytes(16 * count), order=((0, count),),
    )  # fmt: skip
    line, _, rest = good.dump().partition(b"\n")
    whole = f'"order":[[0,{count}]]'.encode()
    heads = {
        "overlaps": line.replace(whole, whole[:-1] + f",[0,{count}]".encode() * 1000 + b"]"),
        "nests": line.replace(whole, b'"order":' + b"[" * 100_000 + b"]" * 100_000),
        "is long": line.replace(whole, b'"order":[' + b"[]," * 4_000_000 + b"[]]"),
        "has numbers for names": line.replace(b'"config.json"', b"7"),
    }
    for how, head in heads.items():
        assert head != line
        tracemalloc.start()
        with pytest.raises(BadManifest):
            parse_manifest(head + b"\n" + rest)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 64 << 20, how


def test_a_fine_tune_shares_what_it_did_not_change(tmp_path):
    """Large tensors begin chunks of their own: a longer header and one changed tensor leave the others shared."""
    base = import_model(write_model(tmp_path / "a", tensors=4, tensor_bytes=8 << 20), "org/base").manifest
    tuned_files = write_model(tmp_path / "b", tensor_bytes=8 << 20, seeds=(0, 1, 77, 3, 4))
    tuned = import_model(tuned_files, "org/tuned").manifest
    shared = sum(tuned.lengths[index] for index in shared_chunks(tuned, [base]))
    assert shared >= 3 * (8 << 20)
    assert shared < 4 * (8 << 20)


def test_one_file_alone_is_a_model(tmp_path):
    """GGUF and others go as they are."""
    (tmp_path / "m.gguf").write_bytes(noise(100_000))
    manifest = import_model(tmp_path / "m.gguf", "org/m").manifest
    assert [(entry.name, entry.kind) for entry in manifest.files] == [("m.gguf", FileKind.OPAQUE)]


def hub(root: Path) -> Path:
    """A model as the hub's cache lays it out."""
    files = write_model(root / "plain")
    cache = root / "models--org--m"
    (cache / "blobs").mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc123")
    snapshot = cache / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(files.iterdir())):
        path.rename(cache / "blobs" / f"hash{number}")
        (snapshot / path.name).symlink_to(f"../../blobs/hash{number}")
    return cache


def test_a_hub_cache_is_imported_with_its_revision(tmp_path):
    """`main` is what refs say."""
    manifest = import_model(hub(tmp_path), "org/m").manifest
    assert manifest.key == ModelKey("org/m", "abc123")
    assert len(manifest.files) == 2
    with pytest.raises(BadModel, match="it has abc123"):
        import_model(hub(tmp_path / "again"), "org/m", "v2")


def test_links_that_lead_elsewhere_are_refused(tmp_path):
    """In a directory every link, in the hub's cache all but those into its blobs; and blobs that are links."""
    directory = write_model(tmp_path / "m")
    (directory / "extra").symlink_to("/etc/shadow")
    with pytest.raises(BadModel, match="symbolic link"):
        import_model(directory, "org/m")
    (directory / "extra").unlink()
    (directory / "sub").symlink_to("/etc")
    with pytest.raises(BadModel, match="link to a directory"):
        import_model(directory, "org/m")
    (tmp_path / "link").symlink_to(directory)
    with pytest.raises(BadModel, match="symbolic link"):
        import_model(tmp_path / "link", "org/m")
    cache = hub(tmp_path / "h")
    (cache / "snapshots" / "abc123" / "x").symlink_to("../../../../../etc/passwd")
    with pytest.raises(BadModel, match="only"):
        import_model(cache, "org/m")
    (cache / "snapshots" / "abc123" / "x").unlink()
    (cache / "blobs" / "hash0").unlink()
    (cache / "blobs" / "hash0").symlink_to("/etc/passwd")
    with pytest.raises(BadModel, match="plain file"):
        import_model(cache, "org/m")


def test_a_link_put_in_place_after_the_look_is_not_followed(tmp_path):
    """Between listing and opening a user may exchange a file for a link; the opening refuses it."""
    from slurmext.staging.tree import find_tree

    directory = write_model(tmp_path / "m")
    (directory / "sub").mkdir()
    (directory / "sub" / "x").write_text("x")
    tree, _ = find_tree(directory)
    (directory / "config.json").unlink()
    (directory / "config.json").symlink_to("/etc/shadow")
    (directory / "sub").rename(tmp_path / "elsewhere")
    (directory / "sub").symlink_to(tmp_path / "elsewhere")
    for name in ("config.json", "sub/x"):
        with pytest.raises(BadModel), tree.open(name):
            pass


def test_what_is_no_file_is_refused(tmp_path):
    """A pipe would never end, an empty directory is no model."""
    directory = write_model(tmp_path / "m")
    os.mkfifo(directory / "pipe")
    with pytest.raises(BadModel, match="pipe"):
        import_model(directory, "org/m")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadModel, match="no files"):
        import_model(tmp_path / "empty", "org/m")
    with pytest.raises(BadModel, match="neither"):
        import_model(tmp_path / "absent", "org/m")


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    """Half of the old and half of the new is no revision."""
    directory = tmp_path / "m"
    directory.mkdir()
    (directory / "w.bin").write_bytes(noise(20 << 20))

    def grow(_count: int) -> None:
        with (directory / "w.bin").open("ab") as file:
            file.write(b"x")

    with pytest.raises(BadModel, match="changed while"):
        import_model(directory, "org/m", on_bytes=grow)


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../b", "a//b", ".slurmext/ready", "a\\b", "a\nb", "", ".", "x" * 300]
)
def test_file_names_that_would_leave_are_refused(name):
    """They become paths below the model's directory."""
    with pytest.raises(BadModel):
        check_file_name(name)


@pytest.mark.parametrize(
    "text", ["", "a//b", "../b", "a--b", "org/m@", "org/m@../x", "a/b/c/d", "-x", "org/m@a@b", "a b"]
)
def test_references_that_are_no_names_are_refused(text):
    """They become paths too."""
    with pytest.raises(BadReference):
        parse_reference(text)


def test_references():
    """With and without a revision."""
    assert parse_reference("org/model-7b@v1.0") == ("org/model-7b", "v1.0")
    assert parse_reference("llama") == ("llama", None)


def test_import_and_preload_take_the_same_names_and_describe_them_alike():
    """What may be registered may be asked for, and the other way round; both refuse with the same words."""
    for value in (value for value in PRELOAD.good if "," not in value):
        parse_reference(value)
    for value in (value for value in PRELOAD.bad if "," not in value):
        with pytest.raises(BadReference):
            parse_reference(value)
    with pytest.raises(BadReference) as refused:
        parse_reference("a/b/c/d")
    [rule] = re.findall(r"one to three parts[^()]*\([^()]*\)", str(refused.value))
    assert rule in PRELOAD.rule


def test_cuts_cover_the_file():
    """Whatever the anchors."""
    for size, anchors in ((0, ()), (1, (0, 1)), (CHUNK_BYTES * 3 + 5, (100, 100, CHUNK_BYTES * 2 - 1, 1 << 60))):
        lengths = list(cuts(size, anchors))
        assert sum(lengths) == size
        assert all(0 < length <= CHUNK_BYTES for length in lengths)
