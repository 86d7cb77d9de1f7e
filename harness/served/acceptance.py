"""How often drafts of k tokens would be accepted, for every k up to the one that was served: an estimate, with its draws.

A server's rounds begin at the anchors that its own policy visits. With fewer tokens drafted they would begin elsewhere, so
that shares of rounds are an estimate of what shorter drafts would give, not a replay. Longer drafts, and other drafters, are
not in them at all. Requests differ in ease, and those that are hard take more of the rounds the more is drafted: where
requests are told apart each keeps its own tokens and its own acceptance, and takes the rounds that follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.served.by_load import Trend, covering_of, shifted, trend_of
from harness.served.compared import design
from harness.served.draft_lengths import Shortener, Tries, all_tries, explained, shares_of_length, tries_of
from harness.served.observed import Drafts, Interval, ServedRequest
from harness.served.server import Server, beside
from simulator.records import SERVED

Floats = npt.NDArray[np.float64]
LABEL: Final = SERVED
DRAWS: Final = 2000
_MORE: Final = (0.02, 0.01)
"""What averages leave out of shorter drafts, which begin more often where it is easy, and by how much that may differ: they
gave 1.7 to 2.3 % more tokens than averages say on the bundled pair (`benchmarks/served_estimates.py`)."""
_SHIFT: Final = 0.02
"""What requests' own rounds may leave out: up to 1.5 % of look-up's tokens there."""
_TILT: Final = 0.4
"""By how much, a position, the logit of the conditional acceptance may rise or fall where only an average is known: assumed;
of drafters on model cards it falls by less, of look-up it rises by more."""
_FEWEST: Final = 8
"""Requests, or stretches of a log, of which fewer say nothing of how they differ."""


@dataclass(frozen=True)
class Acceptance:
    """Shares of drafts whose position k is accepted, and of steps that have a draft, as draws of what they may be. Where the
    engine made drafts short, shares are of drafts of K tokens."""

    survival: Floats
    """[K], never rising; 0 beyond `known`."""
    coverage: float
    """Share of a request's steps with a proposal."""
    survivals: Floats
    """[draws, K]."""
    coverages: Floats
    """[draws]."""
    step_tokens: Floats
    """Tokens of a request in a step, were 0, 1, …, K tokens drafted, [K + 1]."""
    steps_tokens: Floats
    """[draws, K + 1]."""
    basis: str
    """What the intervals come from, in words."""
    clustered: bool
    """Whether requests, or stretches of time, are told apart."""
    by_position: bool
    """Whether positions are counted; else all are taken to be alike."""
    shortener: Shortener
    """Who made drafts shorter than K."""
    known: int
    """Tokens of the longest drafts of which there are enough; K unless the engine made them short."""
    longer: Floats
    """Share of drafts that would have at least k tokens, were K asked for, [K]."""
    trend: Trend | None = None
    """How it goes with the load; None where it is as good at all loads, or nobody knows."""
    covering: Trend | None = None
    """The same of `coverage`."""

    @property
    def gamma(self) -> int:
        """K that was served."""
        return len(self.survival)

    @property
    def drafted(self) -> Floats:
        """Tokens of a draft, were 0, 1, …, K drafted at most, [K + 1]."""
        return np.concatenate([[0.0], np.cumsum(self.longer)])

    def tokens(self, k: int) -> float:
        """Tokens of a request in a step, were k tokens drafted."""
        return float(self.step_tokens[k])

    def tokens_drawn(self, k: int) -> Floats:
        """[draws]."""
        return self.steps_tokens[:, k]

    def survival_at(self, running: float) -> Floats:
        """`survival` with so many requests running."""
        return self.survival if self.trend is None else shifted(self.survival[None], self.trend.shift(running))[0]

    def survivals_at(self, running: float) -> Floats:
        """`survivals` with so many requests running."""
        return self.survivals if self.trend is None else shifted(self.survivals, self.trend.shifts(running))

    def tokens_at(self, k: int, running: float) -> Floats:
        """Tokens of a request in a step with so many running, were k tokens drafted, [draws]."""
        if self.trend is None and self.covering is None:
            return self.tokens_drawn(k)
        here = 1 + self._coverages_at(running) * self.survivals_at(running)[:, :k].sum(1)
        in_all = 1 + self.coverages * self.survivals[:, :k].sum(1)
        return np.asarray(self.tokens_drawn(k) * here / in_all, np.float64)

    def coverage_at(self, running: float) -> float:
        """`coverage` with so many requests running."""
        return self.coverage if self.covering is None else self.covering.share(self.coverage, running)

    def _coverages_at(self, running: float) -> Floats:
        covering = self.covering
        return self.coverages if covering is None else shifted(self.coverages[:, None], covering.shifts(running))[:, 0]

    def lengths_drawn(self, k: int) -> Floats:
        """Tokens of a draft, [draws]."""
        return np.asarray(1 + self.survivals[:, :k].sum(1), np.float64)


