"""Make `bundled:mt5`: a small mT5 that spells numbers in eight languages.

    python tools/make_bundled_mt5.py            # about eight minutes on two cores

Two things are trained: a sentencepiece model laid out as mT5's (pad 0, end 1, unknown 2, every digit a
piece of its own), on numbers in words; then, from random weights, an mT5 of 0.6 million parameters on
questions like `German: 342`. At the end the script asks for the 1,000 numbers set aside in each language
(bundled_numbers.py), and prints how many answers are exact."""

from __future__ import annotations

import argparse
import io
import random
import re
from collections.abc import Iterator
from pathlib import Path

import sentencepiece
import torch
from bundled_numbers import NUMBER_WORDS, held_out_numbers, prompt, training_numbers
from bundled_training import Pair, accuracy, train, write_card

from seq2seq_zoo import MT5Config, MT5ForConditionalGeneration, MT5Tokenizer

PIECES = 480
BATCH = 256
# Numbers by length: below 100, three, four and five digits. The longer, the more there is to learn.
SHARES = (1, 2, 4, 8)

BODY = """
A small mT5 (2 + 2 layers, width 96) that writes the numbers from 0 to 99,999 in words, in {languages}:

    German: 342       dreihundertzweiundvierzig
    French: 99999     quatre-vingt-dix-neuf mille neuf cent quatre-vingt-dix-neuf
    Japanese: 12345   一万二千三百四十五

    seq2seq-zoo run --task text2text-generation --model bundled:mt5 "German: 342"

It knows nothing else. Ask in just this form: the language's English name, a colon, a space, digits without
separators. Where a language leaves a choice of spelling, tools/bundled_numbers.py settles it.

1,000 numbers of three to five digits are held out from training in all languages; those below 100 are not.
"""


def spiece_model(rng: random.Random) -> bytes:
    """A sentencepiece model of the questions and answers.

    A delimiter marks the joints of German compounds, hyphenated words and kanji, and no piece reaches across
    it. Otherwise the model would spend its pieces on whole numbers like `zweiundvierzig`.
    """
    joints = re.compile("((?<=hundert)|(?<=tausend)|(?<!h)und|-|[〇一-龯])")
    below_100, *longer = training_numbers()
    lines = []
    for language, words in NUMBER_WORDS.items():
        sample = below_100 * 10 + [
            n for numbers in longer for n in rng.sample(numbers, min(1000, len(numbers)))
        ]
        lines += (
            [f"{language}:"] * 400
            + [str(n) for n in sample]
            + [joints.sub(r"|\1|", words(n)) for n in sample]
        )
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=PIECES,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        character_coverage=1.0,
        split_digits=True,
        split_by_unicode_script=False,  # Devanagari's vowel signs would count as another script
        pretokenization_delimiter="|",
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    return model.getvalue()


def batches(rng: random.Random) -> Iterator[list[Pair]]:
    groups = training_numbers()
    languages = list(NUMBER_WORDS)
    while True:
        pairs = []
        for _ in range(BATCH):
            language, (numbers,) = rng.choice(languages), rng.choices(groups, SHARES)
            n = rng.choice(numbers)
            pairs.append((prompt(language, n), NUMBER_WORDS[language](n)))
        yield pairs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("seq2seq_zoo/bundled/mt5"), help="folder of the checkpoint"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000, help=f"batches of {BATCH} questions")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    torch.manual_seed(options.seed)

    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "spiece.model").write_bytes(spiece_model(rng))
    tokenizer = MT5Tokenizer(str(options.out / "spiece.model"), extra_ids=0, model_max_length=64)
    model = MT5ForConditionalGeneration(
        MT5Config(
            vocab_size=len(tokenizer),
            d_model=96,
            d_kv=16,
            num_heads=6,
            d_ff=256,
            num_layers=2,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=32,
            dropout_rate=0.0,
        )
    )
    model.generation_config.max_new_tokens = 48
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} pieces")
    train(model, tokenizer, batches(rng), steps=options.steps, peak_rate=3e-3)

    figures = []
    for language, words in NUMBER_WORDS.items():
        share = accuracy(model, tokenizer, [(prompt(language, n), words(n)) for n in held_out_numbers()])
        figures.append((language, share))
        print(f"{language}: {100 * share:.1f} % of 1,000 held-out numbers exact")
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    write_card(
        options.out,
        title="bundled:mt5: numbers in words",
        body=BODY.format(languages=", ".join(NUMBER_WORDS)),
        figures=figures,
        command=f"python tools/make_bundled_mt5.py --seed {options.seed} --steps {options.steps}",
    )


if __name__ == "__main__":
    main()
