"""Candidates simulated again and again, for a decision's intervals: other prompts, another seed, a profile that is off;
under more of their load, for how much of it is held; and with larger graphs, for what it costs to have small ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from simulator.capacity import MOST, SEEDS, crowded, enough, factor_of, headroom, headrooms, shorter
from simulator.configuration import Configuration
from simulator.decision import GAINS, Draw, Figure, Range, Sampled, range_of
from simulator.hardware.graphs import capturing
from simulator.hardware.whatif import perturbed
from simulator.load import Load
from simulator.metrics import Outcome
from simulator.mix import Mix
from simulator.setup import LONGEST_S, RAMP, Setup
from simulator.simulation import Prepared, redrawn, simulate

SLICES = 40
"""Stretches of a draw whose sums are kept: figures without intervals need few."""
HOLDING = 20
"""Draws in each of which it is searched how much of a load is held."""
FRESH = 2_000_003
"""Added to the seed of a study or a sweep: no simulation of theirs comes so far."""


def varied(setup: Setup, recorded: Prepared, draw: Draw) -> tuple[Setup, Prepared]:
    """A simulation as a draw has it. Two candidates' draws of one number see the same prompts, seed and errors.

    On a profile that is slower it takes longer, so that no fewer requests finish.
    """
    of_prompts, of_profile = np.random.default_rng([setup.seed, FRESH, draw.number]).spawn(2)
    profile, slower = perturbed(setup.profile, of_profile) if draw.off else (setup.profile, 1.0)
    seed, seconds = setup.seed + FRESH + draw.number, min(setup.seconds * max(1.0, slower), LONGEST_S)
    return dataclasses.replace(setup, profile=profile, seed=seed, seconds=seconds, ramp=RAMP), redrawn(recorded, of_prompts)


def drawn(setup: Setup, recorded: Prepared, draw: Draw) -> Outcome:
    """What comes of a simulation as a draw has it."""
    return simulate(*varied(setup, recorded, draw), slices=SLICES)


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


GRAPHS = "captured graphs end at"
"""How what is told of them begins."""
_WORTH = 0.01
"""The gain from larger graphs, as a share, from which on they are spoken of."""
_STEP_TOKENS = 256
"""Captured sizes that are advised are multiples of this."""


def beyond_graphs(setup: Setup, recorded: Prepared, found: Outcome, flag: str) -> str:
    """What it costs that steps are larger than any captured size, and the setting that avoids it, in words; empty where
    larger graphs would give less than 1 %.

    Found by shorter simulations with graphs that are large enough, unless the cost tables say that it cannot be as much.

    Args:
        found: what came of the setup.
        flag: the engine's, that says up to which size it captures; empty where it has none.
    """
    profile, largest = setup.profile, _largest_pass(setup, recorded, found)
    if not found.outside > 0 or largest <= profile.captured:
        return ""
    wider = capturing(profile, largest)
    sizes = np.arange(profile.captured + 1, largest + 1)
    most_s = float((profile.outside(sizes) + profile.eager_s_per_token * sizes - wider.verify.at(sizes)).max())
    if found.outside * most_s < _WORTH * sum(found.step_s.values()):
        return ""
    believed = setup.believed and (capturing(setup.believed, largest) if setup.believed.captured else setup.believed)
    short = dataclasses.replace(setup, seconds=shorter(setup.seconds), slas=())
    here, there = (simulate(one, recorded) for one in (short, dataclasses.replace(short, profile=wider, believed=believed)))
    figure: Figure = "tps" if setup.load.users is None else "throughput"
    before, after = figure_of(here, figure), figure_of(there, figure)
    more = after / before - 1 if before else 0.0  # nobody may have been served anything in so short a time
    longer_ms = 1e3 * (sum(here.step_s.values()) - sum(there.step_s.values()))
    if not more >= _WORTH:
        return ""
    gain = f"{GAINS[figure]} {more:+.0%}" if more < 1 else f"{GAINS[figure]} × {1 + more:.1f}"
    longer = f": {longer_ms:.1f} ms more in a step" if longer_ms >= 0.05 else ""  # wider graphs have schedulers verify more
    assumed = "" if profile.eager is not None or profile.launches is None else ", launching assumed"
    return (
        f"{GRAPHS} {profile.captured:,} tokens, and {found.outside:.0%} of steps are larger{longer}{assumed}; "
        f"with {flag or 'graphs to'} {largest}: {gain}"
    )


def _largest_pass(setup: Setup, recorded: Prepared, found: Outcome) -> int:
    """Tokens of a pass in which all requests verify as much as they may, and one prompt: the size to capture."""
    most = setup.load.most_running(setup.limits.request_cap, setup.limits.replicas)
    if setup.load.users is None and not math.isnan(found.running):
        most = min(most, math.ceil(2 * found.running))
    verified = recorded.trace.gamma if setup.policy.k is None else setup.policy.k
    prompt, _ = Mix(recorded.trace, setup.weights, setup.prompt_tokens, setup.output_tokens).mean_lengths()
    tokens = min(math.ceil(most * (1 + verified) + prompt), setup.limits.step_tokens)
    return -(-tokens // _STEP_TOKENS) * _STEP_TOKENS


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
