"""The scripts of examples/ run, and show what they promise."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

import seq2seq_zoo
from seq2seq_zoo.cli import main

ROOT = Path(__file__).parents[2]
BUNDLED = Path(seq2seq_zoo.__file__).parent / "bundled"
EXAMPLES = {
    "numbers_in_words.py": ["mt5"],
    "attention_weights.py": ["mt5"],
    "data_to_text.py": ["mvp", "mvp-prompt"],
    "prompt_tuning.py": ["mvp"],
    "chat_arithmetic.py": ["phimoe"],
    "nested_lists.py": ["mega"],
}


def needs(name: str) -> pytest.MarkDecorator:
    missing = [place for place in EXAMPLES[name] if not (BUNDLED / place / "config.json").is_file()]
    return pytest.mark.skipif(bool(missing), reason=f"bundled:{missing} is not there yet")


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run an example with arguments; what it prints."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_every_example_is_tried() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@needs("numbers_in_words.py")
def test_numbers_in_words(output) -> None:
    assert re.search(r"German: 342  dreihundertzweiundvierzig$", output("numbers_in_words.py"), re.MULTILINE)
    lines = output("numbers_in_words.py", "17").splitlines()
    assert [line.split()[-1] for line in lines] == ["seventeen", "siebzehn", "dix-sept", "diecisiete"]


@needs("numbers_in_words.py")
def test_the_first_command_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--task", "text2text-generation", "--model", "bundled:mt5", "German: 342"]) == 0
    assert capsys.readouterr().out == "dreihundertzweiundvierzig\n"


@needs("attention_weights.py")
def test_attention_weights(output) -> None:
    header, *rows, answer = output("attention_weights.py").splitlines()
    assert answer == "dreihundertzweiundvierzig"
    assert header.split()[:11] == ["▁", "G", "e", "rm", "an", ":", "▁", "3", "4", "2", "</s>"]
    largest = {cells[0]: cells[-1] for cells in map(str.split, rows)}
    assert largest["zwei"] == "2"
    assert largest["vierzig"] == "4"
    for row in rows:
        assert abs(sum(map(int, row.split()[1:-1])) - 100) <= 5  # each share is rounded


@needs("data_to_text.py")
def test_data_to_text(output) -> None:
    told = "Iron Man is a superhero and was created by Stan Lee."
    asked = "Who is a superhero and was created by Stan Lee?"
    assert output("data_to_text.py").splitlines()[1:] == [f"told:  {told}", f"asked: {asked}"]
    lines = output("data_to_text.py", "Ada Lovelace | place of birth | London").splitlines()
    assert lines[1:] == ["told:  Ada Lovelace was born in London.", "asked: Who was born in London?"]


@needs("prompt_tuning.py")
def test_prompt_tuning(output) -> None:
    with pytest.warns(UserWarning, match="newly initialised.*prompt_embedding"):
        text = output("prompt_tuning.py")
    right = [int(number) for number in re.findall(r"(?:before|after): (\d+) of 18 right", text)]
    assert right[0] == 0
    assert right[1] >= 16
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", text)]
    assert losses[-1] < losses[0]


@needs("chat_arithmetic.py")
def test_chat_arithmetic(output) -> None:
    lines = output("chat_arithmetic.py").splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["user", "assistant"] * 2
    assert [line.split()[-1] for line in lines[1:4:2]] == ["85", "-480"]
    pairs = [re.fullmatch(r"  layer \d  experts (\d) and (\d)", line) for line in lines[6:]]
    assert len(pairs) == 4
    assert all(pair and pair[1] != pair[2] for pair in pairs)
    assert output("chat_arithmetic.py", "Take 58 away from 27.").splitlines()[1].split()[-1] == "-31"


@needs("chat_arithmetic.py")
def test_the_command_converses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--task", "text-generation", "--model", "bundled:phimoe", "What is 27 + 58?"]) == 0
    assert capsys.readouterr().out == "85\n"


@needs("nested_lists.py")
def test_nested_lists(output) -> None:
    assert re.sub(r" \(\d+ %\)", "", output("nested_lists.py")).splitlines() == [
        "[MAX 4 3 [MIN 2 3 ] 1 0 ] = 4",
        "   1 [MAX looks at  4 3 [MIN 1 0",
        "   4 [MIN looks at  2 3",
    ]
    assert output("nested_lists.py", "[SM 9 9 [MIN 4 2 ] ]").startswith("[SM 9 9 [MIN 4 2 ] ] = 0 (")
