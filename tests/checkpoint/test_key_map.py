"""Key maps: names with holes match and fill as exact inverses, ambiguity is refused, prefixes come and go."""

import re
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2seq_zoo.checkpoint import Alias, Drop, KeyMap, Link, Rename, Respell, Rules, Split, Stack, renames
from seq2seq_zoo.checkpoint.template import Names, Template, overlaps, template
from seq2seq_zoo.models.base import Model
from seq2seq_zoo.models.encoder_decoder import EncoderDecoderModel
from seq2seq_zoo.models.families import FAMILIES
from tests.checkpoint.toy import BODY_MAP, HEAD_MAP, Toy, ToyWithHead, hub_state, on_meta

SEGMENTS = [
    "a",
    "b",
    "ab",
    "a1",
    "1",
    "{i}",
    "{p}",
    "a{i}",
    "{i}b",
    "{p}_b",
    "a_{p}",
    "{x:a|b}",
    "{x:ab|1}c",
    "ab{i}",
]
PIECES = [
    "a",
    "b",
    "ab",
    "a1",
    "1",
    "0",
    "12",
    "a0",
    "a12",
    "ab1",
    "1b",
    "10b",
    "x_b",
    "a_b",
    "a_x",
    "abc",
    "1c",
]


def holes_differ(text: str) -> bool:
    holes = re.findall(r"\{(\w)", text)
    return len(holes) == len(set(holes))


templates = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=2).map(".".join).filter(holes_differ)
names = st.lists(st.sampled_from(PIECES), min_size=1, max_size=2).map(".".join)


# ---- templates ----


@pytest.mark.parametrize(
    ("text", "name", "holes"),
    [
        ("a.b", "a.b", {}),
        ("a.b", "aXb", None),
        ("layers.{i}.w", "layers.10.w", {"i": "10"}),
        ("layers.{i}.w", "layers.07.w", None),  # would come back as layers.7.w
        ("layers.{i}.w", "layers.٣.w", None),  # a digit, but not one of ours
        ("layers.{i}.w", "layers.x.w", None),
        ("a.{p}", "a.weight", {"p": "weight"}),
        ("a.{p}", "a.b.weight", None),
        ("a.{p}", "a.0", None),
        ("{x:q|k}_proj.{p}", "k_proj.bias", {"x": "k", "p": "bias"}),
        ("{x:q|k}_proj.{p}", "v_proj.bias", None),
        ("{p}_proj", "out_proj_proj", {"p": "out_proj"}),
    ],
)
def test_match(text: str, name: str, holes: dict[str, str] | None) -> None:
    assert Template(text).match(name) == holes


def as_regex(template: str) -> str:
    """What the docstring of `template` says of holes, said by a regular expression."""
    kinds = {"p": "[A-Za-z_][A-Za-z0-9_]*"}
    parts = re.split(r"(\{[^}]*\})", template)
    for place, part in enumerate(parts):
        hole, _, words = part[1:-1].partition(":")
        fits = words or kinds.get(hole, "0|[1-9][0-9]*")
        parts[place] = f"(?P<{hole}>{fits})" if part.startswith("{") else re.escape(part)
    return "".join(parts)


@settings(max_examples=300, deadline=None)
@given(st.lists(templates, max_size=5), st.lists(names, unique=True, max_size=12))
def test_matches_are_those_of_a_regular_expression(texts: list[str], some: list[str]) -> None:
    known = Names(some)
    for text in texts:
        pattern = re.compile(as_regex(text))
        expected = [(name, m.groupdict()) for name in some if (m := pattern.fullmatch(name)) is not None]
        assert Template(text).matches(known) == expected


@settings(max_examples=300, deadline=None)
@given(st.lists(templates, max_size=8))
def test_overlaps_of_many_are_those_of_each_pair(texts: list[str]) -> None:
    some = [template(text) for text in texts]
    expected = [(i, j) for (i, a), (j, b) in combinations(enumerate(some), 2) if a.overlaps(b)]
    assert overlaps(some) == expected


@pytest.mark.parametrize("text", ["", "{i}{p}", "{i}.{i}", "a{", "a}", "{I}", "{x:a.b|c}", "{}"])
def test_malformed_templates(text: str) -> None:
    with pytest.raises(ValueError, match="template"):
        Template(text)


@settings(max_examples=300, deadline=None)
@given(templates, names)
def test_fill_inverts_match(text: str, name: str) -> None:
    template = Template(text)
    holes = template.match(name)
    if holes is not None:
        assert template.fill(holes) == name


ALL_NAMES = PIECES + [f"{a}.{b}" for a in PIECES for b in PIECES]


