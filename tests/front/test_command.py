"""The command: what it prints, what it says when something is wrong, and how it ends."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import seq2seq_zoo
from seq2seq_zoo.cli import GENERATION, main
from tests.front.conftest import SENTENCES

ROOT = Path(__file__).parents[2]
RUN = ["run", "--task", "text2text-generation", "--device", "cpu"]
SHORT = ["--max-new-tokens", "5"]


def texts_of(ours: Any, texts: list[str], **options: Any) -> list[str]:
    """What the pipeline writes, a line a result."""
    answers = ours(texts, **{"max_new_tokens": 5, **options})
    flat = [a for answer in answers for a in (answer if isinstance(answer, list) else [answer])]
    return [answer["generated_text"] for answer in flat]


def feed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))


# ---- run ----


def test_arguments(mt5: Path, ours: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--model", str(mt5), *SHORT, *SENTENCES[:3]]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == texts_of(ours, SENTENCES[:3])
    assert err == ""


@pytest.mark.parametrize("batch_size", ["1", "3"])
def test_standard_input(
    mt5: Path,
    ours: Any,
    batch_size: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A line is a text, an empty one too, in UTF-8, with or without an end."""
    texts = [*SENTENCES, "", "Растения"]
    feed(monkeypatch, "\n".join(texts).encode())
    assert main([*RUN, "--model", str(mt5), *SHORT, "--batch-size", batch_size]) == 0
    assert capsys.readouterr().out.splitlines() == texts_of(ours, texts)


