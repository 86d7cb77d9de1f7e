"""Acceptance as it is stated elsewhere: what the numbers mean, which are refused, and traces that have them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.averages import Averages, ambiguous, numbers, trace_of
from simulator.errors import InputError
from simulator.policies import Fixed
from simulator.replay import replay

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def test_one_drafter_in_three_conventions() -> None:
    """By hand: .72, .72 · .75, .72 · .75 · .5; 1 + .72 + .54 + .27 = 2.53."""
    survival = Averages((0.72, 0.54, 0.27))
    assert Averages.of_conditional([0.72, 0.75, 0.5]).survival == pytest.approx(survival.survival)
    assert survival.conditional == pytest.approx((0.72, 0.75, 0.5))
    assert survival.accepted_length == pytest.approx(2.53)


@given(SHARES)
def test_conditional_and_back(shares: list[float]) -> None:
    there = Averages.of_conditional(shares)
    alive = np.cumprod([1.0, *shares])[:-1] > 1e-12
    assert np.asarray(there.conditional)[alive] == pytest.approx(np.asarray(shares)[alive])


@given(st.integers(1, 16), st.floats(0, 1))
def test_an_accepted_length_is_met(gamma: int, part: float) -> None:
    tokens = 1 + part * gamma
    found = Averages.of_accepted_length(tokens, gamma)
    assert found.accepted_length == pytest.approx(tokens, abs=1e-9)
    assert found.conditional == pytest.approx([found.conditional[0]] * gamma, abs=1e-6)


@pytest.mark.parametrize("wrong", [(), (0.5, 0.6), (1.1,), (-0.1,), (float("nan"),), (0.5,) * 65])
def test_what_cannot_be_a_survival(wrong: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="position"):
        Averages(wrong)


@pytest.mark.parametrize(("tokens", "gamma"), [(0.9, 3), (4.1, 3), (float("nan"), 3), (2.0, 0)])
def test_what_cannot_be_an_accepted_length(tokens: float, gamma: int) -> None:
    with pytest.raises(ValueError, match="γ"):
        Averages.of_accepted_length(tokens, gamma)


def test_numbers_that_could_be_either_are_told_in_both_readings() -> None:
    """τ by hand: 1 + .72 + .53 + .38, and 1 + .72 + .72 · .53 + .72 · .53 · .38."""
    said = str(ambiguous(".72,.53,.38"))
    assert "--survival .72,.53,.38" in said
    assert "2.63" in said
    assert "--conditional .72,.53,.38" in said
    assert "2.25" in said
    assert "--survival" not in str(ambiguous(".5,.6"))


def test_shares_in_per_cent() -> None:
    assert numbers("72%, 53%,.38") == pytest.approx((0.72, 0.53, 0.38))
    with pytest.raises(ValueError, match="no number"):
        numbers(".72;.53")


def test_a_trace_has_its_averages_and_replays_to_them() -> None:
    """The replay visits a part of the anchors: τ is right within the noise of independent rounds."""
    averages = {"math": Averages((0.9, 0.7, 0.6)), "chat": Averages((0.5, 0.2, 0.1))}
    trace = trace_of("eagle3", averages, np.random.default_rng(0), responses=40, tokens=256, prompt_tokens=100)
    domains = np.repeat([r.domain for r in trace.responses], np.diff(trace.offsets))
    for domain, own in averages.items():
        mine = trace.anchors.accepted[domains == domain]
        for k, share in enumerate(own.survival, 1):
            assert abs((mine >= k).mean() - share) <= 1 / len(mine)
        rounds = [r for response, a in trace if response.domain == domain for r in replay(a, Fixed(3))]
        lengths = np.array([r.accepted + 1 for r in rounds])
        assert abs(lengths.mean() - own.accepted_length) < 4 * lengths.std() / np.sqrt(len(lengths))


def test_domains_of_several_lengths_are_refused() -> None:
    averages = {"math": Averages((0.9, 0.7)), "chat": Averages((0.5,))}
    with pytest.raises(InputError, match="as many positions"):
        trace_of("eagle3", averages, np.random.default_rng(0), responses=1, tokens=9, prompt_tokens=1)


@pytest.mark.parametrize("survival", [(0.11, 0.09, 0.06, 0.05, 0.03), (0.9, 0.8, 0.7, 0.6, 0.5), (0.0, 0.0), (1.0, 1.0)])
def test_a_look_up_drafts_in_some_steps_alone(survival: tuple[float, ...]) -> None:
    """Its averages are of all steps; what is not drafted is not verified."""
    own = Averages(survival)
    trace = trace_of(
        "ngram", {"chat": own}, np.random.default_rng(0), responses=40, tokens=256, prompt_tokens=100, look_up=True
    )
    anchors = trace.anchors
    for k, share in enumerate(survival, 1):
        assert abs((anchors.accepted >= k).mean() - share) <= 1 / len(anchors)
    assert (anchors.drafted > 0).mean() == pytest.approx(own.looked_up, abs=1 / len(anchors))
    assert set(anchors.drafted.tolist()) <= {0, own.gamma}
    there = anchors.drafted > 0
    assert not anchors.accept_prob[~there].any()
    if there.any():
        assert anchors.accept_prob[there, 0] == pytest.approx(survival[0] / own.looked_up)


def test_how_often_a_look_up_finds_something_is_about_as_captured() -> None:
    """vLLM's n-gram server of the captures: 1.33 tokens a step, drafts in 148 of 1,341 steps."""
    found = Averages.of_look_up(1.33, 5)
    assert found.accepted_length == pytest.approx(1.33)
    assert 0.11 < found.looked_up < 0.17
    assert Averages.of_look_up(3.5, 5).looked_up == 1.0
    assert Averages.of_look_up(3.5, 5).accepted_length == pytest.approx(3.5)
    assert Averages.of_look_up(1.0, 5).looked_up == 0.0
