"""cache_implementation="static": the texts and scores of the ordinary state, by steps that are all alike."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import seq2seq_zoo as zoo
from seq2seq_zoo.generation import GenerationConfig
from seq2seq_zoo.layers.static import StaticSteps
from tests.generation.families import BERT, MAKE, MT5, PHIMOE, READS_A_SOURCE, TOKENS, family, like, ragged

STATIC = {"cache_implementation": "static"}
MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "beam sampling": {"num_beams": 2, "do_sample": True},
    "guidance": {"guidance_scale": 1.4},
}
NEW = 10
SHOWN = {"return_dict_in_generate": True, "output_scores": True, "max_new_tokens": NEW, "min_new_tokens": NEW}
SERVED = [name for name in MAKE if not name.startswith("mega")]


@pytest.fixture
def taken(monkeypatch):
    """The lengths that static steps were taken at."""
    lengths, step = [], StaticSteps.step

    def counted(self, ids):
        lengths.append(self.state.length)
        return step(self, ids)

    monkeypatch.setattr(StaticSteps, "step", counted)
    return lengths


def both(model, ids, **options):
    """What the ordinary state writes, and the static one."""
    written = []
    for state in ({}, STATIC):
        torch.manual_seed(3)
        written.append(model.generate(ids, **SHOWN, **state, **options))
    return written


def assert_same(expected, found):
    assert torch.equal(found.sequences, expected.sequences)
    assert len(found.scores) == NEW
    for ours, other in zip(found.scores, expected.scores, strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-5)  # processed in float32


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SERVED)
def test_texts_and_scores_are_those_of_the_ordinary_state(name, mode, taken):
    """Of sources padded behind, and of prompts padded in front."""
    ids, mask = ragged(name, (7, 4, 2))
    assert_same(*both(family(name), ids, attention_mask=mask, **MODES[mode]))
    runs, crossings = (2 if mode == "guidance" else 1), 0
    if name == "long phimoe":  # rows of 7, 4 and 2 tokens cross 12 at columns of their own
        crossings = len({7 + 12 - length for length in (7, 4, 2)} & set(range(7, 7 + NEW - 1)))
        assert crossings
    if mode == "guidance":  # its second run reads less
        assert len(taken) > NEW - 1
    else:
        assert len(taken) == runs * (NEW - 1) - crossings


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", READS_A_SOURCE)
def test_padded_prompts_of_an_encoder_decoder(name, side, beams, taken):
    ids, mask = ragged(name)
    prompt = torch.tensor([[3, 5, 6], [3, 7, 8], [3, 9, 10]])
    real = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]])
    real = real.flip(1) if side == "left" else real
    given = {"attention_mask": mask, "decoder_input_ids": prompt, "decoder_attention_mask": real}
    assert_same(*both(family(name), ids, num_beams=beams, **given))
    assert len(taken) == NEW - 1


@pytest.mark.parametrize("name", ["bert", "mvp decoder", "phimoe", "long phimoe"])
def test_prompts_padded_behind_and_prompts_of_vectors(name, taken):
    ids, mask = ragged(name)
    assert_same(*both(family(name), ids.flip(1), attention_mask=mask.flip(1)))
    vectors = family(name).get_input_embeddings()(ids).detach()
    assert_same(*both(family(name), None, inputs_embeds=vectors, attention_mask=mask))
    assert taken


@pytest.mark.parametrize("mask", [None, (6, 3, 1)])
@pytest.mark.parametrize("beams", [1, 2])
def test_a_sliding_window(mask, beams, taken):
    model = copy_of("phimoe", zoo.PhimoeForCausalLM(zoo.PhimoeConfig(**PHIMOE, sliding_window=4)))
    ids, real = ragged("phimoe", mask or (6, 6, 6))
    assert_same(*both(model, ids, attention_mask=None if mask is None else real, num_beams=beams))
    assert len(taken) == NEW - 1


def copy_of(name, model):
    """A model of another configuration with the weights of a family's."""
    model.load_state_dict(family(name).state_dict(), strict=False)
    model.generation_config = GenerationConfig(**TOKENS)
    return model.double().eval()


def test_a_row_crosses_the_border_in_any_mode_of_reading(taken):
    """LongRoPE's border at 12: by the prompt alone, at the first step, with a prompt read in pieces."""
    for length in (11, 12, 13):
        ids, _ = ragged("long phimoe", (length, length))
        for options in ({}, {"prefill_chunk_size": 5}, {"num_beams": 2}):
            taken.clear()
            assert_same(*both(family("long phimoe"), ids, **options))
            assert taken == [at for at in range(length, length + NEW - 1) if at != 12]


