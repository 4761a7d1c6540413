"""Two-way key maps: which checkpoint key is which of our names, in both directions, with nothing left over.

A family states its map once, as a list of rules from their keys to our names:

    BODY = renames('''
        shared.weight                                -> embedding.weight
        encoder.layers.{i}.self_attn.{x:q|k|v}_proj.{p}  -> encoder.layers.{i}.attention.{x}_proj.{p}
    ''') + Rules(
        Alias("encoder.embed_tokens.weight", "shared.weight"),
        Drop("encoder.version", "a leftover of fairseq"),
    )
    HEAD = KeyMap(BODY.under(theirs="model.", ours="model.") + renames("lm_head.weight -> lm_head.weight"),
                  base_prefix="model.")

Rename, Stack and Split carry tensors and work both ways; Alias, Drop and Respell say how else a key may be
spelt when reading, and never write. The placeholders are those of `template`. No two rules may take one key
or give one name, so that neither direction depends on their order: `check` says whether that is so of a new
map. It takes as long as the rest of a small model's load, and so is not a part of that; the tests call it for
the maps of all classes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from seq2seq_zoo.checkpoint.template import Names, Template, overlaps, template

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Rename:
    """One tensor of theirs is one of ours."""

    theirs: str
    ours: str

    def their_shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        return [shapes[0]]

    def to_ours(
        self,
        tensors: Sequence[Tensor],
        shapes: Sequence[Shape],
        dtypes: Sequence[torch.dtype],
        device: torch.device,
    ) -> list[Tensor]:
        return [tensors[0].to(device, dtypes[0])]

    def to_theirs(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensors[0]]


@dataclass(frozen=True)
class Stack:
    """Many tensors of theirs, numbered by a hole that our name lacks, are the rows of one of ours.

    theirs: E tensors (...)    ours: (E, ...)
    """

    theirs: str
    ours: str

    def their_shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        return [shapes[0][1:]] * shapes[0][0]

    def to_ours(
        self,
        tensors: Sequence[Tensor],
        shapes: Sequence[Shape],
        dtypes: Sequence[torch.dtype],
        device: torch.device,
    ) -> list[Tensor]:
        whole = torch.empty(shapes[0], dtype=dtypes[0], device=device)
        for row, tensor in zip(whole, tensors, strict=True):
            row.copy_(tensor)
        return [whole]

    def to_theirs(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors[0])


@dataclass(frozen=True)
class Split:
    """One tensor of theirs is several of ours, laid end to end along `dim`.

    theirs: (..., a + b + c, ...)    ours: (..., a, ...), (..., b, ...), (..., c, ...)
    """

    theirs: str
    ours: tuple[str, ...]
    dim: int = 0

    def their_shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        whole = list(shapes[0])
        whole[self.dim] = sum(shape[self.dim] for shape in shapes)
        return [tuple(whole)]

    def to_ours(
        self,
        tensors: Sequence[Tensor],
        shapes: Sequence[Shape],
        dtypes: Sequence[torch.dtype],
        device: torch.device,
    ) -> list[Tensor]:
        parts = torch.split(tensors[0], [shape[self.dim] for shape in shapes], self.dim)
        return [part.to(device, dtype).contiguous() for part, dtype in zip(parts, dtypes, strict=True)]

    def to_theirs(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [torch.cat(list(tensors), self.dim)]


@dataclass(frozen=True)
class Alias:
    """Their key `theirs` is a second copy of their key `same_as`, left by tied weights.

    It is read where `same_as` is absent; where both are present they should be equal.
    """

    theirs: str
    same_as: str


@dataclass(frozen=True)
class Drop:
    """Their key `theirs` is not part of the model; `why` says what it is."""

    theirs: str
    why: str


@dataclass(frozen=True)
class Respell:
    """Keys ending in the segments `old` mean the key ending in `new` (LayerNorm.gamma, LayerNorm.weight)."""

    old: str
    new: str


Carrier = Rename | Stack | Split
Rule = Carrier | Alias | Drop | Respell


class Rules:
    """A list of rules, to be joined with `+` and moved below a prefix with `under`."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __add__(self, other: "Rules") -> "Rules":
        return Rules(*self.rules, *other.rules)

    def under(self, *, theirs: str = "", ours: str = "") -> "Rules":
        """The same rules with a prefix put before their keys and one before our names; both end in a dot."""
        for prefix in (theirs, ours):
            if prefix and not prefix.endswith("."):
                raise ValueError(f"prefix {prefix!r} must end in a dot")

        def moved(rule: Rule) -> Rule:
            match rule:
                case Rename():
                    return Rename(theirs + rule.theirs, ours + rule.ours)
                case Stack():
                    return Stack(theirs + rule.theirs, ours + rule.ours)
                case Split():
                    return Split(theirs + rule.theirs, tuple(ours + name for name in rule.ours), rule.dim)
                case Alias():
                    return Alias(theirs + rule.theirs, theirs + rule.same_as)
                case Drop():
                    return Drop(theirs + rule.theirs, rule.why)
                case Respell():
                    return rule

        return Rules(*map(moved, self.rules))


