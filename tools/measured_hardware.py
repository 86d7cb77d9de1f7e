"""How far the rooflines of a card are from what was measured on one: `python tools/measured_hardware.py h200` prints the
table of docs/hardware.md."""

from __future__ import annotations

import sys
from collections.abc import Callable

from simulator.hardware.catalogue import find_profile
from simulator.hardware.profile import Profile

MODELS = ("qwen3-4b", "qwen3-8b", "qwen3-14b")
GAMMA = 7


def milliseconds(seconds: float) -> str:
    """For steps."""
    return f"{1e3 * seconds:.3g} ms"


def nanoseconds(seconds: float) -> str:
    """For single tokens."""
    return f"{1e9 * seconds:.3g} ns"


def rows() -> dict[str, tuple[Callable[[Profile], float], Callable[[float], str]]]:
    """By name: what is compared, and how it is written."""
    compared: dict[str, tuple[Callable[[Profile], float], Callable[[float], str]]] = {}
    for tokens in (1, 8, 64, 512, 4096):
        compared[f"target pass, B = {tokens}"] = (lambda p, n=tokens: float(p.verify.at(n)), milliseconds)
    for drafter in ("dspark", "dflash", "eagle3", "mtp"):
        for requests in (1, 64, 512):
            compared[f"{drafter}, γ = {GAMMA}, R = {requests}"] = (
                lambda p, d=drafter, r=requests: float(p.draft[d].at(GAMMA, r)),
                milliseconds,
            )
    compared["a context token"] = (lambda p: p.context_s_per_token, nanoseconds)
    compared["the same, drafting with dspark"] = (lambda p: p.draft["dspark"].context_s_per_token, nanoseconds)
    compared["the same, drafting with eagle3"] = (lambda p: p.draft["eagle3"].context_s_per_token, nanoseconds)
    compared["prompt attention, a pair"] = (lambda p: p.prefill_s_per_pair, nanoseconds)
    compared["host, a step of 64"] = (lambda p: p.overhead_s + 64 * p.overhead_s_per_request, milliseconds)
    compared["cache, tokens"] = (lambda p: p.kv_capacity_tokens, lambda n: f"{n:,.0f}")
    return compared


def table(card: str) -> list[str]:
    """Lines of Markdown: as measured on `card`, and by how much the roofline is more or less."""
    lines = ["| | " + " | ".join(MODELS) + " |", "|---|" + "---|" * len(MODELS)]
    for name, (of, written) in rows().items():
        cells = []
        for model in MODELS:
            measured, roofline = (of(find_profile(f"{device}/{model}")) for device in (f"{card}-measured", card))
            cells.append(f"{written(measured)}, {roofline / measured - 1:+.0%}".replace("-", "−").replace("%", " %"))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    for card in sys.argv[1:] or ["h100"]:
        print("\n".join(table(card)))
