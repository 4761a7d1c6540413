"""What generate refuses, before any work, naming the argument."""

import pytest
import torch

from seq2seq_zoo.errors import GenerationError
from seq2seq_zoo.generation import GenerationConfig

IDS = torch.tensor([[5, 6, 7], [9, 10, 11]])


def refused(model, match, *args, **kwargs):
    before = model.runs
    with pytest.raises(ValueError, match=match) as caught:
        model.generate(*args, **kwargs)
    assert isinstance(caught.value, GenerationError)
    assert model.runs == before  # the encoder never ran


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("'num_beans'.*num_beams", {"num_beans": 3}),
        ("'attention_masks'.*attention_mask", {"attention_masks": IDS}),
        ("'streamers'.*streamer", {"streamers": 1}),
        ("num_return_sequences is 2", {"num_return_sequences": 2}),
        ("num_return_sequences must be at most num_beams.*3.*2", {"num_beams": 2, "num_return_sequences": 3}),
        (
            "num_return_sequences must be at most",
            {"num_beams": 2, "num_return_sequences": 3, "do_sample": True},
        ),
        ("num_beams must be an integer", {"num_beams": 0}),
        ("top_p must be a number in", {"top_p": 0.0}),
        ("temperature must be > 0", {"do_sample": True, "temperature": 0}),
        ("max_length must be greater than the prompt", {"max_length": 1}),
        ("max_new_tokens must be an integer", {"max_new_tokens": 0}),
        ("min_length is 30.*longest", {"min_length": 30, "max_new_tokens": 5}),
        ("min_new_tokens is 9.*longest result has 5", {"min_new_tokens": 9, "max_new_tokens": 5}),
        ("eos_token_id holds the id 40.*40 ids", {"eos_token_id": [2, 40]}),
        ("pad_token_id holds the id 99", {"pad_token_id": 99}),
        ("forced_bos_token_id holds the id 40", {"forced_bos_token_id": 40}),
        ("forced_eos_token_id holds the id 40", {"forced_eos_token_id": 40}),
        ("suppress_tokens holds the id 41", {"suppress_tokens": [3, 41]}),
        ("bad_words_ids holds the id 77", {"bad_words_ids": [[3, 77]]}),
        ("sequence_bias holds the id 77", {"sequence_bias": {(3, 77): 1.0}}),
        ("logits_processor must hold callables", {"logits_processor": [3]}),
        ("stopping_criteria must hold callables", {"stopping_criteria": 3}),
        ("prefix_allowed_tokens_fn must be callable", {"prefix_allowed_tokens_fn": [1]}),
        ("streamer must have the methods", {"streamer": print}),
        ("generation_config must be", {"generation_config": {"num_beams": 2}}),
        ("attention_mask must be a tensor of shape", {"attention_mask": torch.ones(2, 4)}),
        ("attention_mask must be a tensor of shape", {"attention_mask": torch.ones(2, 3, 3)}),
        ("assistant_model", {"assistant_model": object()}),
        ("num_beam_groups", {"num_beams": 4, "num_beam_groups": 2}),
        ("penalty_alpha", {"penalty_alpha": 0.6}),
        ("constraints", {"constraints": [1]}),
    ],
)
def test_options(model, match, options):
    refused(model, match, IDS, **options)


@pytest.mark.parametrize(
    ("match", "ids"),
    [
        ("input_ids must be a tensor", [[1, 2]]),
        ("input_ids must be a tensor .* integers", torch.ones(2, 3)),
        ("input_ids must be a tensor .* integers", torch.ones(2, 3, dtype=torch.bool)),
        (r"input_ids must be a tensor \[rows, length\]", torch.tensor([1, 2])),
        ("at least one row and one token", torch.empty(2, 0, dtype=torch.long)),
        ("at least one row and one token", torch.empty(0, 3, dtype=torch.long)),
        ("input_ids holds the id 40, but the vocabulary has 40", torch.tensor([[3, 40]])),
        ("input_ids holds the id -1", torch.tensor([[3, -1]])),
    ],
)
def test_inputs(model, match, ids):
    refused(model, match, ids)
    refused(model, match, input_ids=ids)


def test_inputs_twice(model):
    refused(model, "either inputs or input_ids", IDS, input_ids=IDS)


def test_no_inputs_and_nothing_to_start_from(model):
    refused(model, "needs inputs, or a bos_token_id", bos_token_id=None)


def test_a_streamer_with_beams(model):
    class Streamer:
        def put(self, ids): ...
        def end(self): ...

    refused(model, "streamer needs num_beams=1", IDS, num_beams=2, streamer=Streamer())


@pytest.mark.parametrize("name", ["mvp", "mt5"])
def test_encoder_decoder_inputs(models, name):
    model = models[name]
    embeds = torch.zeros(2, 3, 16)
    refused(model, "either input_ids or inputs_embeds", IDS, inputs_embeds=embeds)
    refused(model, "inputs_embeds must be a tensor", inputs_embeds=IDS)
    refused(model, "encoder_outputs must be", encoder_outputs=3)
    refused(model, "encoder_outputs has 2 sources, but input_ids has 1", IDS[:1], encoder_outputs=(embeds,))
    refused(model, "decoder_input_ids holds the id 99", IDS, decoder_input_ids=torch.tensor([[3], [99]]))
    refused(model, "decoder_input_ids has 1 rows", IDS, decoder_input_ids=torch.tensor([[3]]))
    refused(model, "decoder_attention_mask needs", IDS, decoder_attention_mask=torch.ones(2, 1))
    refused(model, "decoder_start_token_id is 99", IDS, decoder_start_token_id=99)
    refused(model, "one id or one a source", IDS, decoder_start_token_id=[1, 2, 3])
    refused(
        model, "decoder_start_token_id or bos_token_id", IDS, decoder_start_token_id=None, bos_token_id=None
    )


def test_more_positions_than_the_model_has(models):
    refused(models["mvp"], "max_length is 60.*40", IDS, max_length=60)
    refused(models["gpt2"], "max_new_tokens is 60.*48", IDS, max_new_tokens=60)
    # the last token is written but not read, so 40 positions give 41 tokens
    assert models["mvp"].generate(IDS, max_length=41, min_length=41).shape[1] == 41


def test_a_default_or_checkpoint_length_is_capped_by_the_positions(models):
    model = models["gpt2"]
    prompt = torch.randint(3, 40, (1, 40))
    assert model.generate(prompt, eos_token_id=None).shape[1] == 48
    kept = model.generation_config
    model.generation_config = GenerationConfig(max_length=500)
    try:
        assert model.generate(prompt).shape[1] == 49
    finally:
        model.generation_config = kept
    match = "input_ids has 49 tokens, which leaves nothing to generate.*48 positions"
    refused(model, match, torch.randint(3, 40, (1, 49)))


def test_a_checkpoints_own_wishes_may_be_impossible_here(models):
    """Its minimum may exceed the caller's maximum; its end token may lie outside a shrunken vocabulary."""
    model = models["mvp"]
    kept = model.generation_config
    model.generation_config = GenerationConfig(min_length=30, eos_token_id=50_000, decoder_start_token_id=2)
    try:
        assert model.generate(IDS, max_length=5).shape[1] == 5
        assert model.generate(IDS, max_length=5, num_beams=3).shape[1] == 5
    finally:
        model.generation_config = kept


def test_contradictions_between_levels_are_found(models):
    model = models["mvp"]
    refused(model, "at most num_beams", IDS, GenerationConfig(num_return_sequences=3), num_beams=2)
    assert model.generate(IDS, GenerationConfig(num_return_sequences=3), num_beams=3).shape[0] == 6
