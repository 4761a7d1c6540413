"""pipeline("text-generation"): the oracle's results on texts and conversations, and what needs no oracle."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers

import seq2seq_zoo
from seq2seq_zoo import GenerationConfig, TextStreamer, UsageError, pipeline
from seq2seq_zoo.cli import main
from seq2seq_zoo.pipelines.streaming import LineStreamer
from tests.front.conftest import SENTENCES
from tests.oracle import MAJOR, needs_4, randomise

SHORT = [{"role": "user", "content": "Who created Iron Man?"}]
LONG = [
    {"role": "system", "content": "the quick brown fox"},
    *SHORT,
    {"role": "assistant", "content": "Stan Lee created him."},
    {"role": "user", "content": "describe the lazy dog, plants & light"},
]
OPEN = [*SHORT, {"role": "assistant", "content": "Stan Lee is"}]
CHATS = [SHORT, LONG, OPEN]
GREEDY = {"do_sample": False, "max_new_tokens": 7}

Pipelines = tuple[Any, Any]


@pytest.fixture(scope="module")
def pair(phimoe: Path) -> Pipelines:
    """Our pipeline and theirs."""
    theirs = transformers.pipeline("text-generation", str(phimoe), device="cpu")
    return pipeline("text-generation", phimoe, device="cpu"), theirs


@pytest.fixture(scope="module")
def ours(pair: Pipelines) -> Any:
    return pair[0]


@needs_4
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_full_text": False},
        {"return_full_text": True},
        {"return_text": True},
        {"return_tensors": True},
        {"clean_up_tokenization_spaces": False},
        {"skip_special_tokens": False},
        {"num_beams": 3, "num_return_sequences": 2},
        {"prefix": "summarize: "},
        {"add_special_tokens": False},
        {"repetition_penalty": 2.0, "min_new_tokens": 5},
        {"temperature": 0.0},
    ],
    ids=str,
)
def test_results(options: dict[str, Any], pair: Pipelines) -> None:
    options = {**GREEDY, **options}
    mine, theirs = pair
    answers = mine(SENTENCES, **options)
    assert answers == theirs(SENTENCES, **options)
    assert [len(answer) for answer in answers] == [options.get("num_return_sequences", 1)] * len(SENTENCES)
    assert len({str(answer) for answer in answers}) > 1  # what is read matters
    assert mine(SENTENCES[0], **options) == theirs(SENTENCES[0], **options) == answers[0]
    chats = mine(CHATS, **options)
    assert chats == theirs(CHATS, **options)
    for chat, answer in zip(CHATS, chats, strict=True):
        assert mine(chat, **options) == theirs(chat, **options) == answer


@needs_4
@pytest.mark.parametrize("inputs", [SENTENCES[1], SHORT, OPEN], ids=["text", "chat", "open"])
def test_seeded_samples(inputs: Any, pair: Pipelines) -> None:
    """Sampling is what happens by default."""
    results = []
    for write in pair:
        torch.manual_seed(5)
        results.append([write(inputs, max_new_tokens=12), write(inputs, max_new_tokens=12)])
    assert results[0] == results[1]
    assert results[0][0] != results[0][1]


def test_ids_in_both_versions(pair: Pipelines) -> None:
    options = {**GREEDY, "return_tensors": True}
    for inputs in (SENTENCES[0], SHORT, LONG, OPEN):
        assert pair[0](inputs, **options) == pair[1](inputs, **options)


def test_the_answer_joins_the_messages(ours: Any) -> None:
    before = copy.deepcopy(CHATS)
    (answer,) = ours(SHORT, **GREEDY)
    new = ours(SHORT, return_full_text=False, **GREEDY)[0]["generated_text"]
    assert answer["generated_text"] == [*SHORT, {"role": "assistant", "content": new}]
    (answer,) = ours(OPEN, **GREEDY)
    assert answer["generated_text"][:-1] == SHORT
    assert answer["generated_text"][-1]["content"].startswith("Stan Lee is")
    assert answer["generated_text"][-1]["content"] != "Stan Lee is"
    (answered,) = ours(OPEN, continue_final_message=False, **GREEDY)
    assert answered["generated_text"][:-1] == OPEN
    (continued,) = ours(SHORT, continue_final_message=True, **GREEDY)
    assert continued["generated_text"][0]["content"].startswith(SHORT[0]["content"])
    assert len(continued["generated_text"]) == 1
    assert before == CHATS


@pytest.mark.parametrize("inputs", [SENTENCES, CHATS], ids=["texts", "chats"])
@pytest.mark.parametrize(
    "options", [{}, {"return_tensors": True}, {"num_beams": 2, "num_return_sequences": 2}], ids=str
)
def test_a_batch_is_its_rows(inputs: list[Any], options: dict[str, Any], phimoe: Path) -> None:
    """Padding is on the left, whatever the tokenizer's side; and it is in no result."""
    model = seq2seq_zoo.PhimoeForCausalLM.from_pretrained(phimoe, dtype=torch.float64)
    tokenizer = seq2seq_zoo.AutoTokenizer.from_pretrained(phimoe, padding_side="right")
    write = pipeline("text-generation", model, tokenizer=tokenizer)
    alone = [write(one, **GREEDY, **options) for one in inputs]
    for size in (1, 2, len(inputs)):
        assert write(inputs, batch_size=size, **GREEDY, **options) == alone
        assert list(write(iter(inputs), batch_size=size, **GREEDY, **options)) == alone
    assert tokenizer.padding_side == "right"


