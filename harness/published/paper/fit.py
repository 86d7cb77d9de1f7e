"""Step time and confidences of DeepSeek-V4, fitted to what the DSpark paper publishes of low load.

Step time. MTP-1 with N requests verifies B = 2N tokens a step and commits N·τ tokens, so N / throughput on the MTP-1 line of
Figure 8 is t(B)/τ at B = 2N. Nothing else enters the step time; a drafter's layer costs what a layer of the target does.

Confidences. logit c_k = μ + d·(k − 1) + σ·(√ρ·z + √(1 − ρ)·e_k), z common to a round: ρ, d and a first guess of σ come from
Qwen3-4B's Figure 6, then μ and σ are the maximum a posteriori on the DSpark lines at 20 ≤ N ≤ 50 requests per GPU.

Of DSpark at more than `SPLIT` requests nothing is read here: `tests/harness/test_reproduction.py` alters it and fits again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from results.published import PAPER

Floats = npt.NDArray[np.float64]
Tables = Mapping[str, pl.DataFrame]

GAMMA: Final = 5
SPLIT: Final = 50.0
"""Requests per GPU beyond which nothing of DSpark is fitted."""
TARGET_LAYERS: Final[Mapping[str, int]] = {"V4-Flash": 43, "V4-Pro": 61}
"""Layers of each target, from the models' config.json."""
DRAFT_LAYERS: Final[Mapping[str, int]] = {"dspark": 3, "mtp": 1}
"""Layers of the drafters published with these targets."""
AXES: Final[Mapping[str, tuple[str, str]]] = {
    "fig8_throughput": ("concurrent_requests", "throughput_per_gpu"),
    "fig8_budget": ("concurrent_requests", "verification_budget"),
    "fig7_frontier": ("tps_per_user", "throughput_per_gpu"),
    "fig7_anchors": ("tps_per_user", "throughput_per_gpu"),
}
"""What a published line runs over, and what it shows."""

_OTHERS: Final = (
    "fig6_histogram", "fig6_reliability", "fig8_line_vertices", "fig8_throughput_scatter_band", "fig8_budget_scatter_band",
)  # fmt: skip
_PAPER: Final = PAPER


# --- what is published ----------------------------------------------------------------------------------------------------


@cache
def paper_tables() -> Tables:
    """Files of `results/published/paper` by name."""
    return {name: pl.read_csv(_PAPER / f"{name}.csv") for name in (*AXES, *_OTHERS)}


def line(tables: Tables, name: str, model: str, method: str) -> tuple[Floats, Floats]:
    """A published line without its origin, by `AXES`; the method is MTP or DSpark."""
    x, y = (tables[name].filter(model=model, method=method)[column].to_numpy() for column in AXES[name])
    return x[x > 0], y[x > 0]


def mtp_steps(tables: Tables, model: str) -> tuple[Floats, Floats]:
    """Tokens verified in a step and t/τ in ms, at the vertices of Figure 8's MTP-1 line."""
    vertices = tables["fig8_line_vertices"].filter(
        pl.col("concurrent_requests") > 0, model=model, method="MTP", quantity="throughput_per_gpu"
    )
    requests, throughput = vertices["concurrent_requests"].to_numpy(), vertices["value"].to_numpy()
    return 2 * requests, 1e3 * requests / throughput


def mtp_tail(tables: Tables, model: str) -> tuple[Floats, Floats]:
    """The same beyond the end of that line, from Figure 7: N = throughput / TPS. Only an alternative is fitted to it."""
    tps, throughput = line(tables, "fig7_frontier", model, "MTP")
    tokens = 2 * throughput / tps
    beyond = tokens > mtp_steps(tables, model)[0].max()
    return tokens[beyond], 1e3 / tps[beyond]


def low_load_noise(tables: Tables) -> tuple[float, float]:
    """How far DSpark's lines lie from the medians of their telemetry at low load: share of throughput, tokens of budget."""
    found = []
    for name, relative in (("fig8_throughput", True), ("fig8_budget", False)):
        gaps = []
        for model in TARGET_LAYERS:
            requests, value = line(tables, name, model, "DSpark")
            requests, value = requests[requests <= SPLIT], value[requests <= SPLIT]
            cloud = tables[f"{name}_scatter_band"].filter(model=model, method="DSpark")
            middle = (cloud["concurrent_requests_lo"] + cloud["concurrent_requests_hi"]).to_numpy() / 2
            inside = (middle >= 20) & (middle <= requests[-1])
            median, at = cloud[f"{AXES[name][1]}_p50"].to_numpy(), np.interp(middle, requests, value)
            gaps.append(np.abs(median / at - 1 if relative else median - at)[inside].mean())
        found.append(float(np.mean(gaps)))
    return found[0], found[1]


