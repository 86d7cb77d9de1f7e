"""Calibration against plain references and known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.confidence import (
    calibrated,
    estimated,
    expected_calibration_error,
    fit_estimates,
    fit_temperatures,
    products,
    quality,
    roc_auc,
)
from simulator.records import Anchors
from simulator.traces import Trace, TracedResponse


def drawn(temperatures: list[float], anchors: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences whose logits are too large by these factors, and acceptances that follow the true ones."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.8, 1.2, (anchors, len(temperatures)))
    accepted = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).cumprod(1).sum(1)
    return 1 / (1 + np.exp(-logits * temperatures)), accepted


def test_temperatures_are_found_again() -> None:
    true = [1.8, 1.0, 2.5]
    confidence, accepted = drawn(true, 60_000, 0)
    assert fit_temperatures(confidence, accepted) == pytest.approx(true, rel=0.15)


def test_calibration_helps_on_what_it_was_not_fitted_on() -> None:
    temperatures = fit_temperatures(*drawn([2.5] * 4, 20_000, 1))
    confidence, accepted = drawn([2.5] * 4, 20_000, 2)
    before, after = quality(confidence, accepted), quality(calibrated(confidence, temperatures), accepted)
    for one, other in zip(before, after, strict=True):
        assert one.ece > 0.04
        assert other.ece < 0.015
        assert other.brier < one.brier


def test_scaling_is_of_the_logit_and_keeps_certainty() -> None:
    assert calibrated([0.8], [1.0]) == pytest.approx([0.8])
    assert calibrated([0.8], [2.0]) == pytest.approx([1 / (1 + 4**-0.5)])
    assert calibrated([[0.0, 1.0]], [3.0, 0.5]).tolist() == [[0.0, 1.0]]
    assert products([[0.5, 0.5, 0.0]]).tolist() == [[0.5, 0.25, 0.0]]


WEIGHTS = np.array([[0.5, 0.6], [-0.4, 1.2], [1.0, 0.3]])


def certain(anchors: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Certainties, acceptances and their probabilities, which follow WEIGHTS on average and vary as β does."""
    rng = np.random.default_rng(seed)
    certainty = 1 / (1 + np.exp(-rng.normal(1, 1.5, (anchors, len(WEIGHTS)))))
    mean = estimated(certainty, WEIGHTS)
    beta = np.where(rng.random(mean.shape) < 0.5, mean, rng.random(mean.shape) < mean)
    return certainty, (rng.random(beta.shape) < beta).cumprod(1).sum(1), beta


def test_weights_of_estimates_are_found_again() -> None:
    certainty, accepted, beta = certain(40_000, 0)
    assert fit_estimates(certainty, accepted, beta) == pytest.approx(WEIGHTS, abs=0.1)
    tossed = accepted[:, None] > np.arange(len(WEIGHTS))
    assert fit_estimates(certainty, accepted, tossed) == pytest.approx(WEIGHTS, abs=0.1)
    # Positions after a rejection say nothing: whatever stands there must not matter.
    unreached = accepted[:, None] < np.arange(len(WEIGHTS))
    other = fit_estimates(np.where(unreached, 0.5, certainty), accepted, np.where(unreached, 1.0, beta))
    np.testing.assert_array_equal(other, fit_estimates(certainty, accepted, beta))


def test_estimates_hold_on_what_they_were_not_fitted_on() -> None:
    weights = fit_estimates(*certain(20_000, 1))
    certainty, accepted, _ = certain(20_000, 2)
    for raw, own in zip(quality(certainty, accepted), quality(estimated(certainty, weights), accepted), strict=True):
        assert own.ece < 0.015 < raw.ece
        assert own.brier < raw.brier


def test_weights_stay_finite_where_little_is_known() -> None:
    none = fit_estimates(np.full((4, 2), 0.9), [0, 0, 0, 0], np.zeros((4, 2)))
    assert none[1].tolist() == [0, 1]  # nobody came that far: the certainty itself
    assert estimated([[0.5, 0.25]], [[0, 1], [0, 1]]) == pytest.approx(np.array([[0.5, 0.25]]))
    split = fit_estimates([[1.0], [1.0], [0.0], [1e-9]], [1, 1, 0, 0], [[1.0], [1.0], [0.0], [0.0]])
    assert np.isfinite(split).all()
    with np.errstate(all="raise"):
        assert 0 < estimated([[0.0]], split).item() < 0.5 < estimated([[1.0]], split).item() <= 1


def test_a_trace_keeps_its_certainties_and_takes_estimates_of_them() -> None:
    certainty, accepted, beta = (x.astype(t) for x, t in zip(certain(9, 3), ("f4", "u1", "f4"), strict=True))
    whole = Anchors(np.full(9, 3, np.uint8), accepted, beta, certainty=certainty)
    names = [TracedResponse("t", "d", f"p{i}", 0, 1) for i in range(2)]
    one = Trace("eagle3", tuple(names), np.array([0, 4, 9]), whole)
    second = one.select([False, True])
    np.testing.assert_array_equal(second.anchors.certainty, certainty[4:])
    assert second.anchors.confidence is None
    np.testing.assert_array_equal(second.estimated(WEIGHTS).anchors.confidence, estimated(certainty[4:], WEIGHTS))
    bare = Trace.join("ngram", [(names[0], Anchors(whole.drafted, accepted, beta))])
    with pytest.raises(ValueError, match="trace of ngram: has no certainties"):
        bare.estimated(WEIGHTS)


def test_errors_by_hand() -> None:
    assert expected_calibration_error([0.9, 0.9, 0.1, 0.1], [1, 0, 0, 0]) == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    assert expected_calibration_error([1.0, 0.0], [1, 0]) == 0
    [one] = quality([[0.8], [0.6]], [1, 0])
    assert (one.anchors, one.observed, one.auc) == (2, 0.5, 1.0)
    assert one.brier == pytest.approx((0.04 + 0.36) / 2)
    assert roc_auc([0.1, 0.2], [1, 1]) is None


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40))
def test_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]) -> None:
    high, low = [p for p, y in pairs if y], [p for p, y in pairs if not y]
    found = roc_auc([p for p, _ in pairs], [y for _, y in pairs])
    if not high or not low:
        assert found is None
        return
    wins = sum((h > w) + 0.5 * (h == w) for h in high for w in low)
    assert found == pytest.approx(wins / (len(high) * len(low)))
