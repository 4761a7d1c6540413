"""transformers as the oracle: its classes in float64, with every parameter random.

Two versions serve: 4.57.6 knows all families, 5.x some of them. A test that needs one of them says so with
`needs_4` or `needs_5`.

Two places of T5's code compute in float32 whatever the model's dtype: the mean square in the norm, and the
softmax. `float64()` lifts both to float64, so that a comparison to 1e-9 can see a wrong formula; nothing else
is changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.models.mt5 import modeling_mt5

MAJOR = int(transformers.__version__.split(".")[0])
needs_4 = pytest.mark.skipif(MAJOR != 4, reason="needs transformers 4.57.6")
needs_5 = pytest.mark.skipif(MAJOR != 5, reason="needs transformers 5.x")


def _norm_in_float64(self: Any, hidden_states: Tensor) -> Tensor:
    mean_square = hidden_states.pow(2).mean(-1, keepdim=True)
    return self.weight * (hidden_states * torch.rsqrt(mean_square + self.variance_epsilon))


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Everything built and computed inside is float64, the oracle's float32 islands included."""
    to_float32 = torch.Tensor.float
    norm = modeling_mt5.MT5LayerNorm.forward
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = lambda self: self if self.dtype == torch.float64 else to_float32(self)
    modeling_mt5.MT5LayerNorm.forward = _norm_in_float64
    try:
        yield
    finally:
        torch.Tensor.float = to_float32
        modeling_mt5.MT5LayerNorm.forward = norm
        torch.set_default_dtype(before)


def randomise(model: nn.Module, seed: int = 0, scale: float = 0.3) -> None:
    """Give every parameter and floating-point buffer random values, norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.copy_(values * scale if tensor.dim() > 1 else 0.5 + values * 0.5)


def build(name: str, config: Any, seed: int = 0) -> Any:
    """The oracle's class of this name, in eval mode, random throughout."""
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = getattr(transformers, name)(config).eval()
    randomise(model, seed)
    return model


def ours_of(theirs: Any, ours: Any, folder: Path, **options: Any) -> Any:
    """Our class with the oracle's weights, by way of a saved checkpoint."""
    theirs.save_pretrained(folder)
    return ours.from_pretrained(folder, **options)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert ours.shape == theirs.shape, f"{list(ours.shape)} against {list(theirs.shape)}"
    largest = theirs.detach().abs().max().clamp(min=1e-30)
    return float((ours.detach() - theirs.detach()).abs().max() / largest)


def assert_outputs_agree(
    ours: Any, theirs: Any, tolerance: float = 1e-9, *, real: Tensor | None = None
) -> None:
    """Every field of two outputs agrees, by name; with `real` [B, S], hidden vectors only where it is not 0.

    `past_key_values` is each library's own and only compared for presence.
    """
    names = [name for name, value in theirs.items() if not (isinstance(value, tuple) and value == ())]
    assert list(ours.keys()) == names  # 5.x leaves an empty tuple where there is no cross-attention
    for name in names:
        mine, other = ours[name], theirs[name]
        if name == "past_key_values":
            continue
        pairs = [(mine, other)] if isinstance(other, Tensor) else list(zip(mine, other, strict=True))
        for a, b in pairs:
            assert relative_error(a, b) <= tolerance, f"{name}: {relative_error(a, b):.1e}"


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of every parameter, by name."""
    model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters(remove_duplicate=False) if p.grad is not None}


def assert_gradients_agree(
    ours: nn.Module,
    loss: Tensor,
    theirs: nn.Module,
    their_loss: Tensor,
    as_stored: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
) -> int:
    """The gradient of every parameter agrees to 1e-9; returns how many tensors were compared. `as_stored`
    names the oracle's gradients by the keys of a checkpoint, where its parameters have other names.

    Errors are relative to the largest gradient of a tensor, or to 1e-4 of the largest of all: some
    gradients are zero but for rounding, such as a key bias's, which moves all scores of a row alike.
    """
    mine, other = gradients(ours, loss), as_stored(gradients(theirs, their_loss))
    largest = max(float(g.abs().max()) for g in other.values())
    owned = dict(ours.named_parameters())
    links = type(ours).key_map(ours.config).links({name: p.shape for name, p in owned.items()})
    assert {name for link in links for name in link.names} == set(owned)
    compared = 0
    for link in links:
        present = link.names[0] in mine
        assert all((name in mine) == present for name in link.names), link.names
        assert all((key in other) == present for key in link.keys), link.keys
        if not present:  # a part that this call has no use for, such as cross-attention without memory
            continue
        for key, gradient in zip(link.keys, link.rule.to_theirs([mine[n] for n in link.names]), strict=True):
            error = float((gradient - other[key]).abs().max())
            floor = max(float(other[key].abs().max()), 1e-4 * largest)
            assert error <= 1e-9 * floor, f"{key}: {error / floor:.1e}"
        compared += len(link.names)
    return compared
