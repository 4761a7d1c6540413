"""Two sentences into one: the task of `bundled:bert2bert`, as rules.

What the sentences have in common, or the word that links them, says how they are fused:

    Anna is tall. Anna likes tea.              Anna is tall and likes tea.
    Anna likes tea. She likes jazz.            Anna likes tea and jazz.
    Anna likes tea. Ben likes tea.             Anna and Ben like tea.
    Anna likes tea. Ben is tall.               Anna likes tea, and Ben is tall.
    Anna is a doctor. Anna likes tea.          Anna, a doctor, likes tea.
    Anna likes tea. Anna is a doctor.          Anna, who is a doctor, likes tea.
    Anna met Ben. Ben is tall.                 Anna met Ben, who is tall.
    Anna lives in Oslo. It has a port.         Anna lives in Oslo, which has a port.
    Anna bought a lamp. The lamp is old.       Anna bought an old lamp.
    Anna is ill. However, Anna plays chess.    Anna is ill, but she plays chess.
    Anna is ill. Therefore, Anna left.         Anna left because she is ill.
    Anna is ill. Nevertheless, she left.       Although Anna is ill, she left.
    Anna ran home. Then Anna cooked dinner.    Anna ran home before she cooked dinner.
    Anna left. Before that, Anna ran home.     Anna left after she ran home.
    Anna left. Meanwhile, Ben ran home.        While Anna left, Ben ran home.

A pronoun may stand for the subject of the second sentence where it can mean only one of those named before.
What is said of whom is drawn at random. Held out from training are one combination of two statements in
eight, by a checksum of both (so in every pattern and with or without a pronoun), and one pair of predicates
in ten, whoever they are said of."""

from __future__ import annotations

import random
import zlib
from typing import NamedTuple

# --- words --------------------------------------------------------------------------------------------------


def _words(text: str, between: str = " ") -> list[str]:
    return text.split(between)


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _with_articles(nouns: str) -> list[str]:
    return [_with_article(noun) for noun in nouns.split()]


WOMEN = _words(
    "Anna Eva Maria Clara Emma Julia Laura Sarah Nina Ruth Olga Vera Ida Alice Rosa Helen Irene Judith Karin "
    "Lucy Martha Nora Paula Rita Sofia Tina Ursula Wanda Zoe Amina Fatima Leila Yuki Mei Priya Carmen Diana "
    "Elena Frida Greta Hannah Ingrid Jane Kate Lena Mary Naomi Olivia Pia Sonja"
)
MEN = _words(
    "Ben Tom Paul Peter Max Felix Oscar Hugo Ivan Karl Leo Martin Noah Otto Robert Simon Victor Walter Adam "
    "Boris Carlos David Erik Frank George Henry Igor Jack Kevin Louis Mark Nils Omar Pablo Ravi Samuel Theo "
    "Umar Vincent William Yusuf Ali Bruno Daniel Edgar Fritz Hassan James Kenji John"
)
CITIES = _words(
    "Oslo Rome Paris London Berlin Madrid Lisbon Vienna Prague Warsaw Athens Dublin Cairo Tokyo Delhi Lima "
    "Quito Boston Chicago Toronto Sydney Nairobi Lagos Tunis Beirut Ankara Kyoto Seoul Hanoi Hamburg Munich "
    "Geneva Naples Venice Porto Seville Bergen Glasgow Cardiff Havana"
)
PRONOUNS = dict.fromkeys(WOMEN, "she") | dict.fromkeys(MEN, "he")
VERBS = {
    "is": "are",
    "was": "were",
    "has": "have",
    "lives in": "live in",
    "works in": "work in",
    "was born in": "were born in",
    "teaches": "teach",
    **{f"{verb}s": verb for verb in _words("like love hate need want play know speak learn")},
}
"""Verbs whose plural differs, and that plural."""


class Kind(NamedTuple):
    """Predicates that are made alike: a verb, and what it is said with."""

    verbs: tuple[str, ...]
    objects: list[str]


