"""float16 and bfloat16: what outgrows float16's range stays in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import seq2seq_zoo
from tests.models import test_mt5_parity as mt5
from tests.models import test_mvp_parity as mvp
from tests.oracle import randomise, relative_error


def overflowing(tmp_path: Path, **options: Any) -> Any:
    """An mT5 whose feed-forward blocks reach far beyond 65,504, as those of the larger released models do."""
    torch.manual_seed(0)
    model = seq2seq_zoo.MT5ForConditionalGeneration(seq2seq_zoo.MT5Config(**{**mt5.SIZE, **options})).eval()
    randomise(model)
    with torch.no_grad():
        for layer in [*model.model.encoder.layers, *model.model.decoder.layers]:
            block = layer.feed_forward
            if hasattr(block, "gate"):  # two factors near 1,000 make a million
                block.up.weight.mul_(300.0)
                block.gate.weight.mul_(300.0)
                block.down.weight.mul_(3.0)
            else:  # a thousand times a hundred, summed
                block.up.weight.mul_(1_000.0)
                block.down.weight.mul_(300.0)
    model.save_pretrained(tmp_path)
    return model


def call() -> dict[str, Any]:
    ids, mask = mt5.source()
    return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": mt5.targets()}


@pytest.mark.parametrize("kind", ["gated-gelu", "relu"])
def test_float16_stays_finite_and_agrees_with_float32(tmp_path: Path, kind: str) -> None:
    full = overflowing(tmp_path, feed_forward_proj=kind)
    widest = 0.0

    def measure(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal widest
        widest = max(widest, float(inputs[0].abs().max()), float(output.abs().max()))

    hooks = [
        layer.feed_forward.down.register_forward_hook(measure)
        for layer in [*full.model.encoder.layers, *full.model.decoder.layers]
    ]
    with torch.no_grad():
        expected = full(**call(), output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    assert widest > 4 * 65504  # beyond float16: a model wholly in float16 would overflow here …

    half = seq2seq_zoo.MT5ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float16)
    with torch.no_grad():
        for got in (half(**call(), output_hidden_states=True), half(**call(), output_attentions=True)):
            assert got.logits.dtype == torch.float16
            assert got.logits.isfinite().all()
            assert relative_error(got.logits.float(), expected.logits) < 2e-2

        naive = seq2seq_zoo.MT5ForConditionalGeneration.from_pretrained(tmp_path)  # … and does:
        for part in naive.modules():
            if type(part).__name__ in ("GatedFeedForward", "FeedForward"):
                part.forward = _all_in_float16.__get__(part)
        naive.half()
        for stack in (naive.model.encoder, naive.model.decoder):
            stack.wide_residual = False
        assert not naive(**call()).logits.isfinite().all()

    # A model converted after loading has rounded weights, but does not overflow either.
    converted = seq2seq_zoo.MT5ForConditionalGeneration.from_pretrained(tmp_path).half()
    with torch.no_grad():
        logits = converted(**call()).logits
    assert logits.isfinite().all()
    assert relative_error(logits.float(), expected.logits) < 2e-2


def _all_in_float16(self: Any, x: torch.Tensor) -> torch.Tensor:
    x = x.half()
    hidden = (
        self.activation(self.gate(x)) * self.up(x) if hasattr(self, "gate") else self.activation(self.up(x))
    )
    return self.down(hidden)  # type: ignore[no-any-return]


def test_float16_generates_the_same_text(tmp_path: Path) -> None:
    full = overflowing(tmp_path)
    half = seq2seq_zoo.MT5ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float16)
    ids, mask = mt5.source()
    for beams in (1, 3):
        expected = full.generate(ids, attention_mask=mask, num_beams=beams, max_new_tokens=4)
        written = half.generate(ids, attention_mask=mask, num_beams=beams, max_new_tokens=4)
        assert written.shape == expected.shape
        assert float((written == expected).float().mean()) > 0.7  # rounding may turn a close choice


@pytest.mark.parametrize("name", ["MT5ForConditionalGeneration", "MvpForConditionalGeneration"])
def test_bfloat16(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    family = mvp if name.startswith("Mvp") else mt5
    config = getattr(seq2seq_zoo, "MvpConfig" if family is mvp else "MT5Config")(**family.SIZE)
    full = getattr(seq2seq_zoo, name)(config).eval()
    full.save_pretrained(tmp_path)
    half = getattr(seq2seq_zoo, name).from_pretrained(tmp_path, dtype="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    ids, mask = family.source()
    with torch.no_grad():
        expected = full(ids, mask, family.targets())
        for options in ({}, {"output_attentions": True}):
            got = half(ids, mask, family.targets(), **options)
            assert got.logits.dtype == torch.bfloat16
            assert relative_error(got.logits.float(), expected.logits) < 5e-2
    assert half.generate(ids, attention_mask=mask, num_beams=2, max_new_tokens=3).shape[0] == 3


def test_loss_and_gradients_in_half_precision(tmp_path: Path) -> None:
    overflowing(tmp_path)
    model = seq2seq_zoo.MT5ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float16)
    ids, mask = mt5.source()
    loss = model(ids, mask, labels=mt5.targets()).loss
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
