"""Make `bundled:mega-text`: a small MEGA that writes sentences of a little grammar.

    python tools/make_bundled_mega_text.py           # about three minutes on one core

Trains a byte-level BPE vocabulary laid out as RoBERTa's on the grammar's words, so that nearly every word is
one token, and then, from random weights, a causal MEGA with chunks on sentences drawn by bundled_grammar.py.
At the end it lets the model write 1,000 sentences by plain sampling, and has the grammar judge them.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bundled_grammar import accepts, draw
from bundled_training import train
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from seq2seq_zoo import MegaConfig, MegaForCausalLM, RobertaTokenizer

VOCABULARY = 400
BATCH = 64
CHUNK = 16

CARD = """---
license: apache-2.0
library_name: seq2seq_zoo
---

# bundled:mega-text: sentences of a little grammar

A small causal MEGA (3 layers, width 96, chunks of {chunk} tokens: longer sentences go across their borders)
that writes English-like sentences in which everything agrees, over whatever stands between: verbs with
subjects in number, articles with nouns, "a" or "an" with the next word, "who" with persons. Clauses and
thoughts nest.

    tokenizer = RobertaTokenizer.from_pretrained("bundled:mega-text")
    model = MegaForCausalLM.from_pretrained("bundled:mega-text")
    prompt = tokenizer("the owls that", return_tensors="pt").input_ids[:, :-1]      # without the </s>
    print(tokenizer.decode(model.generate(prompt, do_sample=True)[0], skip_special_tokens=True))

It writes for instance:

{examples}

## How well

1,000 sentences by plain sampling (every token by its own probability, nothing cut off, seed 0), from `<s>`:

| | share |
|-|-|
{rows}
## How it was made

```
{command}
```

Trained from random weights with torch {torch} on a CPU, on sentences drawn from the rules of
tools/bundled_grammar.py without end. Another version or number of threads adds up in another order: other
weights, nearly the same figures.
"""


def vocabulary(rng: random.Random) -> RobertaTokenizer:
    """A RoBERTa tokenizer whose tokens are the grammar's words, each with the space before it."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        show_progress=False,
    )
    bpe.train_from_iterator([draw(rng) for _ in range(20000)], trainer)
    trained = json.loads(bpe.to_str())["model"]
    merges = [tuple(merge) for merge in trained["merges"]]
    pieces = {piece: index for index, piece in enumerate([*trained["vocab"], "<mask>"])}
    return RobertaTokenizer(pieces, merges, add_prefix_space=True)


def batches(rng: random.Random) -> Iterator[list[str]]:
    """Batches of sentences of about one length, in random order."""
    while True:
        sentences = sorted((draw(rng) for _ in range(16 * BATCH)), key=len)
        some = [sentences[start : start + BATCH] for start in range(0, len(sentences), BATCH)]
        rng.shuffle(some)
        yield from some


def tensors(tokenizer: RobertaTokenizer, sentences: list[str]) -> dict[str, Any]:
    """The arguments of a pass that learns to write these sentences, from <s> to </s>."""
    inputs = tokenizer(sentences, padding=True, return_tensors="pt")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    return {**inputs, "labels": labels, "use_cache": False}


def written(model: MegaForCausalLM, tokenizer: RobertaTokenizer, count: int, *, seed: int = 0) -> list[str]:
    """So many sentences by plain sampling."""
    torch.manual_seed(seed)
    start = torch.full((count, 1), tokenizer.bos_token_id)
    ids = model.generate(start, do_sample=True, top_k=0, max_new_tokens=63)
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("seq2seq_zoo/bundled/mega-text"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2500, help=f"batches of {BATCH} sentences")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    torch.manual_seed(options.seed)

    tokenizer = vocabulary(rng)
    model = MegaForCausalLM(
        MegaConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            num_hidden_layers=3,
            intermediate_size=144,
            ema_projection_size=8,
            shared_representation_size=32,
            nffn_hidden_size=192,
            is_decoder=True,
            bidirectional=False,
            use_chunking=True,
            chunk_size=CHUNK,
            max_positions=CHUNK,
            relative_positional_bias="simple",
            normalization_type="layernorm",
            dropout_prob=0.0,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            nffn_activation_dropout_prob=0.0,
            initializer_range=0.06,
            ema_delta_alpha_range=2.0,  # averages of a few tokens and of many
        )
    )
    model.generation_config.max_length = 64
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
    train(model, tokenizer, batches(rng), tensors=tensors, steps=options.steps, peak_rate=3e-3)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)

    sentences = written(model, tokenizer, 1000)
    nested = [sentence for sentence in sentences if {"who", "that"} & set(sentence.split())]
    figures = {
        "accepted by the grammar": sum(map(accepts, sentences)) / len(sentences),
        "have a clause or a thought in them": len(nested) / len(sentences),
        "of these, accepted": sum(map(accepts, nested)) / len(nested),
    }
    rows = "".join(f"| {name} | {100 * share:.1f} % |\n" for name, share in figures.items())
    print(rows)
    card = CARD.format(
        chunk=CHUNK,
        examples="\n".join(f"    {sentence}" for sentence in nested[:5]),
        rows=rows,
        command=f"python tools/make_bundled_mega_text.py --seed {options.seed} --steps {options.steps}",
        torch=torch.__version__,
    )
    (options.out / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
