"""What generation knows about a model: the smallest protocol that serves every family.

A *source* is one input of the batch; a *row* is one text being written for it (a beam, or one of several
samples). Rows are source-major: with k rows per source, rows s·k … s·k+k-1 belong to source s, R = sources
· k.

    decoding = model.begin_decoding(inputs, rows_per_source=k, ...)      encoder runs here, once per source
    output   = decoding.step(prompt)         [R, n] ids → [R, V] logits  the whole prompt at first
    decoding.reorder(parents)                                            beams: row r continues row parents[r]
    output   = decoding.step(new_tokens)     [R, 1] ids → [R, V] logits  then one token a row
    output   = decoding.step(draft, last=n)  [R, n] ids → [R, n, V]      or a draft, all of it judged at once,
    decoding.crop(length)                                                and what is wrong taken back

Everything a model must remember between steps (keys and values, recurrent state, masks, positions) lives in
its `Decoding`, never on the model, so that two threads can decode with one model. The loops hold the ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from seq2seq_zoo.generation.config import GenerationConfig


@dataclass(frozen=True)
class StepOutput:
    """What one step computes. The loops only read these tensors; `logits` may be a view that shares memory.

    logits: [R, V], of the last given position, in the model's dtype; or [R, n, V], of the last n.
    attentions: the decoder's self-attention weights, one tensor a layer; None unless asked for.
    cross_attentions: its weights over the source, one tensor a layer; None for a model without a source.
    hidden_states: the decoder's hidden states, the embedding's first; None unless asked for.
    negative: logits of the negative prompt's branch (see `guidance`); None without one.
    """

    logits: Tensor
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    negative: Tensor | None = None


class Decoding(Protocol):
    """One run: the state of R rows of text that are being continued."""

    @property
    def encoder_outputs(self) -> Any:
        """What the encoder computed, one row a source; None for a model without an encoder."""

    @property
    def state(self) -> Any:
        """What the model's `past_key_values` takes, to go on elsewhere; None where nothing is kept."""

    def step(
        self,
        ids: Tensor,
        *,
        last: int | None = None,
        chunk: int | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> StepOutput:
        """Append `ids` [R, n] to every row and predict what follows the last position (logits [R, V]), or,
        with `last`, what follows each of the last so many of them ([R, last, V]).

        In the first step `ids` is the whole prompt, and the rows of one source are equal: an implementation
        may compute one of them and share it. Where the inputs of a decoder-only model hold `inputs_embeds`,
        the first step's `ids` are what the embeddings stand for ([R, 0] if the caller has none): the
        embeddings are read in their place. `chunk` asks for at most so many positions in one pass.
        """

    def make_static(self, *, compiled: bool) -> None:
        """Called before the first step where cache_implementation is "static": the steps of one token are
        to be all of the same shapes, and on a GPU one graph, if `compiled`. Only a wish: steps write the same
        whether or not an implementation follows it."""

    def reorder(self, rows: Tensor) -> None:
        """From now on row r continues what row `rows[r]` was. `rows` [R] int64 stays within each source."""

    def crop(self, length: int) -> None:
        """Forget all but the first `length` positions of every row.

        Always possible within the positions of the last step, and to 0; a recurrent state raises ValueError,
        and is unchanged, where it cannot go back further.
        """


class GenerativeModel(Protocol):
    """A model that `generate` can drive.

    generation_config: the checkpoint's defaults.
    config: has `vocab_size`; or, for a pair of models, `encoder` and `decoder` that have one each.
    is_encoder_decoder: whether ids continue a decoder prompt (True) or the input itself (False).
    max_positions: how many positions the decoder can read; None where nothing limits it.
    source_positions: how many the encoder can read; None where nothing limits it, or there is none.
    generation_inputs: the names of the keywords of `generate` that are the model's own, such as input_ids,
        attention_mask, inputs_embeds, encoder_outputs, decoder_input_ids, decoder_attention_mask.
    """

    @property
    def generation_config(self) -> GenerationConfig: ...
    @property
    def config(self) -> Any: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def is_encoder_decoder(self) -> bool: ...
    @property
    def max_positions(self) -> int | None: ...
    @property
    def source_positions(self) -> int | None: ...
    @property
    def generation_inputs(self) -> frozenset[str]: ...

    def begin_decoding(
        self,
        inputs: Mapping[str, Any],
        *,
        rows_per_source: int,
        capacity: int,
        use_cache: bool,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> Decoding:
        """Run the encoder, if there is one, and make room for `capacity` positions a row.

        `inputs` holds the model's own keywords, one row a source, never repeated for its rows: for an
        encoder-decoder the source (input_ids or inputs_embeds, or encoder_outputs in their place),
        attention_mask and decoder_attention_mask (of the prompt; new positions may always be attended to);
        for a decoder the attention_mask of the prompt, or inputs_embeds. The prompt's ids come with the
        first step. With `use_cache=False` every step recomputes all positions. The two output flags are for
        the encoder; the decoder is asked at each step. Neither `inputs` nor what it holds is changed.
        """
