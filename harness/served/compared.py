"""Sources of one server against each other: whether what two count is alike, within chance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.served.observed import Drafts, Observation, Point, kind_of_method, one_hot
from simulator.numbers import four_digits

_SURE: Final = 3.0
"""Standard errors, requests taken to differ, beyond which two sources are said to differ."""
_DIFFER: Final = 0.05
"""What lengths of two sources that count the same may be off by, where each was rounded, or began and ended elsewhere."""
_COVERAGE_DIFFERS: Final = 0.15
"""By how much of a share of steps two sources that count the same may be off, where they began and ended elsewhere."""
_ALIKE_STEPS: Final = 20.0
"""Steps of a request that are drafted for or not as one, about: answers that repeat a text do so at length."""
_TOO_MUCH: Final = 1.1
"""What two benchmarks of one machine are off by."""


def lengths_checked(drafting: Sequence[Observation]) -> list[str]:
    """Whether the sources' tokens per draft agree, in sentences; nothing of one source."""
    lengths = [
        (one.source, one.drafts.length, _error(one.drafts, kind_of_method(one.settings.method)))
        if one.drafts and one.drafts.drafts
        else (one.source, one.length, 0.0)
        for one in drafting
    ]
    found = [(name, value, error) for name, value, error in lengths if value is not None]
    if len({name for name, *_ in found}) < 2:
        return []
    (low_name, low, low_error), *_, (high_name, high, high_error) = sorted(found, key=lambda one: one[1])
    apart, error = high - low, math.hypot(low_error, high_error)
    if apart > max(_SURE * error, _DIFFER * (high - 1)):
        return [
            f"the files DIFFER: {high:.2f} tokens per draft by {high_name}, {low:.2f} by {low_name}, more than chance: "
            "of other hours, or of other servers"
        ]
    return [f"the files agree within chance: {low:.2f} ({low_name}) to {high:.2f} ({high_name}) tokens per draft"]


def coverage_checked(drafting: Sequence[Observation]) -> list[str]:
    """What to know of sources that tell apart shares of steps with a proposal, in sentences; nothing where they agree."""
    names = dict.fromkeys(one.source for one in drafting)
    sets = [(name, *_steps_with(one for one in drafting if one.source == name)) for name in names]
    found = sorted((drafts / steps, steps, name) for name, drafts, steps in sets if steps)
    if len(found) < 2:
        return []
    (low, low_steps, low_name), *_, (high, high_steps, high_name) = found
    error = math.sqrt(_ALIKE_STEPS * (low * (1 - low) / low_steps + high * (1 - min(high, 1.0)) / high_steps))
    if high - low <= max(_SURE * error, _COVERAGE_DIFFERS * high):
        return []
    return [
        f"the files DIFFER: drafts in {min(high, 1.0):.0%} of steps by {high_name}, in {low:.0%} by {low_name}, more than "
        "chance: of other hours, or of other servers"
    ]


def _steps_with(observations: Iterable[Observation]) -> tuple[float, float]:
    """(requests' steps with a proposal, all of them) of those that say both."""
    known = [(one.drafts.drafts, one.request_steps) for one in observations if one.drafts and one.request_steps]
    return sum(drafts for drafts, _ in known), sum(steps for _, steps in known)


def averages_differ(drafting: Sequence[Observation]) -> list[str]:
    """What to know of averages of the same server that are far apart, of which nobody says how many drafts each is of."""
    lengths = [one.length for one in drafting if one.length]
    if any(one.drafts is not None and one.drafts.drafts for one in drafting) or len(lengths) < 2:
        return []
    if max(lengths) - min(lengths) <= 0.1 * min(lengths):
        return []
    told = ", ".join(f"{length:.2f}" for length in lengths)
    return [f"the files' averages DIFFER ({told} tokens a draft): their mean is taken, for none says of how many it is"]


def measured_alike(points: Sequence[Point], step_tokens: float | None) -> list[str]:
    """What benchmarks with drafts and without say of the same load, in sentences: a step with drafts is no shorter than one
    without, so that nobody gains more than the tokens of a step."""
    said = []
    for one in sorted(points, key=lambda one: one.concurrency):
        plain = next((p for p in points if p.what == "none" and p.concurrency == one.concurrency), None)
        if one.what == "none" or plain is None or not plain.output_tok_s:
            continue
        times = one.output_tok_s / plain.output_tok_s
        both = f"{four_digits(one.output_tok_s)} tokens/s with drafts, {four_digits(plain.output_tok_s)} without"
        told = f"at concurrency {one.concurrency:g} {both}"
        if step_tokens is not None and times > _TOO_MUCH * step_tokens:
            told += f": {times:.1f} times, where a step gives {step_tokens:.2f}: the two were NOT measured alike"
        else:
            told += f": {times - 1:+.0%}"
        said.append(told)
    return said


def design(gamma: int, kind: str) -> npt.NDArray[np.float64]:
    """How many times as wide squared errors of tokens a draft of k = 1, …, γ are as independent rounds would have them where
    requests are not told apart, [γ].

    Of the bundled pair's drafters 2.0 to 2.6 at k = 1 and 7.7 to 9.6 at γ = 7, 5.2 of MTP-1; of look-up 1.4 to 3.4, 3.7 of a
    captured server of it.
    """
    return np.asarray((2 + 5.5 * np.arange(1, gamma + 1) / gamma) * (0.6 if one_hot(kind) else 1), np.float64)


def _error(drafts: Drafts, kind: str) -> float:
    """Standard error of tokens per draft, requests taken to differ."""
    mean = drafts.length - 1
    second = (
        sum((2 * k - 1) * share for k, share in enumerate(drafts.survival, 1)) if drafts.accepted_at else mean * (mean + 1)
    )
    return math.sqrt(float(design(1, kind)[-1]) * max(second - mean**2, 0.0) / drafts.drafts)