KINDS = {
    "adjective": Kind(
        ("is", "was"),
        _words(
            "tall short old young happy sad tired ill hungry thirsty busy lazy rich poor kind rude angry "
            "calm shy brave clever famous friendly funny honest late lonely lucky nervous patient polite "
            "proud quiet serious strong weak blond curious modest generous"
        ),
    ),
    "job": Kind(
        ("is",),
        _with_articles(
            "doctor teacher lawyer baker painter singer actor engineer farmer pilot sailor writer poet judge "
            "nurse driver waiter student soldier gardener plumber dentist chemist banker dancer editor "
            "tailor barber hunter artist"
        ),
    ),
    "taste": Kind(
        ("likes", "loves", "hates", "needs", "wants"),
        _words(
            "tea coffee bread cheese milk honey rice soup salad chocolate fruit fish meat wine beer water "
            "jazz music art silence snow rain sunshine money advice help peace sleep pasta garlic"
        ),
    ),
    "game": Kind(
        ("plays", "learns", "teaches"),
        _words("chess football tennis golf hockey rugby poker bridge handball cricket baseball badminton"),
    ),
    "language": Kind(
        ("speaks", "learns", "teaches"),
        _words(
            "English French German Spanish Italian Arabic Russian Greek Turkish Polish Swedish Hindi Korean "
            "Latin Dutch Danish"
        ),
    ),
    "place": Kind(("lives in", "works in", "was born in", "moved to", "flew to"), CITIES),
    "thing": Kind(
        ("has", "bought", "found", "lost", "sold"),
        _with_articles(
            "lamp car bike boat house book piano guitar camera watch ring coat hat umbrella table chair sofa "
            "clock mirror vase carpet tent kite drum violin phone radio ladder basket knife"
        ),
    ),
    "deed": Kind(
        ("",),
        _words(
            "left|smiled|laughed|cried|slept|danced|waited|ran home|went home|walked home|cooked dinner|"
            "made breakfast|washed the dishes|cleaned the kitchen|opened the door|closed the window|"
            "read a letter|wrote a poem|sang a song|told a story|took a bath|fed the cat|painted the fence|"
            "repaired the roof|watered the garden|swept the floor|lit a fire|baked a cake|drank some tea|"
            "missed the bus",
            "|",
        ),
    ),
    "company": Kind(("met", "called", "visited", "helped", "thanked", "knows"), WOMEN + MEN),
}
OF_CITIES = Kind(("has",), _with_articles("port castle harbour bridge museum university cathedral zoo park"))
OF_CITIES_TOO = Kind(("is",), _words("big small old beautiful famous noisy quiet expensive modern"))
OF_THINGS = Kind(
    ("is",),
    _words("old new small big expensive cheap red blue green black white ugly beautiful broken heavy empty"),
)
LINKS = ("However,", "Therefore,", "Nevertheless,", "Then", "Before that,", "Meanwhile,")
_IN_TIME = ("Then", "Before that,", "Meanwhile,")


class Predicate(NamedTuple):
    """What is said of someone; `kind` names one of KINDS, or is "city" or "noun" for what is said of
    those."""

    kind: str
    verb: str
    object: str

    def __str__(self) -> str:
        return f"{self.verb} {self.object}".strip()


class Statement(NamedTuple):
    """A subject (a name, or a thing that was mentioned, "the lamp") and what is said of it."""

    subject: str
    predicate: Predicate

    def __str__(self) -> str:
        return f"{self.subject} {self.predicate}"


class Example(NamedTuple):
    first: Statement
    second: Statement
    link: str = ""
    """One of LINKS, or nothing."""
    pronoun: bool = False
    """Whether a pronoun stands for the second subject."""


# --- two sentences, and one ---------------------------------------------------------------------------------


def apart(example: Example) -> str:
    """Two sentences: the model's input."""
    first, second, link, pronoun = example
    subject = PRONOUNS.get(second.subject, "It") if pronoun else second.subject
    words = f"{link} {subject} {second.predicate}".strip()
    return f"{first}. {words[0].upper()}{words[1:]}."


def fused(example: Example) -> str:
    """One sentence: the model's output."""
    first, second, link, _ = example
    if link:
        return _linked(first, second, link)
    if first.subject == second.subject:
        return _about_one(first.subject, first.predicate, second.predicate)
    if second.predicate.kind == "noun":
        noun = first.predicate.object.split(" ")[1]
        described = _with_article(f"{second.predicate.object} {noun}")
        return f"{first.subject} {first.predicate.verb} {described}."
    if second.subject == first.predicate.object:
        return f"{first}, {'who' if second.subject in PRONOUNS else 'which'} {second.predicate}."
    if first.predicate == second.predicate:
        return f"{first.subject} and {second.subject} {_of_several(first.predicate)}."
    return f"{first}, and {second}."


def _linked(first: Statement, second: Statement, link: str) -> str:
    """The link becomes a conjunction, and a name said twice a pronoun."""
    one, two = first.predicate, second.predicate
    again = PRONOUNS[first.subject] if second.subject == first.subject else None
    if link == "Therefore,":  # the reason goes last
        return f"{second.subject} {two} because {again or first.subject} {one}."
    then = again or second.subject
    return {
        "However,": f"{first}, but {then} {two}.",
        "Nevertheless,": f"Although {first}, {then} {two}.",
        "Then": f"{first} before {then} {two}.",
        "Before that,": f"{first} after {then} {two}.",
        "Meanwhile,": f"While {first}, {then} {two}.",
    }[link]


def _about_one(subject: str, one: Predicate, two: Predicate) -> str:
    if one.verb and (one.kind, one.verb) == (two.kind, two.verb):
        return f"{subject} {one} and {two.object}."
    if one.kind == "job":
        return f"{subject}, {one.object}, {two}."
    if two.kind == "job":
        return f"{subject}, who {two}, {one}."
    return f"{subject} {one} and {two}."


def _of_several(predicate: Predicate) -> str:
    said = predicate.object
    if predicate.kind == "job":
        said = said.split(" ")[1] + "s"
    return f"{VERBS.get(predicate.verb, predicate.verb)} {said}".strip()


