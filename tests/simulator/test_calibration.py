"""Calibration against plain references and known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.calibration import calibrated, expected_calibration_error, fit_temperatures, quality, roc_auc, survival


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
    assert survival([[0.5, 0.5, 0.0]]).tolist() == [[0.5, 0.25, 0.0]]


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
