"""What a decision says of the promise: how surely it is kept, what would help, and whether the machine is enough."""

from __future__ import annotations

import re

import msgspec
import numpy as np
import pytest

from results.report.headline import from_decision
from simulator.decision import Decision, Range, Rival, choose, decide
from simulator.load import Users
from simulator.sentences import sentences, told
from simulator.serving.vllm import VLLM
from tests.simulator.test_decision import DRAWS, DSPARK, NOTHING, STUB, sampled, simulated


def unsure_decision() -> Decision:
    """A promise that is kept in two of three draws."""
    choice = choose([simulated(NOTHING, "none", 100), simulated(DSPARK, "fixed:7", 150)], VLLM)
    assert not isinstance(choice, str)
    values = np.full(len(DRAWS), 150.0)
    unsure = sampled(values)
    unsure.kept[: len(DRAWS) // 3] = [False] * (len(DRAWS) // 3)
    decision = decide(STUB, choice, {choice.run: unsure, choice.none: sampled(values)}, DRAWS, VLLM)
    assert not isinstance(decision, str)
    return decision


def test_who_waits_for_a_place_is_told_what_helps() -> None:
    """With a cap of 8, 64 users are 8 at a time: fewer users would change nothing."""
    found = [simulated(NOTHING, "none", 100, cap=8), simulated(DSPARK, "fixed:7", 150, cap=8)]
    choice = choose(found, VLLM)
    assert not isinstance(choice, str)
    values = np.full(len(DRAWS), 150.0)
    unsure = sampled(values)
    unsure.kept[: len(DRAWS) // 3] = [False] * (len(DRAWS) // 3)
    decision = decide(
        msgspec.structs.replace(STUB, load=Users(64)),
        choice,
        {choice.run: unsure, choice.none: sampled(values)},
        DRAWS,
        VLLM,
    )
    said = " ".join(sentences(decision))
    assert "56 of the 64 users wait" in said
    brief = sentences(decision, brief=True)
    assert "56 of the 64 users wait" in " ".join(brief)
    assert not any(line.startswith(("Traffic", "The next best", "To be surer")) for line in brief)
    assert "smaller load" not in said
    told = from_decision(decision)  # the page sets gains out, and tells everything else
    assert len(told.gains) == 1
    assert not any("over no speculation" in fact for fact in told.facts)
    assert [told.headline, *told.facts] == [s for s in sentences(decision) if "over no speculation" not in s]


@pytest.mark.parametrize(
    ("holds", "safer"),
    [
        (None, "a smaller load, or a weaker promise"),
        (Range(1.4, 0.68, 2.3), "0.68 × this load, or a weaker promise"),
        (Range(1.4, 0.0, 2.3), "no load keeps it, and only a weaker promise"),
    ],
)
def test_how_much_smaller_a_load_is_safe(holds: Range | None, safer: str) -> None:
    """The lower end of what is held over the draws, where there is one; where some draws hold nothing, no load is."""
    decision = unsure_decision()
    said = " ".join(sentences(msgspec.structs.replace(decision, holds=holds)))
    assert safer in said
    assert ("1.4 × this load" in said) == (holds is not None)


@pytest.mark.parametrize(
    ("holds", "told"),
    [
        (Range(2.2, 1.6, 3.1), "up to 2.2 × this load within the promise (95 %: 1.6 × to 3.1 ×)"),
        (Range(64, 40, 64), "64 × or more this load within the promise (95 %: 40 × to 64 × or more)"),
        (Range(64, 64, 64), "64 × this load within the promise or more, in all the draws"),
    ],
)
def test_how_much_of_a_load_is_held_is_told_as_far_as_it_was_tried(holds: Range, told: str) -> None:
    choice = choose([simulated(NOTHING, "none", 100), simulated(DSPARK, "fixed:7", 150)], VLLM)
    assert not isinstance(choice, str)
    sure = sampled(np.full(len(DRAWS), 150.0))
    decision = decide(STUB, choice, {choice.run: sure, choice.none: sure}, DRAWS, VLLM)
    [line] = [line for line in sentences(msgspec.structs.replace(decision, holds=holds)) if "enough" in line]
    assert told in line


@pytest.mark.parametrize(("sure", "named"), [(0.9, True), (0.68, False), (None, False)])
def test_a_layout_that_keeps_the_promise_surer_is_safer(sure: float | None, named: bool) -> None:
    """By more than draws are off; where it says to run nothing, it is no way out."""
    decision = unsure_decision()
    for reason in ("", "no bound is kept"):
        rival = Rival(sweep="s", gpus=1, replicas=2, run="dspark γ=7 fixed:7", reason=reason, sure=sure)
        said = " ".join(sentences(msgspec.structs.replace(decision, rivals=[rival])))
        assert (f"{rival.layout} instead, told below, keep it in 90%; a smaller load" in said) == (named and not reason)


def test_what_another_layout_would_run_has_its_command() -> None:
    """On the terminal on lines of its own, to be copied; in the report too; where it says to run nothing there is none."""
    rival = Rival(sweep="s", gpus=1, replicas=2, run="dspark γ=7 fixed:7", command="vllm serve M \\\n  --max-num-seqs 64")
    decision = msgspec.structs.replace(unsure_decision(), rivals=[rival])
    lines = told(decision)
    at = lines.index("2 replicas on 1 GPU each would be served so, each of them:")
    assert lines[at + 1 : at + 3] == ["  vllm serve M \\", "    --max-num-seqs 64"]
    assert from_decision(decision).beside == [(lines[at], rival.command)]
    both = msgspec.structs.replace(rival, command="vllm serve M --data-parallel-size 2")  # one command starts both
    assert "2 replicas on 1 GPU each would be served so:" in told(msgspec.structs.replace(decision, rivals=[both]))
    other = msgspec.structs.replace(decision, rivals=[msgspec.structs.replace(rival, reason="no bound is kept")])
    assert "vllm serve M \\" not in " ".join(told(other))


@pytest.mark.parametrize(
    ("holds", "replicas", "verdict", "needed"),
    [
        (Range(1.4, 1.0, 2.3), 1, "1 replica on 1 GPU is enough", ""),
        (Range(1.4, 0.45, 2.3), 1, "may be enough", "3 replicas"),
        (Range(1.4, 0.68, 2.3), 2, "may be enough", "3 replicas"),
        (Range(1.4, 0.0, 2.3), 1, "may be enough", ""),
        (Range(0.9, 0.5, 2.3), 2, "2 replicas on 1 GPU each are not enough", ""),
    ],
)
def test_whether_the_machine_is_enough(holds: Range, replicas: int, verdict: str, needed: str) -> None:
    """It is where all of the interval holds the load; where a part of it does not, how many replicas do at the lower end."""
    choice = choose([simulated(NOTHING, "none", 100), simulated(DSPARK, "fixed:7", 150)], VLLM)
    assert not isinstance(choice, str)
    sure = sampled(np.full(len(DRAWS), 150.0))
    decision = decide(STUB, choice, {choice.run: sure, choice.none: sure}, DRAWS, VLLM)
    said = sentences(msgspec.structs.replace(decision, holds=holds, replicas=replicas, gpus=1))
    [line] = [line for line in said if "enough" in line]
    assert verdict in line
    assert re.findall(r"(\d+ replicas?) would", line) == ([needed] if needed else [])