def interval(draws: npt.ArrayLike) -> tuple[float, float]:
    """95 % of them."""
    low, high = np.quantile(np.asarray(draws, np.float64), [0.025, 0.975])
    return float(low), float(high)


def acceptance_of(server: Server, seed: int = 0) -> Acceptance:
    """The acceptance of a server that drafts, at least one of whose files counts drafts or states their length."""
    rng = np.random.default_rng([seed, 22])
    positions, shortener = bool(server.drafts.accepted_at), server.shortener
    drafts = server.drafts if positions else _alike(server)
    coverage = server.proposing
    units, what = _units(server) if positions else ((), "")
    tries = None
    if shortener == "engine":
        units, what = _known_units(server)
        tries = all_tries(units, server.gamma)
        drafts = _whole(tries)
    wider = design(len(drafts.survival), server.kind)
    survival = np.array(drafts.survival)
    trend = None if shortener == "engine" else trend_of(server.intervals, survival, DRAWS, rng)
    enough = len(units) >= _FEWEST
    if enough:
        survivals, coverages = _resampled(units, drafts, coverage, wider, tries, trend, rng)
        basis = f"between {len(units)} {what}"
    else:
        survivals, coverages = _assumed(drafts, coverage, wider, rng)
        times = f"{wider[0]:.1f} to {wider[-1]:.1f}" if len(wider) > 1 else f"{wider[0]:.1f}"
        basis = f"no requests told apart: rounds taken to scatter {times} times as much as independent ones"
    if not positions:
        survivals = _tilted(1 + survivals.sum(1), len(drafts.survival), rng)
    known = len(survival) if tries is None else tries.known
    longer = (np.arange(len(survival)) < known).astype(np.float64)
    if shortener in ("drafter", "unknown"):
        longer = shares_of_length(server.drafts, server.told_apart, survival)
    shorter = np.concatenate([[0.0], longer.sum() - np.cumsum(longer)]) / max(longer.sum(), 1)
    own = rng.standard_normal((DRAWS, 1))
    if enough and isinstance(units[0], ServedRequest):
        requests = [one for one in units if isinstance(one, ServedRequest)]
        step_tokens, steps_tokens = _by_request(requests, _each(requests, len(survival), tries), rng)
        steps_tokens *= 1 + _SHIFT * shorter * np.abs(own)
    else:
        step_tokens = 1 + coverage * np.concatenate([[0.0], np.cumsum(survival)])
        steps_tokens = 1 + coverages[:, None] * np.concatenate([np.zeros((DRAWS, 1)), np.cumsum(survivals, 1)], 1)
        more, spread = _MORE
        step_tokens *= 1 + more * shorter
        steps_tokens *= 1 + shorter * (more + spread * own)
        kept = _kept(server, step_tokens) if coverage == 1 and shortener == "nobody" else 1.0
        step_tokens, steps_tokens = step_tokens * kept, steps_tokens * kept
    if trend is not None:
        basis += f"; it goes with the load: {_told(trend, survival)}"
    covering = None if shortener == "engine" else _covering(server, coverage, rng)
    if covering is not None:
        ends = " and ".join(f"{covering.share(coverage, n):.0%} at {n:.0f} running" for n in covering.loads)
        basis += f"; the share of steps with a draft goes with the load: {ends}"
    return Acceptance(
        survival, coverage, survivals, coverages, step_tokens, steps_tokens, basis, enough, positions,
        shortener, known, longer, trend, covering,
    )  # fmt: skip


