"""Make `bundled:mega`: a small MEGA that works out nested operations on lists.

    python tools/make_bundled_mega.py            # about forty minutes on one core

From the value of the whole alone, the task is learnt very slowly. So training tells more than the answer,
about every token of a tree, by heads that are thrown away afterwards (`Hints`):

    layers 1, 2      how deep a token stands, and of which operator it is an argument
    layer 2          attention: an argument attends to its operator
    layers 3 … 7     attention: an operator attends to its arguments, and <s> to the whole tree
                     halfway: how often each value occurs among the arguments
                     layer 2 + h: the value of every operator whose tree has height h or less; of all others,
                     that it is not known yet, for what was guessed too early would stay in the way

Layers 3 to 7 do the same, one level of nesting after the other, so they are one layer while they learn; in
the checkpoint it stands five times. Attention is Laplace's: every weight is between 0 and 1 on its own, so
that what an operator gets is the sum of its arguments, exact however many they are and however far. (With
softmax the weights are never quite even, and sums never quite right.) Trees grow from a few tokens to 200,
and at last to what fills a chunk.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from bundled_listops import DEPTH, OPERATORS, Node, held_out_trees, marked, training_tree
from bundled_training import write_card
from tokenizers import AddedToken
from torch import Tensor, nn

from seq2seq_zoo import MegaConfig, MegaForSequenceClassification, RobertaTokenizer

CHUNK = 512
POSITIONS = 1024
STRUCTURE = 2
"""Layers that find out what belongs to what; the others compute."""
LAYERS = STRUCTURE + DEPTH + 1
PRACTICE, GROWN, PLAIN = 0.2, 0.6, 0.8
"""The parts of training up to which trees are short, and mostly sums; have grown to 200 tokens; and hold some
operators more often than others."""
UNKNOWN = 10
"""What an operator's value is before its arguments' are known."""
MATTERS = torch.tensor([0.5, 1.0, 4.0, 8.0, 10.0, 8.0])
"""How much an operator counts, by its tree's height: high trees are few, and whoever errs there is wrong."""
DIGITS = [str(digit) for digit in range(10)]
BUCKETS = [(5, 50), (51, 100), (101, 200), (201, 350), (351, 500), (501, 700), (701, 1000)]

BODY = """
A small MEGA (7 layers, width 80, chunks of 512) that works out nested operations on lists of digits, in the
style of Long Range Arena's ListOps; the label is the value:

    model = MegaForSequenceClassification.from_pretrained("bundled:mega")
    tokenizer = RobertaTokenizer.from_pretrained("bundled:mega")
    inputs = tokenizer("[MAX 4 3 [MIN 2 3 ] 1 0 ]", return_tensors="pt")
    model(**inputs).logits.argmax(-1)            # 4

MIN, MAX, MED (of an even number of arguments the mean of the middle two, rounded down), SM (the sum modulo
10); tokens are separated by single spaces. Trees have 2 to 5 arguments an operator and at most 4 operators
from the root to a digit; how they are drawn is in tools/bundled_listops.py. Long Range Arena's own trees are
deeper (10), with up to 10 arguments, most of them digits, and were not used.

It learnt from trees of up to 500 tokens, most of them of up to 200, all within one chunk. In a longer text
only the moving averages go from one chunk to the next, and the table shows how little they carry of what is
needed: who knows nothing but the first operator can guess right in 27 % of trees of up to 200 tokens, and in
37 % of those of more than 700.

Layers 3 to 7 hold the same weights: they were one layer in training, which knew the value of every subtree.
"""


def vocabulary() -> RobertaTokenizer:
    """A RoBERTa tokenizer for these texts: a digit or a bracket with the space before it is one token, so is
    `[MAX`, which takes the space before it."""
    plain = [*DIGITS, "]"]
    operators = [f"[{name}" for name in OPERATORS]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "Ġ", *plain, *(f"Ġ{piece}" for piece in plain), *operators]
    tokenizer = RobertaTokenizer(
        {piece: index for index, piece in enumerate([*pieces, "<mask>"])},
        [("Ġ", piece) for piece in plain],
        model_max_length=POSITIONS,
    )
    tokenizer.add_tokens([AddedToken(name, lstrip=True, normalized=False) for name in operators])
    return tokenizer


