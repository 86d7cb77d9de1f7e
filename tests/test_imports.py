"""What may be imported: the contract that says so, that it holds for every file, and that the documentation agrees."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from grimp import ImportGraph

from tools.allowed import Allowed, within

ROOT = Path(__file__).parents[1]
LINTER: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
CONTRACTS = {contract["name"]: contract for contract in LINTER["contracts"] if contract["type"] == "allowed"}


def test_every_module_is_held_to_a_contract() -> None:
    importers = [name for contract in CONTRACTS.values() for name in contract["importers"]]
    for folder in LINTER["root_packages"]:
        files = [*(ROOT / folder).glob("*.py"), *(file.parent for file in (ROOT / folder).glob("*/__init__.py"))]
        names = {f"{folder}.{file.stem}" for file in files} - {f"{folder}.__init__"}
        assert not {name for name in names if not within(name, importers)}


def test_the_documentation_lists_what_is_allowed() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    items = re.findall(r"^\* \*\*(.+?)\*\*: (.+(?:\n  .+)*)", text.partition("## The life")[0], re.MULTILINE)
    listed = {name: re.split(r",\s+", allowed) for name, allowed in items}
    assert listed == {name: contract["allowed"] for name, contract in CONTRACTS.items()}


@pytest.mark.parametrize(
    ("importer", "imported", "said"),
    [
        ("a.one", "torch", "a.one: imports torch"),
        ("a", "b.other", "a: imports b.other"),
        ("a.one", "numpy2", "a.one: imports numpy2"),
        ("a.one", "b.good.part", ""),
        ("a.one", "a", ""),
        ("a.one", "json", ""),
        ("b.good", "torch", ""),
    ],
)
def test_what_is_not_allowed_breaks_the_contract(importer: str, imported: str, said: str) -> None:
    graph = ImportGraph()
    for name in dict.fromkeys(("a", "a.one", "b.good", "numpy", importer, imported)):
        graph.add_module(name)
    for one, other in (("a", "numpy"), ("a.one", "b.good"), (importer, imported)):
        graph.add_import(importer=one, imported=other)
    contract = Allowed("ours", {}, {"importers": ["a"], "allowed": ["numpy", "b.good"]})
    found = contract.check(graph, verbose=False)
    assert found.metadata["said"] == [said] * bool(said)
    assert found.kept == (not said)


def test_a_contract_lists_nothing_in_vain() -> None:
    graph = ImportGraph()
    graph.add_module("a")
    contract = Allowed("ours", {}, {"importers": ["a", "b"], "allowed": ["numpy"]})
    said = contract.check(graph, verbose=False).metadata["said"]
    assert said == ["b: is no module", "numpy: is allowed, and nothing here imports it"]
