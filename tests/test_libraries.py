"""Of libraries only what is public is used: what is not breaks with their next release."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("drafters", "harness", "results", "simulator", "tuner")
EXCEPTIONS = {
    ("harness/hardware/attention.py", "target.model.config._attn_implementation"):
        "transformers has a public way to set it, none to ask for it",
    ("harness/hardware/attention.py", "torch.ops.aten._scaled_dot_product_flash_attention"):
        "nothing public gives the sums by which two attentions are joined",
}  # fmt: skip
FIELDS = ("_asdict", "_fields", "_make", "_replace")
"""What named tuples have; public by Python's documentation, as is `os._exit`."""


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def used(text: str) -> Iterator[str]:
    """Private names of others that a module's text uses."""
    tree = ast.parse(text)
    own = {node.attr for node in ast.walk(tree) if _is_own(node)}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    own |= {name.id for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for name in _declared(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            theirs = [] if node.module.split(".")[0] in OURS else [alias.name for alias in node.names]
            yield from (f"{node.module}.{name}" for name in [*node.module.split("."), *theirs] if private(name))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if any(map(private, alias.name.split("."))))
        elif isinstance(node, ast.Attribute) and private(node.attr):
            text = ast.unparse(node)
            if node.attr not in own and node.attr not in FIELDS and text != "os._exit":
                yield text


def _is_own(node: ast.AST) -> bool:
    """Whether it is an attribute that the module's own classes give themselves."""
    mine = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    return mine and isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)


def _declared(node: ast.ClassDef) -> Iterator[ast.Name]:
    """Names that a class declares in its body."""
    for line in node.body:
        targets = line.targets if isinstance(line, ast.Assign) else [line.target] if isinstance(line, ast.AnnAssign) else []
        yield from (target for target in targets if isinstance(target, ast.Name))


def test_nothing_private_of_a_library_is_used() -> None:
    found = {
        (str(file.relative_to(ROOT)), name)
        for folder in OURS
        for file in (ROOT / folder).rglob("*.py")
        for name in used(file.read_text(encoding="utf-8"))
    }
    assert found == set(EXCEPTIONS)


@pytest.mark.parametrize(
    "text",
    [
        "from torch._C import Node", "import numpy._core", "from torch import _C", "x = config._attn", "ray._private.x()",
        "class A:\n    def f(self):\n        return self.model._cache",
    ],
)  # fmt: skip
def test_it_would_be_found(text: str) -> None:
    assert list(used(text))
