"""What MVP and mT5 write: the oracle's tokens and scores, and truths that need no oracle."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import transformers

import seq2seq_zoo
from tests.models import test_mt5_parity as mt5
from tests.models import test_mvp_parity as mvp
from tests.oracle import MAJOR, build, ours_of

# What released configs of both families ask for, and its neighbours.
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 12},
    "greedy without repeats": {"max_new_tokens": 12, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    "mvp": {"num_beams": 5, "max_length": 14, "no_repeat_ngram_size": 3, "early_stopping": True},
    "bart": {
        "num_beams": 4,
        "max_length": 13,
        "min_length": 6,
        "length_penalty": 2.0,
        "early_stopping": True,
    },
    "xlsum": {"num_beams": 4, "max_length": 12, "length_penalty": 0.6, "no_repeat_ngram_size": 2},
    "three of four": {"num_beams": 4, "max_length": 10, "num_return_sequences": 3},
    "never early": {"num_beams": 3, "max_length": 12, "early_stopping": "never", "length_penalty": -1.0},
    "forced": {"num_beams": 2, "max_length": 9, "forced_bos_token_id": 7, "forced_eos_token_id": 1},
    "at least": {"num_beams": 2, "max_new_tokens": 10, "min_new_tokens": 9},
}


def pair(family: str, folder: Any, **options: Any) -> tuple[Any, Any, Any]:
    """The oracle's model and ours, which end a text now and then, and the family's test module."""
    module = mvp if family == "mvp" else mt5
    name = "MvpForConditionalGeneration" if family == "mvp" else "MT5ForConditionalGeneration"
    if family == "mvp":
        mvp.skip_what_the_oracle_lost(options)
    config_class = transformers.MvpConfig if family == "mvp" else transformers.MT5Config
    if family == "mt5":
        options["num_decoder_layers"] = 2  # the oracle's cache is as deep as the encoder
    theirs = build(name, config_class(**{**module.SIZE, **options}), seed=3)
    if family == "mvp":
        with torch.no_grad():
            theirs.final_logits_bias[:, 2] += 2.0
    return theirs, ours_of(theirs, getattr(seq2seq_zoo, name), folder), module


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("variant", ["mvp", "mvp with prompts", "mt5"])
def test_the_oracle_writes_the_same(tmp_path: Any, variant: str, options: str, cached: bool) -> None:
    prompts = {"use_prompt": True} if "prompts" in variant else {}
    theirs, ours, module = pair(variant.split()[0], tmp_path, **prompts)
    for side in ("right", "left"):
        ids, mask = module.source(side)
        given = {**OPTIONS[options], "use_cache": cached, "attention_mask": mask}
        assert ours.generate(ids, **given).tolist() == theirs.generate(ids, **given).tolist()


@pytest.mark.parametrize("family", ["mvp", "mt5"])
def test_scores_and_what_else_comes_back(tmp_path: Any, family: str) -> None:
    theirs, ours, module = pair(family, tmp_path)
    ids, mask = module.source()
    for options in ({"max_new_tokens": 5}, {"num_beams": 3, "max_new_tokens": 6, "num_return_sequences": 2}):
        given = {
            **options,
            "attention_mask": mask,
            "return_dict_in_generate": True,
            "output_scores": True,
            "output_attentions": True,
            "output_hidden_states": True,
        }
        mine, other = ours.generate(ids, **given), theirs.generate(ids, **given)
        assert mine.sequences.tolist() == other.sequences.tolist()
        names = ["scores"] + (["sequences_scores"] if "num_beams" in options else [])
        for name in names:
            a, b = getattr(mine, name), getattr(other, name)
            for x, y in zip(a, b, strict=True):
                torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
        for name in (
            "encoder_hidden_states",
            "encoder_attentions",
            "decoder_hidden_states",
            "cross_attentions",
        ):
            a, b = getattr(mine, name), getattr(other, name)
            assert len(a) == len(b), name
            first, second = (a[0], b[0]) if name.startswith("encoder") else (a[0][0], b[0][0])
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("crosses", [False, True])
def test_causal_mvp(tmp_path: Any, crosses: bool) -> None:
    theirs = build("MvpForCausalLM", transformers.MvpConfig(**{**mvp.SIZE, "encoder_layers": 3}))
    ours = ours_of(theirs, seq2seq_zoo.MvpForCausalLM, tmp_path)
    ids = torch.randint(3, 61, (2, 4))
    given: dict[str, Any] = {"max_new_tokens": 8}
    if crosses:
        given["encoder_hidden_states"] = torch.randn(2, 5, 16)
        given["encoder_attention_mask"] = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    for beams in (1, 3):
        mine = ours.generate(ids, num_beams=beams, **given)
        if beams == 1 or not crosses:  # the oracle does not repeat encoder_hidden_states for its beams
            # (its cache takes the keys of the memory for those of the text, so it must do without)
            expected = theirs.generate(ids, num_beams=beams, use_cache=not crosses, **given)
            assert mine.tolist() == expected.tolist()
        else:
            memory, real = given["encoder_hidden_states"], given["encoder_attention_mask"]
            for row in range(2):
                alone = ours.generate(
                    ids[row : row + 1],
                    num_beams=beams,
                    max_new_tokens=8,
                    encoder_hidden_states=memory[row : row + 1, real[row].bool()],
                )
                assert mine[row, : alone.shape[1]].tolist() == alone[0].tolist()


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}])
def test_depths_may_differ(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = seq2seq_zoo.MT5ForConditionalGeneration(seq2seq_zoo.MT5Config(**mt5.SIZE)).eval()
    ids, mask = mt5.source()
    cached, uncached = (
        model.generate(ids, attention_mask=mask, max_new_tokens=12, use_cache=use_cache, **options)
        for use_cache in (True, False)
    )
    assert torch.equal(cached, uncached)


def test_a_row_writes_the_same_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    model = seq2seq_zoo.MT5ForConditionalGeneration(seq2seq_zoo.MT5Config(**mt5.SIZE)).eval()
    for side in ("left", "right"):
        ids, mask = mt5.source(side)
        for options in ({}, {"num_beams": 4, "no_repeat_ngram_size": 2}):
            batch = model.generate(ids, attention_mask=mask, max_new_tokens=10, **options)
            for row in range(3):
                alone = model.generate(ids[row : row + 1, mask[row].bool()], max_new_tokens=10, **options)
                assert batch[row, : alone.shape[1]].tolist() == alone[0].tolist()


def test_sources_are_encoded_once_and_their_keys_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cross-attention's keys and values are computed in the first step alone, for each source, not for each
    beam."""
    from seq2seq_zoo.layers.state import SourceKeyValues

    torch.manual_seed(0)
    model = seq2seq_zoo.MT5ForConditionalGeneration(seq2seq_zoo.MT5Config(**mt5.SIZE)).eval()
    filled: list[int] = []
    fill = SourceKeyValues.fill

    def counting(self: Any, keys: Any, values: Any, prefix: Any = None) -> Any:
        filled.append(keys.shape[0])
        return fill(self, keys, values, prefix)

    monkeypatch.setattr(SourceKeyValues, "fill", counting)
    ids, mask = mt5.source()
    model.generate(ids, attention_mask=mask, num_beams=4, min_new_tokens=6, max_new_tokens=6)
    assert filled == [3, 3, 3]  # three layers, once each, three sources