def _covering(server: Server, coverage: float, rng: np.random.Generator) -> Trend | None:
    """How a look-up's share of steps goes with the load, by stretches in which it was on."""
    if not server.may_be_silent:
        return None
    most = server.drafts_to  # beside the load at which drafting is switched off stretches are of both
    return covering_of(
        [one for one in server.in_order if most is None or one.running < most - beside(most)], coverage, DRAWS, rng
    )


def _kept(server: Server, step_tokens: Floats) -> Floats:
    """The share of a step's tokens that requests got, were 0, 1, …, K drafted, [K + 1]: what an end cuts counts as accepted,
    and the first token comes of no draft. Shorter drafts lose less to it; see `_each`."""
    own = [one for one in server.intervals if one.drafts is not None]
    steps, most = sum(one.request_steps for one in own), float(step_tokens[-1])
    if not steps or most <= 1:
        return np.ones(len(step_tokens))
    lost = min(max(1 - sum(one.generated for one in own) / steps / most, 0.0), 1.0)
    return np.asarray(1 - lost * (step_tokens - 1) / (most - 1), np.float64)


def _told(trend: Trend, survival: Floats) -> str:
    """What a trend comes to, in words."""
    return " and ".join(
        f"{1 + shifted(survival[None], trend.shift(running)).sum():.2f} tokens a draft at {running:.0f} running"
        for running in trend.loads
    )


def _known_units(server: Server) -> tuple[Sequence[ServedRequest | Interval], str]:
    """The requests, or stretches, of which it is known how many tokens their drafts had."""
    requests = [one for one in server.told_apart if one.output_tokens > 1 and one.drafts.drafts]
    stretches = [one for one in server.intervals if one.drafts is not None and one.request_steps > 0]
    if explained(requests, server.gamma) and len(requests) >= _FEWEST:
        return requests, "requests"
    return (stretches, "stretches of the log") if explained(stretches, server.gamma) else (requests, "requests")


def _whole(tries: Tries) -> Drafts:
    """Drafts of K tokens that say as much of the position that is known least; one where none is."""
    number = max(tries.drafts, 1.0)
    at = number * tries.survival * (np.arange(len(tries.tried)) < tries.known)
    return Drafts(
        drafts=number, drafted=number * len(at), accepted=float(at.sum()), accepted_at=tuple(at.tolist())
    )  # fmt: skip


def _each(requests: Sequence[ServedRequest], gamma: int, tries: Tries | None) -> Floats:
    """Tokens in a step of each request with its own acceptance, were k = 0, …, K drafted, [requests, K + 1]."""
    if tries is not None:
        return _each_tried(requests, gamma, tries)
    accepted = np.zeros((len(requests), gamma + 1))
    for i, one in enumerate(requests):
        at = np.array(one.drafts.accepted_at[:gamma])
        accepted[i, 1 : len(at) + 1] = np.cumsum(at)
        accepted[i, len(at) + 1 :] = at.sum()
    steps = np.maximum([[one.steps] for one in requests], 1)
    each = 1 + accepted / steps
    # What an end has cut counts as accepted: whole drafts give what the request got, shorter ones lose less to it.
    got = np.array([[max(one.output_tokens - 1, 1)] for one in requests]) / steps
    lost = np.clip(1 - got / each[:, -1:], 0.0, 1.0)
    return np.asarray(each * (1 - lost * (each - 1) / np.maximum(each[:, -1:] - 1, 1e-9)), np.float64)


def _each_tried(requests: Sequence[ServedRequest], gamma: int, tries: Tries) -> Floats:
    """The same of drafts that the engine made short; positions that a request hardly tried are as in all requests."""
    own = [tries_of(one, gamma) for one in requests]
    passed, tried = np.stack([one.passed for one in own]), np.stack([one.tried for one in own])
    survival = np.cumprod((passed + tries.passed / np.maximum(tries.tried, 1e-9)) / (tried + 1), 1)
    survival *= np.arange(gamma) < tries.known
    covered = np.array([[one.drafts.drafts / max(one.steps, 1)] for one in requests])
    return np.concatenate([np.ones((len(requests), 1)), 1 + covered * np.cumsum(survival, 1)], 1)


