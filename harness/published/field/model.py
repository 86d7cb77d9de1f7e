"""What predictions of field measurements are made of: profiles, and traces of a given accepted length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Final, NamedTuple

import numpy as np

from harness.published.paper.fit import FORMS, Confidence, Floats, fit_form, fit_shape, paper_tables
from harness.published.paper.predict import independent_rounds
from simulator.hardware.profile import Curve, DraftCurve, Profile
from simulator.simulation import Prepared, prepare
from simulator.traces import Trace

LINE_FORMS: Final = ("affine", "power", "root")
"""Step times with at most three parameters: the lines have five to seven points. A quadratic may turn down beyond them."""
_FIRST_MS: Final = 10.0
_RESPONSES: Final = 660
"""Responses of a trace, of 300 rounds each."""
_TOKENS: Final = tuple(sorted({round(2 ** (i / 8)) for i in range(8 * 12 + 1)}))
"""Knots of a fitted curve, to 4096 tokens."""


# --- traces ---------------------------------------------------------------------------------------------------------------


@cache
def qwen_shape() -> Confidence:
    """Decline over positions, spread and correlation of DSpark on Qwen3-4B, from the paper's Figure 6."""
    return fit_shape(paper_tables())


def law_of(accepted_length: float, gamma: int, shape: Confidence | None = None) -> Confidence:
    """The shape, with the mean logit that makes γ drafted tokens come to the accepted length."""
    from scipy.optimize import brentq

    if not 1 < accepted_length < gamma + 1:
        raise ValueError(f"no γ = {gamma} comes to an accepted length of {accepted_length:.3g}")
    shape = shape or qwen_shape()

    def short(mu: float) -> float:
        return 1 + float(replace(shape, mu=mu).survivals(gamma).mean(0).sum()) - accepted_length

    return replace(shape, mu=float(brentq(short, -30, 30)))


def trace_of(laws: Sequence[Confidence], gamma: int, drafter: str = "dspark", seed: int = 0) -> Prepared:
    """Independent rounds that accept exactly as often as their confidences say; as many responses of every law."""
    rng = np.random.default_rng(seed)
    each = _RESPONSES // len(laws)
    parts = [(f"{i}", independent_rounds(law, rng, gamma=gamma, responses=each)) for i, law in enumerate(laws)]
    return prepare(Trace.join(drafter, [(replace(r, domain=name), a) for name, part in parts for r, a in part]))


# --- profiles of published cost tables ------------------------------------------------------------------------------------


def mixed_in_graphs(profile: Profile) -> Profile:
    """The profile, but steps with prefill cost as captured ones do while they hold no more tokens than the largest graph."""
    assert profile.eager is not None
    last = profile.captured_tokens[-1]
    sizes = [n for n in profile.verify.counts if n <= last]
    beyond = [n for n in profile.eager.counts if n > last + 1]
    seconds = np.concatenate([profile.verify.at(sizes), profile.eager.at([last + 1, *beyond])])
    return replace(profile, eager=Curve((*sizes, last + 1, *beyond), tuple(seconds.tolist())))


def captured_to(profile: Profile, tokens: int) -> Profile:
    """The profile, with graphs of no more than so many tokens."""
    return replace(profile, captured_tokens=tuple(n for n in profile.captured_tokens if n <= tokens))


def with_host_work(profile: Profile, one_s: float, all_s: float, users: int) -> Profile:
    """The profile, with an overhead of `one_s` for one running request and `all_s` for `users`, straight in between."""
    each_s = max(all_s - one_s, 0.0) / max(users - 1, 1)
    return replace(profile, overhead_s=max(one_s - each_s, 0.0), overhead_s_per_request=each_s)


# --- profiles of lines without speculation --------------------------------------------------------------------------------