@settings(max_examples=300, deadline=None)
@given(templates, templates)
def test_a_shared_name_is_an_overlap(a: str, b: str) -> None:
    first, second = Template(a), Template(b)
    shared = [name for name in ALL_NAMES if first.match(name) is not None and second.match(name) is not None]
    if shared:
        assert first.overlaps(second), shared
        assert second.overlaps(first), shared


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("x.{i}", "x.{p}"),
        ("h{i}", "h_{i}"),
        ("{p}_in", "{p}_out"),
        ("{x:q|k}.w", "{x:v|o}.w"),
        ("a.{i}", "a.{i}.b"),
        ("{x:q|k}_proj", "out_proj"),
        ("w{i}", "w{p}"),
        ("{i}", "a"),
    ],
)
def test_disjoint_templates_are_seen_to_be(a: str, b: str) -> None:
    assert not Template(a).overlaps(Template(b))
    assert not Template(b).overlaps(Template(a))


# ---- rules ----


def test_renames_reads_a_table() -> None:
    rules = renames("""
        a.{i}.w -> layers.{i}.w

        b       -> c
    """)
    assert list(rules) == [Rename("a.{i}.w", "layers.{i}.w"), Rename("b", "c")]
    for bad in ("a b", "a -> ", "a -> b -> c"):
        with pytest.raises(ValueError, match="theirs -> ours"):
            renames(bad)


def test_under_moves_both_sides() -> None:
    rules = Rules(
        Rename("a", "b"),
        Stack("a.{e}", "bs"),
        Split("c", ("d", "e"), dim=1),
        Alias("f", "a"),
        Drop("g", "old"),
        Respell("h", "i"),
    )
    assert list(rules.under(theirs="t.{i}.", ours="o.{i}.")) == [
        Rename("t.{i}.a", "o.{i}.b"),
        Stack("t.{i}.a.{e}", "o.{i}.bs"),
        Split("t.{i}.c", ("o.{i}.d", "o.{i}.e"), dim=1),
        Alias("t.{i}.f", "t.{i}.a"),
        Drop("t.{i}.g", "old"),
        Respell("h", "i"),
    ]
    with pytest.raises(ValueError, match="end in a dot"):
        rules.under(theirs="t")


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (renames("a.{p} -> x.{p}\n a.weight -> y"), "could take one key"),
        (renames("a.{i} -> x.{i}\n a.0 -> y"), "could take one key"),
        (renames("a -> x.{i}"), "no inverse"),
        (renames("a.{i} -> x"), "no inverse"),
        (renames("a -> x\n b -> x"), "could give one name"),
        (renames("a.{i} -> x.{i}\n b -> x.0"), "could give one name"),
        (renames("a -> x") + Rules(Drop("a", "")), "could take one key"),
        (renames("a -> x") + Rules(Alias("b", "a"), Drop("b", "")), "could take one key"),
        (renames("a -> x") + Rules(Alias("b", "c")), "which no rule takes"),
        (renames("a.{i} -> x.{i}") + Rules(Alias("b", "a.{i}")), "which no rule takes"),
        (Rules(Stack("a.{i}.{e}", "x")), "no inverse.*numbers the rows"),
        (Rules(Stack("a", "x")), "no inverse.*numbers the rows"),
        (Rules(Split("a.{i}", ("x.{i}", "y"))), "no inverse"),
        (Rules(Split("a", ("x", "x"))), "could give one name"),
        # With the prefix optional, "m.a" may be meant by the key "a", and "a" by "m.a".
        (renames("m.a -> x\n a -> y"), "could take one key"),
        (renames("m.{p}.a -> x.{p}\n m.a -> y"), "could take one key"),
    ],
)
def test_ambiguous_rules_are_refused(rules: Rules, said: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){said}"):
        KeyMap(rules, base_prefix="m.").check()


BY_5 = {"tie_word_embeddings": False, "transformers_version": "5.0.0"}
MAPS: list[tuple[type[Model], dict[str, Any]]] = [
    (cls, values)
    for family in FAMILIES
    for cls in (family.model, family.encoder, *family.tasks.values())
    for values in ({}, {"feed_forward_proj": "relu"}, BY_5)
    if cls is not None
]
MAPS += [
    (
        EncoderDecoderModel,
        {"encoder": {"model_type": reads}, "decoder": {"model_type": writes, "is_decoder": True}},
    )
    for reads in (family.config.model_type for family in FAMILIES if family.encoder)
    for writes in (family.config.model_type for family in FAMILIES if "CausalLM" in family.tasks)
]


@pytest.mark.parametrize(("cls", "values"), MAPS)
def test_the_maps_of_all_classes_are_sound(cls: type[Model], values: dict[str, Any]) -> None:
    """Loading does not check them."""
    cls.key_map(cls.config_class.from_dict(values)).check()


