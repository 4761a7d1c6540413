"""A little grammar: what `bundled:mega-text` writes, as rules that draw sentences and rules that judge them.

    sentence   →  phrase(n, kind)  predicate(n, kind)  "."
    phrase     →  article(n)  adjective?  noun(n, kind)  clause(n, kind)?
    clause     →  pronoun(kind)  predicate(n, kind)                           who sees the owl
               |  pronoun(kind)  phrase(m, kind')  transitive(m, kind')       who the owl sees
    predicate  →  intransitive(n, kind)  adverb?
               |  transitive(n, kind)  phrase(m, kind')
               |  thinking(n)  "that"  phrase(m, kind')  predicate(m, kind')            (kind: a person)

    the old singer who the owls that chase a mouse see thinks that every lamp shines.

Everything agrees: verbs with their subjects in number, over whatever stands between them; articles with
nouns in number, and "a" or "an" with the word that follows; "who" stands for persons and "that" for all
else; only persons think, and lamps do not sleep. Clauses and thoughts nest, in what is drawn up to `DEPTH`
deep; `accepts` judges sentences of any depth.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

DEPTH = 3
"""Clauses and thoughts within each other, at most, in what is drawn."""

SINGULAR, PLURAL = 0, 1
KINDS = ("person", "animal", "thing")
NOUNS: dict[str, tuple[tuple[str, str], ...]] = {
    "person": (
        ("singer", "singers"),
        ("farmer", "farmers"),
        ("actor", "actors"),
        ("child", "children"),
        ("woman", "women"),
        ("uncle", "uncles"),
    ),
    "animal": (
        ("dog", "dogs"),
        ("mouse", "mice"),
        ("owl", "owls"),
        ("goose", "geese"),
        ("ant", "ants"),
        ("fox", "foxes"),
    ),
    "thing": (
        ("lamp", "lamps"),
        ("engine", "engines"),
        ("bell", "bells"),
        ("clock", "clocks"),
        ("ice cube", "ice cubes"),
        ("knife", "knives"),
    ),
}
ARTICLES = (("the", "a", "every", "this"), ("the", "some", "many", "these"))
ADJECTIVES = ("old", "young", "small", "ugly", "red", "honest", "amber", "quiet")
ADVERBS = ("often", "today", "loudly", "again")
_LIVING = (("sleep", "sleeps"), ("run", "runs"), ("wait", "waits"), ("die", "dies"))
INTRANSITIVE: dict[str, tuple[tuple[str, str], ...]] = {
    "person": (*_LIVING, ("laugh", "laughs")),
    "animal": (*_LIVING, ("hunt", "hunts")),
    "thing": (("shine", "shines"), ("fall", "falls"), ("break", "breaks")),
}
_ACTIONS = (("see", "sees"), ("chase", "chases"), ("like", "likes"), ("hear", "hears"))
TRANSITIVE: dict[str, tuple[tuple[str, str], ...]] = {
    "person": (*_ACTIONS, ("buy", "buys"), ("paint", "paints")),
    "animal": (*_ACTIONS, ("bite", "bites")),
    "thing": (("hit", "hits"), ("wake", "wakes"), ("cover", "covers")),
}
THINKING = (("think", "thinks"), ("know", "knows"), ("hope", "hopes"))


def _forms(verbs: tuple[tuple[str, str], ...], number: int) -> list[str]:
    """Verbs as they go with a subject: those of plurals come first in a pair."""
    return [plain if number == PLURAL else with_s for plain, with_s in verbs]


def _pronoun(kind: str) -> str:
    return "who" if kind == "person" else "that"


# --- drawing ------------------------------------------------------------------------------------------------


def draw(rng: random.Random) -> str:
    """A sentence."""
    subject, number, kind = _draw_phrase(rng, DEPTH)
    return " ".join([*subject, *_draw_predicate(rng, number, kind, DEPTH)]) + "."


def _draw_phrase(rng: random.Random, depth: int) -> tuple[list[str], int, str]:
    number, kind = rng.randrange(2), rng.choice(KINDS)
    words = rng.choice(NOUNS[kind])[number].split()
    if rng.random() < 0.3:
        words.insert(0, rng.choice(ADJECTIVES))
    article = rng.choice(ARTICLES[number])
    words.insert(0, "an" if article == "a" and words[0][0] in "aeiou" else article)
    if depth and rng.random() < 0.4:
        words.append(_pronoun(kind))
        if rng.random() < 0.5:
            words += _draw_predicate(rng, number, kind, depth - 1)
        else:
            inner, inner_number, inner_kind = _draw_phrase(rng, depth - 1)
            words += [*inner, rng.choice(_forms(TRANSITIVE[inner_kind], inner_number))]
    return words, number, kind


def _draw_predicate(rng: random.Random, number: int, kind: str, depth: int) -> list[str]:
    choice = rng.random()
    if kind == "person" and depth and choice < 0.2:
        subject, inner_number, inner_kind = _draw_phrase(rng, depth - 1)
        thought = _draw_predicate(rng, inner_number, inner_kind, depth - 1)
        return [rng.choice(_forms(THINKING, number)), "that", *subject, *thought]
    if choice < 0.6:
        return [rng.choice(_forms(TRANSITIVE[kind], number)), *_draw_phrase(rng, depth)[0]]
    adverb = [rng.choice(ADVERBS)] if rng.random() < 0.3 else []
    return [rng.choice(_forms(INTRANSITIVE[kind], number)), *adverb]


# --- judging ------------------------------------------------------------------------------------------------


def accepts(sentence: str) -> bool:
    """Whether the grammar has this sentence: words separated by single spaces, a full stop at the end."""
    if not sentence.endswith(".") or sentence != sentence.strip():
        return False
    words = tuple(sentence[:-1].split(" "))

    # Each function yields where a part that begins at a place may end, and what must agree with it.
    @cache
    def phrases(place: int) -> frozenset[tuple[int, int, str]]:
        found = set()
        for article, number in [(a, n) for n in (SINGULAR, PLURAL) for a in ARTICLES[n]]:
            if place + 1 >= len(words):
                continue
            vowel = words[place + 1][:1] in tuple("aeiou")
            if words[place] != ("an" if article == "a" and vowel else article):
                continue
            for start in (place + 1, *([place + 2] if words[place + 1] in ADJECTIVES else [])):
                for end, kind in nouns(start, number):
                    found.add((end, number, kind))
                    found |= {(after, number, kind) for after in clauses(end, number, kind)}
        return frozenset(found)

    def nouns(place: int, number: int) -> Iterator[tuple[int, str]]:
        for kind, pairs in NOUNS.items():
            for pair in pairs:
                noun = tuple(pair[number].split())
                if words[place : place + len(noun)] == noun:
                    yield place + len(noun), kind

    @cache
    def clauses(place: int, number: int, kind: str) -> frozenset[int]:
        if words[place : place + 1] != (_pronoun(kind),):
            return frozenset()
        found = set(predicates(place + 1, number, kind))
        for end, inner_number, inner_kind in phrases(place + 1):
            if end < len(words) and words[end] in _forms(TRANSITIVE[inner_kind], inner_number):
                found.add(end + 1)
        return frozenset(found)

    @cache
    def predicates(place: int, number: int, kind: str) -> frozenset[int]:
        if place >= len(words):
            return frozenset()
        verb, found = words[place], set()
        if verb in _forms(INTRANSITIVE[kind], number):
            found.add(place + 1)
            if words[place + 1 : place + 2] and words[place + 1] in ADVERBS:
                found.add(place + 2)
        if verb in _forms(TRANSITIVE[kind], number):
            found |= {end for end, _, _ in phrases(place + 1)}
        if (
            kind == "person"
            and verb in _forms(THINKING, number)
            and words[place + 1 : place + 2] == ("that",)
        ):
            for end, inner_number, inner_kind in phrases(place + 2):
                found |= predicates(end, inner_number, inner_kind)
        return frozenset(found)

    return any(len(words) in predicates(end, number, kind) for end, number, kind in phrases(0))
