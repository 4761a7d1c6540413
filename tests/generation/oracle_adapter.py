"""Models of transformers behind our protocol, so that both generate functions drive the very same network.

The encoder's tensors are repeated for a source's rows and the whole text is kept: slow and plain, as a test's
model should be.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import torch
import transformers

from seq2seq_zoo.generation import GenerationConfig, StepOutput, generate


class OracleModel:
    """A transformers model that speaks the protocol; `oracle` is the model itself."""

    def __init__(self, oracle):
        self.oracle = oracle
        self.config = oracle.config
        self.is_encoder_decoder = oracle.config.is_encoder_decoder
        options = oracle.generation_config.to_diff_dict()
        self.generation_config = GenerationConfig.from_dict(options)
        self.max_positions = getattr(oracle.config, "max_position_embeddings", None)
        self.source_positions = self.max_positions if self.is_encoder_decoder else None
        self.generation_inputs = frozenset(("input_ids", "attention_mask", "inputs_embeds"))
        if self.is_encoder_decoder:
            self.generation_inputs |= {"encoder_outputs", "decoder_input_ids", "decoder_attention_mask"}
        self.device = torch.device("cpu")
        self.runs = 0

    def begin_decoding(self, inputs, *, rows_per_source, capacity, use_cache, **flags):
        self.runs += 1
        kind = EncoderDecoderDecoding if self.is_encoder_decoder else DecoderDecoding
        return kind(self.oracle, dict(inputs), rows_per_source, capacity, use_cache, flags)

    def generate(self, *args, **kwargs):
        return generate(self, *args, **kwargs)


class EncoderDecoderDecoding:
    def __init__(self, oracle, inputs, rows_per_source, capacity, use_cache, flags):
        self.oracle, self.use_cache, self.capacity = oracle, use_cache, capacity
        self.encoder_outputs = inputs.pop("encoder_outputs", None)
        decoder_mask = inputs.pop("decoder_attention_mask", None)
        if self.encoder_outputs is None:
            self.encoder_outputs = oracle.get_encoder()(**inputs, **flags, return_dict=True)
        hidden = self.encoder_outputs[0].repeat_interleave(rows_per_source, dim=0)
        mask = inputs.get("attention_mask")
        self.fixed = {
            "encoder_outputs": transformers.modeling_outputs.BaseModelOutput(last_hidden_state=hidden),
            "attention_mask": None if mask is None else mask.repeat_interleave(rows_per_source, dim=0),
        }
        self.mask = None if decoder_mask is None else decoder_mask.repeat_interleave(rows_per_source, dim=0)
        self.ids = torch.empty(hidden.shape[0], 0, dtype=torch.long)
        self.past = None

    @property
    def state(self):
        return self.past

    def step(self, ids, *, last=None, chunk=None, **flags):
        self.ids = torch.cat((self.ids, ids), dim=1)
        assert self.ids.shape[1] <= self.capacity
        extra = {}
        if self.mask is not None:
            missing = self.ids.shape[1] - self.mask.shape[1]
            self.mask = torch.cat((self.mask, self.mask.new_ones(len(self.mask), missing)), dim=1)
            extra["decoder_attention_mask"] = self.mask
        output = self.oracle(
            **self.fixed,
            **extra,
            **flags,
            decoder_input_ids=ids if self.past is not None else self.ids,
            past_key_values=self.past,
            use_cache=self.use_cache,
            return_dict=True,
        )
        self.past = output.past_key_values if self.use_cache else None
        return StepOutput(
            output.logits[:, -1] if last is None else output.logits[:, -last:],
            output.decoder_attentions,
            output.cross_attentions,
            output.decoder_hidden_states,
        )

    def make_static(self, *, compiled):
        """What is not there to be followed."""

    def reorder(self, rows):
        self.ids = self.ids[rows]
        if self.past is not None:
            self.past.reorder_cache(rows)


class DecoderDecoding:
    encoder_outputs = None

    def __init__(self, oracle, inputs, rows_per_source, capacity, use_cache, flags):
        self.oracle, self.use_cache, self.capacity = oracle, use_cache, capacity
        rows = {name: value.repeat_interleave(rows_per_source, dim=0) for name, value in inputs.items()}
        self.embeds = rows.get("inputs_embeds")
        self.mask = rows.get("attention_mask")
        self.ids, self.past = None, None

    @property
    def state(self):
        return self.past

    def step(self, ids, *, last=None, chunk=None, **flags):
        first = self.ids is None
        self.ids = ids if first else torch.cat((self.ids, ids), dim=1)
        length = self.ids.shape[1]
        if self.embeds is not None:
            length += self.embeds.shape[1] - self.start if not first else 0
            if first:
                self.start = length
                length = self.embeds.shape[1]
        assert length <= self.capacity
        if self.mask is None:
            self.mask = torch.ones(len(self.ids), length, dtype=torch.long)
        missing = length - self.mask.shape[1]
        self.mask = torch.cat((self.mask, self.mask.new_ones(len(self.mask), missing)), dim=1)
        positions = (self.mask.cumsum(-1) - 1).masked_fill(self.mask == 0, 1)
        if first and self.embeds is not None:
            fresh = {"inputs_embeds": self.embeds}
        else:
            fresh = {"input_ids": ids if self.past is not None else self.ids}
        new = next(iter(fresh.values())).shape[1]
        output = self.oracle(
            **fresh,
            **flags,
            attention_mask=self.mask,
            position_ids=positions[:, -new:],
            past_key_values=self.past,
            use_cache=self.use_cache or self.embeds is not None,
            logits_to_keep=last or 1,
            return_dict=True,
        )
        self.past = output.past_key_values if self.use_cache or self.embeds is not None else None
        logits = output.logits[:, -1] if last is None else output.logits[:, -last:]
        return StepOutput(logits, output.attentions, None, output.hidden_states)

    def make_static(self, *, compiled):
        """What is not there to be followed."""

    def reorder(self, rows):
        self.ids = self.ids[rows]
        self.mask = self.mask[rows]
        if self.past is not None:
            self.past.reorder_cache(rows)


def _lively(model, seed, scale):
    """Random weights large enough for texts to differ, and for a text to depend on its source."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, scale, generator=generator)
    return model.eval()


