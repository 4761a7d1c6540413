"""Make `bundled:mvp-prompt`: the body of `bundled:mvp`, unchanged, with prompts that make it ask, not tell.

    python tools/make_bundled_mvp_prompt.py     # about eight minutes on two cores

The body has never written a question. Prompts before the keys and values of its attentions, the only weights
that `set_lightweight_tuning` leaves trainable, teach it to: they are trained on the second task of
bundled_triples.py. It prints how many held-out questions are exact, by the body alone and with prompts.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from bundled_training import Pair, accuracy, by_length, train, write_card
from bundled_triples import ASK, Triple, ask, held_out_examples, linearize, training_example
from make_bundled_mvp import SPLITS

from seq2seq_zoo import MvpForConditionalGeneration, MvpTokenizer

BATCH = 64

BODY = """
`bundled:mvp`, weight for weight, with prompts learnt by `set_lightweight_tuning` for a second task: to ask
the question that the first triple's subject answers.

    Ask about the following data: Iron Man | instance of | Superhero [SEP] Stan Lee | creator | Iron Man
    Who is a superhero and was created by Stan Lee?

    seq2seq-zoo run --task text2text-generation --model bundled:mvp-prompt \\
      "Ask about the following data: Stan Lee | creator | Iron Man"

The same relations as there; all triples must be connected by names they share.
"""


def question(triples: list[Triple]) -> Pair:
    return linearize(triples, ASK), ask(triples)


def batches(rng: random.Random) -> Iterator[list[Pair]]:
    """Batches of questions of about one length, in random order."""
    while True:
        examples = [training_example(rng, connected=True) for _ in range(16 * BATCH)]
        some = by_length([question(triples) for triples in examples], BATCH)
        rng.shuffle(some)
        yield from some


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--body", type=Path, default=Path("seq2seq_zoo/bundled/mvp"), help="folder of the body"
    )
    parser.add_argument("--out", type=Path, default=Path("seq2seq_zoo/bundled/mvp-prompt"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000, help=f"batches of {BATCH} examples")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    torch.manual_seed(options.seed)

    tokenizer = MvpTokenizer.from_pretrained(options.body)
    held_out = {
        meaning: [question(triples) for triples in held_out_examples(split, 1000)]
        for split, meaning in SPLITS.items()
    }
    body = MvpForConditionalGeneration.from_pretrained(options.body)
    figures = [(f"{name}, body alone", accuracy(body, tokenizer, pairs)) for name, pairs in held_out.items()]

    model = MvpForConditionalGeneration.from_pretrained(
        options.body, use_prompt=True, prompt_length=16, prompt_mid_dim=48
    )
    model.set_lightweight_tuning()
    trainable = model.num_parameters(only_trainable=True)
    print(f"{model.num_parameters():,} parameters, {trainable:,} of them in prompts")
    train(model, tokenizer, batches(rng), steps=options.steps, peak_rate=3e-3)

    figures += [(f"{name}, prompts", accuracy(model, tokenizer, pairs)) for name, pairs in held_out.items()]
    for name, share in figures:
        print(f"{name}: {100 * share:.1f} % of 1,000 exact")
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    write_card(
        options.out,
        title="bundled:mvp-prompt: questions about data",
        body=BODY,
        figures=figures,
        command=f"python tools/make_bundled_mvp_prompt.py --seed {options.seed} --steps {options.steps}",
    )


if __name__ == "__main__":
    main()
