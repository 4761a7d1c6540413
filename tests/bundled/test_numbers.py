"""The number rules, against spellings known from grammars and dictionaries, and the split."""

import unicodedata

import pytest
from bundled_numbers import LIMIT, NUMBER_WORDS, held_out_numbers, training_numbers

KNOWN = {
    "English": {
        0: "zero",
        13: "thirteen",
        40: "forty",
        99: "ninety-nine",
        100: "one hundred",
        101: "one hundred and one",
        342: "three hundred and forty-two",
        1000: "one thousand",
        1066: "one thousand and sixty-six",
        12300: "twelve thousand three hundred",
        70015: "seventy thousand and fifteen",
        99999: "ninety-nine thousand nine hundred and ninety-nine",
    },
    "German": {
        0: "null",
        1: "eins",
        16: "sechzehn",
        17: "siebzehn",
        21: "einundzwanzig",
        30: "dreißig",
        66: "sechsundsechzig",
        101: "einhunderteins",
        111: "einhundertelf",
        342: "dreihundertzweiundvierzig",
        1001: "eintausendeins",
        21000: "einundzwanzigtausend",
        31121: "einunddreißigtausendeinhunderteinundzwanzig",
    },
    "French": {
        0: "zéro",
        17: "dix-sept",
        21: "vingt et un",
        22: "vingt-deux",
        70: "soixante-dix",
        71: "soixante et onze",
        77: "soixante-dix-sept",
        80: "quatre-vingts",
        81: "quatre-vingt-un",
        91: "quatre-vingt-onze",
        99: "quatre-vingt-dix-neuf",
        100: "cent",
        200: "deux cents",
        201: "deux cent un",
        280: "deux cent quatre-vingts",
        1000: "mille",
        2000: "deux mille",
        80000: "quatre-vingt mille",
        81200: "quatre-vingt-un mille deux cents",
        71071: "soixante et onze mille soixante et onze",
    },
    "Spanish": {
        0: "cero",
        16: "dieciséis",
        21: "veintiuno",
        22: "veintidós",
        31: "treinta y uno",
        100: "cien",
        101: "ciento uno",
        500: "quinientos",
        342: "trescientos cuarenta y dos",
        700: "setecientos",
        909: "novecientos nueve",
        1000: "mil",
        1100: "mil cien",
        2001: "dos mil uno",
        21000: "veintiún mil",
        31001: "treinta y un mil uno",
        41131: "cuarenta y un mil ciento treinta y uno",
    },
    "Russian": {
        0: "ноль",
        11: "одиннадцать",
        40: "сорок",
        90: "девяносто",
        342: "триста сорок два",
        500: "пятьсот",
        1000: "одна тысяча",
        2002: "две тысячи два",
        5000: "пять тысяч",
        11000: "одиннадцать тысяч",
        12000: "двенадцать тысяч",
        21001: "двадцать одна тысяча один",
        22014: "двадцать две тысячи четырнадцать",
        30000: "тридцать тысяч",
        94616: "девяносто четыре тысячи шестьсот шестнадцать",
    },
    "Turkish": {
        0: "sıfır",
        14: "on dört",
        40: "kırk",
        100: "yüz",
        101: "yüz bir",
        342: "üç yüz kırk iki",
        1000: "bin",
        1923: "bin dokuz yüz yirmi üç",
        2000: "iki bin",
        68111: "altmış sekiz bin yüz on bir",
    },
    "Japanese": {
        0: "〇",
        10: "十",
        11: "十一",
        20: "二十",
        100: "百",
        342: "三百四十二",
        1000: "千",
        1111: "千百十一",
        2024: "二千二十四",
        10000: "一万",
        12345: "一万二千三百四十五",
        90009: "九万九",
    },
    "Hindi": {
        0: "शून्य",
        9: "नौ",
        21: "इक्कीस",
        25: "पच्चीस",
        49: "उनचास",
        50: "पचास",
        79: "उनासी",
        99: "निन्यानबे",
        100: "एक सौ",
        342: "तीन सौ बयालीस",
        1000: "एक हज़ार",
        52018: "बावन हज़ार अठारह",
    },
}


@pytest.mark.parametrize(
    ("language", "n", "words"),
    [(language, n, words) for language, table in KNOWN.items() for n, words in table.items()],
)
def test_known_spellings(language: str, n: int, words: str) -> None:
    assert NUMBER_WORDS[language](n) == unicodedata.normalize("NFC", words)


@pytest.mark.parametrize("language", NUMBER_WORDS)
def test_no_two_numbers_are_spelled_alike_and_the_tokenizer_normalises_nothing_away(language: str) -> None:
    spellings = [NUMBER_WORDS[language](n) for n in range(LIMIT)]
    assert len(set(spellings)) == LIMIT
    assert all(unicodedata.is_normalized("NFKC", words) and words == words.strip() for words in spellings)


def test_the_split_covers_all_numbers_once() -> None:
    held_out = held_out_numbers()
    groups = training_numbers()
    assert len(held_out) == 1000
    assert sorted(held_out + [n for numbers in groups for n in numbers]) == list(range(LIMIT))
    assert [max(numbers) for numbers in groups] == [99, 999, 9999, 99999]
    assert groups[0] == list(range(100))
