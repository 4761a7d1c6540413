"""Every family through one loop: truths that need no oracle, and the draws of transformers."""

import copy
import threading

import pytest
import torch
import transformers

from seq2seq_zoo.errors import GenerationError
from seq2seq_zoo.generation import GenerationConfig
from tests.generation.families import EOS, MAKE, READS_A_SOURCE, family, like, ragged
from tests.oracle import needs_4

CONTINUES = [name for name in MAKE if name not in READS_A_SOURCE]
WATCHED = {
    "repetition_penalty": 1.4,
    "encoder_repetition_penalty": 1.2,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 3,
    "bad_words_ids": [[11, 12], [33]],
    "sequence_bias": {(28,): -2.0, (4, 5, 6): 3.0, (19, 4): 2.5},
}
MODES = {
    "greedy": WATCHED,
    "beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5},
    "watched beams": {"num_beams": 2, "early_stopping": "never", "length_penalty": 2.0, **WATCHED},
}


def new_tokens(name, text, prompt_length):
    return text[:, 1 if name in READS_A_SOURCE else prompt_length :].tolist()


def up_to_the_end(tokens):
    return tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MAKE)
def test_a_row_writes_the_same_alone_and_in_a_batch_and_without_a_cache(name, mode):
    model, (ids, mask) = family(name), ragged(name)
    options = {"max_new_tokens": 12, **MODES[mode]}
    count = options.get("num_return_sequences", 1)
    together = model.generate(ids, attention_mask=mask, **options)
    uncached = model.generate(ids, attention_mask=mask, use_cache=False, **options)
    assert uncached.tolist() == together.tolist()
    texts = new_tokens(name, together, ids.shape[1])
    for row in range(3):
        alone = model.generate(ids[row : row + 1, mask[row].bool()], **options)
        expected = new_tokens(name, alone, int(mask[row].sum()))
        for mine, other in zip(texts[count * row : count * (row + 1)], expected, strict=True):
            assert up_to_the_end(mine) == up_to_the_end(other)


@pytest.mark.parametrize("name", MAKE)
def test_prompts_in_chunks_and_static_caches_give_the_same_tokens(name):
    model, (ids, mask) = family(name), ragged(name, (13, 4, 8))
    options = {"max_new_tokens": 8, "attention_mask": mask, "no_repeat_ngram_size": 2}
    static = {"cache_implementation": "static"}
    for mode, sizes in (({}, (1, 4, 12, 13, 40)), ({"num_beams": 3}, (5,)), ({"guidance_scale": 1.4}, (3,))):
        expected = model.generate(ids, **options, **mode).tolist()
        for size in sizes:
            written = model.generate(ids, prefill_chunk_size=size, **options, **mode)
            assert written.tolist() == expected, size
        assert model.generate(ids, **static, **options, **mode).tolist() == expected
    if name not in READS_A_SOURCE:
        vectors = model.get_input_embeddings()(ids).detach() * model_scale(model)
        options = {"attention_mask": mask, "max_new_tokens": 8}
        written = model.generate(inputs_embeds=vectors, prefill_chunk_size=4, **options)
        expected = model.generate(ids, **options)
        assert written.tolist() == expected[:, 13:].tolist()


def model_scale(model):
    stack = getattr(model, "decoder", None) or model.model.stack
    return stack.embedding.scale


@pytest.mark.parametrize("name", CONTINUES)
def test_beams_read_their_prompt_once(name):
    """The rows of a source begin with one prompt: it is read for each source, not for each row."""
    model, (ids, mask) = family(name), ragged(name)
    read = []
    embedding = model.get_input_embeddings()
    hook = embedding.register_forward_hook(lambda _, given, __: read.append(given[0].shape))
    try:
        model.generate(ids, attention_mask=mask, num_beams=4, max_new_tokens=3, eos_token_id=None)
    finally:
        hook.remove()
    assert read == [(3, 7), (12, 1), (12, 1)]


@pytest.mark.parametrize("name", CONTINUES)
def test_attentions_of_shared_prompts_have_a_row_for_each_beam(name):
    model, (ids, _) = family(name), ragged(name, (6, 6))
    options = {"max_new_tokens": 3, "output_attentions": True, "output_hidden_states": True}
    outputs = [
        model.generate(ids, num_beams=3, return_dict_in_generate=True, use_cache=cached, **options)
        for cached in (True, False)
    ]
    assert outputs[0].sequences.tolist() == outputs[1].sequences.tolist()
    for field in ("attentions", "hidden_states"):
        for mine, other in zip(outputs[0][field][0], outputs[1][field][0], strict=True):
            torch.testing.assert_close(mine, other)


