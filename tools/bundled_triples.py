"""Data in sentences: the two tasks of `bundled:mvp` and `bundled:mvp-prompt`, as rules.

The data are one to three triples, written as MVP's authors write them:

    Describe the following data: Iron Man | instance of | Superhero [SEP] Stan Lee | creator | Iron Man

One sentence says them all. Its subject is the first triple's subject; every triple that touches it becomes
a predicate, turned into the passive where the subject is the object; what else is said about another name
follows that name as a relative clause:

    Iron Man is a superhero and was created by Stan Lee.
    Stan Lee created Iron Man, who is a superhero, and was born in New York.

The second task, learnt by prompts alone, asks for the subject instead: `Who is a superhero and was created
by Stan Lee?`

Facts are drawn at random (who was born where is not the point), so that nothing can be known by heart. Held
out from training are one fact in eight, by a checksum of the triple, and one pair of relations in ten, by a
checksum of the pair.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from bundled_names import CLASSES, KNOWN, UNSEEN, invented_name

DESCRIBE = "Describe the following data: "
ASK = "Ask about the following data: "


class Triple(NamedTuple):
    subject: str
    relation: str
    object: str


@dataclass(frozen=True)
class Relation:
    """What may stand left and right of a relation, and how it reads from either side.

    `subjects` are kinds of names; `object` is a kind, a class of CLASSES, or "year" or "count". `inverse`
    is None where the object is no name, and nothing more can be said about it."""

    subjects: tuple[str, ...]
    object: str
    predicate: str
    inverse: str | None = None


_WORKS = ("film", "book", "song", "painting")
_BEINGS = ("person", "character")

RELATIONS: dict[str, Relation] = {
    "instance of": Relation(("character",), "character type", "is a"),
    "occupation": Relation(("person",), "occupation", "is a"),
    "type of work": Relation(_WORKS, "work type", "is a"),
    "type of business": Relation(("company",), "company type", "is a"),
    "type of place": Relation(("city", "country"), "place type", "is a"),
    "creator": Relation(("person",), "character", "created", "was created by"),
    "author": Relation(("person",), "book", "wrote", "was written by"),
    "director": Relation(("person",), "film", "directed", "was directed by"),
    "composer": Relation(("person",), "song", "composed", "was composed by"),
    "painter": Relation(("person",), "painting", "painted", "was painted by"),
    "founder": Relation(("person",), "company", "founded", "was founded by"),
    "place of birth": Relation(("person",), "city", "was born in", "is the birthplace of"),
    "place of death": Relation(("person",), "city", "died in", "saw the death of"),
    "residence": Relation(_BEINGS, "city", "lives in", "is home to"),
    "citizenship": Relation(("person",), "country", "is a citizen of", "is the home country of"),
    "spouse": Relation(("person",), "person", "is married to", "is married to"),
    "child": Relation(("person",), "person", "is a parent of", "is a child of"),
    "teacher": Relation(("person",), "person", "studied under", "taught"),
    "influenced by": Relation(("person",), "person", "was influenced by", "influenced"),
    "employer": Relation(("person",), "company", "works for", "employs"),
    "educated at": Relation(("person",), "university", "studied at", "educated"),
    "member of": Relation(("person",), "band", "is a member of", "includes"),
    "plays for": Relation(("person",), "team", "plays for", "fields"),
    "instrument": Relation(("person",), "instrument", "plays the"),
    "year of birth": Relation(("person",), "year", "was born in"),
    "starring": Relation(("film",), "person", "stars", "appears in"),
    "portrayed by": Relation(("character",), "person", "is played by", "plays"),
    "appears in": Relation(("character",), "film", "is a character in", "tells the story of"),
    "enemy": Relation(("character",), "character", "fights", "fights"),
    "based on": Relation(("film",), "book", "is based on", "is the source of"),
    "sequel of": Relation(("film", "book"), "film", "is the sequel of", "was followed by"),
    "set in": Relation(("film", "book"), "city", "is set in", "is the setting of"),
    "genre": Relation(("film", "book", "song", "band"), "genre", "belongs to the genre of"),
    "publisher": Relation(("book",), "company", "was published by", "published"),
    "performer": Relation(("song",), "band", "is performed by", "performs"),
    "year of release": Relation(("film", "song", "book"), "year", "came out in"),
    "location": Relation(("painting",), "city", "hangs in", "exhibits"),
    "headquarters": Relation(("company",), "city", "is based in", "hosts the headquarters of"),
    "chief executive": Relation(("company",), "person", "is led by", "leads"),
    "parent company": Relation(("company",), "company", "belongs to", "owns"),
    "year of foundation": Relation(("company", "university", "band", "team"), "year", "was founded in"),
    "record label": Relation(("band",), "company", "is signed to", "signed"),
    "home town": Relation(("band", "team"), "city", "comes from", "is the home town of"),
    "campus": Relation(("university",), "city", "has a campus in", "has a campus of"),
    "capital": Relation(("country",), "city", "has its capital in", "is the capital of"),
    "country": Relation(("city",), "country", "is located in", "contains"),
    "mayor": Relation(("city",), "person", "is governed by", "governs"),
    "twin town": Relation(("city",), "city", "is twinned with", "is twinned with"),
    "population": Relation(("city", "country"), "count", "has a population of"),
}


# --- from triples to text -----------------------------------------------------------------------------------


def linearize(triples: list[Triple], instruction: str = DESCRIBE) -> str:
    """The model's input text."""
    return instruction + " [SEP] ".join(" | ".join(triple) for triple in triples)


