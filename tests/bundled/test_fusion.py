"""The rules that fuse two sentences, and the split."""

import random
from collections import Counter

import pytest
from bundled_fusion import (
    KINDS,
    LINKS,
    MEN,
    PATTERNS,
    PRONOUNS,
    WOMEN,
    Example,
    Predicate,
    Statement,
    apart,
    fused,
    held_out_examples,
    is_held_out_combination,
    is_held_out_pair,
    known_words,
    training_example,
)

TALL = Predicate("adjective", "is", "tall")
TEA = Predicate("taste", "likes", "tea")
JAZZ = Predicate("taste", "likes", "jazz")
DOCTOR = Predicate("job", "is", "a doctor")
ACTOR = Predicate("job", "is", "an actor")
OSLO = Predicate("place", "lives in", "Oslo")
LAMP = Predicate("thing", "bought", "a lamp")
UMBRELLA = Predicate("thing", "has", "an umbrella")
LEFT = Predicate("deed", "", "left")
RAN = Predicate("deed", "", "ran home")
MET = Predicate("company", "met", "Ben")


def about(one: Predicate, two: Predicate, link: str = "", pronoun: bool = False) -> Example:
    return Example(Statement("Anna", one), Statement("Anna", two), link, pronoun)


def of_two(one: Predicate, two: Predicate, link: str = "") -> Example:
    return Example(Statement("Anna", one), Statement("Ben", two), link)


@pytest.mark.parametrize(
    ("example", "sentences", "sentence"),
    [
        (about(TALL, TEA), "Anna is tall. Anna likes tea.", "Anna is tall and likes tea."),
        (about(TALL, TEA, pronoun=True), "Anna is tall. She likes tea.", "Anna is tall and likes tea."),
        (about(TEA, JAZZ), "Anna likes tea. Anna likes jazz.", "Anna likes tea and jazz."),
        (about(LEFT, RAN), "Anna left. Anna ran home.", "Anna left and ran home."),
        (about(DOCTOR, TEA), "Anna is a doctor. Anna likes tea.", "Anna, a doctor, likes tea."),
        (about(TEA, DOCTOR), "Anna likes tea. Anna is a doctor.", "Anna, who is a doctor, likes tea."),
        (about(DOCTOR, ACTOR), "Anna is a doctor. Anna is an actor.", "Anna is a doctor and an actor."),
        (of_two(TEA, TEA), "Anna likes tea. Ben likes tea.", "Anna and Ben like tea."),
        (of_two(ACTOR, ACTOR), "Anna is an actor. Ben is an actor.", "Anna and Ben are actors."),
        (of_two(LEFT, LEFT), "Anna left. Ben left.", "Anna and Ben left."),
        (of_two(TEA, TALL), "Anna likes tea. Ben is tall.", "Anna likes tea, and Ben is tall."),
        (of_two(MET, TALL), "Anna met Ben. Ben is tall.", "Anna met Ben, who is tall."),
        (
            Example(Statement("Anna", OSLO), Statement("Oslo", Predicate("city", "has", "a port")), "", True),
            "Anna lives in Oslo. It has a port.",
            "Anna lives in Oslo, which has a port.",
        ),
        (
            Example(Statement("Anna", LAMP), Statement("the lamp", Predicate("noun", "is", "old"))),
            "Anna bought a lamp. The lamp is old.",
            "Anna bought an old lamp.",
        ),
        (
            Example(
                Statement("Anna", UMBRELLA),
                Statement("the umbrella", Predicate("noun", "is", "red")),
                "",
                True,
            ),
            "Anna has an umbrella. It is red.",
            "Anna has a red umbrella.",
        ),
        (
            about(TALL, TEA, "However,"),
            "Anna is tall. However, Anna likes tea.",
            "Anna is tall, but she likes tea.",
        ),
        (
            about(TALL, LEFT, "Therefore,", pronoun=True),
            "Anna is tall. Therefore, she left.",
            "Anna left because she is tall.",
        ),
        (
            of_two(TALL, LEFT, "Therefore,"),
            "Anna is tall. Therefore, Ben left.",
            "Ben left because Anna is tall.",
        ),
        (
            about(TALL, LEFT, "Nevertheless,"),
            "Anna is tall. Nevertheless, Anna left.",
            "Although Anna is tall, she left.",
        ),
        (about(RAN, LEFT, "Then"), "Anna ran home. Then Anna left.", "Anna ran home before she left."),
        (
            about(RAN, LEFT, "Before that,", pronoun=True),
            "Anna ran home. Before that, she left.",
            "Anna ran home after she left.",
        ),
        (
            of_two(RAN, LEFT, "Meanwhile,"),
            "Anna ran home. Meanwhile, Ben left.",
            "While Anna ran home, Ben left.",
        ),
    ],
)
def test_two_sentences_and_one(example: Example, sentences: str, sentence: str) -> None:
    assert apart(example) == sentences
    assert fused(example) == sentence


