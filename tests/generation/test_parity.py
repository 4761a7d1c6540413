"""Our generate and transformers' on the same network: the same tokens, the same scores.

Options are drawn at random, so that they meet in combinations nobody would write down.
"""

import random

import pytest
import torch
import transformers
from transformers import LogitsProcessorList as OracleProcessorList
from transformers import StoppingCriteriaList as OracleCriteriaList

from tests.generation.oracle_adapter import both, make_mt5

OLD_ORACLE = transformers.__version__.startswith("4.")
EOS = {"mvp": 2, "mt5": 1, "gpt2": 2}
PAD = {"mvp": 1, "mt5": 0, "gpt2": 1}


def draw_batch(draw, name):
    """Every other batch is ragged: padded on the right for a source, on the left for a prompt."""
    rows, length = draw.randint(1, 4), draw.randint(2, 7)
    is_ragged = draw.random() < 0.5
    ids = torch.tensor([[draw.randrange(3, 40) for _ in range(length)] for _ in range(rows)])
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        missing = draw.randint(0, length - 1) if is_ragged else 0
        if missing:
            hidden = slice(0, missing) if name == "gpt2" else slice(length - missing, length)
            ids[row, hidden], mask[row, hidden] = PAD[name], 0
    return ids, mask


OF_THE_PROMPT = ("no_repeat_ngram_size", "repetition_penalty", "bad_words_ids", "sequence_bias")
FORBIDS = {
    *("min_length", "min_new_tokens", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("bad_words_ids", "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens"),
}
OF_THE_SOURCE = ("encoder_repetition_penalty", "encoder_no_repeat_ngram_size")


def draw_options(draw, name, prompt_length, is_ragged):
    """About a third of what generate offers at a time.

    The oracle takes padding for text; where a processor would see it, that is tested in test_divergences.
    """
    options = draw_any_options(draw, name, prompt_length)
    if is_ragged:
        for option in (*OF_THE_SOURCE, *(OF_THE_PROMPT if name == "gpt2" else ())):
            options.pop(option, None)
    return options


def draw_any_options(draw, name, prompt_length):

    def maybe(chance=0.3):
        return draw.random() < chance

    def tokens(count):
        return [draw.randrange(3, 40) for _ in range(count)]

    options = {"num_beams": draw.choice([1, 1, 2, 3, 4, 5])}
    if options["num_beams"] > 1:
        options["length_penalty"] = draw.choice([-1.0, 0.0, 0.6, 1.0, 2.0])
        options["early_stopping"] = draw.choice([True, False, "never"])
        options["num_return_sequences"] = draw.randint(1, options["num_beams"])
    if maybe(0.7):
        options["max_new_tokens"] = draw.randint(1, 14)
    elif maybe():
        options["max_length"] = prompt_length + draw.randint(2, 14)
    new_tokens = (
        options.get("max_new_tokens") or options.get("max_length", prompt_length + 20) - prompt_length
    )
    if maybe():
        options["min_new_tokens"] = draw.randint(0, new_tokens)
    elif maybe():
        options["min_length"] = draw.randint(0, prompt_length + new_tokens)
    if maybe():
        options["eos_token_id"] = [EOS[name], *tokens(draw.randint(1, 2))]
    if maybe():
        options["no_repeat_ngram_size"] = draw.randint(1, 3)
    if maybe():
        options["bad_words_ids"] = [tokens(draw.randint(1, 3)) for _ in range(draw.randint(1, 12))] + [
            [EOS[name]]
        ]
    if maybe(0.2):
        options["forced_bos_token_id"] = draw.randrange(3, 20)
    if maybe(0.2):
        options["forced_eos_token_id"] = draw.choice([EOS[name], [EOS[name], 7]])
    if maybe(0.2):
        options["suppress_tokens"] = draw.sample(range(20, 40), 4)  # never what is forced
    if maybe(0.2):
        options["begin_suppress_tokens"] = draw.sample(range(20, 40), 4)
    if maybe(0.2):
        options["repetition_penalty"] = draw.choice([0.8, 1.3])
    if maybe(0.2) and options["num_beams"] == 1:  # with beams the oracle treats the wrong rows
        options["encoder_repetition_penalty"] = draw.choice([0.8, 1.3])
    if maybe(0.2):
        options["encoder_no_repeat_ngram_size"] = draw.randint(1, 3)
    if maybe(0.2):
        # multiples of 1/4 are added without rounding, so the order of the sum does not matter
        options["sequence_bias"] = {
            tuple(tokens(draw.randint(1, 3))): draw.randrange(-20, 20) / 4 for _ in range(draw.randint(1, 6))
        }
    if maybe() and not options.keys() & FORBIDS:  # the oracle's end would score -inf + inf
        options["exponential_decay_length_penalty"] = (draw.randint(0, 5), 1.2)
    if maybe(0.15):
        options["renormalize_logits"] = True
    if maybe(0.15):
        options["remove_invalid_values"] = True
    return options


def draw_sampling(draw):
    options = {"do_sample": True}
    for name, values in {
        "temperature": [0.6, 1.5],
        "top_k": [0, 3, 12],
        "top_p": [0.5, 0.9],
        "min_p": [0.02, 0.3],
        "typical_p": [0.3, 0.9],
        "epsilon_cutoff": [0.01, 0.1],
        "eta_cutoff": [0.01, 0.2],
    }.items():
        if draw.random() < 0.3:
            options[name] = draw.choice(values)
    return options


def assert_same(ours, theirs):
    """Every field of the oracle's output, bit for bit; of its cache, the length."""
    assert list(ours) == list(theirs)
    for name in theirs:
        if name == "past_key_values":
            assert ours[name].get_seq_length() == theirs[name].get_seq_length()
        else:
            assert_equal(ours[name], theirs[name], name)


def assert_equal(mine, other, name):
    if isinstance(other, (tuple, list)):
        assert len(mine) == len(other), name
        for a, b in zip(mine, other, strict=True):
            assert_equal(a, b, name)
    else:
        assert mine.dtype == other.dtype, name
        torch.testing.assert_close(
            mine, other, rtol=0, atol=0, equal_nan=True, msg=lambda text: f"{name}: {text}"
        )


def run_both(model, ids, mask, options, seed):
    outcomes = []
    for side in (model, model.oracle):
        torch.manual_seed(seed)
        outcomes.append(
            side.generate(
                ids.clone(), attention_mask=mask, return_dict_in_generate=True, output_scores=True, **options
            )
        )
    return outcomes


@pytest.mark.parametrize("seed", range(33))
def test_search_gives_the_oracles_tokens_and_scores(models, seed):
    draw = random.Random(seed)
    name = ["mvp", "mt5", "gpt2"][seed % 3]
    ids, mask = draw_batch(draw, name)
    options = draw_options(draw, name, ids.shape[1] if name == "gpt2" else 1, not mask.all())
    assert_same(*run_both(models[name], ids, mask, options, seed))


@pytest.mark.parametrize("seed", range(33))
def test_sampling_draws_the_oracles_tokens(models, seed):
    draw = random.Random(1000 + seed)
    name = ["mvp", "mt5", "gpt2"][seed % 3]
    ids, mask = draw_batch(draw, name)
    options = draw_options(draw, name, ids.shape[1] if name == "gpt2" else 1, not mask.all())
    options |= draw_sampling(draw)
    options.pop("encoder_repetition_penalty", None)
    options["num_beams"] = draw.choice([1, 1, 2, 3])
    options["num_return_sequences"] = draw.randint(
        1, 3 if options["num_beams"] == 1 else options["num_beams"]
    )
    assert_same(*run_both(models[name], ids, mask, options, seed))


@pytest.mark.parametrize("beams", [1, 3])
def test_attentions_hidden_states_and_logits(model, beams):
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    model.oracle.set_attn_implementation("eager")
    ours, theirs = both(
        model,
        ids,
        num_beams=beams,
        max_new_tokens=5,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        output_attentions=True,
        output_hidden_states=True,
    )
    assert_same(ours, theirs)
    assert len(ours.logits) == len(ours.scores) > 1


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"num_beams": 2, "cache_implementation": "dynamic"}]
)
def test_without_cache(model, options):
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    cached, _ = both(model, ids, **options)
    ours, theirs = both(model, ids, use_cache=False, **options)
    assert torch.equal(ours, theirs)
    assert torch.equal(ours, cached)


