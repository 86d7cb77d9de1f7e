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
from simulator.hardware.whatif import perturbed
from simulator.load import Users
from simulator.policies import PolicySpec
from simulator.records import Anchors
from simulator.setup import Setup
from simulator.simulation import Prepared, prepare, redrawn
from simulator.traces import Trace, TracedResponse, strata


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
    assert len({count for counts in of_prompt.values() for count in counts}) > 2
    assert of_task["a"] == of_task["b"] > 0


@pytest.mark.parametrize("prompts", [4, 6, 14, 80])
def test_the_spread_over_draws_is_the_standard_error(prompts: int) -> None:
    """Also of few prompts: of a mean over two tasks of n/2 each, √(s₁² + s₂²) / √n by the textbook."""
    recorded = conversations(prompts, 1)
    values = np.random.default_rng(1).normal(size=prompts)
    rng, means = np.random.default_rng(2), []
    for _ in range(4000):
        times = redrawn(recorded, rng).times
        assert times is not None
        means.append(float(times @ values / times.sum()))
    of_task = np.array([values[0::2].var(ddof=1), values[1::2].var(ddof=1)])
    assert np.std(means) == pytest.approx(math.sqrt(float((of_task / (prompts / 2)).sum()) / 4), rel=0.06)


def test_tasks_of_a_single_prompt_are_drawn_together() -> None:
    anchors = Anchors(np.full(4, 2, np.uint8), np.ones(4, np.uint8), np.ones((4, 2), np.float32))

    def of(*tasks: tuple[str, str, int]) -> list[list[str]]:
        made = [TracedResponse(task, domain, f"{task}{i}", 0, 5) for task, domain, n in tasks for i in range(n)]
        return strata(Trace.join("mtp", [(response, anchors) for response in made]))

    assert of(("a", "x", 2), ("b", "x", 3)) == [["a0", "a1"], ["b0", "b1", "b2"]]
    assert of(("a", "x", 1), ("b", "x", 1), ("c", "x", 2)) == [["c0", "c1"], ["a0", "b0"]]
    assert of(("a", "x", 1), ("b", "x", 3), ("c", "x", 2)) == [["b0", "b1", "b2"], ["a0", "c0", "c1"]]
    assert of(("a", "x", 1), ("b", "y", 1)) == [["a0"], ["b0"]]


def test_a_roofline_is_unsure_where_arithmetic_begins_to_count() -> None:
    """Small passes are off by the bandwidth's error, large ones by the peak's, each by itself; nothing falls with tokens."""
    profile = find_profile("h100/qwen3-4b")
    rng = np.random.default_rng(0)
    drawn = [perturbed(profile, rng)[0] for _ in range(300)]
    small, large = (
        np.log([one.verify.at(n) / profile.verify.at(n) for one in drawn]) for n in (1, 16384)
    )  # fmt: skip
    assert [small.std(), large.std()] == pytest.approx([0.3, 0.3], rel=0.15)
    assert abs(np.corrcoef(small, large)[0, 1]) < 0.15
    assert all((np.diff(one.verify.seconds) >= 0).all() for one in drawn)
    ratios = np.log([float(one.verify.at(512) / one.verify.at(1)) for one in drawn])
    assert np.ptp(ratios) > 0.5  # where a block pays is what a common factor leaves alone
    kinds = [[one.draft[k].requests[0].seconds[0] / profile.draft[k].requests[0].seconds[0] for k in ("eagle3", "dspark")]
             for one in drawn]  # fmt: skip
    logs = np.log(kinds)
    assert logs.std(0) == pytest.approx([0.3, 0.3], rel=0.2)
    assert np.corrcoef(logs.T)[0, 1] == pytest.approx(0.5, abs=0.15)
    assert perturbed(profile, np.random.default_rng(5)) == perturbed(profile, np.random.default_rng(5))


def test_a_measured_profile_is_off_as_a_whole() -> None:
    profile = replace(find_profile("h100/qwen3-4b"), source="measured")
    other, _ = perturbed(profile, np.random.default_rng(0))
    assert np.ptp(np.array(other.verify.seconds) / np.array(profile.verify.seconds)) < 1e-9


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
