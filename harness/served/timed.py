"""How long a step would take with k tokens drafted, from steps that a log itself times, with drafts and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.served.acceptance import DRAWS, Acceptance
from harness.served.costs import (
    BINS,
    EITHER,
    FEWEST,
    KNEE,
    bow,
    doublings,
    drafting_k,
    prompts_for_each,
    prompts_in_step,
)
from harness.served.draft_lengths import length_of
from harness.served.observed import UNTIMED, Interval, one_hot
from harness.served.server import Server
from simulator.drafter_kinds import KINDS

Floats = npt.NDArray[np.float64]

_OFF: Final = 0.1
"""What a log's steps with drafts and without are off by."""
_OFF_FORM: Final = 0.03
"""What a line through steps is off by where none like these were timed: no log is better known than a bench is repeated."""
_OFF_BETWEEN: Final = (0.03, 0.2, 0.1)
"""The same between no draft and the longest that was served, where both are timed, as a share of the logarithm of the one
over the other: where passes of as many tokens were timed; what is added where none of half or twice as many was; and what,
above a line between the two: experts that are read anew, or tokens that are filled up to a whole tile."""
_OFF_BEYOND: Final = (0.2, 0.05)
"""The same where more ran than in any step, for each doubling, for at some load passes turn from memory to arithmetic; and
where less ran, for each half."""
_OFF_APART: Final = 0.1
"""The same between loads that ran, for each doubling to the nearest of them: a line through both does not know where a pass
fills its experts or tiles, or turns from memory to arithmetic."""
_HINGES: Final = 8
"""Tokens in a pass at which its time may turn."""
_REACH: Final = 2.0
"""Steps tell of loads up to so many times what ran."""
_SURELY: Final = 0.025
"""A share of draws of which the least say what is surely so."""
LEAST_TIMED: Final = 20
"""Steps with their parts timed that say how long others take, at least."""
_MOST: Final = 400
"""Stretches with drafts, and without, that are fitted: more are taken together."""
_ALIKE: Final = 1.25
"""Loads that are compared."""
_BENCHED: Final = 3
"""Loads of benchmarks, with drafts and without, that are compared: each is of many more steps than a stretch of a log."""
_OFF_RUNS: Final = 0.01
"""What steps with drafts and without are off by beside chance, at least: they are of two runs."""
_OFF_BENCHED: Final = 0.03
"""What two benchmarks of one load are off by."""


