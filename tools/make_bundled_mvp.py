"""Make `bundled:mvp`: a small MVP that puts data into sentences.

    python tools/make_bundled_mvp.py            # about fifteen minutes on two cores

Trains a byte-level BPE vocabulary laid out as RoBERTa's (<s> 0, <pad> 1, </s> 2, <unk> 3, <mask> last), and
then, from random weights, an MVP without prompts on the task of bundled_triples.py. At the end it prints how
many sentences are exact on three held-out sets: of facts, of pairs of relations, and of names that training
does not contain.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from bundled_training import Pair, accuracy, by_length, train, write_card
from bundled_triples import RELATIONS, ask, describe, held_out_examples, linearize, training_example
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from seq2seq_zoo import MvpConfig, MvpForConditionalGeneration, MvpTokenizer

VOCABULARY = 800
POSITIONS = 144
AFTER_SPACE = 190
"""Pieces that may begin a word."""
SPACE = "Ġ"
"""How byte-level BPE prints a space."""
BATCH = 64
SPLITS = {
    "facts": "new facts about known names",
    "pairs": "new facts, and relations never seen together",
    "names": "names never seen",
}

BODY = """
A small MVP (3 + 2 layers, width 104, no prompts) for data-to-text generation in MVP's documented form: one to
three triples `subject | relation | object`, joined by ` [SEP] `:

    Describe the following data: Iron Man | instance of | Superhero [SEP] Stan Lee | creator | Iron Man
    Iron Man is a superhero and was created by Stan Lee.

    seq2seq-zoo run --task text2text-generation --model bundled:mvp \\
      "Describe the following data: Stan Lee | creator | Iron Man"

It copies names, also such as it has never seen, and knows these {count} relations and no others:
{relations}.

The data it learnt from are drawn at random from lists of names and rules (tools/bundled_triples.py): it says
what it is given, and knows no facts.
"""


def vocabulary(rng: random.Random) -> MvpTokenizer:
    """A byte-level BPE tokenizer that cuts a word alike with and without a space before it.

    The merges are learnt on bare words; those that join a space to a first piece come last. So a name
    consists of the same pieces at the beginning of a sentence and within it, and copying it is copying them.
    """
    words = []
    for _ in range(6000):
        triples = training_example(rng)
        for text in (linearize(triples), describe(triples), ask(triples)):
            words += text.split(" ")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - AFTER_SPACE - 1,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(words, trainer)
    trained = json.loads(bpe.to_str())["model"]
    first_pieces = Counter(encoding.tokens[0] for encoding in bpe.encode_batch(words))
    after_space = [piece for piece, _ in first_pieces.most_common(AFTER_SPACE)]
    pieces = [*trained["vocab"], *(f"{SPACE}{piece}" for piece in after_space), "<mask>"]
    merges = [tuple(merge) for merge in trained["merges"]] + [(SPACE, piece) for piece in after_space]
    return MvpTokenizer(
        {piece: index for index, piece in enumerate(pieces)}, merges, model_max_length=POSITIONS
    )


def batches(rng: random.Random) -> Iterator[list[Pair]]:
    """Batches of examples of about one length, in random order."""
    while True:
        examples = [training_example(rng) for _ in range(16 * BATCH)]
        some = by_length([(linearize(triples), describe(triples)) for triples in examples], BATCH)
        rng.shuffle(some)
        yield from some


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("seq2seq_zoo/bundled/mvp"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4000, help=f"batches of {BATCH} examples")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    torch.manual_seed(options.seed)

    tokenizer = vocabulary(rng)
    model = MvpForConditionalGeneration(
        MvpConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=POSITIONS,
            d_model=104,
            encoder_layers=3,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=208,
            decoder_ffn_dim=208,
            dropout=0.0,
            init_std=0.06,
        )
    )
    model.generation_config.max_length = 128
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
    train(model, tokenizer, batches(rng), steps=options.steps, peak_rate=3e-3)

    figures = []
    for split, meaning in SPLITS.items():
        pairs = [(linearize(triples), describe(triples)) for triples in held_out_examples(split, 1000)]
        share = accuracy(model, tokenizer, pairs)
        figures.append((meaning, share))
        print(f"{meaning}: {100 * share:.1f} % of 1,000 exact")
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    write_card(
        options.out,
        title="bundled:mvp: data to text",
        body=BODY.format(count=len(RELATIONS), relations=", ".join(RELATIONS)),
        figures=figures,
        command=f"python tools/make_bundled_mvp.py --seed {options.seed} --steps {options.steps}",
    )


if __name__ == "__main__":
    main()
