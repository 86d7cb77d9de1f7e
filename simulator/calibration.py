"""Sequential temperature scaling of confidences, and how good confidences are: ECE, ROC-AUC, Brier score.

What is calibrated is the survival s_k = c_1···c_k, the estimate of P(a ≥ k) that schedulers rank by. After the DSpark
paper (2026), section 3.2: left to right over positions, one temperature each, by grid search for the smallest expected
calibration error of s_k with the earlier temperatures fixed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

BINS = 20
"""Equal bins of the survival in an expected calibration error."""
GRID = np.exp(np.linspace(np.log(0.2), np.log(5.0), 129))
"""Temperatures tried; the middle one is 1."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How well survivals s_k predict a ≥ k, at one position."""

    anchors: int
    observed: float
    """Share of anchors with a ≥ k."""
    ece: float
    """Expected calibration error, in [0, 1]."""
    auc: float | None
    """Area under the ROC curve; None where all anchors ended alike."""
    brier: float
    """Mean squared error."""


def calibrated(confidence: npt.ArrayLike, temperatures: npt.ArrayLike) -> Floats:
    """σ(logit(c_k) / T_k): confidences [..., γ] under temperatures [γ]."""
    c = np.asarray(confidence, np.float64)
    with np.errstate(divide="ignore"):  # c = 0 and c = 1 stay what they are
        logit = np.log(c) - np.log1p(-c)
        return (1 / (1 + np.exp(-logit / np.asarray(temperatures, np.float64)))).astype(np.float32)


def survival(confidence: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """s_k [..., γ] from c_k [..., γ]."""
    return np.asarray(np.cumprod(np.asarray(confidence, np.float64), -1))


def fit_temperatures(confidence: npt.ArrayLike, accepted: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """T_1..T_γ from confidences [A, γ] and accepted counts [A] of anchors that nothing is evaluated on."""
    c, a = np.asarray(confidence, np.float64), np.asarray(accepted)
    before = np.ones(len(c))
    temperatures = np.ones(c.shape[1])
    for k in range(c.shape[1]):
        kept = a > k
        tried = [before * calibrated(c[:, k], t) for t in GRID]
        errors = np.array([expected_calibration_error(s, kept) for s in tried])
        # Of equally good temperatures the one that changes least.
        best = min(np.flatnonzero(errors <= errors.min() + 1e-12), key=lambda i: abs(np.log(GRID[i])))
        temperatures[k], before = GRID[best], tried[best]
    return temperatures


def expected_calibration_error(predicted: npt.ArrayLike, happened: npt.ArrayLike) -> float:
    """Σ over bins of their share × |mean prediction − observed frequency| (Naeini et al., AAAI 2015)."""
    p, y = np.asarray(predicted, np.float64), np.asarray(happened, np.float64)
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    return float(np.abs(np.bincount(bins, p - y, minlength=BINS)).sum() / len(p))


def roc_auc(predicted: npt.ArrayLike, happened: npt.ArrayLike) -> float | None:
    """P(a prediction where it happened is above one where it did not), ties counting half; None if one kind is missing."""
    p, y = np.asarray(predicted, np.float64), np.asarray(happened, bool)
    if y.all() or not y.any():
        return None
    _, place, count = np.unique(p, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    positives = int(y.sum())
    return float((rank[y].sum() - positives * (positives + 1) / 2) / (positives * (len(y) - positives)))


def quality(confidence: npt.ArrayLike, accepted: npt.ArrayLike) -> list[Quality]:
    """Quality at every position, from confidences [A, γ] and accepted counts [A]."""
    s, a = survival(confidence), np.asarray(accepted)
    result = []
    for k in range(s.shape[1]):
        kept = a > k
        ece, auc = expected_calibration_error(s[:, k], kept), roc_auc(s[:, k], kept)
        brier = float(np.mean((s[:, k] - kept) ** 2))
        result.append(Quality(len(a), float(kept.mean()), ece, auc, brier))
    return result