@dataclass(frozen=True)
class Seen:
    """From a log that holds steps with drafts and without: t = a + c · running + f(tokens in the pass) + g · drafting
    + p · prompts.

    f is convex and made of lines, for a pass goes from memory's time to arithmetic's as its tokens get more; c is what a
    request takes however many of its tokens there are, such as its context. Prompts of those that follow are computed in
    the same steps, the more of them the more tokens a step gives: answers end sooner.
    """

    fits: Floats
    """[draws, 5 + hinges]: a, c, g, p and slopes of f, in seconds."""
    hinges: Floats
    """Tokens in a pass at which f may turn."""
    sizes: Floats
    """Tokens in the passes that were timed."""
    loads: tuple[float, float]
    """Running requests of the steps, fewest and most."""
    acceptance: Acceptance
    prompts: float
    """Prompt tokens for each token of an answer."""
    block: bool
    basis: str
    misfit: float
    """Root mean square of what the logarithms of steps are off by, load by load, that chance does not explain."""
    off: Floats
    """What the form of it is off by where k was served, at other k, at loads that did not run with drafts, and at those that
    did not without, in standard deviations, [draws, 4]."""
    with_drafts: Floats
    """Running requests of the steps with drafts, rising."""
    without: Floats
    """The same of those without."""
    waits: tuple[Floats, Floats]
    """(logarithms of the loads of benchmarks, rising, seconds to a first token over the tokens that follow it)."""
    turns: Floats
    """Tokens, more than in any pass that was timed, at which a pass may turn from memory to arithmetic, [draws]."""
    knows_off: bool = True

    @property
    def reach(self) -> float:
        """See `Costs`."""
        return _REACH * self.loads[1]

    def seconds(self, k: int, running: float) -> Floats:
        """See `Costs`."""
        drafted = self.acceptance.drafted
        share = float(drafted[k]) / drafted[-1]
        fitted, least, most = (self._fitted(one, running) for one in (k, 0, len(drafted) - 1))
        size = running * (1 + self.acceptance.coverage_at(running) * float(drafted[k]))
        seconds = fitted + self._beyond(size)
        form, *beside = self.off.T
        widths = (share * _off_where(running, self.with_drafts), (1 - share) * _off_where(running, self.without))
        far = share * self.misfit * form + self._between(share, size, fitted, least, most)
        far = far + sum(width * off for width, off in zip(widths, beside[1:], strict=True))
        return np.asarray(seconds * np.exp(far) + self._waited(k, running), np.float64)

    def _waited(self, k: int, running: float) -> Floats:
        """Seconds that a step's tokens take of a request's time to its first, [draws]: whoever waits gets none."""
        loads, waits = self.waits
        each_s = float(np.interp(np.log(max(running, 1e-3)), loads, waits)) if len(loads) else 0.0
        return each_s * self.acceptance.tokens_at(k, running)

    def _between(self, share: float, size: float, fitted: Floats, least: Floats, most: Floats) -> Floats:
        """What the logarithm of a step is off by between no draft and the longest that was served, [draws]: more tokens take
        more each, the more there are, so that hardly any step is above a line from the one to the other."""
        near, apart, above = _OFF_BETWEEN
        gap = min(float(np.abs(np.log2(self.sizes / max(size, 1e-9))).min()), 1.0)
        drafting = self.fits[:, 2] if self.block and share else 0.0
        room = np.log(np.maximum((least + drafting) * (1 - share) + share * most, fitted) / fitted)
        apart_logs = np.abs(np.log(most / least))
        width, narrow = (bow(share) * (_OFF_FORM + (near + one * gap) * apart_logs) for one in (apart, above))
        off = width * self.off[:, 1]
        return np.asarray(np.where(off > room, room + (off - room) * narrow / np.maximum(width, 1e-12), off), np.float64)

    def with_prompts(self, for_each: float) -> Seen | None:
        """See `Costs`: prompts' time is known where nearly every draw has some."""
        return replace(self, prompts=for_each) if float(np.quantile(self.fits[:, 3], _SURELY)) > 0 else None

    def _beyond(self, size: float) -> Floats:
        """Seconds that a pass of so many tokens takes more than lines through those that were timed, [draws]: beyond its
        turn it grows in proportion to its tokens."""
        if size <= self.sizes.max():
            return np.zeros(len(self.fits))
        slopes = self.fits[:, 4:].sum(1)
        row = np.array([1.0, *np.zeros(3), self.sizes.max(), *np.maximum(self.sizes.max() - self.hinges, 0.0)])
        turned = self.fits @ row + slopes * (self.turns - self.sizes.max())
        return np.asarray(np.maximum(turned / self.turns - slopes, 0.0) * np.maximum(size - self.turns, 0.0), np.float64)

    def _fitted(self, k: int, running: float) -> Floats:
        drafted, coverage = self.acceptance.drafted, self.acceptance.coverage_at(running)
        prompts = prompts_in_step(self.acceptance, self.prompts, k, running)
        row = _seen_row(running, float(drafted[k]), prompts, coverage, self.hinges, float(drafted[-1]), self.block)
        return np.asarray(np.maximum(self.fits @ row, 1e-9), np.float64)


def _off_beyond(running: float, loads: tuple[float, float]) -> float:
    """What a load is off by that is beyond those that ran, fewest and most."""
    return float(np.dot(_OFF_BEYOND, doublings(running, loads)))


def _off_where(running: float, loads: Floats) -> float:
    """What a load is off by that did not run: beyond those that did, or between them."""
    ends = float(loads[0]), float(loads[-1])
    apart = float(np.abs(np.log2(loads / max(running, 0.1))).min()) if ends[0] <= running <= ends[1] else 0.0
    return _off_beyond(running, ends) + _OFF_APART * apart