# --- step time ------------------------------------------------------------------------------------------------------------


class Form(NamedTuple):
    """A family of step times over tokens, t/τ in ms."""

    at: Callable[[Floats, Sequence[float]], Floats]
    start: tuple[float, ...]
    """Parameters where a search starts, but for the first one, which starts at the first step time."""
    low: tuple[float, ...]
    high: tuple[float, ...]


FORMS: Final[Mapping[str, Form]] = {
    "affine": Form(lambda b, p: p[0] + p[1] * b, (10, 0.02), (0, 0), (99, 9)),
    "quadratic": Form(lambda b, p: p[0] + p[1] * b + p[2] * b * b, (10, 0.02, 0), (0, 0, -1), (99, 9, 1)),
    "power": Form(lambda b, p: p[0] + p[1] * b ** p[2], (10, 0.02, 1), (0, 0, 0.2), (99, 9, 2)),
    "root": Form(lambda b, p: p[0] + p[1] * b + p[2] * np.sqrt(b), (10, 0.02, 0), (0, 0, 0), (99, 9, 99)),
    "moe": Form(
        lambda b, p: p[0] + p[1] * b + p[2] * (1 - np.exp(-b / p[3])), (10, 0.02, 1, 60), (0, 0, 0, 5), (99, 9, 99, 1000)
    ),
}


def fit_form(name: str, tokens: Floats, ms: Floats) -> tuple[float, ...]:
    """Parameters for the least relative squares."""
    from scipy.optimize import least_squares

    form = FORMS[name]
    start, low = np.array([ms[0], *form.start[1:]]), np.array(form.low, float)
    found = least_squares(
        lambda p: 100 * (form.at(tokens, p) / ms - 1),
        np.clip(start, low + 1e-9, form.high),
        bounds=(low, form.high),
        x_scale=np.maximum(np.abs(start), 1e-2),
    )
    return tuple(float(x) for x in found.x)


def extrapolation_error(name: str, tables: Tables, model: str, least: float) -> float:
    """Mean error beyond 50, 60 and 70 % of the MTP-1 line of a fit to what lies below, as a share."""
    tokens, ms = mtp_steps(tables, model)
    errors = []
    for share in (0.5, 0.6, 0.7):
        cut = share * tokens.max()
        inside, beyond = (tokens >= least) & (tokens <= cut), tokens > cut
        guess = FORMS[name].at(tokens[beyond], fit_form(name, tokens[inside], ms[inside]))
        errors.append(np.abs(guess / ms[beyond] - 1).mean())
    return float(np.mean(errors))


# --- choices and laws -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Confidence:
    """The law of a round's confidences; see the module."""

    mu: float
    """Mean logit at position 1."""
    sigma: float
    """Standard deviation of a logit."""
    decline: float
    """Added to the mean logit at each further position."""
    rho: float
    """Correlation of a round's logits."""

    def of(self, normals: Floats) -> Floats:
        """Confidences [..., γ] from independent standard normals [..., γ + 1], z first."""
        k = np.arange(normals.shape[-1] - 1)
        noise = np.sqrt(self.rho) * normals[..., :1] + np.sqrt(1 - self.rho) * normals[..., 1:]
        return np.asarray(1 / (1 + np.exp(-(self.mu + self.decline * k + self.sigma * noise))))

    def survivals(self, positions: int = GAMMA) -> Floats:
        """s_k of 4096 rounds that stand for all, always the same ones."""
        return np.asarray(np.cumprod(self.of(_normals()[:, : positions + 1]), axis=1))


@dataclass(frozen=True, slots=True)
class Choice:
    """Every decision that is no fitted number; the same for both models."""

    form: str = "power"
    """Name in `FORMS` of the family of step times."""
    layer_cost: float = 1.0
    """Time of a draft layer, in layers of the target; 0 drafts for free."""
    tau_mtp: float | None = None
    """Accepted length of MTP-1; None takes 1 + `relative` · E c_1."""
    relative: float = 0.955
    """MTP-1's first-token acceptance over DSpark's: V4-Pro, results/published/field/mtp_first_token_acceptance.csv."""
    prior_sd: float = 0.3
    """Standard deviation of the prior of log σ around Qwen3-4B's; ∞ is no prior, 0 takes Qwen3-4B's σ."""
    shape: Confidence | None = None
    """Centre of the prior, d and ρ; None fits Figure 6."""
    noise: tuple[float, float] | None = None
    """Noise of relative throughput and of the budget in tokens; None takes `low_load_noise`."""
    weight: float = 2.0
    """Points that a published line is worth: it is smoothed, and tells a level and a slope."""
    low: tuple[float, float] = (19.5, SPLIT)
    """Requests of the DSpark points that are fitted; both budget lines begin at 19.6."""
    tail: bool = False
    """Whether the step time is fitted to Figure 7's MTP-1 tail too."""
    least_tokens: float = 15.0
    """The MTP-1 line below is the edge of the paper's smoothing."""

    def __post_init__(self) -> None:
        if self.low[1] > SPLIT:
            raise ValueError(f"nothing of DSpark above {SPLIT:g} requests may be fitted")


