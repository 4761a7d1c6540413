"""What holds of a pipeline without an oracle."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import seq2seq_zoo
from seq2seq_zoo import GenerationConfig, UsageError, ZooError, pipeline
from seq2seq_zoo.pipelines.devices import find_device
from tests.front.conftest import NO_END, SENTENCES
from tests.hub_cache import make_hub_cache

NO_ACCELERATOR = pytest.mark.skipif(
    torch.accelerator.is_available(), reason="this machine has an accelerator"
)


@pytest.fixture
def model(mt5: Path) -> Any:
    return seq2seq_zoo.AutoModelForSeq2SeqLM.from_pretrained(mt5)


@pytest.fixture(scope="module")
def tokenizer(mt5: Path) -> Any:
    return seq2seq_zoo.AutoTokenizer.from_pretrained(mt5)


def length(answers: Any) -> int:
    """The tokens of the first answer, its start token included."""
    return len(answers[0]["generated_token_ids"])


# ---- inputs and results ----


def test_a_stream_is_read_as_far_as_needed(ours: Any) -> None:
    taken = []

    def texts() -> Iterator[str]:
        for text in SENTENCES:
            taken.append(text)
            yield text

    answers = ours(texts(), batch_size=2, max_new_tokens=2)
    assert taken == []
    next(answers)
    assert taken == SENTENCES[:2]
    next(answers)
    assert taken == SENTENCES[:2]
    assert len(list(answers)) == 3
    assert taken == SENTENCES


def test_datasets_tuples_and_files(ours: Any, tmp_path: Path) -> None:
    class Dataset:
        def __len__(self) -> int:
            return len(SENTENCES)

        def __getitem__(self, index: int) -> str:
            return SENTENCES[index]

    answers = ours(SENTENCES, max_new_tokens=3)
    assert list(ours(Dataset(), max_new_tokens=3)) == [[answer] for answer in answers]
    assert ours(tuple(SENTENCES), max_new_tokens=3) == answers
    file = tmp_path / "texts"
    file.write_text("\n".join(SENTENCES), encoding="utf-8")
    with file.open(encoding="utf-8") as lines:
        assert len(list(ours(lines, max_new_tokens=3))) == len(SENTENCES)


def test_an_empty_text_is_a_text(ours: Any) -> None:
    assert ours("", max_new_tokens=3) == ours(["", SENTENCES[0]], batch_size=2, max_new_tokens=3)[:1]


@pytest.mark.parametrize(
    "inputs", [5, None, {"text": "a"}, b"bytes", ["a", 5], ["a", ["b"]], [["a", "b"]]], ids=repr
)
def test_what_is_no_text_is_refused(ours: Any, inputs: Any) -> None:
    with pytest.raises(UsageError, match="must be a text"):
        ours(inputs)


def test_an_output_object_gives_its_texts(ours: Any) -> None:
    answers = ours(SENTENCES, max_new_tokens=3)
    assert ours(SENTENCES, max_new_tokens=3, return_dict_in_generate=True, output_scores=True) == answers


def test_the_tokenizers_padding_reaches_the_model(mt5: Path, ours: Any) -> None:
    left = pipeline("text2text-generation", mt5, tokenizer=copy.copy(ours.tokenizer), device="cpu")
    left.tokenizer.padding_side = "left"
    assert left(SENTENCES, batch_size=5, max_new_tokens=6) == ours(SENTENCES, max_new_tokens=6)


def test_truncation_knows_the_models_positions(mvp: Path) -> None:
    ours = pipeline("text2text-generation", mvp, device="cpu", max_new_tokens=3)
    long = " ".join(SENTENCES)
    with pytest.raises(ValueError, match="max_position_embeddings"):
        ours(long)
    limited = copy.copy(ours.tokenizer)
    limited.model_max_length = 64
    expected = pipeline("text2text-generation", ours.model, tokenizer=limited, max_new_tokens=3)
    assert ours(long, truncation=True) == expected(long, truncation=True)


# ---- which option counts ----


@pytest.mark.parametrize(
    ("checkpoint", "of_task", "built", "called", "tokens"),
    [
        ({}, {}, {}, {}, 257),
        ({"max_length": 9}, {}, {}, {}, 9),
        ({"max_new_tokens": 9}, {}, {}, {}, 10),
        ({"max_length": 20}, {}, {}, {}, 257),  # the default that other writers may store
        ({"max_length": 9}, {"max_length": 7}, {}, {}, 7),
        ({"max_new_tokens": 9}, {"max_length": 7}, {}, {}, 7),
        ({"max_length": 9}, {"max_length": 7}, {"max_length": 5}, {}, 5),
        ({"max_length": 9}, {"max_length": 7}, {"max_new_tokens": 5}, {}, 6),
        ({"max_new_tokens": 9}, {"max_length": 7}, {"max_new_tokens": 5}, {"max_length": 3}, 3),
        ({"max_length": 9}, {"max_length": 7}, {"max_length": 5}, {"max_new_tokens": 1}, 2),
        ({"max_length": 9}, {}, {}, {"max_length": None, "max_new_tokens": None}, 9),
        ({"max_new_tokens": 9}, {}, {"max_length": 5}, {"max_new_tokens": None}, 5),
        ({"max_length": 9}, {}, {}, {"generation_config": GenerationConfig(max_length=4)}, 4),
        ({"max_length": 9}, {}, {"max_length": 5}, {"generation_config": GenerationConfig(num_beams=2)}, 9),
        ({}, {}, {"generation_config": GenerationConfig(max_length=4)}, {"max_length": 6}, 6),
        ({}, {}, {"generation_config": GenerationConfig(max_length=4)}, {}, 4),
    ],
)
def test_lengths_of_all_places(
    model: Any,
    tokenizer: Any,
    checkpoint: dict[str, Any],
    of_task: dict[str, Any],
    built: dict[str, Any],
    called: dict[str, Any],
    tokens: int,
) -> None:
    model.generation_config.update(**checkpoint)
    model.config.task_specific_params = {"text2text-generation": of_task}
    ours = pipeline("text2text-generation", model, tokenizer=tokenizer, **built)
    assert length(ours(SENTENCES[0], return_tensors=True, **NO_END, **called)) == tokens


def test_a_checkpoints_beams_count(model: Any, tokenizer: Any) -> None:
    """The task's four beams are for checkpoints that do not say."""
    ours = pipeline("text2text-generation", model, tokenizer=tokenizer, max_new_tokens=8)
    four = ours(SENTENCES)
    assert four == ours(SENTENCES, num_beams=4)
    for beams in (1, 2):
        model.generation_config.num_beams = beams
        assert ours(SENTENCES) == ours(SENTENCES, num_beams=beams) != four


