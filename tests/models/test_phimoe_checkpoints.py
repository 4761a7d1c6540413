"""Checkpoints of PhiMoE: what the oracle saves we load, what we save it loads, experts stacked and apart, and
the published size."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import seq2seq_zoo
from seq2seq_zoo import CheckpointError, ConfigError
from seq2seq_zoo.inspection import inspect_checkpoint
from tests.oracle import needs_4, needs_5, relative_error
from tests.phimoe_oracle import CLASSES, LONGROPE, SIZE, ours_at_random, text, theirs_at_random

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in CLASSES),
    ("PhimoeForCausalLM", {"attention_bias": True, "lm_head_bias": True, **LONGROPE}),
    ("PhimoeForCausalLM", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    ("PhimoeForSequenceClassification", {"num_labels": 5, "num_key_value_heads": 4}),
]
IDS = [" ".join([name, *options]) for name, options in VARIANTS]
SHORT = text(7)[0]
"""Within LongRoPE's border, beyond which 5.23 is at fault."""


def stored(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as handle:
            tensors |= {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    return tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_the_oracle_loads_what_we_save(
    name: str, options: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    ours = ours_at_random(name, **options).to(dtype)
    ours.save_pretrained(tmp_path / "ours")
    theirs, info = getattr(transformers, name).from_pretrained(
        tmp_path / "ours", output_loading_info=True, dtype="auto"
    )
    assert not any(info.values())
    theirs.config._experts_implementation = "eager"  # a way of 5.x that takes any size
    assert {p.dtype for p in theirs.parameters()} == {dtype}
    with torch.no_grad():
        mine, other = ours(SHORT)[0], theirs.eval()(SHORT)[0]
    assert relative_error(mine.float(), other.float()) <= (1e-5 if dtype == torch.float32 else 0.03)
    theirs.save_pretrained(tmp_path / "theirs")
    one, another = stored(tmp_path / "ours"), stored(tmp_path / "theirs")
    assert set(one) == set(another)
    assert all(torch.equal(tensor, another[key]) for key, tensor in one.items())
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["architectures"] == [name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_a_round_trip_is_bit_identical(
    name: str, options: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    theirs = theirs_at_random(name, **options).to(dtype)
    theirs.save_pretrained(tmp_path / "theirs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, info = getattr(seq2seq_zoo, name).from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert info == {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}
    assert not ours.training
    assert {p.dtype for p in ours.parameters()} == {dtype}
    ours.save_pretrained(tmp_path / "ours", max_shard_size="5KB")
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) > 1
    other, mine = stored(tmp_path / "theirs"), stored(tmp_path / "ours")
    assert set(mine) == set(other)
    assert all(torch.equal(tensor, other[key]) for key, tensor in mine.items())
    again = getattr(seq2seq_zoo, name).from_pretrained(tmp_path / "ours")
    assert torch.equal(again(SHORT)[0], ours(SHORT)[0])
    assert again.config == ours.config


@needs_4  # 5.x shards its own stacks, and so keeps the experts of one together
def test_shards_of_the_oracle(tmp_path: Path) -> None:
    """Where the experts of one stack lie in several files."""
    theirs = theirs_at_random("PhimoeForCausalLM")
    theirs.save_pretrained(tmp_path, max_shard_size="2KB")
    files = {
        file.name
        for file in tmp_path.glob("model-*.safetensors")
        for key in safe_open(file, "pt").keys()  # noqa: SIM118
        if "layers.0.block_sparse_moe.experts" in key and key.endswith("w1.weight")
    }
    assert len(files) > 1
    ours = seq2seq_zoo.PhimoeForCausalLM.from_pretrained(tmp_path)
    assert relative_error(ours(SHORT).logits, theirs(SHORT).logits) <= 1e-5


def stacked(tensors: dict[str, Tensor], experts: int) -> dict[str, Tensor]:
    """The same checkpoint with a layer's experts in two tensors, as transformers 5.x has them in memory."""
    found = {key: tensor for key, tensor in tensors.items() if "block_sparse_moe" not in key}
    for key in [key for key in tensors if key.endswith("block_sparse_moe.gate.weight")]:
        theirs, ours = (
            key.removesuffix("gate.weight"),
            key.removesuffix("block_sparse_moe.gate.weight") + "mlp.",
        )
        one = [[tensors[f"{theirs}experts.{i}.w{x}.weight"] for i in range(experts)] for x in (1, 2, 3)]
        gate, down, up = (torch.stack(rows) for rows in one)
        found[ours + "router.weight"] = tensors[key]
        found[ours + "experts.gate_up_proj"] = torch.cat([gate, up], dim=1)
        found[ours + "experts.down_proj"] = down
    return found


@pytest.mark.parametrize("name", CLASSES)
def test_stacked_experts(name: str, tmp_path: Path) -> None:
    ours = ours_at_random(name)
    ours.save_pretrained(tmp_path / "apart")
    ours.config.save_pretrained(tmp_path / "stacked")
    apart = stored(tmp_path / "apart")
    save_file(stacked(apart, SIZE["num_local_experts"]), tmp_path / "stacked" / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again, info = getattr(seq2seq_zoo, name).from_pretrained(
            tmp_path / "stacked", output_loading_info=True
        )
    assert not any(info.values())
    assert torch.equal(again(SHORT)[0], ours(SHORT)[0])
    again.save_pretrained(tmp_path / "again")  # in the layout that every version reads
    back = stored(tmp_path / "again")
    assert set(back) == set(apart)
    assert all(torch.equal(tensor, back[key]) for key, tensor in apart.items())
    found = inspect_checkpoint(tmp_path / "stacked", name)
    type(again).stored_key_map(again.config, found.weights).check()
    assert not found.match.report.missing_keys
    assert not found.match.report.unexpected_keys


@needs_5
def test_stacked_experts_of_the_oracle(tmp_path: Path) -> None:
    theirs = theirs_at_random("PhimoeForCausalLM")
    theirs.save_pretrained(tmp_path, save_original_format=False)
    assert "model.layers.0.mlp.experts.gate_up_proj" in stored(tmp_path)
    ours = seq2seq_zoo.PhimoeForCausalLM.from_pretrained(tmp_path)
    assert relative_error(ours(SHORT).logits, theirs(SHORT).logits) <= 1e-5
    with pytest.warns(UserWarning, match=r"score\.weight"):
        labels = seq2seq_zoo.PhimoeForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(labels.model(SHORT).last_hidden_state, ours.model(SHORT).last_hidden_state)


def test_heads_come_and_go(tmp_path: Path) -> None:
    writer = ours_at_random()
    writer.save_pretrained(tmp_path / "writer")
    with pytest.warns(UserWarning, match=r"lm_head\.weight"):
        body, info = seq2seq_zoo.PhimoeModel.from_pretrained(tmp_path / "writer", output_loading_info=True)
    assert info == {"missing_keys": [], "unexpected_keys": ["lm_head.weight"], "mismatched_keys": []}
    expected = writer.model(SHORT).last_hidden_state
    assert torch.equal(body(SHORT).last_hidden_state, expected)
    body.save_pretrained(tmp_path / "body")
    with pytest.warns(UserWarning, match=r"score\.weight"):
        labels, info = seq2seq_zoo.PhimoeForSequenceClassification.from_pretrained(
            tmp_path / "body", output_loading_info=True, num_labels=3
        )
    assert info["missing_keys"] == ["score.weight"]
    assert torch.equal(labels.model(SHORT).last_hidden_state, expected)


def test_loading_with_other_positions(tmp_path: Path) -> None:
    ours_at_random(**LONGROPE).save_pretrained(tmp_path)
    plain = {"rope_type": "default", "rope_theta": 4.0}
    for options in ({"rope_parameters": plain}, {"rope_scaling": None, "rope_theta": 4.0}):
        model = seq2seq_zoo.PhimoeForCausalLM.from_pretrained(tmp_path, **options)
        assert model.config.rope_parameters == plain
        assert model.model.stack.rotary.long_context is None
    with pytest.raises(ConfigError, match="was given rope_parametres; PhimoeConfig has no such field"):
        seq2seq_zoo.PhimoeForCausalLM.from_pretrained(tmp_path, rope_parametres=plain)


def test_an_expert_is_missing(tmp_path: Path) -> None:
    ours_at_random().save_pretrained(tmp_path)
    tensors = stored(tmp_path)
    del tensors["model.layers.1.block_sparse_moe.experts.3.w2.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.1\.block_sparse_moe\.experts\.3\.w2\.weight"):
        seq2seq_zoo.PhimoeForCausalLM.from_pretrained(tmp_path)


def test_other_families_are_refused(tmp_path: Path) -> None:
    ours_at_random("PhimoeModel").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="has model_type 'phimoe'; MT5Model loads 'mt5'"):
        seq2seq_zoo.MT5Model.from_pretrained(tmp_path)
    for auto, found in (
        ("AutoModel", "PhimoeModel"),
        ("AutoModelForCausalLM", "PhimoeForCausalLM"),
        ("AutoModelForSequenceClassification", "PhimoeForSequenceClassification"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = getattr(seq2seq_zoo, auto).from_pretrained(tmp_path)
        assert type(model).__name__ == found


def test_ties_and_a_larger_vocabulary() -> None:
    tied = ours_at_random(tie_word_embeddings=True, lm_head_bias=True)
    assert tied.lm_head.weight is tied.get_input_embeddings().weight
    tied.resize_token_embeddings(70)
    assert tied.lm_head.weight is tied.get_input_embeddings().weight
    assert tied(SHORT).logits.shape == (3, 7, 70)
    assert ours_at_random().lm_head.weight is not ours_at_random().get_input_embeddings().weight


def test_the_published_initialisation() -> None:
    torch.manual_seed(0)
    model = seq2seq_zoo.PhimoeForCausalLM(
        seq2seq_zoo.PhimoeConfig(**{**SIZE, "hidden_size": 64, "attention_bias": True, "lm_head_bias": True})
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert bool((parameter == 1).all()), name
        else:
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.15), name
    assert not model.get_input_embeddings().weight[0].any()


# ---- 42 billion parameters, on the meta device ----

RELEASED: dict[str, Any] = {
    "attention_bias": True,
    "lm_head_bias": True,
    "sliding_window": 131072,
    "rope_theta": 10000.0,
    "rope_scaling": {
        **LONGROPE["rope_scaling"],
        "short_factor": [1.0] * 64,
        "long_factor": [2.0] * 64,
        "original_max_position_embeddings": 4096,
    },
}


def expected_keys(*, biases: bool) -> set[str]:
    """The hub's keys of PhimoeForCausalLM with 32 layers of 16 experts, written down by hand."""
    suffixes = ("weight", "bias") if biases else ("weight",)
    keys = {"model.embed_tokens.weight", "model.norm.weight", "model.norm.bias"}
    keys |= {f"lm_head.{suffix}" for suffix in suffixes}
    for layer in (f"model.layers.{number}" for number in range(32)):
        keys |= {f"{layer}.self_attn.{x}_proj.{suffix}" for x in "qkvo" for suffix in suffixes}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            keys |= {f"{layer}.{norm}.weight", f"{layer}.{norm}.bias"}
        keys.add(f"{layer}.block_sparse_moe.gate.weight")
        for expert in range(16):
            keys |= {f"{layer}.block_sparse_moe.experts.{expert}.w{x}.weight" for x in (1, 2, 3)}
    return keys


@pytest.mark.parametrize(
    ("options", "count"),
    # biases: of 32 attentions, 4096 + 1024 + 1024 + 4096 each, and of the head, 32064
    [({}, 41_872_793_600), (RELEASED, 41_872_793_600 + 32 * 10240 + 32064)],
    ids=["default config", "as released"],
)
def test_the_published_count_and_every_key(options: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        model = seq2seq_zoo.PhimoeForCausalLM(seq2seq_zoo.PhimoeConfig(**options))
    assert model.num_parameters() == count
    assert all(p.is_meta for p in model.parameters())
    links = model.key_map(model.config).links({name: p.shape for name, p in model.named_parameters()})
    keys = [key for link in links for key in link.keys]
    assert len(keys) == len(set(keys))
    assert set(keys) == expected_keys(biases=bool(options))
    assert sorted(name for link in links for name in link.names) == sorted(
        name for name, _ in model.named_parameters()
    )
    shapes = {key: shape for link in links for key, shape in zip(link.keys, link.key_shapes, strict=True)}
    assert shapes["model.layers.31.block_sparse_moe.experts.15.w2.weight"] == (4096, 6400)
    assert shapes["model.layers.31.block_sparse_moe.experts.15.w3.weight"] == (6400, 4096)
    assert shapes["model.layers.0.self_attn.k_proj.weight"] == (1024, 4096)


def test_phi_tiny_moe_instruct() -> None:
    """16 heads of 128 in a width of 4096: 3.8 billion parameters, of which a token uses 1.1, says its card
    (and arXiv:2506.18349)."""
    options = {"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 448}
    config = seq2seq_zoo.PhimoeConfig(**options, attention_bias=True, lm_head_bias=True, rope_theta=10000.0)
    with torch.device("meta"):
        model = seq2seq_zoo.PhimoeForCausalLM(config)
    assert round(model.num_parameters() / 1e9, 1) == 3.8
    links = model.key_map(config).links({name: p.shape for name, p in model.named_parameters()})
    shapes = {key: shape for link in links for key, shape in zip(link.keys, link.key_shapes, strict=True)}
    assert shapes["model.layers.31.self_attn.q_proj.weight"] == (2048, 4096)
    assert shapes["model.layers.31.self_attn.k_proj.bias"] == (512,)
    assert shapes["model.layers.31.self_attn.o_proj.weight"] == (4096, 2048)


def test_heads_of_a_size_of_their_own(tmp_path: Path) -> None:
    ours = ours_at_random(head_dim=6)
    ours.save_pretrained(tmp_path)
    again = seq2seq_zoo.PhimoeForCausalLM.from_pretrained(tmp_path)
    assert again.config.head_dim == 6
    assert torch.equal(again(SHORT).logits, ours(SHORT).logits)
    with pytest.raises(CheckpointError, match=r"q_proj\.weight \[24, 16\]"):
        seq2seq_zoo.PhimoeForCausalLM.from_pretrained(tmp_path, head_dim=None)


def test_trust_in_remote_code_changes_nothing(tmp_path: Path) -> None:
    """The documentation asks for `trust_remote_code=True`; it is accepted, stored nowhere, and runs
    nothing."""
    ours = ours_at_random("PhimoeForCausalLM")
    ours.save_pretrained(tmp_path)
    trap = tmp_path / "modeling_phimoe.py"
    trap.write_text("raise SystemExit('code of a checkpoint was run')\n")
    values = json.loads((tmp_path / "config.json").read_text())
    values["auto_map"] = {"AutoModelForCausalLM": "modeling_phimoe.PhimoeForCausalLM"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    for cls in (seq2seq_zoo.AutoModelForCausalLM, seq2seq_zoo.PhimoeForCausalLM):
        loaded = cls.from_pretrained(tmp_path, trust_remote_code=True)
        assert "trust_remote_code" not in loaded.config.to_dict()
        assert torch.equal(loaded.get_input_embeddings().weight, ours.get_input_embeddings().weight)
    for config in (seq2seq_zoo.AutoConfig, seq2seq_zoo.PhimoeConfig):
        assert "trust_remote_code" not in config.from_pretrained(tmp_path, trust_remote_code=True).to_dict()
