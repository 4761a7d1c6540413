"""Classifier-free guidance: the oracle's tokens where it has any; for all families the formula by hand."""

import pytest
import torch

from seq2seq_zoo.errors import GenerationError
from tests.generation.families import EOS, MAKE, READS_A_SOURCE, START, family, ragged
from tests.generation.oracle_adapter import both
from tests.generation.test_parity import OLD_ORACLE, assert_same, run_both

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
NEGATIVE = torch.tensor([[1, 21, 22], [23, 24, 25]])
NEGATIVE_MASK = torch.tensor([[0, 1, 1], [1, 1, 1]])


@pytest.mark.parametrize("scale", [0.0, 0.5, 1, 1.5, 4.0])
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize(
    "sampling", [{}, {"do_sample": True, "top_k": 7, "repetition_penalty": 1.2}], ids=str
)
def test_the_oracles_tokens_and_scores(models, scale, negative, sampling):
    """The oracle leaves the mask of its negative prompt's positions to absolute positions: none is padded."""
    options = {"guidance_scale": scale, "max_new_tokens": 8, **sampling}
    if negative:
        options["negative_prompt_ids"] = NEGATIVE.where(NEGATIVE_MASK > 0, 26)
    assert_same(*run_both(models["gpt2"], IDS, torch.ones_like(IDS), options, 0))


def test_the_oracles_tokens_without_a_cache(models):
    ours, theirs = both(
        models["gpt2"], IDS, guidance_scale=2.0, use_cache=False, negative_prompt_ids=NEGATIVE + 9
    )
    assert torch.equal(ours, theirs)


def by_hand(name, row, negative, scale, count):
    """Greedy text of one row by full passes over both branches."""
    model, reads = family(name), name in READS_A_SOURCE
    text = torch.tensor([[START]]) if reads else row
    other = text if reads else negative
    for _ in range(count):
        logits = []
        for source, seen in ((row, text), (negative, other)):
            inputs = {"input_ids": source, "decoder_input_ids": seen} if reads else {"input_ids": seen}
            with torch.no_grad():
                logits.append(model(**inputs, use_cache=False).logits[:, -1].log_softmax(-1))
        token = (logits[1] + scale * (logits[0] - logits[1])).argmax(-1, keepdim=True)
        text, other = torch.cat((text, token), dim=1), torch.cat((other, token), dim=1)
    return text


@pytest.mark.parametrize("given", ["given", "the last token"])
@pytest.mark.parametrize("name", MAKE)
def test_every_family_is_guided_by_the_formula(name, given):
    """For rows of different lengths, with padding in both prompts; beams of one row are as without others."""
    model = family(name)
    ids, mask = ragged(name)
    negative, negative_mask = ragged(name, (2, 5, 3), seed=4)
    options = {"guidance_scale": 2.0, "max_new_tokens": 9, "eos_token_id": None}
    if given == "given":
        options |= {"negative_prompt_ids": negative, "negative_prompt_attention_mask": negative_mask}
    together = model.generate(ids, attention_mask=mask, **options)
    for row in range(3):
        alone = ids[row : row + 1, mask[row].bool()]
        other = negative[row : row + 1, negative_mask[row].bool()] if given == "given" else alone[:, -1:]
        expected = by_hand(name, alone, other, 2.0, 9)
        assert together[row, -expected.shape[1] :].tolist() == expected[0].tolist()
    unguided = model.generate(ids, attention_mask=mask, max_new_tokens=9, eos_token_id=None)
    assert together.tolist() != unguided.tolist()


