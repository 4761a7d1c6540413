"""Who may import whom: arrows run one way, from the front door through models to layers."""

import sys

import pytest

from tests.structure.package import OURS, imports, modules, own_imports, part_of

EVERYTHING = None
MAY_IMPORT = {
    "errors": set(),
    "glossary": set(),
    "layers": set(),
    "hub": {"errors"},
    "json_file": set(),
    "checkpoint": {"errors", "hub", "json_file"},
    "generation": {"errors", "hub", "json_file", "checkpoint"},
    "tokenization": {"errors", "hub", "json_file", "checkpoint"},
    "inference": {"errors", "checkpoint", "layers"},
    "config": {"errors", "hub", "json_file", "checkpoint", "layers"},
    "outputs": {"layers"},
    "models": {"errors", "hub", "checkpoint", "generation", "layers", "config", "outputs"},
    "inspection": EVERYTHING,
    "pipelines": EVERYTHING,
    "cli": EVERYTHING,
    "__main__": {"cli"},
    OURS: set(),  # it looks names up when they are first used
}
"""What each part may import besides itself."""
FRONT_DOOR = {"inspection", "pipelines", "cli", "__main__"}

REQUIRED = {"torch", "safetensors", "sentencepiece", "tokenizers", "huggingface_hub", "numpy"}
OPTIONAL = {"typing_extensions"} | {"jinja2", "tqdm", "matplotlib", "torchao", "bitsandbytes", "accelerate"}
"""Imported where they are used, never at the top of a file."""
WAITING = {f"{OURS}.tokenization.chat_templates": "jinja2"}
"""But for files that are all about one of them: these are themselves imported where they are used."""


def test_every_part_is_known():
    assert {part_of(module) for module in modules()} <= set(MAY_IMPORT)


@pytest.mark.parametrize("module", modules())
def test_arrows(module):
    part = part_of(module)
    allowed = MAY_IMPORT[part]
    reached = {part_of(name) for name in own_imports(module)} - {part}
    if allowed is not EVERYTHING:
        assert reached <= allowed, f"{module} imports {sorted(reached - allowed)}"
    if part not in FRONT_DOOR:
        assert not reached & FRONT_DOOR


def test_no_module_leads_back_to_itself():
    """Imports inside functions count: a circle that waits is a circle."""
    graph = {module: own_imports(module) & set(modules()) - {module} for module in modules()}
    done, path = set(), []

    def visit(module):
        assert module not in path, " → ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for other in sorted(graph[module]):
            visit(other)
        path.pop()
        done.add(module)

    for module in graph:
        visit(module)


@pytest.mark.parametrize("module", modules())
def test_foreign_imports(module):
    for found in imports(module):
        top = found.name.split(".")[0]
        if top == OURS or top in sys.stdlib_module_names:
            continue
        assert top != "transformers"
        waits = found.waits or WAITING.get(module) == top
        assert top in REQUIRED or (waits and top in OPTIONAL), f"{module} imports {found.name}"


@pytest.mark.parametrize("waiting", WAITING)
def test_what_waits_is_waited_for(waiting):
    found = [i.waits for module in modules() for i in imports(module) if i.name == waiting]
    assert found
    assert all(found)


def test_the_reader_of_imports_sees_them():
    """Against a text with every kind of import, so that the tests above cannot pass by reading nothing."""
    assert f"{OURS}.layers.prefix" in own_imports(f"{OURS}.layers.attention")
    assert f"{OURS}.layers.attention" in own_imports(f"{OURS}.models.mvp")
    assert f"{OURS}.checkpoint" in own_imports(f"{OURS}.config")
    assert "torch" in {found.name for found in imports(f"{OURS}.layers.state")}
    assert any(found.waits for module in modules() for found in imports(module))
    assert not own_imports(OURS), "names for type checkers are not imports"
