"""What must hold of any generate, whatever another library does."""

import copy
import itertools
import threading

import pytest
import torch
import transformers

from seq2seq_zoo.generation import generate
from seq2seq_zoo.generation.draws import FEW, draw
from seq2seq_zoo.generation.peaks import BLOCK, WIDE, argmax, log_sum_exp, topk
from seq2seq_zoo.generation.warpers import TopP
from tests.generation.oracle_adapter import ToyMarkov

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12], [20, 30, 4, 15]])


def exhaustive(model, source, length, penalty, count):
    """The scores of the best texts of up to `length` new tokens, and all texts' scores; start 0, end 1."""
    log_p = [model.logits(source, last).log_softmax(-1) for last in range(model.table.shape[0])]
    inner = [token for token in range(model.table.shape[0]) if token != 1]
    scored = []
    for n in range(1, length + 1):
        for body in itertools.product(inner, repeat=n - 1):
            for last in [1] if n < length else range(model.table.shape[0]):
                text = [0, *body, last]
                total = sum(float(log_p[a][b]) for a, b in itertools.pairwise(text))
                scored.append((total / n**penalty, text))
    return sorted((score for score, _ in scored), reverse=True)[:count], {tuple(t): s for s, t in scored}


@pytest.mark.parametrize("penalty", [-0.5, 0.0, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_beam_search_with_enough_beams_is_exhaustive(penalty, seed):
    """With V^length beams nothing is pruned; with "never" nothing is cut short."""
    generator = torch.Generator().manual_seed(seed)
    model = ToyMarkov(torch.randn(4, 4, generator=generator) * 2)
    output = generate(
        model,
        torch.tensor([[0], [3]]),
        num_beams=4**3,
        num_return_sequences=6,
        max_new_tokens=4,
        length_penalty=penalty,
        early_stopping="never",
        return_dict_in_generate=True,
        output_scores=True,
    )
    for row, source in enumerate((0, 3)):
        best, score_of = exhaustive(model, source, 4, penalty, 6)
        mine = output.sequences[6 * row : 6 * row + 6].tolist()
        texts = [tuple(text[: text.index(1) + 1] if 1 in text else text) for text in mine]
        assert all(set(text[len(kept) :]) <= {2} for text, kept in zip(mine, texts, strict=True))
        assert len(set(texts)) == 6
        # texts with the same transitions have the same score: their order is free
        assert [score_of[text] for text in texts] == pytest.approx(best, abs=1e-5)
        assert output.sequences_scores[6 * row : 6 * row + 6].tolist() == pytest.approx(best, abs=1e-5)


def test_greedy_takes_the_best_token_each_time():
    model = ToyMarkov(torch.randn(30, 30, generator=torch.Generator().manual_seed(4)))
    text = generate(model, torch.tensor([[2]]), max_new_tokens=15)[0].tolist()
    for last, token in itertools.pairwise(text):
        if last == 1:
            break
        assert token == int(model.logits(2, last).argmax())
    else:
        assert len(text) == 16


def test_sampling_follows_the_distribution():
    table = torch.tensor([[1.0, -1.0, 0.5], [0, 0, 0], [0, 0, 0]])
    model = ToyMarkov(table, eos_token_id=None)
    torch.manual_seed(0)
    drawn = generate(
        model,
        torch.tensor([[0]]),
        do_sample=True,
        temperature=2.0,
        num_return_sequences=20_000,
        max_new_tokens=1,
    )
    frequency = torch.bincount(drawn[:, 1], minlength=3) / 20_000
    expected = (table[0] / 2).softmax(-1)
    assert torch.all((frequency - expected).abs() < 4 * (expected * (1 - expected) / 20_000).sqrt())


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 3, "early_stopping": True}])
def test_a_row_alone_and_in_a_batch(model, options):
    pad = model.generation_config.pad_token_id
    left = not model.is_encoder_decoder
    ragged, mask = torch.full((3, 7), pad), torch.zeros(3, 7, dtype=torch.long)
    for row, length in enumerate((7, 4, 2)):
        where = slice(7 - length, None) if left else slice(length)
        ragged[row, where] = torch.arange(4, 4 + length) + 3 * row
        mask[row, where] = 1
    together = model.generate(ragged, attention_mask=mask, max_new_tokens=12, **options)
    for row, length in enumerate((7, 4, 2)):
        alone = model.generate(
            ragged[row : row + 1][mask[row : row + 1] > 0][None], max_new_tokens=12, **options
        )
        mine = together[row, 7 - length :] if left else together[row]
        assert torch.equal(mine[: alone.shape[1]], alone[0])
        assert set(mine[alone.shape[1] :].tolist()) <= {pad, *torch.atleast_1d(alone[0, -1]).tolist()}