def test_encoder_outputs_and_the_model_are_left_alone() -> None:
    torch.manual_seed(0)
    model = seq2seq_zoo.MT5ForConditionalGeneration(seq2seq_zoo.MT5Config(**mt5.SIZE)).eval()
    ids, mask = mt5.source()
    expected = model.generate(ids, attention_mask=mask, num_beams=3)
    encoded = model.get_encoder()(ids, mask)
    before = encoded.last_hidden_state.clone()
    for given in (encoded, (encoded.last_hidden_state,), encoded.to_tuple()):
        assert torch.equal(model.generate(encoder_outputs=given, attention_mask=mask, num_beams=3), expected)
    assert torch.equal(encoded.last_hidden_state, before)
    model.train()
    model.generate(ids, attention_mask=mask, max_new_tokens=2)
    assert model.training


def test_two_threads_write_with_one_model() -> None:
    torch.manual_seed(0)
    model = seq2seq_zoo.MvpForConditionalGeneration(seq2seq_zoo.MvpConfig(**mvp.SIZE, use_prompt=True)).eval()
    sources = [mvp.source(seed=seed) for seed in (1, 2, 3, 4)]
    options = {"num_beams": 3, "max_length": 20}
    expected = [model.generate(ids, attention_mask=mask, **options) for ids, mask in sources]
    written: list[Any] = [None] * 4

    def write(number: int) -> None:
        ids, mask = sources[number]
        written[number] = model.generate(ids, attention_mask=mask, **options)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(written, expected, strict=True))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"input_ids": torch.full((1, 3), 99)}, "99"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.long)}, "input_ids"),
        ({"num_return_sequences": 3}, "num_return_sequences"),
        ({"max_length": 0}, "max_length"),
        ({"max_lenght": 5}, "max_lenght"),
        ({"num_beams": 0}, "num_beams"),
        ({"decoder_input_ids": torch.tensor([[99]])}, "99"),
    ],
)
def test_refusals_come_before_any_work(
    options: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = seq2seq_zoo.MT5ForConditionalGeneration(seq2seq_zoo.MT5Config(**mt5.SIZE)).eval()
    monkeypatch.setattr(type(model), "begin_decoding", lambda *_, **__: pytest.fail("work was done"))
    with pytest.raises(ValueError, match=named):
        model.generate(**{"input_ids": torch.tensor([[5, 1]]), **options})


def test_beyond_the_learnt_positions_is_refused() -> None:
    model = seq2seq_zoo.MvpForConditionalGeneration(seq2seq_zoo.MvpConfig(**mvp.SIZE)).eval()
    with pytest.raises(ValueError, match="max_position_embeddings"):
        model(torch.full((1, 41), 5), decoder_input_ids=torch.tensor([[2]]))
    if MAJOR == 4:  # both stop at the last position
        written = model.generate(torch.tensor([[5, 2]]), min_length=39, max_length=40, eos_token_id=2)
        assert written.shape[1] == 40
