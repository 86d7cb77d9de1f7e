"""Of libraries only what is public is used: what is not breaks with their next release."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("benchmarks", "drafters", "harness", "results", "simulator", "tools", "tuner")
EXCEPTIONS = {
    ("harness/hardware/attention.py", "torch.ops.aten._scaled_dot_product_flash_attention"):
        "nothing public gives the sums by which two attentions are joined",
    ("simulator/engine/compilation.py", "'_nrt'"):
        "numba ignores options it does not know: without it everything is right, and slower",
}  # fmt: skip
AMONG_OURS = {
    ("benchmarks/test_recording.py", "dense._Blocks"),
    ("drafters/cache.py", "other._layers"),
    ("harness/vllm/engine.py", "engine._llm"),
}
"""Private things of our own that are used from elsewhere than their class."""
FIELDS = ("_asdict", "_fields", "_make", "_replace")
"""What named tuples have; public by Python's documentation, as is `os._exit`."""
BY_NAME = (
    "getattr",
    "setattr",
    "hasattr",
    "delattr",
    "attrgetter",
    "methodcaller",
    "import_module",
    "find_spec",
    "__import__",
)
"""Functions that find things by a name in a text."""


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def used(text: str) -> Iterator[str]:
    """Private names of others that a module's text uses."""
    tree = ast.parse(text)
    own = {node.attr for node in ast.walk(tree) if _is_of_self(node) and isinstance(node.ctx, ast.Store)}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    own |= {name.id for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for name in _declared(node)}
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module)):
                theirs = [] if module.split(".")[0] in OURS else [alias.name for alias in node.names]
                yield from (f"{module}.{name}" for name in [*module.split("."), *theirs] if private(name))
            case ast.Import():
                yield from (alias.name for alias in node.names if any(map(private, alias.name.split("."))))
            case ast.Attribute(attr=name) if private(name):
                if not (_is_of_self(node) and name in own) and name not in FIELDS and ast.unparse(node) != "os._exit":
                    yield ast.unparse(node)
            case ast.Call():
                yield from _named(node, own)
            case ast.Dict():  # options that are handed over
                yield from (ast.unparse(key) for key in node.keys if key is not None and _is_private_text(key))
            case ast.Subscript(value=ast.Call(func=ast.Name("vars")) | ast.Attribute(attr="__dict__"), slice=what):
                if _is_private_text(what) and ast.unparse(node.value) != "self.__dict__":
                    yield ast.unparse(node)


def _named(call: ast.Call, own: set[str]) -> Iterator[str]:
    """Private names that a call gives as a text, or hands over as an option."""
    yield from (f"{one.arg}=" for one in call.keywords if one.arg is not None and private(one.arg) and one.arg not in own)
    if ast.unparse(call.func).rpartition(".")[2] not in BY_NAME:
        return
    for one in call.args:
        if _is_private_text(one) and not (isinstance(one, ast.Constant) and one.value in own):
            yield ast.unparse(call)


def _is_private_text(node: ast.AST) -> bool:
    """Whether it is a text, of a dotted name or the beginning of one, that is private."""
    if isinstance(node, ast.JoinedStr) and node.values:
        node = node.values[0]
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and any(map(private, node.value.split(".")))


def _is_of_self(node: ast.AST) -> TypeGuard[ast.Attribute]:
    """Whether it is an attribute of the object, or the class, that the code is of."""
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


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
    assert found == set(EXCEPTIONS) | AMONG_OURS


@pytest.mark.parametrize(
    "text",
    [
        "from torch._C import Node", "import numpy._core", "from torch import _C", "x = config._attn", "ray._private.x()",
        "class A:\n    def f(self):\n        return self.model._cache",
        "class A:\n    def __init__(self, model):\n        self._cache = model._cache",
        "getattr(model, '_cache', None)", "operator.attrgetter('model._cache')", "setattr(model, f'_{name}', 1)",
        "importlib.import_module('numpy._core')", "njit(_nrt=False)", "options = {'_nrt': False}", "vars(model)['_cache']",
        "model.__dict__['_cache']",
    ],
)  # fmt: skip
def test_it_would_be_found(text: str) -> None:
    assert list(used(text))
