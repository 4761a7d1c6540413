"""tools/parity.py: both libraries on the same text, on tiny checkpoints of every family."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import seq2seq_zoo
from tests.models import test_bert_generation_parity as bert
from tests.models import test_mt5_parity as mt5
from tests.models import test_mvp_parity as mvp
from tests.oracle import MAJOR, randomise
from tests.structure.package import ROOT
from tools import parity

transformers = pytest.importorskip("transformers")

MEGA = {"vocab_size": 61, "hidden_size": 12, "num_hidden_layers": 2, "intermediate_size": 10}
MEGA |= {"ema_projection_size": 3, "shared_representation_size": 6, "nffn_hidden_size": 14}
PHIMOE = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 2}
PHIMOE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "pad_token_id": 0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Mvp": ("MvpConfig", mvp.SIZE),
    "MT5": ("MT5Config", mt5.SIZE),
    "Mega": ("MegaConfig", MEGA),
    "Phimoe": ("PhimoeConfig", PHIMOE),
    "BertGeneration": ("BertGenerationConfig", bert.SIZE),
}
CLASSES = [
    *("MvpModel", "MvpForConditionalGeneration", "MvpForSequenceClassification", "MvpForQuestionAnswering"),
    *("MvpForCausalLM", "MT5Model", "MT5ForConditionalGeneration", "MT5EncoderModel"),
    *("MT5ForSequenceClassification", "MT5ForTokenClassification", "MT5ForQuestionAnswering"),
    *("MegaModel", "MegaForMaskedLM", "MegaForSequenceClassification", "MegaForMultipleChoice"),
    *("MegaForTokenClassification", "MegaForQuestionAnswering", "PhimoeModel", "PhimoeForCausalLM"),
    *("PhimoeForSequenceClassification", "BertGenerationEncoder", "BertGenerationDecoder"),
]


def checkpoint(name: str, folder: Path) -> Path:
    """A tiny random checkpoint of a class."""
    config, size = next(found for family, found in FAMILIES.items() if name.startswith(family))
    options = {"is_decoder": True} if name in ("MvpForCausalLM", "BertGenerationDecoder") else {}
    torch.manual_seed(0)
    model = getattr(seq2seq_zoo, name)(getattr(seq2seq_zoo, config)(**{**size, **options}))
    randomise(model)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", CLASSES)
def test_every_class(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = parity.main([str(checkpoint(name, tmp_path))])
    out, err = capsys.readouterr()
    if MAJOR == 5 and name.startswith("Mega"):
        assert (code, out) == (parity.NOTHING, "")
        assert f"transformers {transformers.__version__} has no {name}; 4.57.6 is the last" in err
        return
    assert code == parity.WITHIN, out + err
    lines = out.splitlines()
    assert f"as {name} and {name}, float64; random ids" in lines[0]
    layers = [line for line in lines if " layer 2 " in line or line.startswith("layer 2 ")]
    halves = 2 if name.startswith(("Mvp", "MT5")) and name not in ONE_STACK else 1
    assert len(layers) == halves
    assert lines[-1] == "all within the tolerance"
    assert all(float(line.split()[-1]) <= 1e-9 for line in lines[2:-1])


ONE_STACK = ("MvpForCausalLM", "MT5EncoderModel", "MT5ForTokenClassification")


def test_the_bundled_pair_and_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    text = "ana likes tea . ana likes milk ."
    assert parity.main(["bundled:bert2bert", "--text", text]) == parity.WITHIN
    out = capsys.readouterr().out
    assert "as EncoderDecoderModel and EncoderDecoderModel" in out
    count = len(seq2seq_zoo.AutoTokenizer.from_pretrained("bundled:bert2bert")(text).input_ids)
    assert f"{count} token ids, the same from both tokenizers" in out
    assert "decoder layer 2" in out


def test_a_bart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = {key: value for key, value in mvp.SIZE.items() if not key.startswith("prompt")}
    transformers.BartForConditionalGeneration(transformers.BartConfig(**size)).save_pretrained(tmp_path)
    assert parity.main([str(tmp_path)]) == parity.WITHIN
    assert "as MvpForConditionalGeneration and BartForConditionalGeneration" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_dtypes(dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(checkpoint("MvpModel", tmp_path))
    assert parity.main([folder, "--dtype", dtype, "--ids", "5 17, 2"]) == parity.WITHIN
    assert f"{dtype}; 3 token ids as given" in capsys.readouterr().out
    assert parity.main([folder, "--dtype", dtype, "--tolerance", "1e-30"]) == parity.APART
    assert "the first: encoder layer 1" in capsys.readouterr().out


def test_texts_that_are_too_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a text that one of the two cannot read whole both get a part, which keeps its end."""
    bart = str(checkpoint("MvpForSequenceClassification", tmp_path / "mvp"))
    longest = mvp.SIZE["max_position_embeddings"]
    end = mvp.SIZE.get("eos_token_id", 2)
    ids = " ".join(["5"] * longest + [str(end)])
    assert parity.main([bart, "--ids", ids]) == parity.WITHIN
    assert f"{longest + 1} token ids as given, cut to the {longest} that both" in capsys.readouterr().out
    pair = "bundled:bert2bert"
    assert parity.main([pair, "--text", "ana likes tea . " * 20]) == parity.WITHIN
    assert "cut to the 48 that both can read" in capsys.readouterr().out