def _hinges(sizes: Floats) -> Floats:
    return np.asarray(np.geomspace(sizes.min(), sizes.max(), _HINGES + 2)[1:-1], np.float64)


def _seen_row(
    running: float, drafted: float, prompts: float, coverage: float, hinges: Floats, longest: float, block: bool
) -> Floats:
    """What `Seen.fits` is multiplied with."""
    tokens = running * (1 + coverage * drafted)
    drafting = (1.0 if drafted else 0.0) if block else drafted / longest
    return np.array([1.0, running, drafting, prompts, tokens, *np.maximum(tokens - hinges, 0.0)])


class _Stretch(NamedTuple):
    """A stretch whose steps are timed."""

    running: float
    seconds: float
    """What a step of it took."""
    k: int
    """Tokens a draft had at most."""
    prompts: float
    """Prompt tokens in a step of it."""


def _timed(server: Server) -> tuple[list[_Stretch], list[_Stretch]]:
    """Stretches with drafts, and those without, of a baseline too; of benchmarks where no log times steps."""
    with_drafts = [
        _Stretch(one.running, seconds, _k_of(one, server), one.prompt_tok_s * seconds)
        for one in server.benched or server.intervals
        if (seconds := one.each_s) is not None and one.drafts
    ]
    plain = [one for one in server.benched if one.plain] or (*server.plain, *server.baseline)
    return with_drafts, [_Stretch(one.running, s, 0, one.prompt_tok_s * s) for one in plain if (s := one.each_s) is not None]


def _needed(server: Server) -> int:
    """Stretches with drafts, and without, that are compared, at least."""
    return _BENCHED if server.benched else EITHER


def _k_of(one: Interval, server: Server) -> int:
    """K of a stretch: as its own drafts have it where the engine made them short, else as at its load."""
    own = length_of(one.drafts, server.gamma) if one.drafts is not None and server.shortener == "engine" else None
    return own or drafting_k(server, one.running)


def drafting_is_short(server: Server) -> bool:
    """Whether steps without drafts are timed, and too few with."""
    with_drafts, without = _timed(server)
    return len(with_drafts) < _needed(server) <= len(without)


def incomparable(server: Server) -> str:
    """Why the files' own steps do not say what drafting costs, in words; empty where they do."""
    with_drafts, without = _timed(server)
    if not with_drafts and not without:
        if server.intervals or server.plain or server.baseline:
            return "no stretch of the files is long and steady enough to time its steps"
        return "these files time no steps" + ("" if server.settings.engine == UNTIMED else "; the engine's log does")
    if not without:
        timed = " that are long and steady enough to time" if server.plain or server.baseline else ""
        return f"no stretch without drafts is in the files{timed}"
    if min(len(with_drafts), len(without)) < _needed(server):
        what = "benchmarks" if server.benched else "steady stretches"
        return (
            f"of the files' {what} {len(without)} had no drafts and {len(with_drafts)} had: {_needed(server)} of each are "
            "needed"
        )
    near = [
        np.log(np.median(own) / took)
        for running, took, *_ in with_drafts
        if (own := [s for r, s, *_ in without if running / _ALIKE <= r <= running * _ALIKE])
    ]
    if not near:
        ends = [(min(r for r, *_ in own), max(r for r, *_ in own)) for own in (with_drafts, without)]
        told = [f"{low:.0f} to {high:.0f}" for low, high in ends]
        return f"steps without drafts are of {told[1]} running, those with of {told[0]}: of no load are both there"
    if (longer := float(np.median(near))) > _OFF:
        return (
            f"steps without drafts took {np.expm1(longer):.0%} longer than those with, at the same load: they were not "
            "measured alike"
        )
    return ""


