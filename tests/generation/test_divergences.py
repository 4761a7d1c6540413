"""Where the oracle is wrong: what it does, and what we do instead (tests/DIVERGENCES.md)."""

import pytest
import torch
import transformers

from tests.generation.oracle_adapter import both

OLD_ORACLE = transformers.__version__.startswith("4.")
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


@pytest.mark.parametrize("name", ["mvp", "mt5"])
def test_encoder_repetition_penalty_with_beams(models, name):
    """The oracle pairs row r with source r; with k beams row r belongs to source r // k."""
    model = models[name]
    options = {"num_beams": 3, "encoder_repetition_penalty": 4.0, "max_new_tokens": 1, "min_new_tokens": 1}
    options |= {"return_dict_in_generate": True, "output_scores": True}
    ours, theirs = both(model, IDS, **options)
    plain = model.generate(IDS, **(options | {"encoder_repetition_penalty": 1.0}))
    changed = (ours.scores[0] != plain.scores[0]).nonzero().tolist()
    assert changed == [[row, token] for row in range(6) for token in IDS[row // 3].tolist()]
    changed = (theirs.scores[0] != plain.scores[0]).nonzero().tolist()
    if OLD_ORACLE:  # transformers 5 has it right
        assert changed == [[row, token] for row in range(2) for token in IDS[row].tolist()]


def test_beams_without_an_end_token_are_filled_with_an_id(models):
    """A row that a criterion stopped early is filled with padding; the oracle writes -1, which is no id."""
    options = {"num_beams": 2, "eos_token_id": None, "max_new_tokens": 12, "length_penalty": -2.0}
    options["stopping_criteria"] = [lambda ids, scores, **_: (ids[:, 0] == 5) & (ids[:, -1] % 2 == 1)]
    ours = models["gpt2"].generate(IDS, **options)
    options["stopping_criteria"] = transformers.StoppingCriteriaList(options["stopping_criteria"])
    theirs = models["gpt2"].oracle.generate(IDS, **options)
    assert int(theirs.min()) == -1
    assert torch.equal(ours, theirs.where(theirs >= 0, 1))


@pytest.mark.skipif(not OLD_ORACLE, reason="transformers 5 counts new tokens, too")
def test_the_default_length_counts_new_tokens_after_embeddings_too(models):
    """20 new tokens without a length option; the oracle subtracts the embeddings' length from them."""
    embeds = models["gpt2"].oracle.get_input_embeddings()(IDS).detach()
    ours, theirs = both(models["gpt2"], inputs_embeds=embeds, eos_token_id=None)
    assert (ours.shape[1], theirs.shape[1]) == (20, 16)
    assert torch.equal(ours[:, :16], theirs)


@pytest.mark.skipif(not OLD_ORACLE, reason="transformers 5 tells a given default from an absent option")
def test_a_given_value_that_equals_the_default_overrides_the_checkpoints(models):
    model = models["mvp"]
    kept = model.generation_config, model.oracle.generation_config
    greedy = model.generate(IDS)
    options = kept[1].to_diff_dict() | {"num_beams": 4, "num_return_sequences": 2}
    model.generation_config = type(kept[0]).from_dict(options)
    model.oracle.generation_config = transformers.GenerationConfig(**options)
    try:
        given = {"num_beams": 1, "num_return_sequences": 1}
        assert torch.equal(model.generate(IDS, type(kept[0])(**given)), greedy)
        assert len(model.oracle.generate(IDS, transformers.GenerationConfig(**given))) == 4
    finally:
        model.generation_config, model.oracle.generation_config = kept


def test_padding_of_id_0_gives_way_to_the_end_token_in_beams_as_in_the_oracle(models):
    """Not corrected: results have the oracle's tokens.  Greedy search pads with 0 in both."""
    ids = torch.randint(4, 40, (3, 6), generator=torch.Generator().manual_seed(1))
    for beams, filling in ((3, 1), (1, 0)):
        ours, theirs = both(models["mt5"], ids, num_beams=beams, num_return_sequences=beams)
        assert torch.equal(ours, theirs)
        behind = [row[row.index(1) + 1 :] for row in ours.tolist() if 1 in row]
        assert {token for tokens in behind for token in tokens} == {filling}


# ---- padding is no text ----

RAGGED = torch.tensor([[5, 6, 7, 8], [1, 1, 11, 12]])
MASK = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])


