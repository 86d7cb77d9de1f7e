"""Dense traces for Qwen3-4B made from published curves alone, for those who cannot record the pair themselves.

Every anchor t and draft position k has a latent ease, level + spread · (response + token + anchor + own part): the parts
are independent standard normals whose shares of the variance sum to 1. Monotone curves turn ease into the confidence c
and into the true conditional acceptance P, which lies below c where c is overconfident. β is drawn with mean P given the
ease, and wide: half the time it is 0 or 1. A token's part of the ease and its luck, which decides where in its range β
falls, are the same for all anchors and drafters that try the token. A replay tries a token at most once, so acceptances
of one replay are independent given the ease, and expectations over luck and coins can be computed: see `_visits`.

`fit` chooses curves, shares and spreads to match Figures 5 and 6, and levels to match Figure 2 and Table 1. What it found
ships as `synthesis_qwen3_4b.json`; `python -m harness.published.synthesis` derives that file anew in two minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from results.published import PAPER, PAPER_DATASETS, PAPER_DRAFTERS, PAPER_TARGET
from simulator.errors import InputError
from simulator.records import Anchors
from simulator.traces import Trace, TracedResponse

Floats = npt.NDArray[np.float64]

SOURCES: Final = (
    "dspark, dflash, eagle3: DSpark paper (2026), Qwen3-4B, temperature 1, block 7: conditional acceptance by domain and "
    "position (Figure 2), accepted length by data set (Table 1)",
    "confidences of dspark: same paper, threshold sweep (Figure 5), survival before calibration on Alpaca (Figure 6)",
    "mtp: position 1 of Eagle3 (also one autoregressive layer) in Figure 2, data sets differing as in Table 1: the paper "
    "has no MTP-1 for Qwen3-4B. Against results/published/field/mtp_first_token_acceptance.csv, other models: math "
    ".81 lies "
    "between GSM8K's .70 and .84, code .77 below coding's .79 to .93; nothing there to hold chat's .53 against",
)
"""Where the numbers come from."""
ASSUMPTIONS: Final = (
    "synthetic: no model was run, and only published averages are matched",
    "for each seed the levels are trimmed until the traces replay to Figure 2 and Table 1: seeds differ less than samples",
    "responses differ in ease by 5 % of the variance and neighbouring tokens correlate by .8: no publication tells",
    "β is 0 or 1 half the time and u^((1 − P)/P), u uniform, otherwise: only its mean P given the confidence is published",
    "domains differ in level and spread, data sets in level, Alpaca for dspark also in slope over positions (Figure 6)",
    "drafters share responses, tokens, their luck and coins; dflash, eagle3 and mtp have the curves and spreads of dspark",
    "responses are all of one length and cut by the length limit; prompts are as long as in the public data sets",
)
"""What no publication says and the traces yet contain."""

TASKS: Final[Mapping[str, tuple[str, int, float]]] = {
    "gsm8k": ("math", 90, 0.29), "math500": ("math", 76, 0.48), "aime25": ("math", 123, 0.66),
    "mbpp": ("code", 40, 0.35), "humaneval": ("code", 143, 0.39), "livecodebench": ("code", 476, 0.27),
    "mt-bench": ("chat", 66, 0.82), "alpaca": ("chat", 43, 0.86), "arena-hard-v2": ("chat", 72, 1.33),
}  # fmt: skip
"""Task → domain, median prompt tokens and standard deviation of their logarithm: characters / 4 of the data sets, + 20."""
DOMAINS: Final = ("math", "code", "chat")
PANELS: Final = ("gsm8k", "humaneval", "mt-bench")
"""Tasks of Figure 5's panels, in the order of DOMAINS."""
POSITIONS: Final = (1, 3, 5, 7)
"""Draft positions that Figure 6 shows, counted from 1."""

