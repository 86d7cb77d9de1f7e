"""Acceptance for benches, against what is known of it."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from simulator.records import Anchors
from simulator.traces import Trace, TracedResponse
from tuner.acceptance import golden_yaml, kept_by_position, synthetic_fields

ALPHA, GAMMA = 0.7, 4


@pytest.fixture(scope="module")
def trace() -> Trace:
    """Every token accepted with the same probability, whatever came before."""
    n, rng = 40_000, np.random.default_rng(0)
    accepted = np.minimum(rng.geometric(1 - ALPHA, n) - 1, GAMMA).astype(np.uint8)
    anchors = Anchors(np.full(n, GAMMA, np.uint8), accepted, np.full((n, GAMMA), ALPHA, np.float32))
    return Trace.join("mtp", [(TracedResponse("t", "d", "t/0", 0, 5), anchors)])


def test_of_independent_acceptance_it_falls_by_the_same_factor(trace: Trace) -> None:
    """The length is (1 − α^(k + 1)) / (1 − α), Leviathan et al. 2023."""
    assert kept_by_position(trace, GAMMA) == pytest.approx(ALPHA ** np.arange(1, GAMMA + 1), abs=0.01)
    lengths = msgspec.yaml.decode(golden_yaml(trace, "mtp", "a-model", thinking=False))["a-model"]["thinking_off"]
    for k in range(1, GAMMA + 1):
        assert lengths[k] == pytest.approx((1 - ALPHA ** (k + 1)) / (1 - ALPHA), abs=0.03)


def test_vllm_takes_rates_that_do_not_rise(trace: Trace) -> None:
    fields = synthetic_fields(trace, 3)
    rates = fields["synthetic_acceptance_rates"]
    assert isinstance(rates, list)
    assert len(rates) == fields["num_speculative_tokens"] == 3
    assert rates == sorted(rates, reverse=True)


def test_of_a_block_only_what_was_recorded(trace: Trace) -> None:
    """Shorter blocks have other drafts."""
    text = golden_yaml(trace, "dspark", "a-model", thinking=True)
    assert list(msgspec.yaml.decode(text)["a-model"]["thinking_on"]) == [GAMMA]