@pytest.mark.parametrize("name", ["mt5", "mvp with prompts", "long phimoe"])
@torch.no_grad()
def test_the_state_that_comes_back_goes_on(name):
    """As past_key_values of a pass, of several tokens at once."""
    model, new = family(name), torch.tensor([[5, 6, 7], [8, 9, 10]])
    ids, mask = ragged(name, (7, 4))
    answers = []
    for result in both(model, ids, attention_mask=mask):
        held = result.past_key_values.length
        if name in READS_A_SOURCE:
            encoded = model.get_encoder()(ids, attention_mask=mask)
            given = {"encoder_outputs": encoded, "attention_mask": mask, "decoder_input_ids": new}
        else:
            real = torch.cat([mask, mask.new_ones(2, held + 3 - mask.shape[1])], dim=1)
            given = {"input_ids": new, "attention_mask": real}
        out = model(**given, past_key_values=result.past_key_values, use_cache=True)
        assert out.past_key_values.length == held + 3
        answers.append(out.logits)
    torch.testing.assert_close(answers[1], answers[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["mega", "mega in chunks"])
def test_a_recurrent_state_is_the_ordinary_one(name, taken):
    ids, mask = ragged(name)
    assert_same(*both(family(name), ids, attention_mask=mask))
    assert not taken


def test_distances_from_the_last_key_take_the_ordinary_state(taken):
    config = zoo.BertGenerationConfig(**BERT, is_decoder=True, position_embedding_type="relative_key")
    model = copy_of("bert", zoo.BertGenerationDecoder(config))
    ids, mask = ragged("bert")
    assert_same(*both(model, ids, attention_mask=mask))
    assert not taken


def test_a_decoder_without_layers_takes_the_ordinary_state(taken):
    model = zoo.MT5ForConditionalGeneration(zoo.MT5Config(**MT5 | {"num_decoder_layers": 0})).eval()
    model.generation_config = GenerationConfig(**TOKENS)
    ids, mask = ragged("mt5")
    assert_same(*both(model, ids, attention_mask=mask))
    assert not taken


@pytest.mark.parametrize("name", ["mt5", "mvp with prompts", "phimoe"])
def test_what_else_is_asked_for_takes_the_ordinary_state(name, taken):
    model = family(name)
    ids, mask = ragged(name, (7, 4))
    expected, found = both(model, ids, attention_mask=mask, output_attentions=True, output_hidden_states=True)
    assert_same(expected, found)
    names = [part for part in expected if part.endswith(("attentions", "hidden_states"))]
    assert len(names) > 1
    for part in names:
        torch.testing.assert_close(found[part], expected[part])
    assert_same(*both(model, ids, attention_mask=mask, use_cache=False))
    for helper in ({"assistant_model": like(name)}, {"prompt_lookup_num_tokens": 3}):
        assert_same(*both(model, ids[:1], **helper))
    assert not taken


def test_a_model_in_training_mode_stays_so(taken):
    model = copy_of("mt5", MAKE["mt5"]()).train()
    ids, mask = ragged("mt5")
    assert_same(*both(model, ids, attention_mask=mask))
    assert model.training
    assert not taken


@pytest.mark.parametrize("name", ["mt5", "mvp with prompts", "phimoe"])
def test_a_model_made_ready_for_inference(name, taken):
    model = zoo.optimize(copy_of(name, MAKE[name]()).float())
    ids, mask = ragged(name)
    for mode in ({}, {"num_beams": 3}):
        assert_same(*both(model, ids, attention_mask=mask, **mode))
    assert len(taken) == 2 * (NEW - 1)


def test_two_threads_write_from_one_model():
    ids = [ragged("mvp", lengths, seed=2)[0] for lengths in ((7, 7), (5, 5))]
    options = {"max_new_tokens": 30, "eos_token_id": 39, **STATIC}
    expected = [family("mvp").generate(each, **options).tolist() for each in ids]
    with ThreadPoolExecutor(2) as pool:
        written = list(pool.map(lambda each: family("mvp").generate(each, **options).tolist(), ids * 4))
    assert written == expected * 4


def test_the_shortest_text_and_the_longest(taken):
    """One token, for which no step follows the prompt; and one for every position that there is."""
    model, (ids, mask) = family("mvp"), ragged("mvp")
    for new in (1, 2, 63):
        taken.clear()
        options = {"max_new_tokens": new, "eos_token_id": 39, "attention_mask": mask}
        expected = model.generate(ids, **options)
        assert torch.equal(model.generate(ids, **STATIC, **options), expected)
        assert len(taken) == expected.shape[1] - 2


def test_nothing_is_compiled_on_a_cpu(monkeypatch, taken):
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("something was compiled"))
    family("mt5").generate(ragged("mt5")[0], max_new_tokens=4, min_new_tokens=4, **STATIC)
    assert len(taken) == 3


def test_disable_compile_is_a_switch():
    with pytest.raises(zoo.GenerationError, match="disable_compile must be True or False, but is 1"):
        GenerationConfig(disable_compile=1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("mode", ["greedy", "beams"])
@pytest.mark.parametrize("name", ["mt5", "mvp with prompts", "bert pair", "long phimoe"])
def test_cuda_graphs_write_the_same(name, mode, taken):
    """One text, and another of other lengths; compiled, and not."""
    model = copy_of(name, MAKE[name]()).cuda()
    for lengths in ((7, 4), (9, 9)):
        ids, mask = (tensor.cuda() for tensor in ragged(name, lengths))
        options = {"attention_mask": mask, **MODES[mode]}
        assert_same(*both(model, ids, **options))
        assert_same(*both(model, ids, disable_compile=True, **options))
    assert taken
