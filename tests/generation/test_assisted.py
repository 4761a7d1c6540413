"""Assisted decoding: the text of plain decoding, in fewer steps; in sampling its very distribution."""

import copy
from types import SimpleNamespace

import pytest
import torch

from seq2seq_zoo.errors import GenerationError
from seq2seq_zoo.generation import GenerationConfig, StepOutput, generate
from tests.generation.families import EOS, MAKE, READS_A_SOURCE, Counting, V, family, like, ragged
from tests.generation.oracle_adapter import ToyMarkov

EAGER = {"num_assistant_tokens": 5, "assistant_confidence_threshold": 0.0}
OPTIONS = {
    "no end": {"eos_token_id": None},
    "processors": {
        "no_repeat_ngram_size": 2,
        "repetition_penalty": 1.3,
        "bad_words_ids": [[11], [4, 5]],
        "eos_token_id": [EOS, *range(20, 34)],
        "min_new_tokens": 9,
        "forced_eos_token_id": EOS,
    },
    "guided": {"guidance_scale": 1.5, "eos_token_id": [EOS, *range(20, 25)]},
    "uncached": {"use_cache": False},
    "in chunks": {"prefill_chunk_size": 3},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", MAKE)
def test_greedy_text_is_that_of_greedy_search(name, options):
    model, options = family(name), {"max_new_tokens": 18, **OPTIONS[options]}
    ids = ragged(name)[0][:1]
    scored = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    plain = model.generate(ids, **scored, **options)
    for helper in (
        {"assistant_model": like(name), "num_assistant_tokens_schedule": "heuristic", **EAGER},
        {"prompt_lookup_num_tokens": 4, "max_matching_ngram_size": 3},
    ):
        assisted = model.generate(ids, **scored, **options, **helper)
        assert assisted.sequences.tolist() == plain.sequences.tolist()
        for field in ("scores", "logits"):
            for mine, other in zip(assisted[field], plain[field], strict=True):
                torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


# LongRoPE turns all of a text by other factors from its 13th token on: a draft is read up to there first
PASSES = {"long phimoe": [1, 6, 5, 1, 6, 6]}


@pytest.mark.parametrize("name", MAKE)
def test_drafts_spare_passes(name):
    """An assistant that is the model itself is always right, so only every sixth token costs a pass."""
    model = Counting(family(name))
    ids = ragged(name)[0][:1]
    text = generate(model, ids, max_new_tokens=19, eos_token_id=None, assistant_model=family(name), **EAGER)
    assert model.passes == PASSES.get(name, [1, 6, 6, 6])
    assert text.tolist() == model.generate(ids, max_new_tokens=19, eos_token_id=None).tolist()


def test_lookup_finds_what_came_before():
    """A source that is to be copied is found in the source; a text that repeats itself, in the text."""
    names = {"mt5": None, "bert": None}
    for name in names:
        model = Counting(family(name))
        text = generate(
            model, ragged(name)[0][:1], max_new_tokens=30, eos_token_id=None, prompt_lookup_num_tokens=6
        )
        names[name] = len(model.passes), text.shape[1]
    assert all(passes < 30 for passes, _ in names.values())

    copying = ToyMarkov(torch.eye(12).roll(1, dims=1) * 5, decoder_start_token_id=3, eos_token_id=11)
    copying.logits = lambda source, last: copying.table[last]  # 3 → 4 → 5 …, as in the source
    counted = Counting(MarkovWithDrafts(copying))
    source = torch.tensor([[3, 4, 5, 6, 7, 8, 9, 10, 11]])
    text = generate(counted, source, prompt_lookup_num_tokens=5, max_new_tokens=20)
    assert text.tolist() == [[3, 4, 5, 6, 7, 8, 9, 10, 11]]
    assert counted.passes == [1, 6, 2]  # start; 5 … 9 and 10; 11, the end


@pytest.mark.parametrize("name", ["mt5", "bert", "mega in chunks"])
@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7])
def test_never_beyond_the_longest(name, limit):
    model, ids = family(name), ragged(name)[0][:1]
    expected = model.generate(ids, max_new_tokens=limit, eos_token_id=None)
    for helper in ({"assistant_model": family(name)}, {"prompt_lookup_num_tokens": 10}):
        text = model.generate(ids, max_new_tokens=limit, eos_token_id=None, **helper)
        assert text.tolist() == expected.tolist()


