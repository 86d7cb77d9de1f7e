"""A profile from steps whose parts were timed: what an engine's own record says of its machine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.served.server import Server
from harness.served.timed import LEAST_TIMED
from simulator.hardware.profile import Curve, DraftCurve, Profile

_POINTS: Final = 24
"""Points of a curve."""
_CONTEXT: Final = 1_000_000
"""Context tokens that fit, where no file says."""


def profile_of(server: Server, name: str, kind: str) -> Profile | None:
    """None where too few steps have their parts timed."""
    if len(server.steps) < LEAST_TIMED:
        return None
    running, tokens, step_s, draft_s, verify_s = np.array(server.steps, np.float64).T
    rest_s = np.maximum(step_s - draft_s - verify_s, 0.0)
    draft = DraftCurve((server.gamma,), (_curve(running, draft_s),), block=True)
    capacity, said = server.context_capacity or _CONTEXT, "as the server says" if server.context_capacity else "assumed"
    return Profile(
        name=name, device="served", model=server.settings.called or "unknown", source="measured",
        provenance={
            "steps": f"{len(server.steps):,} steps that {server.settings.engine} timed: draft_gpu_ms, target_verify_gpu_ms, "
            "and the rest of step_gpu_ms; medians, made to rise",
            "assumed": f"contexts are in the passes as they were; prompts take what such passes do; {capacity:,} tokens "
            f"fit, {said}",
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
        },
        kv_capacity_tokens=capacity, verify=_curve(tokens, verify_s), draft={kind: draft},
        overhead_s=float(np.median(rest_s)),
    )  # fmt: skip


def _curve(counts: npt.NDArray[np.float64], seconds: npt.NDArray[np.float64]) -> Curve:
    """Medians by count, in as many bins as a curve has points at most, never falling."""
    edges: Sequence[float] = np.unique(np.quantile(counts, np.linspace(0, 1, _POINTS + 1))).tolist()
    places = np.searchsorted(edges, counts, side="right")
    found: dict[int, float] = {}
    for place in np.unique(places):
        own = places == place
        found.setdefault(max(1, round(float(np.median(counts[own])))), float(np.median(seconds[own])))
    at = sorted(found)
    rising = np.maximum.accumulate([found[count] for count in at])
    return Curve(tuple(at), tuple(float(s) for s in rising))