def padding_scores(model, ids, mask, **options):
    """Scores of the padding token in the first step, of ours, theirs, and of a row alone."""
    options |= {"return_dict_in_generate": True, "output_scores": True, "max_new_tokens": 1}
    ours, theirs = both(model, ids, attention_mask=mask, **options)
    alone = model.generate(ids[1:2, mask[1] > 0], **options)
    padding = model.generation_config.pad_token_id
    return [float(output.scores[0][-1, padding]) for output in (ours, theirs, alone)]


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 3.0},
        {"no_repeat_ngram_size": 1},
        {"encoder_repetition_penalty": 3.0},
        {"encoder_no_repeat_ngram_size": 1},
    ],
    ids=str,
)
def test_padding_before_a_prompt_is_no_text(models, options):
    """transformers takes the padding token for one that the row has written: it is penalised, or forbidden.

    5.23 leaves it out of repetition_penalty, as we do, but not of the others.
    """
    ours, theirs, alone = padding_scores(models["gpt2"], RAGGED, MASK, **options)
    assert ours == pytest.approx(alone, abs=1e-4)
    fixed = not OLD_ORACLE and "repetition_penalty" in options
    assert (theirs == pytest.approx(alone, abs=1e-4)) == fixed


@pytest.mark.parametrize("name", ["mvp", "mt5"])
@pytest.mark.parametrize(
    "options", [{"encoder_repetition_penalty": 3.0}, {"encoder_no_repeat_ngram_size": 1}], ids=str
)
def test_padding_behind_a_source_is_no_text(models, name, options):
    pad = models[name].generation_config.pad_token_id
    ids = torch.tensor([[5, 6, 7, 8], [11, 12, pad, pad]])
    ours, theirs, alone = padding_scores(models[name], ids, MASK.flip(1).contiguous(), **options)
    assert ours == pytest.approx(alone, abs=1e-4)
    assert theirs != pytest.approx(alone, abs=1e-4)


@pytest.mark.skipif(not OLD_ORACLE, reason="transformers 5 has it right")
def test_a_bias_counts_the_tokens_of_the_row(models):
    """A sequence of three counts once the row has three tokens, whatever stands before them."""
    options = {"sequence_bias": {(11, 12, 30): 50.0}, "max_new_tokens": 1}
    ours, theirs = both(models["gpt2"], RAGGED, attention_mask=MASK, **options)
    alone, theirs_alone = both(models["gpt2"], RAGGED[1:, 2:], **options)
    assert int(alone[0, -1]) == int(theirs_alone[0, -1]) == int(ours[1, -1]) != 30
    assert int(theirs[1, -1]) == 30


@pytest.mark.skipif(not OLD_ORACLE, reason="transformers 5 has it right")
def test_an_end_that_is_impossible_becomes_no_likelier(models):
    """The oracle adds infinity to minus infinity, and takes the NaN for the best: a text that must have nine
    tokens ends at once."""
    options = {"exponential_decay_length_penalty": (1, 1.5), "min_new_tokens": 9, "max_new_tokens": 12}
    for name in ("mvp", "mt5", "gpt2"):
        eos = models[name].generation_config.eos_token_id
        ours, theirs = both(models[name], IDS, **options)
        prompt = 1 if models[name].is_encoder_decoder else 4
        assert eos not in ours[:, prompt : prompt + 9]
        assert eos in theirs[:, prompt : prompt + 3]


@pytest.mark.skipif(not OLD_ORACLE, reason="transformers 5 has it right")
def test_chunks_of_a_padded_prompt(models):
    """The oracle forgets the padding between chunks, and has none to read of an encoder-decoder."""
    options = {"max_new_tokens": 8, "eos_token_id": None}
    ids = torch.cat((RAGGED, RAGGED.flip(1)), dim=1)
    mask = torch.cat((MASK, torch.ones_like(MASK)), dim=1)
    model = models["gpt2"].oracle
    whole = model.generate(ids, attention_mask=mask, **options)
    chunks = model.generate(ids, attention_mask=mask, prefill_chunk_size=2, **options)
    assert not torch.equal(whole[1], chunks[1])
    with pytest.raises((IndexError, ValueError, RuntimeError)):
        models["mvp"].oracle.generate(IDS, prefill_chunk_size=2)
