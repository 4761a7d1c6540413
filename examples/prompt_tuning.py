"""Lightweight tuning: MVP's body stays as it is, and prompts learn a new task, here in a few seconds.

The body tells where somebody was born ("Marie Curie was born in Warsaw."). The prompts make it answer with
the city alone, also with cities that they were not trained on. A prompt is what every attention finds before
its keys and values (Li and Liang 2021, arXiv:2101.00190); `set_lightweight_tuning` freezes all else.

python examples/prompt_tuning.py
"""

import random
from typing import Any

import torch

from seq2seq_zoo import AutoTokenizer, MvpForConditionalGeneration

PEOPLE = ["Marie Curie", "Alan Turing", "Ada Lovelace", "Franz Kafka", "Jane Austen", "Frida Kahlo"]
CITIES = [
    *("Warsaw", "London", "Prague", "Paris", "Vienna", "Tokyo", "Lisbon", "Athens", "Rome", "Berlin"),
    *("Chicago", "Cairo", "Mumbai", "Naples", "Boston", "Seattle", "Hamburg", "Munich", "Milan", "Kyoto"),
]
NEW_CITIES = ["Madrid", "Dublin", "Oslo"]
STEPS, BATCH = 100, 16

Pair = tuple[str, str]
"""A question and its answer."""


def births(cities: list[str]) -> list[Pair]:
    question = "Describe the following data: {} | place of birth | {}"
    return [(question.format(person, city), city) for person in PEOPLE for city in cities]


def count_right(model: MvpForConditionalGeneration, tokenizer: Any, pairs: list[Pair]) -> int:
    inputs = tokenizer([question for question, _ in pairs], padding=True, return_tensors="pt")
    written = tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    return sum(text == answer for text, (_, answer) in zip(written, pairs, strict=True))


def main() -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained("bundled:mvp")
    model = MvpForConditionalGeneration.from_pretrained(
        "bundled:mvp", use_prompt=True, prompt_length=8, prompt_mid_dim=32
    )
    model.set_lightweight_tuning()
    print(f"{model.num_parameters(only_trainable=True):,} of {model.num_parameters():,} parameters learn")
    training, held_out = births(CITIES), births(NEW_CITIES)
    print(f"before: {count_right(model, tokenizer, held_out)} of {len(held_out)} right")

    prompts = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(prompts, lr=0.01)
    model.train()
    for step in range(1, STEPS + 1):
        questions, answers = zip(*random.Random(step).sample(training, BATCH), strict=True)
        inputs = tokenizer(list(questions), padding=True, return_tensors="pt")
        targets = tokenizer(list(answers), padding=True, return_tensors="pt")
        labels = targets.input_ids.masked_fill(targets.attention_mask == 0, -100)
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    model.eval()
    print(f"after: {count_right(model, tokenizer, held_out)} of {len(held_out)} right")


if __name__ == "__main__":
    main()