def test_none_turns_an_option_off(model: Any, tokenizer: Any) -> None:
    options = {"tokenizer": tokenizer, "max_new_tokens": 12}
    plain = pipeline("text2text-generation", model, **options)(SENTENCES)
    model.generation_config.no_repeat_ngram_size = 1
    ours = pipeline("text2text-generation", model, **options)
    assert ours(SENTENCES) != plain
    assert ours(SENTENCES, no_repeat_ngram_size=None) == plain


def test_defaults_fit_the_models_positions(mvp: Path) -> None:
    """256 tokens are the task's default; a model of 64 positions writes 64, and says so only if asked."""
    ours = pipeline("text2text-generation", mvp, device="cpu", return_tensors=True, suppress_tokens=[2])
    ours.model.generation_config.forced_eos_token_id = None
    assert length(ours(SENTENCES[0])) == 65
    with pytest.raises(ValueError, match="max_new_tokens is 256"):
        ours(SENTENCES[0], max_new_tokens=256)


def test_stop_strings(model: Any, tokenizer: Any) -> None:
    ours = pipeline("text2text-generation", model, tokenizer=tokenizer, max_new_tokens=12, num_beams=1)
    whole = ours(SENTENCES[1])[0]["generated_text"]
    stop = whole[3:6]
    stopped = ours(SENTENCES[1], stop_strings=[stop])[0]["generated_text"]
    assert stop in stopped
    assert whole.startswith(stopped)
    assert len(stopped) < len(whole)


def test_a_decoder_prompt_is_continued(model: Any, tokenizer: Any) -> None:
    ours = pipeline("text2text-generation", model, tokenizer=tokenizer, return_tensors=True)
    (answer,) = ours(SENTENCES[0], decoder_input_ids=torch.tensor([[0, 7, 8]]), max_new_tokens=2)
    assert answer["generated_token_ids"][:3].tolist() == [0, 7, 8]
    with pytest.raises(UsageError, match="no option 'input_ids'"):
        ours(SENTENCES[0], input_ids=torch.tensor([[1]]))