RESPONSE: Final = 0.05
"""Share of the variance of ease that is common to a response: assumed."""
PERSISTENCE: Final = 0.8
"""Correlation of neighbouring tokens' parts: assumed; .5 to .97 fit as well."""
GROWTH: Final = 0.3
"""The spread at position k is 1 + GROWTH · (k − 1) times that at position 1: .2 fits worse, more no better."""
SHARP: Final = 0.5
"""Share of β that are 0 or 1: assumed."""
INTERCEPT: Final = -0.05
"""logit P − slope · logit c, later positions: lower fits Figure 5 better, but temperatures mend less than Figure 6 says."""

_DOMAIN: Final = np.array([DOMAINS.index(domain) for domain, _, _ in TASKS.values()])
_ALPACA: Final = list(TASKS).index("alpaca")
_FILE: Final = Path(__file__).with_name("synthesis_qwen3_4b.json")
_PAPER: Final = PAPER


class ConfidenceCurve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """logit c and logit P by ease, at knots; straight lines in between."""

    ease: list[float]
    confidence: list[float]
    acceptance: list[float]


class Levels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How easy a drafter finds what."""

    domains: list[list[float]]
    """By domain, in the order of DOMAINS, and position, [3][γ]."""
    tasks: list[float]
    """Added by task, in the order of TASKS; 0 on average in a domain."""


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `fit` found."""

    sources: tuple[str, ...]
    errors: dict[str, float]
    """Largest misses, expected over luck and coins; of levels in units of .01 of an α or 4 % of a τ."""
    first: ConfidenceCurve
    """At position 1; `later` is for the others."""
    later: ConfidenceCurve
    token: float
    """Share of the variance of ease common to the anchors that try a token."""
    anchor: float
    """Share common to the positions of an anchor."""
    spread: list[float]
    """Standard deviation of ease at position 1 by domain; chat's is 1."""
    tilt: float
    """By how much Alpaca's ease for dspark falls from position 1 to 4, and from 4 to 7."""
    levels: dict[str, Levels]
    """By drafter."""


@dataclass(frozen=True, slots=True)
class PaperValues:
    """The paper's values for Qwen3-4B."""

    acceptance: Mapping[str, Floats]
    """Figure 2 by drafter, [3, γ]; mtp as said in SOURCES."""
    tau: Mapping[str, Floats]
    """Table 1 by drafter, tokens per round, [9]; none for mtp."""
    sweep: Floats
    """Figure 5: τ and ℓ + 1 at thresholds 0, .1, … .9, [3 panels, 10, 2]."""
    weight: Floats
    """Figure 6 before calibration: share of anchors by survival, [4 positions, 20 bins]; as the next two."""
    predicted: Floats
    observed: Floats


@cache
def paper_values() -> PaperValues:
    """From `results/published/paper`."""
    names = "fig2_conditional_acceptance", "table1_accepted_length", "fig5_threshold", "fig6_histogram", "fig6_reliability"
    fig2, table1, fig5, histogram, reliability = (pl.read_csv(_PAPER / f"{name}.csv") for name in names)
    tau, acceptance = {}, {}
    for name, title in PAPER_DRAFTERS.items():
        mine = fig2.filter(drafter=title).sort("position")
        acceptance[name] = np.array([mine.filter(domain=d.title())["cond_acceptance"] for d in DOMAINS])
        rows = table1.filter(target=PAPER_TARGET, drafter=title)
        tau[name] = np.array([rows.filter(dataset=PAPER_DATASETS[task])["tau"].item() for task in TASKS])
    acceptance["mtp"] = acceptance["eagle3"][:, :1]
    panels = [fig5.filter(domain=d.title()).sort("threshold") for d in DOMAINS]
    sweep = np.array([panel.select("accepted_tokens", "total_tokens") for panel in panels])
    before = [reliability.filter(position=k, stage="before").sort("predicted") for k in POSITIONS]
    weight = np.array([histogram.filter(position=k).sort("bin_left")["fraction"] for k in POSITIONS])
    predicted, observed = (np.array([b[column] for b in before]) for column in ("predicted", "observed"))
    return PaperValues(acceptance, tau, sweep, weight, predicted, observed)