def test_to_the_last_position_of_model_and_assistant():
    model, ids = family("bert"), ragged("bert")[0][:1]
    short = like("bert")
    options = {"max_length": 65, "eos_token_id": None}  # 64 positions; the last token is not read
    expected = model.generate(ids, **options)
    assert model.generate(ids, assistant_model=short, **options, **EAGER).tolist() == expected.tolist()
    narrow = SimpleNamespace(  # an assistant of ten positions falls silent after them
        begin_decoding=short.begin_decoding,
        config=short.config,
        generation_config=short.generation_config,
        device=short.device,
        is_encoder_decoder=False,
        generation_inputs=short.generation_inputs,
        max_positions=10,
    )
    assert model.generate(ids, assistant_model=narrow, **options, **EAGER).tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["mvp", "phimoe", "mega"])
def test_criteria_streamers_and_attentions_are_those_of_single_steps(name):
    model, ids = family(name), ragged(name)[0][:1]
    options = {"max_new_tokens": 16, "eos_token_id": None}
    plain = model.generate(ids, **options)

    class Log(list):
        put = list.append

        def end(self):
            self.append("end")

    for helper in ({"assistant_model": like(name), **EAGER}, {"prompt_lookup_num_tokens": 4}):
        log = Log()
        model.generate(ids, streamer=log, **options, **helper)
        prompt, *tokens = log[:-1]
        assert log[-1] == "end"
        assert all(token.shape == (1,) for token in tokens)
        assert torch.cat((prompt, torch.stack(tokens, dim=1)), dim=1).tolist() == plain.tolist()

        stop = int(plain[0, -6])
        stopped = model.generate(
            ids, stopping_criteria=[lambda ids, _, stop=stop: ids[0, -1] == stop], **options, **helper
        )
        prompt_length = prompt.shape[1]
        written = plain[0, prompt_length:].tolist()
        assert stopped[0, prompt_length:].tolist() == written[: written.index(stop) + 1]

        everything = {
            "return_dict_in_generate": True,
            "output_attentions": True,
            "output_hidden_states": True,
        }
        mine = model.generate(ids, **everything, **options, **helper)
        other = model.generate(ids, **everything, **options)
        assert list(mine) == list(other)
        for field in list(mine)[1:-1]:
            for a, b in zip(mine[field], other[field], strict=True):
                for x, y in zip(a, b, strict=True):
                    assert torch.equal(x, y), field
        assert mine.past_key_values.length == other.past_key_values.length


def test_stop_strings_within_a_draft():
    class Letters:
        def decode(self, ids, **_):
            return "".join(chr(96 + int(token)) for token in ids)

    model, ids = family("phimoe"), ragged("phimoe")[0][:1]
    options = {"max_new_tokens": 16, "eos_token_id": None, "tokenizer": Letters()}
    plain = model.generate(ids, **options)
    stop = Letters().decode(plain[0, 12:14])
    expected = model.generate(ids, stop_strings=stop, **options)
    assert expected.shape[1] < plain.shape[1]
    for helper in ({"assistant_model": family("phimoe"), **EAGER}, {"prompt_lookup_num_tokens": 4}):
        assert model.generate(ids, stop_strings=stop, **options, **helper).tolist() == expected.tolist()


# ---- sampling: the distribution is exact ----


class MarkovWithDrafts:
    """A ToyMarkov whose steps score several positions and can be taken back."""

    def __init__(self, markov):
        self.markov = markov

    def __getattr__(self, name):
        return getattr(self.markov, name)

    def begin_decoding(self, inputs, **_):
        source = inputs["input_ids"][0, 0]
        return SimpleNamespace(
            encoder_outputs=None,
            state=None,
            step=lambda ids, *, last=None, **_: StepOutput(
                self._logits(source, ids[0, -1:])[0] if last is None else self._logits(source, ids[0, -last:])
            ),
            crop=lambda length: None,
        )

    def _logits(self, source, tokens):
        return torch.stack([self.markov.logits(source, token) for token in tokens])[None]