@pytest.fixture(scope="module")
def drawn() -> list[Example]:
    rng = random.Random(7)
    return [training_example(rng) for _ in range(20_000)]


def test_a_text_has_one_fusion(drawn: list[Example]) -> None:
    fusions: dict[str, str] = {}
    for example in drawn:
        assert fusions.setdefault(apart(example), fused(example)) == fused(example)


def test_every_link_and_every_kind_of_predicate_is_drawn(drawn: list[Example]) -> None:
    links = Counter(example.link for example in drawn)
    assert set(links) == {"", *LINKS}
    assert all(links[link] > 20_000 / len(PATTERNS) / 2 for link in LINKS)
    kinds = {example.first.predicate.kind for example in drawn}
    assert kinds == set(KINDS)
    assert {example.second.predicate.kind for example in drawn} == {*KINDS, "city", "noun"}


def test_a_pronoun_means_one_person(drawn: list[Example]) -> None:
    said = [example for example in drawn if example.pronoun and example.second.subject in PRONOUNS]
    assert said
    for first, second, _, _ in said:
        assert second.subject in (first.subject, first.predicate.object)
        if first.predicate.object in PRONOUNS:
            assert PRONOUNS[first.predicate.object] != PRONOUNS[first.subject]


def test_the_known_words_are_those_of_the_texts(drawn: list[Example]) -> None:
    met = set()
    for example in drawn:
        for text in (apart(example), fused(example)):
            met |= set(text.replace(",", " ,").replace(".", " .").split())
    assert met == set(known_words())


def test_no_name_is_a_womans_and_a_mans_or_a_citys() -> None:
    names = [*WOMEN, *MEN, *KINDS["place"].objects]
    assert len(set(names)) == len(names)


def test_training_shows_no_held_out_combination_and_no_held_out_pair(drawn: list[Example]) -> None:
    combinations = {frozenset((example.first, example.second)) for example in drawn}
    pairs = {frozenset((example.first.predicate, example.second.predicate)) for example in drawn}
    texts = {apart(example) for example in drawn}
    for example in held_out_examples("combinations", 1000):
        assert frozenset((example.first, example.second)) not in combinations
        assert is_held_out_combination(example)
        assert not is_held_out_pair(example)
        assert apart(example) not in texts
    for example in held_out_examples("pairs", 1000):
        assert frozenset((example.first.predicate, example.second.predicate)) not in pairs
        assert is_held_out_pair(example)
    assert not any(map(is_held_out_combination, drawn))
    assert not any(map(is_held_out_pair, drawn))


@pytest.mark.parametrize("link", ["", "However,"])
def test_what_is_held_out_is_so_in_every_pattern(link: str) -> None:
    for example in held_out_examples("combinations", 200):
        first, second, _, pronoun = example
        assert is_held_out_combination(Example(second, first, link, not pronoun))
    for example in held_out_examples("pairs", 200):
        other = Example(
            Statement("Zoe", example.second.predicate), Statement("Tom", example.first.predicate), link
        )
        assert is_held_out_pair(other)


def test_held_out_sets_are_always_the_same() -> None:
    for split in ("combinations", "pairs"):
        assert held_out_examples(split, 40)[:20] == held_out_examples(split, 20)


def test_an_eighth_of_the_combinations_and_a_tenth_of_the_pairs_are_held_out() -> None:
    likes = [Predicate("taste", "likes", thing) for thing in KINDS["taste"].objects]
    examples = [
        Example(Statement(name, one), Statement(name, two))
        for name in WOMEN
        for number, one in enumerate(likes)
        for two in likes[:number]
    ]
    assert 0.115 < sum(map(is_held_out_combination, examples)) / len(examples) < 0.135
    pairs = [
        about(Predicate("taste", verb, thing), Predicate("place", where, city))
        for verb in KINDS["taste"].verbs
        for thing in KINDS["taste"].objects
        for where in KINDS["place"].verbs
        for city in KINDS["place"].objects
    ]
    assert 0.09 < sum(map(is_held_out_pair, pairs)) / len(pairs) < 0.11
