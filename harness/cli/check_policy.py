"""`harness check-policy`: whether a policy leaves the target's law as it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from harness.console import plain_console, print_json, print_table, say, user_errors, watching
from harness.options import AsJson
from simulator.errors import AnswerIsNo

if TYPE_CHECKING:
    from simulator.losslessness import Texts
    from simulator.policies import PolicySpec

SURE = 1e-6
"""A lossless policy is called lossy no more often than this."""
RUNNING, STEP_S = 32, 0.02
"""The server for which is told how long a policy takes to simulate."""
_DRAFTED, _RESPONSES, _TOKENS, _TIMED = 7, 32, 200, 400
"""Tokens that its drafter drafts, answers and their tokens, and steps that are timed."""
UNTESTED = 3
"""Exit code where too little was verified to test, or where no result of a policy can be had again."""
POWER = 0.8
SELDOM = 0.05
"""Share of rounds in which something has to be verified for a policy to be tested."""


def check_policy(
    policy: Annotated[
        str, typer.Argument(metavar="POLICY", help="As for --policy: FILE.py:CLASS[:PARAMETER], threshold:0.5, ….")
    ],
    texts: Annotated[int, typer.Option(min=10_000, max=10_000_000, help="Texts to decode.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Decode a small world whose law is known under a policy, and test what comes out: exit 0 lossless as far as can be
    told, 1 not, 3 where it verifies too little to tell, or decides otherwise when it is asked again."""
    from simulator.losslessness import texts_under
    from simulator.policies import NO_DRAFTER, CausalityError, PeekError, PolicySpec

    with user_errors("harness"):
        spec = PolicySpec.asked(policy)
        try:
            with watching() as watcher:
                found = texts_under(spec, texts, seed, lambda done: watcher.advance(f"decoding under {spec}", done, texts))
        except (PeekError, CausalityError) as error:
            why = f"{error}; no engine could run it"
            if as_json:
                unknown = dict.fromkeys(("chi2", "usual", "p", "could_have_seen", "repeats", "step_ms"))
                print_json("policy", {
                    "policy": str(spec), "texts": 0, "seed": seed, "verified": [], "tested": False, "lossless": False,
                    "refused": why, **unknown,
                })  # fmt: skip
            raise AnswerIsNo(why) from None
        tested = _tested(found)
        step_s = _step_s(spec, seed) if spec.own is not None and spec.own.slow else None
        if as_json:
            total, rounds = int(found.counts.sum()), found.lengths / found.lengths.sum()
            print_json("policy", {
                "policy": str(spec), "texts": total, "seed": seed, "verified": rounds.tolist(), "repeats": found.repeats,
                "tested": found.verified >= SELDOM, **asdict(tested), "refused": None,
                "step_ms": None if step_s is None else 1e3 * step_s,
            })  # fmt: skip
        if not tested.lossless:
            raise AnswerIsNo(
                f"policy {spec}: is not lossless: texts have another law than the target's, χ² {tested.chi2:.0f} where "
                f"{tested.usual} is usual, {_chance(tested.p)}; it decides about a token by what was drafted there or later"
            )
        if not as_json:
            _print(str(spec), found, tested)
            if step_s is not None:
                say(
                    plain_console(),
                    f"In plain Python a step of {RUNNING} requests takes {1e3 * step_s:.2g} ms to simulate, deciding and "
                    f"all else: a simulated minute of steps of {1e3 * STEP_S:g} ms takes {60 / STEP_S * step_s:.2g} s, "
                    "hardly any under a policy of this package.",
                )
        if spec != NO_DRAFTER and (found.verified < SELDOM or not found.repeats):
            raise typer.Exit(UNTESTED)


@dataclass(frozen=True, slots=True)
class Tested:
    """Texts against the law that they should have."""

    chi2: float
    usual: int
    """Degrees of freedom: what χ² is on average where the law is right."""
    p: float
    could_have_seen: float
    """Root mean square of the relative errors of the texts' probabilities that `POWER` of such checks would find."""
    lossless: bool
    """Whether it leaves the law as it is, as far as this can tell."""


