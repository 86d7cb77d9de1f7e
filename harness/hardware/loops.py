"""Measured points, simulated: what a server would have been measured at under any factors on a profile's terms.

A closed loop is simulated once for every term (`harness.hardware.terms`); from then on any factors are a weighted sum. An
open one is a queue whose server shares itself: closed loops say how many answers so many requests finish a second, and how
long their tokens take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.hardware.measured import MeasuredPoint
from harness.hardware.steps import Steps, Walk, stepped
from harness.hardware.table import Metric
from harness.hardware.terms import TERMS, VARIED, Base, Factors, TermName, launched
from simulator.averages import Averages, trace_of
from simulator.drafter_kinds import KINDS
from simulator.engine.state import REQUEST, Records
from simulator.errors import InputError
from simulator.hardware.cost import Longest, StepCost, StepLoad
from simulator.hardware.profile import Profile
from simulator.load import Arrivals, Users
from simulator.plain import capacity_of, cost_of
from simulator.policies import NO_DRAFTER
from simulator.setup import EngineLimits
from simulator.simulation import Prepared, prepare

Floats = npt.NDArray[np.float64]

_BESIDE: Final = 1024
"""Tokens that a pass leaves to prompts at least."""
_ANSWERS: Final = 12
"""Answers that each user of an endless load gets, of which those in the middle count."""
_FEWEST, _MOST = 200, 3000
"""Requests of an endless load."""
_WAVES: Final = 64
"""Requests of each user of a finite client that are simulated at most, where they are more than the fewest: what so many are
about, more are."""
_MIDDLE: Final = (0.25, 0.85)
"""The middle of a load: from which share of its requests to which, by when they finish."""
_PROMPT_SPREAD: Final = 1.0
"""Coefficient of variation of the lengths of prompts: where captured sizes leave some room beside drafts, short ones fit
into it."""
_FLOORS_S: Final = (0.0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
"""What launching the kernels of a pass takes, at which the target's passes are simulated; linear in between."""
_MOST_USERS, _ROOM = 1024, 4.0
"""Closed loops behind an open one: so many users at most, and as many as finish so many times its answers by the base."""
_GROWS: Final = 1.03
"""Times as many answers a second that twice as many users are to get, to be worth a loop."""
ACCEPTED: Final = 0.75
"""The share of draft tokens, among those before which all were accepted, that is taken to be accepted where nobody knows:
published accepted lengths come to 0.6 to 0.93 (`results/published/field`: InferenceX's golden ones, vLLM's blogs)."""
_ODDS: Final = (0.15, 0.4, 0.7, 1.0, 1.5, 2.5, 6.0)
"""Odds that are simulated, in units of those."""
_TEXTS: Final = 0.5
"""Standard deviation over texts of the logarithm of the odds that a draft token is accepted: assumed."""
_LEVELS: Final = (-1.4, -0.53, 0.0, 0.53, 1.4)
"""Texts, in standard deviations: five as likely ones."""
_LENGTHS: Final = 20
"""Different lengths of answers, and of prompts, as likely ones."""
_RESPONSES, _TOKENS = 100, 400
"""Answers and tokens of the traces that requests walk."""


