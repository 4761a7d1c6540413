"""One vocabulary, and texts a reader can rely on: names of modules, docstrings, sources, sizes of files."""

import ast
import importlib
import inspect
import re
import types

import pytest
import torch

import seq2seq_zoo
from seq2seq_zoo import glossary
from seq2seq_zoo.models.base import Model
from tests.structure.package import OURS, modules, tree

# ---- the glossary ----

VARIANTS = {
    "MvpConfig": [{"use_prompt": True, "encoder_layers": 1, "decoder_layers": 1}],
    "MT5Config": [{"num_layers": 1}, {"num_layers": 1, "feed_forward_proj": "relu"}],
    "MegaConfig": [{"add_token_type_embeddings": True}],
    "BertGenerationConfig": [
        {
            "is_decoder": True,
            "add_cross_attention": True,
            "position_embedding_type": "relative_key",
            "num_hidden_layers": 1,
        }
    ],
}
"""Fields with which a family has every kind of module it can have; of others, the defaults."""


def model_classes():
    """Every public model class of every family."""
    for module in modules():
        if module.startswith(f"{OURS}.models"):
            importlib.import_module(module)
    found, waiting = set(), [Model]
    while waiting:
        for cls in waiting.pop().__subclasses__():
            waiting.append(cls)
            if not cls.__name__.startswith("_") and "config_class" in {
                name for base in cls.__mro__ for name in vars(base)
            }:
                found.add(cls)
    return sorted(found, key=lambda cls: cls.__name__)


def configs(cls):
    kind = cls.config_class
    if kind is seq2seq_zoo.EncoderDecoderConfig:  # of two widths, so that something must stand between them
        halves = [
            seq2seq_zoo.BertGenerationConfig(hidden_size=width, num_hidden_layers=1) for width in (64, 128)
        ]
        return [kind.from_encoder_decoder_configs(*halves)]
    return [kind(**fields) for fields in VARIANTS.get(kind.__name__, [{}])]


def module_names(cls):
    with torch.device("meta"):
        models = [cls(config) for config in configs(cls)]
    return {
        part
        for model in models
        for name, _ in model.named_modules()
        for part in name.split(".")
        if part and not part.isdecimal()
    }


@pytest.mark.parametrize("cls", model_classes(), ids=lambda cls: cls.__name__)
def test_every_module_is_named_by_the_glossary(cls):
    assert module_names(cls) <= set(glossary.MODULES)


def test_every_word_of_the_glossary_is_used():
    used = set().union(*(module_names(cls) for cls in model_classes()))
    assert set(glossary.MODULES) - used == set()


def test_the_known_classes_are_among_them():
    """So that the tests above cannot pass by finding nothing."""
    names = {cls.__name__ for cls in model_classes()}
    assert {"MvpModel", "MvpForCausalLM", "MT5Model", "MT5EncoderModel", "MT5ForTokenClassification"} <= names


# ---- docstrings ----


@pytest.mark.parametrize("module", modules())
def test_every_file_opens_with_what_it_is_about(module):
    text = ast.get_docstring(tree(module))
    assert text
    assert len(text.splitlines()[0]) >= 20


def public_things(module):
    """Name and thing of every class and function that a module defines under a public name."""
    loaded = importlib.import_module(module)
    for name, thing in vars(loaded).items():
        defined_here = getattr(thing, "__module__", None) == module
        if defined_here and not name.startswith("_") and isinstance(thing, (type, types.FunctionType)):
            yield name, thing


def is_of_a_parts_list(module, thing):
    """Whether a function makes the part it is named after from a family's config: its body says the rest."""
    first = next(iter(inspect.signature(thing).parameters), None) if inspect.isfunction(thing) else None
    return module.startswith(f"{OURS}.models.") and first == "config"


@pytest.mark.parametrize("module", [name for name in modules() if not name.endswith("__main__")])
def test_every_public_thing_says_what_it_is(module):
    silent = []
    for name, thing in public_things(module):
        text = vars(thing).get("__doc__") if isinstance(thing, type) else thing.__doc__
        made_up_by_dataclass = (text or "").startswith(f"{name}(")
        if (not text or made_up_by_dataclass) and not is_of_a_parts_list(module, thing):
            silent.append(name)
    assert not silent


@pytest.mark.parametrize(
    "name", [n for n in seq2seq_zoo.__all__ if isinstance(getattr(seq2seq_zoo, n), type)]
)
def test_every_method_of_a_public_class_says_what_it_does(name):
    """Or the method it overrides does."""
    cls = getattr(seq2seq_zoo, name)
    own = {
        method
        for base in cls.__mro__
        if base.__module__.startswith(OURS)
        for method, raw in vars(base).items()
        if not method.startswith("_")
        and (callable(raw) or isinstance(raw, (property, classmethod, staticmethod)))
    }
    assert not {method for method in own if not inspect.getdoc(getattr(cls, method))}


# ---- sources ----

FORMULA = re.compile(r"^\s*\S+( \S+){0,5} (=|←) \S", re.MULTILINE)
WITHOUT_A_PAPER = {
    "seq2seq_zoo.layers.embedding.InputEmbedding",  # a sum that no paper claims as its own
}


def formulas():
    """Name and text of everything in the layers that states a formula."""
    for module in modules():
        if module.startswith(f"{OURS}.layers"):
            for name, thing in public_things(module):
                if FORMULA.search(inspect.getdoc(thing) or ""):
                    yield f"{module}.{name}", f"{inspect.getdoc(thing)} {ast.get_docstring(tree(module))}"


def test_a_formula_names_its_paper():
    """Where it stands, or at the head of its file."""
    texts = dict(formulas())
    assert len(texts) >= 8, "formulas are found"
    silent = {name for name, text in texts.items() if not re.search(r"arXiv:\d{4}\.\d{4,5}", text)}
    assert silent == WITHOUT_A_PAPER


# ---- files ----


@pytest.mark.parametrize("module", modules())
def test_a_file_is_a_chapter_not_a_book(module):
    assert modules()[module].stat().st_size <= 26_000
