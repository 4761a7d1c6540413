"""Damped moving averages: what MEGA's attention sees of a sequence (Ma et al. 2022, MEGA, arXiv:2209.10655,
section 3.1).

Each of the D numbers of a position is spread over h averages that forget at rates of their own:

    h_t = α ⊙ β x_t + (1 - α ⊙ δ) ⊙ h_{t-1}        y_t = η · h_t / √h          (equations 5-8)
        = entry · x_t + decay · h_{t-1}                 = readout · h_t

                 x_1 ──→ x_2 ──→ x_3 ──→                 one direction: D rows of parameters
            h_0 ─→ h_1 ──→ h_2 ──→ h_3                   both: D more, for the averages of what follows

The same y can be had in three ways, tested equal. `DampedEma` takes the one that is fastest:

    recurrence     the two lines above, position by position               steps of decoding: few positions
    convolution    y = kernel * x, kernel_j = readout · decay^j · entry,   truncated averages, which are no
                   by fast Fourier transform                               recurrence
    scan           blocks of S positions: a block's own part is a matrix   all else
                   product with the kernel's Toeplitz matrix, what came
                   before it is a state that goes from block to block

None of them makes anything of size D · h · L: the kernel is a product of two matrices of powers, [√L, h] and
[h, √L] for each of D, and the scan keeps a state a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .positions import laid_out
from .state import MovingAverage

BLOCK = 32
"""S, positions in a block of the scan. On a CPU, 32 and 64 are the fastest of 16 … 256, for 1,024 positions
and for 16,384, where the Fourier transform takes five times as long (width 512, 16 averages)."""

PIECE = 31 * BLOCK
"""Positions that the scan takes at a time where no gradients are recorded, so that what it does to them finds
them in the cache. A power of two would put what stands side by side into the same few lines of it."""

FEW = 16
"""Up to so many positions, the recurrence is used: on a CPU it is faster than the scan up to 32 and more."""


class Rates(NamedTuple):
    """What the parameters come to, for one direction: [D, h] each."""

    decay: Tensor
    entry: Tensor
    readout: Tensor

    def powers(self, exponents: Tensor) -> Tensor:
        """decay to each of the exponents [n] → [D, h, n]."""
        return _powers(self.decay, exponents)

    def kernel(self, length: int) -> Tensor:
        """How much of x_{t-j} there is in y_t, for j = 0 … length - 1: [D, length]."""
        step = max(1, math.isqrt(length))
        count = torch.arange(max(step, -(-length // step)), device=self.decay.device)
        # j = step · a + b, and decay^j = decay^(step · a) · decay^b
        coarse = (self.entry * self.readout).unsqueeze(-1) * self.powers(step * count[: -(-length // step)])
        return (coarse.transpose(1, 2) @ self.powers(count[:step])).flatten(1)[:, :length]


def _powers(decay: Tensor, exponents: Tensor) -> Tensor:
    """decay [D, h] to each of the exponents [n] → [D, h, n]."""
    return torch.pow(decay.unsqueeze(-1), exponents.to(decay.dtype))


def by_recurrence(x: Tensor, rates: Rates, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x [B, L, D] and the averages before it [B, D, h] (0 if None) → y [B, L, D] and the averages after
    it."""
    averages = x.new_zeros(x.shape[0], *rates.decay.shape) if state is None else state
    read = []
    for position in x.unbind(1):
        averages = torch.addcmul(rates.decay * averages, rates.entry, position.unsqueeze(-1))
        read.append((averages * rates.readout).sum(-1))
    y = torch.stack(read, dim=1) if read else x
    return y, averages


def by_convolution(x: Tensor, behind: Tensor, ahead: Tensor | None = None) -> Tensor:
    """y_t = Σ_j behind_j · x_{t-j} + Σ_j ahead_j · x_{t+j}: x [B, L, D], kernels [D, K] with K ≤ L
    → [B, L, D]."""
    length, reach = x.shape[1], behind.shape[1]
    size = _fast_size(length + reach - 1)  # so long that the circle's ends do not meet
    circle = F.pad(behind, (0, size - reach))
    if ahead is not None:  # j positions ahead are size - j behind, on a circle
        circle = circle + F.pad(ahead, (0, size - reach)).flip(-1).roll(1, -1)
    spectrum = torch.fft.rfft(x.transpose(1, 2), n=size) * torch.fft.rfft(circle)  # [B, D, size / 2 + 1]
    y: Tensor = torch.fft.irfft(spectrum, n=size)
    return y[..., :length].transpose(1, 2)


