"""Bars: for long work on a terminal, and otherwise none."""

import io
import sys
from pathlib import Path

import huggingface_hub.utils
import pytest

from seq2seq_zoo.checkpoint import load_weights, open_weights, progress, save_weights
from tests.checkpoint.toy import BODY_MAP, Toy, initialise, on_meta, randomised, same


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error as a terminal that keeps what it shows; not a fixture, whose change capture undoes."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    huggingface_hub.utils.enable_progress_bars()  # transformers, quietened elsewhere, switches them off
    return screen


def work(folder: Path) -> None:
    """Save in many shards, and load again."""
    module = randomised(Toy())
    save_weights(module, BODY_MAP, folder, max_shard_size=100)
    again = on_meta(Toy)
    load_weights(again, open_weights(folder), BODY_MAP, initialise=initialise)
    assert same(module, again)


def test_long_work_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    screen = terminal(monkeypatch)
    work(tmp_path)
    shown = screen.getvalue()
    assert f"loading {tmp_path}" in shown
    assert "saving" in shown
    assert "B/s" in shown


def test_short_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    work(tmp_path)
    assert screen.getvalue() == ""


def test_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    work(tmp_path)
    assert capsys.readouterr() == ("", "")


def test_bars_that_the_hub_has_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    screen = terminal(monkeypatch)
    huggingface_hub.utils.disable_progress_bars()
    try:
        work(tmp_path)
    finally:
        huggingface_hub.utils.enable_progress_bars()
    assert screen.getvalue() == ""


def test_a_bar_counts_what_is_done_and_ends_with_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = []

    class Bar:
        def __init__(self, done: int, total: int, what: str) -> None:
            self.done, self.total, self.open = done, total, True
            bars.append(self)

        def update(self, more: int) -> None:
            self.done += more

        def close(self) -> None:
            self.open = False

    monkeypatch.setattr(progress, "_bar", Bar)
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    assert list(progress.progress([1, 2, 3, 4], lambda n: n, "counting")) == [1, 2, 3, 4]
    assert [(bar.done, bar.total, bar.open) for bar in bars] == [(10, 10, False)]
    steps = progress.progress([1, 2, 3, 4], lambda n: n, "counting")
    assert [next(steps), next(steps), next(steps)] == [1, 2, 3]
    steps.close()  # as an error in the middle does
    assert [(bar.done, bar.open) for bar in bars] == [(10, False), (3, False)]