class _Sample:
    """What the drafters share: responses, task by task, of `tokens` tokens each, the tokens' luck, and coins."""

    def __init__(self, rng: np.random.Generator, per_task: int, tokens: int, gamma: int) -> None:
        self.task = np.repeat(np.arange(len(TASKS)), per_task)
        self.domain = _DOMAIN[self.task]
        self.response = rng.standard_normal((len(self.task), 1, 1))
        ease = rng.standard_normal((len(self.task), tokens + gamma))
        for j in range(1, tokens + gamma):
            ease[:, j] = PERSISTENCE * ease[:, j - 1] + np.sqrt(1 - PERSISTENCE**2) * ease[:, j]
        # Position k (from 0) of anchor i stands for token i + 1 + k; the last ones lie beyond the response.
        tried = np.arange(tokens - 1)[:, None] + 1 + np.arange(gamma)
        self.token = ease[:, tried]
        self.luck = rng.random((len(self.task), tokens + gamma))[:, tried]
        self.coin = rng.random(self.luck.shape)

    def ease(self, given: Parameters, drafter: str, rng: np.random.Generator) -> Floats:
        """Ease of every token that one drafter drafts, but for the drafter's levels, [responses, anchors, γ]."""
        gamma = len(given.levels[drafter].domains[0])
        anchor = rng.standard_normal((*self.token.shape[:2], 1))
        own = rng.standard_normal((*self.token.shape[:2], gamma))
        parts = np.sqrt(RESPONSE) * self.response + np.sqrt(given.token) * self.token[..., :gamma]
        parts += np.sqrt(given.anchor) * anchor + np.sqrt(1 - RESPONSE - given.token - given.anchor) * own
        spread = np.array(given.spread)[self.domain][:, None] * (1 + GROWTH * np.arange(gamma))
        tilted = (self.task == _ALPACA)[:, None] & (drafter == "dspark")
        return np.asarray(spread[:, None] * parts - (tilted * given.tilt * (np.arange(gamma) - 3) / 3)[:, None])

    def at(self, levels: Levels) -> Floats:
        """Levels of the responses, [responses, 1, γ]."""
        return np.asarray((np.array(levels.domains)[self.domain] + np.array(levels.tasks)[self.task][:, None])[:, None])

    def by_domain(self, weights: Floats) -> Floats:
        """Sums of [responses, anchors, γ], [3, γ]."""
        return np.array([weights[self.domain == d].sum((0, 1)) for d in range(len(DOMAINS))])


def _curves(given: Parameters, ease: Floats) -> tuple[Floats, Floats]:
    """c and P from ease [..., γ]."""

    def along(name: str) -> Floats:
        first = np.interp(ease[..., :1], given.first.ease, getattr(given.first, name))
        logit = np.concatenate([first, np.interp(ease[..., 1:], given.later.ease, getattr(given.later, name))], -1)
        return np.asarray(1 / (1 + np.exp(-logit)))

    return along("confidence"), along("acceptance")


def _visits(chance: Floats, verified: npt.NDArray[np.int64] | None = None) -> tuple[Floats, Floats]:
    """How often a replay stands at each anchor, [responses, anchors], and there P(a ≥ k), [responses, anchors, γ].

    Expected at acceptances of `chance` P, [responses, anchors, γ]; the replay itself where these are 0 and 1. `verified`
    is ℓ by anchor, γ if not given.
    """
    survival = np.asarray(np.cumprod(chance, -1), np.float64)
    kept = survival if verified is None else survival * (np.arange(chance.shape[-1]) < verified[..., None])
    edges = np.concatenate([np.ones_like(kept[..., :1]), kept, np.zeros_like(kept[..., :1])], -1)
    commits = np.ascontiguousarray((edges[..., :-1] - edges[..., 1:]).transpose(1, 2, 0))
    anchors, width, responses = commits.shape
    visits = np.zeros((anchors + width, responses))
    visits[0] = 1
    for t in range(anchors):
        visits[t + 1 : t + 1 + width] += visits[t] * commits[t]
    return visits[:anchors].T, survival


