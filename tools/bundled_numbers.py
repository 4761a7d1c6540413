"""Numbers in words: the task of `bundled:mt5`, as rules.

Eight languages spell the whole numbers from 0 to 99,999, each by its own grammar: German says the unit
before the ten and writes one long word, French counts in twenties from 80, Spanish shortens *uno* before
*mil*, Russian makes *thousand* agree with what stands before it, Turkish drops *one*, Japanese groups by
ten thousand, Hindi has a word of its own for each number below a hundred.

    >>> NUMBER_WORDS["German"](342)
    'dreihundertzweiundvierzig'

Where a language leaves a choice we take one: British *and*; *eintausend*, *einhundert*; French hyphens as
before 1990; Spanish *uno*; Russian *одна тысяча* and the masculine; Turkish words apart; kanji numerals
without 一 before 千, 百 and 十; Hindi with nukta (हज़ार). The rules agree with those of ICU (CLDR's RBNF) on
every number in the range, but for the French hyphens around *et*.

A thousand numbers are set aside: no language shows them in training, so that a correct answer cannot have
been seen anywhere."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable
from itertools import pairwise

LIMIT = 100_000


def english(n: int) -> str:
    """342 -> three hundred and forty-two"""
    if n < 20:
        return _ENGLISH_BELOW_20[n]
    if n < 100:
        tens, unit = divmod(n, 10)
        return _ENGLISH_TENS[tens] + (f"-{_ENGLISH_BELOW_20[unit]}" if unit else "")
    if n < 1000:
        hundreds, rest = divmod(n, 100)
        return f"{_ENGLISH_BELOW_20[hundreds]} hundred" + (f" and {english(rest)}" if rest else "")
    thousands, rest = divmod(n, 1000)
    joint = " and " if rest < 100 else " "
    return f"{english(thousands)} thousand" + (joint + english(rest) if rest else "")


def german(n: int) -> str:
    """342 -> dreihundertzweiundvierzig"""
    return _german_stem(n) + ("s" if n % 100 == 1 else "")


def _german_stem(n: int) -> str:
    """The form inside a longer word: only a final 1 is *eins*, elsewhere it is *ein*."""
    if n < 20:
        return _GERMAN_BELOW_20[n]
    if n < 100:
        tens, unit = divmod(n, 10)
        return (f"{_GERMAN_BELOW_20[unit]}und" if unit else "") + _GERMAN_TENS[tens]
    size, word = (100, "hundert") if n < 1000 else (1000, "tausend")
    count, rest = divmod(n, size)
    return _german_stem(count) + word + (_german_stem(rest) if rest else "")


def french(n: int) -> str:
    """342 -> trois cent quarante-deux"""
    if n < 100:
        return _french_below_100(n) + ("s" if n == 80 else "")
    if n < 1000:
        hundreds, rest = divmod(n, 100)
        head = "cent" if hundreds == 1 else f"{_FRENCH_BELOW_20[hundreds]} cent"
        # *cent* and *vingt* take their plural s only where nothing follows.
        return f"{head} {french(rest)}" if rest else head + ("s" if hundreds > 1 else "")
    thousands, rest = divmod(n, 1000)
    head = "mille" if thousands == 1 else f"{_french_below_100(thousands)} mille"
    return f"{head} {french(rest)}" if rest else head


def _french_below_100(n: int) -> str:
    if n < 20:
        return _FRENCH_BELOW_20[n]
    if n >= 80:
        return "quatre-vingt" + (f"-{_FRENCH_BELOW_20[n - 80]}" if n > 80 else "")
    tens, unit = divmod(n, 10)
    if tens == 7:  # soixante-dix, soixante et onze: sixty and the teens
        tens, unit = 6, unit + 10
    if unit == 0:
        return _FRENCH_TENS[tens]
    joint = " et " if unit in (1, 11) else "-"
    return _FRENCH_TENS[tens] + joint + _FRENCH_BELOW_20[unit]


def spanish(n: int) -> str:
    """342 -> trescientos cuarenta y dos"""
    if n < 30:
        return _SPANISH_BELOW_30[n]
    if n < 100:
        tens, unit = divmod(n, 10)
        return _SPANISH_TENS[tens] + (f" y {_SPANISH_BELOW_30[unit]}" if unit else "")
    if n == 100:
        return "cien"
    if n < 1000:
        hundreds, rest = divmod(n, 100)
        return _SPANISH_HUNDREDS[hundreds] + (f" {spanish(rest)}" if rest else "")
    thousands, rest = divmod(n, 1000)
    head = "mil" if thousands == 1 else f"{_spanish_before_mil(thousands)} mil"
    return f"{head} {spanish(rest)}" if rest else head


def _spanish_before_mil(n: int) -> str:
    """A final *uno* loses its o before a noun (apocope): veintiún mil, treinta y un mil."""
    if n == 21:
        return "veintiún"
    return spanish(n).removesuffix("o") if n % 10 == 1 and n > 30 else spanish(n)


def russian(n: int) -> str:
    """342 -> триста сорок два"""
    thousands, rest = divmod(n, 1000)
    if thousands == 0:
        return _russian_below_1000(n, feminine=False)
    # тысяча is feminine, and its case follows the last word of the number before it.
    last_two, last = thousands % 100, thousands % 10
    if last == 1 and last_two != 11:
        noun = "тысяча"
    elif 2 <= last <= 4 and not 12 <= last_two <= 14:
        noun = "тысячи"
    else:
        noun = "тысяч"
    head = f"{_russian_below_1000(thousands, feminine=True)} {noun}"
    return f"{head} {_russian_below_1000(rest, feminine=False)}" if rest else head


def _russian_below_1000(n: int, *, feminine: bool) -> str:
    hundreds, rest = divmod(n, 100)
    words = [_RUSSIAN_HUNDREDS[hundreds]] if hundreds else []
    if rest >= 20:
        words.append(_RUSSIAN_TENS[rest // 10])
        rest %= 10
    if feminine and rest in (1, 2):
        words.append(("одна", "две")[rest - 1])
    elif rest or not words:
        words.append(_RUSSIAN_BELOW_20[rest])
    return " ".join(words)


def turkish(n: int) -> str:
    """342 -> üç yüz kırk iki"""
    if n == 0:
        return "sıfır"
    words = []
    for size, word in ((1000, "bin"), (100, "yüz")):
        count, n = divmod(n, size)
        if count:
            words += ([turkish(count)] if count > 1 else []) + [word]
    tens, unit = divmod(n, 10)
    return " ".join(
        words + _TURKISH_TENS[tens : tens + 1] * (tens > 0) + _TURKISH_UNITS[unit : unit + 1] * (unit > 0)
    )


def japanese(n: int) -> str:
    """342 -> 三百四十二"""
    if n == 0:
        return "〇"
    words = ""
    for size, word in ((10_000, "万"), (1000, "千"), (100, "百"), (10, "十")):
        count, n = divmod(n, size)
        if count:
            # 一 is written before 万, and left out before the smaller units.
            words += ("" if count == 1 and size < 10_000 else _KANJI_DIGITS[count]) + word
    return words + (_KANJI_DIGITS[n] if n else "")


def hindi(n: int) -> str:
    """342 -> तीन सौ बयालीस"""
    words = []
    for size, word in ((1000, "हज़ार"), (100, "सौ")):
        count, rest = divmod(n, size)
        if count:
            words += [_HINDI_BELOW_100[count], word]
            n = rest
    if n or not words:
        words.append(_HINDI_BELOW_100[n])
    # NFC writes ड़ and ज़ as letter and nukta, which is also what the tokenizer's normalisation makes of them.
    return unicodedata.normalize("NFC", " ".join(words))


def _words(text: str) -> list[str]:
    return text.split()


_ENGLISH_BELOW_20 = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_ENGLISH_TENS = _words("- - twenty thirty forty fifty sixty seventy eighty ninety")

_GERMAN_BELOW_20 = _words(
    "null ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn "
    "sechzehn siebzehn achtzehn neunzehn"
)
_GERMAN_TENS = _words("- - zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig")

_FRENCH_BELOW_20 = _words(
    "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize "
    "dix-sept dix-huit dix-neuf"
)
_FRENCH_TENS = _words("- - vingt trente quarante cinquante soixante")

_SPANISH_BELOW_30 = _words(
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis "
    "diecisiete dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro veinticinco "
    "veintiséis veintisiete veintiocho veintinueve"
)
_SPANISH_TENS = _words("- - - treinta cuarenta cincuenta sesenta setenta ochenta noventa")
_SPANISH_HUNDREDS = _words(
    "- ciento doscientos trescientos cuatrocientos quinientos seiscientos setecientos ochocientos novecientos"
)

_RUSSIAN_BELOW_20 = _words(
    "ноль один два три четыре пять шесть семь восемь девять десять одиннадцать двенадцать тринадцать "
    "четырнадцать пятнадцать шестнадцать семнадцать восемнадцать девятнадцать"
)
_RUSSIAN_TENS = _words("- - двадцать тридцать сорок пятьдесят шестьдесят семьдесят восемьдесят девяносто")
_RUSSIAN_HUNDREDS = _words("- сто двести триста четыреста пятьсот шестьсот семьсот восемьсот девятьсот")

_TURKISH_UNITS = _words("- bir iki üç dört beş altı yedi sekiz dokuz")
_TURKISH_TENS = _words("- on yirmi otuz kırk elli altmış yetmiş seksen doksan")

_KANJI_DIGITS = "〇一二三四五六七八九"

_HINDI_BELOW_100 = _words(
    "शून्य एक दो तीन चार पाँच छह सात आठ नौ दस ग्यारह बारह तेरह चौदह पन्द्रह सोलह सत्रह अठारह उन्नीस बीस "
    "इक्कीस बाईस तेईस चौबीस पच्चीस छब्बीस सत्ताईस अट्ठाईस उनतीस तीस इकतीस बत्तीस तैंतीस चौंतीस पैंतीस "
    "छत्तीस सैंतीस अड़तीस उनतालीस चालीस इकतालीस बयालीस तैंतालीस चौवालीस पैंतालीस छियालीस सैंतालीस "
    "अड़तालीस उनचास पचास इक्यावन बावन तिरेपन चौवन पचपन छप्पन सत्तावन अट्ठावन उनसठ साठ इकसठ बासठ तिरेसठ "
    "चौंसठ पैंसठ छियासठ सड़सठ अड़सठ उनहत्तर सत्तर इकहत्तर बहत्तर तिहत्तर चौहत्तर पचहत्तर छिहत्तर सतहत्तर "
    "अठहत्तर उनासी अस्सी इक्यासी बयासी तिरासी चौरासी पचासी छियासी सत्तासी अट्ठासी नवासी नब्बे इक्यानबे "
    "बानबे तिरानबे चौरानबे पंचानबे छियानबे सत्तानबे अट्ठानबे निन्यानबे"
)

NUMBER_WORDS: dict[str, Callable[[int], str]] = {
    "English": english,
    "German": german,
    "French": french,
    "Spanish": spanish,
    "Russian": russian,
    "Turkish": turkish,
    "Japanese": japanese,
    "Hindi": hindi,
}


def prompt(language: str, n: int) -> str:
    """The model's input: `German: 342`."""
    return f"{language}: {n}"


def held_out_numbers() -> list[int]:
    """The 1,000 numbers no training example shows in any language, ascending: 60 of three digits, 340 of
    four, 600 of five.

    Numbers below 100 are all trained on: they are the vocabulary (a model cannot guess *quinze*), longer
    ones are the grammar.
    """
    rng = random.Random(1000)
    by_length = (range(100, 1000), 60), (range(1000, 10_000), 340), (range(10_000, LIMIT), 600)
    return sorted(n for numbers, count in by_length for n in rng.sample(numbers, count))


def training_numbers() -> list[list[int]]:
    """All other numbers, in four groups: below 100, and of three, four and five digits."""
    held_out = set(held_out_numbers())
    bounds = (0, 100, 1000, 10_000, LIMIT)
    return [[n for n in range(low, high) if n not in held_out] for low, high in pairwise(bounds)]
