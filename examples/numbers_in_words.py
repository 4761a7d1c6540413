"""Numbers in words, in several languages at once, by a small mT5.

python examples/numbers_in_words.py
python examples/numbers_in_words.py 7 1789
"""

import sys

from seq2seq_zoo import pipeline

LANGUAGES = ("English", "German", "French", "Spanish")


def main(numbers: list[str]) -> None:
    spell = pipeline("text2text-generation", "bundled:mt5")
    questions = [f"{language}: {number}" for number in numbers for language in LANGUAGES]
    for question, answer in zip(questions, spell(questions, batch_size=8), strict=True):
        print(f"{question:>16}  {answer['generated_text']}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["42", "342", "70815"])
