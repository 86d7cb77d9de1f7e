"""A hardware profile of vLLM, fitted to the steps of its own loops.

    step = verify(B) + per request · R + per prompt · prompts done + draft(R)

with B tokens in the pass, R requests, each curve rising; non-negative least squares of relative errors over all steps of all
methods. What contexts cost is in these: they are as long in the loops that are predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from harness.vllm.load import Loop
from simulator.hardware.cost import Longest, StepLoad
from simulator.hardware.profile import Curve, DraftCurve, Profile

Floats = npt.NDArray[np.float64]
_KNOTS = (1, 4, 16, 64, 256, 1024, 4096, 16384)
"""Tokens of a pass between which its time is a straight line."""


@dataclass(frozen=True, slots=True)
class FittedLoops:
    """Loops of one method, at numbers of users that are not predicted."""

    drafter: str
    gamma: int
    loops: tuple[Loop, ...]

    def pause_s(self, users: int) -> float:
        """Between an answer and its user's next request reaching the engine, for any number of users."""
        sizes = [loop.users for loop in self.loops]
        return float(np.interp(users, sizes, [_pause_s(loop) for loop in self.loops])) + self._way_s()

    def _way_s(self) -> float:
        """From a user's request to an engine that is waiting for one; of the loop of fewest users."""
        ways = [a.queued_s - a.submitted_s for a in self.loops[0].answers]
        return max(float(np.median(ways)), 0.0) if self.loops[0].users == 1 and ways else 0.0


def fit_profile(
    fitted: Sequence[FittedLoops], name: str, device: str, model: str, kv_tokens: int, provenance: Mapping[str, str]
) -> Profile:
    """A profile of everything that was calibrated."""
    observed = np.concatenate([_observed(c, number, loop) for number, c in enumerate(fitted) for loop in c.loops])
    tokens, requests, prompts, method, drafting, seconds, weight = observed.T
    knots = _knots(float(tokens.max()))
    columns = [_ramps(knots, tokens), requests[:, None], prompts[:, None]]
    sizes = [tuple(loop.users for loop in c.loops) for c in fitted]
    drafters = [i for i, c in enumerate(fitted) if c.gamma]
    columns += [_ramps(sizes[i], drafting) * ((method == i) & (drafting > 0))[:, None] for i in drafters]
    found, _ = nnls(*_reduced(np.concatenate(columns, 1) * weight[:, None], seconds * weight))
    parts = np.split(found, np.cumsum([len(knots), 1, 1, *(len(sizes[i]) for i in drafters)])[:-1])
    draft = {}
    for i, part in zip(drafters, parts[3:], strict=True):
        curve = Curve(sizes[i], tuple(np.cumsum(part).tolist()))
        draft[fitted[i].drafter] = DraftCurve((fitted[i].gamma,), (curve,), True)
    return Profile(
        name=name, device=device, model=model, source="fitted", provenance=provenance, kv_capacity_tokens=kv_tokens,
        verify=Curve(knots, tuple(np.cumsum(parts[0]).tolist())), draft=draft,
        overhead_s_per_request=float(parts[1][0]), overhead_s_per_prompt=float(parts[2][0]),
    )  # fmt: skip


def _observed(own: FittedLoops, number: int, loop: Loop) -> Floats:
    """(tokens, requests, prompts done, method, requests that draft, seconds, weight) of every step of a loop."""
    rows = [
        (s.prompt_tokens + s.decoding + s.drafted, s.decoding + s.prompts, s.prompts, number,
         s.decoding if own.gamma else 0, s.seconds)
        for s in loop.steps if s.seconds is not None
    ]  # fmt: skip
    rows += [(tokens, prompts, prompts, number, 0, seconds) for tokens, prompts, seconds in loop.prompts_alone]
    found = np.array(rows, np.float64).reshape(-1, 6)
    weight = 1 / max(float(found[:, 5].mean()), 1e-9) / max(len(found), 1) ** 0.5 if len(found) else 1.0
    return np.concatenate([found, np.full((len(found), 1), weight)], 1)


def _ramps(knots: Sequence[int], x: Floats) -> Floats:
    """1, then for each stretch between knots the share of it that lies below x; straight on beyond the last."""
    columns = [np.ones_like(x)]
    for low, high in pairwise(knots):
        share = np.maximum((x - low) / (high - low), 0)
        columns.append(share if high == knots[-1] else np.minimum(share, 1))
    return np.stack(columns, 1)


def _knots(most: float) -> tuple[int, ...]:
    """Up to the largest pass seen."""
    inside = tuple(k for k in _KNOTS if k < most)
    return (*inside, int(most)) if most > 1 else (1,)


def _reduced(design: Floats, wanted: Floats) -> tuple[Floats, Floats]:
    """A small problem of the same least squares."""
    q, r = np.linalg.qr(design)
    return r, q.T @ wanted


def _pause_s(loop: Loop) -> float:
    return float(np.mean(loop.pauses_s)) if loop.pauses_s else 0.0


def mean_step_error(profile: Profile, drafter: str, gamma: int, loop: Loop) -> float:
    """Predicted over measured seconds of the steps of a loop, less 1; nan where there were none."""
    steps = [(StepLoad(s.decoding, s.prompts, s.prompts, s.prompt_tokens), s.drafted, s.seconds)
             for s in loop.steps if s.seconds is not None]  # fmt: skip
    steps += [(StepLoad(0, prompts, prompts, tokens), 0, seconds) for tokens, prompts, seconds in loop.prompts_alone]
    if not steps:
        return float("nan")
    most = max(load.prefill_tokens + load.decoding + drafted for load, drafted, _ in steps)
    cost = profile.cost(drafter, gamma, 2 * loop.users, most)
    predicted = sum(cost.step(load, gamma, drafted, Longest(0, 0)).seconds for load, drafted, _ in steps)
    return predicted / sum(seconds for _, _, seconds in steps) - 1