def _fast_size(least: int) -> int:
    """The smallest size of at least `least` that is 1, 3 or 5 times a power of two: such transforms are
    fast."""
    return min(odd << max(0, (-(-least // odd) - 1).bit_length()) for odd in (1, 3, 5))


def by_scan(
    x: Tensor,
    behind: Rates,
    ahead: Rates | None = None,
    state: Tensor | None = None,
    finish: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """As `by_recurrence`, with (`ahead`) the same in the other direction added to y.

    x [B, L, D], the averages [B, D, h] before it → y [B, L, D], the averages after it. `finish` makes what is
    returned of a piece of y and of x, [B, n, D] both, while the piece is at hand.
    """
    (rows, length, width), size = x.shape, behind.decay.shape[1]
    tracing = torch.compiler.is_compiling()
    whole = tracing or torch.is_grad_enabled()
    pieces = [x] if whole else [x[:, at : at + PIECE] for at in range(0, length, PIECE)]
    cuts = [_in_blocks(piece) for piece in pieces]  # [D, B · blocks, S] each
    count = torch.arange(BLOCK, device=x.device)
    # The kernel from the furthest ahead to the furthest behind, [D, 2 S - 1], laid out as a matrix [D, S, S].
    kernel = F.pad(behind.kernel(BLOCK), (BLOCK - 1, 0))
    if ahead is not None:
        kernel = kernel + F.pad(ahead.kernel(BLOCK).flip(-1), (0, BLOCK - 1))
    within = laid_out(kernel, BLOCK).contiguous()

    def added(entering: Tensor) -> Tensor:
        """What each block adds to the averages at its end, [D, B, blocks, h]."""
        return torch.cat([(cut @ entering).view(width, rows, -1, size) for cut in cuts], dim=2)

    powers = behind.powers(count)  # [D, h, S]
    entering = (behind.entry.unsqueeze(-1) * powers).flip(-1).transpose(1, 2)  # by the distance to the end
    found = _carried(added(entering), behind.decay**BLOCK, None if state is None else state.transpose(0, 1))
    readings = [(found, (behind.decay * behind.readout).unsqueeze(-1) * powers)]
    if ahead is not None:  # the same, with the ends of all blocks exchanged
        powers = ahead.powers(BLOCK - 1 - count)
        entering_ahead = (ahead.entry.unsqueeze(-1) * powers).flip(-1).transpose(1, 2)
        found_ahead = _carried(added(entering_ahead), ahead.decay**BLOCK, backwards=True)
        readings.append((found_ahead, (ahead.decay * ahead.readout).unsqueeze(-1) * powers))

    done, blocks = [], 0
    for piece, cut in zip(pieces, cuts, strict=True):
        y = cut @ within  # [D, B · blocks, S]
        last = blocks + cut.shape[1] // rows
        for averages, reading in readings:
            y.baddbmm_(averages[:, :, blocks:last].flatten(1, 2), reading)
        blocks = last
        if tracing:  # a slice of what is a multiple of S would hold for some lengths alone
            at = torch.arange(length, device=x.device)
            y = y.view(width, rows, -1, BLOCK)[:, :, at // BLOCK, at % BLOCK].permute(1, 2, 0)
        else:
            y = y.view(width, rows, -1).permute(1, 2, 0)[:, : piece.shape[1]]
        done.append(y if finish is None else finish(y, piece))

    rest = length - (blocks - 1) * BLOCK  # positions in the last block; behind them it holds zeros
    final = cuts[-1].view(width, rows, -1, BLOCK)[:, :, -1]  # [D, B, S]
    after = final @ entering[:, (count + (BLOCK - rest)).clamp(max=BLOCK - 1)]
    after = torch.addcmul(after, behind.decay.unsqueeze(1) ** rest, found[:, :, -1])  # [D, B, h]
    return done[0] if len(done) == 1 else torch.cat(done, dim=1), after.transpose(0, 1)


def _in_blocks(x: Tensor) -> Tensor:
    """[B, L, D] → [D, B · blocks, S], each block turned where it lies: turning them all at once is slower."""
    length = x.shape[1]
    whole = (length + BLOCK - 1) // BLOCK * BLOCK
    if torch.compiler.is_compiling():  # a graph would ask whether, and how much, is missing
        at = torch.arange(whole, device=x.device)
        x = x[:, at.clamp(max=length - 1)] * (at < length).to(x.dtype).unsqueeze(-1)
    elif whole > length:
        x = F.pad(x, (0, 0, 0, whole - length))
    return x.reshape(-1, BLOCK, x.shape[2]).transpose(1, 2).contiguous().transpose(0, 1)


def _carried(added: Tensor, decay: Tensor, state: Tensor | None = None, *, backwards: bool = False) -> Tensor:
    """The averages that each block finds, [D, B, blocks, h] → the same: f_{c+1} = decay · f_c + added_c, or
    f_{c-1}."""
    if torch.compiler.is_compiling():
        return _carried_at_once(added, decay, state, backwards)
    decay = decay.unsqueeze(1)  # [D, 1, h]
    found = torch.zeros_like(added[:, :, 0]) if state is None else state
    every, blocks = [found], added.unbind(2)
    for block in reversed(blocks[1:]) if backwards else blocks[:-1]:
        found = torch.addcmul(block, decay, found)
        every.append(found)
    return torch.stack(every[::-1] if backwards else every, dim=2)


def _carried_at_once(added: Tensor, decay: Tensor, state: Tensor | None, backwards: bool) -> Tensor:
    """The same without a loop, which a graph would hold for one number of blocks alone: what a block finds is
    the convolution of what those before it add with the powers of decay."""
    added = (added.flip(2) if backwards else added).transpose(2, 3).contiguous()  # [D, B, h, blocks]
    blocks = added.shape[3]
    count = torch.arange(blocks, device=decay.device)
    powers = _powers(decay, count).unsqueeze(1)  # [D, 1, h, blocks]
    size = 2 * blocks
    spectrum = torch.fft.rfft(added, n=size) * torch.fft.rfft(powers, n=size)
    reached = torch.fft.irfft(spectrum, n=size)[..., :blocks].contiguous()
    found: Tensor = reached.roll(1, -1) * (count > 0).to(added.dtype)  # the first block finds nothing
    if state is not None:
        found = found + powers * state.unsqueeze(3)
    found = found.transpose(2, 3).contiguous()
    return found.flip(2) if backwards else found


def _advance(x: Tensor, rates: Rates, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """By recurrence or scan, whichever is faster; in a graph, that of one position or of any number."""
    most = 1 if torch.compiler.is_compiling() else FEW
    return by_recurrence(x, rates, state) if x.shape[1] <= most else by_scan(x, rates, state=state)


class DampedEma(nn.Module):
    """Damped moving averages of a sequence, and what the sequence itself adds to them.

    out_t = silu(y_t + ω ⊙ x_t)    with y as above, of what stands behind, or (`bidirectional`) the sum of
                                   both directions

    x [B, L, D] → [B, L, D]. `truncation` cuts the kernels after so many positions. ω and the silu are those
    of the authors' code. α and δ are stored before a sigmoid; the hub's checkpoints call α damping_factor
    and δ decay_factor. Half precision is computed in float32."""

    def __init__(
        self, width: int, size: int, *, bidirectional: bool = False, truncation: int | None = None
    ) -> None:
        super().__init__()
        rows = 2 * width if bidirectional else width
        self.width, self.bidirectional, self.truncation = width, bidirectional, truncation
        self.alpha = nn.Parameter(torch.empty(rows, size, 1))
        self.delta = nn.Parameter(torch.empty(rows, size, 1))
        self.beta = nn.Parameter(torch.empty(rows, size, 1))
        self.eta = nn.Parameter(torch.empty(rows, size))
        self.omega = nn.Parameter(torch.empty(width))
        self.start_at_random()

    @torch.no_grad()
    def start_at_random(self, rate_std: float = 0.2, beta_std: float = 0.02, eta_std: float = 1.0) -> None:
        """The published start: β near 1, -1, 1, …, which the authors found more stable than near 0."""
        self.alpha.normal_(0.0, rate_std)
        self.delta.normal_(0.0, rate_std)
        self.beta.normal_(0.0, beta_std)
        self.beta[:, ::2] += 1.0
        self.beta[:, 1::2] -= 1.0
        self.eta.normal_(0.0, eta_std)
        self.omega.normal_(0.0, eta_std)

    def rates(self, dtype: torch.dtype) -> Rates:
        """What the parameters come to, [D, h]; with both directions [2D, h], what stands behind first."""
        alpha, delta = (rate.squeeze(-1).to(dtype).sigmoid() for rate in (self.alpha, self.delta))
        beta, eta = self.beta.squeeze(-1).to(dtype), self.eta.to(dtype)
        return Rates(1.0 - alpha * delta, alpha * beta, eta * eta.shape[1] ** -0.5)

    def forward(self, x: Tensor, real: Tensor | None = None, state: MovingAverage | None = None) -> Tensor:
        """`real` bool [B, L] says which positions are no padding: the others enter no average.

        `state` brings the averages of earlier positions and takes in those of x. Raises ValueError if it is
        given to averages of both directions, which have no end to go on from.
        """
        if state is not None and self.bidirectional:
            raise ValueError(
                "a bidirectional moving average sees what follows, so it cannot go on from a state; decode "
                "with bidirectional=False, or without a cache (use_cache=False)"
            )
        if state is not None:
            state.check_rows(x.shape[0])
        heard = x if real is None else x * real.unsqueeze(-1).to(x.dtype)
        heard = heard.float() if x.dtype in (torch.float16, torch.bfloat16) else heard
        rates = self.rates(heard.dtype)
        if self.truncation is not None:
            y = self._truncated(heard, rates, state)
        elif self.bidirectional:
            behind = Rates(*(rate[: self.width] for rate in rates))
            ahead = Rates(*(rate[self.width :] for rate in rates))
            if heard is x:
                return by_scan(x, behind, ahead, finish=self._with_input)[0]
            y, _ = by_scan(heard, behind, ahead)
        else:
            before = None
            if state is not None:
                before = state.after
                if before is None and state.recent is not None:  # after a crop they are computed again
                    _, before = _advance(state.recent, rates, state.before)
            y, after = _advance(heard, rates, before)
            if state is not None:
                state.advance(before, heard, after)
        return self._with_input(y.to(x.dtype), x)

    def _with_input(self, y: Tensor, x: Tensor) -> Tensor:
        """silu(y + ω ⊙ x)"""
        return F.silu(torch.addcmul(y.contiguous(), x, self.omega.to(x.dtype)))

    def _truncated(self, x: Tensor, rates: Rates, state: MovingAverage | None) -> Tensor:
        """A truncated average is no recurrence: its state is the inputs that are still heard, [B, K - 1,
        D]."""
        assert self.truncation is not None
        held = 0
        if state is not None:
            before = state.after
            if before is None and state.recent is not None:
                before = _last(state.before, state.recent, self.truncation - 1)
            state.advance(before, x, _last(before, x, self.truncation - 1))
            if before is not None:
                held = before.shape[1]
                x = torch.cat([before, x], dim=1)
        kernel = rates.kernel(min(self.truncation, x.shape[1]))
        if not self.bidirectional:
            return by_convolution(x, kernel)[:, held:]
        return by_convolution(x, kernel[: self.width], kernel[self.width :])


def _last(held: Tensor | None, x: Tensor, count: int) -> Tensor:
    """The last `count` positions of held and x, or all that there are."""
    whole = x if held is None else torch.cat([held, x], dim=1)
    return whole[:, max(0, whole.shape[1] - count) :]
