"""Data in sentences, by a small MVP; and a question about the data, by the same MVP with learnt prompts.

python examples/data_to_text.py
python examples/data_to_text.py "Ada Lovelace | place of birth | London" "London | country | England"
"""

import sys

from seq2seq_zoo import pipeline

FACTS = ["Iron Man | instance of | Superhero", "Stan Lee | creator | Iron Man"]


def main(facts: list[str]) -> None:
    data = " [SEP] ".join(facts)
    tell = pipeline("text2text-generation", "bundled:mvp")
    ask = pipeline("text2text-generation", "bundled:mvp-prompt")
    print(data)
    print("told: ", tell(f"Describe the following data: {data}")[0]["generated_text"])
    print("asked:", ask(f"Ask about the following data: {data}")[0]["generated_text"])


if __name__ == "__main__":
    main(sys.argv[1:] or FACTS)
