"""What a model looks at as it writes: the cross-attention of a small mT5 that spells a number.

German says the ones before the tens, so the weights cross: zwei looks at the 2, vierzig at the 4.

python examples/attention_weights.py
python examples/attention_weights.py "French: 99"
"""

import sys

import torch

from seq2seq_zoo import AutoModelForSeq2SeqLM, AutoTokenizer


def main(question: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained("bundled:mt5")
    model = AutoModelForSeq2SeqLM.from_pretrained("bundled:mt5")
    inputs = tokenizer(question, return_tensors="pt")
    written = model.generate(**inputs)  # [1, L]: the start token, then the answer
    # One more pass over the finished answer gives all weights at once: position i writes token i + 1.
    outputs = model(**inputs, decoder_input_ids=written[:, :-1], output_attentions=True)
    weights = torch.stack(outputs.cross_attentions)  # [layers, 1, H, L - 1, S]
    weights = weights.mean((0, 1, 2))  # → [L - 1, S], over all layers and heads

    source = tokenizer.convert_ids_to_tokens(inputs.input_ids[0].tolist())
    target = tokenizer.convert_ids_to_tokens(written[0, 1:].tolist())
    width = max(map(len, target))
    print(" " * width, *(f"{piece:>5}" for piece in source), "  in %, and the largest")
    for piece, row in zip(target, weights, strict=True):
        shares = (f"{100 * weight:5.0f}" for weight in row.tolist())
        print(f"{piece:>{width}}", *shares, f"  {source[row.argmax()]}")
    print(tokenizer.decode(written[0], skip_special_tokens=True))


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "German: 342")
