"""Nested operations on lists of digits: the task of `bundled:mega`, as rules.

In the style of ListOps (Nangia and Bowman 2018, arXiv:1804.06028) as Long Range Arena poses it (Tay et al.
2020, arXiv:2011.04006, section 2.2.1):

    [MAX 4 3 [MIN 2 3 ] 1 0 ]        →  4

    MIN, MAX, MED (of an even number of arguments: the mean of the middle two, rounded down),
    SM (the sum modulo 10)

A tree is drawn with a number of tokens in mind: the root has it, and hands what its two brackets leave to 2
to 5 arguments, at random but so that it can be spent; an argument with one token is a digit, one with four
or more is a tree again. Operators stand in at most 3 others, and from about 50 tokens on, nearly all trees
are as deep as that. Long Range Arena's own trees go to depth 10, with up to 10 arguments, most of them
digits: these are shallower and bushier. Held out from training is one tree in eight, by a checksum of its
text.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

OPERATORS = ("MIN", "MAX", "MED", "SM")
DEPTH = 4
"""Operators on the way from the root to a digit, at most."""
ARGUMENTS = 5
"""Of an operator, at most; at least 2. The root has 6 where nothing else would do, beyond 937 tokens."""
LEAST = 4
"""Tokens of the smallest tree: two brackets, two digits."""


@dataclass(frozen=True)
class Node:
    """An operator and its arguments, or a digit (`arguments` empty)."""

    name: str
    arguments: tuple[Node, ...] = ()

    @cached_property
    def value(self) -> int:
        if not self.arguments:
            return int(self.name)
        return apply(self.name, [argument.value for argument in self.arguments])

    @cached_property
    def height(self) -> int:
        return max((argument.height for argument in self.arguments), default=-1) + 1

    def tokens(self) -> Iterator[str]:
        if not self.arguments:
            yield self.name
            return
        yield f"[{self.name}"
        for argument in self.arguments:
            yield from argument.tokens()
        yield "]"

    @property
    def text(self) -> str:
        return " ".join(self.tokens())


def apply(operator: str, values: list[int]) -> int:
    """The operator's value of one or more digits."""
    match operator:
        case "MIN":
            return min(values)
        case "MAX":
            return max(values)
        case "SM":
            return sum(values) % 10
    ordered = sorted(values)
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) // 2


def most(depth: int) -> int:
    """The most tokens of a tree of this depth."""
    return 1 if depth == 0 else 2 + ARGUMENTS * most(depth - 1)


def draw(
    rng: random.Random, tokens: int, depth: int = DEPTH, often: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
) -> Node:
    """A tree of so many tokens (1, or from LEAST to `most(depth)`), give or take a few; `often` says how
    often each operator is drawn."""
    if tokens < LEAST or depth == 0:
        return Node(str(rng.randrange(10)))
    inside, largest = tokens - 2, most(depth - 1)
    fewest = max(2, -(-inside // largest))
    count = rng.randint(fewest, max(fewest, min(ARGUMENTS, inside)))
    shares = [1] * count
    left = inside - count
    while left > 0:
        # A share is raised by some of what is left, more often little than much, so that digits remain.
        open_shares = [number for number in range(count) if shares[number] < largest]
        number = rng.choice(open_shares)
        more = min(left, largest - shares[number], max(LEAST - shares[number], rng.randint(1, max(1, left))))
        shares[number] += more
        left -= more
    operator = rng.choices(OPERATORS, often)[0]
    return Node(operator, tuple(draw(rng, share, depth - 1, often) for share in shares))


class Marks(NamedTuple):
    """What is known of one token of a tree, by where it stands in it; -100 where nothing is."""

    token: str
    depth: int
    """Operators around it."""
    parent: int
    """The place, among the tree's tokens, of the operator it is an argument of; the root's is -1."""
    arguments: int = -100
    """How many an operator has."""
    value: int = -100
    """Of a digit, or of the tree that an operator begins."""
    height: int = 0
    """Of that tree: a digit has 0."""


def marked(tree: Node) -> list[Marks]:
    """The tokens of a tree and all that is known of them. A closing bracket has its operator's depth, but is
    nobody's argument."""
    marks: list[Marks] = []

    def read(node: Node, depth: int, parent: int) -> None:
        place = len(marks)
        if not node.arguments:
            marks.append(Marks(node.name, depth, parent, value=node.value))
            return
        marks.append(Marks(f"[{node.name}", depth, parent, len(node.arguments), node.value, node.height))
        for argument in node.arguments:
            read(argument, depth + 1, place)
        marks.append(Marks("]", depth, -100))

    read(tree, 0, -1)
    return marks


def held_out(tree: Node) -> bool:
    """Whether training must not see this tree."""
    return zlib.crc32(tree.text.encode()) % 8 == 0


def training_tree(rng: random.Random, tokens: int, often: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)) -> Node:
    """A tree of about so many tokens that is not held out."""
    while held_out(tree := draw(rng, tokens, often=often)):
        pass
    return tree


def held_out_trees(count: int, shortest: int, longest: int) -> list[Node]:
    """So many trees that training does not contain, always the same, no two alike, with numbers of tokens
    between the two, all about equally likely."""
    rng, trees = random.Random(f"{shortest} to {longest}"), {}
    while len(trees) < count:
        tree = draw(rng, rng.randint(shortest, longest))
        if held_out(tree):
            trees[tree.text] = tree
    return list(trees.values())
