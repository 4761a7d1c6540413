"""custom_generate: a loop of one's own gets what ours get."""

import inspect

import pytest
import torch

from seq2seq_zoo.errors import CheckpointError, GenerationError
from tests.generation.families import MAKE, READS_A_SOURCE, family, ragged

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


def greedy(model, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
    """The text-book loop, through the public forward pass."""
    reads = "encoder_outputs" in kwargs
    fixed = {name: kwargs[name] for name in ("encoder_outputs", "attention_mask") if name in kwargs}
    past, finished = None, torch.zeros(len(input_ids), dtype=torch.bool)
    fresh = input_ids
    while not finished.all():
        fixed["decoder_input_ids" if reads else "input_ids"] = fresh
        output = model(**fixed, past_key_values=past, use_cache=kwargs["use_cache"])
        past = output.past_key_values
        scores = logits_processor(input_ids, output.logits[:, -1].float())
        fresh = scores.argmax(-1, keepdim=True).masked_fill(finished[:, None], generation_config.pad_token_id)
        input_ids = torch.cat((input_ids, fresh), dim=1)
        finished |= stopping_criteria(input_ids, None)
        if not reads and "attention_mask" in fixed:
            mask = fixed["attention_mask"]
            fixed["attention_mask"] = torch.cat((mask, torch.ones_like(mask[:, :1])), dim=1)
    return input_ids


@pytest.mark.parametrize("name", [name for name in MAKE if name != "bert"])  # which wants position_ids, too
def test_a_loop_of_ones_own_writes_what_ours_writes(name):
    model, (ids, mask) = family(name), ragged(name)
    if name == "mvp decoder":  # of padding it knows no more than the mask
        ids, mask = IDS, torch.ones_like(IDS)
    options = {"attention_mask": mask, "max_new_tokens": 11, "no_repeat_ngram_size": 2, "min_new_tokens": 3}
    expected = model.generate(ids, **options)
    before = model.generation_config.given.copy()
    assert model.generate(ids, custom_generate=greedy, **options).tolist() == expected.tolist()
    assert model.generation_config.given == before


def test_what_it_is_given():
    model = family("mt5")
    seen = {}

    def look(model, input_ids, logits_processor, stopping_criteria, generation_config, colour, **kwargs):
        assert model is family("mt5")
        seen.update(kwargs, ids=input_ids, config=generation_config, colour=colour)
        seen["stops"] = [bool(stopping_criteria(torch.full((1, n), 5), None)) for n in (8, 9)]
        seen["ends"] = stopping_criteria(torch.tensor([[5, 2], [2, 5]]), None).tolist()
        seen["scores"] = logits_processor(input_ids, torch.zeros(6, 40))
        return "anything"

    class Streamer:
        def put(self, ids):
            seen["prompt"] = ids

        def end(self): ...

    streamer = Streamer()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    options = {"do_sample": True, "num_return_sequences": 3, "top_k": 0, "suppress_tokens": [7]}
    result = model.generate(
        IDS,
        attention_mask=mask,
        custom_generate=look,
        colour="red",
        streamer=streamer,
        max_length=9,
        **options,
    )
    assert result == "anything"
    assert seen["colour"] == "red"
    assert seen["streamer"] is streamer
    assert seen["prompt"].tolist() == seen["ids"].tolist() == [[3]] * 6
    assert (seen["config"].max_length, seen["config"].top_k, seen["use_cache"]) == (9, 0, True)
    assert seen["attention_mask"].tolist() == mask.repeat_interleave(3, dim=0).tolist()
    assert seen["encoder_outputs"].last_hidden_state.shape == (6, 4, 16)
    assert seen["stops"] == [False, True]
    assert seen["ends"] == [True, False]
    assert seen["scores"].isinf().nonzero().tolist() == [[row, 7] for row in range(6)]


def test_it_may_take_no_more_than_it_wants():
    model, taken = family("phimoe"), []

    def small(model, input_ids, logits_processor, stopping_criteria, generation_config):
        taken.append(inspect.signature(small).parameters.keys())
        return input_ids

    assert torch.equal(model.generate(IDS, custom_generate=small), IDS)
    assert taken
    with pytest.raises(GenerationError, match="colour"):
        model.generate(IDS, custom_generate=small, colour="red")


CODE = '''
import torch

def generate(model, inputs=None, generation_config=None, steps=1, **kwargs):
    """Repeat the last token."""
    assert kwargs == {"num_beams": 3}
    return torch.cat((inputs, inputs[:, -1:].expand(-1, steps)), dim=1)
'''


def test_a_folder_that_holds_a_loop(tmp_path):
    model = family("phimoe")
    with pytest.raises(CheckpointError, match=r"custom_generate/generate\.py|generate\.py"):
        model.generate(IDS, custom_generate=str(tmp_path))
    (tmp_path / "custom_generate").mkdir()
    file = tmp_path / "custom_generate" / "generate.py"
    file.write_text(CODE)
    written = model.generate(IDS, custom_generate=str(tmp_path), steps=2, num_beams=3)
    assert written.tolist() == [[5, 6, 7, 8, 8, 8], [9, 10, 11, 12, 12, 12]]
    file.write_text("answer = 42")
    with pytest.raises(GenerationError, match="has no function generate"):
        model.generate(IDS, custom_generate=str(tmp_path))


def test_code_of_the_hub_needs_trust(monkeypatch):
    monkeypatch.setattr(
        "seq2seq_zoo.generation.custom.resolve_file", lambda *_: pytest.fail("something was fetched")
    )
    for trust in (None, False):
        with pytest.raises(GenerationError, match=r"custom_generate is 'someone/loop'.*trust_remote_code"):
            family("phimoe").generate(IDS, custom_generate="someone/loop", trust_remote_code=trust)


def test_refusals():
    model = family("mt5")
    with pytest.raises(GenerationError, match="custom_generate must be callable"):
        model.generate(IDS, custom_generate=3)
    with pytest.raises(GenerationError, match=r"custom_generate decodes without guidance, .* is 2\.0"):
        model.generate(IDS, custom_generate=greedy, guidance_scale=2.0)


def test_the_encoders_output_stays_as_it_is():
    model = family("mt5")
    assert "mt5" in READS_A_SOURCE
    with torch.no_grad():
        encoded = model.get_encoder()(IDS)
    before = encoded.last_hidden_state.clone()
    options = {"encoder_outputs": encoded, "do_sample": True, "num_return_sequences": 2}
    taken = model.generate(custom_generate=lambda *_, encoder_outputs, **__: encoder_outputs, **options)
    assert taken is not encoded
    assert taken.last_hidden_state.shape[0] == 4
    assert torch.equal(encoded.last_hidden_state, before)
