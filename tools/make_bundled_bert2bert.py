"""Make `bundled:bert2bert`: a small pair of BERTs that fuses two sentences into one.

    python tools/make_bundled_bert2bert.py            # about nine minutes of one core

Writes a WordPiece vocabulary of the words that the rules of bundled_fusion.py know, and pre-trains a
BertGenerationEncoder on their sentences with masked tokens. Then it fine-tunes pairs on the task, as Rothe et
al. (2019, arXiv:1907.12461) do: both halves start from that encoder, cross-attention at random. What this is
worth is measured: for three numbers of steps a pair is also trained from random weights, on the same batches
in the same order. The pair with the warm start and most steps is saved.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from bundled_fusion import PATTERNS, apart, fused, held_out_examples, known_words, training_example
from bundled_training import Pair, accuracy, by_length, train, write_card
from torch import Tensor, nn
from torch.nn import functional as F

from seq2seq_zoo import (
    BertGenerationConfig,
    BertGenerationEncoder,
    BertTokenizer,
    EncoderDecoderConfig,
    EncoderDecoderModel,
)
from seq2seq_zoo.outputs import Seq2SeqLMOutput

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
POSITIONS = 48
BATCH = 64
PEAK_RATE = 3e-3
MASKED = 0.25
SPLITS = {
    "combinations": "new combinations of statements",
    "pairs": "predicates never seen together",
}

BODY = """
A small pair of BERTs (BertGeneration: an encoder and a decoder of 2 layers each, width 96) that fuses two
short sentences into one, the way their contents or a linking word ask for:

    Anna is tall. Anna likes tea.          Anna is tall and likes tea.
    Anna likes tea. Ben likes tea.         Anna and Ben like tea.
    Anna met Ben. Ben is a doctor.         Anna met Ben, who is a doctor.
    Anna bought a lamp. It is old.         Anna bought an old lamp.
    Anna is ill. However, she left.        Anna is ill, but she left.
    Anna left. Therefore, Ben smiled.      Ben smiled because Anna left.

It knows {words} words and marks (vocab.txt), each as a whole, and the {patterns} patterns of
tools/bundled_fusion.py, no others. A word it does not know is lost. Most of its faults are about who is
meant, where the two sentences name several people.

## What the warm start is worth

The encoder was first trained for {masked} batches of {batch} texts to restore sentences of the generator,
questions and answers as separate texts, of which a quarter of the words was masked. Both halves of the pair
start from it (`EncoderDecoderModel.from_encoder_decoder_pretrained`); only cross-attention is new. Beside it
a pair from random weights, on the same batches for the same number of steps. Exact answers to 1,000 examples
of either held-out set:

