"""Released checkpoints, by the committed lists of their keys, dtypes and shapes: every key has its place."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterable
from types import SimpleNamespace

import pytest
import torch

from seq2seq_zoo.checkpoint import load
from seq2seq_zoo.inspection import Inspection
from seq2seq_zoo.models.auto import family_of
from tests.structure.package import ROOT
from tools import list_released_keys as lists

NAMES = list(lists.RELEASED)
LAYOUTS = [name for name in NAMES if not name.endswith(("-base", "-large", "-xl", "-xxl", "-large-uncased"))]
"""One of each: the others differ in size alone."""
HEADS = {
    *("lm_head.weight", "lm_head.bias", "mlm_head.weight", "mlm_head.bias", "final_logits_bias"),
    *(f"classification_head.{part}.{p}" for part in ("dense", "out_proj") for p in ("weight", "bias")),
}

pytestmark = pytest.mark.filterwarnings("ignore:.*is_decoder=False")


def faults_of(found: Inspection) -> list[str]:
    """What a load would refuse, without its warnings."""
    faults, _ = load._check(found.match, found.plan, found.weights, False)
    return faults


def numbers(found: Inspection, keys: Iterable[str]) -> int:
    """How many numbers the model gets from these keys."""
    keys = set(keys)
    return sum(
        math.prod(shape)
        for link in found.plan.links
        for key, shape in zip(link.keys, link.key_shapes, strict=True)
        if key in keys
    )


def all_numbers(found: Inspection) -> int:
    """How many numbers the model has, in parameters and stored buffers."""
    buffers = [t for t in found.plan.tensors.values() if not isinstance(t, torch.nn.Parameter)]
    return found.parameters + sum(buffer.numel() for buffer in buffers)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("with_leftovers", [True, False])
def test_every_key_is_consumed_once(name: str, with_leftovers: bool) -> None:
    """As the checkpoint's own class; bert's and bart's, which are not ours, as the nearest of ours."""
    found = lists.inspect_list(name, with_leftovers=with_leftovers)
    match = found.match
    taken = [*match.sources.values(), *(copy for _, copy in match.copies), *match.dropped]
    assert sorted(taken) == sorted(found.weights)
    assert match.report.unexpected_keys == []
    assert faults_of(found) == []
    missing = match.report.missing_keys
    assert numbers(found, match.sources) + numbers(found, missing) == all_numbers(found)
    if name == "facebook/bart-large-cnn" or not name.startswith(("facebook/", "google-bert/")):
        assert missing == []
    else:  # BART without a head and BERT become models of ours with one
        assert all(key in ("final_logits_bias", "lm_head.weight", "lm_head.bias") for key in missing)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_class_of_the_family_takes_it(name: str) -> None:
    """Head onto headless and back: the body fits, and what is missing or too much belongs to heads."""
    config = lists.read_list(name)["config"]
    family = family_of(config["model_type"], name)
    for cls in dict.fromkeys((*family.tasks.values(), family.model, family.encoder)):
        if cls is None:
            continue
        found = lists.inspect_list(name, cls)
        assert faults_of(found) == [], cls.__name__
        report = found.match.report
        headed = any(n.startswith("model.") for n in found.plan.tensors)
        ours = {key: n for link in found.plan.links for key in link.keys for n in link.names}
        body = [key for key in report.missing_keys if not headed or ours[key].startswith("model.")]
        assert all("pooler" in key for key in body), cls.__name__
        halves = ("encoder.", "model.encoder.", "decoder.", "model.decoder.")  # a class may have one alone
        assert all(key.startswith(halves) or key in HEADS for key in report.unexpected_keys), cls.__name__


@pytest.mark.parametrize("name", NAMES)
def test_the_lists_are_what_the_oracle_would_save(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    if not transformers.__version__.startswith("4."):
        pytest.skip("the lists are made with transformers 4.57.6, which has all families")
    assert lists.path_of(name).read_text() == lists.text_of(name), "run tools/list_released_keys.py"


def test_lists_that_cannot_be_made_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is no list out of date: the exit code is not that one."""
    for found, said in (
        (None, "transformers is not installed here: pip install transformers==4.57.6"),
        (SimpleNamespace(__version__="5.23.0"), "transformers is 5.23.0; 4.57.6 is the last that has all"),
    ):
        monkeypatch.setitem(sys.modules, "transformers", found)
        for arguments in (["--check"], []):
            with pytest.raises(SystemExit) as end:
                lists.main(arguments)
            assert end.value.code == 2
            assert said in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_the_reader_goes_away() -> None:
    """As in `list_released_keys.py --show NAME | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, ROOT / "tools" / "list_released_keys.py", "--show", "google/mt5-small"],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_folding() -> None:
    tensors = {f"a.{i}.b.{j}.w": "F32 [2]" for i in range(3) for j in range(2)}
    odd = {"a.3.b.0.w": "F32 [3]", "c.1.w": "I64 []", "c.3.w": "I64 []", "d": "BF16 [1, 2]"}
    folded = lists.fold(tensors | odd)
    assert folded == {
        "a.{0..2}.b.{0..1}.w": "F32 [2]",
        "a.3.b.0.w": "F32 [3]",
        "c.1.w": "I64 []",
        "c.3.w": "I64 []",
        "d": "BF16 [1, 2]",
    }
    whole = {key: f"{dtype} {shape}" for key, (dtype, shape) in lists.unfold(folded).items()}
    assert whole == tensors | odd
