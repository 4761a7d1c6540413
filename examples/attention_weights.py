"""What a model looks at as it writes: the cross-attention of a small mT5 that spells a number.

python examples/attention_weights.py
python examples/attention_weights.py "French: 99"
"""

import sys

from seq2seq_zoo import AutoModelForSeq2SeqLM, AutoTokenizer

LAYER = -1


def main(question: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained("bundled:mt5")
    model = AutoModelForSeq2SeqLM.from_pretrained("bundled:mt5")
    inputs = tokenizer(question, return_tensors="pt")
    written = model.generate(**inputs)  # [1, L]: the start token, then the answer
    # One more pass over the finished answer gives all weights at once: position i writes token i + 1.
    outputs = model(**inputs, decoder_input_ids=written[:, :-1], output_attentions=True)
    weights = outputs.cross_attentions[LAYER][0].mean(0)  # [1, H, L - 1, S] → [L - 1, S], heads averaged

    source = tokenizer.convert_ids_to_tokens(inputs.input_ids[0].tolist())
    target = tokenizer.convert_ids_to_tokens(written[0, 1:].tolist())
    width = max(map(len, target))
    print(" " * width, *(f"{piece:>8}" for piece in source))
    for piece, row in zip(target, weights.tolist(), strict=True):
        print(f"{piece:>{width}}", *(f"{'█' * round(8 * weight):>8}" for weight in row))
    print(tokenizer.decode(written[0], skip_special_tokens=True))


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "German: 342")