@dataclass(frozen=True, slots=True)
class StepTime:
    """Milliseconds of a step's parts."""

    model: str
    form: str
    parameters: tuple[float, ...]
    """Parameters of the form, which is t/τ of MTP-1 over tokens, in ms, drafting included."""
    layer_cost: float
    tau_mtp: float

    def share(self, drafter: str) -> float:
        """Time of a pass of the drafter, as a share of a pass of the target over as many tokens."""
        return self.layer_cost * DRAFT_LAYERS[drafter] / TARGET_LAYERS[self.model]

    def verify_ms(self, tokens: npt.ArrayLike) -> Floats:
        """Overhead and the target's pass: MTP-1's own draft, over as many tokens, is taken out of its line."""
        at = FORMS[self.form].at(np.asarray(tokens, np.float64), self.parameters)
        return np.asarray(self.tau_mtp * at / (1 + self.share("mtp")))

    def draft_ms(self, drafter: str, requests: npt.ArrayLike, gamma: int = GAMMA) -> Floats:
        """DSpark passes γ tokens a request through its layers, MTP-1 the tokens of the pass before, two."""
        each = gamma if drafter == "dspark" else 2
        return self.share(drafter) * self.verify_ms(each * np.asarray(requests, np.float64))

    def mtp_throughput(self, requests: npt.ArrayLike) -> Floats:
        """The fitted MTP-1 line, tokens per second and GPU."""
        n = np.asarray(requests, np.float64)
        return np.asarray(1e3 * n / FORMS[self.form].at(2 * n, self.parameters))


@dataclass(frozen=True, slots=True)
class Fit:
    """What low load says of a model."""

    step: StepTime
    confidence: Confidence
    choice: Choice
    fitted_tokens: tuple[float, float]
    """Tokens in a step that the MTP-1 line reaches."""
    cost: float
    """Minus twice the log posterior, but for a constant."""

    @property
    def model(self) -> str:
        return self.step.model


