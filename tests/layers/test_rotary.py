"""Rotary positions: the formulas, by complex numbers; what turning is good for; LongRoPE's two sets; windows;
grouped heads without copies; keys and values replaced in a state."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from seq2seq_zoo.layers.attention import Attention, attend, attend_readably
from seq2seq_zoo.layers.masks import may_attend, real_positions
from seq2seq_zoo.layers.rotary import LongContext, Rotary
from seq2seq_zoo.layers.state import GrowingKeyValues

LONG = LongContext((1.0, 1.5, 2.0), (4.0, 5.0, 7.0), 1.25, 1.5, original_length=10)


def turned_by_formula(x: Tensor, positions: Tensor, base: float, factors: Tensor, scale: float) -> Tensor:
    """x [B, H, L, E] as complex numbers, of which pair k at m is multiplied by scale · e^(i m f_k)."""
    size = x.shape[-1]
    pairs = torch.complex(x[..., : size // 2], x[..., size // 2 :])
    speed = base ** (-2.0 * torch.arange(size // 2, dtype=torch.float64) / size) / factors
    angle = positions[:, None, :, None].double() * speed
    turned = pairs * scale * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], dim=-1)


def test_the_formula() -> None:
    x = torch.randn(2, 3, 5, 6)
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 7, 100, 2, 31]])
    found = Rotary(6, base=50.0)(positions, dtype=torch.float64).turn(x)
    expected = turned_by_formula(x, positions, 50.0, torch.ones(3, dtype=torch.float64), 1.0)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)  # the angles are in float32
    torch.testing.assert_close(found[:1, :, :1], x[:1, :, :1], atol=0, rtol=0)  # position 0 stays


def test_longrope_takes_each_row_by_its_own_factors() -> None:
    x, positions = torch.randn(2, 1, 4, 6), torch.arange(4)[None]
    rotary = Rotary(6, base=50.0, long_context=LONG)
    found = rotary(positions, long=torch.tensor([True, False]), dtype=torch.float64).turn(x)
    for row, (factors, scale) in enumerate(((LONG.long_factors, 1.5), (LONG.short_factors, 1.25))):
        expected = turned_by_formula(
            x[row : row + 1], positions, 50.0, torch.tensor(factors, dtype=torch.float64), scale
        )
        torch.testing.assert_close(found[row : row + 1], expected, atol=1e-5, rtol=0)
    short = rotary(positions, dtype=torch.float64).turn(x[1:])
    assert torch.equal(short, found[1:])


def test_products_know_of_distances_only() -> None:
    query, key = torch.randn(1, 1, 1, 6), torch.randn(1, 1, 1, 6)
    rotary, products = Rotary(6, base=50.0), []
    for start in (0, 3, 60):
        at_key, at_query = torch.tensor([[start]]), torch.tensor([[start + 5]])
        turned = (
            rotary(at_query, dtype=torch.float64).turn(query),
            rotary(at_key, dtype=torch.float64).turn(key),
        )
        products.append(float((turned[0] * turned[1]).sum()))
    assert products[1] == pytest.approx(products[0], abs=1e-4)
    assert products[2] == pytest.approx(products[0], abs=1e-4)


def test_angles_are_in_float32_whatever_the_dtype() -> None:
    positions = torch.tensor([[0, 1, 4095, 131071]])
    rotary = Rotary(128, base=1e4)
    one, other = rotary(positions, dtype=torch.float32), rotary(positions, dtype=torch.float64)
    assert one.cosine.dtype == torch.float32
    assert torch.equal(one.cosine.double(), other.cosine)
    assert torch.equal(one.sine.to(torch.bfloat16), rotary(positions, dtype=torch.bfloat16).sine)


def test_positions_of_real_tokens() -> None:
    real = torch.tensor(
        [[0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0]], dtype=torch.bool
    )
    assert real_positions(real).tolist() == [
        [0, 0, 0, 1, 2],
        [0, 1, 1, 1, 1],
        [0, 0, 1, 1, 2],
        [0, 0, 0, 0, 0],
    ]


# ---- windows ----


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("window", [1, 3, 6, 40])
def test_windows_by_their_definition(window: int, padded: bool) -> None:
    """In one pass and in parts of one."""
    real = torch.ones(2, 9, dtype=torch.bool)
    if padded:
        real[1, :4] = False
    padding = real if padded else None
    expected = torch.zeros(2, 9, 9, dtype=torch.bool)
    for row, query, key in itertools.product(range(2), range(9), range(9)):
        expected[row, query, key] = query - window < key <= query and real[row, key]
    nobody = ~expected.any(-1)
    expected[nobody] = torch.eye(9, dtype=torch.bool).expand(2, 9, 9)[nobody]
    for past, end in ((0, 9), (0, 1), (4, 5), (5, 9), (8, 9)):
        mask = may_attend(
            None if padding is None else padding[:, :end],
            queries=end - past,
            keys=end,
            past=past,
            causal=True,
            window=window,
        )
        found = torch.ones(1, 1, 1, 1, dtype=torch.bool) if mask is None else mask
        assert torch.equal(found[:, 0].expand(2, end - past, end), expected[:, past:end, :end])


def test_a_window_that_hides_nothing_costs_nothing() -> None:
    assert may_attend(None, queries=1, keys=6, past=5, causal=True, window=6) is None
    assert may_attend(None, queries=1, keys=7, past=6, causal=True, window=6) is not None


# ---- grouped heads ----


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("masked", [False, True])
def test_grouped_heads_by_both_paths(groups: int, masked: bool) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 6, 4, 8), torch.randn(2, groups, 5, 8), torch.randn(2, groups, 5, 8)
    mask = torch.rand(2, 1, 4, 5) < 0.6 if masked else None
    if mask is not None:
        mask[..., 0] = True
    fused = attend(query, key, value, scale=0.3, mask=mask)
    readable, weights = attend_readably(query, key, value, scale=0.3, mask=mask)
    torch.testing.assert_close(fused, readable, atol=1e-12, rtol=0)
    for head in range(6):
        one = slice(head, head + 1), slice(head * groups // 6, head * groups // 6 + 1)
        alone, of_one = attend_readably(
            query[:, one[0]], key[:, one[1]], value[:, one[1]], scale=0.3, mask=mask
        )
        torch.testing.assert_close(readable[:, one[0]], alone, atol=1e-12, rtol=0)
        torch.testing.assert_close(weights[:, one[0]], of_one, atol=1e-12, rtol=0)


@pytest.mark.parametrize("queries", [1, 4])
def test_grouped_heads_elsewhere(queries: int) -> None:
    """On another device than the CPU, of which we have one that only knows shapes."""
    query, key = torch.empty(2, 6, queries, 8, device="meta"), torch.empty(2, 3, 5, 8, device="meta")
    mask = torch.empty(2, 1, queries, 5, dtype=torch.bool, device="meta")
    assert attend(query, key, key, scale=0.3, mask=mask).shape == (2, 6, queries, 8)


def test_a_step_does_not_copy_the_keys_of_groups(monkeypatch: Any) -> None:
    attention = Attention(24, 6, 4, key_value_heads=2, bias=False)
    state = GrowingKeyValues(capacity=50)
    with torch.no_grad():
        attention(torch.randn(1, 40, 24), state=state)
        seen: list[tuple[int, ...]] = []
        fused = torch.nn.functional.scaled_dot_product_attention

        def watched(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
            seen.append(tuple(key.shape))
            held = state.tokens()[0]
            assert key.data_ptr() == held.data_ptr()
            return fused(query, key, value, **options)

        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
        attention(torch.randn(1, 1, 24), state=state)
    assert seen == [(1, 2, 41, 4)]


def test_grouped_heads_of_several_beams_of_a_memory() -> None:
    torch.manual_seed(0)
    attention = Attention(24, 6, 4, key_value_heads=3)
    x, memory = torch.randn(4, 5, 24), torch.randn(2, 7, 24)
    together, _ = attention(x, memory)
    apart, weights = attention(x, memory.repeat_interleave(2, 0), need_weights=True)
    torch.testing.assert_close(together, apart, atol=1e-12, rtol=0)
    assert weights is not None
    assert weights.shape == (4, 6, 5, 7)


# ---- what a state holds of some rows, replaced ----


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("capacity", [0, 12])
def test_replace(capacity: int, grad: bool) -> None:
    torch.manual_seed(0)
    with torch.set_grad_enabled(grad):
        state = GrowingKeyValues(capacity)
        first, second = torch.randn(3, 2, 4, 5), torch.randn(3, 2, 2, 5)
        state.append(first, -first)
        state.append(second, -second)
        other = torch.randn(2, 2, 6, 5)
        state.replace(torch.tensor([2, 0]), other, -other)
        expected = torch.cat([first, second], 2)
        expected[2], expected[0] = other[0], other[1]
        keys, values = state.tokens()
        assert torch.equal(keys, expected)
        assert torch.equal(values, -expected)
        last = torch.randn(3, 2, 1, 5)
        keys, _ = state.append(last, -last)
        assert torch.equal(keys, torch.cat([expected, last], 2))


def test_replace_leaves_others_tensors_alone() -> None:
    """What a full pass handed over, or a graph of gradients still needs, is not written to."""
    given = torch.randn(2, 1, 3, 4)
    kept, state = given.clone(), GrowingKeyValues()
    with torch.no_grad():
        state.append(given, given)
        state.replace(torch.tensor([1]), torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4))
    assert torch.equal(given, kept)
    assert not state.tokens()[0][1].any()
