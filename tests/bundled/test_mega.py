"""bundled:mega works out lists that training does not contain, and the oracle agrees."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from bundled_listops import held_out_trees
from make_bundled_mega import share_right

import seq2seq_zoo
from seq2seq_zoo import MegaForSequenceClassification, RobertaTokenizer
from tests.mega_oracle import needs_mega

FOLDER = Path(seq2seq_zoo.__file__).parent / "bundled" / "mega"
EXAMPLE = "[MAX 4 3 [MIN 2 3 ] 1 0 ]"


@pytest.fixture(scope="module")
def mega() -> tuple[Any, Any]:
    where = "bundled:mega"
    return MegaForSequenceClassification.from_pretrained(where), RobertaTokenizer.from_pretrained(where)


def test_the_checkpoint_is_small_and_complete() -> None:
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert files.keys() >= {"config.json", "model.safetensors", "README.md", "vocab.json", "merges.txt"}
    assert sum(files.values()) <= 3_000_000


def test_mega_works_out_the_example(mega: tuple[Any, Any]) -> None:
    model, tokenizer = mega
    inputs = tokenizer(EXAMPLE, return_tensors="pt")
    assert model.config.id2label[int(model(**inputs).logits.argmax(-1))] == "4"
    assert model.config.use_chunking
    assert tokenizer("[MAX 4 3]")["input_ids"][1:-1] != tokenizer("[MAX 4 3 ]")["input_ids"][1:-1]
    for text in ("[MAX 4 3]", "[MAX 4 3 ]"):  # with and without a space before it, a token means the same
        assert int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) == 4


@pytest.fixture(scope="module")
def figures() -> dict[tuple[int, int], float]:
    """What the card says of lists of so many tokens."""
    card = (FOLDER / "README.md").read_text()
    rows = re.findall(r"^\| (\d+) to (\d+) tokens \| ([\d.]+) % \|$", card, re.MULTILINE)
    return {(int(shortest), int(longest)): float(share) / 100 for shortest, longest, share in rows}


@pytest.mark.parametrize(("shortest", "longest", "least"), [(5, 50, 0.95), (5, 200, 0.9)])
def test_mega_works_out_lists_it_has_not_seen(
    mega: tuple[Any, Any],
    figures: dict[tuple[int, int], float],
    shortest: int,
    longest: int,
    least: float,
) -> None:
    """And as often as the card says, give or take what 200 draws may differ by."""
    assert figures[shortest, longest] >= least
    found = share_right(*mega, held_out_trees(200, shortest, longest))
    assert abs(found - figures[shortest, longest]) <= 0.1


def test_the_card_tells_what_long_lists_come_to(
    mega: tuple[Any, Any], figures: dict[tuple[int, int], float]
) -> None:
    """Longer texts go over borders of chunks; the figures of the card hold for them, too."""
    assert max(figures)[1] == 1000
    assert mega[0].config.chunk_size < 701
    assert abs(share_right(*mega, held_out_trees(25, 701, 1000)) - figures[701, 1000]) <= 0.25


@needs_mega
def test_the_oracle_reads_the_same_in_the_lists(mega: tuple[Any, Any]) -> None:
    import transformers

    theirs, report = transformers.MegaForSequenceClassification.from_pretrained(
        FOLDER, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    their_tokenizer = transformers.RobertaTokenizer.from_pretrained(FOLDER)
    model, tokenizer = mega
    trees = held_out_trees(8, 30, 200)
    inputs = tokenizer([tree.text for tree in trees], padding=True, return_tensors="pt")
    assert their_tokenizer([tree.text for tree in trees], padding=True)["input_ids"] == (
        inputs["input_ids"].tolist()
    )
    with torch.no_grad():
        torch.testing.assert_close(
            model(**inputs).logits, theirs.eval()(**inputs).logits, rtol=1e-3, atol=1e-3
        )