@dataclass(frozen=True, slots=True)
class Served:
    """A closed loop, served: its times under any factors."""

    users: int
    tokens: Floats
    """Tokens of each answer."""
    finite: bool
    parts: Mapping[TermName, Walk]
    floors: tuple[Walk, ...]
    """What launching adds, where it takes each of `_FLOORS_S`; empty where no pass has to be launched."""
    launch_s: float
    """What a factor of 1 on launching stands for."""
    outside: float
    """The share of its steps that are larger than any captured size."""

    def running(self, factors: Factors) -> float:
        """Requests that run at once."""
        return self.users

    def times(self, factors: Factors) -> Walk:
        """All requests' times."""
        walks = [(factors[name], walk) for name, walk in self.parts.items()]
        if self.floors:
            walks.append((factors["target"], self._launches(factors)))
        return Walk(*(np.sum([factor * walk[i] for factor, walk in walks], 0) for i in range(2)))

    def _middle(self, requests: int) -> tuple[int, int]:
        """Where the middle of an endless load begins and ends: as many answers of each user, for they may end together."""
        begin, end = (max(round(share * requests / self.users), 1) for share in _MIDDLE)
        return begin * self.users, max(end, begin + 1) * self.users

    def _launches(self, factors: Factors) -> Walk:
        floor_s = min(factors["launch"] * self.launch_s / factors["target"], _FLOORS_S[-1])
        right = min(max(int(np.searchsorted(_FLOORS_S, floor_s)), 1), len(_FLOORS_S) - 1)
        share = (floor_s - _FLOORS_S[right - 1]) / (_FLOORS_S[right] - _FLOORS_S[right - 1])
        low, high = self.floors[right - 1], self.floors[right]
        return Walk(*(below + share * (above - below) for below, above in zip(low, high, strict=True)))

    def value(self, metric: Metric, factors: Factors, gpus: int) -> float:
        """What would be measured."""
        first_s, finish_s = self.times(factors)
        order = np.argsort(finish_s, kind="stable")
        begin, end = (0, len(order)) if self.finite else self._middle(len(order))
        counted = order[begin:end]
        if metric in ("output_tok_s", "output_tok_s_per_gpu"):
            since_s = 0.0 if self.finite else float(finish_s[order[begin - 1]])
            rate = float(self.tokens[counted].sum()) / max(float(finish_s[order[end - 1]]) - since_s, 1e-12)
            return rate / (gpus if metric == "output_tok_s_per_gpu" else 1)
        each_ms = 1e3 * (finish_s - first_s)[counted] / np.maximum(self.tokens[counted] - 1, 1)
        return float(np.median(each_ms) if metric == "tpot_ms" else each_ms.mean())


@dataclass(frozen=True, slots=True)
class Open:
    """Arrivals at random, on a server that shares itself among whom it serves.

    With r(n) answers finished a second of n requests and λ arrivals, n are there with a probability in proportion to
    Π λ / r(i), i = 1..n, whatever the lengths of answers are (Kelly, Reversibility and Stochastic Networks, 1979,
    chapter 3); who comes finds that many, and is one more.
    """

    rate: float
    """λ, a second."""
    output_tokens: int
    """Mean of an answer."""
    users: tuple[int, ...]
    loops: tuple[Served, ...]
    """Closed, of so many users; a smooth curve in between on logarithmic scales."""

    def value(self, metric: Metric, factors: Factors, gpus: int) -> float:
        """What would be measured. At more than can be answered the largest loop's own."""
        if metric in ("output_tok_s", "output_tok_s_per_gpu"):
            most = self.loops[-1].value("output_tok_s", factors, gpus)
            return min(self.rate * self.output_tokens, most) / (gpus if metric == "output_tok_s_per_gpu" else 1)
        found = self._found(factors)
        there = self._between([loop.value(metric, factors, gpus) for loop in self.loops])
        return float(found @ there)

    def most_per_s(self, factors: Factors) -> float:
        """Answers a second that the largest loop finishes: at more arrivals, ever more wait."""
        return self.loops[-1].value("output_tok_s", factors, 1) / self.output_tokens

    def running(self, factors: Factors) -> float:
        """Requests that run at once, as who comes finds it, himself included."""
        return float(self._found(factors) @ np.arange(1, self.users[-1] + 1))

    @property
    def outside(self) -> float:
        """The share of steps that are larger than any captured size, of as many requests as run by the base."""
        running = self.running(dict.fromkeys(TERMS, 1.0))
        return float(np.interp(np.log(running), np.log(self.users), [loop.outside for loop in self.loops]))

    def _found(self, factors: Factors) -> Floats:
        """Probabilities that who comes is one of 1, 2, … who run; all that wait are taken to find the most."""
        finished = self._between([loop.value("output_tok_s", factors, 1) for loop in self.loops]) / self.output_tokens
        if self.rate >= finished[-1]:
            return np.append(np.zeros(self.users[-1] - 1), 1.0)
        logs = np.concatenate([[0.0], np.cumsum(np.log(self.rate / finished))])
        here = np.exp(logs - logs.max())  # 0, 1, …, N requests
        here[-1] /= 1 - self.rate / finished[-1]  # N and more
        found = here[:-1]
        found[-1] += here[-1]
        return np.asarray(found / found.sum(), np.float64)

    def _between(self, values: Sequence[float]) -> Floats:
        """For 1, 2, … users."""
        from scipy.interpolate import PchipInterpolator

        if len(self.users) == 1:
            return np.array(values, np.float64)
        every = np.log(np.arange(1, self.users[-1] + 1))
        return np.asarray(np.exp(PchipInterpolator(np.log(self.users), np.log(values))(every)), np.float64)