def test_the_same_seed_gives_the_same_text(model):
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append(model.generate(IDS, do_sample=True, num_return_sequences=3, max_new_tokens=12))
    assert torch.equal(texts[0], texts[1])
    assert texts[0].shape != texts[2].shape or not torch.equal(texts[0], texts[2])


def test_two_threads_with_one_model(model):
    calls = [
        {"num_beams": 4, "num_return_sequences": 2},
        {},
        {"no_repeat_ngram_size": 2, "num_beams": 2},
        {"min_length": 9},
    ]
    expected = [model.generate(IDS + n, **call) for n, call in enumerate(calls)]
    results = [None] * len(calls)

    def work(n):
        for _ in range(2):
            results[n] = model.generate(IDS + n, **calls[n])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine, other in zip(results, expected, strict=True):
        assert torch.equal(mine, other)


class Failing:
    def put(self, ids):
        self.count = getattr(self, "count", 0) + 1
        if self.count == 4:
            raise OSError("the pipe is closed")

    def end(self):
        raise AssertionError("not reached")


def test_an_exception_leaves_the_model_usable(model):
    expected = model.generate(IDS)
    with pytest.raises(OSError, match="the pipe is closed"):
        model.generate(IDS, streamer=Failing(), min_new_tokens=6)
    assert torch.is_grad_enabled()
    assert torch.equal(model.generate(IDS), expected)


def test_nothing_of_the_callers_is_changed(model):
    ids, mask = IDS.clone(), torch.ones_like(IDS)
    given = type(model.generation_config)(num_beams=2, bad_words_ids=[[7], [8, 9]])
    before = copy.deepcopy((given, model.generation_config))
    processors = [lambda ids, scores: scores]
    for training in (False, True):
        model.oracle.train(training)
        model.generate(ids, given, attention_mask=mask, logits_processor=processors, min_length=4)
        assert model.oracle.training is training
    model.oracle.eval()
    assert torch.equal(ids, IDS)
    assert torch.equal(mask, torch.ones_like(IDS))
    assert (given, model.generation_config) == before
    assert given.given == before[0].given
    assert len(processors) == 1


def test_results_are_ordinary_tensors(model):
    text = model.generate(IDS)
    assert text.dtype == torch.long
    assert not text.is_inference()
    assert text.is_contiguous()


def test_the_source_is_encoded_once_and_given_once_a_source(models):
    """Rows of a source share what the encoder made: begin_decoding gets three rows, not twelve."""
    seen = []
    model = models["mvp"]
    begin = model.begin_decoding
    model.begin_decoding = lambda inputs, **options: (
        seen.append((inputs, options)),
        begin(inputs, **options),
    )[1]
    try:
        assert model.generate(IDS, num_beams=4, num_return_sequences=4).shape[0] == 12
    finally:
        del model.begin_decoding
    ((inputs, options),) = seen
    assert inputs["input_ids"].shape == IDS.shape
    assert options["rows_per_source"] == 4


def test_max_time_stops_early():
    class Slow(ToyMarkov):
        def logits(self, source, last):
            threading.Event().wait(0.02)
            return super().logits(source, last)

    model = Slow(torch.eye(5), eos_token_id=None)
    text = generate(model, torch.tensor([[0]]), max_new_tokens=1000, max_time=0.1)
    assert 2 < text.shape[1] < 100


# ---- the best of a wide row ----


