"""Where tokens meet text: streamers and stop strings; and the scores of what was chosen."""

import threading

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.generation import StopStringCriteria
from transformers.generation.streamers import TextStreamer as OracleStreamer

from seq2seq_zoo.errors import GenerationError
from seq2seq_zoo.generation import TextIteratorStreamer, TextStreamer, compute_transition_scores
from seq2seq_zoo.generation.stopping import StopStrings
from tests.generation.families import family
from tests.generation.oracle_adapter import both

TEXT = (
    "Slow and steady wins the race. 你好世界 An unbreakable glass, two glasses.\n"
    "The end: straße, naïve ☕ stop it now."
)


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level BPE of 300 tokens: characters beyond ASCII come in pieces."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator([TEXT] * 5, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False)


def stream(streamer, ids):
    streamer.put(torch.tensor([ids[:3]]))
    for token in ids[3:]:
        streamer.put(torch.tensor([token]))
    streamer.end()


def test_the_text_streamer_prints_all_of_it(tokenizer, capsys):
    ids = tokenizer(TEXT)["input_ids"]
    stream(TextStreamer(tokenizer), ids)
    assert capsys.readouterr().out == TEXT + "\n"
    stream(TextStreamer(tokenizer, skip_prompt=True), ids)
    assert capsys.readouterr().out == tokenizer.decode(ids[3:]) + "\n"


class Pieces:
    def on_finalized_text(self, text, stream_end=False):
        self.pieces = [*getattr(self, "pieces", []), text]


class OurPieces(Pieces, TextStreamer): ...


class TheirPieces(Pieces, OracleStreamer): ...


def test_pieces_are_the_oracles(tokenizer):
    ids = tokenizer(TEXT)["input_ids"]
    ours, theirs = OurPieces(tokenizer), TheirPieces(tokenizer)
    for _ in range(2):  # a streamer can be used again
        stream(ours, ids)
        stream(theirs, ids)
    assert ours.pieces == theirs.pieces
    assert "unbreakable " in ours.pieces


def test_iterating_from_another_thread(tokenizer, models):
    streamer = TextIteratorStreamer(tokenizer, timeout=20)
    ids = torch.tensor([[5, 6, 7]])
    result = []
    thread = threading.Thread(
        target=lambda: result.append(models["gpt2"].generate(ids, streamer=streamer, max_new_tokens=9))
    )
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == tokenizer.decode(result[0][0])


def test_a_text_streamer_follows_one_row(tokenizer):
    with pytest.raises(GenerationError, match="one row"):
        TextStreamer(tokenizer).put(torch.tensor([[1], [2]]))


class Log:
    def __init__(self):
        self.calls = []

    def put(self, ids):
        self.calls.append(ids)

    def end(self):
        self.calls.append("end")


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "num_return_sequences": 2}])
def test_a_streamer_is_put_the_prompt_then_a_token_a_row(model, options):
    logs = Log(), Log()
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    texts = []
    for side, log in zip((model, model.oracle), logs, strict=True):
        torch.manual_seed(0)
        texts.append(side.generate(ids, streamer=log, max_new_tokens=6, **options))
    assert len(logs[0].calls) == len(logs[1].calls)
    for mine, other in zip(logs[0].calls[:-1], logs[1].calls[:-1], strict=True):
        assert torch.equal(mine, other)
    assert logs[0].calls[-1] == "end"
    prompt, *tokens = logs[0].calls[:-1]
    assert torch.equal(torch.cat((prompt, torch.stack(tokens, dim=1)), dim=1), texts[0])


# ---- stop strings ----


@pytest.mark.parametrize(
    "stops", [["race"], ["s"], ["glass", "stop it"], ["the r"], [" the"], ["好"], ["never there"]]
)
def test_stop_strings_stop_where_the_oracles_do(tokenizer, stops):
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    ours, theirs = StopStrings(stops, tokenizer), StopStringCriteria(tokenizer, stops)
    verdicts = [
        (bool(ours(ids[:, :n], None)), bool(theirs(ids[:, :n], None))) for n in range(1, ids.shape[1] + 1)
    ]
    assert [mine for mine, _ in verdicts] == [other for _, other in verdicts]
    assert any(mine for mine, _ in verdicts) == (stops != ["never there"])


def test_generate_stops_at_a_string(model, tokenizer):
    """The oracle raises TypeError for encoder-decoders here; ours stops all families."""
    options = {"eos_token_id": None, "pad_token_id": 3, "max_new_tokens": 12}
    ids = torch.tensor([[5, 6, 7, 8]])
    prompt = 1 if model.is_encoder_decoder else 4
    stop = tokenizer.decode(model.generate(ids, **options)[0, prompt + 2])
    text = model.generate(ids, stop_strings=stop, tokenizer=tokenizer, **options)
    assert text.shape[1] <= prompt + 3
    assert tokenizer.decode(text[0]).endswith(stop)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_decoder_stops_at_strings_where_the_oracle_does(models, tokenizer, beams):
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    free = models["gpt2"].generate(ids, max_new_tokens=12)
    stops = [tokenizer.decode(free[0, 6]), tokenizer.decode(free[1, 9])]
    options = {"stop_strings": stops, "tokenizer": tokenizer, "max_new_tokens": 12, "num_beams": beams}
    ours = models["gpt2"].generate(ids, **options)
    assert torch.equal(ours, models["gpt2"].oracle.generate(ids, **options))
    assert beams > 1 or ours.shape[1] < 16


def test_stop_strings_need_a_tokenizer(model):
    with pytest.raises(GenerationError, match="stop_strings needs the tokenizer"):
        model.generate(torch.tensor([[5]]), stop_strings="a")


# ---- scores of what was chosen ----


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.7}])
@pytest.mark.parametrize("normalize", [False, True])
def test_transition_scores(model, options, normalize):
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12], [4, 5, 4, 5]])
    output, _ = both(
        model, ids, return_dict_in_generate=True, output_scores=True, max_new_tokens=9, **options
    )
    arguments = (output.sequences, output.scores, output.get("beam_indices"), normalize)
    ours = compute_transition_scores(*arguments)
    assert torch.equal(ours, family("mt5").compute_transition_scores(*arguments))
    torch.testing.assert_close(ours, model.oracle.compute_transition_scores(*arguments))
    if options and not normalize:
        lengths = (output.beam_indices >= 0).sum(dim=1)
        torch.testing.assert_close(ours.sum(dim=1) / lengths**0.7, output.sequences_scores)
