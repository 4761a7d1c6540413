"""Where the oracle's pipeline is wrong: what it does, and what ours does instead (tests/DIVERGENCES.md)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from seq2seq_zoo import UsageError, pipeline
from tests.front.conftest import NO_END, SENTENCES
from tests.oracle import needs_4

pytestmark = needs_4


def test_the_oracle_overrides_what_checkpoint_and_user_say(mt5: Path, tmp_path: Path) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(mt5, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_beams": 2}))
    path = folder / "config.json"
    params = {"summarization": {"prefix": "summarize: ", "max_length": 7, "num_beams": 3}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task_specific_params": params}))
    options = {"return_tensors": True, **NO_END}
    key = "summary_token_ids"

    # the checkpoint's beams lose to the task's default, against the documentation
    theirs = transformers.pipeline("text2text-generation", str(folder), device="cpu")
    assert theirs.generation_config.num_beams == 4

    # a length given to the call loses to the default of 256
    assert len(theirs("a", max_length=9, **options)[0]["generated_token_ids"]) == 257

    # the task's length loses to that default too, but it wins over one given to the pipeline
    theirs = transformers.pipeline("summarization", str(folder), device="cpu")
    assert len(theirs("a", **options)[0][key]) == 257
    theirs = transformers.pipeline("summarization", str(folder), device="cpu", max_length=9, num_beams=2)
    assert len(theirs("a", **options)[0][key]) == 7
    assert theirs.generation_config.num_beams == 3

    ours = pipeline("summarization", folder, device="cpu")
    assert len(ours("a", **options)[0][key]) == 7
    assert len(ours("a", max_length=9, **options)[0][key]) == 9
    ours = pipeline("summarization", folder, device="cpu", max_length=9)
    assert len(ours("a", **options)[0][key]) == 9


def test_the_oracle_takes_the_prefix_out_of_the_config(mt5: Path) -> None:
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(mt5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(mt5)
    model.config.task_specific_params = {"summarization": {"prefix": "summarize: "}}
    prefixes = [transformers.pipeline("summarization", model, tokenizer=tokenizer).prefix for _ in range(2)]
    assert prefixes == ["summarize: ", None]


def test_the_oracle_loses_texts_of_nested_lists(mt5: Path, ours: Any) -> None:
    theirs = transformers.pipeline("text2text-generation", str(mt5), device="cpu")
    assert len(theirs([SENTENCES], max_new_tokens=3)[0]) == 1
    with pytest.raises(UsageError, match="inputs hold a list"):
        ours([SENTENCES])