def known_words() -> list[str]:
    """Every word and mark of the task, each once, in the order of the alphabet."""
    texts = [*PRONOUNS, *PRONOUNS.values(), *VERBS, *VERBS.values(), *LINKS]
    for kind in (*KINDS.values(), OF_CITIES, OF_CITIES_TOO, OF_THINGS):
        texts += [*kind.verbs, *kind.objects]
    texts += [noun.split(" ")[1] + "s" for noun in KINDS["job"].objects]
    texts += _words("She He It The a an and who which because but Although before after While . ,")
    return sorted({word for text in texts for word in text.replace(",", " ,").split()})


# --- what is held out ---------------------------------------------------------------------------------------


def is_held_out_combination(example: Example) -> bool:
    """One combination of two statements in eight appears in no training example, in whatever order."""
    both = sorted((str(example.first), str(example.second)))
    return zlib.crc32("|".join(both).encode()) % 8 == 0


def is_held_out_pair(example: Example) -> bool:
    """One pair of different predicates in ten never stands together in a training example."""
    both = sorted({str(example.first.predicate), str(example.second.predicate)})
    return len(both) == 2 and zlib.crc32("+".join(both).encode()) % 10 == 0


# --- drawing examples ---------------------------------------------------------------------------------------


def training_example(rng: random.Random) -> Example:
    while True:
        example = _draw(rng)
        if not is_held_out_combination(example) and not is_held_out_pair(example):
            return example


def held_out_examples(split: str, count: int) -> list[Example]:
    """The first `count` distinct examples of a held-out set; always the same ones.

    combinations   held-out combinations of statements, pairs of predicates that training may show
    pairs          pairs of predicates that training never shows together
    """
    rng = random.Random(f"held out: {split}")
    found: dict[Example, None] = {}
    while len(found) < count:
        example = _draw(rng)
        if is_held_out_pair(example) == (split == "pairs") and (
            split == "pairs" or is_held_out_combination(example)
        ):
            found.setdefault(example)
    return list(found)


PATTERNS = ("same", "verb", "job first", "job second", "subjects", "two", "who", "which", "noun", *LINKS)


def _draw(rng: random.Random) -> Example:
    """An example of any pattern, held out or not."""
    while True:
        pattern = rng.choice(PATTERNS)
        example = _draw_of(pattern, rng)
        if example is not None:
            return example._replace(pronoun=rng.random() < 0.5 and _pronoun_is_clear(example))


def _draw_of(pattern: str, rng: random.Random) -> Example | None:
    """Nothing if the draw fits no pattern: whoever calls draws again."""
    name, other = rng.sample((*WOMEN, *MEN), 2)
    link = pattern if pattern in LINKS else ""
    kinds = [kind for kind in KINDS if kind not in (("job", "company") if link else ("job",))]
    if pattern in _IN_TIME:
        kinds = ["deed", "thing"]
    one, two = (_predicate(rng.choice(kinds), rng) for _ in range(2))
    subject = name
    if pattern == "verb":
        two = _predicate(one.kind, rng)._replace(verb=one.verb)
    elif pattern == "job first":
        one = _predicate("job", rng)
    elif pattern == "job second":
        two = _predicate("job", rng)
    elif pattern == "subjects":
        subject, one = other, _predicate(rng.choice((*kinds, "job")), rng)
        two = one
    elif pattern == "two" or link == "Meanwhile,":
        subject = other
    elif pattern == "who":
        one, subject = _predicate("company", rng), other
        one = one._replace(object=other)
        two = _predicate(rng.choice((*kinds, "job")), rng)
    elif pattern == "which":
        one = _predicate("place", rng)
        subject, two = one.object, _from("city", rng.choice((OF_CITIES, OF_CITIES_TOO)), rng)
    elif pattern == "noun":
        one = _predicate("thing", rng)
        subject, two = f"the {one.object.split(' ')[1]}", _from("noun", OF_THINGS, rng)
    elif link and rng.random() < 0.3 and pattern not in _IN_TIME:
        subject = other
    if pattern in _IN_TIME and "has" in (one.verb, two.verb):
        return None
    if pattern != "subjects" and one == two:
        return None
    # Nobody meets the one who is spoken of next, or themselves, but where that is the pattern.
    objects = {one.object, two.object} if pattern != "who" else {two.object}
    return None if objects & {name, other} else Example(Statement(name, one), Statement(subject, two), link)


def _predicate(kind: str, rng: random.Random) -> Predicate:
    return _from(kind, KINDS[kind], rng)


def _from(name: str, kind: Kind, rng: random.Random) -> Predicate:
    return Predicate(name, rng.choice(kind.verbs), rng.choice(kind.objects))


def _pronoun_is_clear(example: Example) -> bool:
    """Whether a pronoun could mean nobody else of the first sentence, and nothing new."""
    first, second = example.first, example.second
    if second.subject not in PRONOUNS:
        return True
    pronoun = PRONOUNS[second.subject]
    named = {name for name in (first.subject, first.predicate.object) if name in PRONOUNS}
    return {name for name in named if PRONOUNS[name] == pronoun} == {second.subject}
