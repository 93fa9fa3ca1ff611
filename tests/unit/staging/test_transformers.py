"""A tiny real transformer, staged: `from_pretrained` gives the same model as its own directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slurmext.staging import Shard, load, stream
from slurmext.staging.errors import NotStaged
from slurmext.staging.frameworks.transformers import from_pretrained
from slurmext.staging.places import ROOTS
from slurmext.staging.shards import rules_of

from .conftest import stage

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="needs transformers (pip install slurmext[frameworks])")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model of the Llama kind with twelve layers, in several files, as save_pretrained writes it."""
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=12, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    directory = tmp_path_factory.mktemp("llama")
    model.save_pretrained(directory, max_shard_size="200KB")
    assert len(list(directory.glob("*.safetensors"))) > 1
    return model, directory


def test_from_pretrained_on_a_staged_model(saved, memory):
    """The same answers to the last bit, and the same words."""
    model, directory = saved
    stage(memory / "t", directory, "org/llama")
    staged = from_pretrained(transformers.AutoModelForCausalLM, "org/llama", roots=str(memory / "t"), dtype="auto")
    words = torch.arange(20).reshape(2, 10)
    with torch.no_grad():
        assert torch.equal(staged.eval()(words).logits, model(words).logits)
    config = from_pretrained(transformers.AutoConfig, "org/llama@v1", roots=str(memory / "t"))
    assert config.num_hidden_layers == 12
    with pytest.raises(NotStaged, match="--preload=org/absent"):
        from_pretrained(transformers.AutoConfig, "org/absent", roots=str(memory / "t"))


def test_a_real_model_streams_in_forward_order(saved, memory):
    """Embeddings, layers 0 to 11, the norm, the head; the tensors are the model's."""
    model, directory = saved
    stage(memory / "t", directory, "org/llama")
    state = model.state_dict()
    names = []
    for name, tensor in stream("org/llama", framework="torch", roots=str(memory / "t")):
        assert torch.equal(tensor, state[name])
        names.append(name)
    assert set(names) == set(state)
    layers = [int(name.split(".")[2]) for name in names if ".layers." in name]
    assert layers == sorted(layers)
    assert names[0] == "model.embed_tokens.weight"
    assert names[-2:] == ["model.norm.weight", "lm_head.weight"]


def test_ranks_take_their_part_by_the_models_own_plan(saved):
    """As transformers divides it: attention heads, columns of the feed-forward."""
    model, directory = saved
    rules = rules_of(model.config.base_model_tp_plan)
    parts = [load(directory, framework="torch", shard=Shard(rank=rank, world=2, rules=rules)) for rank in range(2)]
    for name, whole in model.state_dict().items():
        dimension = 1 if ("o_proj" in name or "down_proj" in name) else 0 if "_proj" in name else None
        if dimension is None:
            assert torch.equal(parts[1][name], whole)
        else:
            assert torch.equal(torch.cat([part[name] for part in parts], dimension), whole)


@pytest.mark.slow
def test_the_examples_run(saved, memory, tmp_path):
    """Text from a staged model, and its weights as a rank's stream."""
    model, directory = saved
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "Once": 1, "upon": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    whole = shutil.copytree(directory, tmp_path / "whole")
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(whole)
    stage(memory / "t", whole, "org/llama")
    examples = Path(__file__).parents[3] / "examples"

    def run(name: str, *words: str, **more: str) -> str:
        environment = {**os.environ, ROOTS: str(memory / "t"), **more}
        command = [sys.executable, str(examples / name), "org/llama", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout

    assert "Once upon" in run("generate_transformers.py", "--tokens", "3")
    lines = run("stream_weights.py", SLURM_LOCALID="1", RANKS="2").splitlines()
    assert len(lines) == len(model.state_dict())
    assert lines[0].endswith("model.embed_tokens.weight [128, 32]")
    assert any(line.endswith("model.layers.11.self_attn.o_proj.weight [32, 16]") for line in lines)