def _levels(
    chance: Callable[[Floats], Floats], sample: _Sample, drafter: str, start: Levels, *, rounds: int, reach: float
) -> tuple[Levels, float]:
    """Levels within `reach` of `start` whose replay at ℓ = γ comes closest to the published values, by Newton's method.

    `chance` gives P, [responses, anchors, γ], at levels [responses, 1, γ]. Also returned is the largest miss, in units of
    .01 of an acceptance or 4 % of a τ.
    """
    acceptance, tau = paper_values().acceptance[drafter], paper_values().tau.get(drafter)
    now, best, least = start, start, np.inf
    for _ in range(rounds):
        p = chance(at := sample.at(now))
        visits, survival = _visits(p)
        reached = visits[..., None] * np.concatenate([np.ones_like(p[..., :1]), survival[..., :-1]], -1)
        total = np.maximum(sample.by_domain(reached), 1e-9)
        misses = acceptance - sample.by_domain(reached * p) / total
        slopes = sample.by_domain(reached * (chance(at + 0.1) - chance(at - 0.1))) / total / 0.2
        miss, change = np.abs(misses).max() / 0.01, np.zeros(len(TASKS))
        if tau is not None:  # Figure 2 fixes the mean of a domain, Table 1 only how its data sets differ
            got = np.bincount(sample.task) * visits.shape[1] / np.bincount(sample.task, visits.sum(1))
            sought = tau * np.array([(got / tau)[d == _DOMAIN].mean() for d in _DOMAIN])
            miss, change = max(miss, np.abs(sought / got - 1).max() / 0.04), (sought - got) / np.maximum(sought - 1, 0.1)
        if miss < least:
            best, least = now, miss
        if least < 0.04:
            break
        domains = now.domains + np.clip(misses / np.maximum(slopes, 0.05), -0.5, 0.5) - start.domains
        tasks = now.tasks + np.clip(change, -0.3, 0.3) - start.tasks
        tasks = np.clip(tasks - [tasks[d == _DOMAIN].mean() for d in _DOMAIN], -reach, reach)
        now = Levels((start.domains + np.clip(domains, -reach, reach)).tolist(), (start.tasks + tasks).tolist())
    return best, float(least)


def synthesize(seed: int, *, responses_per_task: int = 40, output_tokens: int = 512) -> list[Trace]:
    """Traces of dspark (with confidences), dflash and eagle3 at γ = 7 and mtp at γ = 1, all of the same responses.

    Samples much smaller than the default come less close to the published values: too few rounds reach position 7.
    """
    if responses_per_task < 1 or output_tokens < 2:
        raise InputError("synthetic traces need at least one response a task and two tokens a response")
    given = msgspec.json.decode(_FILE.read_bytes(), type=Parameters)
    shared, prompts, *own = np.random.default_rng(seed).spawn(2 + len(given.levels))
    sample = _Sample(shared, responses_per_task, output_tokens, max(len(a.domains[0]) for a in given.levels.values()))
    responses = []
    for task, (domain, median, spread) in TASKS.items():
        lengths = np.maximum(8, median * np.exp(spread * prompts.standard_normal(responses_per_task)))
        responses += [TracedResponse(task, domain, f"{task}/synth-{i}", 0, int(n)) for i, n in enumerate(lengths)]
    offsets = np.arange(len(responses) + 1, dtype=np.int64) * (output_tokens - 1)
    names = zip(given.levels, own, strict=True)
    return [Trace(name, tuple(responses), offsets, _anchors(name, given, sample, rng)) for name, rng in names]


