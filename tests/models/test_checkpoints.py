"""Checkpoints of MVP and mT5: what the oracle saves we load, what we save it loads, and what else the hub
has."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import seq2seq_zoo
from seq2seq_zoo import CheckpointError, ConfigError
from tests.models import test_mt5_parity as mt5
from tests.models import test_mvp_parity as mvp
from tests.oracle import MAJOR, build, randomise, relative_error

MVP_CLASSES = (
    "MvpModel",
    "MvpForConditionalGeneration",
    "MvpForSequenceClassification",
    "MvpForQuestionAnswering",
    "MvpForCausalLM",
)
MT5_CLASSES = (
    "MT5Model",
    "MT5ForConditionalGeneration",
    "MT5EncoderModel",
    "MT5ForSequenceClassification",
    "MT5ForTokenClassification",
    "MT5ForQuestionAnswering",
)
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in (*MVP_CLASSES, *MT5_CLASSES)),
    ("MvpForConditionalGeneration", {"use_prompt": True}),
    ("MvpForSequenceClassification", {"use_prompt": True, "num_labels": 5}),
    ("MvpForConditionalGeneration", {"tie_word_embeddings": False}),
    ("MT5ForConditionalGeneration", {"tie_word_embeddings": True}),
    ("MT5ForConditionalGeneration", {"feed_forward_proj": "relu"}),
]
IDS = [" ".join([name, *map(str, options.values())]) for name, options in VARIANTS]


def family(name: str) -> tuple[Any, Any, dict[str, Any]]:
    """The oracle's config class, ours, and the small size."""
    if name.startswith("Mvp"):
        # The oracle's cache of MvpForCausalLM is as deep as the encoder, so the depths are equal here.
        return transformers.MvpConfig, seq2seq_zoo.MvpConfig, {**mvp.SIZE, "encoder_layers": 3}
    return transformers.MT5Config, seq2seq_zoo.MT5Config, mt5.SIZE


def call(name: str) -> dict[str, Any]:
    ids, mask = (mvp if name.startswith("Mvp") else mt5).source()
    arguments = {"input_ids": ids, "attention_mask": mask}
    if name in ("MT5Model", "MT5ForConditionalGeneration", "MvpForConditionalGeneration"):
        arguments["decoder_input_ids"] = mvp.targets()
    return arguments


def stored_keys(folder: Path) -> set[str]:
    keys: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as handle:
            keys |= set(handle.keys())
    return keys


