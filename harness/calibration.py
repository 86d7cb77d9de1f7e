"""Calibration of a run's confidences: fitted on prompts held out by a hash of their id, judged on all the others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from results.store import Store
from simulator.calibration import fit_temperatures, quality
from simulator.traces import Trace, split_of

MIN_PROMPTS, MIN_ANCHORS = 8, 500
"""Fewer prompts or anchors than this, held out or judged, calibrate nothing."""


def calibrate(run_id: str, store: Store, say: Callable[[str], None]) -> None:
    """Fit and store temperatures for every drafter with confidences; says so where there is too little to fit on."""
    for drafter, gamma in store.traced(run_id):
        if store.temperatures(run_id, drafter, gamma):
            continue
        trace = store.trace(run_id, drafter, gamma)
        if trace.anchors.confidence is None:
            continue
        held_out = [split_of(r.prompt_id) == "calibration" for r in trace.responses]
        sizes = [_size(trace, held_out), _size(trace, [not h for h in held_out])]
        if any(prompts < MIN_PROMPTS or anchors < MIN_ANCHORS for prompts, anchors in sizes):
            (prompts, anchors), (others, _) = sizes
            say(
                f"{drafter} γ={gamma}: confidences stay raw: {prompts} prompts with {anchors} anchors to fit on, "
                f"{others} others; calibration needs {MIN_PROMPTS} prompts and {MIN_ANCHORS} anchors of each"
            )
            continue
        store.add(run_id, {"calibrations": _rows(trace, held_out, sizes)})


def _size(trace: Trace, keep: list[bool]) -> tuple[int, int]:
    """(prompts, anchors) of the responses marked in `keep`."""
    prompts = {r.prompt_id for r, kept in zip(trace.responses, keep, strict=True) if kept}
    return len(prompts), int(np.diff(trace.offsets)[keep].sum())


def _rows(trace: Trace, held_out: list[bool], sizes: list[tuple[int, int]]) -> pa.Table:
    fit, test = trace.select(held_out).anchors, trace.select([not h for h in held_out]).anchors
    assert fit.confidence is not None
    assert test.confidence is not None
    temperatures = fit_temperatures(fit.confidence, fit.accepted)
    before = quality(test.confidence, test.accepted)
    scaled = trace.calibrated(temperatures).select([not h for h in held_out]).anchors
    assert scaled.confidence is not None
    after = quality(scaled.confidence, scaled.accepted)
    rows = [
        {
            "drafter": trace.drafter, "gamma": trace.gamma, "position": k + 1, "temperature": float(temperatures[k]),
            "fit_prompts": sizes[0][0], "fit_anchors": sizes[0][1],
            "test_prompts": sizes[1][0], "test_anchors": sizes[1][1], "observed": one.observed,
            "ece_before": one.ece, "ece_after": other.ece, "auc_before": one.auc, "auc_after": other.auc,
            "brier_before": one.brier, "brier_after": other.brier,
        }
        for k, (one, other) in enumerate(zip(before, after, strict=True))
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)
