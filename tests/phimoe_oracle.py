"""The oracle's PhiMoE beside ours: the small size, pairs with equal weights, padded texts, comparisons.

Beyond what `tests.oracle.float64` lifts, the oracle's attention takes its softmax in float32 whatever the
model's dtype, and its loss of balance counts tokens so; `exactly` lifts both. What stays in float32, in both
libraries, are the angles of the rotary positions: the checkpoints were trained so.

5.x keeps the experts of a layer in two stacks, and the rotary angles in a buffer; it saves the hub's layout.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.models.phimoe import modeling_phimoe

import seq2seq_zoo
from tests.oracle import MAJOR, build, float64, ours_of, randomise, relative_error

SIZE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 5,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
BORDER = 8
LONGROPE: dict[str, Any] = {
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0, 1.3],
        "long_factor": [2.0, 5.0],
        "short_mscale": 1.1,
        "long_mscale": 1.3,
        "original_max_position_embeddings": BORDER,
    }
}
EVERYTHING = {"output_hidden_states": True, "output_attentions": True, "output_router_logits": True}
CLASSES = ("PhimoeModel", "PhimoeForCausalLM", "PhimoeForSequenceClassification")


class _Torch:
    """PyTorch, to a module in which float32 is to be float64."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextlib.contextmanager
def exactly() -> Iterator[None]:
    """`float64`, the oracle's softmax and its loss of balance included."""
    softmax, balance = torch.nn.functional.softmax, modeling_phimoe.load_balancing_loss_func

    def softmax_in_own_dtype(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
        return softmax(x, dim=dim, dtype=None if x.dtype == torch.float64 else dtype)

    def balance_in_float64(*arguments: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(modeling_phimoe, "torch", _Torch())
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
            return balance(*arguments)

    with float64(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "softmax", softmax_in_own_dtype)
        patch.setattr(modeling_phimoe, "load_balancing_loss_func", balance_in_float64)
        yield


def their_config(**options: Any) -> Any:
    """The oracle's small config; its 5.x has several ways to apply experts, of which one takes float64."""
    config = transformers.PhimoeConfig(**copy.deepcopy({**SIZE, **options}))
    config._experts_implementation = "eager"
    return config


def theirs_at_random(name: str, *, mend: bool = True, **options: Any) -> Any:
    """The oracle's class in eval mode, random throughout; `mend` what 5.23 does with LongRoPE."""
    config = their_config(**options)
    theirs = build(name, config)
    body = theirs if name == "PhimoeModel" else theirs.model
    body.rotary_emb = type(body.rotary_emb)(config)  # its angles are a buffer in 5.x, and no weights
    if MAJOR == 5 and mend:
        _use_long_factors(body.rotary_emb)
    return theirs


def _use_long_factors(rotary: Any) -> None:
    """5.23 chooses between LongRoPE's sets of factors by length, and then computes with the short ones:
    let it compute with those it has chosen."""
    factors, forward = rotary.rope_init_fn, rotary.forward

    def by_length(x: Tensor, position_ids: Tensor) -> Any:
        length = int(position_ids.max()) + 1
        rotary.rope_init_fn = lambda config: factors(config, seq_len=length)
        return forward(x, position_ids=position_ids)

    if rotary.rope_type == "longrope":
        rotary.forward = by_length


def ours_at_random(name: str = "PhimoeForCausalLM", **options: Any) -> Any:
    model = getattr(seq2seq_zoo, name)(seq2seq_zoo.PhimoeConfig(**{**SIZE, **options})).eval()
    randomise(model)
    return model


def varied(model: Any) -> Any:
    """A writer of either library, made to say different things: what does not depend on the text is taken out
    of its scores."""
    body = model.model
    table = model.get_input_embeddings().weight
    norm = body.norm if hasattr(body, "norm") else body.stack.final_norm
    with torch.no_grad():
        table.mul_(6.0)
        norm.bias.zero_()
        if model.lm_head.bias is not None:
            model.lm_head.bias.zero_()
    return model


def pair(name: str, folder: Any, **options: Any) -> tuple[Any, Any]:
    theirs = theirs_at_random(name, **options)
    return theirs, ours_of(theirs, getattr(seq2seq_zoo, name), folder)


def text(length: int = 12, side: str = "full", seed: int = 1) -> tuple[Tensor, Tensor]:
    """ids [3, length] and their mask; with a side, rows of length, length - 2 and length - 3 real tokens."""
    ids = torch.randint(3, 61, (3, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(3, length, dtype=torch.long)
    for row, hidden in enumerate((0, 2, 3) if side != "full" else (0, 0, 0)):
        columns = slice(length - hidden, None) if side == "right" else slice(0, hidden)
        ids[row, columns], mask[row, columns] = 0, 0
    return ids, mask


def counted(mask: Tensor) -> Tensor:
    """The position of each token among the real ones of its row."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def assert_real_parts_agree(ours: Any, theirs: Any, mask: Tensor, *, but: str = "") -> None:
    """Every field of two outputs agrees where `mask` [B, L] is not 0, but for the one named."""
    real, (rows, length) = mask.bool(), mask.shape
    assert sorted(ours.keys()) == sorted(theirs.keys())  # (of a body's, 5.x changes the order)
    for name in theirs:
        if name in ("past_key_values", but):
            continue
        pairs = zip(_tensors(ours[name]), _tensors(theirs[name]), strict=True)
        for mine, other in pairs:
            if name == "router_logits":
                mine, other = (x.view(rows, length, -1) for x in (mine, other))
            if name == "attentions":
                mine, other = (x.transpose(1, 2) for x in (mine, other))  # [B, H, L, S] → [B, L, H, S]
            if mine.dim() > 2:
                mine, other = mine[real], other[real]
            error = relative_error(mine, other)
            assert error <= 1e-9, f"{name}: {error:.1e}"


def _tensors(value: Any) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)


def as_stored(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """The oracle's gradients by the hub's keys; of experts nobody chose, which 4.x leaves out, they are 0."""
    stored = {}
    for key, gradient in gradients.items():
        key = key.replace(".mlp.router.", ".block_sparse_moe.gate.")
        if key.endswith("gate_up_proj"):
            prefix = key.removesuffix("gate_up_proj").replace(".mlp.", ".block_sparse_moe.")
            for number, (gate, up) in enumerate(x.chunk(2) for x in gradient):
                stored |= {f"{prefix}{number}.w1.weight": gate, f"{prefix}{number}.w3.weight": up}
        elif key.endswith("experts.down_proj"):
            prefix = key.removesuffix("down_proj").replace(".mlp.", ".block_sparse_moe.")
            stored |= {f"{prefix}{number}.w2.weight": x for number, x in enumerate(gradient)}
        else:
            stored[key] = gradient
    for key in [key for key in stored if ".experts." in key]:
        start, _, end = key.partition(".experts.")
        for number in range(SIZE["num_local_experts"]):
            name = f"{start}.experts.{number}.{end.partition('.')[2]}"
            stored.setdefault(name, torch.zeros_like(stored[key]))
    return stored