def _anchors(drafter: str, given: Parameters, sample: _Sample, rng: np.random.Generator) -> Anchors:
    """One drafter's record of the sample, its levels trimmed until it replays to the published values."""
    ease = sample.ease(given, drafter, rng)
    gamma = ease.shape[-1]
    luck, coin = sample.luck[..., :gamma], sample.coin[..., :gamma]
    sharp = rng.random(luck.shape) < SHARP
    # β below is above the coin where logit P is above this:
    needed = np.where(sharp, np.log1p(-luck) - np.log(luck), np.log(np.log(luck) / np.log(coin)))
    for k in range(gamma):
        curve = given.later if k else given.first
        needed[..., k] = np.interp(needed[..., k], curve.acceptance, curve.ease, left=-np.inf, right=np.inf)
    needed -= ease
    levels, _ = _levels(
        lambda at: np.asarray(at > needed, np.float64), sample, drafter, given.levels[drafter], rounds=15, reach=0.5
    )
    confidence, chance = _curves(given, ease + sample.at(levels))
    beta = np.where(sharp, luck > 1 - chance, luck ** ((1 - chance) / chance)).astype(np.float32)
    accepted = (coin < beta).cumprod(-1).sum(-1).astype(np.uint8).ravel()
    told = confidence.astype(np.float32).reshape(-1, gamma) if drafter == "dspark" else None
    return Anchors(np.full(len(accepted), gamma, np.uint8), accepted, beta.reshape(-1, gamma), told)


_START: Final = np.array([*np.log([0.2, 0.25, 0.6, 0.6, 0.7, 0.6, 1.0, 2.0, 3.0, 3.0]), 0.4])
"""Logarithms of token and anchor share, spread of math and code, slope of P, slopes of the later curve; the tilt."""


def _first_curve(data: PaperValues) -> ConfidenceCurve:
    """From Figure 6: at position 1 the confidence is the survival, and its histogram gives its quantiles."""
    edges = np.arange(1, 20) / 20
    logit, ease = np.log(edges / (1 - edges)), np.array([NormalDist().inv_cdf(u) for u in np.cumsum(data.weight[0])[:-1]])
    # Past the last edge the curve is so steep that the last bin has its published mean of .990.
    fall, rise = (logit[1] - logit[0]) / (ease[1] - ease[0]), 4.75
    confidence = np.array([logit[0] - 6 * fall, *logit, logit[-1] + 8 * rise])
    x, y = (np.log(v[1:] / (1 - v[1:])) for v in (data.predicted[0], data.observed[0]))  # bin 1 is nearly empty
    line = np.polyfit(x, y, 1, w=np.sqrt(data.weight[0] * data.observed[0] * (1 - data.observed[0]))[1:])
    knots = [ease[0] - 6, *ease, ease[-1] + 8], confidence, np.polyval(line, confidence)
    return ConfidenceCurve(*(np.round(k, 4).tolist() for k in knots))


def _parameters(free: Floats, first: ConfidenceCurve, levels: Mapping[str, Levels]) -> Parameters:
    token, anchor, math, code, slope = np.round(np.exp(free[:5]), 4).tolist()
    ease = np.array([-10.5, -2.5, -1.5, -0.75, 0.0, 0.75, 8.75])
    # Nearly flat at the low end: confidences under .1 hardly occur at any depth (Figure 5, chat). At ease 0 logit c is 2.
    logit = np.cumsum([0.0, *np.diff(ease) * [0.1, *np.exp(free[5:10])]])
    logit += 2 - logit[4]
    later = ConfidenceCurve(*(np.round(k, 4).tolist() for k in (ease, logit, slope * logit + INTERCEPT)))
    rounded = {n: Levels(np.round(v.domains, 4).tolist(), np.round(v.tasks, 4).tolist()) for n, v in levels.items()}
    return Parameters(SOURCES, {}, first, later, token, anchor, [math, code, 1.0], round(float(free[10]), 4), rounded)


