"""Learnt distances against the papers' sums, and a head taken out of an attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seq2seq_zoo.layers.attention import Attention
from seq2seq_zoo.layers.masks import may_attend, padding_mask
from seq2seq_zoo.layers.positions import LearnedPositions, RelativeDistances
from seq2seq_zoo.layers.state import GrowingKeyValues
from tests.oracle import randomise, relative_error


def make(compares_keys: bool, positions: int = 20, **options: Any) -> Attention:
    module = Attention(
        8, 2, 4, distances=RelativeDistances(positions, 4, compares_keys=compares_keys), **options
    ).eval()
    randomise(module)
    return module


@pytest.mark.parametrize("compares_keys", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (1, 6), (2, 7)])
def test_scores_are_the_sums_of_the_papers(compares_keys: bool, queries: int, keys: int) -> None:
    """Shaw et al. 2018, equations 3 and 4, and Huang et al. 2020, method 4, one number at a time. Six known
    distances are fewer than occur, so that the clipping counts."""
    part = RelativeDistances(4, 3, compares_keys=compares_keys)
    q, k = torch.randn(2, 2, queries, 3), torch.randn(2, 2, keys, 3)
    expected = torch.zeros(2, 2, queries, keys)
    for row in range(queries):
        for j in range(keys):
            i = keys - queries + row
            vector = part.weight[max(-3, min(3, i - j)) + 3]
            expected[:, :, row, j] = (q[:, :, row] * vector).sum(-1)
            if compares_keys:
                expected[:, :, row, j] += (k[:, :, j] * vector).sum(-1)
    assert relative_error(part(q, k), expected) <= 1e-12


@pytest.mark.parametrize("compares_keys", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_both_paths_agree(compares_keys: bool, causal: bool) -> None:
    attention, x = make(compares_keys), torch.randn(3, 6, 8)
    padding = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1]])
    mask = may_attend(padding_mask(padding), queries=6, keys=6, causal=causal)
    for bias in (None, torch.randn(1, 2, 6, 6)):
        fused, none = attention(x, mask=mask, bias=bias)
        readable, weights = attention(x, mask=mask, bias=bias, need_weights=True)
        assert none is None
        assert relative_error(fused, readable) <= 1e-12
        assert torch.allclose(weights.sum(-1), torch.ones(3, 2, 6))


@pytest.mark.parametrize("compares_keys", [False, True])
@pytest.mark.parametrize("sizes", [(1,) * 7, (3, 1, 3), (5, 2)])
def test_steps_equal_the_full_pass(compares_keys: bool, sizes: tuple[int, ...]) -> None:
    attention, x = make(compares_keys), torch.randn(2, 7, 8)
    full, _ = attention(x, mask=may_attend(None, queries=7, keys=7, causal=True))
    for capacity in (0, 7):
        state, done, parts = GrowingKeyValues(capacity), 0, []
        with torch.set_grad_enabled(capacity == 0):
            for size in sizes:
                mask = may_attend(None, queries=size, keys=done + size, past=done, causal=True)
                parts.append(attention(x[:, done : done + size], mask=mask, state=state)[0])
                done += size
        assert relative_error(torch.cat(parts, 1), full) <= 1e-12


def test_shared_key_heads_are_compared_for_each_query_head() -> None:
    attention = make(True, key_value_heads=1)
    fused, _ = attention(x := torch.randn(2, 5, 8))
    whole = make(True)
    whole.load_state_dict(
        {
            name: torch.cat([tensor, tensor]) if name.split(".")[0] in ("key", "value") else tensor
            for name, tensor in attention.state_dict().items()
        }
    )
    assert relative_error(fused, whole(x)[0]) <= 1e-12


def test_every_distance_that_occurs_learns() -> None:
    for compares_keys in (False, True):
        attention = make(compares_keys, positions=5)
        attention(torch.randn(1, 4, 8))[0].sum().backward()
        assert attention.distances is not None
        touched = attention.distances.weight.grad.abs().sum(-1) > 0  # type: ignore[union-attr]
        assert touched.tolist() == [False, *[True] * 7, False]


def test_a_head_mask_scales_what_a_head_brings_back() -> None:
    attention = Attention(8, 2, 4).eval()
    randomise(attention)
    x, factor = torch.randn(2, 5, 8), torch.tensor([0.0, 0.7])
    full, weights = attention(x, need_weights=True)
    readable, scaled = attention(x, head_mask=factor, need_weights=True)
    fused, _ = attention(x, head_mask=factor)
    assert relative_error(fused, readable) <= 1e-12
    assert torch.equal(scaled, weights * factor[:, None, None])
    value = attention.value(x).view(2, 5, 2, 4).transpose(1, 2)
    mixed = (scaled @ value).transpose(1, 2).flatten(2)
    assert relative_error(fused, attention.output(mixed)) <= 1e-12
    assert relative_error(attention(x, head_mask=torch.ones(2))[0], full) <= 1e-12


def test_positions_by_name() -> None:
    table = LearnedPositions(6, 3, offset=2)
    assert torch.equal(table.at(torch.tensor([[1, 2, 3]]))[0], table(1, 3))
    for outside in (6, -1):
        with pytest.raises(ValueError, match=str(outside)):
            table.at(torch.tensor([[0, outside]]))
