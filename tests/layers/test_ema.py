"""The damped moving average in its three forms, against the paper's equations taken number by number."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from seq2seq_zoo.layers import ema
from seq2seq_zoo.layers.ema import BLOCK, FEW, DampedEma, Rates, by_convolution, by_recurrence, by_scan
from seq2seq_zoo.layers.state import MovingAverage

WIDTH, SIZE = 3, 2


def averages(width: int = WIDTH, size: int = SIZE, **options: Any) -> DampedEma:
    layer = DampedEma(width, size, **options)
    layer.start_at_random(rate_std=2.0)
    return layer


def sigmoid(x: Tensor) -> float:
    return 1.0 / (1.0 + math.exp(-x.item()))


def one_direction(layer: DampedEma, x: Tensor, first_row: int) -> Tensor:
    """Equations 5-8 (Ma et al. 2022): u = β x, h_t = α u_t + (1 - α δ) h_{t-1}, y_t = ηᵀ h_t, the authors'
    1/√h before it; a truncated one hears so many positions only."""
    rows, length, width = x.shape
    size = layer.eta.shape[1]
    y = torch.zeros(rows, length, width)
    for b in range(rows):
        for d in range(width):
            row = first_row + d
            for n in range(size):
                alpha, delta = sigmoid(layer.alpha[row, n]), sigmoid(layer.delta[row, n])
                beta, eta = layer.beta[row, n].item(), layer.eta[row, n].item()
                for t in range(length):
                    begin = 0 if layer.truncation is None else max(0, t + 1 - layer.truncation)
                    h = 0.0
                    for i in range(begin, t + 1):
                        h = alpha * beta * float(x[b, i, d]) + (1 - alpha * delta) * h
                    y[b, t, d] += eta * h / math.sqrt(size)
    return y


def naive(layer: DampedEma, x: Tensor, real: Tensor | None = None) -> Tensor:
    heard = x if real is None else x * real[..., None]
    y = one_direction(layer, heard, 0)
    if layer.bidirectional:
        y += one_direction(layer, heard.flip(1), layer.width).flip(1)
    out = y + x * layer.omega.detach()
    return out * torch.sigmoid(out)


def rates(layer: DampedEma) -> tuple[Rates, Rates | None]:
    both = layer.rates(torch.float64)
    ahead = Rates(*(rate[layer.width :] for rate in both)) if layer.bidirectional else None
    return Rates(*(rate[: layer.width] for rate in both)), ahead


@pytest.mark.parametrize("length", [1, 2, FEW, FEW + 1, 11])
@pytest.mark.parametrize("truncation", [None, 1, 3, 50])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_equals_the_equations(bidirectional: bool, truncation: int | None, length: int) -> None:
    layer = averages(bidirectional=bidirectional, truncation=truncation)
    x = torch.randn(2, length, WIDTH)
    torch.testing.assert_close(layer(x), naive(layer, x), rtol=1e-11, atol=1e-11)
    real = torch.rand(2, length) > 0.4
    torch.testing.assert_close(layer(x, real), naive(layer, x, real), rtol=1e-11, atol=1e-11)


LENGTHS = [1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 17]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_three_forms_are_one(bidirectional: bool, length: int) -> None:
    behind, ahead = rates(averages(4, 3, bidirectional=bidirectional))
    x = torch.randn(2, length, 4)
    y, after = by_recurrence(x, behind)
    if ahead is not None:
        y = y + by_recurrence(x.flip(1), ahead)[0].flip(1)
    kernel = None if ahead is None else ahead.kernel(length)
    torch.testing.assert_close(by_convolution(x, behind.kernel(length), kernel), y, rtol=1e-10, atol=1e-10)
    scanned, scanned_after = by_scan(x, behind, ahead)
    torch.testing.assert_close(scanned, y, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(scanned_after, after, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("length", [*LENGTHS, 8 * BLOCK])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_scan_in_pieces(monkeypatch: pytest.MonkeyPatch, bidirectional: bool, length: int) -> None:
    """Without gradients a long text is read piece by piece, and nothing comes out otherwise."""
    layer = averages(4, 3, bidirectional=bidirectional)
    behind, ahead = rates(layer)
    x, before = torch.randn(2, length, 4), torch.randn(2, 4, 3)
    y, after = by_scan(x, behind, ahead, before)
    smooth = layer(x)
    monkeypatch.setattr(ema, "PIECE", 2 * BLOCK)
    with torch.no_grad():
        in_pieces, after_pieces = by_scan(x, behind, ahead, before)
        torch.testing.assert_close(layer(x), smooth, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(in_pieces, y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after_pieces, after, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("length", LENGTHS)
def test_recurrence_and_scan_go_on_from_a_state(length: int) -> None:
    behind, _ = rates(averages(4, 3))
    before, x = torch.randn(2, 7, 4), torch.randn(2, length, 4)
    whole, after = by_recurrence(torch.cat([before, x], 1), behind)
    for form in (by_recurrence, by_scan):
        _, state = form(before, behind)
        y, found = form(x, behind, state=state)
        torch.testing.assert_close(y, whole[:, 7:], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found, after, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("length", [3, 2 * BLOCK + 5])
def test_forms_have_one_gradient(length: int) -> None:
    layer = averages(4, 3, bidirectional=True)
    x = torch.randn(2, length, 4, requires_grad=True)
    towards = torch.randn(2, length, 4)
    parameters = [x, layer.alpha, layer.delta, layer.beta, layer.eta]

    def gradients(y: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((y * towards).sum(), parameters, retain_graph=True)

    (behind, ahead), length = rates(layer), x.shape[1]
    assert ahead is not None
    recurrent = by_recurrence(x, behind)[0] + by_recurrence(x.flip(1), ahead)[0].flip(1)
    expected = gradients(recurrent)
    for y in (by_scan(x, behind, ahead)[0], by_convolution(x, behind.kernel(length), ahead.kernel(length))):
        torch.testing.assert_close(gradients(y), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 3, 10, 16, 17, 1000])
def test_kernel(length: int) -> None:
    behind, _ = rates(averages(4, 3))
    powers = behind.decay[..., None] ** torch.arange(length)
    expected = (behind.entry[..., None] * behind.readout[..., None] * powers).sum(1)
    torch.testing.assert_close(behind.kernel(length), expected, rtol=1e-11, atol=1e-13)


def test_fast_sizes_hold_what_they_must() -> None:
    for least in range(1, 300):
        size = ema._fast_size(least)
        assert least <= size < 2 * least + 1
        while size % 2 == 0:
            size //= 2
        assert size in (1, 3, 5)


@pytest.mark.parametrize("truncation", [None, 1, 4, 90])
@pytest.mark.parametrize("sizes", [[1] * 9, [3, 1, 5], [70, 1, 1, 30], [2, 100]])
def test_steps_of_any_size(sizes: list[int], truncation: int | None) -> None:
    layer = averages(truncation=truncation)
    x = torch.randn(2, sum(sizes), WIDTH)
    real = torch.rand(2, sum(sizes)) > 0.2
    state, done = MovingAverage(), []
    for part, mask in zip(x.split(sizes, 1), real.split(sizes, 1), strict=True):
        done.append(layer(part, mask, state))
    torch.testing.assert_close(torch.cat(done, 1), layer(x, real), rtol=1e-10, atol=1e-10)
    assert state.length == sum(sizes)


@pytest.mark.parametrize("truncation", [None, 3])
def test_a_state_is_reordered_and_cropped(truncation: int | None) -> None:
    layer = averages(truncation=truncation)
    x = torch.randn(2, 12, WIDTH)
    whole = layer(x)
    state = MovingAverage()
    layer(x[:, :4], state=state)
    layer(x[:, 4:9], state=state)
    for length in (9, 7, 5, 4):  # within what came last, over and over
        state.crop(length)
        assert state.length == length
    state.crop(40)
    torch.testing.assert_close(layer(x[:, 4:], state=state), whole[:, 4:], rtol=1e-10, atol=1e-10)
    state.crop(6)
    state.reorder(torch.tensor([1, 1, 0]))
    torch.testing.assert_close(
        layer(x[[1, 1, 0], 6:], state=state), whole[[1, 1, 0], 6:], rtol=1e-10, atol=1e-10
    )
    with pytest.raises(ValueError, match=r"length is 2; .* 6 … 12 tokens"):
        state.crop(2)
    torch.testing.assert_close(state.length, 12)
    state.crop(6)
    with pytest.raises(ValueError, match=r"length is 5; .* 6 … 6 tokens"):
        state.crop(5)
    state.crop(0)
    torch.testing.assert_close(layer(x, state=state), whole, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="holds 2 rows; 3 cannot"):
        layer(x[[0, 0, 1]], state=state)


def test_nothing_is_kept_on_the_module() -> None:
    layer = averages().eval()
    x = torch.randn(1, 5, WIDTH)
    before = set(vars(layer)), layer(x)
    with torch.no_grad():
        layer.alpha.add_(1.0)
    assert set(vars(layer)) == before[0]
    torch.testing.assert_close(layer(x), naive(layer, x), rtol=1e-11, atol=1e-11)
    assert not torch.allclose(layer(x), before[1])


def test_both_directions_have_no_state() -> None:
    with pytest.raises(ValueError, match="bidirectional=False"):
        averages(bidirectional=True)(torch.randn(1, 3, WIDTH), state=MovingAverage())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtypes(dtype: torch.dtype) -> None:
    layer = averages(8, 4)
    x = torch.randn(2, 128, 8).to(dtype)
    expected = layer(x.double())
    out = layer.to(dtype)(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, rtol=0.05, atol=0.05)
    state = MovingAverage()
    stepped = torch.cat([layer(part, None, state) for part in x.split([100, 1, 27], 1)], 1)
    torch.testing.assert_close(stepped, out, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"truncation": 1500}])
def test_nothing_of_the_three_sizes_together_is_built(options: dict[str, Any]) -> None:
    """The largest tensor made is far below width · averages · length, whatever the form."""
    width, size, length = 4, 32, 4096
    layer = averages(width, size, **options)
    x = torch.randn(1, length, width)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for made in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(made, Tensor):
                    largest = max(largest, made.numel())
            return out

    with torch.no_grad(), Watch():
        layer(x)
    assert largest <= width * size * length / 8
    assert largest >= width * length