def _by_request(requests: Sequence[ServedRequest], each: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Tokens of a step for every k, each request with its own acceptance: its tokens over the steps that it would take."""
    tokens = np.array([one.output_tokens - 1 for one in requests], np.float64)
    n = len(requests)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS)
    steps = tokens[:, None] / each
    whole = tokens.sum() / steps.sum(0)
    drawn = (weights @ tokens)[:, None] / np.maximum(weights @ steps, 1e-9)
    return whole, np.maximum(whole + np.sqrt(n / (n - 1)) * (drawn - whole), 1.0)


def _alike(server: Server) -> Drafts:
    """Drafts whose positions nobody counted, all positions alike."""
    from simulator.averages import Averages

    gamma = max(server.gamma, 1)
    known = server.drafts.drafts
    averages = Averages.of_accepted_length(min(max(server.length, 1.0), gamma + 1.0), gamma)
    number = known or 100.0  # an average alone: taken to be of so many drafts
    accepted = number * (averages.accepted_length - 1)
    at = tuple(number * share for share in averages.survival)
    return Drafts(drafts=number, drafted=max(number * gamma, accepted), accepted=accepted, accepted_at=at)


def _tilted(lengths: Floats, gamma: int, rng: np.random.Generator) -> Floats:
    """Survivals that give so many tokens a draft, [draws, γ], of conditional acceptances that rise or fall along the draft
    as much as nobody knows: in logits, evenly."""
    tilt = _TILT * rng.standard_normal((len(lengths), 1)) * np.arange(gamma)
    wanted = np.clip(lengths - 1, 1e-6, gamma - 1e-6)
    low, high = np.full((len(lengths), 1), -60.0), np.full((len(lengths), 1), 60.0)
    for _ in range(60):  # halves: to the last bit
        middle = (low + high) / 2
        survivals = np.cumprod(1 / (1 + np.exp(-np.clip(middle + tilt, -60, 60))), 1)
        short = survivals.sum(1, keepdims=True) < wanted[:, None]
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return np.asarray(survivals, np.float64)


def _units(server: Server) -> tuple[Sequence[ServedRequest | Interval], str]:
    """What is told apart: requests, else stretches of the log."""
    requests = [one for one in server.told_apart if one.output_tokens > 1 and one.drafts.accepted_at]
    if len(requests) >= _FEWEST:
        return requests, "requests"
    stretches = [one for one in server.intervals if one.drafts is not None and one.request_steps > 0]
    return (stretches, "stretches of the log") if len(stretches) >= len(requests) else (requests, "requests")


def _resampled(
    units: Sequence[ServedRequest | Interval], drafts: Drafts, coverage: float, design: Floats, tries: Tries | None,
    trend: Trend | None, rng: np.random.Generator,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Bootstrap over units: what they vary by, around what was counted in all."""
    gamma = len(drafts.survival)
    counts = np.zeros((len(units), 2 * gamma + 2))
    for i, unit in enumerate(units):
        own = unit.drafts
        steps = unit.steps if isinstance(unit, ServedRequest) else unit.request_steps
        if own is not None:
            counts[i, 0] = own.drafts
            counts[i, 1 : gamma + 1] = [own.accepted_at[k] if k < len(own.accepted_at) else 0.0 for k in range(gamma)]
        if tries is not None:
            counts[i, 1:-1] = np.concatenate([(one := tries_of(unit, gamma)).passed, one.tried])
        counts[i, -1] = steps
    n = len(units)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS)
    sums, whole = weights @ counts, counts.sum(0)
    loads = [one.running for one in units if isinstance(one, Interval)]
    shifts = np.array([trend.shift(load) if trend else 0.0 for load in loads])
    expected = shifted(np.tile(drafts.survival, (len(loads), 1)), shifts).sum(1) if loads else np.zeros(0)
    wider = np.sqrt(n / (n - 1) * (_repeated(counts, gamma, expected) if len(loads) == n else 1.0))

    def around(drawn: Floats, own: Floats | float, centre: Floats | float) -> Floats:
        return np.asarray(np.clip(centre + wider * (drawn - own), 0.0, 1.0), np.float64)

    def shares(own: Floats) -> Floats:
        if tries is None:
            return np.asarray(own[:, 1 : gamma + 1] / np.maximum(own[:, :1], 1e-9), np.float64)
        return np.asarray(np.cumprod(own[:, 1 : gamma + 1] / np.maximum(own[:, gamma + 1 : -1], 1e-9), 1), np.float64)

    survivals = around(shares(sums), shares(whole[None])[0], np.array(drafts.survival))
    covered = np.minimum(sums[:, 0] / np.maximum(sums[:, -1], 1e-9), 1.0)
    coverages = around(covered, min(whole[0] / max(whole[-1], 1e-9), 1.0), coverage) if coverage < 1 else np.ones(DRAWS)
    # Where every draft was accepted, or none, resampling shows no doubt; so many rounds leave some.
    floors, _ = _assumed(drafts, coverage, design, rng)
    flat = survivals.std(0) < floors.std(0) / np.sqrt(design)
    survivals[:, flat] = floors[:, flat]
    return np.minimum.accumulate(survivals, 1), coverages


