"""Activation functions, by the names that config.json files use.

Several names stand for one function: the hub's configs grew over years. Each entry says which formula it is,
with Φ the cumulative distribution function of the standard normal and σ the logistic function.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, tanh

Activation = Callable[[Tensor], Tensor]


def gelu(x: Tensor) -> Tensor:
    """x · Φ(x) (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    return F.gelu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))): the same paper's approximation, used by GPT-2 and mT5."""
    return F.gelu(x, approximate="tanh")


def gelu_fast(x: Tensor) -> Tensor:
    """The tanh approximation with √(2/π) rounded to 0.7978845608."""
    return 0.5 * x * (1.0 + tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def quick_gelu(x: Tensor) -> Tensor:
    """x · σ(1.702 x)."""
    return x * (1.702 * x).sigmoid()


def gelu_clipped(x: Tensor) -> Tensor:
    """x · Φ(x), held within [-10, 10]."""
    return F.gelu(x).clip(-10.0, 10.0)


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)² (So et al. 2021, arXiv:2109.08668)."""
    return F.relu(x).square()


def laplace(x: Tensor) -> Tensor:
    """(1 + erf((x - μ) / (√2 · σ))) / 2, where μ is √(1/2) and σ is √(1/(4π)), both rounded as in the
    authors' code (Ma et al. 2022, MEGA, arXiv:2209.10655, equation 16)."""
    mean, deviation = 0.707107, 0.282095
    return 0.5 * (1.0 + ((x - mean) / (deviation * math.sqrt(2.0))).erf())


def linear(x: Tensor) -> Tensor:
    """x."""
    return x


ACTIVATIONS: dict[str, Activation] = {
    "gelu": gelu,
    "gelu_python": gelu,
    "gelu_10": gelu_clipped,
    "gelu_new": gelu_tanh,
    "gelu_accurate": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_python_tanh": gelu_tanh,
    "gelu_fast": gelu_fast,
    "quick_gelu": quick_gelu,
    "laplace": laplace,
    "leaky_relu": F.leaky_relu,
    "linear": linear,
    "mish": F.mish,
    "relu": F.relu,
    "relu2": relu_squared,
    "relu6": F.relu6,
    "sigmoid": F.sigmoid,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": F.tanh,
}
