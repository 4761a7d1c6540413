"""Lightweight tuning: MVP's body stays as it is, and prompts learn a new task, here in a few seconds.

The body tells where somebody was born ("Ada was born in Rome."). The prompts make it answer with the town
alone ("Rome"). A prompt is what every attention finds before its keys and values (Li and Liang 2021,
arXiv:2101.00190); `set_lightweight_tuning` freezes all else.

python examples/prompt_tuning.py
"""

import random

import torch

from seq2seq_zoo import AutoTokenizer, MvpForConditionalGeneration

PEOPLE = [
    "Ada",
    "Bruno",
    "Clara",
    "David",
    "Elena",
    "Frank",
    "Greta",
    "Hugo",
    "Ines",
    "Jonas",
    "Karla",
    "Leo",
]
TOWNS = ["Rome", "Oslo", "Paris", "Vienna", "Madrid", "Prague", "Berlin", "London", "Athens", "Dublin"]
STEPS, BATCH = 60, 16


def main() -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained("bundled:mvp")
    model = MvpForConditionalGeneration.from_pretrained(
        "bundled:mvp", use_prompt=True, prompt_length=8, prompt_mid_dim=32
    )
    model.set_lightweight_tuning()
    print(f"{model.num_parameters(only_trainable=True):,} of {model.num_parameters():,} parameters learn")

    pairs = [
        (f"Describe the following data: {name} | place of birth | {town}", town)
        for name in PEOPLE
        for town in TOWNS
    ]
    random.Random(0).shuffle(pairs)
    held_out, training = pairs[:20], pairs[20:]
    print(f"before: {count_right(model, tokenizer, held_out)} of {len(held_out)} right")

    prompts = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(prompts, lr=0.01)
    model.train()
    for step in range(STEPS):
        questions, answers = zip(*random.Random(step).sample(training, BATCH), strict=True)
        inputs = tokenizer(list(questions), padding=True, return_tensors="pt")
        labels = tokenizer(list(answers), padding=True, return_tensors="pt").input_ids
        loss = model(**inputs, labels=labels.masked_fill(labels == tokenizer.pad_token_id, -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 19:
            print(f"step {step + 1}: loss {loss.item():.3f}")
    model.eval()
    print(f"after: {count_right(model, tokenizer, held_out)} of {len(held_out)} right")


def count_right(
    model: MvpForConditionalGeneration, tokenizer: AutoTokenizer, pairs: list[tuple[str, str]]
) -> int:
    inputs = tokenizer([question for question, _ in pairs], padding=True, return_tensors="pt")
    written = tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    return sum(text == answer for text, (_, answer) in zip(written, pairs, strict=True))


if __name__ == "__main__":
    main()