def seen(server: Server, kind: str, acceptance: Acceptance, seed: int = 0) -> Seen | None:
    """None where steps with drafts and without are not comparable; see `incomparable`."""
    from scipy.optimize import nnls

    if incomparable(server):
        return None
    timed = _timed(server)
    with_drafts, without = map(_fewer, timed)
    block = kind in KINDS and KINDS[kind].one_pass and not one_hot(kind)
    drafted, longest = acceptance.drafted, float(acceptance.drafted[-1])
    passes = [(r, float(drafted[k]), prompts) for r, _, k, prompts in (*with_drafts, *without)]
    loads = [max(r, 1e-3) for r, *_ in passes]
    shares = [acceptance.coverage_at(r) for r, *_ in passes]
    sizes = [max(r * (1 + share * m), 1e-3) for (r, m, _), share in zip(passes, shares, strict=True)]
    hinges = _hinges(np.array(sizes))
    rows = (_seen_row(*one, share, hinges, longest, block) for one, share in zip(passes, shares, strict=True))
    design = np.array(list(rows))
    took_s = np.array([t for _, t, *_ in (*with_drafts, *without)])
    rng = np.random.default_rng([seed, 24])
    fits = np.empty((DRAWS // 4, design.shape[1]))
    for i in range(len(fits)):
        some = np.concatenate([
            rng.integers(len(with_drafts), size=len(with_drafts)),
            len(with_drafts) + rng.integers(len(without), size=len(without)),
        ])  # fmt: skip
        drawn_s = took_s[some]
        if server.benched:  # a few loads, none of which can be spared: each is as it was, but for what a benchmark is off by
            some = np.arange(len(took_s))
            drawn_s = took_s * np.exp(_OFF_BENCHED * rng.standard_normal(len(took_s)))
        fits[i], _ = nnls(design[some] / drawn_s[:, None], np.ones(len(some)))
    whose, what = ("the benchmarks'", "loads") if server.benched else ("the log's", "stretches")
    basis = f"{whose} own steps: {len(timed[0])} {what} with drafts, {len(timed[1])} without"
    left = np.log(took_s / np.median(design @ fits.T, 1))  # parts of a sum trade places between draws: their medians do not
    misfit = _misfit(np.array(loads), np.arange(len(passes)) < len(with_drafts), left)
    if server.benched:  # one by one: of a load that another disturbed nobody knows what is right, nor of those beside it
        whole, _ = nnls(design / took_s[:, None], np.ones(len(took_s)))
        misfit = max(misfit, float(np.sqrt(np.mean(np.log(took_s / (design @ whole)) ** 2))))
    off = rng.standard_normal((DRAWS, 4))
    ran = [np.unique([max(one.running, 1e-3) for one in some]) for some in (with_drafts, without)]
    return Seen(
        np.tile(fits, (4, 1)),
        hinges,
        np.array(sizes),
        (min(loads), max(loads)),
        acceptance,
        prompts_for_each(server),
        block,
        basis,
        misfit,
        off,
        ran[0],
        ran[1],
        _waits(server.benched),
        _turns(max(sizes), len(fits) * 4, np.random.default_rng([seed, 29])),
    )


def _waits(benched: Sequence[Interval]) -> tuple[Floats, Floats]:
    """See `Seen.waits`: of benchmarks of one load the mean."""
    loads = sorted({one.running for one in benched})
    means = [float(np.mean([one.wait_s for one in benched if one.running == load])) for load in loads]
    return np.log(np.array(loads, np.float64)), np.array(means, np.float64)


def _turns(most: float, count: int, rng: np.random.Generator) -> Floats:
    """Draws of where a pass turns that was not seen to turn up to so many tokens; see `KNEE`."""
    from scipy.special import ndtr, ndtri

    middle, spread = KNEE
    below = ndtr(np.log(most / middle) / spread)
    ranks = np.clip(below + (1 - below) * rng.random(count), 0.0, 1 - 1e-12)
    return np.asarray(np.maximum(middle * np.exp(spread * ndtri(ranks)), most), np.float64)


def _fewer(stretches: list[_Stretch]) -> list[_Stretch]:
    """No more than are needed, each the mean of some of about one load and one K: a day of lines tells no more."""
    if len(stretches) <= _MOST:
        return stretches
    ordered, size = sorted(stretches, key=lambda one: (one.k, one.running)), -(-len(stretches) // _MOST)
    found = list[_Stretch]()
    for k, alike in groupby(ordered, key=lambda one: one.k):
        some = list(alike)
        for own in (some[i : i + size] for i in range(0, len(some), size)):
            running, seconds, prompts = map(float, np.mean([(one.running, one.seconds, one.prompts) for one in own], 0))
            found.append(_Stretch(running, seconds, k, prompts))
    return found


def _misfit(loads: Floats, drafts: npt.NDArray[np.bool_], off: Floats) -> float:
    """See `Seen.misfit`: of the means of up to `BINS` bins of load, with drafts and without."""
    edges = np.geomspace(loads.min(), loads.max() * 1.001, BINS + 1)
    bins = 2 * np.digitize(loads, edges) + drafts
    own = [off[bins == one] for one in np.unique(bins)]
    left = [one.mean() ** 2 - one.var(ddof=1) / len(one) for one in own if len(one) >= FEWEST]
    return float(np.sqrt(max(np.mean(left), _OFF_RUNS**2))) if left else _OFF_RUNS


@dataclass(frozen=True)
class Recorded:
    """From steps whose parts were timed: the target's pass over its tokens, convex and made of lines, and lines through the
    draft and the rest over R."""

    verify: Floats
    """[draws, 2 + hinges]: seconds of a pass, of each of its tokens, and of each beyond a hinge."""
    hinges: Floats
    """In tokens of a pass."""
    draft: Floats
    """[draws, 2]: seconds of drafting, and for each request."""
    rest: Floats
    """[draws, 2]: seconds of everything else, and for each request."""
    off: Floats
    """What the form of it is off by at k that were not served, and at loads that did not run, in standard deviations,
    [draws, 2]."""
    gamma: int
    loads: tuple[float, float]
    """Running requests of the steps, fewest and most."""
    basis: str
    knows_off: bool = True

    @property
    def reach(self) -> float:
        """See `Costs`."""
        return _REACH * self.loads[1]

    def seconds(self, k: int, running: float) -> Floats:
        """See `Costs`. The drafter makes its block in one pass, however long it is."""
        tokens, share = running * (1 + k), k / self.gamma
        passes = self.verify @ [1.0, tokens, *np.maximum(tokens - self.hinges, 0.0)] + self.rest @ [1.0, running]
        drafting = self.draft @ [1.0, running] if k else 0.0
        form, beyond = self.off.T
        off = _OFF_FORM * (1 - share) * form + share * _off_beyond(running, self.loads) * beyond
        return np.asarray((passes + drafting) * np.exp(off), np.float64)

    def with_prompts(self, for_each: float) -> None:
        """See `Costs`: steps whose parts are timed do not say which tokens were prompts'."""


def recorded(server: Server, seed: int = 0) -> Recorded | None:
    """None where too few steps have their parts timed."""
    from scipy.optimize import nnls

    if len(server.steps) < LEAST_TIMED:
        return None
    running, tokens, step_s, draft_s, verify_s = np.array(server.steps, np.float64).T
    ones, rng = np.ones(len(running)), np.random.default_rng([seed, 28])
    rest_s = np.maximum(step_s - draft_s - verify_s, 0.0)
    hinges = _hinges(np.maximum(tokens, 1.0))
    lines = [
        (np.concatenate([np.stack([ones, tokens], 1), np.maximum(tokens[:, None] - hinges, 0.0)], 1), verify_s),
        (np.stack([ones, running], 1), draft_s),
        (np.stack([ones, running], 1), rest_s),
    ]
    fits = [np.empty((DRAWS // 4, design.shape[1])) for design, _ in lines]
    for i in range(DRAWS // 4):
        some = rng.integers(len(ones), size=len(ones))
        for j, (design, seconds) in enumerate(lines):
            weight = 1 / np.maximum(step_s[some], 1e-9)
            fits[j][i], _ = nnls(design[some] * weight[:, None], seconds[some] * weight)
    verify, draft, rest = (np.tile(own, (4, 1)) for own in fits)
    basis = f"{len(ones):,} steps of the dump, their parts timed"
    loads = (float(running.min()), float(running.max()))
    return Recorded(verify, hinges, draft, rest, rng.standard_normal((DRAWS, 2)), server.gamma, loads, basis)
