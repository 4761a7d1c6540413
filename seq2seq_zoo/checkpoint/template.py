"""Names with holes: `encoder.layers.{i}.attention.{p}` stands for one name per layer and parameter.

    {i}             a number; any lower-case placeholder but p
    {p}             one identifier, such as weight or bias
    {x:left|right}  one of the listed words

A hole may share its dot-separated segment with fixed text (`{p}_proj`), but not with another hole: every name
then matches a template in at most one way, so that filling the holes is the exact inverse of matching.
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache

HOLE = re.compile(r"\{([a-z]+)(?::([^{}]*))?\}")
# No leading zeros: "layers.07" would be written back as "layers.7".
NUMBER = "0|[1-9][0-9]*"
WHOLE_NUMBER = re.compile(rf"(?<![^.])(?:{NUMBER})(?![^.])")
IDENTIFIER = "[A-Za-z_][A-Za-z0-9_]*"


class Segment:
    """What stands between two dots: fixed text with at most one hole in it."""

    def __init__(self, text: str) -> None:
        holes = list(HOLE.finditer(text))
        if len(holes) > 1 or re.search(r"[{}]", HOLE.sub("", text)):
            raise ValueError(f"template segment {text!r} must hold at most one placeholder such as {{i}}")
        self.hole: str | None = None
        self.words: tuple[str, ...] = (text,)
        self.before, self.after, self.pattern = text, "", re.escape(text)
        if holes:
            self.hole, choices = holes[0].group(1), holes[0].group(2)
            self.before, self.after = text[: holes[0].start()], text[holes[0].end() :]
            fills = choices.split("|") if choices else []
            self.words = tuple(self.before + fill + self.after for fill in fills)
            self.inner = "|".join(map(re.escape, fills)) or (IDENTIFIER if self.hole == "p" else NUMBER)
            self.pattern = f"{re.escape(self.before)}(?P<{self.hole}>{self.inner}){re.escape(self.after)}"

    def overlaps(self, other: "Segment") -> bool:
        """Whether some text may match both; errs towards yes where both are open-ended."""
        if self.hole is None and other.hole is None:
            return self.before == other.before
        if self.words:
            return any(re.fullmatch(other.pattern, word) for word in self.words)
        if other.words:
            return other.overlaps(self)
        if self.before == other.before and self.inner != other.inner:
            return False  # an identifier does not begin with a digit
        # Where the fixed texts differ in length, a hole must be able to swallow what the longer one has more.
        short, long = sorted((self.before, other.before), key=len)
        left, right = sorted((self.after, other.after), key=len)
        swallowed = long[len(short) :] + right[: len(right) - len(left)]
        fits = r"[A-Za-z0-9_]*" if "p" in (self.hole, other.hole) else r"[0-9]*"
        return long.startswith(short) and right.endswith(left) and re.fullmatch(fits, swallowed) is not None


segment = lru_cache(maxsize=4096)(Segment)  # the same few segments stand in all rules of all families


class Template:
    """A dotted name with holes. `choices` gives words to holes that list none themselves."""

    def __init__(self, text: str, choices: Mapping[str, str] | None = None) -> None:
        for hole, words in (choices or {}).items():
            text = text.replace(f"{{{hole}}}", f"{{{hole}:{words}}}")
        self.text = text
        self.segments = tuple(segment(part) for part in text.split("."))
        names = [segment.hole for segment in self.segments if segment.hole]
        if not text or len(names) != len(set(names)):
            raise ValueError(f"template {text!r} must not be empty or use a placeholder twice")
        self.holes = frozenset(names)
        self.numbered = any(WHOLE_NUMBER.fullmatch(segment.before) for segment in self.segments)
        self.choices = {hole: words for hole, words in HOLE.findall(text) if words}

    @cached_property
    def regex(self) -> re.Pattern[str]:
        return re.compile(r"\.".join(segment.pattern for segment in self.segments))

    def match(self, name: str) -> dict[str, str] | None:
        """What fills the holes to give `name`, or None."""
        found = self.regex.fullmatch(name)
        return found.groupdict() if found else None

    def matches(self, names: "Names") -> list[tuple[str, dict[str, str]]]:
        """Those of `names` that match, in their order, with what fills the holes."""
        tried: Iterable[str] = names.order
        if not self.numbered:  # then names that differ in numbers alone match all, or none
            likely = [group for one, group in names.alike.items() if self.match(one) is not None]
            tried = sorted(itertools.chain(*likely), key=names.order.__getitem__)
        found = ((name, self.match(name)) for name in tried)
        return [(name, holes) for name, holes in found if holes is not None]

    def fill(self, holes: Mapping[str, str]) -> str:
        """The name with these fills; the inverse of `match`. Fills without a hole are ignored."""
        return HOLE.sub(lambda hole: holes[hole.group(1)], self.text)

    def overlaps(self, other: "Template") -> bool:
        """Whether one name may match both."""
        return len(self.segments) == len(other.segments) and all(
            a.overlaps(b) for a, b in zip(self.segments, other.segments, strict=True)
        )


@lru_cache(maxsize=4096)
def template(text: str, choices: tuple[tuple[str, str], ...] = ()) -> Template:
    """The Template of these words, made once."""
    return Template(text, dict(choices))


class Names:
    """Names to match with many templates."""

    def __init__(self, names: Iterable[str]) -> None:
        self.order = {name: place for place, name in enumerate(names)}
        self.alike: dict[str, list[str]] = {}
        """Those that differ in whole numbers between dots alone, below the name with zeros for them."""
        for name in self.order:
            self.alike.setdefault(WHOLE_NUMBER.sub("0", name), []).append(name)