def exact(table, steps, options):
    """The probability of every text of so many tokens after token 0, one token at a time."""
    texts = {(0,): 1.0}
    for _ in range(steps):
        longer = {}
        for text, p in texts.items():
            scores = table[text[-1]] / options.get("temperature", 1.0)
            if "top_k" in options:
                scores = scores.masked_fill(scores < scores.topk(options["top_k"]).values[-1], float("-inf"))
            if "no_repeat_ngram_size" in options:
                scores = scores.index_fill(0, torch.tensor(text), float("-inf"))
            for token, likely in enumerate(scores.softmax(-1).tolist()):
                if likely > 0:
                    longer[(*text, token)] = p * likely
        texts = longer
    return texts


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6, "top_k": 3},
        {"no_repeat_ngram_size": 1},
        {"assistant_confidence_threshold": 0.5},
    ],
    ids=str,
)
def test_sampling_with_an_assistant_has_the_models_distribution(options):
    """Of 600 texts, each pair of tokens occurs as often as it should (χ², at 99.9 %).

    Of four tokens, the first is drawn without a draft, the others are drafted two at a time.
    """
    generator = torch.Generator().manual_seed(3)
    tables = torch.randn(2, 5, 5, generator=generator) * 1.2
    model, assistant = (MarkovWithDrafts(ToyMarkov(table, eos_token_id=None)) for table in tables)
    runs, steps = 600, 4
    torch.manual_seed(1)
    texts = []
    for _ in range(runs):
        text = generate(
            model,
            torch.tensor([[0]]),
            do_sample=True,
            max_new_tokens=steps,
            assistant_model=assistant,
            **{"num_assistant_tokens": 2, "assistant_confidence_threshold": 0.0, **options},
        )
        texts.append(tuple(text[0].tolist()))
    expected = exact(tables[0], steps, options)
    assert set(texts) <= set(expected)
    for pair in (slice(1, 3), slice(2, 4), slice(3, 5)):
        due, seen = {}, {}
        for text, p in expected.items():
            due[text[pair]] = due.get(text[pair], 0.0) + runs * p
        for text in texts:
            seen[text[pair]] = seen.get(text[pair], 0) + 1
        distance = sum((seen.get(cell, 0) - count) ** 2 / count for cell, count in due.items())
        k = len(due) - 1  # degrees of freedom; the limit is that of Wilson and Hilferty
        assert distance < k * (1 - 2 / (9 * k) + 3.09 * (2 / (9 * k)) ** 0.5) ** 3


@pytest.mark.parametrize("name", MAKE)
def test_sampling_with_lookup_draws_what_plain_sampling_draws(name):
    model, ids = family(name), ragged(name)[0][:1]
    for seed in range(3):
        texts = []
        for helper in ({}, {"prompt_lookup_num_tokens": 3}):
            torch.manual_seed(seed)
            texts.append(
                model.generate(ids, do_sample=True, top_k=4, temperature=0.5, max_new_tokens=20, **helper)
            )
        assert texts[0].tolist() == texts[1].tolist()


@pytest.mark.parametrize("name", MAKE)
def test_sampling_with_the_model_as_its_own_assistant_keeps_every_draft(name):
    """p = q: nothing is ever rejected."""
    model, ids = Counting(family(name)), ragged(name)[0][:1]
    torch.manual_seed(0)
    generate(
        model,
        ids,
        do_sample=True,
        max_new_tokens=19,
        eos_token_id=None,
        assistant_model=family(name),
        **EAGER,
    )
    assert model.passes == PASSES.get(name, [1, 6, 6, 6])


# ---- how much is drafted ----


def drafted(**options):
    """How many tokens were drafted for each pass."""
    model = Counting(family("phimoe"))
    ids = ragged("phimoe")[0][:1]
    generate(model, ids, max_new_tokens=24, eos_token_id=None, **options)
    return [last - 1 for last in model.passes]