@dataclass(frozen=True, slots=True)
class Unsure:
    """A load whose drafts are accepted nobody knows how often, served for several odds; straight in between."""

    kind: str
    loops: tuple[Served | Open, ...]
    """For each of `_ODDS`."""

    def most_per_s(self, factors: Factors) -> float:
        """See `Open`, which its loops have to be."""
        loop = self.loops[len(_ODDS) // 2]
        assert isinstance(loop, Open)
        return loop.most_per_s(factors)

    def running(self, factors: Factors) -> float:
        """Requests that run at once, whatever is accepted, roughly."""
        return self.loops[len(_ODDS) // 2].running(factors)

    @property
    def outside(self) -> float:
        """The share of steps that are larger than any captured size, roughly."""
        return self.loops[len(_ODDS) // 2].outside

    def value(self, metric: Metric, factors: Factors, gpus: int) -> float:
        """What would be measured."""
        odds = min(max(factors[acceptance_of(self.kind)], _ODDS[0]), _ODDS[-1])
        right = min(max(int(np.searchsorted(_ODDS, odds)), 1), len(_ODDS) - 1)
        share = np.log(odds / _ODDS[right - 1]) / np.log(_ODDS[right] / _ODDS[right - 1])
        low, high = (np.log(self.loops[i].value(metric, factors, gpus)) for i in (right - 1, right))
        return float(np.exp(low + share * (high - low)))


def acceptance_of(kind: str) -> str:
    """What the odds are called that a draft token of a kind is accepted, where nobody knows them."""
    return f"acceptance of {kind}"


@dataclass(frozen=True, slots=True)
class Timed:
    """One step, timed at a context."""

    users: int
    seconds: Mapping[TermName, float]
    outside: float
    """1 where it is larger than any captured size, else 0."""

    def running(self, factors: Factors) -> float:
        """Requests in it."""
        return self.users

    def value(self, metric: Metric, factors: Factors, gpus: int) -> float:
        """Milliseconds."""
        return 1e3 * sum(factors[name] * seconds for name, seconds in self.seconds.items())


@dataclass(frozen=True, slots=True)
class Kept:
    """What bases of one profile share, by what it depends on."""

    steps: dict[object, Steps] = field(default_factory=dict)
    walks: dict[object, Walk] = field(default_factory=dict)


_OF_DRAFTS: Final = ("draft", "draft_pass", "draft_request")
_ELSEWHERE: Final = ("step", "request", "context", "variety", *_OF_DRAFTS)
"""Terms that have no part in passes of the target: the same whatever is captured."""


def serve(point: MeasuredPoint, base: Base, kept: Kept | None = None, seed: int = 0) -> Served:
    """A point's closed loop, simulated once, and what every term makes of it."""
    assert isinstance(point.load, Users), point
    rng, users = np.random.default_rng([seed, point.load.users]), point.load.users
    recorded = recorded_of(point)
    step_tokens = max(base.step_tokens, users * (recorded.trace.gamma + 1) + _BESIDE)
    room = capacity_of(base.profile, point.policy, recorded.trace)
    asked = _requests(point, recorded, room, base.answers, rng)
    limits = EngineLimits(request_cap=users, step_tokens=step_tokens)

    def cost(profile: Profile) -> StepCost:
        return cost_of(profile, point.policy, recorded.trace, users, step_tokens)

    kept, key = kept or Kept(), (point.line, point.load, point.averages, step_tokens, room, base.answers)
    if key not in kept.steps:
        kept.steps[key] = stepped(recorded, point.policy.bind(cost(base.profile)), asked, users, limits, room, seed)
    steps = kept.steps[key]

    def walk(of: object, made: Callable[[], Profile]) -> Walk:
        if (key, of) not in kept.walks:
            kept.walks[key, of] = steps.walk(cost(made()))
        return kept.walks[key, of]

    def part(name: TermName) -> Walk:
        hangs_on = base.captured if name not in _ELSEWHERE else name == "draft_pass" and point.kind in base.one_by_one
        return walk((name, hangs_on), lambda: base.parts[name])

    def floor(seconds: float) -> Walk:
        return walk((seconds, base.captured), lambda: launched(base, seconds))

    drafting = point.policy != NO_DRAFTER
    names = [name for name in base.linear if drafting or name not in _OF_DRAFTS]
    floors = tuple(floor(seconds) for seconds in _FLOORS_S) if base.launch_s else ()
    parts = {name: part(name) for name in names}
    tokens = asked["output_tokens"].astype(np.float64)
    outside = steps.larger_than(base.captured)
    return Served(users, tokens, point.requests is not None, parts, floors, base.units["launch"], outside)


def opened(point: MeasuredPoint, base: Base, kept: Kept | None = None) -> Open:
    """A point's arrivals, by closed loops of 1, 2, 4, … users, as many as leave room for the profile to be wrong."""
    assert isinstance(point.load, Arrivals), point
    base = replace(base, answers=VARIED)  # who comes at random is in step with nobody
    ones: dict[str, float] = dict.fromkeys(TERMS, 1.0)
    users, loops = [1], [serve(replace(point, load=Users(1)), base, kept)]
    rate, answered = point.load.rate_per_s, list[float]()
    while users[-1] < _MOST_USERS:
        answered.append(loops[-1].value("output_tok_s", ones, 1) / point.output_tokens)
        if answered[-1] > _ROOM * rate or (len(answered) > 1 and answered[-1] < _GROWS * answered[-2]):
            break  # there is room enough, or more users wait for what contexts leave
        users.append(2 * users[-1])
        loops.append(serve(replace(point, load=Users(users[-1])), base, kept))
    return Open(rate, point.output_tokens, tuple(users), tuple(loops))


def recorded_of(point: MeasuredPoint) -> Prepared:
    """Responses whose drafts are accepted as the point says."""
    averages = point.averages or Averages((0.5,) * max(point.gamma, 1))  # where it makes no difference
    rng = np.random.default_rng(0)
    levels = texts_of(averages) if point.gamma else [averages]
    trace = trace_of(
        point.kind if point.gamma else "ngram", {f"{i}": level for i, level in enumerate(levels)}, rng,
        responses=_RESPONSES // len(levels), tokens=_TOKENS, prompt_tokens=point.prompt_tokens,
        look_up=KINDS[point.kind].looks_up,
    )  # fmt: skip
    return prepare(trace)


def texts_of(averages: Averages) -> list[Averages]:
    """Acceptances of texts that are easier and harder to draft, of as many tokens a round in all.

    Users whose texts were all alike would stay in lockstep, and their prompts come together.
    """
    from scipy.optimize import brentq
    from scipy.special import expit, logit

    if not 0.05 < averages.accepted_length - 1 < averages.gamma - 0.05:  # all texts alike, or nearly
        return [averages]
    odds = logit(np.clip(averages.conditional, 1e-9, 1 - 1e-9))

    def texts(middle: float) -> list[Averages]:
        return [Averages.of_conditional(expit(odds + middle + _TEXTS * z).tolist()) for z in _LEVELS]

    def long(middle: float) -> float:
        return 1 / float(np.mean([1 / text.accepted_length for text in texts(middle)])) - averages.accepted_length

    return texts(float(brentq(long, -20.0, 20.0)))


def _requests(point: MeasuredPoint, recorded: Prepared, room: int, spread: float, rng: np.random.Generator) -> Records:
    assert isinstance(point.load, Users)
    users = point.load.users
    count = point.requests or min(max(_ANSWERS * users, _FEWEST), max(_MOST, 4 * users))
    if count > max(_WAVES * users, _FEWEST) and point.requests:
        count = max(_WAVES * users, _FEWEST) // users * users + count % users
    asked = np.zeros(count, REQUEST)
    # Texts and lengths are spread evenly over every few requests: the middle of a load is as the whole of it.
    asked["response"] = _evenly(len(recorded.trace.responses), count, rng)
    asked["output_tokens"] = _lengths(point.output_tokens, spread, 2, count, rng)
    most = max(room - int(asked["output_tokens"].max()), point.prompt_tokens)
    asked["prompt_tokens"] = np.minimum(_lengths(point.prompt_tokens, _PROMPT_SPREAD, 1, count, rng), most)
    return asked


def _lengths(mean: int, spread: float, least: int, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Lengths, gamma distributed about a mean, with a coefficient of variation."""
    from scipy.stats import gamma

    if not spread:
        return np.full(count, max(mean, least), np.int64)
    shares = gamma.ppf((np.arange(_LENGTHS) + 0.5) / _LENGTHS, spread**-2)
    lengths = np.maximum((mean * shares / shares.mean()).round(), least).astype(np.int64)
    return np.asarray(lengths[_evenly(_LENGTHS, count, rng)], np.int64)


def _evenly(many: int, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """0 to `many` − 1, so that of any few that follow each other some are small and some large; `count` in all."""
    strata = min(many, len(_LEVELS))
    rounds = -(-count // strata)
    stratum = rng.permuted(np.tile(np.arange(strata), (rounds, 1)), axis=1).ravel()[:count]
    return (stratum * (many // strata) + rng.integers(many // strata, size=count)).astype(np.int64)


def timed(point: MeasuredPoint, base: Base) -> Timed:
    """A point's step, by term; launching is left out, for engines time captured sizes."""
    assert isinstance(point.load, Users), point
    users, recorded = point.load.users, recorded_of(point)
    load = StepLoad(users, context_tokens=users * (point.context or 0))
    whole = cost_of(base.profile, point.policy, recorded.trace, users, users * (point.gamma + 1))
    gamma = point.policy.bind(whole).draft(load, point.gamma)
    step_tokens = users * (gamma + 1)
    if load.context_tokens > (room := capacity_of(base.profile, point.policy, recorded.trace)):
        raise InputError(f"context {point.context} of {users} users: {base.profile.name} holds {room:,} tokens")
    seconds = {}
    for name in base.linear:
        cost = cost_of(base.parts[name], point.policy, recorded.trace, users, step_tokens)
        seconds[name] = cost.step(load, gamma, users * gamma, Longest(gamma, point.context or 0)).seconds
    return Timed(users, seconds, float(step_tokens > base.captured))


Loop = Served | Open | Unsure | Timed


def loop_of(point: MeasuredPoint, base: Base, kept: Kept | None = None) -> Loop:
    """A point, simulated. Raises InputError, naming its line, where the base does not know what it needs."""
    try:
        if set(point.values) == {"step_ms"}:
            return timed(point, base)
        if point.gamma and point.averages is None:
            some = (replace(point, averages=at) for at in _averages(point.gamma))
            return Unsure(point.kind, tuple(_steady(one, base, kept) for one in some))
        return _steady(point, base, kept)
    except InputError as error:
        raise InputError(f"line {point.line}: {error}") from None


def _steady(point: MeasuredPoint, base: Base, kept: Kept | None) -> Served | Open:
    return opened(point, base, kept) if isinstance(point.load, Arrivals) else serve(point, base, kept)


def _averages(gamma: int) -> list[Averages]:
    """Acceptances for each of `_ODDS`, alike at all positions."""
    odds = [ACCEPTED / (1 - ACCEPTED) * factor for factor in _ODDS]
    return [Averages.of_conditional([one / (1 + one)] * gamma) for one in odds]