def test_words_need_listing_on_one_side_only() -> None:
    key_map = KeyMap(
        renames("{x:q|k}.w -> {x}_proj\n v.w -> v_proj") + Rules(Alias("old.{x:q|k}.w", "{x}.w"))
    )
    assert [link.keys for link in key_map.links({"q_proj": [1], "v_proj": [1]})] == [("q.w",), ("v.w",)]
    assert key_map.same_as("old.k.w") == "k.w"
    assert key_map.same_as("old.v.w") is None


def test_links_of_every_kind() -> None:
    key_map = KeyMap(
        Rules(
            Rename("a.{i}", "x.{i}"),
            Stack("b.{i}.{e}.w", "y.{i}"),
            Split("c", ("u", "v"), dim=1),
        )
    )
    links = key_map.links({"x.3": (2,), "y.0": (2, 5, 6), "u": (4, 1), "v": (4, 2), "other": (1,)})
    assert [(link.keys, link.names, link.key_shapes) for link in links] == [
        (("a.3",), ("x.3",), ((2,),)),
        (("b.0.0.w", "b.0.1.w"), ("y.0",), ((5, 6), (5, 6))),
        (("c",), ("u", "v"), ((4, 3),)),
    ]
    with pytest.raises(ValueError, match="there is no v"):
        key_map.links({"u": (4, 1)})


@pytest.mark.parametrize("link_index", range(3))
def test_each_kind_inverts_itself(link_index: int) -> None:
    key_map = KeyMap(Rules(Rename("a", "x"), Stack("b.{e}", "y"), Split("c", ("u", "v"), dim=1)))
    shapes = {"x": (2,), "y": (3, 5, 6), "u": (4, 1), "v": (4, 2)}
    link: Link = key_map.links(shapes)[link_index]
    theirs = [torch.randn(shape) for shape in link.key_shapes]
    dtypes, cpu = [torch.float32] * len(link.names), torch.device("cpu")
    ours = link.rule.to_ours(theirs, link.shapes, dtypes, cpu)
    assert [tuple(tensor.shape) for tensor in ours] == list(link.shapes)
    assert all(tensor.is_contiguous() for tensor in ours)
    back = link.rule.to_theirs(ours)
    assert all(torch.equal(a, b) for a, b in zip(theirs, back, strict=True))
    halves = link.rule.to_ours(theirs, link.shapes, [torch.float16] * len(link.names), cpu)
    assert all(torch.equal(a.half(), b) for a, b in zip(ours, halves, strict=True))


# ---- spellings and prefixes ----


def test_spellings() -> None:
    key_map = KeyMap(
        renames("model.n.LayerNorm.{p} -> n.{p}\n head -> head")
        + Rules(Respell("LayerNorm.gamma", "LayerNorm.weight")),
        base_prefix="model.",
    )
    assert key_map.spellings("head") == ["head", "model.head"]
    assert key_map.spellings("n.LayerNorm.gamma")[:4] == [
        "n.LayerNorm.gamma",
        "n.LayerNorm.weight",
        "model.n.LayerNorm.gamma",
        "model.n.LayerNorm.weight",
    ]
    assert "n.LayerNorm.weight" in key_map.spellings("model.n.LayerNorm.gamma")
    assert key_map.spellings("myLayerNorm.gamma") == ["myLayerNorm.gamma", "model.myLayerNorm.gamma"]
    with pytest.raises(ValueError, match="end in a dot"):
        KeyMap(Rules(), base_prefix="model")


def test_the_body_is_what_lies_below_the_prefix() -> None:
    assert HEAD_MAP.is_body("model.shared.weight")
    assert not HEAD_MAP.is_body("lm_head.weight")
    assert BODY_MAP.is_body("shared.weight")


def test_drops_say_why() -> None:
    assert BODY_MAP.why_dropped("encoder.position_ids") == "0, 1, 2, ... as a buffer"
    assert HEAD_MAP.why_dropped("model.encoder.position_ids") is not None
    assert BODY_MAP.why_dropped("shared.weight") is None


@pytest.mark.parametrize(("cls", "key_map"), [(Toy, BODY_MAP), (ToyWithHead, HEAD_MAP)])
def test_the_toy_is_covered_exactly(cls: type, key_map: KeyMap) -> None:
    module = on_meta(cls, depth=12)
    links = key_map.links({name: tuple(t.shape) for name, t in module.state_dict().items()})
    names = [name for link in links for name in link.names]
    assert sorted(names) == sorted(module.state_dict())
    keys = {key: shape for link in links for key, shape in zip(link.keys, link.key_shapes, strict=True)}
    expected = {key: tuple(t.shape) for key, t in hub_state(cls(depth=12), key_map).items()}
    if cls is ToyWithHead:
        expected["lm_head.weight"] = expected["model.shared.weight"]  # tied: a link of its own all the same
    assert keys == expected
    assert all(re.fullmatch(r"[\w.]+", key) for key in keys)