def line_step_ms(users: Floats, throughput: Floats, requests: int | None) -> Floats:
    """Milliseconds of a step with N requests, from throughput without speculation at each N; all answers are equally long.

    Without a number of requests, N / throughput. With one, requests come in waves, of which the last is short: for each
    output token the run takes Σ over waves of t(requests in the wave), and t at the short wave's size is interpolated.
    """
    ms = 1e3 * users / throughput
    if requests is None:
        return ms
    left = requests % users
    for _ in range(60):  # the short wave weighs a quarter at most, so this converges
        short = np.where(left > 0, np.interp(left, users, ms), 0)
        ms = (1e3 * requests / throughput - short) / (requests // users)
    return ms


def continuation_error(form: str, users: Floats, ms: Floats) -> float:
    """Mean error beyond the last points of fits to those below, four or more, as a share."""
    errors = []
    for held in range(1, len(users) - 3):
        guess = FORMS[form].at(users[-held:], fit_form(form, users[:-held], ms[:-held]))
        errors.append(np.abs(guess / ms[-held:] - 1).mean())
    return float(np.mean(errors))


class LineFit(NamedTuple):
    """Step time over a count, fitted to a line without speculation."""

    form: str
    parameters: tuple[float, ...]
    """In which the first step of the line takes `_FIRST_MS`: the forms' bounds are made for such times."""
    first_ms: float
    """What it takes."""
    continuation: float
    """How far the form was off when it had to continue the line, as a share."""

    def seconds(self, counts: Sequence[int] | Floats) -> Floats:
        """Seconds of steps with so many tokens, one a request."""
        scaled = FORMS[self.form].at(np.asarray(counts, np.float64), self.parameters)
        return np.asarray(1e-3 * self.first_ms / _FIRST_MS * scaled)


def fit_line(users: Floats, ms: Floats, forms: Sequence[str] = LINE_FORMS) -> LineFit:
    """The form that continues the line best, fitted to all of it."""
    scaled = ms * (_FIRST_MS / ms[0])
    errors = {form: continuation_error(form, users, scaled) for form in forms}
    best = min(errors, key=lambda form: errors[form])
    return LineFit(best, fit_form(best, users, scaled), float(ms[0]), errors[best])


class Drafting(NamedTuple):
    """A drafter by its size: a layer of it costs what a layer of the target does, over as many tokens."""

    drafter: str
    gamma: int
    layers: int
    target_layers: int
    block: bool
    """One pass over γ tokens a request, or else γ passes over one."""

    def seconds(self, step: Callable[[Floats], Floats], requests: Sequence[int] | Floats) -> Floats:
        """Seconds of drafting γ tokens for each request, `step` being the target's step time over tokens."""
        n = np.asarray(requests, np.float64)
        share = self.layers / self.target_layers
        return np.asarray(share * (step(self.gamma * n) if self.block else self.gamma * step(n)))


def line_profile(fit: LineFit, drafting: Drafting, name: str) -> Profile:
    """A profile that puts all growth of the line on the tokens in a step; overhead and prefill of its traffic are in it."""
    requests = tuple(n for n in _TOKENS if n <= 512)
    curve = Curve(requests, tuple(drafting.seconds(fit.seconds, requests).tolist()))
    return _profile(
        name,
        verify=Curve(_TOKENS, tuple(fit.seconds(_TOKENS).tolist())),
        draft={drafting.drafter: DraftCurve((drafting.gamma,), (curve,), block=True)},
    )


def request_profile(fit: LineFit, drafting: Drafting, name: str) -> Profile:
    """A profile that puts all growth of an affine line on the running requests: verifying is free. The other extreme."""
    assert fit.form == "affine"
    once_s, each_s = (float(x) for x in (fit.seconds([0])[0], fit.seconds([1])[0] - fit.seconds([0])[0]))
    requests = tuple(n for n in _TOKENS if n <= 512)
    # A pass of the drafter holds the requests that a pass of the target does: all its tokens are free too.
    passes = 1 if drafting.block else drafting.gamma
    share = passes * drafting.layers / drafting.target_layers
    curve = Curve(requests, tuple((share * fit.seconds(requests)).tolist()))
    return replace(
        _profile(
            name, Curve((1,), (0.5 * once_s,)), {drafting.drafter: DraftCurve((drafting.gamma,), (curve,), block=True)}
        ),
        overhead_s=0.5 * once_s,
        overhead_s_per_request=each_s,
    )


def _profile(name: str, verify: Curve, draft: dict[str, DraftCurve]) -> Profile:
    return Profile(
        name=name,
        device="as published",
        model="as published",
        source="fitted",
        provenance={"verify": "the published line without speculation"},
        kv_capacity_tokens=1_000_000_000,
        verify=verify,
        draft=draft,
        free_drafters=("none",),
    )
