"""Checkpoints of MEGA: what the oracle saves we load, what we save it loads, heads come and go, and the
published size."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from torch import Tensor

import seq2seq_zoo
from seq2seq_zoo import CheckpointError, ConfigError
from tests.mega_oracle import CAUSAL, SIZE, needs_mega, pair, text
from tests.models.test_checkpoints import assert_mapped
from tests.oracle import randomise, relative_error

CLASSES = (
    "MegaModel",
    "MegaForCausalLM",
    "MegaForMaskedLM",
    "MegaForSequenceClassification",
    "MegaForMultipleChoice",
    "MegaForTokenClassification",
    "MegaForQuestionAnswering",
)
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, CAUSAL if name == "MegaForCausalLM" else {}) for name in CLASSES),
    ("MegaForCausalLM", {**CAUSAL, "add_cross_attention": True}),
    ("MegaForCausalLM", {**CAUSAL, "relative_positional_bias": "simple", "add_cross_attention": True}),
    ("MegaForMaskedLM", {"normalization_type": "batchnorm", "add_token_type_embeddings": True}),
    ("MegaForMaskedLM", {"normalization_type": "layernorm", "use_normalized_ffn": False}),
    ("MegaForMaskedLM", {"norm_affine": False, "tie_word_embeddings": False}),
    ("MegaForMaskedLM", {"add_lm_hidden_dense_layer": False, "normalization_type": "rmsnorm"}),
]
IDS = [" ".join([name, *map(str, options.values())]) for name, options in VARIANTS]


def call(name: str, options: dict[str, Any]) -> dict[str, Tensor]:
    ids, mask = text(12)
    arguments = {"input_ids": ids, "attention_mask": mask}
    if name == "MegaForMultipleChoice":
        arguments = {key: value[None] for key, value in arguments.items()}
    if options.get("add_cross_attention"):
        arguments["encoder_hidden_states"] = torch.ones(3, 5, 12)
    return arguments


def stored(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as handle:
            tensors |= {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    return tensors


def ours_at_random(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(seq2seq_zoo, name)(seq2seq_zoo.MegaConfig(**{**SIZE, **options})).eval()
    randomise(model)
    for key, buffer in model.named_buffers():
        if key.endswith("running_var"):
            buffer.abs_().add_(0.1)
    return model


@needs_mega
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_the_oracle_loads_what_we_save(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    ours = ours_at_random(name, **options)
    if options.get("normalization_type") == "rmsnorm":
        torch.nn.init.zeros_(
            ours.model.stack.embedding.tokens.weight
        )  # its norm is at fault, its keys are not
    ours.save_pretrained(tmp_path / "ours")
    theirs, info = getattr(transformers, name).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    if options.get("normalization_type") != "rmsnorm":
        with torch.no_grad():
            mine, other = ours(**call(name, options))[0], theirs.eval()(**call(name, options))[0]
        assert relative_error(mine, other) <= 1e-5
    theirs.save_pretrained(tmp_path / "theirs")
    assert set(stored(tmp_path / "ours")) == set(stored(tmp_path / "theirs"))
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"] == [name]


@needs_mega
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_a_round_trip_is_bit_identical(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    theirs, _ = pair(name, tmp_path / "theirs", **options)
    theirs.save_pretrained(tmp_path / "theirs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, info = getattr(seq2seq_zoo, name).from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert info == {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}
    assert not ours.training
    ours.save_pretrained(tmp_path / "ours", max_shard_size="5KB")
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) > 1
    other, mine = stored(tmp_path / "theirs"), stored(tmp_path / "ours")
    assert set(mine) == set(other)
    assert all(torch.equal(tensor, other[key]) for key, tensor in mine.items())
    assert {tensor.dtype for tensor in mine.values()} <= {torch.float32, torch.int64}
    again = getattr(seq2seq_zoo, name).from_pretrained(tmp_path / "ours")
    assert torch.equal(again(**call(name, options))[0], ours(**call(name, options))[0])


def test_split_projections_are_the_mapped_file_itself(tmp_path: Path) -> None:
    ours_at_random("MegaForMaskedLM").save_pretrained(tmp_path)
    model = seq2seq_zoo.MegaForMaskedLM.from_pretrained(tmp_path)
    assert_mapped(model, tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("saved", "loaded", "missing", "unexpected"),
    [
        ("MegaForMaskedLM", "MegaModel", ("pooler",), ("dense", "mlm_head")),
        ("MegaModel", "MegaForMaskedLM", ("dense", "mlm_head"), ("mega.pooler", "pooler")),
        ("MegaForMaskedLM", "MegaForSequenceClassification", ("classifier",), ("dense", "mlm_head")),
        ("MegaForMaskedLM", "MegaForTokenClassification", ("classifier",), ("dense", "mlm_head")),
        ("MegaForMaskedLM", "MegaForQuestionAnswering", ("qa_outputs",), ("dense", "mlm_head")),
        ("MegaForMaskedLM", "MegaForMultipleChoice", ("classifier", "mega.pooler"), ("dense", "mlm_head")),
        ("MegaForMaskedLM", "MegaForCausalLM", ("lm_head",), ("mlm_head",)),
    ],
)
def test_heads_come_and_go(
    saved: str, loaded: str, missing: tuple[str, ...], unexpected: tuple[str, ...], tmp_path: Path
) -> None:
    first = ours_at_random(saved)
    first.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        second, info = getattr(seq2seq_zoo, loaded).from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"]
    assert all(key.startswith(missing) for key in info["missing_keys"])
    assert all(key.startswith(unexpected) for key in info["unexpected_keys"])
    assert all(p.isfinite().all() and not p.is_meta for p in second.parameters())
    ids, mask = text(12)
    bodies = [getattr(model, "model", model) for model in (first, second)]
    assert torch.equal(*(body(ids, mask).last_hidden_state for body in bodies))


def test_a_masked_model_becomes_causal(tmp_path: Path) -> None:
    """The moving average of both directions has twice the rows: it starts anew, and nothing else of the
    body."""
    ours_at_random("MegaForMaskedLM").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="damping_factor"):
        seq2seq_zoo.MegaForCausalLM.from_pretrained(tmp_path, is_decoder=True, bidirectional=False)
    with pytest.warns(UserWarning, match="ema_gate"):
        model, info = seq2seq_zoo.MegaForCausalLM.from_pretrained(
            tmp_path,
            is_decoder=True,
            bidirectional=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    assert info["missing_keys"] == ["lm_head.bias"]
    assert len(info["mismatched_keys"]) == 2 * 4
    assert all(".ema_gate." in key for key in info["mismatched_keys"])
    average = model.model.stack.layers[0].self_attention.moving_average
    assert average.beta[:, 0].min() > 0.5 > -0.5 > average.beta[:, 1].max()
    assert model.generate(text(5)[0], max_new_tokens=3).shape[0] == 3


@needs_mega
def test_initialisation_is_the_oracles() -> None:
    """Means and deviations of every kind of part, over a larger model."""
    size = {"vocab_size": 999, "hidden_size": 64, "num_hidden_layers": 3, "max_positions": 500}
    for options in ({}, {"relative_positional_bias": "simple", "normalization_type": "batchnorm"}):
        torch.manual_seed(0)
        theirs = transformers.MegaForMaskedLM(transformers.MegaConfig(**size, **options))
        ours = seq2seq_zoo.MegaForMaskedLM(seq2seq_zoo.MegaConfig(**size, **options))
        mine = {**dict(ours.named_parameters()), **dict(ours.named_buffers())}
        other = theirs.state_dict()
        links = type(ours).key_map(ours.config).links({name: t.shape for name, t in mine.items()})
        assert {name for link in links for name in link.names} == set(mine)
        kinds: dict[str, list[tuple[Tensor, Tensor]]] = {}  # the same part of all layers together
        for link in links:
            found = link.rule.to_theirs([mine[name].detach() for name in link.names])[0].double()
            kind = re.sub(r"layers\.\d+", "layers", link.keys[0])
            kinds.setdefault(kind, []).append((found.flatten(), other[link.keys[0]].double().flatten()))
        for kind, pairs in kinds.items():
            found, wanted = (torch.cat(side) for side in zip(*pairs, strict=True))
            spread = wanted.std(correction=0)
            error = spread / wanted.numel() ** 0.5 + 1e-9
            assert abs(found.mean() - wanted.mean()) <= 5 * error, kind
            assert abs(found.std(correction=0) - spread) <= 5 * error, kind
        assert not ours.get_input_embeddings().weight[1].any()


def test_counts() -> None:
    with torch.device("meta"):
        model = seq2seq_zoo.MegaForMaskedLM(seq2seq_zoo.MegaConfig())
    assert model.num_parameters() == 4_846_018
    assert all(p.is_meta for p in model.parameters())


def test_default_config_is_the_documented_one() -> None:
    config = seq2seq_zoo.MegaConfig()
    assert config.add_token_type_embeddings is False  # the documentation says True, the code never did
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (128, 4, 1)
    assert seq2seq_zoo.AutoConfig.for_model("mega") == config


@needs_mega
def test_the_oracles_config_is_ours() -> None:
    theirs = transformers.MegaConfig().to_dict()
    ours = seq2seq_zoo.MegaConfig()
    for name in seq2seq_zoo.MegaConfig.__annotations__:
        assert getattr(ours, name) == theirs[name], name


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({"ema_projection_size": 0}, "ema_projection_size"),
        ({"normalization_type": "groupnorm"}, "normalization_type is 'groupnorm'; .* scalenorm"),
        ({"attention_activation": "relu"}, "attention_activation is 'relu'; .* softmax, laplace, relu2"),
        ({"relative_positional_bias": "none"}, "relative_positional_bias"),
        ({"activation": "cube"}, "activation is 'cube'"),
        ({"truncation": 0}, "truncation is 0"),
        ({"use_chunking": True}, "chunk_size is -1"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"chunk_size": 50, "max_positions": 40, "relative_positional_bias": "simple"}, "chunk_size is 50"),
        ({"shared_representation_size": 7}, "shared_representation_size is 7"),
        ({"dropout_prob": 1.5}, "dropout_prob is 1.5"),
        ({"classifier_dropout": -0.1}, "classifier_dropout"),
        ({"vocab_size": 1}, "pad_token_id is 1"),
        ({"use_chunking": "yes"}, "use_chunking is 'yes'"),
    ],
)
def test_impossible_configs_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        seq2seq_zoo.MegaConfig(**options)


def test_a_memory_needs_a_decoder() -> None:
    with pytest.raises(ConfigError, match="add_cross_attention"):
        seq2seq_zoo.MegaModel(seq2seq_zoo.MegaConfig(**SIZE, add_cross_attention=True))


def test_token_types_are_checked() -> None:
    model = ours_at_random("MegaModel", add_token_type_embeddings=True)
    ids, _ = text(4)
    types = torch.zeros_like(ids)
    assert torch.equal(model(ids).last_hidden_state, model(ids, token_type_ids=types).last_hidden_state)
    assert not torch.allclose(
        model(ids).last_hidden_state, model(ids, token_type_ids=types + 1).last_hidden_state
    )
    with pytest.raises(ValueError, match="token_type_ids holds the id 2"):
        model(ids, token_type_ids=types + 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "options", [{}, {"attention_activation": "laplace", "normalization_type": "layernorm"}]
)
def test_half_precision(dtype: torch.dtype, options: dict[str, Any], tmp_path: Path) -> None:
    wide = ours_at_random("MegaForCausalLM", **CAUSAL, **options)
    wide.save_pretrained(tmp_path)
    half = seq2seq_zoo.MegaForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    assert {p.dtype for p in half.parameters()} == {dtype}
    ids, mask = text(12)
    with torch.no_grad():
        expected, found = wide(ids, mask).logits, half(ids, mask)
    assert found.logits.dtype == dtype
    assert relative_error(found.logits.float(), expected) <= 0.1
    more = half(ids[:, :1], torch.cat([mask, mask[:, :1]], 1), past_key_values=found.past_key_values)
    assert more.logits.isfinite().all()
    written = half.generate(ids, attention_mask=mask, max_new_tokens=4, num_beams=2)
    assert written.shape[0] == 3


def test_resizing_keeps_the_head_tied() -> None:
    model = ours_at_random("MegaForMaskedLM")
    ids, _ = text(6)
    before = model(ids).logits
    model.resize_token_embeddings(70)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.lm_head.bias.shape == (70,)
    torch.testing.assert_close(model(ids).logits[..., :61], before)


def test_every_parameter_learns() -> None:
    for name, options in VARIANTS:
        model = ours_at_random(name, **options).train()
        out = model(**call(name, options))
        found = [value for key, value in out.items() if key.endswith(("logits", "pooler_output"))]
        sum(value.square().sum() for value in found).backward()
        idle = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert idle == [], name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    model = ours_at_random("MegaForCausalLM", **CAUSAL, use_chunking=True, chunk_size=4)
    ids, mask = text(14, side="left")
    expected = model(ids, mask).logits
    written = model.generate(ids, attention_mask=mask, max_new_tokens=9)
    model.cuda()
    assert relative_error(model(ids.cuda(), mask.cuda()).logits.cpu(), expected) <= 1e-4
    assert torch.equal(
        model.generate(ids.cuda(), attention_mask=mask.cuda(), max_new_tokens=9).cpu(), written
    )
