"""Linear layers of few rows, on a CPU.

A decoding step applies every weight to a handful of rows, so its time is the time it takes to read the
weights from memory, if the matrix product lets it. There are several ways to write the same product

    rows      W [F, D] and h [R, D]          what is computed                       written
    plain     h Wᵀ                           [R, D] · [D, F]                        F.linear(h, W)
    turned    (W hᵀ)ᵀ                        [F, D] · [D, R]                        mm(W, hᵀ)
    parted    one part of W a thread         [T, F / T, D] · [T, D, R]              bmm(W in parts, hᵀ)

and which of them reads as fast as memory allows depends on the number of rows and on whose processor it is:
on an AMD one, the library that PyTorch asks lets one thread alone read in the plain product of a row.
None of them copies the weight.

The parts of a model say `nn.Linear`, which is what they are. A model that is put into inference turns them
into `Linear`, which picks among the three (`for_inference`), and back when it is trained. Wherever the choice
is not ours, `Linear` does what nn.Linear does: while gradients are recorded, under autocast, in a graph that
is traced, on another device, in another dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@cache
def processor() -> str:
    """Whose processor this is: "amd", "intel", or "" where neither is known to be true."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    names = {"AuthenticAMD": "amd", "GenuineIntel": "intel"}
    return next((name for vendor, name in names.items() if vendor in text), "")


def plain(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """h [R, D], weight [F, D], bias [F] → h Wᵀ + bias [R, F]."""
    return F.linear(h, weight, bias)


def turned(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same, as (W hᵀ + bias)ᵀ."""
    if bias is None:
        return torch.mm(weight, h.t()).t().contiguous()
    return torch.addmm(bias[:, None], weight, h.t()).t().contiguous()


def parted(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same, a part of the outputs a thread, where they divide so."""
    threads, (outputs, inputs) = torch.get_num_threads(), weight.shape
    if threads == 1 or outputs % threads:
        return turned(h, weight, bias)
    parts = weight.view(threads, outputs // threads, inputs)
    turned_h = h.t().expand(threads, inputs, h.shape[0])
    if bias is None:
        found = torch.bmm(parts, turned_h)  # [T, F / T, R]
    else:
        found = torch.baddbmm(bias.view(threads, -1, 1), parts, turned_h)
    return found.view(outputs, h.shape[0]).t().contiguous()


def form_for(weight: Tensor, rows: int, maker: str) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The form in which so many rows meet a float32 weight [F, D] soonest."""
    if maker == "amd" and 0 < rows <= 16:
        return parted if rows <= 2 else turned
    # what is small lies in the processor's own memory, where the plain product is as fast as any
    if maker == "intel" and 4 <= rows <= 32 and weight.numel() >= 2**19:
        return turned
    return plain


class Linear(nn.Linear):
    """nn.Linear in the form that reads its weight fastest.

    x [..., D] → x Wᵀ + bias [..., F], the same numbers but for rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        return product(x, *weight_and_bias(self))


def weight_and_bias(linear: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """What `linear.weight` and `linear.bias` are, at a tenth of the cost: a step asks hundreds of layers."""
    held = linear._parameters
    weight = held.get("weight")
    if weight is None or "bias" not in held:  # pruned or parametrized: then they are worked out
        return linear.weight, linear.bias
    return weight, held["bias"]


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + bias, in the form that reads W fastest: x [..., D], weight [F, D] → [..., F]."""
    if is_free(x, weight):
        form = form_for(weight, x.numel() // weight.shape[1], processor())
        if form is not plain:
            return form(x.reshape(-1, weight.shape[1]), weight, bias).view(*x.shape[:-1], weight.shape[0])
    return F.linear(x, weight, bias)


def is_free(x: Tensor, weight: Tensor, dtypes: Container[torch.dtype] = (torch.float32,)) -> bool:
    """Whether x and the weight are numbers of one of these dtypes on a CPU, and nobody watches how they are
    multiplied."""
    return (
        is_unwatched()
        and x.is_cpu
        and x.dtype is weight.dtype
        and x.dtype in dtypes
        and x.shape[-1] == weight.shape[1]  # else F.linear's own error
    )


def is_unwatched() -> bool:
    """Whether neither gradients are recorded, nor a graph traced, nor dtypes chosen by autocast."""
    return not (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
        or torch._C._is_tracing()
    )


def for_inference(model: nn.Module, inference: bool = True) -> None:
    """Let every nn.Linear of a model choose its product; or be as it was, if not `inference`.

    It is the class of a module that changes: its parameters, its hooks and its name stay.
    """
    for part in model.modules():
        _suit(part, inference)


def train(module: nn.Module, mode: bool) -> None:
    """`module.train(mode)` and `for_inference(module, not mode)`, in a fifth of their time: PyTorch asks of
    each module what kind of attribute this is that is set, and a model has hundreds."""
    kind = type(module)
    plain = kind.train is nn.Module.train and kind.__setattr__ is nn.Module.__setattr__
    if not plain or "train" in module.__dict__:  # it has a way of its own
        module.train(mode)
        for_inference(module, not mode)
        return
    module.__dict__["training"] = mode
    _suit(module, not mode)
    for part in module._modules.values():
        if part is not None:
            train(part, mode)


def _suit(module: nn.Module, inference: bool) -> None:
    before, after = (nn.Linear, Linear) if inference else (Linear, nn.Linear)
    if type(module) is before:
        object.__setattr__(module, "__class__", after)