def _repeated(counts: Floats, gamma: int, expected: Floats) -> float:
    """Stretches of a log, one after another, that tell as much as one: they hold the same requests. One and twice the sum of
    how far those so many apart go together (the integrated autocorrelation time), up to where they no longer do.

    Args:
        expected: tokens accepted of a draft at the load of each, [stretches].
    """
    drafts = np.maximum(counts[:, 0], 1e-9)
    lengths = counts[:, 1 : gamma + 1].sum(1) / drafts - expected
    left = np.sqrt(drafts) * (lengths - np.average(lengths, weights=drafts))
    whole, times = float(left @ left), 1.0
    for apart in range(1, len(left) // 4 + 1):
        together = float(left[apart:] @ left[:-apart]) / whole if whole else 0.0
        if together <= 2 / np.sqrt(len(left)):
            break
        times += 2 * together
    return times


def _no_surer(survivals: Floats, survival: Floats, rounds: float, rng: np.random.Generator) -> Floats:
    """Draws of which no position is surer than so many rounds leave of a share alone (Beta, Jeffreys' prior): where all were
    accepted, or none, a prior that is spread over K + 1 lengths says next to nothing against it. Ranks stay."""
    made = survivals.copy()
    for k, share in enumerate(survival):
        alone = np.sort(rng.beta(share * rounds + 0.5, (1 - share) * rounds + 0.5, len(made)))
        if made[:, k].std() < alone.std():
            made[np.lexsort((rng.random(len(made)), made[:, k])), k] = alone
    return made


def _assumed(drafts: Drafts, coverage: float, design: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draws of acceptance where only averages are known: drafts by how many of their tokens were accepted,
    as so many fewer independent rounds would leave them open (Dirichlet, a prior of one draft spread over 0, …, K).

    Args:
        design: how many times fewer rounds tell of tokens a draft of k = 1, …, K, [K].
    """
    survival = np.array(drafts.survival)
    shares = -np.diff(np.concatenate([[1.0], survival, [0.0]]))
    rounds = drafts.drafts / design[-1]
    counts = rng.gamma(np.maximum(shares * rounds, 0.0) + 1 / len(shares), size=(DRAWS, len(shares)))
    drawn = counts / counts.sum(1, keepdims=True)
    survivals = np.cumsum(drawn[:, ::-1], 1)[:, -2::-1]
    # Drawn at the scatter of whole drafts; that of shorter ones is less.
    tokens, known = np.cumsum(survivals, 1), np.cumsum(survival)
    tokens = known + np.sqrt(design / design[-1]) * (tokens - known)
    survivals = np.clip(np.diff(tokens, axis=1, prepend=0.0), 0.0, 1.0)
    survivals = np.minimum.accumulate(_no_surer(survivals, survival, drafts.drafts / design[0], rng), 1)
    if coverage >= 1:
        return survivals, np.ones(DRAWS)
    without = rounds * (1 / max(coverage, 1e-9) - 1)
    return survivals, rng.beta(rounds + 0.5, without + 0.5, size=DRAWS)