@pytest.mark.skipif(MAJOR == 5, reason="transformers 5.x has no MEGA")
@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"use_chunking": True, "chunk_size": 4}, ", cut to the 8 that both can read"),
        ({"use_chunking": True, "chunk_size": 16}, ", repeated to the 16 that both can read"),
        ({"use_chunking": True, "chunk_size": 16, "is_decoder": False}, ""),
        ({"max_positions": 6, "relative_positional_bias": "simple"}, ", cut to the 6 that both can read"),
        ({"chunk_size": 7, "relative_positional_bias": "simple"}, ", cut to the 7 that both can read"),
        ({"max_positions": 6}, ""),
    ],
)
def test_a_mega_reads_whole_chunks(
    field: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """transformers reads no others beyond the first, and in a decoder not even that."""
    config = seq2seq_zoo.MegaConfig(**{**MEGA, "is_decoder": True, "bidirectional": False, **field})
    torch.manual_seed(0)
    name = "MegaForCausalLM" if config.is_decoder else "MegaForTokenClassification"
    model = getattr(seq2seq_zoo, name)(config)
    randomise(model)
    model.save_pretrained(tmp_path)
    assert parity.main([str(tmp_path), "--ids", "5 6 7 8 9 10 11 12 13 14"]) == parity.WITHIN
    assert f"10 token ids as given{said}\n" in capsys.readouterr().out
    assert parity.main([str(tmp_path)]) == parity.WITHIN
    capsys.readouterr()


def test_heads_that_the_checkpoint_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both libraries start them at random, each in its way: that is no error of a layer."""
    for name, head in (("PhimoeForCausalLM", "score.weight"), ("MT5ForConditionalGeneration", "classifier")):
        other = {"score.weight": "PhimoeForSequenceClassification"}.get(head, "MT5ForTokenClassification")
        folder = checkpoint(name, tmp_path / name)
        assert parity.main([str(folder), "--class", other]) == parity.WITHIN
        title = capsys.readouterr().out.splitlines()[0]
        assert f"not in the checkpoint, of the same random start in both: {head}" in title


def test_a_layer_that_differs_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their loader is led to a copy with another second layer."""
    ours = checkpoint("BertGenerationEncoder", tmp_path / "ours")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "config.json").write_bytes((ours / "config.json").read_bytes())
    tensors = load_file(ours / "model.safetensors")
    tensors["encoder.layer.1.intermediate.dense.bias"] += 0.5
    save_file(tensors, theirs / "model.safetensors", {"format": "pt"})
    load = transformers.BertGenerationEncoder.from_pretrained
    monkeypatch.setattr(
        transformers.BertGenerationEncoder,
        "from_pretrained",
        lambda where, **options: load(str(theirs), **options),
    )
    assert parity.main([str(ours)]) == parity.APART
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "3 of 5 apart, the first: layer 2"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "arguments are required: WHERE"),
        (["bundled:mt5", "--dtype", "int8"], "invalid choice"),
        (["bundled:none"], "not among the bundled checkpoints"),
        (["bundled:mt5", "--text", "a", "--ids", "5"], "both of --text and --ids"),
        (["bundled:mt5", "--ids", "five"], "--ids is 'five'; it must be whole numbers"),
        (["bundled:mt5", "--class", "MT5ForNothing"], "the class is 'MT5ForNothing'; it must be one of"),
        (["nowhere/to/be/found"], "neither an existing folder"),
    ],
)
def test_bad_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parity.main(arguments) == parity.NOTHING
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


def test_a_text_without_a_tokenizer_and_a_plain_bert(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint("BertGenerationEncoder", tmp_path)
    assert parity.main([str(folder), "--text", "words"]) == parity.NOTHING
    assert "--text needs a tokenizer" in capsys.readouterr().err
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    assert parity.main([str(folder)]) == parity.NOTHING
    assert "plain BERT is read as BertGeneration" in capsys.readouterr().err


def test_nothing_stays_lifted() -> None:
    before = (torch.Tensor.float, torch.nn.functional.softmax, torch.get_default_dtype())
    with parity.lifted(torch.float64):
        assert torch.ones(1).float().dtype == torch.float64
    assert (torch.Tensor.float, torch.nn.functional.softmax, torch.get_default_dtype()) == before
    assert torch.ones(1).float().dtype == torch.float32


def test_a_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    figure = tmp_path / "errors.png"
    assert parity.main(["bundled:mt5", "--plot", str(figure)]) == parity.WITHIN
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_the_reader_goes_away(tmp_path: Path) -> None:
    """As in `parity.py WHERE | head -1`: the exit code still tells."""
    folder = checkpoint("BertGenerationEncoder", tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, ROOT / "tools" / "parity.py", folder],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (parity.WITHIN, "")


def test_a_figure_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no layer that differs: the exit code is not that one."""
    target = str(tmp_path / "nowhere" / "errors.png")

    def refuse(*_: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory", target)

    monkeypatch.setattr(parity, "_need", lambda *_: None)
    monkeypatch.setattr(parity, "plot", refuse)
    folder = str(checkpoint("BertGenerationEncoder", tmp_path / "checkpoint"))
    assert parity.main([folder, "--plot", target]) == parity.NOTHING
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "all within the tolerance"
    assert "parity.py: error: [Errno 2] No such file" in err


def test_what_is_not_installed(tmp_path: Path) -> None:
    """As a script, where importing transformers or matplotlib fails."""
    for absent, options, said in (
        ("matplotlib", ["--plot", "x.png"], 'pip install "seq2seq-zoo[plots]"'),
        ("transformers", [], "pip install transformers==4.57.6"),
    ):
        (tmp_path / absent).mkdir()
        (tmp_path / absent / f"{absent}.py").write_text("raise ImportError('not here')")
        done = subprocess.run(
            [sys.executable, ROOT / "tools" / "parity.py", "bundled:mt5", *options],
            env={**os.environ, "PYTHONPATH": str(tmp_path / absent)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == parity.NOTHING
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