def test_an_empty_prefix_of_the_task_overrides_the_configs(model: Any, tokenizer: Any) -> None:
    model.config.prefix = "summarize: "
    model.config.task_specific_params = {"translation": {"prefix": ""}}
    assert pipeline("translation", model, tokenizer=tokenizer).prefix == ""
    assert pipeline("summarization", model, tokenizer=tokenizer).prefix == "summarize: "


def test_nothing_of_the_model_changes(model: Any, tokenizer: Any) -> None:
    model.config.task_specific_params = {"summarization": {"prefix": "summarize: ", "num_beams": 2}}
    before = model.config.to_dict(), model.generation_config.to_dict(), dict(vars(model))
    first = pipeline("summarization", model, tokenizer=tokenizer, max_new_tokens=5)
    answers = first(SENTENCES, num_beams=3)
    second = pipeline("summarization", model, tokenizer=tokenizer, max_new_tokens=5)
    assert second.prefix == first.prefix == "summarize: "
    assert second(SENTENCES, num_beams=3) == answers
    assert (model.config.to_dict(), model.generation_config.to_dict(), dict(vars(model))) == before


# ---- how a pipeline is made ----


def test_the_task_may_be_left_open(mt5: Path, model: Any, tokenizer: Any) -> None:
    assert pipeline(model=mt5, device="cpu").task == "text2text-generation"
    assert pipeline(model=model, tokenizer=tokenizer).task == "text2text-generation"
    config = seq2seq_zoo.AutoConfig.from_pretrained(mt5)
    assert pipeline(model=mt5, config=config, device="cpu").task == "text2text-generation"


def test_from_the_hub(mt5: Path, tmp_path: Path, ours: Any) -> None:
    make_hub_cache(tmp_path, "someone/tiny", mt5)
    hub = {"cache_dir": tmp_path, "local_files_only": True, "device": "cpu"}
    assert pipeline("translation", "someone/tiny", **hub)("a", max_new_tokens=4)[0].keys() == {
        "translation_text"
    }
    other = pipeline(
        "text2text-generation", "someone/tiny", device="cpu", model_kwargs=hub | {"device": "cpu"}
    )
    assert other(SENTENCES, max_new_tokens=4) == ours(SENTENCES, max_new_tokens=4)


def test_the_tokenizer_may_be_elsewhere(mt5: Path, tmp_path: Path, ours: Any) -> None:
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        shutil.copy(mt5 / name, tmp_path)
    mine = pipeline("text2text-generation", str(tmp_path), tokenizer=mt5, device="cpu", max_new_tokens=4)
    assert mine(SENTENCES) == ours(SENTENCES, max_new_tokens=4)
    with pytest.raises(ZooError):
        pipeline("text2text-generation", tmp_path, device="cpu")


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": torch.bfloat16},
        {"dtype": "bfloat16"},
        {"torch_dtype": torch.bfloat16},
        {"model_kwargs": {"dtype": "bfloat16"}},
    ],
    ids=str,
)
def test_dtypes(mt5: Path, options: dict[str, Any]) -> None:
    assert pipeline("summarization", mt5, device="cpu", **options).model.dtype == torch.bfloat16


def test_auto_is_the_dtype_of_the_checkpoint(mt5: Path, tmp_path: Path) -> None:
    half = seq2seq_zoo.AutoModelForSeq2SeqLM.from_pretrained(mt5, dtype="bfloat16")
    shutil.copytree(mt5, tmp_path / "half")
    half.save_pretrained(tmp_path / "half")
    assert pipeline("summarization", tmp_path / "half", device="cpu").model.dtype == torch.bfloat16
    assert pipeline("summarization", tmp_path / "half", device="cpu", dtype=None).model.dtype == torch.float32


