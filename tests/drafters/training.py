"""Small drafters to train, and a short recipe."""

from __future__ import annotations

from typing import Any

from drafters.training.recipe import Design, Recipe

SMALL = {"layers": 1, "gamma": 3}
RECIPE = Recipe(steps=12, batch=4, anchors=4, evaluations=3, patience=3, warmup=0.2)


def design(kind: str, **changes: Any) -> Design:
    sizes = {**SMALL, **({"rank": 4} if kind == "dspark" else {}), **changes}
    return Design(kind=kind, **{k: v for k, v in sizes.items() if not (kind == "mtp" and k == "layers")})
