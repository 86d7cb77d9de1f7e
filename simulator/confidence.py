"""Sequential temperature scaling of confidences, estimates for drafters without, and how good they are: ECE, AUC, Brier.

What is calibrated is the survival s_k = c_1···c_k, the estimate of P(a ≥ k) that schedulers rank by. After the DSpark
paper (2026), section 3.2: left to right over positions, one temperature each, by grid search for the smallest expected
calibration error of s_k with the earlier temperatures fixed.

A drafter without a confidence head gets c_k = σ(w_0 + w_1·logit(max_v q_k(v))), one logistic regression a position. It looks
at the draft distribution as a whole, which is settled before token k is drawn. The drafted token's own probability would
tell more, and bias the output: with p = .7/.3 and q = .6/.4, admitting where q(x) ≥ .5 outputs .88/.12.
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
RIDGE = 1.0
"""How strongly weights are drawn to (0, 1), where the estimate is the certainty itself: for positions seldom reached."""
_SMALLEST = 2.0**-24
"""Certainties are kept this far from 0 and 1: the precision of a float32 near 1."""


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


def products(confidence: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """c_1···c_k [..., γ] from c_k [..., γ]; what policies rank by is rounded, see `simulator.traces.survival`."""
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


def estimated(certainty: npt.ArrayLike, weights: npt.ArrayLike) -> Floats:
    """c_k = σ(w_0 + w_1·logit(certainty_k)): certainties [..., γ] under weights [γ, 2]."""
    w = np.asarray(weights, np.float64)
    return _sigmoid(w[:, 0] + w[:, 1] * _logit(certainty)).astype(np.float32)


def fit_estimates(certainty: npt.ArrayLike, accepted: npt.ArrayLike, accept_prob: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Weights [γ, 2] of `estimated`, each position's from the anchors where all positions before it were accepted.

    Args:
        certainty: [A, γ], of anchors that nothing is evaluated on.
        accepted: a, [A].
        accept_prob: β, [A, γ]: of such an anchor the chance of one more acceptance, which says more than one toss of it.
    """
    x, a, beta = _logit(certainty), np.asarray(accepted), np.asarray(accept_prob, np.float64)
    return np.array([_logistic(x[a >= k, k], beta[a >= k, k]) for k in range(x.shape[1])])


def _logistic(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(w_0, w_1) under which outcomes that happen with shares y [N] are likeliest as draws of σ(w_0 + w_1·x), by Newton."""
    design, prior = np.stack([np.ones_like(x), x], 1), np.array([0.0, 1.0])

    def loss(w: npt.NDArray[np.float64]) -> float:
        z = design @ w
        return float(np.sum(np.logaddexp(0, z) - y * z) + RIDGE / 2 * np.sum((w - prior) ** 2))

    w = prior
    for _ in range(100):
        p = _sigmoid(design @ w)
        slope = design.T @ (p - y) + RIDGE * (w - prior)
        step = np.linalg.solve(design.T * (p * (1 - p)) @ design + RIDGE * np.eye(2), slope)
        if np.abs(step).max() < 1e-8:
            break
        while loss(w - step) > loss(w):  # far from the optimum a whole step may go too far
            step = step / 2
        w = w - step
    return w


def _logit(probability: npt.ArrayLike) -> npt.NDArray[np.float64]:
    p = np.clip(np.asarray(probability, np.float64), _SMALLEST, 1 - _SMALLEST)
    return np.asarray(np.log(p) - np.log1p(-p))


def _sigmoid(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-x)))


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
    s, a = products(confidence), np.asarray(accepted)
    result = []
    for k in range(s.shape[1]):
        kept = a > k
        ece, auc = expected_calibration_error(s[:, k], kept), roc_auc(s[:, k], kept)
        brier = float(np.mean((s[:, k] - kept) ** 2))
        result.append(Quality(len(a), float(kept.mean()), ece, auc, brier))
    return result