def renames(table: str) -> Rules:
    """Rename rules from lines `theirs -> ours`; blank lines separate groups."""
    rules = []
    for line in filter(None, map(str.strip, table.splitlines())):
        sides = line.split("->")
        if len(sides) != 2 or not all(map(str.strip, sides)):
            raise ValueError(f"line {line!r} of a key table must read 'theirs -> ours'")
        rules.append(Rename(sides[0].strip(), sides[1].strip()))
    return Rules(*rules)


class Link(NamedTuple):
    """A rule applied to actual names: the tensors `keys` of a checkpoint are the tensors `names` of a module.

    `shapes` are those of `names`, `key_shapes` those that `keys` must have.
    """

    rule: Carrier
    keys: tuple[str, ...]
    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    key_shapes: tuple[Shape, ...]


class KeyMap:
    """The rules of one model class, applied to names.

    `base_prefix` is the prefix by which the family's checkpoints with a head differ from those without
    ("model."). A key is read with or without it, and written as the rules say.

    Raises ValueError if a rule has no exact inverse.
    """

    def __init__(self, rules: Rules, *, base_prefix: str = "") -> None:
        if base_prefix and not base_prefix.endswith("."):
            raise ValueError(f"base_prefix {base_prefix!r} must end in a dot")
        self.base_prefix = base_prefix
        self.rules = rules
        self._carriers = [_Carried(rule) for rule in rules if isinstance(rule, Carrier)]
        self._aliases = [
            (template(rule.theirs), _below(rule.theirs, rule.same_as))
            for rule in rules
            if isinstance(rule, Alias)
        ]
        self._drops = [(template(rule.theirs), rule.why) for rule in rules if isinstance(rule, Drop)]
        self._respellings = [rule for rule in rules if isinstance(rule, Respell)]
        takers = [rule for rule in rules if not isinstance(rule, Respell)]
        self._has_head = any(rule.theirs.startswith(base_prefix) for rule in takers)

    def links(self, shapes: Mapping[str, Shape]) -> list[Link]:
        """How a module's tensors, given by name and shape, are found in a checkpoint; in the rules' order.

        Names that no rule gives are left out. A Split of which only some names are there is a ValueError.
        """
        known = Names(shapes)
        found = []
        for carried in self._carriers:
            first, *others = carried.ours
            for name, holes in first.matches(known):
                names = (name, *[other.fill(holes) for other in others])
                absent = [other for other in names[1:] if other not in shapes]
                if absent:
                    raise ValueError(f"{carried.rule} gives {name}, but there is no {', '.join(absent)}")
                ours = tuple([shapes[other] for other in names])
                theirs = tuple(carried.rule.their_shapes(ours))
                keys = tuple(carried.keys(holes, len(theirs)))
                found.append(Link(carried.rule, keys, names, ours, theirs))
        return found

    def spellings(self, key: str) -> list[str]:
        """The keys of the rules that a checkpoint may mean by `key`, the likeliest first."""
        respelt = [
            key[: len(key) - len(rule.old)] + rule.new
            for rule in self._respellings
            if key == rule.old or key.endswith("." + rule.old)
        ]
        spelt = [key, *respelt]
        if self.base_prefix:
            spelt += [self.base_prefix + k for k in spelt] + [
                k.removeprefix(self.base_prefix) for k in spelt if k.startswith(self.base_prefix)
            ]
        return spelt

    def same_as(self, key: str) -> str | None:
        """The key of which `key` (spelt as in the rules) is a tied copy, if it is one."""
        for theirs, same_as in self._aliases:
            holes = theirs.match(key)
            if holes is not None:
                return same_as.fill(holes)
        return None

    def why_dropped(self, key: str) -> str | None:
        """Why `key` (spelt as in the rules) is no part of the model, if a rule says so."""
        return next((why for theirs, why in self._drops if theirs.match(key) is not None), None)

    def is_body(self, key: str) -> bool:
        """Whether `key` (spelt as in the rules) belongs to the model without its head."""
        return not self._has_head or key.startswith(self.base_prefix)

    def check(self) -> None:
        """Raise ValueError if two rules could take one key or give one name, or if no rule takes the key that
        an alias stands for."""
        givers = [(ours, carried.rule) for carried in self._carriers for ours in carried.ours]
        for one, other in overlaps([ours for ours, _ in givers]):
            raise ValueError(f"{givers[one][1]} and {givers[other][1]} could give one name")

        takers = [carried.theirs for carried in self._carriers]
        for theirs, same_as in self._aliases:
            if not same_as.holes <= theirs.holes or not any(same_as.overlaps(taker) for taker in takers):
                raise ValueError(
                    f"alias {theirs.text!r} is the same as {same_as.text!r}, which no rule takes"
                )
        takers += [theirs for theirs, _ in self._aliases] + [theirs for theirs, _ in self._drops]

        spelt = [
            (owner, template(text))
            for owner, taker in enumerate(takers)
            for text in dict.fromkeys(self._prefixed(taker.text))
        ]
        for one, other in overlaps([spelling for _, spelling in spelt]):
            a, b = spelt[one][0], spelt[other][0]
            if a != b:
                raise ValueError(f"rules for {takers[a].text!r} and {takers[b].text!r} could take one key")

    def _prefixed(self, text: str) -> Iterable[str]:
        yield text
        if self.base_prefix:
            yield self.base_prefix + text
            yield text.removeprefix(self.base_prefix)


class _Carried:
    """A carrier rule with its templates. `counter` is the hole of a Stack that numbers the rows."""

    def __init__(self, rule: Carrier) -> None:
        self.rule = rule
        self.theirs = template(rule.theirs)
        texts = rule.ours if isinstance(rule, Split) else (rule.ours,)
        self.ours = [_below(rule.theirs, text) for text in texts]
        extra = self.theirs.holes - self.ours[0].holes
        self.counter = min(extra, default=None)
        shared = self.theirs.holes - extra
        if len(extra) != isinstance(rule, Stack) or any(ours.holes != shared for ours in self.ours):
            raise ValueError(
                f"{rule} has no inverse: both sides must have the same placeholders"
                + (", except one of theirs that numbers the rows" if isinstance(rule, Stack) else "")
            )

    def keys(self, holes: Mapping[str, str], count: int) -> list[str]:
        """Those of the `count` tensors of theirs that go with names of ours with these fills."""
        if self.counter is None:
            return [self.theirs.fill(holes)]
        return [self.theirs.fill({**holes, self.counter: str(row)}) for row in range(count)]


def _below(theirs: str, text: str) -> Template:
    """The template of the other side, where a hole need not list its words again."""
    return template(text, tuple(template(theirs).choices.items()))
