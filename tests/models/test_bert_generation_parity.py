"""BertGeneration against transformers in float64: both classes in both roles, outputs, losses, gradients."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import seq2seq_zoo
from seq2seq_zoo import ConfigError
from tests.oracle import (
    MAJOR,
    assert_gradients_agree,
    assert_outputs_agree,
    build,
    float64,
    needs_4,
    needs_5,
    ours_of,
    relative_error,
)

SIZE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}
POSITIONS = ["absolute", "relative_key", "relative_key_query"]
ROLES: dict[str, dict[str, Any]] = {
    "encoder": {},
    "decoder": {"is_decoder": True},
    "decoder with memory": {"is_decoder": True, "add_cross_attention": True},
}
EVERYTHING = {"output_hidden_states": True, "output_attentions": True}


def skip_what_the_oracle_lost(options: dict[str, Any]) -> None:
    if MAJOR == 5 and options.get("position_embedding_type", "absolute") != "absolute":
        pytest.skip("transformers 5.x ignores position_embedding_type (tests/DIVERGENCES.md)")


def pair(name: str, folder: Any, **options: Any) -> tuple[Any, Any]:
    skip_what_the_oracle_lost(options)
    theirs = build(name, transformers.BertGenerationConfig(**{**SIZE, **options}))
    return theirs, ours_of(theirs, getattr(seq2seq_zoo, name), folder)


def source(padding_side: str = "right", length: int = 8, seed: int = 1) -> tuple[Tensor, Tensor]:
    """ids [3, length] and their mask, rows of different lengths."""
    ids = torch.randint(3, 61, (3, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(3, length, dtype=torch.long)
    for row, real in enumerate((length, length - 3, 3)):
        hidden = slice(real, None) if padding_side == "right" else slice(0, length - real)
        ids[row, hidden], mask[row, hidden] = 0, 0
    return ids, mask


def memory() -> dict[str, Tensor]:
    """What a decoder reads, padded on the right, on the left and not at all."""
    vectors = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(3))
    mask = torch.tensor([[1] * 5, [1, 1, 0, 0, 0], [0, 1, 1, 1, 1]])
    return {"encoder_hidden_states": vectors, "encoder_attention_mask": mask}


def uncached(role: str) -> dict[str, Any]:
    """What a role is called with; the cache of 4.57.6 spoils relative positions (see below)."""
    return {"use_cache": False} | (memory() if "memory" in role else {})


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("positions", POSITIONS)
def test_headless(tmp_path: Any, positions: str, role: str, side: str) -> None:
    options = {**ROLES[role], "position_embedding_type": positions}
    with float64():
        theirs, ours = pair("BertGenerationEncoder", tmp_path, **options)
        ids, mask = source(side)
        call = {"input_ids": ids, "attention_mask": mask, **uncached(role)}
        mine, expected = ours(**call, **EVERYTHING), theirs(**call, **EVERYTHING)
        real = mask.bool()
        assert relative_error(mine.last_hidden_state[real], expected.last_hidden_state[real]) <= 1e-9
        if side == "right" or role == "encoder":  # else the first queries see nothing but padding
            assert_outputs_agree(mine, expected)
        fused = ours(**call).last_hidden_state
        assert relative_error(fused[real], expected.last_hidden_state[real]) <= 1e-9
        assert fused.isfinite().all()
        listed = ours(**call, **EVERYTHING, return_dict=False)
        assert torch.equal(listed[0], mine.last_hidden_state)
        assert len(listed) == len(mine)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("role", ["decoder", "decoder with memory"])
@pytest.mark.parametrize("positions", POSITIONS)
def test_language_model(tmp_path: Any, positions: str, role: str, tied: bool) -> None:
    options = {**ROLES[role], "position_embedding_type": positions, "tie_word_embeddings": tied}
    with float64():
        theirs, ours = pair("BertGenerationDecoder", tmp_path, **options)
        ids, mask = source()
        labels = ids.masked_fill(mask == 0, -100)
        call = {"input_ids": ids, "attention_mask": mask, "labels": labels, **uncached(role)}
        expected = theirs(**call, **EVERYTHING)
        assert_outputs_agree(ours(**call, **EVERYTHING), expected)
        fused = ours(**call)
        assert relative_error(fused.logits, expected.logits) <= 1e-9
        # The loss of the labels one position later, said in one's own words.
        scores = torch.log_softmax(fused.logits, -1)
        told = [scores[b, i, labels[b, i + 1]] for b in range(3) for i in range(7) if labels[b, i + 1] >= 0]
        assert relative_error(fused.loss, -torch.stack(told).mean()) <= 1e-12
        assert assert_gradients_agree(ours, fused.loss, theirs, expected.loss) == len(
            list(ours.named_parameters())
        )


@pytest.mark.parametrize("positions", POSITIONS)
def test_encoder_gradients(tmp_path: Any, positions: str) -> None:
    with float64():
        theirs, ours = pair("BertGenerationEncoder", tmp_path, position_embedding_type=positions)
        ids, mask = source("left")
        weights = torch.randn(3, 8, 16)
        losses = [
            (model(ids, attention_mask=mask).last_hidden_state * weights).sum() for model in (ours, theirs)
        ]
        compared = assert_gradients_agree(ours, losses[0], theirs, losses[1])
        assert compared == len(list(ours.named_parameters()))


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu_new"])
def test_activations_and_sizes(tmp_path: Any, activation: str) -> None:
    with float64():
        theirs, ours = pair(
            "BertGenerationEncoder",
            tmp_path,
            hidden_act=activation,
            num_attention_heads=4,
            layer_norm_eps=1e-3,
            pad_token_id=5,
        )
        ids, mask = source()
        assert_outputs_agree(ours(ids, mask, **EVERYTHING), theirs(ids, mask, **EVERYTHING))


@pytest.mark.parametrize("positions", POSITIONS)
def test_other_ways_to_call(tmp_path: Any, positions: str) -> None:
    with float64():
        theirs, ours = pair(
            "BertGenerationDecoder",
            tmp_path,
            **ROLES["decoder with memory"],
            position_embedding_type=positions,
        )
        ids, mask = source()
        more = uncached("decoder with memory")
        vectors = torch.randn(3, 8, 16)
        for call in (
            {"inputs_embeds": vectors},
            {"input_ids": ids, "position_ids": torch.arange(8).flip(0)[None]},
            {"input_ids": ids, "position_ids": torch.randint(0, 40, (3, 8))},
        ):
            given = {**call, "attention_mask": mask, **more, **EVERYTHING}
            assert_outputs_agree(ours(**given), theirs(**given))


@needs_4  # 5.x has no head_mask
@pytest.mark.parametrize("shape", [(2,), (3, 2)])
@pytest.mark.parametrize("weights", [True, False])
def test_head_mask(tmp_path: Any, shape: tuple[int, ...], weights: bool) -> None:
    with float64():
        theirs, ours = pair("BertGenerationDecoder", tmp_path, **ROLES["decoder with memory"])
        ids, mask = source()
        for head_mask in (torch.rand(shape), torch.zeros(shape), torch.ones(shape)):
            call = {"input_ids": ids, "attention_mask": mask, "head_mask": head_mask, **memory()}
            call["output_attentions"] = weights
            assert_outputs_agree(ours(**call), theirs(**call))
        with pytest.raises(ValueError, match=r"head_mask has shape \[3\]; it must be \[2\] or \[3, 2\]"):
            ours(ids, head_mask=torch.ones(3))


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("sizes", [(1,) * 8, (1, 4, 3), (5, 3)])
def test_steps_of_any_size_equal_the_full_pass(positions: str, sizes: tuple[int, ...]) -> None:
    with float64():
        torch.manual_seed(0)
        config = seq2seq_zoo.BertGenerationConfig(
            **SIZE, **ROLES["decoder with memory"], position_embedding_type=positions
        )
        model = seq2seq_zoo.BertGenerationDecoder(config).eval()
        for side in ("right", "left"):
            ids, mask = source(side)
            full = model(ids, mask, **uncached("decoder with memory"), **EVERYTHING)
            for grad in (True, False):
                state, done, logits, hidden = None, 0, [], []
                with torch.set_grad_enabled(grad):
                    for size in sizes:
                        out = model(
                            ids[:, done : done + size],
                            mask[:, : done + size],
                            past_key_values=state,
                            output_hidden_states=True,
                            **memory(),
                        )
                        state, done = out.past_key_values, done + size
                        logits.append(out.logits)
                        hidden.append(out.hidden_states[-1])
                assert relative_error(torch.cat(logits, 1), full.logits) <= 1e-12
                assert relative_error(torch.cat(hidden, 1), full.hidden_states[-1]) <= 1e-12


@needs_4
@pytest.mark.parametrize("positions", ["relative_key", "relative_key_query"])
def test_the_oracle_takes_wrong_distances_where_it_caches(tmp_path: Any, positions: str) -> None:
    """Fault of the oracle: with a cache, all queries of a call are taken to stand at the last position. So
    even its full pass changes with use_cache, and steps of two tokens equal neither. Ours equal the pass
    without a cache, which is what the papers say."""
    with float64():
        theirs, ours = pair(
            "BertGenerationDecoder", tmp_path, is_decoder=True, position_embedding_type=positions
        )
        ids, _ = source()
        papers = theirs(ids, use_cache=False).logits
        assert relative_error(theirs(ids, use_cache=True).logits, papers) > 1e-2
        first = theirs(ids[:, :5], use_cache=True)
        rest = theirs(ids[:, 5:], past_key_values=first.past_key_values, use_cache=True)
        assert relative_error(torch.cat([first.logits, rest.logits], 1), papers) > 1e-2

        assert relative_error(ours(ids, use_cache=True).logits, papers) <= 1e-9
        first = ours(ids[:, :5], use_cache=True)
        rest = ours(ids[:, 5:], past_key_values=first.past_key_values, use_cache=True)
        assert relative_error(torch.cat([first.logits, rest.logits], 1), papers) <= 1e-9


@needs_5
def test_the_second_oracle_ignores_the_position_type(tmp_path: Any) -> None:
    """Fault of 5.x: it says relative_key and computes absolute."""
    with float64():
        plain, asked = (
            build(
                "BertGenerationEncoder",
                transformers.BertGenerationConfig(**SIZE, position_embedding_type=kind),
            )
            for kind in ("absolute", "relative_key")
        )
        ids, _ = source()
        assert torch.equal(plain(ids).last_hidden_state, asked(ids).last_hidden_state)
        torch.manual_seed(0)
        ours = seq2seq_zoo.BertGenerationEncoder(
            seq2seq_zoo.BertGenerationConfig(**SIZE, position_embedding_type="relative_key")
        )
        assert sum("distances" in name for name, _ in ours.named_parameters()) == 3


def test_an_encoder_has_no_cache_and_reads_no_memory() -> None:
    torch.manual_seed(0)
    model = seq2seq_zoo.BertGenerationEncoder(seq2seq_zoo.BertGenerationConfig(**SIZE)).eval()
    ids, mask = source()
    alone = model(ids, mask, use_cache=True)
    assert alone.past_key_values is None
    assert torch.equal(model(ids, mask, **memory()).last_hidden_state, alone.last_hidden_state)
    assert torch.equal(
        model(ids, mask, token_type_ids=torch.ones_like(ids)).last_hidden_state, alone.last_hidden_state
    )
    decoder = seq2seq_zoo.BertGenerationEncoder(
        seq2seq_zoo.BertGenerationConfig(**SIZE, is_decoder=True)
    ).eval()
    state = decoder(ids, mask).past_key_values
    assert state is not None
    with pytest.raises(ValueError, match="is_decoder"):
        model(ids, mask, past_key_values=state)
    with pytest.raises(ValueError, match="add_cross_attention=True"):
        decoder(ids, mask, **memory())


def test_padding_changes_nothing() -> None:
    """A padded row has the vectors of the row alone; with absolute positions only if it is told where it
    stands."""
    with float64():
        for positions in POSITIONS:
            torch.manual_seed(0)
            config = seq2seq_zoo.BertGenerationConfig(
                **SIZE, is_decoder=True, position_embedding_type=positions
            )
            model = seq2seq_zoo.BertGenerationEncoder(config).eval()
            for side in ("right", "left"):
                ids, mask = source(side)
                places = (mask.cumsum(1) - 1).clamp(min=0)
                padded = model(ids, mask, position_ids=places).last_hidden_state
                for row in range(3):
                    alone = model(ids[row : row + 1, mask[row].bool()]).last_hidden_state[0]
                    assert relative_error(padded[row, mask[row].bool()], alone) <= 1e-12


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"position_embedding_type": "rotary"}, "position_embedding_type is 'rotary'"),
        ({"num_attention_heads": 3}, "num_attention_heads is 3"),
        ({"hidden_act": "softplus"}, "hidden_act"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob"),
        ({"pad_token_id": 61}, "pad_token_id"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"hidden_size": "16"}, "hidden_size"),
    ],
)
def test_impossible_configs(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        seq2seq_zoo.BertGenerationConfig(**{**SIZE, **fields})


def test_roles_are_checked() -> None:
    with pytest.raises(ConfigError, match="is_decoder must be true as well"):
        seq2seq_zoo.BertGenerationEncoder(seq2seq_zoo.BertGenerationConfig(**SIZE, add_cross_attention=True))
    with pytest.warns(UserWarning, match="is_decoder=True"):
        both = seq2seq_zoo.BertGenerationDecoder(seq2seq_zoo.BertGenerationConfig(**SIZE)).eval()
    changed, ids = source()[0].clone(), source()[0]
    changed[:, -1] = 7
    assert not torch.equal(both(ids).logits[:, 0], both(changed).logits[:, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        left = seq2seq_zoo.BertGenerationDecoder(
            seq2seq_zoo.BertGenerationConfig(**SIZE, is_decoder=True)
        ).eval()
    assert torch.equal(left(ids).logits[:, 0], left(changed).logits[:, 0])


def test_what_is_out_of_reach_is_refused() -> None:
    torch.manual_seed(0)
    model = seq2seq_zoo.BertGenerationEncoder(seq2seq_zoo.BertGenerationConfig(**SIZE))
    with pytest.raises(ValueError, match="max_position_embeddings"):
        model(torch.full((1, 41), 5))
    with pytest.raises(ValueError, match="61"):
        model(torch.full((1, 3), 61))
    with pytest.raises(ValueError, match="both"):
        model(torch.full((1, 3), 6), inputs_embeds=torch.zeros(1, 3, 16))
    with pytest.raises(ValueError, match="position_ids holds 40"):
        model(torch.full((1, 3), 6), position_ids=torch.tensor([[0, 1, 40]]))