def make_mvp(seed=0):
    config = transformers.MvpConfig(
        vocab_size=40,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=40,
        forced_eos_token_id=None,
        dropout=0.0,
    )
    model = _lively(transformers.MvpForConditionalGeneration(config), seed, 0.35)
    model.final_logits_bias[0, config.eos_token_id] = 2.0
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2
    )
    return OracleModel(model)


def make_mt5(seed=0, dtype=torch.float32):
    config = transformers.MT5Config(
        vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=3, dropout_rate=0.0,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = _lively(transformers.MT5ForConditionalGeneration(config), seed, 0.35)
    head = torch.nn.Linear(config.d_model, config.vocab_size)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.zero_()[config.eos_token_id] = 2.0
    model.lm_head = head
    model.generation_config = transformers.GenerationConfig(
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0
    )
    return OracleModel(model.to(dtype))


def make_gpt2(seed=0):
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=48, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.0, attn_pdrop=0.0,
        embd_pdrop=0.0, bos_token_id=3, eos_token_id=2,
    )  # fmt: skip
    model = _lively(transformers.GPT2LMHeadModel(config), seed, 0.35)
    model.generation_config = transformers.GenerationConfig(bos_token_id=3, pad_token_id=1, eos_token_id=2)
    return OracleModel(model)


class ToyMarkov:
    """p(next | last token) from a table of logits [V, V]; with it, exhaustive search is possible.

    Encoder-decoder in form: a source's first id shifts the table, so that sources differ.
    """

    is_encoder_decoder = True
    max_positions = source_positions = None
    device = torch.device("cpu")
    generation_inputs = frozenset(("input_ids", "attention_mask", "decoder_input_ids"))

    def __init__(self, table, **options):
        self.table = table
        self.config = SimpleNamespace(vocab_size=table.shape[0])
        self.generation_config = GenerationConfig(
            **{"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 2} | options
        )

    def logits(self, source, last):
        return self.table.roll(int(source), dims=0)[last]

    def begin_decoding(self, inputs, *, rows_per_source, **_):
        sources = inputs["input_ids"][:, 0].repeat_interleave(rows_per_source)
        return SimpleNamespace(
            encoder_outputs=None,
            state=None,
            step=lambda ids, **_: StepOutput(
                torch.stack([self.logits(s, t) for s, t in zip(sources, ids[:, -1], strict=True)])
            ),
            reorder=lambda rows: None,
        )


def both(model, *args, **kwargs):
    """(ours, the oracle's) for the same call; arguments are copied, so that neither sees the other's."""
    ours = model.generate(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    theirs = model.oracle.generate(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    return ours, theirs