@NO_ACCELERATOR
@pytest.mark.parametrize("device", [None, 0, 1, -1, "cpu", torch.device("cpu")])
def test_devices_without_an_accelerator(mt5: Path, device: Any) -> None:
    assert pipeline("summarization", mt5, device=device).device == torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "must be a name like 'cpu'"),
        (-2, "must be -1"),
        (1.5, "must be a device"),
        (True, "must be a device"),
        pytest.param("cuda", "no cuda device", marks=NO_ACCELERATOR),
        pytest.param("cuda:1", "no cuda device", marks=NO_ACCELERATOR),
    ],
)
def test_devices_that_are_not_there(mt5: Path, device: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pipeline("summarization", mt5, device=device)


@pytest.mark.parametrize(
    ("device", "found"),
    [
        (None, "cuda"),
        (0, "cuda:0"),
        (1, "cuda:1"),
        (-1, "cpu"),
        ("cpu", "cpu"),
        ("cuda:1", "cuda:1"),
        (2, "this machine has 2 of cuda"),
        ("cuda:2", "this machine has 2 of cuda"),
        ("mps", "no mps device"),
    ],
)
def test_devices_with_two_accelerators(device: Any, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    if " " in found:
        with pytest.raises(UsageError, match=found):
            find_device(device)
    else:
        assert find_device(device) == torch.device(found)


def test_a_model_stays_where_it_is_or_goes_where_it_is_sent(model: Any, tokenizer: Any) -> None:
    model.to("meta")
    assert pipeline(model=model, tokenizer=tokenizer).device.type == "meta"
    other = copy.deepcopy(model).to_empty(device="cpu")
    assert pipeline(model=other, tokenizer=tokenizer, device="meta").device.type == "meta"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "conversation"}, "must be one of text2text-generation, summarization, translation, text"),
        ({"task": "translation_en_de"}, "must be one of text2text-generation"),
        ({"task": 3}, "task is 3; it must be one of"),
        ({"model": None}, "model is None"),
        ({"model": 7}, "model is 7; it must be"),
        ({"num_beam": 2}, "no option 'num_beam' .did you mean 'num_beams'"),
        ({"num_beams": 0}, "num_beams must be an integer"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": True}, "batch_size is True"),
        ({"return_tensors": "pt"}, "return_tensors is 'pt'; it must be True or False"),
        ({"device": 0, "device_map": "auto"}, "give one of them"),
        ({"dtype": "float16", "model_kwargs": {"dtype": "float16"}}, "dtype is given both"),
        ({"dtype": "float16", "torch_dtype": "float16"}, "two names of one argument"),
    ],
    ids=str,
)
def test_arguments_are_refused_before_anything_is_loaded(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        pipeline(**{"task": "summarization", "model": "no/such-model", **arguments})
    assert isinstance(error.value, ZooError)


def test_calls_are_refused_before_anything_is_read(ours: Any) -> None:
    def texts() -> Iterator[str]:
        raise AssertionError("read")
        yield ""

    for options, message in (
        ({"nmu_beams": 2}, "no option 'nmu_beams' .did you mean 'num_beams'"),
        ({"top_p": 2.0}, "top_p must be"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"return_text": False}, "nothing would be returned"),
    ):
        with pytest.raises(ValueError, match=message):
            ours(texts(), **options)


def test_models_that_do_not_fit_are_refused(mvp: Path, model: Any, tokenizer: Any) -> None:
    with pytest.raises(UsageError, match="tokenizer is None; it must be given where model is a MT5For"):
        pipeline("summarization", model)
    with pytest.raises(UsageError, match="tokenizer is a dict"):
        pipeline("summarization", model, tokenizer={})
    with pytest.raises(UsageError, match="dtype concern loading, but model is a MT5ForCond"):
        pipeline("summarization", model, tokenizer=tokenizer, dtype="float16")
    with torch.device("meta"):
        causal = seq2seq_zoo.MvpForCausalLM(seq2seq_zoo.AutoConfig.from_pretrained(mvp))
        encoder = seq2seq_zoo.MT5EncoderModel(model.config)
    with pytest.raises(UsageError, match=r"a MvpForCausalLM; for summarization it must be one of [A-Z]"):
        pipeline("summarization", causal, tokenizer=tokenizer)
    with pytest.raises(UsageError, match="MT5EncoderModel can do none of text2text-generation"):
        pipeline(model=encoder, tokenizer=tokenizer)


def test_batches_need_padding(model: Any, tokenizer: Any) -> None:
    bare = copy.copy(tokenizer)
    bare._roles = {**tokenizer._roles, "pad_token": None}
    ours = pipeline("summarization", model, tokenizer=bare, max_new_tokens=3)
    assert len(ours(SENTENCES)) == len(SENTENCES)
    with pytest.raises(UsageError, match="batch_size is 2, but the tokenizer has no pad_token"):
        ours(SENTENCES, batch_size=2)


def test_the_function_is_not_hidden_by_a_module() -> None:
    import seq2seq_zoo.cli
    import seq2seq_zoo.pipelines

    assert callable(seq2seq_zoo.pipeline)
    assert seq2seq_zoo.pipelines.pipeline is seq2seq_zoo.pipeline