def _tested(found: Texts) -> Tested:
    from scipy.optimize import brentq
    from scipy.stats import chi2, chisquare, ncx2

    from simulator.losslessness import law

    total, usual = int(found.counts.sum()), len(found.counts) - 1
    statistic, chance = chisquare(found.counts, law() * total)
    away = brentq(lambda away: ncx2.sf(chi2.isf(SURE, usual), usual, away) - POWER, 1.0, 1e4)
    return Tested(float(statistic), usual, float(chance), float((away / total) ** 0.5), bool(chance >= SURE))


def _chance(p: float) -> str:
    return f"p {p:.2g}" if p > 0 else "p < 1e-300"


def _step_s(spec: PolicySpec, seed: int) -> float:
    """Seconds that a step takes to simulate under a policy that has no compiled form."""
    from time import perf_counter

    import numpy as np

    from simulator.engine.reference import Reference
    from simulator.engine.state import REQUEST
    from simulator.hardware.cost import StepCost
    from simulator.records import Anchors
    from simulator.setup import EngineLimits
    from simulator.traces import Trace, TracedResponse

    rng, shape = np.random.default_rng(seed), (_TOKENS - 1, _DRAFTED)
    whole, sure = np.full(shape[0], _DRAFTED, np.uint8), np.ones(shape, np.float32)
    anchors = [
        Anchors(whole, rng.integers(0, _DRAFTED + 1, shape[0]).astype(np.uint8), sure, rng.random(shape, np.float32))
        for _ in range(_RESPONSES)
    ]
    told = [TracedResponse("any", "any", f"any/{i}", 0, 1) for i in range(_RESPONSES)]
    trace, step_tokens = Trace.join("any", list(zip(told, anchors, strict=True))), 2 * RUNNING * (_DRAFTED + 1)
    verify_s = STEP_S * (1 + np.arange(step_tokens + 1) / step_tokens)
    cost = StepCost(verify_s, verify_s, np.zeros((_DRAFTED + 1, RUNNING + 1)), np.zeros(_DRAFTED + 1))
    asked = np.zeros(_TIMED * RUNNING, REQUEST)
    asked["prompt_tokens"], asked["output_tokens"], asked["response"] = 1, _TOKENS, np.arange(len(asked)) % _RESPONSES
    limits = EngineLimits(request_cap=RUNNING, step_tokens=step_tokens)
    engine = Reference(trace, spec.bind(cost), cost, limits, 10**9, iter(asked), users=RUNNING, seed=seed)
    began_s = perf_counter()
    engine.run_until(_TIMED * STEP_S)
    return (perf_counter() - began_s) / max(int(engine.totals["steps"]), 1)


def _print(policy: str, found: Texts, tested: Tested) -> None:
    from simulator.losslessness import GAMMA, LONGEST

    total, rounds, console = int(found.counts.sum()), int(found.lengths.sum()), plain_console()
    so_far = f"χ² {tested.chi2:.0f} where {tested.usual} is usual, {_chance(tested.p)}"
    verified = found.verified
    if not verified:
        say(console, f"{policy}: verified nothing in {rounds:,} rounds: that is lossless, and nothing of it was tested.")
        return
    say(
        console,
        f"{policy}: lossless as far as {total:,} texts tell, of drafts of {GAMMA} tokens: {so_far}. In drafts of up to "
        f"{LONGEST} it looked at nothing that it must not.",
    )
    if verified < SELDOM:
        say(console, f"It verified drafts in {verified:.1%} of rounds alone: what it does then was hardly tested.")
    say(
        console,
        f"{POWER:.0%} of such checks would see it if the texts' probabilities were off by {tested.could_have_seen:.1%} of "
        "themselves (root mean square).",
    )
    if not found.repeats:
        say(
            console,
            "It decides otherwise where it is asked the same again: what it draws at random has to be seeded, and what it "
            "remembers to be its own; as it is, no result of it can be had again.",
        )
    cells = [f"{n / rounds:.0%}" for n in found.lengths]
    print_table(console, ["tokens verified", *map(str, range(len(cells)))], [["share of rounds", *cells]], ())