def test_schedules_and_thresholds():
    right, wrong = family("phimoe"), family("phimoe", seed=5)
    sure = {"assistant_confidence_threshold": 0.0}
    assert drafted(assistant_model=right, num_assistant_tokens=3, **sure) == [0, 3, 3, 3, 3, 3, 2]
    grows = drafted(
        assistant_model=right, num_assistant_tokens=3, num_assistant_tokens_schedule="heuristic", **sure
    )
    assert grows == [0, 3, 5, 7, 4]
    shrinks = drafted(
        assistant_model=wrong,
        num_assistant_tokens=3,
        num_assistant_tokens_schedule="heuristic_transient",
        **sure,
    )
    assert shrinks[:5] == [0, 3, 2, 1, 1]
    # a token the assistant is not sure of ends the draft, and is judged all the same
    assert set(
        drafted(assistant_model=right, num_assistant_tokens=9, assistant_confidence_threshold=1.0)
    ) == {
        0,
        1,
    }


def test_the_assistants_own_options_give_way_to_the_calls():
    assistant = copy.copy(family("phimoe"))
    assistant.generation_config = GenerationConfig(num_assistant_tokens=2, assistant_confidence_threshold=0.0)
    before = copy.deepcopy(assistant.generation_config)
    assert drafted(assistant_model=assistant)[1] == 2
    assert drafted(assistant_model=assistant, num_assistant_tokens=4)[1] == 4
    given = GenerationConfig(num_assistant_tokens=6, eos_token_id=None)
    assert drafted(assistant_model=assistant, generation_config=given)[1] == 6
    assert assistant.generation_config == before
    assert assistant.generation_config.given == before.given


def test_an_assistant_whose_state_cannot_go_back_reads_anew(monkeypatch):
    """MEGA's averages go back no further than what was read last."""
    from seq2seq_zoo.models.decoding import StackDecoding

    lengths, crop = [], StackDecoding.crop
    monkeypatch.setattr(StackDecoding, "crop", lambda self, n: (lengths.append(n), crop(self, n))[1])
    model, ids = family("mega"), ragged("mega")[0][:1]
    options = {"max_new_tokens": 12, "eos_token_id": None}
    text = model.generate(ids, assistant_model=family("mega", seed=5), **options, **EAGER)
    assert 0 in lengths
    assert text.tolist() == model.generate(ids, **options).tolist()


# ---- refusals ----


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("assistant_model needs num_beams=1, but it is 2", {"num_beams": 2}),
        ("assistant_model needs num_return_sequences=1", {"do_sample": True, "num_return_sequences": 2}),
        ("either assistant_model or prompt_lookup_num_tokens", {"prompt_lookup_num_tokens": 3}),
        ("assistant_model must be a model", {"assistant_model": 3}),
        ("assistant_model must be a decoder as the model is, but is an", {"assistant_model": family("mt5")}),
        ("assistant_tokenizer", {"assistant_tokenizer": object()}),
        ("num_assistant_tokens must be", {"num_assistant_tokens": 0}),
    ],
)
def test_what_cannot_be_assisted_is_refused(match, options, monkeypatch):
    model = family("bert")
    monkeypatch.setattr(type(model), "begin_decoding", lambda *_, **__: pytest.fail("work was done"))
    with pytest.raises(GenerationError, match=match):
        model.generate(torch.tensor([[5, 6]]), **{"assistant_model": like("bert"), **options})


def test_more_refusals():
    model = family("bert")
    rows = torch.tensor([[5, 6], [7, 8]])
    for helper in ({"assistant_model": model}, {"prompt_lookup_num_tokens": 2}):
        with pytest.raises(GenerationError, match=f"{next(iter(helper))} needs one row of input.* 2"):
            model.generate(rows, **helper)
    other = copy.copy(model)
    other.config = copy.copy(model.config)
    other.config.vocab_size = V + 1
    with pytest.raises(GenerationError, match=r"assistant_model must have the model's tokenizer.*41.*40"):
        model.generate(rows[:1], assistant_model=other)
    with pytest.raises(GenerationError, match="assistant_model needs the input's ids"):
        model.generate(inputs_embeds=model.get_input_embeddings()(rows[:1]), assistant_model=model)


@pytest.mark.parametrize("name", READS_A_SOURCE)
def test_the_source_may_be_given_as_encoder_outputs_and_ids(name):
    model, (ids, _) = family(name), ragged(name)
    with torch.no_grad():
        encoded = model.get_encoder()(ids[:1])
    expected = model.generate(ids[:1])
    text = model.generate(ids[:1], encoder_outputs=encoded, assistant_model=like(name), **EAGER)
    assert text.tolist() == expected.tolist()
