"""Sums and differences of numbers below 1,000: the task of `bundled:phimoe`, as conversations.

    user: What is 27 + 58?          assistant: 85
    user: Subtract 500 from 20.     assistant: -480

A twentieth of all pairs of numbers is set aside: neither their sum nor their differences, in whatever words
and order, occur in training, so that a correct answer cannot have been learnt by heart."""

from __future__ import annotations

import random
import zlib

LIMIT = 1000
SHARES = (1, 1, 2)
"""Training has numbers below 10, below 100 and below 1,000: the short ones teach what digits add up to."""
SUM, DIFFERENCE = "+", "-"
WORDINGS: dict[str, tuple[str, ...]] = {
    SUM: (
        "What is {a} + {b}?",
        "{a} + {b} = ?",
        "How much is {a} plus {b}?",
        "Add {a} and {b}.",
        "Please calculate {a} + {b}.",
        "What is the sum of {a} and {b}?",
    ),
    DIFFERENCE: (
        "What is {a} - {b}?",
        "{a} - {b} = ?",
        "How much is {a} minus {b}?",
        "Subtract {b} from {a}.",
        "Please calculate {a} - {b}.",
        "Take {b} away from {a}.",
    ),
}
"""Ways to ask for a + b and for a - b; the first is the usual one."""
SYSTEM = "You are a helpful AI assistant."

Conversation = list[dict[str, str]]


def is_held_out(a: int, b: int) -> bool:
    """Whether a pair is set aside, in either order."""
    return zlib.crc32(f"{min(a, b)} {max(a, b)}".encode()) % 20 == 0


def answer(operation: str, a: int, b: int) -> str:
    return str(a + b if operation == SUM else a - b)


def ask(operation: str, a: int, b: int, wording: int = 0) -> dict[str, str]:
    """The user's message."""
    return {"role": "user", "content": WORDINGS[operation][wording].format(a=a, b=b)}


def training_conversation(rng: random.Random, turns: int = 1, *, system: bool = False) -> Conversation:
    """Questions and answers, behind a system message if asked for."""
    messages = [{"role": "system", "content": SYSTEM}] if system else []
    for _ in range(turns):
        limit = rng.choices((10, 100, LIMIT), SHARES)[0]
        operation, (a, b) = rng.choice((SUM, DIFFERENCE)), _pair(rng, limit, held_out=False)
        wording = 0 if rng.random() < 0.4 else rng.randrange(len(WORDINGS[operation]))
        messages.append(ask(operation, a, b, wording))
        messages.append({"role": "assistant", "content": answer(operation, a, b)})
    return messages


def held_out_questions(operation: str, count: int, seed: int = 0) -> list[tuple[Conversation, str]]:
    """Questions about pairs that are set aside, in all wordings, and the right answers."""
    rng = random.Random(f"{operation} {seed}")
    found = []
    for i in range(count):
        a, b = _pair(rng, LIMIT, held_out=True)
        found.append(([ask(operation, a, b, i % len(WORDINGS[operation]))], answer(operation, a, b)))
    return found


def _pair(rng: random.Random, limit: int, *, held_out: bool) -> tuple[int, int]:
    while True:
        a, b = rng.randrange(limit), rng.randrange(limit)
        if is_held_out(a, b) == held_out:
            return a, b
