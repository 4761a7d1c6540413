"""What the scripts of the bundled checkpoints share: a training loop, greedy answers, a model card.

The models are small enough for a CPU: batches of a few hundred short texts, AdamW, a warm-up, then a cosine
down to zero. No dropout and no weight decay: the training data are drawn from rules without end, so that
nothing can be learnt by heart."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seq2seq_zoo import (
    BertTokenizer,
    EncoderDecoderModel,
    MT5ForConditionalGeneration,
    MT5Tokenizer,
    MvpForConditionalGeneration,
    MvpTokenizer,
)

Model = MT5ForConditionalGeneration | MvpForConditionalGeneration | EncoderDecoderModel
Tokenizer = MT5Tokenizer | MvpTokenizer | BertTokenizer
Pair = tuple[str, str]
"""A question and its answer."""


def train(
    model: Model | nn.Module,
    tokenizer: Any,
    batches: Iterator[list[Any]],
    *,
    tensors: Callable[[Any, list[Any]], dict[str, Any]] | None = None,
    steps: int,
    peak_rate: float,
) -> None:
    """Train those parameters of `model` that ask for a gradient, for `steps` batches; prints the loss as it
    falls. `tensors` makes the model's arguments of a batch, by default one of pairs."""
    tensors = tensors or _tensors
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak_rate, betas=(0.9, 0.98), weight_decay=0.0)
    warmup = max(1, steps // 10)

    def rate(step: int) -> float:
        return min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    model.train()
    started, smooth = time.perf_counter(), None
    for step in range(1, steps + 1):
        loss = model(**tensors(tokenizer, next(batches))).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        smooth = loss.item() if smooth is None else 0.95 * smooth + 0.05 * loss.item()
        if step % 100 == 0:
            print(
                f"step {step}/{steps}  loss {smooth:.4f}  {time.perf_counter() - started:.0f} s", flush=True
            )
    model.eval()


def _tensors(tokenizer: Tokenizer, pairs: Sequence[Pair]) -> dict[str, Tensor]:
    questions, answers = zip(*pairs, strict=True)
    inputs = tokenizer(list(questions), padding=True, return_tensors="pt")
    targets = tokenizer(list(answers), padding=True, return_tensors="pt")
    labels = targets["input_ids"].masked_fill(targets["attention_mask"] == 0, -100)
    return {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "labels": labels}


def by_length(pairs: list[Pair], size: int) -> list[list[Pair]]:
    """Batches of `size` pairs of about equal length, so that little is padding; from short to long."""
    ordered = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def answers(
    model: Model, tokenizer: Tokenizer, questions: Sequence[str], *, batch_size: int = 200
) -> list[str]:
    """The model's greedy answers."""
    texts: list[str] = []
    for start in range(0, len(questions), batch_size):
        inputs = tokenizer(list(questions[start : start + batch_size]), padding=True, return_tensors="pt")
        texts += tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    return texts


def accuracy(model: Model, tokenizer: Tokenizer, pairs: Sequence[Pair]) -> float:
    """The share of questions answered exactly."""
    texts = answers(model, tokenizer, [question for question, _ in pairs])
    return sum(text == answer for text, (_, answer) in zip(texts, pairs, strict=True)) / len(pairs)


def write_card(
    folder: Path, *, title: str, body: str, figures: Iterable[tuple[str, float]], command: str
) -> None:
    """README.md, the model card: what the checkpoint does, how well, and how it was made."""
    size = sum(path.stat().st_size for path in folder.iterdir() if path.name != "README.md")
    rows = "".join(f"| {name} | {100 * share:.1f} % |\n" for name, share in figures)
    text = (
        f"---\nlicense: apache-2.0\nlibrary_name: seq2seq_zoo\n---\n\n# {title}\n\n{body.strip()}\n\n"
        f"## How well\n\nExact answers, greedy, on examples that training does not contain:\n\n"
        f"| | exact |\n|-|-|\n{rows}\n"
        f"## How it was made\n\n```\n{command}\n```\n\n"
        f"Trained from random weights with torch {torch.__version__} on a CPU; {size / 1e6:.2f} MB. Another "
        "version or number of threads adds up in another order: other weights, nearly the same figures.\n"
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
