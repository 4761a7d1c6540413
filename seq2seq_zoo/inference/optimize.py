"""A loaded model made ready to write fast on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import UsageError
from ..layers.attention import Attention
from ..layers.experts import Experts
from ..layers.linear import Linear
from ..layers.router import SparseMixer
from .experts import FrozenExperts, PackedExperts
from .frozen import FrozenLinear
from .packed import PackedLinear
from .rounded import DynamicInt8Linear, Float16Linear, Int4Linear, Int8Linear, has_packed_kernels
from .together import PackedAttention

ModelT = TypeVar("ModelT", bound=nn.Module)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
QUANTIZE = ("int8", "int8-dynamic", "int4")


def optimize(model: ModelT, *, dtype: torch.dtype | str | None = None, quantize: str | None = None) -> ModelT:
    """Prepare a model for inference, in place; it is returned in eval mode.

    dtype      float32, bfloat16 or float16 (or its name): what the weights become; by default they stay
    quantize   "int8": the weights of linear layers in 8 bits, with a scale an output; the few rows of a step
               are multiplied in bfloat16
               "int4": in 4 bits, with a scale and a zero for each 32 inputs, multiplied in bfloat16; in 8
               bits where a shape does not allow that. On most machines the fastest, and the least exact
               "int8-dynamic": in 8 bits, and what they are multiplied by in 8 bits as well

    On a CPU, without `quantize`:

    float32, bfloat16   Layers keep, besides their weights, a copy packed for this machine's matrix kernels,
                        made when a pass first has use for it: at most as much memory again. Query, key and
                        value of a self-attention are packed as one. The numbers stay those of the dtype, but
                        for rounding; bfloat16 is the dtype of all arithmetic. The model still saves, loads
                        and moves; `train()` undoes everything but the dtype.
    float16             The weights of linear layers become float16; the rest of the model, and all
                        arithmetic, float32.

    float16 and quantized weights replace the others: such a model can be neither trained nor saved, and says
    so in a UsageError. Elsewhere than on a CPU only the dtype is changed.
    """
    wanted = _dtype(dtype)
    _check(model, wanted, quantize)
    on_cpu = next(model.parameters()).device.type == "cpu"
    model.train()  # lets go of what an earlier call has packed
    model.eval()
    if not on_cpu:
        _cast(model, wanted)
        return model
    if quantize is not None:
        _cast(model, wanted)
        _freeze(model, {"int8": Int8Linear, "int8-dynamic": DynamicInt8Linear, "int4": Int4Linear}[quantize])
    elif wanted is torch.float16 and has_packed_kernels():
        _cast(model, torch.float32)
        _freeze(model, Float16Linear)
    else:
        _cast(model, wanted)
        for linear in _linears(model):
            linear.__class__ = PackedLinear
        for experts in _experts(model):
            experts.__class__ = PackedExperts
        for part in list(model.modules()):
            if type(part) is Attention:
                part.__class__ = PackedAttention
    return model


def _dtype(given: torch.dtype | str | None) -> torch.dtype | None:
    if given is None:
        return None
    found: Any = getattr(torch, given.removeprefix("torch."), None) if isinstance(given, str) else given
    if found not in DTYPES:
        raise UsageError(f"dtype is {given!r}; it must be float32, bfloat16 or float16")
    return found  # type: ignore[no-any-return]


def _check(model: nn.Module, dtype: torch.dtype | None, quantize: str | None) -> None:
    """Raise UsageError, before any work, for what cannot be done."""
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is a {type(model).__name__}; it must be a model")
    if quantize is not None and quantize not in QUANTIZE:
        raise UsageError(f"quantize is {quantize!r}; it must be one of {', '.join(map(repr, QUANTIZE))}")
    for part in model.modules():
        if isinstance(part, FrozenLinear):
            raise UsageError(f"the model's weights are {part.kind} already; optimize another copy of it")
    devices = {parameter.device.type for parameter in model.parameters()}
    if "meta" in devices:
        raise UsageError("the model is on the meta device, which holds no weights; load it first")
    if quantize is not None and devices != {"cpu"}:
        raise UsageError(
            f"quantize is {quantize!r}, for which there are kernels on a CPU only; the model is on "
            f"{', '.join(sorted(devices))}. There, load it with a quantization_config"
        )
    if quantize == "int8-dynamic":
        if not has_packed_kernels():
            raise UsageError(
                "quantize is 'int8-dynamic'; this PyTorch was built without its kernels (fbgemm)"
            )
        if (next(model.parameters()).dtype if dtype is None else dtype) is not torch.float32:
            raise UsageError(
                "quantize is 'int8-dynamic', whose arithmetic is float32; give it dtype='float32'"
            )


def _linears(model: nn.Module) -> Iterator[nn.Linear]:
    """The plain linear layers of a model, in either of their classes, or packed."""
    for part in list(model.modules()):
        if type(part) in (nn.Linear, Linear, PackedLinear):
            yield part  # type: ignore[misc]


def _experts(model: nn.Module) -> Iterator[Experts]:
    """The plain or packed experts of a model."""
    for part in list(model.modules()):
        if type(part) in (Experts, PackedExperts):
            yield part  # type: ignore[misc]


def _freeze(model: nn.Module, kind: type[FrozenLinear]) -> None:
    """Round all weights but those of routers, which are few, and whose least error may change an expert."""

    def freeze(linear: nn.Linear) -> None:
        fits = kind is not Int4Linear or Int4Linear.fits(linear.out_features, linear.in_features)
        (kind if fits else Int8Linear).freeze(linear)

    routers = {part.scores for part in model.modules() if isinstance(part, SparseMixer)}
    for linear in _linears(model):
        if linear not in routers:
            freeze(linear)
    for experts in _experts(model):
        FrozenExperts.freeze(experts, freeze)


def _cast(model: nn.Module, dtype: torch.dtype | None) -> None:
    """What loading the model in this dtype would have given: its float32 parts stay float32 in float16."""
    if dtype is None:
        return
    kept = getattr(model, "float32_parts", ()) if dtype is torch.float16 else ()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            wide = any(fnmatchcase(name, pattern) for pattern in kept)
            tensor.data = tensor.data.to(torch.float32 if wide else dtype)
    config: Any = getattr(model, "config", None)
    if hasattr(config, "dtype"):
        config.dtype = dtype