def describe(triples: list[Triple]) -> str:
    """The sentence that says all triples; a second one for what no name connects with the first."""
    left = list(triples)
    sentences = []
    while left:
        subject = left[0].subject
        sentences.append(f"{subject} {_predicates(subject, left)}.")
    return " ".join(sentences)


def ask(triples: list[Triple]) -> str:
    """The question that the first triple's subject answers: the description with Who or What in its place."""
    who = "Who" if _is_being(triples[0].subject, triples) else "What"
    return f"{who} {_predicates(triples[0].subject, list(triples))}?"


def _predicates(name: str, left: list[Triple]) -> str:
    """All that `left` says about `name`, and in relative clauses about the names met on the way.

    The triples said are taken out of `left`.
    """
    before = list(left)
    mine = [triple for triple in left if _can_speak_of(name, triple)]
    for triple in mine:
        left.remove(triple)
    phrases, ends_in_clause = [], False
    for number, triple in enumerate(mine):
        relation = RELATIONS[triple.relation]
        if triple.subject == name:
            other, phrase = triple.object, f"{relation.predicate} {triple.object}"
            if relation.inverse is None and relation.object in CLASSES:
                phrase = _with_article(relation.predicate, triple.object.lower())
        else:
            other, phrase = triple.subject, f"{relation.inverse} {triple.subject}"
        pronoun = "who" if _is_being(other, before) else "which"
        clause = _predicates(other, left)
        if number:
            # A relative clause closes with a comma; a last phrase is joined by "and".
            last = number == len(mine) - 1
            phrase = ("," if ends_in_clause or not last else "") + (" and " if last else " ") + phrase
        phrases.append(phrase + (f", {pronoun} {clause}" if clause else ""))
        ends_in_clause = bool(clause)
    return "".join(phrases)


def _can_speak_of(name: str, triple: Triple) -> bool:
    return triple.subject == name or (
        triple.object == name and RELATIONS[triple.relation].inverse is not None
    )


def _with_article(predicate: str, noun: str) -> str:
    an = predicate == "is a" and noun[0] in "aeiou"
    return f"{predicate}{'n' if an else ''} {noun}"


def _is_being(name: str, triples: list[Triple]) -> bool:
    """Whether the relations show `name` to be a person or a character."""
    return any(
        (triple.subject == name and set(RELATIONS[triple.relation].subjects) <= set(_BEINGS))
        or (triple.object == name and RELATIONS[triple.relation].object in _BEINGS)
        for triple in triples
    )


# --- what is held out ---------------------------------------------------------------------------------------


def is_held_out_fact(triple: Triple) -> bool:
    """One (name, relation, name) in eight appears in no training example."""
    return zlib.crc32("|".join(triple).lower().encode()) % 8 == 0


def is_held_out_pair(first: str, second: str) -> bool:
    """One pair of different relations in ten never stands together in a training example."""
    return first != second and zlib.crc32("+".join(sorted((first, second))).encode()) % 10 == 0


