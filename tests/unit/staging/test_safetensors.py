"""Damaged and hostile safetensors files are refused, and the message says what is wrong."""

from __future__ import annotations

import io
import json
import random

import pytest

from slurmext.staging.errors import BadModel
from slurmext.staging.safetensors import read_header

from .conftest import noise, safetensors

GOOD = {
    "a": ("F32", [2, 3], noise(24)),
    "b": ("U8", [0], b""),
    "c": ("BF16", [4], noise(8)),
    "d": ("I64", [], noise(8)),
}


def header(raw: bytes):
    return read_header(io.BytesIO(raw), len(raw), "model.safetensors")


def entry(dtype: str = "U8", shape: object = (4,), offsets: object = (0, 4)) -> dict:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def test_tensors_are_found_in_the_order_of_their_bytes():
    """Names, types, shapes and places are the file's; an empty tensor and a scalar are tensors too."""
    found = header(safetensors(GOOD))
    assert [tensor.name for tensor in found.tensors] == ["a", "b", "c", "d"]
    assert found.tensors[0].begin == found.data_begin
    assert (found.tensors[2].dtype, found.tensors[2].shape, found.tensors[3].shape) == ("BF16", (4,), ())


def test_agrees_with_the_library(tmp_path):
    """What safetensors itself writes is accepted, padding and remarks included."""
    numpy = pytest.importorskip("numpy")
    library = pytest.importorskip("safetensors.numpy")
    library.save_file(
        {"w": numpy.arange(6, dtype=numpy.float32).reshape(2, 3)}, tmp_path / "m", metadata={"format": "pt"}
    )
    found = header((tmp_path / "m").read_bytes())
    assert found.metadata == {"format": "pt"}
    assert found.tensors[0].shape == (2, 3)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "too few"),
        (b"\x10\0\0\0\0\0\0", "too few"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "header of"),
        ((100).to_bytes(8, "little") + b"{}", "needs 108 bytes"),
        ((2).to_bytes(8, "little") + b"[]", "no JSON object"),
        ((2).to_bytes(8, "little") + b"{,", "no JSON"),
        ((2).to_bytes(8, "little") + b"\xff\xff", "no JSON"),
        (safetensors({"a": ("U8", [4], b"1234")})[:-1], "was cut off"),
        (safetensors({"a": ("U8", [4], b"1234")}) + b"x", "belong to no tensor"),
        (safetensors({"a": ("U8", [4], b"1234")}, header=entry("U9")), "type 'U9'"),
        (safetensors({"a": ("U8", [4], b"1234")}, header=entry(shape=[5])), "needs 5 bytes"),
        (safetensors({"a": ("U8", [4], b"1234")}, header=entry(shape=[-4])), "no usable shape"),
        (safetensors({"a": ("U8", [4], b"1234")}, header=entry(shape=[True, 4])), "no usable shape"),
        (safetensors({"a": ("U8", [4], b"1234")}, header=entry(shape=[1 << 61, 1 << 61])), "needs"),
        (safetensors({"a": ("U8", [4], b"1234")}, header=entry(offsets=[4, 0])), "needs 4 bytes"),
        (safetensors({"a": ("U8", [4], b"1234")}, header=entry(offsets=[0, 4, 8])), "no usable shape"),
        (safetensors({"a": ("U8", [4], b"12345678")}, header=entry(offsets=[4, 8])), "leaves 4 bytes unused"),
        (safetensors({"a": ("U8", [4], b"1234")}, header={"a": 3}), "type None"),
        (safetensors({"a": ("U8", [4], b"1234")}, header={"__metadata__": {"x": 1}, **entry()}), "__metadata__"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(content, told):
    """Cut off, padded, overlapping, of unknown type: refused with the reason."""
    with pytest.raises(BadModel, match="model.safetensors") as error:
        header(content)
    assert told in str(error.value)


def test_overlapping_tensors_are_refused():
    """Two tensors over the same bytes, as only a file made to deceive has."""
    twice = {**entry(), "b": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]}}
    with pytest.raises(BadModel, match="overlaps"):
        header(safetensors({"a": ("U8", [6], b"123456")}, header=twice))


def test_a_name_that_occurs_twice_is_refused():
    """Readers differ on which one counts."""
    raw = b'{"a": ' + json.dumps(entry()["a"]).encode() + b', "a": ' + json.dumps(entry()["a"]).encode() + b"}"
    with pytest.raises(BadModel, match="twice"):
        header(len(raw).to_bytes(8, "little") + raw + b"1234")


def test_any_damage_to_the_header_is_refused_or_harmless():
    """Whatever bytes are changed, nothing but BadModel comes out, and no tensor reaches beyond the file."""
    whole = safetensors(GOOD)
    chance = random.Random(7)
    for _ in range(3000):
        raw = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        try:
            found = header(bytes(raw))
        except BadModel:
            continue
        assert all(0 <= tensor.begin <= tensor.end <= len(raw) for tensor in found.tensors)
