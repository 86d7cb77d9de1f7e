"""What docs/json.md says of JSON, as a check of the JSON that a command printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "json.md"
Keys = tuple[str, ...]
"""Keys from the object down; "[]" is an item of a list."""


@cache
def page() -> dict[str, list[Keys]]:
    """Documented keys by heading."""
    found: dict[str, list[Keys]] = {}
    heading = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("##"):
            heading = line.strip("# ")
            found[heading] = []
        elif heading and line.startswith("    "):
            found[heading] += _lines(re.split(r" {2,}", line.strip())[0])
    return {name: [whole for keys in documented for whole in _expanded(keys, found)] for name, documented in found.items()}


def _lines(text: str) -> list[Keys]:
    before, brace, names = text.partition("{")
    texts = [before + name.strip() for name in names.rstrip("}").split(",")] if brace else [text]
    return [tuple(re.sub(r"\[\]", ".[]", each).lstrip(".").split(".")) for each in texts]


def _expanded(keys: Keys, known: dict[str, list[Keys]]) -> list[Keys]:
    name = keys[-1].strip("()")
    return [keys] if name == keys[-1] else [(*keys[:-1], *more) for more in known[name]]


def said(value: Any, at: Keys = ()) -> Iterator[tuple[Keys, bool]]:
    """The leaves of a JSON value, and whether each is empty: null, or a list or object without anything."""
    inner = [(key, v) for key, v in value.items()] if isinstance(value, dict) else []
    inner = [("[]", v) for v in value] if isinstance(value, list) else inner
    for key, v in inner:
        yield from said(v, (*at, key))
    if not inner:
        yield at, value is None or isinstance(value, dict | list)


def fits(keys: Keys, documented: Keys) -> bool:
    """Whether keys are those that a line of the page has."""
    for i, wanted in enumerate(documented):
        if wanted == "**":
            return len(keys) > i
        if i >= len(keys) or (wanted.rstrip("?") != keys[i] and not (wanted == "*" and keys[i] != "[]")):
            return False
    return len(keys) == len(documented)


def differences(stdout: str) -> list[str]:
    """Where JSON and page differ, by name; and that it is one object that says what it is."""
    content = json.loads(stdout, parse_constant=lambda text: f"is no JSON: {text}")
    if list(content)[:2] != ["schema", "kind"] or content["schema"] != 1 or stdout.count("\n") != 1:
        return ["not one object, on a line of its own, that begins with schema 1 and its kind"]
    documented = page()[content["kind"]]
    leaves = {keys: empty for keys, empty in said(content) if keys not in (("schema",), ("kind",))}
    found = [
        f"{'.'.join(keys)} is not in docs/json.md"
        for keys, empty in leaves.items()
        if not any(fits(keys, each) or (empty and fits(keys, each[: len(keys)])) for each in documented)
    ]
    return found + [f"{'.'.join(each)} of docs/json.md is gone" for each in documented if not _there(each, leaves)]


def _there(documented: Keys, leaves: dict[Keys, bool]) -> bool:
    """Whether a documented line is met, or there was nothing that could have met it."""
    if any(fits(keys, documented) for keys in leaves):
        return True
    for i, wanted in enumerate(documented):
        head = documented[:i]
        if any(empty and fits(keys, head) for keys, empty in leaves.items()):
            return True
        if wanted.endswith("?") and not any(fits(keys[: i + 1], documented[: i + 1]) for keys in leaves):
            return True
    return any(empty and fits(keys, documented) for keys, empty in leaves.items())