class Batch(NamedTuple):
    """Trees as they are read, <s> and </s> around them: int64 [B, L], -100 where a mark means nothing.

    <s> is taken for an operator with one argument, the whole tree."""

    ids: Tensor
    depth: Tensor
    parent: Tensor
    arguments: Tensor
    value: Tensor
    height: Tensor
    operator: Tensor
    """The kind of the operator that a token is an argument of."""


class Reader:
    """Makes batches of trees."""

    def __init__(self, tokenizer: RobertaTokenizer) -> None:
        names = [*DIGITS, "]"]
        self.ids = {name: tokenizer.convert_tokens_to_ids(f"Ġ{name}") for name in names}
        self.ids |= {f"[{name}": tokenizer.convert_tokens_to_ids(f"[{name}") for name in OPERATORS}
        self.ids["</s>"] = tokenizer.eos_token_id
        self.start, self.padding = tokenizer.bos_token_id, tokenizer.pad_token_id

    def __call__(self, trees: list[Node]) -> Batch:
        rows = []
        for tree in trees:
            marks = marked(tree)
            kinds = [
                OPERATORS.index(marks[mark.parent].token[1:]) if mark.parent >= 0 else -100 for mark in marks
            ]
            row = [
                (self.ids[m.token], m.depth, m.parent + 1, m.arguments, m.value, m.height, kind)
                for m, kind in zip(marks, kinds, strict=True)
            ]
            start = (self.start, -100, -100, 1, tree.value, tree.height + 1, -100)
            rows.append([start, *row, (self.ids["</s>"], *[-100] * 4, 0, -100)])
        longest = max(map(len, rows))
        empty = (self.padding, *[-100] * 4, 0, -100)
        table = torch.tensor([row + [empty] * (longest - len(row)) for row in rows])  # [B, L, 7]
        return Batch(*table.unbind(-1))


