"""The package read as text: its files, and who imports whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "seq2seq_zoo"
OURS = "seq2seq_zoo"


@dataclass(frozen=True)
class Import:
    """One imported module: its full name, and whether the import waits inside a function."""

    name: str
    waits: bool


@cache
def modules() -> dict[str, Path]:
    """Dotted name → file, of the whole package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def _is_for_typing(node: ast.AST) -> bool:
    test = node.test if isinstance(node, ast.If) else None
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _statements(node: ast.AST, waits: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, waits
        elif _is_for_typing(child):
            yield from (pair for other in child.orelse for pair in _statements(other, waits))
        else:
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _statements(child, waits or inside)


@cache
def imports(module: str) -> tuple[Import, ...]:
    """What a module imports when it runs (imports for type checkers alone are left out).

    `from x import y` counts as x.y where that is a module of ours, and as x otherwise.
    """
    is_package = modules()[module].name == "__init__.py"
    found = []
    for node, waits in _statements(tree(module), False):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, waits) for alias in node.names]
            continue
        base = node.module or ""
        if node.level:
            parts = module.split(".")
            above = parts[: len(parts) - node.level + is_package]
            base = ".".join([*above, *([base] if base else [])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            found.append(Import(inner if inner in modules() else base, waits))
    return tuple(found)


def own_imports(module: str) -> set[str]:
    """The modules of ours that a module imports, at once or later."""
    return {found.name for found in imports(module) if found.name.split(".")[0] == OURS}


def part_of(module: str) -> str:
    """The part of the package a module belongs to: its folder or file right under the package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else OURS
