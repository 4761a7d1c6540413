"""Nested operations on lists by a small MEGA, and what each operator looks at on the way.

python examples/nested_lists.py
python examples/nested_lists.py "[SM 9 9 [MIN 4 2 ] ]"
"""

import sys

import torch

from seq2seq_zoo import MegaForSequenceClassification, RobertaTokenizer


def main(text: str) -> None:
    tokenizer = RobertaTokenizer.from_pretrained("bundled:mega")
    model = MegaForSequenceClassification.from_pretrained("bundled:mega")
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        out = model(**inputs, output_attentions=True)
    likely, label = out.logits.softmax(-1)[0].max(-1)
    print(f"{text} = {model.config.id2label[int(label)]} ({100 * likely:.0f} %)")

    tokens = [token.replace("Ġ", "") for token in tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])]
    weights = out.attentions[-1][0, 0]  # [1, chunks, L, L] of the last layer, in one chunk: Laplace's, 0 to 1
    for place, token in enumerate(tokens):
        if token.startswith("["):
            seen = " ".join(tokens[at] for at in (weights[place] > 0.5).nonzero().flatten())
            print(f"{place:>4} {token:<4} looks at  {seen}")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "[MAX 4 3 [MIN 2 3 ] 1 0 ]")
