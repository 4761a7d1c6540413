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
