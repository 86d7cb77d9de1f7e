"""The oracle against every choice there is, and against all other policies: what may be called a bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.published.synthesis import synthesize
from simulator.hardware.catalogue import find_profile
from simulator.hardware.cost import Longest, StepCost, StepLoad
from simulator.load import Users
from simulator.policies import PolicySpec, StepView, verify_lengths
from simulator.policies.oracle import Oracle
from simulator.setup import Setup
from simulator.simulation import Prepared, prepare, simulate, start
from tests.simulator.test_engine import plain_case, some_cost

GAMMA, CONTEXT = 3, 9


def decide(oracle: Oracle, load: StepLoad, useful: list[int]) -> tuple[int, list[int]]:
    """k and ℓ of one step, learnt from."""
    oracle.foresee(useful)
    k = oracle.draft(load, GAMMA)
    seen = [min(k, u) for u in useful]
    lengths = verify_lengths(oracle, StepView(oracle, [k] * len(useful), [()] * len(useful), [[]] * len(useful), seen, load))
    oracle.learn(lengths, lengths)
    return k, lengths


def choices(load: StepLoad, cost: StepCost, useful: list[int]) -> Iterator[tuple[int, float]]:
    """Tokens and seconds of every k and every ℓ that the target would accept whole."""
    for k in range(GAMMA + 1):
        for lengths in product(*(range(min(k, u) + 1) for u in useful)):
            yield load.decoding + sum(lengths), seconds(load, cost, k, lengths)


def seconds(load: StepLoad, cost: StepCost, k: int, lengths: tuple[int, ...] | list[int]) -> float:
    """What a step takes in truth; contexts are all of one length, so padding does not lengthen them."""
    return cost.step(load, k, sum(lengths), Longest(max(lengths), CONTEXT)).seconds


@given(st.integers(0, 2**32), st.lists(st.lists(st.integers(0, GAMMA), min_size=3, max_size=3), min_size=1, max_size=6))
@settings(deadline=None, max_examples=150)
@example(seed=802, steps=[[1, 3, 3], [0, 0, 0], [0, 3, 3]])
def test_no_choice_is_worth_more(seed: int, steps: list[list[int]]) -> None:
    """Tokens less seconds at the rate so far, among all ways to draft and verify; jagged costs, padded or not."""
    rng = np.random.default_rng(seed)
    cost = replace(some_cost(rng, 60, GAMMA, 3, -1), deciding_share=0.0)  # it reads no confidences, and pays for none
    prompts = int(rng.integers(0, 2)) * 5
    load = StepLoad(3, bool(prompts), 0, prompts, 40 * bool(prompts), 3 * CONTEXT)
    alone = StepLoad(3, context_tokens=3 * CONTEXT)
    oracle, tokens, spent_s = Oracle(cost), 0, 0.0
    for useful in steps:
        price = tokens / spent_s if spent_s else 0.0
        k, lengths = decide(oracle, load, useful)
        assert all(0 <= length <= min(k, u) for length, u in zip(lengths, useful, strict=True))
        mine = 3 + sum(lengths) - price * seconds(load, cost, k, lengths)
        assert mine == pytest.approx(max(n - price * s for n, s in choices(load, cost, useful)), abs=1e-9)
        tokens, spent_s = tokens + 3 + sum(lengths), spent_s + seconds(alone, cost, k, lengths)


def test_by_hand() -> None:
    """A pass of 1 s, .1 s for each token drafted: at 2 tokens a second (2 requests, 4 tokens in 2 s, say) a token drafted
    costs .2, and is drafted where either request keeps it; nothing is drafted where nothing is kept."""
    passes = np.ones(20)
    cost = StepCost(passes, passes, np.arange(4.0)[:, None] * np.full((1, 4), 0.1), np.zeros(4))
    load = StepLoad(2)
    oracle = Oracle(cost)
    assert decide(oracle, load, [0, 2]) == (3, [0, 2])  # seconds have no price yet
    assert decide(oracle, load, [0, 2]) == (2, [0, 2])
    assert decide(oracle, load, [1, 0]) == (1, [1, 0])
    assert decide(oracle, load, [0, 0]) == (0, [0, 0])


def test_what_it_verifies_is_kept_and_wanted() -> None:
    """Every token verified is committed, none beyond the end of a response."""
    rows, simulator = plain_case("oracle", count=40, lengths=[9, 4, 17], prompt_tokens=3, users=4).run()
    assert rows["verified"].sum() > 0
    assert rows["verified"].tolist() == rows["accepted"].tolist()
    assert simulator.state.totals["committed"][0] == rows["rounds"].sum() + rows["verified"].sum()


@cache
def recorded(drafter: str) -> Prepared:
    [trace] = [t for t in synthesize(0, responses_per_task=8, output_tokens=256) if t.drafter == drafter]
    return prepare(trace)


@pytest.mark.parametrize("users", [1, 64])
@pytest.mark.parametrize(("drafter", "policies"), [
    ("eagle3", ["none", "fixed:1", "fixed:2", "fixed:3", "fixed:7", "batch_adaptive"]),
    ("dspark", ["none", "fixed:3", "fixed:7", "prefix_scheduler", "lagged_scheduler:2"]),
])  # fmt: skip
def test_no_policy_is_faster(drafter: str, policies: list[str], users: int) -> None:
    """Paid by block or by token, at one user and where verifying is dear; benchmarks/oracle_grid.py has the whole grid."""

    def throughput(policy: str) -> float:
        setup = Setup(
            load=Users(users), policy=PolicySpec.parse(policy), profile=find_profile("h100/qwen3-4b"),
            weights={"chat": 1.0}, seconds=15.0,
        )  # fmt: skip
        return simulate(setup, recorded(drafter)).throughput.value

    assert throughput("oracle") > max(map(throughput, policies))


def test_it_knows_what_steps_really_take() -> None:
    """Whatever an engine believes: here the seconds of another GPU and model."""
    profile = find_profile("h100/qwen3-4b")
    wrong = find_profile("l40s/qwen3-8b")
    setup = Setup(load=Users(4), policy=PolicySpec("oracle"), profile=profile, believed=wrong)
    right = start(setup, recorded("dspark"), lambda rows: None).rule.believed
    assert right.verify_s.tolist() == setup.cost(recorded("dspark").trace).verify_s.tolist()
