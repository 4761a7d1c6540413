"""The rules behind bundled:mega: what lists come to, how trees are drawn and marked, what is set aside."""

from __future__ import annotations

import random

import pytest
import torch
from bundled_listops import (
    ARGUMENTS,
    DEPTH,
    Node,
    apply,
    draw,
    held_out,
    held_out_trees,
    marked,
    training_tree,
)
from make_bundled_mega import LAYERS, Reader, batches, vocabulary

EXAMPLE = "[MAX 4 3 [MIN 2 3 ] 1 0 ]"


def parsed(text: str) -> Node:
    """A tree from its text."""
    tokens = text.split(" ")

    def read() -> Node:
        token = tokens.pop(0)
        if not token.startswith("["):
            return Node(token)
        arguments = []
        while tokens[0] != "]":
            arguments.append(read())
        tokens.pop(0)
        return Node(token[1:], tuple(arguments))

    return read()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (EXAMPLE, 4),
        ("[MIN 7 3 9 ]", 3),
        ("[SM 9 9 5 ]", 3),
        ("[MED 9 1 5 ]", 5),
        ("[MED 1 4 9 2 ]", 3),
        ("[MED 2 5 ]", 3),
        ("[SM [MAX 8 1 ] [MED 0 9 ] [SM 5 5 5 ] ]", 7),
    ],
)
def test_what_lists_come_to(text: str, value: int) -> None:
    tree = parsed(text)
    assert tree.value == value
    assert tree.text == text


def test_operators_do_not_mind_the_order() -> None:
    rng = random.Random(0)
    for _ in range(200):
        values = [rng.randrange(10) for _ in range(rng.randint(1, 6))]
        for name in ("MIN", "MAX", "MED", "SM"):
            shuffled = rng.sample(values, len(values))
            assert apply(name, values) == apply(name, shuffled) in range(10)


@pytest.mark.parametrize("tokens", [4, 8, 20, 60, 200, 500, 1000])
def test_trees_are_drawn_as_promised(tokens: int) -> None:
    rng = random.Random(tokens)
    for _ in range(20):
        tree = draw(rng, tokens)
        assert parsed(tree.text) == tree
        assert 0.6 * tokens <= len(tree.text.split()) <= tokens
        assert 1 <= tree.height <= DEPTH
        widths = [len(node.arguments) for node in nodes(tree) if node.arguments]
        assert min(widths) >= 2
        assert max(widths) <= ARGUMENTS + (tokens > 937)


def nodes(tree: Node) -> list[Node]:
    return [tree, *(inner for argument in tree.arguments for inner in nodes(argument))]


def test_marks_say_what_stands_where() -> None:
    tree = parsed(EXAMPLE)
    marks = marked(tree)
    assert [mark.token for mark in marks] == EXAMPLE.split()
    assert [mark.depth for mark in marks] == [0, 1, 1, 1, 2, 2, 1, 1, 1, 0]
    assert [mark.parent for mark in marks] == [-1, 0, 0, 0, 3, 3, -100, 0, 0, -100]
    assert [(mark.arguments, mark.value, mark.height) for mark in marks[:4]] == [
        (5, 4, 2),
        (-100, 4, 0),
        (-100, 3, 0),
        (2, 2, 1),
    ]


def test_held_out_trees_are_kept_out() -> None:
    rng = random.Random(3)
    assert not any(held_out(training_tree(rng, tokens)) for tokens in range(5, 105))
    trees = held_out_trees(100, 5, 200)
    assert all(map(held_out, trees))
    assert len({tree.text for tree in trees}) == 100
    assert trees == held_out_trees(100, 5, 200)
    share = sum(held_out(draw(rng, 30)) for _ in range(2000)) / 2000
    assert 0.1 < share < 0.15


def test_a_tree_is_read_as_training_reads_it() -> None:
    tokenizer = vocabulary()
    read = Reader(tokenizer)
    trees = [draw(random.Random(seed), 8 * seed + 4) for seed in range(6)]
    batch = read(trees)
    inputs = tokenizer([tree.text for tree in trees], padding=True, return_tensors="pt")
    assert torch.equal(batch.ids, inputs["input_ids"])
    for row, tree in enumerate(trees):
        assert batch.value[row, 0] == batch.value[row, 1] == tree.value
        assert batch.parent[row, 1] == 0
        assert batch.height[row].max() == tree.height + 1


def test_batches_grow() -> None:
    read = Reader(vocabulary())
    lengths = [batch.ids.shape[1] for batch in batches(random.Random(0), read, 60)]
    assert max(lengths[:12]) <= 34
    assert 100 < max(lengths) <= 512
    assert LAYERS == 7
