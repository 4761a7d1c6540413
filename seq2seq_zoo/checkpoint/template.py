"""Names with holes: `encoder.layers.{i}.attention.{p}` stands for one name per layer and parameter.

    {i}             a number; any lower-case placeholder but p
    {p}             one identifier, such as weight or bias
    {x:left|right}  one of the listed words

A hole may share its dot-separated segment with fixed text (`{p}_proj`), but not with another hole: every name
then matches a template in at most one way, so that filling the holes is the exact inverse of matching.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, combinations, product

HOLE = re.compile(r"\{([a-z]+)(?::([^{}]*))?\}")


def is_number(text: str) -> bool:
    """Whether a hole for numbers takes the text: "layers.07" would be written back as "layers.7"."""
    return text.isascii() and text.isdecimal() and (text == "0" or text[0] != "0")


def is_identifier(text: str) -> bool:
    """Whether the hole {p} takes the text."""
    return text.isascii() and text.isidentifier()


class Segment:
    """What stands between two dots: fixed text with at most one hole in it."""

    def __init__(self, text: str) -> None:
        self.hole: str | None = None
        self.choices = ""
        self.words: tuple[str, ...] = (text,)
        self.before, self.after, self.form = text, "", text
        if "{" not in text and "}" not in text:
            return
        holes = list(HOLE.finditer(text))
        if len(holes) != 1 or re.search(r"[{}]", HOLE.sub("", text)):
            raise ValueError(f"template segment {text!r} must hold at most one placeholder such as {{i}}")
        self.hole, self.choices = holes[0].group(1), holes[0].group(2) or ""
        self.before, self.after = text[: holes[0].start()], text[holes[0].end() :]
        self.form = f"{self.before}{{{self.hole}}}{self.after}"
        words = self.choices.split("|") if self.choices else []
        self.words = tuple(self.before + word + self.after for word in words)

    def match(self, text: str) -> str | None:
        """What fills the hole to give `text`, "" where there is none to be filled; or None."""
        before, after = len(self.before), len(self.after)
        inner = text[before : len(text) - after]
        if self.words:
            return inner if text in self.words else None
        if len(text) < before + after or not text.startswith(self.before) or not text.endswith(self.after):
            return None
        return inner if (is_identifier if self.hole == "p" else is_number)(inner) else None

    def overlaps(self, other: "Segment") -> bool:
        """Whether some text may match both; errs towards yes where both are open-ended."""
        if self.hole is None and other.hole is None:
            return self.before == other.before
        if self.words:
            return any(other.match(word) is not None for word in self.words)
        if other.words:
            return other.overlaps(self)
        kinds = {self.hole == "p", other.hole == "p"}
        if self.before == other.before and len(kinds) == 2:
            return False  # an identifier does not begin with a digit
        # Where the fixed texts differ in length, a hole must be able to swallow what the longer one has more.
        short, long = sorted((self.before, other.before), key=len)
        left, right = sorted((self.after, other.after), key=len)
        swallowed = long[len(short) :] + right[: len(right) - len(left)]
        fits = is_identifier("_" + swallowed) if True in kinds else is_number("1" + swallowed)
        return long.startswith(short) and right.endswith(left) and fits


segment = lru_cache(maxsize=4096)(Segment)  # the same few segments stand in all rules of all families


class Template:
    """A dotted name with holes. `choices` gives words to holes that list none themselves."""

    def __init__(self, text: str, choices: Mapping[str, str] | None = None) -> None:
        for hole, words in (choices or {}).items():
            text = text.replace(f"{{{hole}}}", f"{{{hole}:{words}}}")
        self.text = text
        self.segments = tuple(map(segment, text.split(".")))
        filled = [segment for segment in self.segments if segment.hole]
        self.choices = {str(segment.hole): segment.choices for segment in filled if segment.choices}
        self.holes = frozenset(str(segment.hole) for segment in filled)
        self._form = ".".join(segment.form for segment in self.segments)
        if not text or len(self.holes) < len(filled):
            raise ValueError(f"template {text!r} must not be empty or use a placeholder twice")

    def match(self, name: str) -> dict[str, str] | None:
        """What fills the holes to give `name`, or None."""
        if name.count(".") + 1 != len(self.segments):
            return None
        return next((holes for _, holes in self.matches(Names([name]))), None)

    def matches(self, names: "Names") -> list[tuple[str, dict[str, str]]]:
        """Those of `names` that match, in their order, with what fills the holes."""
        reached: list[tuple[Node, dict[str, str]]] = [(names.root, {})]
        for segment in self.segments:
            if segment.hole is None:
                text = segment.before
                reached = [(node.below[text], holes) for node, holes in reached if text in node.below]
            else:
                reached = [
                    (below, {**holes, segment.hole: fill})
                    for node, holes in reached
                    for text, below in node.below.items()
                    if (fill := segment.match(text)) is not None
                ]
        found = [(node, holes) for node, holes in reached if node.name is not None]
        found.sort(key=lambda one: one[0].place)
        return [(str(node.name), holes) for node, holes in found]

    def fill(self, holes: Mapping[str, str]) -> str:
        """The name with these fills; the inverse of `match`. Fills without a hole are ignored."""
        return self._form.format_map(holes)

    def overlaps(self, other: "Template") -> bool:
        """Whether one name may match both."""
        return len(self.segments) == len(other.segments) and all(
            a is b or a.overlaps(b) for a, b in zip(self.segments, other.segments, strict=True)
        )


def overlaps(templates: Sequence[Template]) -> list[tuple[int, int]]:
    """The pairs of templates, by their places, of which one name may match both."""

    def among(places: list[int], depth: int) -> Iterator[tuple[int, int]]:
        """The pairs among templates of one length that have the same segments up to `depth`."""
        if len(places) < 2 or depth == len(templates[places[0]].segments):
            yield from combinations(places, 2)
            return
        alike: dict[Segment, list[int]] = {}
        for place in places:
            alike.setdefault(templates[place].segments[depth], []).append(place)
        for some in alike.values():
            yield from among(some, depth + 1)
        for (one, some), (other, others) in combinations(alike.items(), 2):
            if one.overlaps(other):
                pairs = product(some, others)
                yield from ((a, b) for a, b in pairs if templates[a].overlaps(templates[b]))

    of_length: dict[int, list[int]] = {}
    for place, template in enumerate(templates):
        of_length.setdefault(len(template.segments), []).append(place)
    found = chain.from_iterable(among(places, 0) for places in of_length.values())
    return sorted((min(pair), max(pair)) for pair in found)


@lru_cache(maxsize=4096)
def template(text: str, choices: tuple[tuple[str, str], ...] = ()) -> Template:
    """The Template of these words, made once."""
    return Template(text, dict(choices))


class Node:
    """What names have in common up to a dot: the nodes `below` are reached by the segments that follow."""

    __slots__ = ("below", "name", "place")

    def __init__(self) -> None:
        self.below: dict[str, Node] = {}
        self.name: str | None = None  # of the one that ends here
        self.place = 0  # of that name among all


class Names:
    """Names to match with many templates, as a tree of their segments."""

    def __init__(self, names: Iterable[str]) -> None:
        self.root = Node()
        for place, name in enumerate(names):
            node = self.root
            for segment in name.split("."):
                below = node.below
                if segment in below:
                    node = below[segment]
                else:
                    node = below[segment] = Node()
            node.name, node.place = name, place