def test_static_cache_gives_the_same_tokens(model):
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    assert torch.equal(model.generate(ids, cache_implementation="static"), model.generate(ids))


@pytest.mark.parametrize("name", ["mvp", "mt5"])
@pytest.mark.parametrize(
    ("prompt", "mask"),
    [
        ([[7, 8], [9, 10]], None),  # the start token is put in front
        ([["start", 8], ["start", 10]], None),  # it is there already
        ([["start", 8], [9, 10]], None),  # some have it: left alone
        ([[7, 8], [9, 10]], [[1, 1], [0, 1]]),
    ],
)
@pytest.mark.parametrize("beams", [1, 3])
def test_decoder_prompts(models, name, prompt, mask, beams):
    model = models[name]
    start = model.generation_config.decoder_start_token_id
    prompt = torch.tensor([[start if token == "start" else token for token in row] for row in prompt])
    extra = {} if mask is None else {"decoder_attention_mask": torch.tensor(mask)}
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    ours, theirs = both(model, ids, decoder_input_ids=prompt, num_beams=beams, max_length=12, **extra)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["mvp", "mt5"])
def test_a_start_token_for_each_source(models, name):
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    for beams in (1, 3):
        ours, theirs = both(models[name], ids, decoder_start_token_id=[4, 9], num_beams=beams)
        assert torch.equal(ours, theirs)
        assert ours[:, 0].tolist() == [4, 9]