# ---- randomness, threads, accidents ----


@pytest.mark.parametrize("name", MAKE)
def test_the_same_seed_gives_the_same_text_cached_or_not(name):
    model, (ids, mask) = family(name), ragged(name)
    for mode in ({"num_return_sequences": 2}, {"num_beams": 3, "top_p": 0.9, "typical_p": 0.95}):
        texts = []
        for seed, cached in ((1, True), (1, True), (1, False), (2, True)):
            torch.manual_seed(seed)
            texts.append(
                model.generate(
                    ids, attention_mask=mask, do_sample=True, use_cache=cached, eos_token_id=None, **mode
                )
            )
        assert torch.equal(texts[0], texts[1])
        assert torch.equal(texts[0], texts[2])
        assert not torch.equal(texts[0], texts[3])


@pytest.mark.parametrize("name", MAKE)
def test_two_threads_write_with_one_model(name):
    model, helper, ids = family(name), like(name), ragged(name)[0]
    calls = [
        {"num_beams": 3},
        {"guidance_scale": 1.5},
        {"assistant_model": helper},
        {"prompt_lookup_num_tokens": 3, "repetition_penalty": 1.2},
    ]
    texts = [ids[:1] if n >= 2 else ids for n in range(len(calls))]
    pairs = zip(texts, calls, strict=True)
    expected = [model.generate(text, max_new_tokens=12, **call) for text, call in pairs]
    written = [None] * len(calls)

    def write(n):
        for _ in range(2):
            written[n] = model.generate(texts[n], max_new_tokens=12, **calls[n])

    threads = [threading.Thread(target=write, args=(n,)) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(written, expected, strict=True))


class AccidentError(Exception): ...


class Failing:
    """A streamer, a processor and a criterion that fail at their fourth call."""

    def __init__(self):
        self.calls = 0

    def __call__(self, *given, **_):
        self.calls += 1
        if self.calls == 4:
            raise AccidentError
        return given[1] if len(given) == 2 and isinstance(given[1], torch.Tensor) else False

    put = __call__

    def end(self): ...


@pytest.mark.parametrize("name", MAKE)
def test_an_exception_leaves_the_model_usable(name):
    model, ids = family(name), ragged(name)[0][:1]
    options = {"min_new_tokens": 8, "max_new_tokens": 10}
    expected = model.generate(ids, **options)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    for accident in ("streamer", "logits_processor", "stopping_criteria"):
        for mode in ({}, {"assistant_model": like(name)}, {"guidance_scale": 2.0}):
            with pytest.raises(AccidentError):
                model.generate(ids, **{accident: Failing()}, **options, **mode)
    assert torch.is_grad_enabled()
    assert model.generate(ids, **options).tolist() == expected.tolist()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", MAKE)
def test_nothing_of_the_model_or_its_assistant_is_changed(name):
    model, helper, ids = family(name), like(name), ragged(name)[0][:1]
    sides = (model, helper)
    before = [copy.deepcopy((side.config.to_dict(), side.generation_config.given)) for side in sides]
    drafting = {"assistant_model": helper, "num_assistant_tokens_schedule": "heuristic"}
    model.train()
    try:
        for mode in ({"num_beams": 2}, drafting):
            model.generate(ids, GenerationConfig(max_new_tokens=4, top_k=3), **mode)
            assert model.training
            assert not helper.training
    finally:
        model.eval()
    after = [(side.config.to_dict(), side.generation_config.given) for side in sides]
    assert after == before


# ---- what comes back ----


@pytest.mark.parametrize("name", MAKE)
def test_the_state_that_comes_back_goes_on(name):
    """A forward pass on past_key_values and the last token says what follows the text."""
    model, ids = family(name), ragged(name, (6, 6))[0]
    options = {"return_dict_in_generate": True, "max_new_tokens": 9, "eos_token_id": None}
    modes = [{}, {"prompt_lookup_num_tokens": 3}, {"assistant_model": like(name)}]
    for n, mode in enumerate(modes):
        given = ids[:1] if n else ids
        output = model.generate(given, **options, **mode)
        text = output.sequences
        key = "decoder_input_ids" if name in READS_A_SOURCE else "input_ids"
        source = {"input_ids": given} if name in READS_A_SOURCE else {}
        with torch.no_grad():
            full = model(**source, **{key: text}, use_cache=False).logits[:, -1]
            next_one = model(**source, **{key: text[:, -1:]}, past_key_values=output.past_key_values)
        torch.testing.assert_close(next_one.logits[:, -1], full)
    assert model.generate(ids, use_cache=False, **options).past_key_values is None


