"""Names with holes: `encoder.layers.{i}.attention.{p}` stands for one name per layer and parameter.

    {i}             a number; any lower-case placeholder but p
    {p}             one identifier, such as weight or bias
    {x:left|right}  one of the listed words

A hole may share its dot-separated segment with fixed text (`{p}_proj`), but not with another hole: every name
then matches a template in at most one way, so that filling the holes is the exact inverse of matching.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cached_property

HOLE = re.compile(r"\{([a-z]+)(?::([^{}]*))?\}")
# No leading zeros: "layers.07" would be written back as "layers.7".
NUMBER = "0|[1-9][0-9]*"
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


class Template:
    """A dotted name with holes. `choices` gives words to holes that list none themselves."""

    def __init__(self, text: str, choices: Mapping[str, str] | None = None) -> None:
        for hole, words in (choices or {}).items():
            text = text.replace(f"{{{hole}}}", f"{{{hole}:{words}}}")
        self.text = text
        self.segments = tuple(Segment(part) for part in text.split("."))
        names = [segment.hole for segment in self.segments if segment.hole]
        if not text or len(names) != len(set(names)):
            raise ValueError(f"template {text!r} must not be empty or use a placeholder twice")
        self.holes = frozenset(names)
        self.choices = {hole: words for hole, words in HOLE.findall(text) if words}

    @cached_property
    def regex(self) -> re.Pattern[str]:
        return re.compile(r"\.".join(segment.pattern for segment in self.segments))

    def match(self, name: str) -> dict[str, str] | None:
        """What fills the holes to give `name`, or None."""
        found = self.regex.fullmatch(name)
        return found.groupdict() if found else None

    def fill(self, holes: Mapping[str, str]) -> str:
        """The name with these fills; the inverse of `match`. Fills without a hole are ignored."""
        return HOLE.sub(lambda hole: holes[hole.group(1)], self.text)

    def overlaps(self, other: "Template") -> bool:
        """Whether one name may match both."""
        return len(self.segments) == len(other.segments) and all(
            a.overlaps(b) for a, b in zip(self.segments, other.segments, strict=True)
        )


def by_length(names: Iterable[str]) -> dict[int, list[str]]:
    """Names by their number of segments: only these can match a template of that length."""
    groups: dict[int, list[str]] = {}
    for name in names:
        groups.setdefault(name.count(".") + 1, []).append(name)
    return groups