@pytest.mark.parametrize("name", MAKE)
def test_guided_beams_follow_their_own_text(name):
    """With one beam for every text nothing is pruned, so the scores of the best can be computed afresh; a row
    is as alone, with and without a cache. (The oracle does not reorder its negative branch.)"""
    model = family(name)
    ids, mask = ragged(name)
    negative, negative_mask = ragged(name, (2, 5, 3), seed=4)
    options = {"guidance_scale": 1.5, "max_new_tokens": 7, "num_beams": 3, "num_return_sequences": 2}
    scored = {"return_dict_in_generate": True, "output_scores": True}
    together = model.generate(
        ids,
        attention_mask=mask,
        negative_prompt_ids=negative,
        negative_prompt_attention_mask=negative_mask,
        **options,
        **scored,
    )
    for row in range(3):
        alone = model.generate(
            ids[row : row + 1, mask[row].bool()],
            negative_prompt_ids=negative[row : row + 1, negative_mask[row].bool()],
            use_cache=False,
            **options,
            **scored,
        )
        new = alone.beam_indices.shape[1]
        mine = together.sequences[2 * row : 2 * row + 2]
        start = 1 if name in READS_A_SOURCE else ids.shape[1]
        assert mine[:, start : start + new].tolist() == alone.sequences[:, -new:].tolist()
        torch.testing.assert_close(together.sequences_scores[2 * row : 2 * row + 2], alone.sequences_scores)


def test_logits_are_the_models_own(models):
    options = {"return_dict_in_generate": True, "output_logits": True, "max_new_tokens": 1}
    guided = models["mt5"].generate(IDS, guidance_scale=3.0, **options)
    assert torch.equal(guided.logits[0], models["mt5"].generate(IDS, **options).logits[0])


@pytest.mark.skipif(not OLD_ORACLE, reason="one version shows it")
def test_the_oracle_cannot_guide_an_encoder_decoder(models):
    """Its negative branch reads the text itself as a source, or nothing at all."""
    with pytest.raises(ValueError, match="decoder_input_ids"):
        models["mt5"].oracle.generate(IDS, guidance_scale=2.0)


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("guidance_scale must be", {"guidance_scale": -1.0}),
        ("negative_prompt_ids needs a guidance_scale", {"negative_prompt_ids": NEGATIVE}),
        ("negative_prompt_ids has 1 rows, but the input has 2", {"negative_prompt_ids": NEGATIVE[:1]}),
        ("negative_prompt_ids holds the id 103", {"negative_prompt_ids": NEGATIVE + 78}),
        ("negative_prompt_ids must be a tensor", {"negative_prompt_ids": [[1], [2]]}),
        ("negative_prompt_attention_mask needs", {"negative_prompt_attention_mask": NEGATIVE_MASK}),
        (
            "negative_prompt_attention_mask must be a tensor of shape",
            {"negative_prompt_ids": NEGATIVE, "negative_prompt_attention_mask": NEGATIVE_MASK[:, 1:]},
        ),
        (
            "negative_prompt_ids has 62 tokens.*needs 65 positions, but the model has 64",
            {"negative_prompt_ids": torch.full((2, 62), 5), "max_new_tokens": 4},
        ),
    ],
)
def test_refusals(match, options, monkeypatch):
    model = family("bert")
    monkeypatch.setattr(type(model), "begin_decoding", lambda *_, **__: pytest.fail("work was done"))
    if not match.startswith("negative_prompt_ids needs"):
        options = {"guidance_scale": 2.0, **options}
    with pytest.raises(GenerationError, match=match):
        model.generate(IDS, **options)


def test_embeddings_need_a_negative_prompt():
    model = family("mt5")
    vectors = model.get_input_embeddings()(IDS).detach()
    with pytest.raises(GenerationError, match="guidance_scale needs negative_prompt_ids"):
        model.generate(inputs_embeds=vectors, guidance_scale=2.0)
    options = {"negative_prompt_ids": NEGATIVE, "guidance_scale": 2.0, "max_new_tokens": 6}
    assert (
        model.generate(inputs_embeds=vectors, **options).tolist() == model.generate(IDS, **options).tolist()
    )
    model = family("bert")
    vectors = model.get_input_embeddings()(IDS).detach()
    written = model.generate(inputs_embeds=vectors, eos_token_id=EOS, **options)
    assert written.tolist() == model.generate(IDS, eos_token_id=EOS, **options)[:, 4:].tolist()
