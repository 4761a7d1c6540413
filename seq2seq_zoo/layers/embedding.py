"""From token ids to the first hidden vectors of a stack."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .positions import LearnedPositions


def check_ids(ids: Tensor, vocabulary: int, name: str = "input_ids", size_name: str = "vocab_size") -> None:
    """Raise ValueError for ids that are no whole numbers, and for one outside 0 … vocabulary - 1 (on the CPU,
    where looking costs nothing)."""
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} is of {ids.dtype}; ids must be of torch.int64")
    if ids.device.type != "cpu" or ids.numel() == 0 or torch.compiler.is_compiling():
        return
    low, high = (int(bound) for bound in ids.aminmax())
    if low < 0 or high >= vocabulary:
        outside = low if low < 0 else high
        raise ValueError(
            f"{name} holds the id {outside}; ids must be in 0 … {vocabulary - 1} ({size_name} - 1)"
        )


class InputEmbedding(nn.Module):
    """The sum of what is known about each input position, normalised.

    x_i = dropout(norm(scale · tokens[id_i] + token_types[type_i] + positions[i]))

    ids int64 [B, L] (or their vectors [B, L, D], which are not scaled) → x [B, L, D]. `token_types`,
    `positions` and `norm` may be absent. `tokens` is often shared with another stack and with the output
    head."""

    def __init__(
        self,
        tokens: nn.Embedding,
        *,
        token_types: nn.Embedding | None = None,
        positions: LearnedPositions | None = None,
        norm: nn.Module | None = None,
        scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.token_types = token_types
        self.positions = positions
        self.norm = norm
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    @property
    def limit(self) -> int | None:
        """How many positions it has learnt; None where it has none to learn."""
        return None if self.positions is None else self.positions.weight.shape[0] - self.positions.offset

    def vectors(self, ids: Tensor) -> Tensor:
        """The scaled token vectors alone: [B, L] → [B, L, D]."""
        check_ids(ids, self.tokens.num_embeddings)
        found: Tensor = self.tokens(ids)
        return found if self.scale == 1.0 else found * self.scale

    def forward(
        self,
        ids: Tensor | None,
        vectors: Tensor | None = None,
        *,
        start: int = 0,
        positions: Tensor | None = None,
        types: Tensor | None = None,
    ) -> Tensor:
        """Either ids or vectors must be given; vectors win.

        `start` is the position of the first id; `positions` int64 [B or 1, L] are those of all, where they do
        not count on from it. `types` int64 [B or 1, L] are the token types, all 0 if absent.
        """
        if vectors is None and ids is None:
            raise ValueError("neither ids nor vectors were given; one of them must be")
        x = self.vectors(ids) if vectors is None and ids is not None else vectors
        assert x is not None
        if x.shape[-1] != self.tokens.embedding_dim:
            raise ValueError(
                f"inputs_embeds are {x.shape[-1]} wide; they must be {self.tokens.embedding_dim}"
            )
        if self.token_types is not None:
            if types is None:
                types = torch.zeros(1, x.shape[1], dtype=torch.long, device=x.device)
            check_ids(types, self.token_types.num_embeddings, "token_type_ids", "type_vocab_size")
            x = x + self.token_types(types)
        if self.positions is not None:
            x = x + (self.positions(start, x.shape[1]) if positions is None else self.positions.at(positions))
        if self.norm is not None:
            x = self.norm(x)
        return self.dropout(x)  # type: ignore[no-any-return]