def test_rows_end_at_their_end(ours: Any) -> None:
    """What ends a text is the last of its ids, though another text of the batch goes on."""
    longest = [answer["generated_token_ids"] for (answer,) in ours(SENTENCES, return_tensors=True, **GREEDY)]
    prompts = [ours.tokenizer(text)["input_ids"] for text in SENTENCES]
    end = longest[0][len(prompts[0]) + 2]
    cut = ours(SENTENCES, return_tensors=True, batch_size=5, eos_token_id=end, **GREEDY)
    for ids, prompt, (answer,) in zip(longest, prompts, cut, strict=True):
        new = ids[len(prompt) :]
        expected = new[: new.index(end) + 1] if end in new else new
        assert answer["generated_token_ids"] == prompt + expected


def test_an_iterator_is_read_as_it_is_used(ours: Any) -> None:
    read: list[str] = []

    def texts() -> Iterator[str]:
        for text in SENTENCES:
            read.append(text)
            yield text

    answers = ours(texts(), batch_size=2, **GREEDY)
    assert read == []
    assert next(answers) == ours(SENTENCES[0], **GREEDY)
    assert read == SENTENCES[:2]


def test_an_empty_text(ours: Any, pair: Pipelines) -> None:
    assert ours([], **GREEDY) == []
    if MAJOR == 4:
        assert ours("", **GREEDY) == pair[1]("", **GREEDY)
    assert ours(["", "a"], batch_size=2, **GREEDY) == [ours("", **GREEDY), ours("a", **GREEDY)]
    write = pipeline("text-generation", copy.copy(ours.model), tokenizer=copy.copy(ours.tokenizer))
    write.tokenizer._roles = {**write.tokenizer._roles, "bos_token": None}
    write.model.generation_config = GenerationConfig(eos_token_id=2)
    with pytest.raises(UsageError, match="there is no bos_token"):
        write("", **GREEDY)