def test_no_input_gives_no_output(
    mt5: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    feed(monkeypatch, b"")
    assert main([*RUN, "--model", str(mt5)]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_result_is_printed_before_the_next_text_is_read(mt5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []
    flushed: list[int] = []

    class Out(io.StringIO):
        def write(self, text: str) -> int:
            printed.append(text)
            return len(text)

        def flush(self) -> None:
            flushed.append(sum(text.endswith("\n") for text in printed))

    class In:
        def __iter__(self) -> Iterator[str]:
            for number, text in enumerate(SENTENCES):
                assert flushed[-1:] == ([number] if number else [])
                yield text + "\n"

    monkeypatch.setattr(sys, "stdin", In())
    monkeypatch.setattr(sys, "stdout", Out())
    assert main([*RUN, "--model", str(mt5), *SHORT]) == 0
    assert flushed[-1] == len(SENTENCES)


def test_answers_are_utf8_in_any_locale(mt5: Path, ours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(ours.tokenizer), "decode", lambda *_, **__: "Растения")
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii"))
    assert main([*RUN, "--model", str(mt5), *SHORT, "a"]) == 0
    assert out.getvalue().decode() == "Растения" + os.linesep


def test_line_breaks_in_answers_become_spaces(
    mt5: Path, ours: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(type(ours.tokenizer), "decode", lambda *_, **__: "one\ntwo\r\nthree")
    assert main([*RUN, "--model", str(mt5), *SHORT, "a", "b"]) == 0
    assert capsys.readouterr().out == "one two three\n" * 2


OPTIONS: dict[str, dict[str, Any]] = {
    "--num-beams 2 --length-penalty -1.5 --early-stopping": {
        "num_beams": 2,
        "length_penalty": -1.5,
        "early_stopping": True,
    },
    "--max-length 4": {"max_new_tokens": None, "max_length": 4},
    "--min-length 6 --max-new-tokens 9": {"min_length": 6, "max_new_tokens": 9},
    "--no-repeat-ngram-size 1 --max-new-tokens 9": {"no_repeat_ngram_size": 1, "max_new_tokens": 9},
    "--num-return-sequences 3 --no-early-stopping": {"num_return_sequences": 3, "early_stopping": False},
    "--repetition-penalty 5 --num-beams 1": {"repetition_penalty": 5.0, "num_beams": 1},
    "--do-sample --num-beams 1 --temperature 2 --top-k 9 --top-p 0.8 --seed 3": {
        "do_sample": True,
        "num_beams": 1,
        "temperature": 2.0,
        "top_k": 9,
        "top_p": 0.8,
    },
    "--no-do-sample": {"do_sample": False},
}


@pytest.mark.parametrize("arguments", OPTIONS)
def test_generation_options(mt5: Path, ours: Any, arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = [*([] if "--max" in arguments else SHORT), *arguments.split()]
    assert main([*RUN, "--model", str(mt5), *given, *SENTENCES]) == 0
    torch.manual_seed(3)
    assert capsys.readouterr().out.splitlines() == texts_of(ours, SENTENCES, **OPTIONS[arguments])


def test_every_generation_option_is_tried() -> None:
    tried = {name for options in OPTIONS.values() for name in options}
    assert tried == set(GENERATION)


def test_tasks_types_and_truncation(mvp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "--task", "translation_en_to_de", "--model", str(mvp), "--device", "-1", *SHORT]
    long = " ".join(SENTENCES)
    assert main([*arguments, "--dtype", "float64", "--truncation", long]) == 0
    ours = seq2seq_zoo.pipeline("translation_en_to_de", mvp, device="cpu", dtype="float64")
    (answer,) = ours(long, truncation=True, max_new_tokens=5)
    assert capsys.readouterr().out == " ".join(answer["translation_text"].splitlines()) + "\n"


def test_the_documented_line(mt5: Path, ours: Any) -> None:
    """echo -e "..." | transformers run --task text2text-generation --model ... --device 0"""
    line = f'echo "{SENTENCES[0]}" | "{sys.executable}" -m seq2seq_zoo run --task text2text-generation'
    done = subprocess.run(
        f'{line} --model "{mt5}" --device 0 {" ".join(SHORT)}',
        shell=True,
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    if not torch.accelerator.is_available():  # another device may round otherwise
        assert done.stdout.splitlines() == texts_of(ours, SENTENCES[:1])
    assert done.stderr == ""


# ---- how it ends ----


@pytest.fixture
def talking(mt5: Path) -> Iterator[subprocess.Popen[str]]:
    """The command as a process that has answered one line and waits for the next."""
    process = subprocess.Popen(
        [sys.executable, "-m", "seq2seq_zoo", *RUN, "--model", str(mt5), *SHORT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A job in the background of a shell ignores interrupts, and hands that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(SENTENCES[0] + "\n")
    process.stdin.flush()
    assert process.stdout.readline().endswith("\n")
    yield process
    process.kill()
    process.communicate()


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")
def test_interrupted(talking: subprocess.Popen[str]) -> None:
    talking.send_signal(signal.SIGINT)
    assert talking.wait(20) == 130
    assert talking.stderr is not None
    assert talking.stderr.read() == ""


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")
def test_the_reader_goes_away(talking: subprocess.Popen[str]) -> None:
    assert talking.stdin is not None
    assert talking.stdout is not None
    assert talking.stderr is not None
    talking.stdout.close()
    talking.stdin.write(SENTENCES[1] + "\n")
    talking.stdin.flush()
    assert talking.wait(20) == 141
    assert talking.stderr.read() == ""


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from seq2seq_zoo.cli import main; "
        "tried = (['--help'], ['run', '--help'], ['inspect', '--help'], ['--version'], ['x']); "
        "assert [main(arguments) for arguments in tried] == [0, 0, 0, 0, 2]; "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for option in ("--task", "--max-new-tokens", "--class", f"seq2seq-zoo {seq2seq_zoo.__version__}"):
        assert option in done.stdout


def fault(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code, and the one line on standard error."""
    code = main(arguments)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("seq2seq-zoo")
    return code, err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["walk"], "invalid choice: 'walk'"),
        (["run", "--model", "x", "text"], "required: --task"),
        (["run", "--task", "summarization", "text"], "required: --model"),
        (["run", "--task", "sing", "--model", "x", "a"], "task is 'sing'; it must be one of text2text-gen"),
        ([*RUN, "--model", "x", "--num-beams", "two", "a"], "invalid int value: 'two'"),
        ([*RUN, "--model", "x", "--num-beams", "0", "a"], "num_beams must be an integer"),
        ([*RUN, "--model", "x", "--top-p", "2", "a"], "top_p must be a number in"),
        ([*RUN, "--model", "x", "--batch-size", "0", "a"], "batch_size is 0"),
        ([*RUN, "--model", "x", "--dtype", "int8", "a"], "invalid choice: 'int8'"),
        ([*RUN, "--model", "x", "--num-beam", "2", "a"], "unrecognized arguments: --num-beam"),
        ([*RUN, "--model", "x", "--device", "c:p", "a"], "'c:p' is neither a number nor"),
        ([*RUN, "--model", "x", "--device", "gpu", "a"], "must be a name like"),
        (["inspect"], "required: WHERE"),
        (["inspect", "MT5", "--class", "T5"], "class is 'T5'; it must be one of MT5Model, MT5For"),
        (
            [*RUN, "--model", "MT5", "--num-return-sequences", "7", "a"],
            "num_return_sequences must be at most",
        ),
    ],
    ids=lambda value: " ".join(value[-4:]) if isinstance(value, list) else "",
)
def test_commands_that_make_no_sense(
    mt5: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = fault([str(mt5) if argument == "MT5" else argument for argument in arguments], capsys)
    assert code == 2
    assert message in line


def test_commands_that_fail(
    mt5: Path, mvp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["inspect"], [*RUN, "a", "--model"]):
        code, line = fault([*command, "bundled:no-such-checkpoint"], capsys)
        assert (code, "no-such-checkpoint" in line) == (1, True)
        code, line = fault([*command, str(tmp_path)], capsys)
        assert (code, "config.json" in line) == (1, True)
    code, line = fault([*RUN, "--model", str(mvp), " ".join(SENTENCES)], capsys)
    assert (code, "max_position_embeddings" in line) == (2, True)
    feed(monkeypatch, b"\xff\n")
    code, line = fault([*RUN, "--model", str(mt5)], capsys)
    assert (code, "standard input is not UTF-8" in line) == (1, True)
    monkeypatch.setattr(sys, "stdin", None)
    code, line = fault([*RUN, "--model", str(mt5)], capsys)
    assert (code, "no standard input" in line) == (2, True)


def test_faults_of_many_lines_take_one(mt5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint that does not fit: the loader lists every fault on a line of its own."""
    config = seq2seq_zoo.AutoConfig.from_pretrained(mt5, d_ff=25)
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((mt5 / "model.safetensors").read_bytes())
    code, line = fault([*RUN, "--model", str(tmp_path), "a"], capsys)
    assert code == 1
    assert "encoder.block.0.layer.1.DenseReluDense.wi_0.weight" in line
    assert "encoder.block.1.layer.1.DenseReluDense.wo.weight" in line


def test_warnings_take_one_line(mt5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "headless"
    shutil.copytree(mt5, folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    assert main([*RUN, "--model", str(folder), *SHORT, "a"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == err.count("\n") == 1
    assert err.startswith("seq2seq-zoo: warning: ")
    assert "lm_head.weight" in err