# ---- the oracle draws the same ----

SAMPLING = [
    {"top_k": 0},
    {"temperature": 0.7, "top_k": 8, "top_p": 0.9},
    {"min_p": 0.1, "num_return_sequences": 3},
    {"typical_p": 0.8, "epsilon_cutoff": 0.01},
    {"eta_cutoff": 0.05, "repetition_penalty": 1.3},
    {"num_beams": 3, "num_return_sequences": 2, "top_p": 0.95},
]


@needs_4
@pytest.mark.parametrize("name", ["mvp with prompts", "mt5", "bert pair", "bert", "mvp decoder", "phimoe"])
def test_seeded_sampling_draws_the_oracles_tokens(name, tmp_path):
    model = copy.deepcopy(family(name)).float()
    model.save_pretrained(tmp_path)
    oracle = getattr(transformers, type(model).__name__).from_pretrained(tmp_path)
    ids = ragged(name, (6, 6, 6))[0]
    for seed, options in enumerate(SAMPLING):
        outputs = []
        for side in (model, oracle):
            torch.manual_seed(seed)
            outputs.append(
                side.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    max_new_tokens=12,
                    return_dict_in_generate=True,
                    output_scores=True,
                    **options,
                )
            )
        ours, theirs = outputs
        assert ours.sequences.tolist() == theirs.sequences.tolist(), options
        for mine, other in zip(ours.scores, theirs.scores, strict=True):
            assert torch.equal(mine.isinf(), other.isinf())
            torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3)


# ---- refusals ----


@pytest.mark.parametrize("name", ["mvp", "bert pair", "bert", "mvp decoder", "phimoe"])
def test_input_that_is_too_long_is_refused_by_name(name, monkeypatch):
    model = family(name)
    monkeypatch.setattr(type(model), "begin_decoding", lambda *_, **__: pytest.fail("work was done"))
    ids = torch.full((1, 70), 5)
    with pytest.raises(GenerationError, match=r"^input_ids has 70 tokens.* 64"):
        model.generate(ids)
    vectors = torch.zeros(1, 70, 16)
    if name != "bert pair":
        with pytest.raises(GenerationError, match=r"^inputs_embeds has 70 tokens.* 64"):
            model.generate(inputs_embeds=vectors)
    if name in READS_A_SOURCE:
        with pytest.raises(GenerationError, match=r"^decoder_input_ids has 71 tokens.* 64"):
            model.generate(ids[:, :5], decoder_input_ids=ids)
        with pytest.raises(GenerationError, match=r"^negative_prompt_ids has 70 tokens.* 64"):
            model.generate(ids[:, :5], negative_prompt_ids=ids, guidance_scale=2.0)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize(
    ("match", "given"),
    [
        ("input_ids holds the id 40, but the vocabulary has 40", {"input_ids": torch.tensor([[5, 40]])}),
        ("input_ids holds the id -1", {"input_ids": torch.tensor([[-1]])}),
        ("input_ids must have at least one row and one token", {"input_ids": torch.zeros(1, 0).long()}),
        ("max_length must be greater than the prompt", {"max_length": 1}),
        ("min_new_tokens is 9", {"min_new_tokens": 9, "max_new_tokens": 3}),
        ("top_p must be a number in", {"top_p": 1.5}),
        ("num_return_sequences must be an integer", {"num_return_sequences": 0}),
        ("prefill_chunk_size must be an integer", {"prefill_chunk_size": 0}),
        ("'max_new_token'.*max_new_tokens", {"max_new_token": 4}),
        ("watermarking_config", {"watermarking_config": {}}),
    ],
)
def test_refusals_come_before_any_work(name, match, given, monkeypatch):
    model = family(name)
    monkeypatch.setattr(type(model), "begin_decoding", lambda *_, **__: pytest.fail("work was done"))
    with pytest.raises(GenerationError, match=match):
        model.generate(**{"input_ids": torch.tensor([[5]]), **given})