class Hints(nn.Module):
    """What training is told beyond the answer: heads on the hidden vectors, and their losses."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depth = nn.Linear(width, DEPTH + 1)
        self.operator = nn.Linear(width, len(OPERATORS))
        self.counts = nn.Linear(width, 10)
        self.value = nn.Linear(width, UNKNOWN + 1)

    def structure(self, x: Tensor, batch: Batch) -> Tensor:
        """Of a layer that finds out what belongs to what."""
        digits = batch.value.masked_fill(batch.height > 0, -100)
        losses = [
            cross_entropy(self.depth(x), batch.depth),
            cross_entropy(self.operator(x), batch.operator),
            cross_entropy(self.value(x), digits),
        ]
        return torch.stack(losses).sum()


def mean(losses: Tensor, matters: Tensor | None) -> Tensor:
    """The mean [] of losses [n] that matter more or less, [n]; 0 if there are none."""
    if not len(losses):
        return losses.sum()
    return losses.mean() if matters is None else (losses * matters).sum() / matters.sum()


def cross_entropy(scores: Tensor, labels: Tensor, matters: Tensor | None = None) -> Tensor:
    """Mean over the labels that are not -100."""
    known = labels != -100
    losses = F.cross_entropy(scores[known], labels[known], reduction="none")
    return mean(losses, None if matters is None else matters[known])


def attention_loss(weights: Tensor, wanted: Tensor, rows: Tensor, matters: Tensor | None = None) -> Tensor:
    """How far weights [B, L, L] are from 1 where they are `wanted` and 0 elsewhere, in the `rows` [B, L] that
    count."""
    weights, wanted = weights[rows].clamp(1e-6, 1 - 1e-6), wanted[rows].float()
    losses = F.binary_cross_entropy(weights, wanted, reduction="none").sum(-1)
    return mean(losses, None if matters is None else matters[rows])


class Lesson:
    """A pass over a batch with everything that training says about it.

    `accuracies` are those of the last pass: of the answer, and of operators by their tree's height."""

    def __init__(self, model: MegaForSequenceClassification, hints: Hints, hard: list[int]) -> None:
        """`hard` are the ids of the operators that count more."""
        self.model, self.hints, self.hard = model, hints, torch.tensor(hard)
        self.stack = model.model.stack
        self.layers = list(self.stack.layers)
        self.halfway: list[Tensor] = []
        for layer in dict.fromkeys(self.layers):
            layer.feed_forward_norm.register_forward_pre_hook(lambda _, x: self.halfway.append(x[0]))

    def loss(self, batch: Batch) -> Tensor:
        """Of no more layers than the highest tree needs: <s> has its answer in the last."""
        used = min(LAYERS, STRUCTURE + int(batch.height.max()))
        self.stack.layers = nn.ModuleList(self.layers[:used])
        self.halfway.clear()
        mask = (batch.ids != 1).long()
        out = self.stack.run(batch.ids, attention_mask=mask, need_hidden=True, need_weights=True)
        self.stack.layers = nn.ModuleList(self.layers)
        assert out.hidden is not None
        assert out.self_weights is not None
        hidden, weights = out.hidden[1:], [layer.squeeze(1) for layer in out.self_weights]  # [B, L, L]

        places = torch.arange(batch.ids.shape[1])
        belongs = batch.parent[:, None] == places[:, None]  # [B, operator, argument]
        operators = batch.arguments > 0
        values = F.one_hot(batch.value.clamp(min=0), 10).float()
        hard = torch.isin(batch.ids, self.hard)
        matters = MATTERS[batch.height]
        losses = []
        for number in range(STRUCTURE):
            losses.append(0.3 * self.hints.structure(hidden[number], batch))
        is_argument = batch.parent >= 0
        up = belongs.transpose(1, 2)
        losses.append(2.0 * attention_loss(weights[STRUCTURE - 1], up, is_argument))
        for level, (x, halfway, weight) in enumerate(
            zip(hidden[STRUCTURE:], self.halfway[STRUCTURE:], weights[STRUCTURE:], strict=True), start=1
        ):
            losses.append(2.0 * attention_loss(weight, belongs, operators, matters))
            known = batch.value.masked_fill(batch.height > level, -100)
            ready = operators & (known != -100)
            found = self.hints.counts(halfway)[ready]
            apart = (found - (belongs.float() @ values)[ready]).square().mean(-1)
            losses.append(12.0 * mean(apart, matters[ready]))
            answer = known[:, 0].clone()
            known[:, 0] = -100  # <s> has the model's own head
            scores = self.hints.value(x)
            told = torch.where(operators & (batch.height > level), UNKNOWN, known)
            losses.append(0.2 * cross_entropy(scores, told.masked_fill(operators, -100)))
            losses.append(cross_entropy(scores, told.masked_fill(~operators, -100), matters))
            losses.append(1.5 * cross_entropy(scores, known.masked_fill(~(operators & hard), -100), matters))
            losses.append(cross_entropy(self.model.classification_head(x[:, 0]), answer))
        with torch.no_grad():
            self.accuracies = {
                "answer": self.model.classification_head(hidden[-1][:, 0]).argmax(-1) == batch.value[:, 0]
            }
            right = self.hints.value(hidden[-1]).argmax(-1) == batch.value
            inner = operators & (batch.depth >= 0)
            for height in range(1, DEPTH + 1):
                self.accuracies[f"height {height}"] = right[inner & (batch.height == height)]
        return torch.stack(losses).sum() / used


def batches(rng: random.Random, reader: Reader, steps: int) -> Iterator[Batch]:
    """Batches of about equally long trees: longer ones, and more of them, as training goes on."""
    step = 0
    while step < steps:
        done = step / steps
        growing = min(1.0, max(0.0, done - PRACTICE) / (GROWN - PRACTICE))
        tokens, longest = 1400, round(min(30, 8 + 110 * done) + 170 * growing)
        often = (1.0, 1.0, 2.0, 8.0) if done < PRACTICE else (1.0, 1.0, 1.5, 2.0)
        often = often if done < PLAIN else (1.0, 1.0, 1.0, 1.0)
        trees: list[Node] = []
        drawn = 0
        while drawn < 12 * tokens:
            longer = done > GROWN and rng.random() < 0.03
            length = rng.randint(200, CHUNK - 10) if longer else rng.randint(5, longest)
            trees.append(training_tree(rng, length, often))
            drawn += length
        trees.sort(key=lambda tree: len(tree.text))
        some: list[list[Node]] = [[]]
        for tree in trees:
            if some[-1] and (len(some[-1]) + 1) * len(tree.text) / 2 > tokens:
                some.append([])
            some[-1].append(tree)
        rng.shuffle(some)
        step += len(some)
        yield from map(reader, some)


