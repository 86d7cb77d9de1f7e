"""Candidates simulated again and again, for a decision's intervals: other prompts, another seed, a profile that is off; and
under more of their load, for how much of it is held."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from simulator.capacity import MOST, SEEDS, crowded, enough, factor_of, headroom, headrooms, share_low, shorter
from simulator.configuration import Configuration
from simulator.decision import DRAWS, Draw, Figure, Range, Sampled, range_of
from simulator.hardware.whatif import perturbed
from simulator.load import Load, RecordedArrivals
from simulator.metrics import Outcome
from simulator.setup import LONGEST_S, Setup
from simulator.simulation import Prepared, redrawn, simulate

HELD_SHARE = 0.3
"""How many more draws have the profile held, as a share of those with another profile each."""
TOKENS, SHORTEST_S, ANSWERS = 150_000, 10.0, 3
"""Output tokens that a draw simulates, the least seconds of it, and how many answers a user of a closed loop gets in it."""
DROPPED = 0.25
"""Share of a draw's requests that its warm-up may take."""
MOST_TOKENS = 40_000_000
"""Most output tokens of all draws of a candidate: where recorded arrivals hold many tokens, there are fewer draws."""
FEWEST = 20
SLICES = 40
"""Stretches of a draw whose sums are kept: figures without intervals need few."""
HOLDING = 20
"""Draws in each of which it is searched how much of a load is held."""
FRESH = 2_000_003
"""Added to the seed of a study or a sweep: no simulation of theirs comes so far."""


def draws_for(tokens: float, count: int = DRAWS) -> list[Draw]:
    """The draws of a decision whose every simulation gives so many tokens: `count` of them, or fewer where they are long."""
    share = min(1.0, MOST_TOKENS / max(tokens, 1.0) / (count * (1 + HELD_SHARE)))
    return [
        Draw(number, off)
        for off, most in ((True, count), (False, round(HELD_SHARE * count)))
        for number in range(max(min(FEWEST, count), round(share * most)))
    ]


def seconds_for(load: Load, throughput: float, seconds: float, answer_tokens: float, requests: float = 0) -> float:
    """Simulated seconds of a draw, `seconds` at most; recorded arrivals run until all are served.

    Args:
        throughput: tokens a second, of all GPUs and replicas.
        answer_tokens: of an answer, on average.
        requests: that have to finish in it, for its figures to tell anything.
    """
    if isinstance(load, RecordedArrivals):
        return seconds
    answers = max(ANSWERS * (load.users or 0), requests / (1 - DROPPED))
    tokens = max(TOKENS, answers * answer_tokens)
    return min(seconds, max(SHORTEST_S, tokens / max(throughput, 1e-9)))


def varied(setup: Setup, recorded: Prepared, draw: Draw) -> tuple[Setup, Prepared]:
    """A simulation as a draw has it. Two candidates' draws of one number see the same prompts, seed and errors.

    On a profile that is slower it takes longer, so that no fewer requests finish.
    """
    of_prompts, of_profile = np.random.default_rng([setup.seed, FRESH, draw.number]).spawn(2)
    profile, slower = perturbed(setup.profile, of_profile) if draw.off else (setup.profile, 1.0)
    seed, seconds = setup.seed + FRESH + draw.number, min(setup.seconds * max(1.0, slower), LONGEST_S)
    return dataclasses.replace(setup, profile=profile, seed=seed, seconds=seconds), redrawn(recorded, of_prompts)


def drawn(setup: Setup, recorded: Prepared, draw: Draw) -> Outcome:
    """What comes of a simulation as a draw has it."""
    return simulate(*varied(setup, recorded, draw), slices=SLICES)


def counted_share(share: Range, count: float) -> Range:
    """A share of requests with an interval that no more than so many of them can tell: at least Wilson's."""
    low, high = share_low(share.value, count), 1 - share_low(1 - share.value, count)
    return Range(share.value, min(share.low, low), max(share.high, high))


def headroom_of(setup: Setup, recorded: Prepared, outcome: Outcome) -> float:
    """How many times its load a setup holds, given what came of it, in shorter simulations: with its seed and with the next,
    for near the end of what is held it is chance whether one of them keeps a promise.

    nan where too few requests finished to tell.
    """
    if not enough(outcome.finished, setup.slas):
        return math.nan

    def holds(load: Load) -> bool:
        there = under(setup, load)
        setups = (dataclasses.replace(there, seed=setup.seed + n) for n in range(SEEDS))
        return fits(there) and all(simulate(one, recorded).kept for one in setups)

    return headroom(setup.load, holds, at_one=fits(setup) and outcome.kept)


def under(setup: Setup, load: Load) -> Setup:
    """A setup under another load, to find out whether that is held."""
    return dataclasses.replace(setup, load=load, seconds=shorter(setup.seconds))


def fits(setup: Setup) -> bool:
    """Whether all users of its load can run at once."""
    return not crowded(setup.load, setup.limits.request_cap, setup.limits.replicas)


def holding(load: Load, times: float, hold: Callable[[Sequence[tuple[Draw, Load]]], Sequence[bool]]) -> Range:
    """How many times a load is held, over draws of prompts, seeds and the profile's errors.

    Args:
        times: how many times it is with everything as it is.
        hold: whether loads are held in draws, asked about several at a time.
    """
    near = load.times(times) if 1 / MOST < times < MOST else load
    draws = [Draw(number, off=True) for number in range(HOLDING)]
    found = headrooms(near, lambda asked: hold([(draws[number], one) for number, one in asked]), HOLDING)
    return range_of(factor_of(near, load, 1.0 if near is load else times) * np.array(found), times)


def sample(
    tasks: Mapping[Configuration, tuple[Setup, Prepared]],
    draws: Sequence[Draw],
    figure: Figure,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Configuration, Sampled]:
    """Simulate every candidate in every draw, in this process. Raises InputError for what cannot be simulated."""
    outcomes: dict[Configuration, list[Outcome]] = {candidate: [] for candidate in tasks}
    for done, draw in enumerate(draws, 1):
        for candidate, (setup, recorded) in tasks.items():
            outcomes[candidate].append(drawn(setup, recorded, draw))
        advance(done, len(draws))
    return {candidate: sampled(own, figure) for candidate, own in outcomes.items()}


def sampled(outcomes: Sequence[Outcome], figure: Figure) -> Sampled:
    """What a decision takes from a candidate's outcomes."""
    return Sampled(
        value=[figure_of(o, figure) for o in outcomes],
        attained=[o.attained for o in outcomes],
        also=[{"tps": o.tps.value, "p95_ttft": o.quantiles["p95_ttft"]} for o in outcomes],
        kept=[o.kept for o in outcomes],
    )


def figure_of(outcome: Outcome, figure: Figure) -> float:
    """The figure of an outcome that is made large."""
    estimates = {"throughput": outcome.throughput.value, "tps": outcome.tps.value, "goodput": outcome.goodput}
    return estimates[figure]