def _misses(given: Parameters, sample: _Sample) -> dict[str, Floats]:
    """How far Figures 5 and 6, expected over luck and coins, are off."""
    ease = sample.ease(given, "dspark", np.random.default_rng(1)) + sample.at(given.levels["dspark"])
    data, (confidence, chance) = paper_values(), _curves(given, ease)
    sweep, (weight, observed) = np.zeros(data.sweep.shape), np.zeros((2, *data.weight.shape))
    for panel, task in enumerate(PANELS):
        mine = sample.task == list(TASKS).index(task)
        for i in range(10):
            verified = (confidence[mine] >= i / 10).cumprod(-1).sum(-1)
            visits, _ = _visits(chance[mine], verified)
            sweep[panel, i] = visits.size / visits.sum(), (visits * (verified + 1)).sum() / visits.sum()
    visits, survival = _visits(chance[sample.task == _ALPACA])
    predicted = confidence[sample.task == _ALPACA].cumprod(-1)
    for i, k in enumerate(POSITIONS):
        place = np.minimum((predicted[..., k - 1] * 20).astype(int), 19).ravel()
        weight[i] = np.bincount(place, visits.ravel(), 20)
        observed[i] = np.bincount(place, (visits * survival[..., k - 1]).ravel(), 20) / np.maximum(weight[i], 1e-9)
    return {
        "figure5_acceptance_rate": sweep[..., 0] / sweep[..., 1] - data.sweep[..., 0] / data.sweep[..., 1],
        "figure5_log_tau": np.log(sweep[..., 0] / data.sweep[..., 0]),
        "figure5_log_verified": np.log(sweep[..., 1] / data.sweep[..., 1]),
        "figure6_cumulative_share": np.cumsum(weight / visits.sum() - data.weight, 1),
        "figure6_weighted_frequency": (observed - data.observed) * np.sqrt(data.weight),
    }


def _least_squares(residuals: Callable[[Floats], Floats], at: Floats, rounds: int) -> Floats:
    """Levenberg and Marquardt's method, slopes from steps of .03."""
    here, damping = residuals(at), 0.01
    for _ in range(rounds):
        slopes = np.stack([(residuals(at + step) - here) / 0.03 for step in 0.03 * np.eye(len(at))], 1)
        normal = (slopes.T @ slopes) * (1 + damping * np.eye(len(at)))
        there = residuals(trial := at - np.linalg.solve(normal, slopes.T @ here))
        if there @ there < here @ here:
            at, here, damping = trial, there, damping / 4
        else:
            damping *= 16
    return at


def fit(rounds: int = 12) -> Parameters:
    """The parameters, from the published values alone; takes two minutes."""
    data, sample = paper_values(), _Sample(np.random.default_rng(0), 40, 512, 7)
    first, misses = _first_curve(data), dict[str, float]()
    levels = {name: Levels([[0.0] * 7] * len(DOMAINS), [0.0] * len(TASKS)) for name in data.tau}

    def solved(free: Floats, drafter: str, rounds: int) -> Parameters:
        given = _parameters(free, first, levels)
        ease = sample.ease(given, drafter, np.random.default_rng(1))
        levels[drafter], misses[f"levels_{drafter}"] = _levels(  # the next search starts from there
            lambda at: _curves(given, ease + at)[1], sample, drafter, levels[drafter], rounds=rounds, reach=np.inf
        )
        return _parameters(free, first, levels)

    def residuals(free: Floats) -> Floats:
        off = _misses(solved(free, "dspark", 8), sample)
        tolerable = 0.01, 0.02, 0.03, 0.02, 0.005
        return np.concatenate([(miss / unit).ravel() for miss, unit in zip(off.values(), tolerable, strict=True)])

    solved(_START, "dspark", 30)
    free = _least_squares(residuals, _START, rounds)
    for name in data.tau:
        solved(free, name, 30)
    # It has no published τ, so its data sets stay as far apart as Eagle3's.
    levels["mtp"] = Levels([d[:1] for d in levels["eagle3"].domains], levels["eagle3"].tasks)
    given = solved(free, "mtp", 30)
    misses |= {name: float(np.abs(miss).max()) for name, miss in _misses(given, sample).items()}
    return msgspec.structs.replace(given, errors={name: round(miss, 4) for name, miss in misses.items()})


if __name__ == "__main__":
    found = fit()
    _FILE.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    print(f"{_FILE}: {found.errors}")
