"""Runs as comparisons see them, drawn from a known law: no model, no database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from results.baseline import FORMAT, Answer, Baseline, BaselineRecording, Declared, Prompt, RunKey
from results.change import judged
from results.comparison import Comparison, compare_sums

TASKS = {"gsm8k": "math", "humaneval": "code"}
KEY = RunKey("sums", "9a4f0c", {"hash": "a"}, {"temperature": 1.0}, 0, "dense", None)

Means = Mapping[str, npt.NDArray[np.float64]]
"""Task → accepted length of each prompt, its mean over the drafter's own chance."""


def prompts(rng: np.random.Generator, number: int, *, spread: float = 0.25) -> Means:
    """Prompts that are hard or easy: accepted lengths 1.5 plus a log-normal of median 1.5 or 2.5."""
    return {task: 1.5 + (1.5 + i) * rng.lognormal(0, spread, number) for i, task in enumerate(TASKS)}


def drawn(
    rng: np.random.Generator, means: Means, *, loss: float = 0.0, drafters: Sequence[str] = ("dspark",), suite: str = "a"
) -> Baseline:
    """A run of these prompts: 10 to 60 rounds each, that commit 1 + Poisson tokens; all of them fewer by `loss`.

    Suites of different names share no prompt.
    """
    known, answers = {}, {}
    for task, lengths in means.items():
        rounds = rng.integers(10, 60, len(lengths))
        accepted = rng.poisson(rounds * (lengths * (1 - loss) - 1))
        for i, (n, more) in enumerate(zip(rounds.tolist(), accepted.tolist(), strict=True)):
            name = f"{task}/{i}"
            known[name] = Prompt(task, TASKS[task], suite + name)
            answers[name] = Answer(n + more, n)
    recordings = tuple(BaselineRecording(drafter, 7, "sampled", answers) for drafter in drafters)
    return Baseline(FORMAT, KEY, {d: Declared(d, None) for d in drafters}, known, recordings)


def compared(first: Baseline, second: Baseline) -> Comparison:
    """As `compare` does, without speeds and simulations."""
    return Comparison("a", "b", (), (), tuple(judged(compare_sums(first, second))))