@pytest.mark.parametrize("width", [WIDE, WIDE + 1, WIDE + BLOCK - 1, 3 * WIDE + 77, 100])
@pytest.mark.parametrize("transposed", [False, True])
def test_peaks_are_torchs(width, transposed):
    scores = torch.randn(5, width, generator=torch.Generator().manual_seed(width))
    scores[1, -1] = 100.0  # in the short last block
    scores[2] = 0.0  # all equal: the first
    scores[3, 40:] = float("-inf")
    scores[4, width // 2 :: 7] = 50.0  # equal maxima
    if transposed:
        scores = scores.t().contiguous().t()
    assert torch.equal(argmax(scores), scores.argmax(dim=-1))
    for k in (1, 5, 24):
        values, indices = topk(scores, k)
        assert torch.equal(values, scores.topk(k, dim=-1).values)
        assert torch.equal(scores.gather(1, indices), values)
        assert all(len(set(row)) == k for row in indices.tolist())


def test_peaks_see_nan_as_torch_does():
    scores = torch.randn(2, WIDE)
    scores[0, 5000] = float("nan")
    assert torch.equal(argmax(scores), scores.argmax(dim=-1))
    assert topk(scores, 3)[1][0, 0] == 5000


def test_beams_over_a_wide_vocabulary_are_those_over_all_candidates(monkeypatch):
    class Wide(ToyMarkov):
        def logits(self, source, last):
            return self.table[(source + last) % 12]

    model = Wide(torch.randn(12, WIDE + 50, generator=torch.Generator().manual_seed(0)) * 3)
    model.config.vocab_size = WIDE + 50
    call = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 6, "no_repeat_ngram_size": 2}
    sources = torch.tensor([[0], [1], [2]])
    fast = generate(model, sources, **call)
    monkeypatch.setattr("seq2seq_zoo.generation.beams.WIDE", WIDE * 100)
    monkeypatch.setattr("seq2seq_zoo.generation.peaks.WIDE", WIDE * 100)
    assert torch.equal(generate(model, sources, **call), fast)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_sum_exp_is_torchs(dtype):
    scores = (torch.randn(4, 3 * WIDE + 77, generator=torch.Generator().manual_seed(0)) * 5).to(dtype)
    scores[1, 40:] = float("-inf")
    scores[2, 9] = 300.0
    largest = scores.amax(dim=-1, keepdim=True).float()
    expected = scores.double().logsumexp(dim=-1, keepdim=True)
    torch.testing.assert_close(log_sum_exp(scores, largest).double(), expected, rtol=1e-6, atol=1e-6)
    assert log_sum_exp(scores[:0], largest[:0]).shape == (0, 1)


@pytest.mark.parametrize("keep", [1, 3])
@pytest.mark.parametrize("possible", [1, 2, 50, WIDE])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_nucleus_of_few_is_that_of_all(possible, p, keep):
    """After top-k, only what is left is sorted: the same tokens stay, those of equal score too."""
    generator = torch.Generator().manual_seed(possible)
    scores = (torch.randn(3, WIDE + 9, generator=generator) * 2).round(decimals=1)  # with equal ones
    kth = scores.topk(possible, dim=-1).values[:, -1:]
    scores = scores.masked_fill(scores < kth, float("-inf"))
    ours = TopP(p, keep)(torch.zeros(3, 1, dtype=torch.long), scores)
    theirs = transformers.TopPLogitsWarper(p, min_tokens_to_keep=keep)(None, scores)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("possible", "count"), [(1, 1), (3, 1), (3, 3), (50, 1), (50, 8), (FEW + 1, 1), (WIDE + 500, 8)]
)
def test_draws_are_torchs(possible, count):
    """The same tokens for the same seed, and the generator in the same state."""
    scores = torch.randn(3, WIDE + 500, generator=torch.Generator().manual_seed(possible)) * 3
    kth = scores.topk(possible, dim=-1).values[:, -1:]
    likely = scores.masked_fill(scores < kth, float("-inf")).softmax(dim=-1)
    for seed in range(6):
        torch.manual_seed(seed)
        theirs, after = torch.multinomial(likely, count), torch.rand(1)
        torch.manual_seed(seed)
        assert torch.equal(draw(likely, count), theirs)
        assert torch.equal(torch.rand(1), after)


def test_other_ways_to_make_times_are_left_to_torch(monkeypatch):
    likely = torch.randn(2, WIDE).softmax(dim=-1)
    monkeypatch.setattr("seq2seq_zoo.generation.draws.times_are_made_one_by_one", lambda: False)
    monkeypatch.setattr("seq2seq_zoo.generation.draws._times", lambda _: pytest.fail("made here"))
    assert draw(likely, 2).shape == (2, 2)
    with pytest.raises(RuntimeError, match="nan"):
        draw(likely * float("nan"))
