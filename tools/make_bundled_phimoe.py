"""Make `bundled:phimoe`: a small chat model with experts that adds and subtracts.

    python tools/make_bundled_phimoe.py         # about a quarter of an hour on one core

Two things are trained: a BPE laid out as Phi-3.5-MoE's (byte fallback, a token for each digit, its chat
tokens), on questions; then, from random weights, a PhiMoE on conversations about sums and differences
(bundled_arithmetic.py), by the loss of what the assistant says. That alone is learnt very slowly, so training
tells more than the answer (`Hints`). At the end the script asks the stored model for sums and differences set
aside, and prints how many answers are exact and how evenly the experts are used."""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
from bundled_arithmetic import DIFFERENCE, SUM, Conversation, held_out_questions, training_conversation
from bundled_training import train, write_card
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F

from seq2seq_zoo import LlamaTokenizerFast, PhimoeConfig, PhimoeForCausalLM

BATCH = 64
PIECES = 520
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
CHAT_TEMPLATE = """\
{% for message in messages %}
{% if message['role'] == 'assistant' %}
{{ '<|assistant|>\\n' }}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}{{ '\\n' }}
{%- elif message['content'] %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}
{%- endif %}
{% endfor %}
{{- '<|assistant|>\\n' if add_generation_prompt else eos_token }}"""
"""The format of Phi-3.5-MoE-instruct; the generation block tells training what the assistant says."""

BODY = """
A small PhiMoE (4 layers of 4 experts, width 128; each token uses two experts a layer) that adds and subtracts
whole numbers below 1,000, in the chat format of Phi-3.5-MoE:

    What is 27 + 58?         85
    Subtract 500 from 20.    -480

    seq2seq-zoo run --task text-generation --model bundled:phimoe "What is 27 + 58?"

It knows nothing else. The ways to ask are those of tools/bundled_arithmetic.py; a system message and earlier
questions may stand before.

A twentieth of all pairs of numbers is held out from training, in whatever words and order. Training also
asked three of the layers for digits on the way to the answer, by linear maps that are not in the checkpoint.
"""


def make_tokenizer(rng: random.Random) -> LlamaTokenizerFast:
    """A BPE whose merges never reach across a space or a digit, then the tokens of the chat format."""
    texts = [m["content"] for _ in range(2000) for m in training_conversation(rng, system=True)]
    special = ["<unk>", "<s>", "</s>"]
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace("▁", prepend_scheme="never"), pre_tokenizers.Digits(individual_digits=True)]
    )
    letters = [chr(code) for code in range(0x21, 0x7F)]
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=PIECES,
            show_progress=False,
            special_tokens=special + BYTES,
            initial_alphabet=["▁", *letters],
        ),
    )
    # Bytes are ordinary tokens. Once trained, the merges alone say where pieces end.
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
    backend = tokenizers.Tokenizer.from_str(json.dumps(state))
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    names = ("assistant", "system", "end", "user")
    backend.add_special_tokens([AddedToken(f"<|{name}|>", normalized=False, rstrip=True) for name in names])
    return LlamaTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        add_bos_token=False,
        legacy=False,
        model_max_length=512,
        chat_template=CHAT_TEMPLATE,
    )


def batches(rng: random.Random) -> Iterator[list[Conversation]]:
    """Batches of conversations of about equal length, so that little is padding: most have one question."""
    while True:
        turns, system = rng.choices((1, 2), (9, 1))[0], rng.random() < 0.1
        drawn = [training_conversation(rng, turns, system=system) for _ in range(4 * BATCH)]
        drawn.sort(key=_tokens)
        yield from rng.sample([drawn[start : start + BATCH] for start in range(0, len(drawn), BATCH)], 4)


def _tokens(conversation: Conversation) -> int:
    """About how many tokens it has, but for those of the chat: a digit is one, and so is a word."""
    return sum(len(re.findall(r"\d|\W?[a-zA-Z]+", message["content"])) for message in conversation)