def mean_field(step: StepTime, survivals: Floats, requests: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Throughput and budget of Algorithm 1 as if each request were infinitely many, at each N of `requests`.

    Positions with s_k above N·τ·t'(B)/t are admitted: where the rule that walks down the sorted survivals stops.
    """
    n = np.atleast_1d(np.asarray(requests, np.float64))
    s = np.sort(survivals.ravel())[::-1]
    pick = np.unique(np.linspace(0, len(s) - 1, 2500).astype(int))
    tau = (1 + np.cumsum(s) / len(survivals))[pick]
    budget = 1 + (pick + 1) / len(survivals)
    s = s[pick]
    drafting = step.draft_ms("dspark", n)
    found = np.empty((2, len(n)))
    for i in range(len(n)):
        ms = step.verify_ms(n[i] * budget) + drafting[i]
        slope = step.verify_ms(n[i] * budget + 0.5) - step.verify_ms(n[i] * budget - 0.5)
        gain = s * ms - n[i] * tau * slope
        stop = int(np.argmax(gain <= 0)) if (gain <= 0).any() else len(s) - 1
        share = gain[stop - 1] / (gain[stop - 1] - gain[stop]) if stop and gain[stop] <= 0 else 1.0
        at_tau, at_ms, at_budget = ((1 - share) * x[max(stop - 1, 0)] + share * x[stop] for x in (tau, ms, budget))
        found[:, i] = 1e3 * n[i] * at_tau / at_ms, at_budget
    return found[0], found[1]


# --- the fit --------------------------------------------------------------------------------------------------------------


def fit_shape(tables: Tables) -> Confidence:
    """Qwen3-4B's law from Figure 6: the histogram of survivals, read through the reliability curve before calibration."""
    from scipy.optimize import minimize

    edges, wanted = np.linspace(0, 1, 21), {}
    for k in (1, 3, 5, 7):
        weight = tables["fig6_histogram"].filter(position=k)["fraction"].to_numpy()
        curve = tables["fig6_reliability"].filter(position=k, stage="before")
        seen = np.maximum.accumulate(np.clip(curve["observed"].to_numpy(), 1e-4, 1))
        mended = np.interp(edges, [0, *curve["predicted"], 1], [0, *seen, 1])
        wanted[k] = mended, np.array([0, *np.cumsum(weight / weight.sum())])

    def law(x: Floats) -> Confidence:
        return Confidence(float(x[0]), float(np.exp(x[2])), float(x[1]), float(1 / (1 + np.exp(-x[3]))))

    def loss(x: Floats) -> float:
        s = np.sort(law(x).survivals(7), axis=0)
        misses = [np.searchsorted(s[:, k - 1], mended) / len(s) - share for k, (mended, share) in wanted.items()]
        return float(np.abs(misses).mean())

    starts = (1.5, -0.2, 0.3, 0.0), (1.2, -0.3, 0.2, 0.8), (1.8, -0.1, 0.6, -1.0)
    tries = [minimize(loss, s, method="Nelder-Mead", options={"maxiter": 600, "fatol": 1e-6}) for s in starts]
    return law(min(tries, key=lambda found: float(found.fun)).x)


def settled(choice: Choice, tables: Tables) -> Choice:
    """With the shape and the noise that the tables give, where none are chosen."""
    return replace(choice, shape=choice.shape or fit_shape(tables), noise=choice.noise or low_load_noise(tables))


def fit_model(model: str, tables: Tables, choice: Choice) -> Fit:
    """Step time from the MTP-1 line; μ and σ from DSpark's lines at low load."""
    from scipy.optimize import minimize

    choice = settled(choice, tables)
    assert choice.shape is not None
    assert choice.noise is not None
    shape, noise = choice.shape, choice.noise
    step, fitted_tokens = _fit_step(model, tables, choice)
    (n_t, throughput), (n_b, budget) = (
        _low(line(tables, f, model, "DSpark"), choice) for f in ("fig8_throughput", "fig8_budget")
    )

    def law(x: Floats) -> Confidence:
        return replace(shape, mu=float(x[0]), sigma=shape.sigma * float(np.exp(x[1])) if choice.prior_sd else shape.sigma)

    def cost(x: Floats) -> float:
        survivals = law(x).survivals()
        engine = _with_tau(step, survivals, choice)
        off_t = mean_field(engine, survivals, n_t)[0] / throughput - 1
        off_b = mean_field(engine, survivals, n_b)[1] - budget
        prior = (x[1] / choice.prior_sd) ** 2 if choice.prior_sd else x[1] ** 2  # unused, σ is fixed: ends the search
        return float(choice.weight * ((off_t**2).mean() / noise[0] ** 2 + (off_b**2).mean() / noise[1] ** 2) + prior)

    x, least = np.array([1.6, 0.0]), np.inf
    for reach in (0.3, 0.1):
        simplex = np.vstack([x, x + reach * np.eye(2)])
        options = {"maxiter": 600, "xatol": 1e-4, "fatol": 1e-6, "initial_simplex": simplex}
        found = minimize(cost, x, method="Nelder-Mead", options=options)
        x, least = found.x, float(found.fun)
    return Fit(_with_tau(step, law(x).survivals(), choice), law(x), choice, fitted_tokens, least)


def _fit_step(model: str, tables: Tables, choice: Choice) -> tuple[StepTime, tuple[float, float]]:
    tokens, ms = mtp_steps(tables, model)
    tokens, ms = tokens[tokens >= choice.least_tokens], ms[tokens >= choice.least_tokens]
    if choice.tail:
        tokens, ms = (np.concatenate(pair) for pair in zip((tokens, ms), mtp_tail(tables, model), strict=True))
    step = StepTime(model, choice.form, fit_form(choice.form, tokens, ms), choice.layer_cost, 1.0)
    return step, (float(tokens.min()), float(tokens.max()))


def _with_tau(step: StepTime, survivals: Floats, choice: Choice) -> StepTime:
    tau = 1 + choice.relative * float(survivals[:, 0].mean()) if choice.tau_mtp is None else choice.tau_mtp
    return replace(step, tau_mtp=tau)


def _low(points: tuple[Floats, Floats], choice: Choice) -> tuple[Floats, Floats]:
    inside = (points[0] >= choice.low[0]) & (points[0] <= choice.low[1])
    return points[0][inside], points[1][inside]


@cache
def _normals() -> Floats:
    """Quasi-random standard normals, [4096, 8]."""
    from scipy.stats import norm, qmc

    return np.asarray(norm.ppf(qmc.Sobol(8, rng=1).random_base2(12)))
