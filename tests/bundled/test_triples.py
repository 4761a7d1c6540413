"""The rules that put triples into sentences and questions, and the split."""

import random

import pytest
from bundled_names import CLASSES, KNOWN, UNSEEN
from bundled_triples import (
    ASK,
    RELATIONS,
    Triple,
    ask,
    describe,
    has_held_out_pair,
    held_out_examples,
    is_held_out_fact,
    is_held_out_pair,
    linearize,
    training_example,
)

SUPERHERO = Triple("Iron Man", "instance of", "Superhero")
CREATOR = Triple("Stan Lee", "creator", "Iron Man")
BORN = Triple("Stan Lee", "place of birth", "New York")
MAYOR = Triple("New York", "mayor", "Ada Lovelace")
DETECTIVE = Triple("Emma", "occupation", "actor")


@pytest.mark.parametrize(
    ("triples", "sentence", "question"),
    [
        ([CREATOR], "Stan Lee created Iron Man.", "Who created Iron Man?"),
        ([DETECTIVE], "Emma is an actor.", "Who is an actor?"),
        (
            [SUPERHERO, CREATOR],
            "Iron Man is a superhero and was created by Stan Lee.",
            "Who is a superhero and was created by Stan Lee?",
        ),
        (
            [CREATOR, SUPERHERO],
            "Stan Lee created Iron Man, who is a superhero.",
            "Who created Iron Man, who is a superhero?",
        ),
        (
            [CREATOR, SUPERHERO, BORN],
            "Stan Lee created Iron Man, who is a superhero, and was born in New York.",
            "Who created Iron Man, who is a superhero, and was born in New York?",
        ),
        (
            [SUPERHERO, CREATOR, BORN],
            "Iron Man is a superhero and was created by Stan Lee, who was born in New York.",
            "Who is a superhero and was created by Stan Lee, who was born in New York?",
        ),
        (
            [CREATOR, BORN, MAYOR],
            "Stan Lee created Iron Man and was born in New York, which is governed by Ada Lovelace.",
            "Who created Iron Man and was born in New York, which is governed by Ada Lovelace?",
        ),
        (
            [BORN, Triple("Stan Lee", "residence", "Oslo"), Triple("Stan Lee", "employer", "Nokia")],
            "Stan Lee was born in New York, lives in Oslo and works for Nokia.",
            "Who was born in New York, lives in Oslo and works for Nokia?",
        ),
        (
            [MAYOR, BORN],
            "New York is governed by Ada Lovelace and is the birthplace of Stan Lee.",
            "What is governed by Ada Lovelace and is the birthplace of Stan Lee?",
        ),
        (
            [BORN, MAYOR, Triple("New York", "population", "8,258")],
            "Stan Lee was born in New York, which is governed by Ada Lovelace and has a population of 8,258.",
            "Who was born in New York, which is governed by Ada Lovelace and has a population of 8,258?",
        ),
    ],
)
def test_sentences_and_questions(triples: list[Triple], sentence: str, question: str) -> None:
    assert describe(triples) == sentence
    assert ask(triples) == question


def test_unconnected_triples_make_two_sentences() -> None:
    assert describe([BORN, Triple("Jaws", "genre", "horror")]) == (
        "Stan Lee was born in New York. Jaws belongs to the genre of horror."
    )


def test_the_documented_form() -> None:
    assert linearize([SUPERHERO, CREATOR]) == (
        "Describe the following data: Iron Man | instance of | Superhero [SEP] Stan Lee | creator | Iron Man"
    )
    assert linearize([CREATOR], ASK).removeprefix(ASK) == "Stan Lee | creator | Iron Man"


def test_relations_name_kinds_that_exist() -> None:
    for relation in RELATIONS.values():
        assert set(relation.subjects) <= set(KNOWN)
        assert (relation.object in KNOWN) == (relation.inverse is not None)
        assert relation.object in KNOWN.keys() | CLASSES.keys() | {"year", "count"}


def test_names_can_be_told_apart_in_the_data() -> None:
    for names in (*KNOWN.values(), *UNSEEN.values(), *CLASSES.values()):
        assert len(set(names)) == len(names)
        assert not any("|" in name or "[SEP]" in name or name.endswith(".") for name in names)


def test_training_and_held_out_sets_share_no_fact_no_pair_and_no_unseen_name() -> None:
    rng = random.Random(7)
    trained = [training_example(rng) for _ in range(3000)]
    facts = {triple for triples in trained for triple in triples}
    assert not any(map(has_held_out_pair, trained))
    for split in ("facts", "pairs", "names"):
        for triples in held_out_examples(split, 100):
            assert facts.isdisjoint(triples)
            assert all(map(is_held_out_fact, triples))
            assert has_held_out_pair(triples) == (split == "pairs")
    names = {name for triple in facts for name in (triple.subject, triple.object)}
    assert names.isdisjoint(name for listed in UNSEEN.values() for name in listed)


def test_held_out_sets_are_always_the_same() -> None:
    assert held_out_examples("facts", 20) == held_out_examples("facts", 20)
    assert held_out_examples("facts", 40)[:20] == held_out_examples("facts", 20)


def test_a_tenth_of_the_pairs_and_an_eighth_of_the_facts_are_held_out() -> None:
    pairs = [(a, b) for a in RELATIONS for b in RELATIONS if a < b]
    assert 0.08 < sum(is_held_out_pair(*pair) for pair in pairs) / len(pairs) < 0.12
    people, cities = KNOWN["person"], KNOWN["city"]
    facts = [Triple(person, "place of birth", city) for person in people for city in cities]
    assert 0.11 < sum(map(is_held_out_fact, facts)) / len(facts) < 0.14
    # A capital in the data makes no other fact.
    noun = Triple("Zorro", "instance of", "superhero")
    assert is_held_out_fact(noun) == is_held_out_fact(noun._replace(object="Superhero"))
