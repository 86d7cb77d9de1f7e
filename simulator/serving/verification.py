"""How a server verifies drafts, as far as its settings show it: a lossless chain, a tree, or by a rule that is not lossless.

Facts of SGLang 0.5.23 (server_args.py), vLLM 0.33 (config/speculative.py) and vLLM before 0.10, and TensorRT-LLM 1.2. Only
what is shown is told: a setting that nobody gave stands at whatever its engine chooses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Departure = Literal["tree", "lossy", "synthetic"]
"""What a server does otherwise than verify a lossless chain: several tokens a position are drafted; tokens are kept that
the target's law would not keep; or drafts are accepted at a rate that was given, whatever they are."""
WORDS: Final[Mapping[Departure, str]] = {
    "tree": "drafts are trees, of which a round keeps the best branch: not comparable with chains of as many tokens",
    "lossy": "verification is not lossless: what is kept is not distributed as the target's own answers",
    "synthetic": "drafts are accepted at a given rate: no drafter's acceptance was measured",
}
"""What that means, in a sentence without an end."""
_LOSSLESS_RULES: Final = {"standard", "strict", "block", "probabilistic", "rejection_sampler"}
"""What vLLM's versions call rules that keep the target's law."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A setting by which a server departs from a lossless chain."""

    departure: Departure
    setting: str
    """The setting and its value, as `speculative_eagle_topk 8`."""

    def __str__(self) -> str:
        return f"{self.setting}: {WORDS[self.departure]}"


def _above(bound: float) -> Callable[[str], bool]:
    return lambda text: (value := _number(text)) is not None and value > bound


def _below(bound: float) -> Callable[[str], bool]:
    return lambda text: (value := _number(text)) is not None and value < bound


def _given(text: str) -> bool:
    return text.lower() not in ("null", "none", "false", "0", "[]", "")


def _is(*words: str) -> Callable[[str], bool]:
    return lambda text: text.lower() in words


def _branches(text: str) -> bool:
    """Whether a tree of choices, as [(0,), (0, 0), (1,)], has more than one child anywhere."""
    return any(int(choice) > 0 for choice in re.findall(r"\d+", text))


_SIGNS: Final[tuple[tuple[str, Callable[[str], bool], Departure], ...]] = (
    ("speculative_eagle_topk", _above(1), "tree"),
    ("speculative_ngram_max_bfs_breadth", _above(1), "tree"),
    ("speculative_token_tree", _branches, "tree"),
    ("eagle_choices", _branches, "tree"),
    ("medusa_choices", _branches, "tree"),
    ("use_dynamic_tree", _given, "tree"),
    ("speculative_accept_threshold_single", _below(1), "lossy"),
    ("speculative_accept_threshold_acc", _below(1), "lossy"),
    ("acceptance_method", _is("typical_acceptance_sampler"), "lossy"),
    ("posterior_threshold", _above(0), "lossy"),
    ("use_relaxed_acceptance_for_thinking", _given, "lossy"),
    ("rejection_sample_method", _is("synthetic"), "synthetic"),
    ("rejection_sample_method", lambda text: _given(text) and text.lower() not in {*_LOSSLESS_RULES, "synthetic"}, "lossy"),
    ("synthetic_acceptance_rates", _given, "synthetic"),
    ("synthetic_acceptance_rate", _given, "synthetic"),
    ("synthetic_acceptance_length", _given, "synthetic"),
    ("sglang_simulate_acc_len", _above(0), "synthetic"),
)
"""(setting, which of its values, what they do). Settings that end in one of these names, as older ones did, count too."""
_LONG = 1 << 20
"""Where a text has more characters, only lines are looked at that may name a setting: logs are of gigabytes."""
_WORDS: Final = ("specul", "choices", "dynamic.tree", "rejection", "posterior", "simulate", "accept(?:ance|ed|_|-)")
HINTS: Final = "|".join(one for word in _WORDS for one in (word, word.capitalize(), word.upper()))
"""Regular expression of lines that may name a setting of these. Written out: one that ignores case takes five times as long,
and logs are of gigabytes."""
_HINT: Final = re.compile(HINTS)
_VALUE: Final = r"(\[(?:[^\[\]]|\[[^\[\]]*\])*\]|[^\s,\"'()\[\]{}]+)"
"""A word, or a list that may hold lists."""
_NAMED: Final = {
    name: re.compile(
        rf"(?<![a-z0-9])[a-z_-]*?{name.replace('_', '[_-]')}[\"']?(?:\s*[=:]\s*|\s+)[\"']?{_VALUE}", re.IGNORECASE
    )
    for name, _, _ in _SIGNS
}


def departures(settings: str | Mapping[str, Any]) -> tuple[Shown, ...]:
    """Where a server departs from a lossless chain, each setting once; empty where its settings show no such thing.

    Args:
        settings: server arguments or a speculative configuration, nested or not, or any text that has them: a command, lines
            of a log, variables of an environment; `--speculative-eagle-topk 8`, `speculative_eagle_topk=8` and JSON alike.
    """
    text = settings if isinstance(settings, str) else json.dumps(settings, default=str)
    if len(text) > _LONG:
        text = "\n".join(line for line in text.splitlines() if _HINT.search(line))
    text = text.replace('\\"', '"')  # JSON within JSON
    found: dict[str, Shown] = {}
    for name, means, departure in _SIGNS:
        for match in _NAMED[name].finditer(text):
            if means(match[1]):
                found.setdefault(name, Shown(departure, f"{name} {match[1]}"))
    return tuple(found.values())


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