def test_prompts_that_are_too_long(ours: Any, phimoe: Path, pair: Pipelines) -> None:
    text = " ".join(SENTENCES * 2)
    ids = ours.tokenizer(text)["input_ids"]
    assert len(ids) > 64
    with pytest.raises(ValueError, match="max_new_tokens is 7"):
        ours(text, **GREEDY)
    (answer,) = ours(text, handle_long_generation="hole", return_tensors=True, **GREEDY)
    assert answer["generated_token_ids"][:57] == ids[-57:]
    assert 58 <= len(answer["generated_token_ids"]) <= 64
    (answer,) = ours(
        text, truncation=True, tokenizer_encode_kwargs={"max_length": 9}, return_tensors=True, **GREEDY
    )
    assert answer["generated_token_ids"][:9] == ids[:9]
    assert len(answer["generated_token_ids"]) <= 16
    with pytest.raises(UsageError, match="100 new tokens leave no room"):
        ours(text, handle_long_generation="hole", do_sample=False, max_new_tokens=100)
    if MAJOR == 4:
        limited = [copy.copy(write.tokenizer) for write in pair]
        for tokenizer in limited:
            tokenizer.model_max_length = 30
        mine = pipeline("text-generation", pair[0].model, tokenizer=limited[0])
        theirs = transformers.pipeline("text-generation", pair[1].model, tokenizer=limited[1], device="cpu")
        options = {**GREEDY, "handle_long_generation": "hole", "return_full_text": False}
        assert mine(text, **options) == theirs(text, **options)


def test_a_stop_sequence_ends_the_answer(ours: Any) -> None:
    whole = ours("the quick", return_full_text=False, **{**GREEDY, "max_new_tokens": 20})[0]["generated_text"]
    stop = whole[4:6]
    for given in (stop, [stop, "never found"]):
        (answer,) = ours(
            "the quick", stop_sequence=given, return_full_text=False, **{**GREEDY, "max_new_tokens": 20}
        )
        assert stop in answer["generated_text"]
        assert len(answer["generated_text"]) < len(whole)
        assert whole.startswith(answer["generated_text"])


def test_lengths_do_not_count_the_prefix(ours: Any) -> None:
    prefix, text = "summarize: ", "the quick"
    prompt = ours.tokenizer(prefix + text)["input_ids"]
    counted = len(ours.tokenizer(prefix, add_special_tokens=False)["input_ids"])
    options = {"do_sample": False, "return_tensors": True, "suppress_tokens": [2]}
    for length in (len(prompt), len(prompt) + 3):
        (answer,) = ours(text, prefix=prefix, max_length=length, **options)
        assert answer["generated_token_ids"][: len(prompt)] == prompt
        assert len(answer["generated_token_ids"]) == length + counted
    (answer,) = ours(text, prefix=prefix, max_new_tokens=4, **options)
    assert len(answer["generated_token_ids"]) == len(prompt) + 4


def test_options_of_the_template(phimoe: Path) -> None:
    tokenizer = seq2seq_zoo.AutoTokenizer.from_pretrained(
        phimoe, chat_template="{{ mood }}{{ messages[0].content }}"
    )
    write = pipeline("text-generation", phimoe, tokenizer=tokenizer, device="cpu")
    (answer,) = write(SHORT, tokenizer_encode_kwargs={"mood": "the lazy dog "}, return_tensors=True, **GREEDY)
    expected = tokenizer("the lazy dog " + SHORT[0]["content"])["input_ids"]
    assert answer["generated_token_ids"][: len(expected)] == expected


def test_a_streamer_sees_the_answer(ours: Any, capsys: pytest.CaptureFixture[str]) -> None:
    streamer = TextStreamer(ours.tokenizer, skip_special_tokens=True)
    ours("the quick", streamer=streamer, **GREEDY)
    ids = ours("the quick", return_tensors=True, **GREEDY)[0]["generated_token_ids"]
    assert capsys.readouterr().out == ours.tokenizer.decode(ids, skip_special_tokens=True) + "\n"


