"""Parts for ranks: every rank's own, together the whole; from disk no more is read than the part."""

from __future__ import annotations

import pytest

from slurmext.staging import TENSOR_PARALLEL, Shard, load, stream
from slurmext.staging.places import Place
from slurmext.staging.readers import BLOCK_BYTES
from slurmext.staging.shards import BadShard, rules_of
from slurmext.staging.sources import Files, FromDisk

from .conftest import noise, safetensors, stage

numpy = pytest.importorskip("numpy")

SHAPES = {
    "model.embed_tokens.weight": (10, 8),
    "model.layers.0.self_attn.q_proj.weight": (16, 8),
    "model.layers.0.self_attn.q_proj.bias": (16,),
    "model.layers.0.self_attn.o_proj.weight": (8, 16),
    "model.layers.0.self_attn.o_proj.bias": (8,),
    "model.layers.0.mlp.down_proj.weight": (8, 24),
    "model.norm.weight": (8,),
}


@pytest.fixture
def files(tmp_path):
    directory = tmp_path / "m"
    directory.mkdir()
    content = {
        name: ("F32", list(shape), numpy.random.default_rng(at).random(shape, "f4").tobytes())
        for at, (name, shape) in enumerate(SHAPES.items())
    }
    (directory / "model.safetensors").write_bytes(safetensors(content))
    return directory


@pytest.mark.parametrize("staged", [True, False])
def test_the_parts_of_all_ranks_are_the_whole(files, memory, staged):
    """Columns, rows and what is whole in each, mapped and from disk."""
    whole = load(files, framework="numpy")
    model = "org/m" if staged and stage(memory / "t", files, "org/m") else files
    parts = [load(model, framework="numpy", shard=Shard(rank=r, world=4), roots=str(memory / "t")) for r in range(4)]
    for name, shape in SHAPES.items():
        dimension = {"q_proj": 0, "o_proj.weight": 1, "down_proj": 1}
        along = next((dim for word, dim in dimension.items() if word in name), None)
        if along is None:
            assert all(numpy.array_equal(part[name], whole[name]) for part in parts)
        else:
            assert all(part[name].shape[along] == shape[along] // 4 for part in parts)
            assert numpy.array_equal(numpy.concatenate([part[name] for part in parts], along), whole[name])
    assert parts[0].entry("model.layers.0.self_attn.q_proj.weight").shape == (16, 8)


def test_torch_parts_and_streams_are_the_same(files):
    """And rules of one's own."""
    torch = pytest.importorskip("torch")
    rules = {**TENSOR_PARALLEL, "*embed_tokens.weight": 0}
    shard = Shard(rank=1, world=2, rules=rules)
    expected = load(files, framework="numpy", shard=shard)
    for name, tensor in stream(files, framework="torch", shard=shard):
        assert torch.equal(tensor, torch.from_numpy(expected[name].copy())), name
    assert expected["model.embed_tokens.weight"].shape == (5, 8)


def test_a_rank_reads_its_rows_only(tmp_path):
    """A quarter of a file that is divided by rows, and a few sectors."""
    rows = 4 * BLOCK_BYTES // 1024
    content = {"a.up_proj.weight": ("U8", [rows, 1024], noise(rows * 1024))}
    (tmp_path / "model.safetensors").write_bytes(safetensors(content))
    files = Files(Place(directory=tmp_path, staged=False))
    source = files.open(files.parts(Shard(rank=2, world=4)).values())
    assert isinstance(source, FromDisk)
    source.reading.finish()
    assert BLOCK_BYTES <= source.reading.read_bytes <= BLOCK_BYTES + 3 * 4096


def test_what_cannot_be_divided_is_said():
    """With the tensor, the rule, and what to do."""
    with pytest.raises(BadShard, match="rank 4 of 4"):
        Shard(rank=4, world=4)
    with pytest.raises(BadShard, match=r"\[10, 8\] cannot be divided by 3 along dimension 0"):
        Shard(rank=0, world=3).cut("x.q_proj.weight", (10, 8))
    with pytest.raises(BadShard, match="no dimension 1"):
        Shard(rank=0, world=2).cut("x.o_proj.weight", (8,))
    assert Shard(rank=0, world=1).cut("x.q_proj.weight", (10, 8)) is None


def test_plans_of_transformers_are_understood():
    """As `config.base_model_tp_plan` has them; styles that divide nothing are left out."""
    plan = {"layers.*.self_attn.q_proj": "colwise", "layers.*.mlp.down_proj": "rowwise", "norm": "sequence_parallel"}
    shard = Shard(rank=0, world=2, rules=rules_of({**plan, "lm_head": "colwise_gather_output"}))
    assert shard.cut("model.layers.3.self_attn.q_proj.bias", (8,)) == (0, 0, 4)
    assert shard.cut("model.layers.3.mlp.down_proj.weight", (4, 8)) == (1, 0, 4)
    assert shard.cut("lm_head.weight", (32, 8)) == (0, 0, 16)
    assert shard.cut("model.norm.weight", (8,)) is None