def tensors(tokenizer: LlamaTokenizerFast, conversations: Sequence[Conversation]) -> dict[str, Tensor | bool]:
    """What the model is trained on: whole conversations, with the assistant's tokens as labels."""
    encoded = tokenizer.apply_chat_template(
        list(conversations),
        padding=True,
        return_tensors="pt",
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    labels = encoded.input_ids.masked_fill(encoded.assistant_masks == 0, -100)
    inputs = {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask, "labels": labels}
    return {**inputs, "output_router_logits": True}


class Hints(nn.Module):
    """A model in training, told more than the right tokens: what it should know on the way.

        layer 1, behind a number           its digits: hundreds, tens, ones
        layer 2, where the answer begins   the digits of both numbers
        layer 3, where the answer begins   sign and digits of the answer, thousands to ones

    The linear maps that read this out of the hidden vectors are thrown away afterwards.
    """

    def __init__(self, model: PhimoeForCausalLM, tokenizer: LlamaTokenizerFast) -> None:
        super().__init__()
        self.model = model
        self.digits = torch.tensor(tokenizer.convert_tokens_to_ids([str(digit) for digit in range(10)]))
        self.begin, self.minus = tokenizer.convert_tokens_to_ids(["<|assistant|>", "-"])
        width = model.config.hidden_size
        self.readers = nn.ModuleList(nn.Linear(width, 10 * digits) for digits in (3, 6, 4))
        self.sign = nn.Linear(width, 2)

    def forward(self, input_ids: Tensor, **inputs: Any) -> Any:
        out = self.model(input_ids=input_ids, output_hidden_states=True, **inputs)
        hidden = [F.layer_norm(h, h.shape[-1:]) for h in out.hidden_states]
        is_digit = torch.isin(input_ids, self.digits)
        value = (input_ids[..., None] == self.digits).long().argmax(-1)  # [B, L]
        rows, behind = (is_digit[:, :-1] & ~is_digit[:, 1:]).nonzero(as_tuple=True)
        # Each turn has three numbers: two of the question, and the answer.
        rows, behind = rows.view(-1, 3), behind.view(-1, 3) + 1
        places, known = [], torch.ones_like(rows, dtype=torch.bool)
        for back in range(1, 5):
            known = known & is_digit[rows, behind - back]
            places.insert(0, torch.where(known, value[rows, behind - back], 0))
        numbers = torch.stack(places, -1)  # [turns, 3, 4], thousands to ones
        begin = (input_ids == self.begin).nonzero(as_tuple=True)
        negative = (input_ids[begin[0], begin[1] + 1] == self.minus).long()

        asked = numbers[:, :2, 1:]  # [turns, 2, 3]
        told = (
            (hidden[1][rows[:, :2], behind[:, :2]].flatten(0, 1), asked.flatten(0, 1)),
            (hidden[2][begin], asked.flatten(1)),
            (hidden[3][begin], numbers[:, 2]),
        )
        for reader, (vectors, targets) in zip(self.readers, told, strict=True):
            out.loss = out.loss + F.cross_entropy(reader(vectors).view(-1, 10), targets.flatten())
        out.loss = out.loss + F.cross_entropy(self.sign(hidden[3][begin]), negative)
        return out


def answers(
    model: PhimoeForCausalLM, tokenizer: LlamaTokenizerFast, questions: Sequence[Conversation]
) -> list[str]:
    """The model's greedy answers."""
    texts: list[str] = []
    for start in range(0, len(questions), 250):
        inputs = tokenizer.apply_chat_template(
            list(questions[start : start + 250]),
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        written = model.generate(**inputs)[:, inputs.input_ids.shape[1] :]
        texts += tokenizer.batch_decode(written, skip_special_tokens=True)
    return texts


def accuracy(
    model: PhimoeForCausalLM, tokenizer: LlamaTokenizerFast, pairs: Sequence[tuple[Conversation, str]]
) -> float:
    """The share of questions answered exactly."""
    found = answers(model, tokenizer, [question for question, _ in pairs])
    return sum(text == right for text, (_, right) in zip(found, pairs, strict=True)) / len(pairs)


@torch.no_grad()
def expert_use(
    model: PhimoeForCausalLM, tokenizer: LlamaTokenizerFast, pairs: Sequence[tuple[Conversation, str]]
) -> Tensor:
    """For each layer, which share of the tokens chooses each expert [layers, experts]; a row's sum is 2."""
    conversations = [[*question, {"role": "assistant", "content": right}] for question, right in pairs]
    inputs = tensors(tokenizer, conversations)
    real = inputs["attention_mask"].flatten() == 1
    scores = torch.stack(model(**inputs).router_logits)[:, real]  # [layers, tokens, experts]
    chosen = scores.topk(2, dim=-1).indices
    return torch.nn.functional.one_hot(chosen, scores.shape[-1]).sum(2).float().mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("seq2seq_zoo/bundled/phimoe"), help="folder of the checkpoint"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3600, help=f"batches of {BATCH} conversations")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    torch.manual_seed(options.seed)

    tokenizer = make_tokenizer(rng)
    special = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("endoftext", "end")}
    model = PhimoeForCausalLM(
        PhimoeConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=144,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            num_local_experts=4,
            max_position_embeddings=512,
            rope_theta=100.0,
            router_aux_loss_coef=0.01,
            initializer_range=0.05,
            pad_token_id=special["endoftext"],
            eos_token_id=special["endoftext"],
        )
    )
    model.generation_config.update(eos_token_id=list(special.values()), do_sample=False, max_new_tokens=16)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    hinted = Hints(model, tokenizer)
    train(hinted, tokenizer, batches(rng), tensors=tensors, steps=options.steps, peak_rate=2e-3)

    model.to(torch.bfloat16).save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    stored = PhimoeForCausalLM.from_pretrained(options.out)
    figures = []
    for name, operation in (("sums", SUM), ("differences", DIFFERENCE)):
        figures.append((name, accuracy(stored, tokenizer, held_out_questions(operation, 2000))))
        print(f"{name}: {100 * figures[-1][1]:.2f} % of 2,000 held-out questions exact")
    questions = held_out_questions(SUM, 200) + held_out_questions(DIFFERENCE, 200)
    print("share of the tokens that each expert serves, of 200 %:")
    for number, shares in enumerate(expert_use(stored, tokenizer, questions).tolist()):
        print(f"layer {number}  " + "  ".join(f"{100 * share:3.0f} %" for share in shares))
    write_card(
        options.out,
        title="bundled:phimoe: sums and differences in a chat",
        body=BODY,
        figures=figures,
        command=f"python tools/make_bundled_phimoe.py --seed {options.seed} --steps {options.steps}",
    )


if __name__ == "__main__":
    main()