@pytest.mark.parametrize("name", ["mvp", "mt5"])
def test_embeddings_and_encoder_outputs_stand_for_ids(models, name):
    model = models[name]
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    embed = model.oracle.get_input_embeddings()
    expected = model.oracle.generate(ids, num_beams=3)
    assert torch.equal(
        model.generate(inputs_embeds=embed(ids) * getattr(embed, "scale", 1), num_beams=3), expected
    )
    with torch.no_grad():
        outputs = model.oracle.get_encoder()(ids)
    hidden = outputs.last_hidden_state.clone()
    assert torch.equal(model.generate(encoder_outputs=outputs, num_beams=3), expected)
    assert torch.equal(model.generate(encoder_outputs=(outputs[0],), num_beams=3), expected)
    assert torch.equal(outputs.last_hidden_state, hidden)


def test_embeddings_as_a_decoders_prompt(models):
    model = models["gpt2"]
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    embeds = model.oracle.get_input_embeddings()(ids)
    for options in (
        {"max_new_tokens": 6},
        {"max_length": 12},
        {"max_length": 12, "num_beams": 3, "min_length": 9},
    ):
        ours, theirs = both(model, inputs_embeds=embeds.detach(), **options)
        assert torch.equal(ours, theirs)
        ours, theirs = both(model, ids, inputs_embeds=embeds.detach(), **options)
        assert torch.equal(ours, theirs)


def test_from_the_start_token_alone(models):
    ours, theirs = both(models["gpt2"], max_new_tokens=6)
    assert torch.equal(ours, theirs)


def test_the_mask_is_inferred_from_padding(model):
    if model.is_encoder_decoder and not OLD_ORACLE:
        pytest.skip("transformers 5 does not infer the mask of an encoder-decoder")
    pad = model.generation_config.pad_token_id
    ids = torch.tensor([[5, 6, 7, 8], [pad, pad, 11, 12]])
    ours, theirs = both(model, ids, max_new_tokens=8)
    assert torch.equal(ours, theirs)
    ours, theirs = both(model, ids, max_new_tokens=8, eos_token_id=[pad, 2])  # an end token is no padding
    assert torch.equal(ours, theirs)


def test_without_padding_token_rows_end_in_the_end_token(models):
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12], [4, 4, 4, 4]])
    ours, theirs = both(
        models["mvp"], ids, pad_token_id=None, min_length=0, attention_mask=torch.ones_like(ids)
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("beams", [1, 4])
def test_float64_scores_are_float32(beams):
    """The oracle rounds float64 logits to float32 before anything else, ties included."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # its masks overflow otherwise
    try:
        model = make_mt5(dtype=torch.float64)
        ids, mask = torch.tensor([[5, 6, 7, 0], [9, 10, 11, 12]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
        outcomes = run_both(model, ids, mask, {"num_beams": beams, "no_repeat_ngram_size": 2}, 0)
    finally:
        torch.set_default_dtype(before)
    assert outcomes[0].scores[0].dtype == torch.float32
    assert torch.equal(outcomes[0].sequences, outcomes[1].sequences)
    for mine, other in zip(outcomes[0].scores, outcomes[1].scores, strict=True):
        assert torch.equal(mine, other)


class Recorder:
    """A processor and criterion of the caller's own that keeps what it was shown."""

    def __init__(self):
        self.seen = []

    def process(self, ids, scores):
        self.seen.append((ids.clone(), scores.clone()))
        return scores.index_fill(1, torch.tensor([26]), -5.0)

    def stop(self, ids, scores, **_):
        self.seen.append((ids.clone(), len(scores)))
        return ids[:, -1] % 5 == 0


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"do_sample": True, "top_k": 5}, {"num_beams": 2, "eos_token_id": None}]
)
def test_processors_and_criteria_of_ones_own_see_what_the_oracles_see(model, options):
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    recorders = []
    outcomes = []
    if options.get("eos_token_id", 0) is None:
        options = options | {"pad_token_id": 3}
    for side, processors, criteria in (
        (model, list, list),
        (model.oracle, OracleProcessorList, OracleCriteriaList),
    ):
        recorder = Recorder()
        torch.manual_seed(3)
        outcomes.append(
            side.generate(
                ids,
                max_new_tokens=10,
                no_repeat_ngram_size=2,
                logits_processor=processors([recorder.process]),
                stopping_criteria=criteria([recorder.stop]),
                return_dict_in_generate=True,
                output_scores=True,
                **options,
            )
        )
        recorders.append(recorder.seen)
    valid = outcomes[1].sequences >= 0  # without an end token the oracle's beams are filled with -1
    assert torch.equal(outcomes[0].sequences * valid, outcomes[1].sequences * valid)
    assert len(recorders[0]) == len(recorders[1])
    for mine, other in zip(*recorders, strict=True):
        assert torch.equal(mine[0], other[0])
        if isinstance(mine[1], int):
            assert mine[1] == other[1]
        else:
            assert torch.equal(mine[1], other[1])


def test_prefix_allowed_tokens(model):
    def allowed(source, ids):
        return [int(ids[-1] + 1) % 40, 5 + source, 2]

    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    for beams in (1, 3):
        ours, theirs = both(model, ids, prefix_allowed_tokens_fn=allowed, num_beams=beams)
        assert torch.equal(ours, theirs)