def has_held_out_pair(triples: list[Triple]) -> bool:
    return any(is_held_out_pair(a.relation, b.relation) for a, b in combinations(triples, 2))


def is_training_example(triples: list[Triple]) -> bool:
    return not has_held_out_pair(triples) and not any(is_held_out_fact(triple) for triple in triples)


# --- drawing examples ---------------------------------------------------------------------------------------


def training_example(rng: random.Random, *, connected: bool = False) -> list[Triple]:
    """Triples about known names, or half of the time about invented ones too; one example in twelve, unless
    `connected`, holds two triples that share no name.
    """
    while True:
        source = rng.choice(("known", "known", "invented", "mixed"))
        if not connected and rng.random() < 1 / 12:
            triples = _draw(rng, source, 1, held_out=False) + _draw(rng, source, 1, held_out=False)
        else:
            triples = _draw(rng, source, rng.choice((1, 2, 2, 3, 3)), held_out=False)
        if is_training_example(triples):
            return triples


def held_out_example(rng: random.Random, split: str) -> list[Triple]:
    """An example of one of the three held-out sets; all its facts are held out, and all triples are
    connected.

    facts   known names, 1 to 3 triples, pairs of relations that training shows
    pairs   known names, 2 or 3 triples, with a pair of relations that training never shows
    names   names that training never shows, 1 to 3 triples
    """
    while True:
        source = "unseen" if split == "names" else "known"
        triples = _draw(
            rng, source, rng.choice((2, 3) if split == "pairs" else (1, 2, 2, 3, 3)), held_out=True
        )
        if has_held_out_pair(triples) == (split == "pairs"):
            return triples


def held_out_examples(split: str, count: int) -> list[list[Triple]]:
    """The first `count` distinct examples of a held-out set; always the same ones."""
    rng = random.Random(f"held out: {split}")
    found: dict[tuple[Triple, ...], None] = {}
    while len(found) < count:
        found.setdefault(tuple(held_out_example(rng, split)))
    return [list(triples) for triples in found]


def _draw(rng: random.Random, source: str, size: int, *, held_out: bool) -> list[Triple]:
    """Triples that form a tree: each shares one name with those before it; all their facts are held out, or
    none is.
    """
    kind = rng.choice(rng.choice(list(RELATIONS.values())).subjects)
    names = {_entry(kind, source, rng): kind}
    triples: list[Triple] = []
    for _ in range(100):
        shared = rng.choice(list(names))
        name, forward = rng.choice(_ROLES[names[shared]])
        relation = RELATIONS[name]
        kind = relation.object if forward else rng.choice(relation.subjects)
        other = _entry(kind, source, rng)
        triple = Triple(shared, name, other) if forward else Triple(other, name, shared)
        # Nobody is born in two years, and nothing is said twice.
        said = relation.inverse is None and any((shared, name) == earlier[:2] for earlier in triples)
        if said or other in names or is_held_out_fact(triple) != held_out:
            continue
        triples.append(triple)
        if kind in KNOWN:
            names[other] = kind
        if len(triples) == size:
            if rng.random() < 0.3:
                rng.shuffle(triples)
            return triples
    # A name about which too few facts of this sort exist: begin again with another.
    return _draw(rng, source, size, held_out=held_out)


# The relations a name of each kind may stand in, and whether as their subject.
_ROLES = {
    kind: [(name, True) for name, relation in RELATIONS.items() if kind in relation.subjects]
    + [(name, False) for name, relation in RELATIONS.items() if kind == relation.object]
    for kind in KNOWN
}


def _entry(kind: str, source: str, rng: random.Random) -> str:
    """A name, noun or number of this kind."""
    if kind in CLASSES:
        noun = rng.choice(CLASSES[kind])
        return noun if rng.random() < 0.5 else noun.capitalize()
    if kind == "year":
        return str(rng.randint(1400, 2029))
    if kind == "count":
        return f"{rng.randint(10, 999)},{rng.randint(0, 999):03d}"
    if source == "mixed":
        source = rng.choice(("known", "invented"))
    return (
        invented_name(kind, rng)
        if source == "invented"
        else rng.choice((KNOWN if source == "known" else UNSEEN)[kind])
    )