| | warm start | random weights |
|-|-|-|
{rows}
The warm start is ahead in {ahead} of {count} rows. This is one run of each, with one seed: figures after few
steps vary much from run to run. Sentences are drawn without end here, so that fine-tuning never lacks
examples. The checkpoint is the pair with the warm start, whichever is ahead.
"""


class MaskedLanguageModel(nn.Module):
    """An encoder that restores a text of which some words are masked: logits = x Eᵀ + b.

    All tokens count, not the masked ones alone ("All-Tokens MLM", Clark et al. 2020, arXiv:2003.10555,
    section 3.4): so the encoder also learns to hand on the words it sees, in the vectors by which a decoder's
    head reads them.
    """

    def __init__(self, encoder: BertGenerationEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.bias = nn.Parameter(torch.zeros(encoder.config.vocab_size))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Seq2SeqLMOutput:
        """input_ids [B, L] with masked tokens, labels [B, L] without (-100 not counted) → loss and logits."""
        hidden = self.encoder(input_ids, attention_mask).last_hidden_state
        logits = F.linear(hidden, self.encoder.get_input_embeddings().weight, self.bias)
        return Seq2SeqLMOutput(loss=F.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits=logits)


def fusions(rng: random.Random) -> Iterator[list[Pair]]:
    """Batches of examples of about one length, in random order."""
    while True:
        examples = [training_example(rng) for _ in range(16 * BATCH)]
        some = by_length([(apart(example), fused(example)) for example in examples], BATCH)
        rng.shuffle(some)
        yield from some


def masked_texts(rng: random.Random) -> Iterator[list[Pair]]:
    """Batches of texts with some words masked, and the same texts without.

    A text is either side of an example. Every word is one token, so that both sides of a pair are of one
    length.
    """

    def masked(text: str) -> str:
        return re.sub(r"\w+", lambda word: "[MASK]" if rng.random() < MASKED else word.group(), text)

    for batch in fusions(rng):
        texts = [rng.choice(pair) for pair in batch]
        yield [(masked(text), text) for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("seq2seq_zoo/bundled/bert2bert"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--masked-steps", type=int, default=1000, help=f"batches of {BATCH} masked texts")
    parser.add_argument("--steps", type=int, default=3000, help=f"batches of {BATCH} examples")
    options = parser.parse_args()
    started = time.process_time()

    vocabulary = [*SPECIAL, *known_words()]
    tokenizer = BertTokenizer(
        vocabulary,
        do_lower_case=False,
        model_max_length=POSITIONS,
        model_input_names=["input_ids", "attention_mask"],
    )
    config = BertGenerationConfig(
        vocab_size=len(vocabulary),
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=192,
        max_position_embeddings=POSITIONS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.06,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    ends = {
        "decoder_start_token_id": tokenizer.cls_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }

    print("masked tokens", flush=True)
    torch.manual_seed(options.seed)
    pretraining = MaskedLanguageModel(BertGenerationEncoder(config))
    texts = masked_texts(random.Random(f"masked {options.seed}"))
    train(pretraining, tokenizer, texts, steps=options.masked_steps, peak_rate=PEAK_RATE)

    def pair(warm: bool) -> EncoderDecoderModel:
        torch.manual_seed(options.seed + 1)
        if not warm:
            return EncoderDecoderModel(
                EncoderDecoderConfig.from_encoder_decoder_configs(config, config, **ends)
            )
        with tempfile.TemporaryDirectory() as folder:
            pretraining.encoder.save_pretrained(folder)
            return EncoderDecoderModel.from_encoder_decoder_pretrained(folder, folder, **ends)

    tests = {
        split: [(apart(example), fused(example)) for example in held_out_examples(split, 1000)]
        for split in SPLITS
    }
    shares: dict[tuple[int, bool], dict[str, float]] = {}
    budgets = (options.steps // 20, options.steps // 5, options.steps)
    for steps in reversed(budgets):
        for warm in (True, False):
            print(f"{steps} steps from {'the encoder' if warm else 'random weights'}", flush=True)
            model = pair(warm)
            model.generation_config.max_length = POSITIONS
            train(model, tokenizer, fusions(random.Random(options.seed)), steps=steps, peak_rate=PEAK_RATE)
            shares[steps, warm] = {split: accuracy(model, tokenizer, pairs) for split, pairs in tests.items()}
            for split, share in shares[steps, warm].items():
                print(f"{SPLITS[split]}: {100 * share:.1f} % of 1,000 exact", flush=True)
            if warm and steps == options.steps:
                model.save_pretrained(options.out)
                tokenizer.save_pretrained(options.out)
    minutes = (time.process_time() - started) / 60
    print(f"{model.num_parameters():,} parameters, {minutes:.1f} minutes of processor time")

    compared = [
        (meaning, steps, shares[steps, True][split], shares[steps, False][split])
        for split, meaning in SPLITS.items()
        for steps in budgets
    ]
    rows = "".join(
        f"| {meaning}, {steps} steps | {100 * with_start:.1f} % | {100 * without:.1f} % |\n"
        for meaning, steps, with_start, without in compared
    )
    write_card(
        options.out,
        title="bundled:bert2bert: sentence fusion",
        body=BODY.format(
            words=len(vocabulary) - len(SPECIAL),
            patterns=len(PATTERNS),
            masked=options.masked_steps,
            batch=BATCH,
            rows=rows,
            ahead=sum(with_start > without for _, _, with_start, without in compared),
            count=len(compared),
        ),
        figures=[(SPLITS[split], share) for split, share in shares[options.steps, True].items()],
        command=f"python tools/make_bundled_bert2bert.py --seed {options.seed} "
        f"--masked-steps {options.masked_steps} --steps {options.steps}",
    )


if __name__ == "__main__":
    main()
