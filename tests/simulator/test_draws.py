"""What is drawn for a decision's intervals: other prompts, and errors of the profile."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from simulator.decision import Draw
from simulator.draws import varied
from simulator.hardware.catalogue import find_profile
from simulator.hardware.profile import Errors, dump_profile, parse_profile
from simulator.load import Users
from simulator.policies import PolicySpec
from simulator.records import Anchors
from simulator.setup import Setup
from simulator.simulation import Prepared, prepare, redrawn
from simulator.traces import Trace, TracedResponse


def conversations(prompts: int, turns: int) -> Prepared:
    """Prompts of two tasks, each with so many turns."""
    anchors = Anchors(np.full(4, 2, np.uint8), np.ones(4, np.uint8), np.ones((4, 2), np.float32))
    responses = [
        TracedResponse("ab"[number % 2], "chat", f"p{number}", turn, 5) for number in range(prompts) for turn in range(turns)
    ]
    return prepare(Trace.join("mtp", [(response, anchors) for response in responses]))


def test_turns_of_a_prompt_are_drawn_together() -> None:
    """Answers to one prompt are alike: drawn one by one, intervals over prompts would come out too narrow."""
    recorded = conversations(20, 3)
    times = redrawn(recorded, np.random.default_rng(0)).times
    assert times is not None
    of_prompt: dict[str, set[int]] = {}
    of_task: Counter[str] = Counter()
    for response, count in zip(recorded.trace.responses, times.tolist(), strict=True):
        of_prompt.setdefault(response.prompt_id, set()).add(count)
        of_task[response.task] += count
    assert all(len(counts) == 1 for counts in of_prompt.values())
    assert {count for counts in of_prompt.values() for count in counts} > {0, 1, 2}
    assert of_task == {"a": 30, "b": 30}


def test_a_draw_has_the_errors_of_the_profile() -> None:
    """Its target passes are off by 20 % or so, its drafts by 10 %, each on its own; with the profile held, by nothing."""
    profile = replace(find_profile("h100/qwen3-4b"), errors=Errors(0.2, 0.1, 0.3))
    recorded, policy = conversations(4, 1), PolicySpec.fixed(2)
    setup = Setup(load=Users(4), policy=policy, profile=profile, seconds=10)
    assert varied(setup, recorded, Draw(0, off=False))[0].profile == profile
    drawn = [varied(setup, recorded, Draw(number, off=True))[0].profile for number in range(400)]
    off = np.array(
        [
            (
                math.log(other.verify.seconds[0] / profile.verify.seconds[0]),
                math.log(other.draft["mtp"].requests[0].seconds[0] / profile.draft["mtp"].requests[0].seconds[0]),
                math.log(other.overhead_s / profile.overhead_s),
            )
            for other in drawn
        ]
    )
    assert off.std(0).tolist() == pytest.approx([0.2, 0.1, 0.3], rel=0.15)
    assert np.abs(np.corrcoef(off.T)[np.triu_indices(3, 1)]).max() < 0.2


def test_errors_that_hang_together_are_drawn_together() -> None:
    """Correlations of a thousand draws are those of the errors; a profile without any is written as it always was."""
    errors = Errors(0.2, 0.1, 0.3, (0.4, -0.7, 0.1))
    rng = np.random.default_rng(3)
    off = np.log([errors.factors(rng) for _ in range(4000)])
    assert off.std(0) == pytest.approx([0.2, 0.1, 0.3], rel=0.05)
    assert np.corrcoef(off.T)[np.triu_indices(3, 1)] == pytest.approx([0.4, -0.7, 0.1], abs=0.04)
    profile = replace(find_profile("h100/qwen3-4b"), errors=errors)
    assert parse_profile(dump_profile(profile)) == profile
    assert "correlation" not in dump_profile(replace(profile, errors=Errors(0.2, 0.1, 0.3)))


@pytest.mark.parametrize("correlation", [(0.5,), (1.0, 0.0, 0.0), (0.9, 0.9, -0.9), (float("nan"), 0.0, 0.0)])
def test_errors_that_cannot_hang_together_are_refused(correlation: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="correlation"):
        Errors(0.2, 0.1, 0.3, correlation)
