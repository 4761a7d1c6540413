"""Who may attend to whom: one boolean mask, made once a pass.

True means "may attend". The mask is [B or 1, 1, L, P + S]: L queries, and S keys behind P columns of a prefix
prompt, which everybody may see. Four rules compose here:

    padding     a key that is padding is attended by nobody (either side; holes; or a [B, L, S] mask
                of one's own, which is how packed rows keep to themselves)
    causality   query i, standing at position `past` + i, sees keys at positions up to its own
    window      a query sees the last `window` real keys up to its own position, and none before them
    nobody      a query that may attend to nothing is let attend to itself (to everything, where it is not
                among the keys): its result means nothing, and nobody attends to it, but it is finite, and the
                same in every implementation of attention and in steps of any size

    padding [1 1 0], causal, past 0           past 2, one query
        keys   0 1 2                              keys   0 1 2
    query 0    ■ □ □                          query 2    ■ ■ □
          1    ■ ■ □
          2    ■ ■ □

None stands for the mask that hides nothing, so that the common cases cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def padding_mask(attention_mask: Tensor | None) -> Tensor | None:
    """A caller's mask of ones and zeros as booleans, or None if it hides nothing.

    [B, S] or [B, L, S] or [B, 1, L, S], any dtype, non-zero = real → bool of the same shape. Raises
    ValueError for negative values (on the CPU, where looking costs nothing): they are of a mask to be added
    to scores, whose 0 means the opposite.
    """
    if attention_mask is None:
        return None
    mask = attention_mask if attention_mask.dtype == torch.bool else attention_mask != 0
    # Looking at the values stalls an accelerator and breaks a traced graph; there the mask is simply applied.
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return mask
    if bool(mask.all()):
        return None
    if attention_mask.dtype != torch.bool and bool((attention_mask < 0).any()):
        raise ValueError(
            f"the attention mask holds {float(attention_mask.min()):g}; it must be 1 where a position is "
            "real and 0 where it is padding"
        )
    return mask


def real_positions(attention_mask: Tensor | None) -> Tensor | None:
    """The position of each token among its row's real ones, int64 [B, S]; None if there is no padding."""
    real = padding_mask(attention_mask)
    return None if real is None else (torch.cumsum(real, dim=1) - 1).clamp(min=0)


def check_mask(
    attention_mask: Tensor | None, name: str, *, rows: Sequence[int], queries: int, keys: int
) -> None:
    """Raise ValueError unless a caller's mask is a tensor that covers `keys` positions, and has 1 or one of
    these `rows`.

    It stands apart from what follows because a mask that hides nothing is dropped early, whatever its shape.
    """
    if attention_mask is None:
        return
    if not isinstance(attention_mask, Tensor):
        raise ValueError(f"{name} is a {type(attention_mask).__name__}; it must be a tensor")
    shape = list(attention_mask.shape)
    if len(shape) not in (2, 3, 4):
        raise ValueError(f"{name} has shape {shape}; it must be [batch, keys] or [batch, queries, keys]")
    if shape[-1] != keys:
        raise ValueError(
            f"{name} has shape {shape}; its last dimension must cover all {keys} positions, those decoded "
            "earlier included"
        )
    if shape[0] not in (1, *rows):
        raise ValueError(f"{name} has shape {shape}; it must have {' or '.join(map(str, rows))} rows")
    if len(shape) > 2 and shape[-2] not in (1, queries):
        raise ValueError(f"{name} has shape {shape}; it must have a row for each of {queries} queries")


def may_attend(
    padding: Tensor | None,
    *,
    queries: int,
    keys: int,
    past: int = 0,
    causal: bool = False,
    window: int | None = None,
    prefix: int = 0,
    device: torch.device | None = None,
) -> Tensor | None:
    """The mask of one pass: [B or 1, 1, queries or 1, prefix + keys], True = may attend; None if all may.

    `padding` is bool, [B, keys] or [B, queries, keys] or [B, 1, queries, keys]; `past` counts the keys that
    stand before the first query; `prefix` the columns that a prefix prompt puts in front of the keys. A
    `window` (Child et al. 2019, arXiv:1904.10509; Beltagy et al. 2020, arXiv:2004.05150) does not count
    padding, unless each query has a mask of its own.
    """
    mask: Tensor | None = None
    if padding is not None:
        # [B, S] → [B, 1, 1, S];  [B, L, S] → [B, 1, L, S]
        mask = padding[:, None, None, :] if padding.dim() == 2 else padding
        mask = mask[:, None] if mask.dim() == 3 else mask
    query_at = torch.arange(past, past + queries, device=device)[:, None]
    key_at = torch.arange(keys, device=device)
    if causal and keys > past + 1:  # otherwise the only query comes last and sees every key
        causality = (key_at <= query_at)[None, None]  # [1, 1, L, S]
        mask = causality if mask is None else mask & causality
    if window is not None and keys > window:
        if padding is not None and padding.dim() == 2:
            real = padding.cumsum(-1)[:, None]  # [B, 1, S]
            near = real[:, :, None] > real[..., past : past + queries, None] - window  # [B, 1, L, S]
        else:
            near = (key_at > query_at - window)[None, None]  # [1, 1, L, S]
        mask = near if mask is None else mask & near
    if mask is None:
        return None
    if prefix:
        mask = torch.cat([mask.new_ones(*mask.shape[:-1], prefix), mask], dim=-1)
    if padding is not None and not prefix:  # causality lets every query see itself; a prefix is seen by all
        nobody = ~mask.any(-1, keepdim=True)
        mask = mask | (nobody & (key_at == query_at) if causal else nobody)
    return mask
