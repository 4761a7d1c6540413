"""Layers that are copied, not built, differ in nothing from built ones, and share nothing that changes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from seq2seq_zoo import BertGenerationConfig, MegaConfig, MT5Config, MvpConfig, PhimoeConfig
from seq2seq_zoo.config import Config
from seq2seq_zoo.layers.alike import alike

CASES: list[tuple[str, str, Config]] = [
    ("mt5", "MT5Model", MT5Config(num_layers=3, feed_forward_proj="gated-silu")),
    ("mvp", "MvpModel", MvpConfig(encoder_layers=3, decoder_layers=3, use_prompt=True)),
    ("mega", "MegaModel", MegaConfig(num_hidden_layers=3)),
    (
        "mega",
        "MegaModel",
        MegaConfig(
            num_hidden_layers=3,
            relative_positional_bias="rotary",
            is_decoder=True,
            add_cross_attention=True,
            bidirectional=False,
            normalization_type="batchnorm",
        ),
    ),
    ("phimoe", "PhimoeModel", PhimoeConfig(num_hidden_layers=3)),
    (
        "bert_generation",
        "BertGenerationEncoder",
        BertGenerationConfig(num_hidden_layers=3, position_embedding_type="relative_key_query"),
    ),
]


def plainly(build: Callable[[], nn.Module], count: int) -> list[nn.Module]:
    return [build() for _ in range(count)]


def described(value: Any, seen: dict[int, int]) -> Any:
    """All that a module holds, tensors by what can be known of them and by which of them are one."""
    if isinstance(value, (nn.Module, torch.Tensor)) and id(value) in seen:
        return ("again", seen[id(value)])
    if isinstance(value, nn.Module):
        seen[id(value)] = len(seen)
        return (type(value), {name: described(held, seen) for name, held in vars(value).items()})
    if isinstance(value, torch.Tensor):
        seen[id(value)] = len(seen)
        return (type(value), value.shape, value.dtype, value.device, value.requires_grad, vars(value))
    if isinstance(value, dict):
        return (type(value), [(key, described(held, seen)) for key, held in value.items()])
    return (type(value), value)


def changing(layer: nn.Module) -> Iterator[Any]:
    """What a layer holds that could change: to share one of these would be to change two layers."""
    for part in layer.modules():
        yield part
        for held in vars(part).values():
            if isinstance(held, (dict, set, list)):
                yield held
        yield from part.parameters(recurse=False)
        yield from part.buffers(recurse=False)


@pytest.mark.parametrize(("file", "name", "config"), CASES)
def test_copies_are_as_if_built(
    monkeypatch: pytest.MonkeyPatch, file: str, name: str, config: Config
) -> None:
    family = importlib.import_module(f"seq2seq_zoo.models.{file}")
    with torch.device("meta"):
        made = getattr(family, name)(config)
        monkeypatch.setattr(family, "alike", plainly)
        built = getattr(family, name)(config)
    stacks = 0
    for path, part in made.named_modules():
        if isinstance(part, nn.ModuleList) and len(part) == 3 and path.endswith("layers"):
            stacks += 1
            for copied, plain in zip(part, built.get_submodule(path), strict=True):
                assert described(copied, {}) == described(plain, {})
            held = [what for layer in part for what in changing(layer)]
            assert len({id(what) for what in held}) == len(held)
    assert stacks >= 1


class Tied(nn.Module):
    """A part under two names, a weight under two, a buffer, and a note."""

    def __init__(self) -> None:
        super().__init__()
        self.one = self.other = nn.Linear(3, 3)
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight = self.one.weight
        self.register_buffer("mark", torch.zeros(2), persistent=False)
        self.note = {"of": [self.one]}


def test_what_is_one_within_a_module_is_one_in_its_copy() -> None:
    with torch.device("meta"):
        first, second = alike(Tied, 2)
    assert second.one is second.other
    assert second.head.weight is second.one.weight
    assert second.note["of"][0] is second.one
    assert second.one is not first.one
    assert second.mark is not first.mark
    assert second._non_persistent_buffers_set == {"mark"}
    assert second._non_persistent_buffers_set is not first._non_persistent_buffers_set


def test_values_are_never_copied() -> None:
    torch.manual_seed(0)
    first, second = alike(lambda: nn.Linear(3, 3), 2)
    torch.manual_seed(0)
    for layer in (first, second):
        assert torch.equal(layer.weight, nn.Linear(3, 3).weight)
    assert not torch.equal(first.weight, second.weight)
    assert alike(Tied, 0) == []


def test_parts_that_are_not_trained_are_built() -> None:
    def build() -> nn.Linear:
        return nn.Linear(3, 3, device="meta").requires_grad_(False)

    assert [layer.weight.requires_grad for layer in alike(build, 2)] == [False, False]