def first_result(output: Any) -> torch.Tensor:
    return output[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_the_oracle_loads_what_we_save(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    mvp.skip_what_the_oracle_lost(options)
    _, our_config, size = family(name)
    torch.manual_seed(0)
    ours = getattr(seq2seq_zoo, name)(our_config(**{**size, **options})).eval()
    randomise(ours)
    ours.save_pretrained(tmp_path / "ours")
    theirs, info = getattr(transformers, name).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        mine, other = first_result(ours(**call(name))), first_result(theirs.eval()(**call(name)))
    if not (MAJOR == 5 and name == "MT5ForConditionalGeneration" and options.get("tie_word_embeddings")):
        # (5.x does not scale the scores of a tied mT5: tests/DIVERGENCES.md)
        assert relative_error(mine, other) <= 1e-5
    theirs.save_pretrained(tmp_path / "theirs")
    if MAJOR == 4:
        assert stored_keys(tmp_path / "ours") == stored_keys(tmp_path / "theirs")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["architectures"] == [name]


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_a_round_trip_is_bit_identical(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    mvp.skip_what_the_oracle_lost(options, saved_by_us=False)
    their_config, _, size = family(name)
    theirs = build(name, their_config(**{**size, **options}))
    theirs.save_pretrained(tmp_path / "theirs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, info = getattr(seq2seq_zoo, name).from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert info == {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}
    assert not ours.training
    ours.save_pretrained(tmp_path / "ours", max_shard_size="20KB")
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) > 1
    their_tensors, our_tensors = {}, {}
    for folder, tensors in ((tmp_path / "theirs", their_tensors), (tmp_path / "ours", our_tensors)):
        for file in folder.glob("*.safetensors"):
            with safe_open(file, "pt") as handle:
                tensors.update({key: handle.get_tensor(key) for key in handle.keys()})  # noqa: SIM118
    if MAJOR == 5 and name == "MT5ForConditionalGeneration":  # tied and not scaled: saved as what it computes
        assert torch.equal(our_tensors.pop("lm_head.weight"), our_tensors["shared.weight"])
    assert set(our_tensors) == set(their_tensors)
    assert all(torch.equal(tensor, their_tensors[key]) for key, tensor in our_tensors.items())
    again = getattr(seq2seq_zoo, name).from_pretrained(tmp_path / "ours")
    assert torch.equal(first_result(again(**call(name))), first_result(ours(**call(name))))


def bart(folder: Path, *, with_head: bool) -> Any:
    size = {key: value for key, value in mvp.SIZE.items() if not key.startswith("prompt")}
    config = transformers.BartConfig(**{**size, "vocab_size": 57})
    name = "BartForConditionalGeneration" if with_head else "BartModel"
    theirs = build(name, config)
    theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize("with_head", [True, False], ids=["with the model. prefix", "without it"])
def test_bart_becomes_mvp(with_head: bool, tmp_path: Path) -> None:
    theirs = bart(tmp_path, with_head=with_head)
    ids = torch.randint(3, 57, (2, 7))
    expected = (theirs.model if with_head else theirs)(ids).last_hidden_state

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = seq2seq_zoo.MvpForConditionalGeneration.from_pretrained(tmp_path)
    assert plain.config.vocab_size == 57
    assert relative_error(plain.model(ids).last_hidden_state, expected) <= 1e-5
    if not with_head:
        assert torch.equal(plain.final_logits_bias, torch.zeros(1, 57))

    with pytest.warns(UserWarning, match="self_attn_prompt"):
        prompted, info = seq2seq_zoo.MvpForConditionalGeneration.from_pretrained(
            tmp_path, use_prompt=True, prompt_length=5, prompt_mid_dim=7, output_loading_info=True
        )
    fresh = [key for key in info["missing_keys"] if "prompt" in key]
    assert len(fresh) == 15
    assert set(info["missing_keys"]) - set(fresh) <= {"final_logits_bias"}
    prompts = {n: p for n, p in prompted.named_parameters() if "_prompt." in n}
    assert all(p.isfinite().all() for p in prompts.values())
    weights = torch.cat([p.flatten() for n, p in prompts.items() if n.endswith("weight")])
    assert 0.015 < float(weights.detach().std()) < 0.025  # the published start, 0.02
    prompted.set_lightweight_tuning()
    assert {n for n, p in prompted.named_parameters() if p.requires_grad} == set(prompts)


def test_causal_lm_takes_its_vectors_from_the_full_model(tmp_path: Path) -> None:
    """Fault of the oracle: it starts them at random, because only `model.shared` is stored."""
    theirs = build("MvpForConditionalGeneration", transformers.MvpConfig(**mvp.SIZE))
    theirs.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, info = seq2seq_zoo.MvpForCausalLM.from_pretrained(
            tmp_path, add_cross_attention=False, output_loading_info=True
        )
    assert info["missing_keys"] == []
    assert all(
        key.startswith("model.encoder.") or key == "final_logits_bias" for key in info["unexpected_keys"]
    )
    assert torch.equal(ours.get_input_embeddings().weight, theirs.model.shared.weight)
    assert ours.lm_head.weight is ours.get_input_embeddings().weight
    ids, _ = mvp.source()
    expected = theirs.model.decoder(ids).last_hidden_state
    assert relative_error(ours.decoder(ids).last_hidden_state, expected) <= 1e-5


@pytest.mark.parametrize(
    ("saved", "loaded", "head"),
    [
        ("MvpForConditionalGeneration", "MvpModel", None),
        ("MvpModel", "MvpForConditionalGeneration", "final_logits_bias"),
        ("MvpModel", "MvpForSequenceClassification", "classification_head"),
        ("MvpForConditionalGeneration", "MvpForQuestionAnswering", "qa_outputs"),
        ("MT5ForConditionalGeneration", "MT5Model", None),
        ("MT5ForConditionalGeneration", "MT5EncoderModel", None),
        ("MT5Model", "MT5ForConditionalGeneration", "lm_head"),
        ("MT5ForConditionalGeneration", "MT5ForSequenceClassification", "classification_head"),
        ("MT5ForConditionalGeneration", "MT5ForTokenClassification", "classifier"),
        ("MT5Model", "MT5ForQuestionAnswering", "qa_outputs"),
        ("MT5ForSequenceClassification", "MT5ForConditionalGeneration", "lm_head"),
    ],
)
def test_heads_come_and_go(saved: str, loaded: str, head: str | None, tmp_path: Path) -> None:
    if MAJOR == 5 and head == "lm_head":
        head = None  # 5.x ties the head of every mT5
    their_config, _, size = family(saved)
    theirs = build(saved, their_config(**size))
    theirs.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, info = getattr(seq2seq_zoo, loaded).from_pretrained(tmp_path, output_loading_info=True)
    assert all(head is not None and key.startswith(head) for key in info["missing_keys"])
    assert bool(info["missing_keys"]) == (head is not None)
    assert all(p.isfinite().all() and not p.is_meta for p in ours.parameters())
    assert torch.equal(ours.get_input_embeddings().weight, theirs.get_input_embeddings().weight)
    ids, mask = (mvp if saved.startswith("Mvp") else mt5).source()
    their_body = theirs.transformer if saved == "MT5ForSequenceClassification" else theirs
    encoded, expected = ours.get_encoder()(ids, mask), their_body.get_encoder()(ids, mask)
    assert relative_error(encoded.last_hidden_state, expected.last_hidden_state) <= 1e-5


def test_old_mt5_checkpoints_carry_copies_and_a_bias_without_use(tmp_path: Path) -> None:
    theirs = build(
        "MT5ForConditionalGeneration", transformers.MT5Config(**mt5.SIZE, tie_word_embeddings=False)
    )
    tensors = {key: tensor.clone() for key, tensor in theirs.state_dict().items()}
    tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.randn(8, 3)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    theirs.config.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, info = seq2seq_zoo.MT5ForConditionalGeneration.from_pretrained(
            tmp_path, output_loading_info=True
        )
    assert info == {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}
    with torch.no_grad():
        if MAJOR == 4:
            expected = theirs(**call("MT5ForConditionalGeneration")).logits
            assert relative_error(ours(**call("MT5ForConditionalGeneration")).logits, expected) <= 1e-5


def assert_mapped(model: torch.nn.Module, file: Path) -> None:
    """Every parameter lies where memory is mapped to the file."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    mapped = [
        [int(end, 16) for end in line[0].split("-")] for line in lines if line[-1] == str(file.resolve())
    ]
    for name, parameter in model.named_parameters():
        begin, end = parameter.data_ptr(), parameter.data_ptr() + parameter.nbytes
        assert any(low <= begin and end <= high for low, high in mapped), name


def test_weights_are_the_mapped_file_itself(tmp_path: Path) -> None:
    theirs = build("MT5ForConditionalGeneration", transformers.MT5Config(**mt5.SIZE))
    theirs.save_pretrained(tmp_path)
    ours = seq2seq_zoo.MT5ForConditionalGeneration.from_pretrained(tmp_path)
    assert_mapped(ours, tmp_path / "model.safetensors")
    with torch.no_grad():  # training on a mapped file leaves the file alone
        before = (tmp_path / "model.safetensors").read_bytes()
        ours.get_input_embeddings().weight.add_(1.0)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_dtypes(tmp_path: Path) -> None:
    theirs = build("MT5ForConditionalGeneration", transformers.MT5Config(**mt5.SIZE))
    theirs.to(torch.bfloat16).save_pretrained(tmp_path)
    load = seq2seq_zoo.MT5ForConditionalGeneration.from_pretrained
    assert load(tmp_path).dtype == torch.bfloat16
    assert {p.dtype for p in load(tmp_path, dtype="float32").parameters()} == {torch.float32}
    assert {p.dtype for p in load(tmp_path, torch_dtype=torch.float64).parameters()} == {torch.float64}
    half = load(tmp_path, dtype=torch.float16)
    kept = {n for n, p in half.named_parameters() if p.dtype == torch.float32}
    assert kept == {n for n, _ in half.named_parameters() if n.endswith("feed_forward.down.weight")}
    # Without a word in config.json the stored tensors decide.
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("dtype", "torch_dtype"):
        config.pop(name, None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load(tmp_path).dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="float12"):
        load(tmp_path, dtype="float12")


@pytest.mark.parametrize(
    ("few", "most"),
    [(torch.float32, torch.float16), (torch.float32, torch.bfloat16), (torch.float64, torch.float32)],
)
def test_a_config_without_dtype_beside_tensors_of_several(
    few: torch.dtype, most: torch.dtype, tmp_path: Path
) -> None:
    """Norms are often kept wider than the rest; a model of both could not run."""
    theirs = build("MvpForConditionalGeneration", transformers.MvpConfig(**mvp.SIZE))
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "model.safetensors")
    mixed = {key: tensor.to(few if "norm" in key else most) for key, tensor in tensors.items()}
    save_file(mixed, tmp_path / "model.safetensors")
    ours = seq2seq_zoo.MvpForConditionalGeneration.from_pretrained(tmp_path)
    assert {p.dtype for p in (*ours.parameters(), *ours.buffers())} == {most}
    assert ours.config.dtype == most
    assert ours(torch.tensor([[5, 6, 2]])).logits.dtype == most


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    theirs = build("MT5ForConditionalGeneration", transformers.MT5Config(**mt5.SIZE))
    theirs.save_pretrained(tmp_path / "mt5")
    with pytest.raises(CheckpointError, match=r"model_type 'mt5'; MvpModel loads 'mvp' and 'bart'"):
        seq2seq_zoo.MvpModel.from_pretrained(tmp_path / "mt5")
    with pytest.raises(CheckpointError, match="shape"):
        seq2seq_zoo.MT5Model.from_pretrained(tmp_path / "mt5", d_ff=30)
    with pytest.raises(ConfigError, match="dropout"):
        seq2seq_zoo.MT5Model.from_pretrained(tmp_path / "mt5", dropout_rat=0.1)
    with pytest.raises(CheckpointError):
        seq2seq_zoo.MT5Model.from_pretrained(tmp_path / "nowhere")
    with pytest.warns(UserWarning, match="wo"):
        _, info = seq2seq_zoo.MT5Model.from_pretrained(
            tmp_path / "mt5", d_ff=30, ignore_mismatched_sizes=True, output_loading_info=True
        )
    assert len(info["mismatched_keys"]) == 5 * 3


def test_labels_replace_a_head(tmp_path: Path) -> None:
    theirs = build("MT5ForSequenceClassification", transformers.MT5Config(**mt5.SIZE, num_labels=3))
    theirs.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, info = seq2seq_zoo.MT5ForSequenceClassification.from_pretrained(
            tmp_path, num_labels=4, ignore_mismatched_sizes=True, output_loading_info=True
        )
    assert sorted(info["mismatched_keys"]) == [
        "classification_head.out_proj.bias",
        "classification_head.out_proj.weight",
    ]
    assert ours.config.id2label == {i: f"LABEL_{i}" for i in range(4)}
    assert ours(**call("MT5ForSequenceClassification")).logits.shape == (3, 4)


def untied_by_5(folder: Path) -> dict[str, torch.Tensor]:
    """An untied MVP as transformers 5.x writes it: each stack has a token table of its own, and reads it."""
    options = {**mvp.SIZE, "tie_word_embeddings": False}
    torch.manual_seed(0)
    model = seq2seq_zoo.MvpForConditionalGeneration(
        seq2seq_zoo.MvpConfig(**options, transformers_version="5.23.0")
    )
    randomise(model)
    model.save_pretrained(folder)
    return dict(model.state_dict())


def test_an_untied_mvp_of_5_has_three_tables(tmp_path: Path) -> None:
    state = untied_by_5(tmp_path)
    tables = {f"model.{name}.weight" for name in ("shared", "encoder.embed_tokens", "decoder.embed_tokens")}
    assert tables < stored_keys(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = seq2seq_zoo.MvpForConditionalGeneration.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, state[name]) for name, tensor in ours.state_dict().items())
    ours.save_pretrained(tmp_path / "again")
    assert stored_keys(tmp_path / "again") == stored_keys(tmp_path)
    arguments = call("MvpForConditionalGeneration")
    assert torch.equal(
        seq2seq_zoo.MvpForConditionalGeneration.from_pretrained(tmp_path / "again")(**arguments).logits,
        ours(**arguments).logits,
    )
    with torch.no_grad():  # the encoder reads its own table, and the shared one is read by nobody
        expected = ours.model.encoder(arguments["input_ids"]).last_hidden_state
        ours.model.token_embedding.weight.zero_()
        assert torch.equal(ours.model.encoder(arguments["input_ids"]).last_hidden_state, expected)
        ours.model.encoder.embedding.tokens.weight.add_(1.0)
        assert not torch.equal(ours.model.encoder(arguments["input_ids"]).last_hidden_state, expected)
    if MAJOR == 5:
        theirs, info = transformers.MvpForConditionalGeneration.from_pretrained(
            tmp_path, output_loading_info=True
        )
        assert not info["missing_keys"]
        again = seq2seq_zoo.MvpForConditionalGeneration.from_pretrained(tmp_path)
        assert relative_error(again(**arguments).logits, theirs.eval()(**arguments).logits) <= 1e-5

    table = ours.resize_token_embeddings(70)
    assert {t.weight.shape[0] for t in ours.token_tables()} == {70}
    assert len(ours.token_tables()) == 3
    assert table is ours.token_tables()[0]
    assert ours(**arguments).logits.shape[-1] == 70

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="(?s).*they are tied to")
        alone = seq2seq_zoo.MvpForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(alone.get_input_embeddings().weight, state["model.decoder.embedding.tokens.weight"])


def test_a_config_of_5_beside_one_table(tmp_path: Path) -> None:
    """Untied weights of 4.57.6 under a config that 5.x wrote: one table for both stacks, as before."""
    options = {**mvp.SIZE, "tie_word_embeddings": False}
    torch.manual_seed(0)
    model = seq2seq_zoo.MvpForConditionalGeneration(seq2seq_zoo.MvpConfig(**options)).eval()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "transformers_version": "5.23.0"}))
    again, info = seq2seq_zoo.MvpForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == []
    assert len(again.token_tables()) == 1
    arguments = call("MvpForConditionalGeneration")
    assert torch.equal(again(**arguments).logits, model(**arguments).logits)


@pytest.mark.parametrize("name", ["MvpForConditionalGeneration", "MT5ForConditionalGeneration"])
def test_a_vocabulary_in_steps(name: str) -> None:
    """pad_to_multiple_of and mean_resizing, with the sizes and the start that the oracle has."""
    their_config, our_config, options = family(name)
    ours = getattr(seq2seq_zoo, name)(our_config(**options))
    theirs = getattr(transformers, name)(their_config(**options))
    for size, step in ((61, 16), (65, 8), (72, None)):
        rows = ours.resize_token_embeddings(size, pad_to_multiple_of=step).weight.shape[0]
        assert rows == theirs.resize_token_embeddings(size, pad_to_multiple_of=step).weight.shape[0]
        assert rows == ours.config.vocab_size == ours.get_output_embeddings().weight.shape[0]
    torch.manual_seed(0)
    table = ours.resize_token_embeddings(1000, mean_resizing=False)
    std = ours.initial_std("model.token_embedding")
    assert float(table.weight[rows:].detach().std()) == pytest.approx(std, rel=0.05)
    for wrong in ({"new_num_tokens": 0}, {"new_num_tokens": 3.0}, {"pad_to_multiple_of": -8}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is {next(iter(wrong.values()))}"):
            ours.resize_token_embeddings(**wrong)


@pytest.mark.parametrize("name", ["MvpForConditionalGeneration", "MT5ForConditionalGeneration"])
@pytest.mark.parametrize("size", [40, 70])
def test_resized_vocabulary(name: str, size: int, tmp_path: Path) -> None:
    _, our_config, options = family(name)
    torch.manual_seed(0)
    model = getattr(seq2seq_zoo, name)(our_config(**options)).eval()
    randomise(model)
    before = model.get_input_embeddings().weight.clone()
    table = model.resize_token_embeddings(size)
    kept = min(size, 61)
    assert table.weight.shape[0] == size == model.config.vocab_size
    assert torch.equal(table.weight[:kept], before[:kept])
    if size > 61:
        assert torch.allclose(table.weight[61:], before.mean(0).expand(size - 61, -1))
    arguments = {key: value.clamp(max=39) if "ids" in key else value for key, value in call(name).items()}
    assert model(**arguments).logits.shape[-1] == size
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(again(**arguments).logits, model(**arguments).logits)


def test_interrupted_save_leaves_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = seq2seq_zoo.MT5Config(**mt5.SIZE)
    torch.manual_seed(0)
    old = seq2seq_zoo.MT5ForConditionalGeneration(config).eval()
    old.save_pretrained(tmp_path)
    new = seq2seq_zoo.MT5ForConditionalGeneration(config).eval()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(CheckpointError, match="no space"):
        new.save_pretrained(tmp_path)
    monkeypatch.undo()
    again = seq2seq_zoo.MT5ForConditionalGeneration.from_pretrained(tmp_path)
    arguments = call("MT5ForConditionalGeneration")
    assert torch.equal(again(**arguments).logits, old(**arguments).logits)


def test_a_tied_head_of_5_is_saved_as_what_it_computes(tmp_path: Path) -> None:
    """5.x does not scale the scores of tied vectors; only an untied head says so to every version."""
    torch.manual_seed(0)
    model = seq2seq_zoo.MT5ForConditionalGeneration(
        seq2seq_zoo.MT5Config(**mt5.SIZE, tie_word_embeddings=True, transformers_version="5.2.0")
    ).eval()
    randomise(model)
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" in stored_keys(tmp_path)
    arguments = call("MT5ForConditionalGeneration")
    expected = model(**arguments).logits
    for library in (seq2seq_zoo, transformers):
        again = library.MT5ForConditionalGeneration.from_pretrained(tmp_path).eval()
        assert relative_error(again(**arguments).logits, expected) <= 1e-5
    assert model.lm_head.weight is model.get_input_embeddings().weight  # the model itself stays tied


@pytest.mark.parametrize("version", ["4.57.6", "5.23.0"])
def test_a_tied_head_that_is_all_there_is_of_the_vectors(version: str, tmp_path: Path) -> None:
    """Tools that write tied tensors once may keep any of their names."""
    theirs = build("MT5ForConditionalGeneration", transformers.MT5Config(**mt5.SIZE))
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    said = {"tie_word_embeddings": True, "transformers_version": version}
    (tmp_path / "config.json").write_text(json.dumps({**config, **said}))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("shared.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    ours, info = seq2seq_zoo.MT5ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(ours.get_input_embeddings().weight, tensors["lm_head.weight"])
    assert ours.lm_head.weight is ours.get_input_embeddings().weight


def test_devices_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    build("MT5EncoderModel", transformers.MT5Config(**mt5.SIZE)).save_pretrained(tmp_path)
    for options in ({"device": "meta"}, {"device": "nonsense"}, {"device_map": "balanced"}):
        with pytest.raises(ValueError, match=rf"{next(iter(options))} is '{next(iter(options.values()))}'"):
            seq2seq_zoo.MT5EncoderModel.from_pretrained(tmp_path, **options)


def test_a_device_map_of_one_device(tmp_path: Path) -> None:
    build("MT5EncoderModel", transformers.MT5Config(**mt5.SIZE)).save_pretrained(tmp_path)
    for device in ("cpu", torch.device("cpu"), "auto"):
        model = seq2seq_zoo.MT5EncoderModel.from_pretrained(tmp_path, device_map={"": device})
        assert model.device.type == ("cpu" if device != "auto" or not torch.cuda.is_available() else "cuda")
    for parts in ({"encoder": "cpu"}, {}, {"": "cpu", "encoder": "cpu"}):
        with pytest.raises(ValueError, match=r"device_map is {.*}; it must name one device, or be 'auto'"):
            seq2seq_zoo.MT5EncoderModel.from_pretrained(tmp_path, device_map=parts)
    if not torch.accelerator.is_available():
        with pytest.raises(ValueError, match="device is 0, but no accelerator is available here"):
            seq2seq_zoo.MT5EncoderModel.from_pretrained(tmp_path, device=0)


def test_a_failed_lightweight_tuning_freezes_nothing() -> None:
    model = seq2seq_zoo.MvpForConditionalGeneration(seq2seq_zoo.MvpConfig(**mvp.SIZE))
    with pytest.raises(ValueError, match="use_prompt"):
        model.set_lightweight_tuning()
    assert model.num_parameters(only_trainable=True) == model.num_parameters()


@pytest.mark.parametrize("name", ["MvpForConditionalGeneration", "MT5ForConditionalGeneration"])
def test_parameters_without_embeddings(name: str) -> None:
    if MAJOR == 5 and name.startswith("MT5"):
        pytest.skip("transformers 5.x ties the head of every mT5 (tests/DIVERGENCES.md)")
    their_config, our_config, size = family(name)
    options = {**size, "use_prompt": MAJOR == 4} if name.startswith("Mvp") else size
    theirs = getattr(transformers, name)(their_config(**options))
    ours = getattr(seq2seq_zoo, name)(our_config(**options))
    assert ours.num_parameters(exclude_embeddings=True) == theirs.num_parameters(exclude_embeddings=True)


@pytest.mark.parametrize("name", ["MvpForConditionalGeneration", "MT5ForConditionalGeneration"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": torch.zeros(0, 3, dtype=torch.long)}, "at least one row"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.long)}, "at least one row"),
        ({"input_ids": [[5, 1]]}, "input_ids is a list"),
        ({"inputs_embeds": torch.zeros(1, 3, 15)}, "inputs_embeds are 15 wide; they must be 16"),
        ({"encoder_outputs": (torch.zeros(1, 3, 15),)}, "encoder_outputs are 15 wide; they must be 16"),
    ],
)
def test_impossible_input_is_refused_by_name(name: str, arguments: dict[str, Any], message: str) -> None:
    _, our_config, size = family(name)
    model = getattr(seq2seq_zoo, name)(our_config(**size))
    with pytest.raises(ValueError, match=message):
        model(**arguments, decoder_input_ids=torch.tensor([[2, 5]]))