def test_where_options_come_from(phimoe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(phimoe, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_sample": False, "max_new_tokens": 3}))
    write = pipeline("text-generation", folder, device="cpu")
    assert (write.option("do_sample"), write.option("max_new_tokens"), write.option("temperature")) == (
        False,
        3,
        0.7,
    )
    assert write("a") == write("a", do_sample=False, max_new_tokens=3)
    write = pipeline("text-generation", phimoe, device="cpu", top_k=7)
    assert write.option("do_sample") is True
    assert (write.option("top_k"), write.option("max_new_tokens")) == (7, 256)
    longest = write("a", do_sample=False, max_length=12, return_tensors=True)[0]["generated_token_ids"]
    assert len(longest) <= 12


def causal_models(phimoe: Path, mvp: Path) -> Iterator[tuple[str, Any, Any]]:
    """A model of each family that goes on with a text, and a tokenizer."""
    tokenizer = seq2seq_zoo.AutoTokenizer.from_pretrained(mvp)
    size = len(tokenizer)
    bert = seq2seq_zoo.BertGenerationConfig(
        vocab_size=size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=20,
        max_position_embeddings=64,
        is_decoder=True,
    )
    mega = seq2seq_zoo.MegaConfig(
        vocab_size=size,
        hidden_size=16,
        num_hidden_layers=2,
        intermediate_size=12,
        shared_representation_size=8,
        nffn_hidden_size=24,
        ema_projection_size=4,
        bidirectional=False,
        is_decoder=True,
    )
    mvp_config = seq2seq_zoo.MvpConfig.from_pretrained(mvp, use_prompt=False)
    for name, config in (
        ("BertGenerationDecoder", bert),
        ("MegaForCausalLM", mega),
        ("MvpForCausalLM", mvp_config),
    ):
        model = getattr(seq2seq_zoo, name)(config).double().eval()
        randomise(model, seed=4, scale=0.4)
        yield name, model, tokenizer
    yield (
        "PhimoeForCausalLM",
        seq2seq_zoo.PhimoeForCausalLM.from_pretrained(phimoe, dtype=torch.float64),
        seq2seq_zoo.AutoTokenizer.from_pretrained(phimoe),
    )


def test_every_causal_model(phimoe: Path, mvp: Path) -> None:
    """A batch of prompts, and what generate writes on each by itself."""
    for name, model, tokenizer in causal_models(phimoe, mvp):
        write = pipeline("text-generation", model, tokenizer=tokenizer, eos_token_id=2, pad_token_id=1)
        answers = write(SENTENCES[:3], batch_size=3, return_tensors=True, **GREEDY)
        for text, (answer,) in zip(SENTENCES, answers, strict=False):
            inputs = {
                k: v for k, v in tokenizer([text], return_tensors="pt").items() if k != "token_type_ids"
            }
            expected = model.generate(**inputs, eos_token_id=2, pad_token_id=1, **GREEDY)[0].tolist()
            assert answer["generated_token_ids"] == expected, name
        texts = write(SENTENCES[:3], batch_size=2, **GREEDY)
        assert all(a["generated_text"].startswith(t) for t, (a,) in zip(SENTENCES, texts, strict=False))


def test_a_task_is_found(phimoe: Path, ours: Any) -> None:
    found = pipeline(model=phimoe, device="cpu")
    assert found.task == "text-generation"
    assert found("a", **GREEDY) == ours("a", **GREEDY)
    assert pipeline(model=ours.model, tokenizer=ours.tokenizer).task == "text-generation"


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (
        "a",
        {"return_full_text": True, "return_tensors": True},
        "return_full_text and return_tensors are given",
    ),
    ("a", {"return_full_text": True, "return_text": True}, "return_full_text and return_text are given"),
    ("a", {"return_text": False}, "nothing would be returned"),
    ("a", {"handle_long_generation": "cut"}, "handle_long_generation is 'cut'"),
    ("a", {"prefix": 3}, "prefix is 3"),
    ("a", {"tokenizer_encode_kwargs": 3}, "tokenizer_encode_kwargs is 3"),
    ("a", {"continue_final_message": "yes"}, "continue_final_message is 'yes'"),
    ("a", {"max_new_token": 3}, "no option 'max_new_token'.*max_new_tokens"),
    ("a", {"batch_size": 0}, "batch_size is 0"),
    (3, {}, "inputs is a int"),
    ([3], {}, "inputs hold 3"),
    ([["a"]], {}, "inputs hold ..a..; each of them must be a text, or a conversation"),
    ([{"role": "user"}], {}, "a message is .*'role' and 'content'"),
    ([SHORT, [{"content": "a"}]], {}, "a message is"),
    ([SHORT[0], "a"], {}, "a message is 'a'"),
]


@pytest.mark.parametrize(("inputs", "options", "message"), REFUSED, ids=str)
def test_refusals(inputs: Any, options: dict[str, Any], message: str, ours: Any) -> None:
    with pytest.raises(UsageError, match=message):
        ours(inputs, **{**GREEDY, **options})


def test_a_conversation_needs_a_template(phimoe: Path) -> None:
    tokenizer = seq2seq_zoo.AutoTokenizer.from_pretrained(phimoe)
    tokenizer.chat_template = None
    with pytest.raises(seq2seq_zoo.TokenizerError, match="no chat_template"):
        pipeline("text-generation", phimoe, tokenizer=tokenizer, device="cpu")(SHORT)


# ---- where the oracle is wrong (tests/DIVERGENCES.md) ----


@needs_4
def test_the_oracle_goes_on_behind_padding(pair: Pipelines) -> None:
    mine, theirs = pair
    right = copy.copy(theirs.tokenizer)
    right.padding_side = "right"
    theirs = transformers.pipeline("text-generation", theirs.model, tokenizer=right, device="cpu")
    options = {**GREEDY, "return_full_text": False}
    alone = [theirs(text, **options) for text in SENTENCES]
    assert alone == mine(SENTENCES, batch_size=5, **options)
    assert alone != theirs(SENTENCES, batch_size=5, **options)


def test_the_oracle_returns_padding(pair: Pipelines) -> None:
    options = {**GREEDY, "return_tensors": True, "batch_size": 2}
    mine, theirs = (
        write(["the quick", SENTENCES[0]], **options)[0][0]["generated_token_ids"] for write in pair
    )
    assert theirs[: len(theirs) - len(mine)] == [2] * (len(theirs) - len(mine))
    assert theirs != mine == pair[0]("the quick", **GREEDY, return_tensors=True)[0]["generated_token_ids"]


@needs_4
def test_the_oracle_overrides_what_checkpoint_and_user_say(phimoe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(phimoe, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_sample": False}))
    theirs = transformers.pipeline("text-generation", str(folder), device="cpu")
    assert theirs.generation_config.do_sample is True
    ids = theirs("the", do_sample=False, max_length=9, suppress_tokens=[2], return_tensors=True)
    assert len(ids[0]["generated_token_ids"]) > 9
    ours = pipeline("text-generation", folder, device="cpu")
    assert ours.option("do_sample") is False
    ids = ours("the", max_length=9, suppress_tokens=[2], return_tensors=True)
    assert len(ids[0]["generated_token_ids"]) == 9


@needs_4
def test_the_oracle_stops_at_any_token_of_a_stop_sequence(pair: Pipelines) -> None:
    mine, theirs = pair
    options = {"do_sample": False, "max_new_tokens": 20, "return_full_text": False}
    whole = theirs("the quick", **options)[0]["generated_text"]
    new = theirs.tokenizer.encode(whole[6:8], add_special_tokens=False)
    stop = mine.tokenizer.decode(new) + "§"  # never written as a whole
    assert mine("the quick", stop_sequence=stop, **options)[0]["generated_text"] == whole
    assert len(theirs("the quick", stop_sequence=stop, **options)[0]["generated_text"]) < len(whole)


@needs_4
def test_the_oracle_fails_on_no_texts(pair: Pipelines) -> None:
    assert pair[0]([]) == []
    with pytest.raises(IndexError):
        pair[1]([])


# ---- the command ----


RUN = ["run", "--task", "text-generation", "--device", "cpu", "--no-do-sample", "--max-new-tokens", "7"]


def lines(texts: list[str]) -> str:
    return "".join(" ".join(text.splitlines()) + "\n" for text in texts)


@pytest.mark.parametrize("further", [[], ["--batch-size", "2"], ["--num-beams", "2"]], ids=str)
@pytest.mark.parametrize("chat", [True, False])
def test_the_command(
    chat: bool, further: list[str], phimoe: Path, ours: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*RUN, "--model", str(phimoe), *further, *([] if chat else ["--no-chat"]), *SENTENCES]
    assert main(arguments) == 0
    inputs: list[Any] = [[{"role": "user", "content": text}] for text in SENTENCES] if chat else SENTENCES
    beams = {"num_beams": 2} if "--num-beams" in further else {}
    answers = ours(inputs, return_full_text=not chat, **GREEDY, **beams)
    assert capsys.readouterr() == (lines([answer["generated_text"] for (answer,) in answers]), "")


def test_the_system_message(phimoe: Path, ours: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--model", str(phimoe), "--system", "the quick brown fox", SENTENCES[1]]) == 0
    chat = [{"role": "system", "content": "the quick brown fox"}, {"role": "user", "content": SENTENCES[1]}]
    assert capsys.readouterr().out == lines(
        [ours(chat, return_full_text=False, **GREEDY)[0]["generated_text"]]
    )
    assert main([*RUN[:2], "summarization", "--model", str(phimoe), "--system", "a", "b"]) == 2
    assert "--chat and --system are for text-generation" in capsys.readouterr().err


def test_an_answer_appears_as_it_grows(phimoe: Path, ours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[int, str]] = []
    steps = []

    class Out:
        def write(self, text: str) -> int:
            written.append((len(steps), text))
            return len(text)

        def flush(self) -> None: ...

    put = LineStreamer.put
    monkeypatch.setattr(LineStreamer, "put", lambda self, value: (steps.append(1), put(self, value))[1])
    monkeypatch.setattr(sys, "stdout", Out())
    assert main([*RUN[:-1], "30", "--model", str(phimoe), "--no-chat", SENTENCES[0]]) == 0
    assert len(steps) > 10
    assert written[0] == (1, SENTENCES[0])  # the prompt, before any token
    assert len({step for step, _ in written}) > 3
    whole = ours(SENTENCES[0], do_sample=False, max_new_tokens=30)[0]["generated_text"]
    assert "".join(text for _, text in written) == lines([whole])


@pytest.mark.parametrize(
    ("tokens", "shown"),
    [
        (["▁un", "break", "able", "▁glass", "."], [" unbreakable", " glass."]),
        (["▁do", "▁n't", "▁go", "▁!"], [" don't", " go!"]),
        (["a", "<0x0A>", "<0x0A>", "b", "▁c", "<0x0A>"], ["a  b", " c"]),
        (["<0xE4>", "<0xB8>", "<0x89>", "<0xE7>", "<0x99>", "<0xBE>"], ["三", "百"]),
        (["▁x", "▁'", "▁y"], [" x", "'y"]),
        (["<0x0A>", "<0x0A>"], []),
        ([], []),
    ],
    ids=str,
)
def test_what_is_shown_does_not_change_any_more(tokens: list[str], shown: list[str], phimoe: Path) -> None:
    backend = json.loads((phimoe / "tokenizer.json").read_text())
    vocab = backend["model"]["vocab"]
    for token in tokens:
        vocab.setdefault(token, len(vocab) + 100)
    backend["added_tokens"] = [t for t in backend["added_tokens"] if t["id"] < 3]
    tokenizer = seq2seq_zoo.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(backend))
    )
    ids = [vocab[token] for token in tokens]
    pieces: list[str] = []
    streamer = LineStreamer(tokenizer, pieces.append, clean_up_tokenization_spaces=True)
    for _ in range(2):  # one streamer serves one answer after the other
        streamer.put(torch.tensor([[1]]))
        for index in ids:
            streamer.put(torch.tensor([index]))
        streamer.end()
        assert pieces == shown
        text = tokenizer.decode([1, *ids], clean_up_tokenization_spaces=True)[len(tokenizer.decode([1])) :]
        assert "".join(pieces) == " ".join(text.splitlines()).rstrip()
        pieces.clear()
