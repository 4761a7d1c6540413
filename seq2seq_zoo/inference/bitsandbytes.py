"""Weights rounded by bitsandbytes while a model is loaded: 8 bits as in Dettmers et al. 2022,
arXiv:2208.07339, 4 bits as in Dettmers et al. 2023, arXiv:2305.14314.

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = MT5ForConditionalGeneration.from_pretrained(where, quantization_config=config)

The library comes with the extra of its name. It has kernels for several kinds of accelerators, and for CPUs.
What it rounds are the linear layers inside a model's stacks, experts included; routers, heads, embeddings and
norms stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import ConfigError, MissingExtraError
from ..layers.experts import Experts
from ..layers.router import SparseMixer
from ..layers.transformer import Stack
from .experts import FrozenExperts
from .frozen import FrozenLinear

DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16")}


@dataclass
class BitsAndBytesConfig:
    """How bitsandbytes rounds; names and defaults are those of the documentation of transformers."""

    load_in_8bit: bool = False
    """Eight bits a weight, a scale an output; columns of x that stick out are multiplied in 16 bits."""
    load_in_4bit: bool = False
    """Four bits a weight, a scale for each 64."""
    llm_int8_threshold: float = 6.0
    """8 bits: a column of x with a number beyond it sticks out."""
    llm_int8_skip_modules: list[str] | None = None
    """Names of modules, or of what they are inside of, whose weights stay."""
    llm_int8_enable_fp32_cpu_offload: bool = False
    """Of no account here, where a model is on one device; accepted, since it is documented."""
    llm_int8_has_fp16_weight: bool = False
    """8 bits: keep the weights in 16 bits, and round them in every call."""
    bnb_4bit_compute_dtype: torch.dtype | str = torch.float32
    """4 bits: the dtype of all arithmetic."""
    bnb_4bit_quant_type: str = "fp4"
    """4 bits: "nf4", whose sixteen values suit normally distributed weights, or "fp4"."""
    bnb_4bit_use_double_quant: bool = False
    """4 bits: round the scales as well."""
    bnb_4bit_quant_storage: torch.dtype | str = torch.uint8
    """4 bits: the dtype that the bits are kept in."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "bool" and not isinstance(value, bool):
                raise ConfigError(f"{field.name} is {value!r}; it must be True or False")
        if self.load_in_4bit == self.load_in_8bit:
            both = "both" if self.load_in_4bit else "neither"
            raise ConfigError(f"{both} of load_in_4bit and load_in_8bit are set; one must be")
        if self.bnb_4bit_quant_type not in ("fp4", "nf4"):
            raise ConfigError(
                f"bnb_4bit_quant_type is {self.bnb_4bit_quant_type!r}; it must be 'fp4' or 'nf4'"
            )
        if isinstance(self.llm_int8_threshold, bool) or not isinstance(self.llm_int8_threshold, (int, float)):
            raise ConfigError(f"llm_int8_threshold is {self.llm_int8_threshold!r}; it must be a number")
        self.bnb_4bit_compute_dtype = _dtype("bnb_4bit_compute_dtype", self.bnb_4bit_compute_dtype, DTYPES)
        storages = DTYPES | {"uint8": torch.uint8, "int8": torch.int8}
        self.bnb_4bit_quant_storage = _dtype("bnb_4bit_quant_storage", self.bnb_4bit_quant_storage, storages)

    def check(self, model_class: str) -> None:
        """Raise MissingExtraError if the library is absent: called before a model is loaded."""
        try:
            import bitsandbytes  # noqa: F401
        except ImportError as problem:
            raise MissingExtraError(
                f"{model_class} was given a quantization_config, which needs bitsandbytes; "
                "install it with: pip install 'seq2seq-zoo[bitsandbytes]'"
            ) from problem

    def quantize(self, model: nn.Module) -> None:
        """Round the weights of a loaded model, in place."""
        routers = {part.scores for part in model.modules() if isinstance(part, SparseMixer)}
        stacks = [f"{name}." for name, part in model.named_modules() if isinstance(part, Stack)]
        for name, part in list(model.named_modules()):
            if not name.startswith(tuple(stacks)) or self._skips(name):
                continue
            if isinstance(part, nn.Linear) and part not in routers:
                self._freeze(part)
            elif isinstance(part, Experts):
                FrozenExperts.freeze(part, self._freeze)

    def _freeze(self, linear: nn.Linear) -> None:
        BitsAndBytesLinear.freeze(linear, config=self)

    def _skips(self, name: str) -> bool:
        skipped = self.llm_int8_skip_modules or []
        return any(f".{each}." in f".{name}." for each in skipped)

    def rounded(self, weight: Tensor) -> nn.Module:
        """bitsandbytes' own layer with the rounded weight [F, D], without a bias."""
        from bitsandbytes import nn as bnb

        outputs, inputs = weight.shape
        if self.load_in_8bit:
            eight = bnb.Linear8bitLt(
                inputs,
                outputs,
                bias=False,
                has_fp16_weights=self.llm_int8_has_fp16_weight,
                threshold=self.llm_int8_threshold,
            )
            eight.weight = bnb.Int8Params(
                weight.clone(), requires_grad=False, has_fp16_weights=self.llm_int8_has_fp16_weight
            )
            return eight.to(weight.device).eval()  # type: ignore[no-any-return]  # rounds
        options = {
            "quant_type": self.bnb_4bit_quant_type,
            "compress_statistics": self.bnb_4bit_use_double_quant,
            "quant_storage": self.bnb_4bit_quant_storage,
        }
        four = bnb.Linear4bit(
            inputs, outputs, bias=False, compute_dtype=self.bnb_4bit_compute_dtype, **options
        )
        four.weight = bnb.Params4bit(weight.clone(), requires_grad=False, module=four, **options)
        four = four.to(weight.device)
        # In eval mode it repacks the weight for a CPU's 16-bit products, which come in blocks of 32 times 64.
        odd = weight.device.type == "cpu" and (outputs % 32 or inputs % 64)
        return four.train(bool(odd))  # type: ignore[no-any-return]


class BitsAndBytesLinear(FrozenLinear):
    """A linear layer whose weight bitsandbytes has rounded and multiplies by."""

    kind: ClassVar[str] = "numbers that bitsandbytes has rounded"

    def take(self, weight: Tensor, config: BitsAndBytesConfig) -> None:  # type: ignore[override]
        self._rounded = (config.rounded(weight.contiguous()),)  # in a tuple: it keeps a mode of its own

    def product(self, x: Tensor) -> Tensor:
        y: Tensor = self._rounded[0](x)
        return y if self.bias is None else y + self.bias


def _dtype(name: str, given: Any, allowed: dict[str, torch.dtype]) -> torch.dtype:
    for each, dtype in allowed.items():
        if given in (each, dtype):
            return dtype
    raise ConfigError(f"{name} is {given!r}; it must be one of {', '.join(allowed)}")
