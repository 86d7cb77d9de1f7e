"""Calibrated and estimated confidences: fitted on prompts held out by a hash of their id, judged on all the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from results.store.database import Store
from results.store.rows import key_columns
from simulator.confidence import Quality, fit_estimates, fit_temperatures, quality
from simulator.numbers import counted
from simulator.traces import Trace, split_of

MIN_PROMPTS, MIN_ANCHORS = 8, 500
"""Fewer prompts or anchors than this, held out or judged, calibrate and estimate nothing."""


def calibrate(run_id: str, store: Store, say: Callable[[str], None]) -> None:
    """Fit and store temperatures of every drafter with confidences, and weights of estimates for the others.

    Says so where there is too little to fit on.
    """
    for key in store.recordings(run_id):
        if store.temperatures(run_id, key) or store.estimates(run_id, key):
            continue
        trace = store.trace(run_id, key)
        has_head = trace.anchors.confidence is not None
        if not has_head and trace.anchors.certainty is None:
            continue
        held_out = [split_of(r.prompt_id) == "calibration" for r in trace.responses]
        others = [not h for h in held_out]
        (prompts, anchors), (other_prompts, other_anchors) = _size(trace, held_out), _size(trace, others)
        if min(prompts, other_prompts) < MIN_PROMPTS or min(anchors, other_anchors) < MIN_ANCHORS:
            say(
                f"{trace}: {'confidences stay raw' if has_head else 'confidences are not estimated'}: "
                f"{counted(prompts, 'prompt')} with {counted(anchors, 'anchor')} to fit on, {other_prompts} others; "
                f"{'calibration' if has_head else 'it'} needs {MIN_PROMPTS} prompts and {MIN_ANCHORS} anchors of each"
            )
            continue
        fit, test = trace.select(held_out), trace.select(others)
        store.add(run_id, {"calibrations": _temperatures(fit, test)} if has_head else {"estimates": _estimates(fit, test)})


def _size(trace: Trace, keep: list[bool]) -> tuple[int, int]:
    """(prompts, anchors) of the responses marked in `keep`."""
    prompts = {r.prompt_id for r, kept in zip(trace.responses, keep, strict=True) if kept}
    return len(prompts), int(np.diff(trace.offsets)[keep].sum())


def _temperatures(fit: Trace, test: Trace) -> pa.Table:
    """Rows of `calibrations`."""
    temperatures = fit_temperatures(_confidence(fit), fit.anchors.accepted)
    before, after = _quality(test), _quality(test.calibrated(temperatures))
    rows = [
        {
            **_row(fit, test, k), "temperature": float(temperatures[k]), "fit_anchors": len(fit.anchors),
            "observed": one.observed, "ece_before": one.ece, "ece_after": other.ece, "auc_before": one.auc,
            "auc_after": other.auc, "brier_before": one.brier, "brier_after": other.brier,
        }
        for k, (one, other) in enumerate(zip(before, after, strict=True))
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def _estimates(fit: Trace, test: Trace) -> pa.Table:
    """Rows of `estimates`."""
    anchors = fit.anchors
    assert anchors.certainty is not None
    weights = fit_estimates(anchors.certainty, anchors.accepted, anchors.accept_prob)
    rows = [
        {
            **_row(fit, test, k), "intercept": float(weights[k, 0]), "slope": float(weights[k, 1]),
            "fit_anchors": int((anchors.accepted >= k).sum()),
            "observed": one.observed, "ece": one.ece, "auc": one.auc, "brier": one.brier,
        }
        for k, one in enumerate(_quality(test.estimated(weights)))
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def _row(fit: Trace, test: Trace, k: int) -> dict[str, Any]:
    """What both tables say of position k, from 0."""
    fit_prompts, test_prompts = (len({r.prompt_id for r in trace.responses}) for trace in (fit, test))
    return {
        **key_columns(fit.recording), "position": k + 1,
        "fit_prompts": fit_prompts, "test_prompts": test_prompts, "test_anchors": len(test.anchors),
    }  # fmt: skip


def _quality(trace: Trace) -> list[Quality]:
    return quality(_confidence(trace), trace.anchors.accepted)


def _confidence(trace: Trace) -> npt.NDArray[np.float32]:
    assert trace.anchors.confidence is not None
    return trace.anchors.confidence
