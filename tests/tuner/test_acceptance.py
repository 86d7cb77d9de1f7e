"""Acceptance for benches, against what is known of it."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from simulator.errors import InputError
from simulator.records import Anchors
from simulator.traces import Trace, TracedResponse
from tests.tuner.configurations import configuration
from tests.tuner.exports import STUDY, models
from tuner.acceptance import answers_of, drafted, golden_yaml, synthetic_fields

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
    assert trace.kept_by_position(GAMMA) == pytest.approx(ALPHA ** np.arange(1, GAMMA + 1), abs=0.01)
    lengths = msgspec.yaml.decode(golden_yaml(trace, "mtp", "a-model", "1 request", thinking=False))["a-model"][
        "thinking_off"
    ]
    for k in range(1, GAMMA + 1):
        assert lengths[k] == pytest.approx((1 - ALPHA ** (k + 1)) / (1 - ALPHA), abs=0.03)


def test_vllm_takes_rates_that_do_not_rise(trace: Trace) -> None:
    fields = synthetic_fields(trace, 3)
    rates = fields["synthetic_acceptance_rates"]
    assert isinstance(rates, list)
    assert len(rates) == fields["num_speculative_tokens"] == 3
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    ("policy", "rows", "said"),
    [
        ("fixed:3", None, ""),
        ("k_by_batch:8=4/32=3/64=0", [[1, 8, 4], [9, 32, 3], [33, 64, 0]], ""),
        ("prefix_scheduler", None, "which was not decided"),
    ],
)
def test_a_bench_drafts_as_was_decided(policy: str, rows: list[list[int]] | None, said: str) -> None:
    own, notes = drafted(STUDY, models("eagle3", "eagle3", 0.7), configuration("eagle3", 4, policy))
    assert own["num_speculative_tokens"] == (3 if policy == "fixed:3" else 4)
    found = own.get("num_speculative_tokens_per_batch_size")
    assert (found and [list(row) for row in found]) == rows
    assert said in " ".join(notes)
    assert bool(said) == bool(notes)


def test_a_look_up_has_no_rates_for_a_bench() -> None:
    """It drafts in some steps alone, where a text repeats itself: rates of all steps would count that twice."""
    with pytest.raises(InputError, match="ngram drafts where a text repeats itself, as a bench's does not"):
        drafted(STUDY, models("ngram", "ngram", 0.7), configuration("ngram", 4, "fixed:3"))


def test_what_a_drafter_is_sure_of_is_nothing_in_a_bench() -> None:
    own, notes = drafted(STUDY, models("dspark", "dspark", 0.7), configuration("dspark", 7, "vllm_adaptive", "calibrated"))
    assert own == {"num_speculative_tokens": 7}
    assert "enable_adaptive_verification is left out" in " ".join(notes)


@pytest.mark.parametrize(
    ("source", "plan", "said"),
    [
        ("bundled", {}, "1 recorded response"),
        ("synthesised", {}, "1 synthesised response"),
        ("served", {"averaged": False}, "1 request, estimated from served rounds"),
        ("served", {"averaged": True}, "averages, estimated from served rounds"),
    ],
)
def test_what_acceptance_is_of_is_said(source: str, plan: dict[str, object], said: str, trace: Trace) -> None:
    assert answers_of({"prompt_source": source, "plan": plan}, trace) == said


def test_of_a_block_only_what_was_recorded(trace: Trace) -> None:
    """Shorter blocks have other drafts."""
    text = golden_yaml(trace, "dspark", "a-model", "1 request", thinking=True)
    assert list(msgspec.yaml.decode(text)["a-model"]["thinking_on"]) == [GAMMA]
