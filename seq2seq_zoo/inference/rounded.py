"""Weights of 16, 8 and 4 bits, multiplied by PyTorch's kernels for CPUs.

    Float16Linear       W in float16                        products and sums in float32
    Int8Linear          W ≈ scale_f · q, q in -127 … 127    a scale an output; few rows in bfloat16
    DynamicInt8Linear   the same W, and x ≈ s · (p - z)     x in 8 bits too, with a scale a call
    Int4Linear          W ≈ scale_g · (q - 8) + zero_g      q in 0 … 15; a scale and a zero a group of inputs;
                                                            in bfloat16

All round to nearest. Decoding reads a half, a quarter, an eighth of the bytes of float32; what that costs in
accuracy, tools/bench.py prints beside the time.

The kernels that unpack 8 and 4 bits as they multiply take x in bfloat16 and add in float32; in other dtypes
they take ten to thirty times as long, longer than the weights they save. Some kernels are not public; where
that of int8 is missing, `product_by_parts`, which multiplies by W as it was rounded, takes its place.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .frozen import FrozenLinear

FEW = 16
"""Up to so many rows the kernels that unpack as they multiply are worth it."""

LANES = 16
"""The kernel of int8 weights reads so many inputs at a time, if need be beyond the end."""

SHORT = (torch.float32, torch.float16, torch.bfloat16)
"""The dtypes of x that may be rounded to bfloat16; float64 is there to be exact."""

GROUP = 32
"""Inputs that share a scale in 4 bits."""


class Float16Linear(FrozenLinear):
    """W in float16, all arithmetic in float32: half the bytes, and no number outgrows its range."""

    kind: ClassVar[str] = "float16 numbers in the order of a matrix kernel"

    def take(self, weight: Tensor) -> None:
        """Numbers beyond the range of float16 become its largest."""
        bias = None if self.bias is None else self.bias.detach().float()
        self.packed = torch.ops.quantized.linear_prepack_fp16(weight.float().contiguous(), bias)

    def product(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic_fp16(x.float(), self.packed).to(x.dtype)  # type: ignore[no-any-return]


class Int8Linear(FrozenLinear):
    """Eight bits a weight, one scale an output: scale_f = max |W_f| / 127."""

    kind: ClassVar[str] = "int8 numbers with scales"

    def take(self, weight: Tensor) -> None:
        self.integers, scales = round_to_int8(weight)
        self.scales = scales.to(_summed_in(weight.dtype))
        self.ones = torch.ones_like(scales, dtype=torch.bfloat16)

    def cast(self, dtype: torch.dtype) -> None:
        self.scales = self.scales.to(_summed_in(dtype))

    def product(self, x: Tensor) -> Tensor:
        if x.shape[0] > FEW or x.shape[1] % LANES or x.dtype not in SHORT or not has_int8_kernel():
            return product_by_parts(x, self.integers, self.scales, self.bias)
        # the kernel would want the scales in bfloat16 too, and round them
        y = torch._weight_int8pack_mm(x.bfloat16(), self.integers, self.ones).to(self.scales.dtype)
        y = y.mul_(self.scales) if self.bias is None else torch.addcmul(self.bias, y, self.scales)
        return y.to(x.dtype)


class DynamicInt8Linear(FrozenLinear):
    """Eight bits a weight and eight a number of x, whose scale is found in every call."""

    kind: ClassVar[str] = "int8 numbers in the order of a matrix kernel"

    def take(self, weight: Tensor) -> None:
        integers, scales = round_to_int8(weight)
        zeros = torch.zeros_like(scales, dtype=torch.int64)
        bias = None if self.bias is None else self.bias.detach().float()
        with warnings.catch_warnings():  # PyTorch means to retire this tensor; the kernel has no other way in
            warnings.simplefilter("ignore", UserWarning)
            tensor = torch._make_per_channel_quantized_tensor(integers, scales.double(), zeros, 0)
            self.packed = torch.ops.quantized.linear_prepack(tensor, bias)

    def product(self, x: Tensor) -> Tensor:
        # without the instructions that add in 32 bits, sums of 8-bit products may outgrow 16: 7 bits do not
        return torch.ops.quantized.linear_dynamic(x.float(), self.packed, not adds_in_32_bits()).to(x.dtype)  # type: ignore[no-any-return]


class Int4Linear(FrozenLinear):
    """Four bits a weight, a scale and a zero for each GROUP inputs of an output."""

    kind: ClassVar[str] = "int4 numbers with scales"

    def take(self, weight: Tensor) -> None:
        integers, scales, zeros = round_to_int4(weight)
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(integers, 1)
        pairs = torch.stack([scales, zeros], dim=-1)  # [F, D / GROUP, 2]
        self.scales_and_zeros = pairs.to(torch.bfloat16).transpose(0, 1).contiguous()

    def product(self, x: Tensor) -> Tensor:
        short = x.to(torch.bfloat16).contiguous()
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(short, self.packed, GROUP, self.scales_and_zeros)
        y = y.to(x.dtype)
        return y if self.bias is None else y + self.bias  # type: ignore[no-any-return]

    @staticmethod
    def fits(outputs: int, inputs: int) -> bool:
        """Whether the kernel can take a weight [outputs, inputs]."""
        return outputs % 32 == 0 and inputs % GROUP == 0 and has_int4_kernel()


# ---- rounding ----


def round_to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """W [F, D] → q int8 [F, D] and scales float32 [F], W ≈ scale · q."""
    wide = weight.float()
    scales = wide.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (wide / scales[:, None]).round_().clamp_(-127, 127).to(torch.int8), scales


def round_to_int4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """W [F, D] → q int32 [F, D] in 0 … 15, and float32 scales and zeros [F, D / GROUP]; W ≈ scale · (q - 8) +
    zero."""
    groups = weight.float().view(weight.shape[0], -1, GROUP)
    low, high = groups.aminmax(dim=-1)
    scales = ((high - low) / 15).clamp(min=torch.finfo(torch.float32).tiny)
    integers = ((groups - low[..., None]) / scales[..., None]).round_().clamp_(0, 15)
    return integers.int().view_as(weight), scales, low + 8 * scales


def product_by_parts(x: Tensor, integers: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """x [R, D] and W = scale · q [F, D] → x Wᵀ + bias, a part of W at a time: no whole unpacked W is held.
    Sums are in the dtype of `scales`."""
    found = x.new_empty(x.shape[0], integers.shape[0])
    wide = x.to(scales.dtype)
    for start in range(0, integers.shape[0], 4096):
        part = slice(start, start + 4096)
        found[:, part] = F.linear(wide, integers[part].to(wide.dtype)) * scales[part]
    return found if bias is None else found + bias


def _summed_in(dtype: torch.dtype) -> torch.dtype:
    """The dtype for sums of x · q before they are scaled, up to 127 times as large as the weight's own: too
    large for float16."""
    return torch.float32 if dtype is torch.float16 else dtype


# ---- what this machine and this PyTorch have ----


@cache
def has_int8_kernel() -> bool:
    """Whether there is the kernel of int8 weights, tried on a small one."""
    x, integers = torch.ones(1, 32, dtype=torch.bfloat16), torch.ones(32, 32, dtype=torch.int8)
    try:
        y = torch._weight_int8pack_mm(x, integers, torch.ones(32, dtype=torch.bfloat16))
    except (AttributeError, RuntimeError):
        return False
    return bool((y == 32).all())


@cache
def has_int4_kernel() -> bool:
    """Whether there are the kernels of int4 weights, which came after PyTorch 2.5."""
    return hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu")


@cache
def has_packed_kernels() -> bool:
    """Whether PyTorch was built with the kernels of `Float16Linear` and `DynamicInt8Linear`."""
    return bool({"fbgemm", "x86"} & set(torch.backends.quantized.supported_engines))


@cache
def adds_in_32_bits() -> bool:
    """Whether the processor has the instructions (VNNI) that 8-bit products are added with."""
    supported: Any = getattr(torch.cpu, "_is_vnni_supported", None)
    return bool(supported is not None and supported())