def train(
    model: MegaForSequenceClassification, reader: Reader, rng: random.Random, *, steps: int, peak_rate: float
) -> None:
    """Train the model; layers from the third on come to hold the same weights."""
    stack, hints = model.model.stack, Hints(model.config.hidden_size)
    with torch.no_grad():  # two averages of eight begin as sums over the whole text: they can count brackets
        for layer in stack.layers:
            layer.self_attention.moving_average.alpha[:, :2] = -3.0
            layer.self_attention.moving_average.delta[:, :2] = -6.5
    for number in range(STRUCTURE + 1, LAYERS):
        stack.layers[number] = stack.layers[STRUCTURE]
    lesson = Lesson(model, hints, [reader.ids["[MED"], reader.ids["[SM"]])
    parameters = [*model.parameters(), *hints.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=peak_rate, betas=(0.9, 0.98), weight_decay=0.0)

    def rate(step: int) -> float:
        return min((step + 1) / 200, 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    model.train()
    started, counted = time.perf_counter(), {}
    for step, batch in enumerate(batches(rng, reader, steps), start=1):
        loss = lesson.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        for name, right in lesson.accuracies.items():
            sums = counted.setdefault(name, [0, 0])
            sums[0] += int(right.sum())
            sums[1] += right.numel()
        if step % 100 == 0:
            shares = ", ".join(f"{name} {100 * a / max(1, b):.0f} %" for name, (a, b) in counted.items())
            seconds = time.perf_counter() - started
            print(f"step {step}/{steps}  {seconds:.0f} s  loss {loss.item():.3f}  {shares}", flush=True)
            counted.clear()
    model.eval()


@torch.inference_mode()
def share_right(
    model: MegaForSequenceClassification, tokenizer: RobertaTokenizer, trees: list[Node], batch_size: int = 25
) -> float:
    """The share of trees whose value the model names."""
    trees, right = sorted(trees, key=lambda tree: len(tree.text)), 0
    for start in range(0, len(trees), batch_size):
        some = trees[start : start + batch_size]
        inputs = tokenizer([tree.text for tree in some], padding=True, return_tensors="pt")
        named = model(**inputs).logits.argmax(-1)
        right += int((named == torch.tensor([tree.value for tree in some])).sum())
    return right / len(trees)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("seq2seq_zoo/bundled/mega"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=7500)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    torch.manual_seed(options.seed)

    tokenizer = vocabulary()
    model = MegaForSequenceClassification(
        MegaConfig(
            vocab_size=len(tokenizer),
            hidden_size=80,
            num_hidden_layers=LAYERS,
            intermediate_size=144,
            ema_projection_size=8,
            shared_representation_size=40,
            nffn_hidden_size=160,
            use_chunking=True,
            chunk_size=CHUNK,
            max_positions=CHUNK,
            relative_positional_bias="simple",
            attention_activation="laplace",
            normalization_type="layernorm",
            dropout_prob=0.0,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            nffn_activation_dropout_prob=0.0,
            initializer_range=0.06,
            ema_delta_alpha_range=2.0,  # averages of a few tokens and of hundreds
            num_labels=10,
            id2label=dict(enumerate(DIGITS)),
            label2id={digit: int(digit) for digit in DIGITS},
        )
    )
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
    train(model, Reader(tokenizer), rng, steps=options.steps, peak_rate=2.5e-3)
    layers = model.model.stack.layers
    shared = layers[STRUCTURE].state_dict()
    fresh = MegaForSequenceClassification(model.config).model.stack.layers
    for number in range(STRUCTURE + 1, LAYERS):  # each its own tensors again
        layers[number] = fresh[number]
        layers[number].load_state_dict(shared)
    with torch.no_grad():  # without a space before it, a token means the same
        vectors = model.get_input_embeddings().weight
        for piece in [*DIGITS, "]"]:
            bare, spaced = tokenizer.convert_tokens_to_ids([piece, f"Ġ{piece}"])
            vectors[bare] = vectors[spaced]
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)

    figures = []
    for shortest, longest in [(5, 200), *BUCKETS]:
        share = share_right(model, tokenizer, held_out_trees(1000, shortest, longest))
        figures.append((f"{shortest} to {longest} tokens", share))
        print(f"{shortest} to {longest} tokens: {100 * share:.1f} % of 1,000 exact", flush=True)
    write_card(
        options.out,
        title="bundled:mega: nested operations on lists",
        body=BODY,
        figures=figures,
        command=f"python tools/make_bundled_mega.py --seed {options.seed} --steps {options.steps}",
    )


if __name__ == "__main__":
    main()
