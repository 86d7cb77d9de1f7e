"""A contract of import-linter's that says what may be imported, where its own ones say what may not."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class Allowed(Contract):
    """Modules that import themselves, Python's own library and what is named here, and nothing else.

    Imports inside functions count, and only direct ones: what is imported is held to a contract of its own.
    """

    importers: Any = fields.ListField(subfield=fields.StringField())
    """Modules, with everything in them; all together one room."""
    allowed: Any = fields.ListField(subfield=fields.StringField(), required=False)
    """Packages and modules, with everything in them."""

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Find what is imported beyond that, a line each; and what is allowed and not needed, for the list to stay true."""
        importers, allowed = list[str](self.importers), list[str](self.allowed or ())
        said = [f"{name}: is no module" for name in importers if name not in graph.modules]
        needed: set[str] = set()
        for module in sorted(name for name in graph.modules if within(name, importers)):
            for imported in sorted(graph.find_modules_directly_imported_by(module)):
                if within(imported, importers) or imported.partition(".")[0] in sys.stdlib_module_names:
                    continue
                named = [name for name in allowed if within(imported, [name])]
                needed.update(named)
                if not named:
                    said.append(f"{module}: imports {imported}")
        said += [f"{name}: is allowed, and nothing here imports it" for name in allowed if name not in needed]
        return ContractCheck(kept=not said, metadata={"said": said})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print what breaks it."""
        for line in check.metadata["said"]:
            output.print_error(line, bold=False)


def within(module: str, names: Iterable[str]) -> bool:
    """Whether a module is one of these, or in one."""
    return any(module == name or module.startswith(f"{name}.") for name in names)
