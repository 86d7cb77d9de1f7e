"""How right fits are about servers that nobody tuned them on: `python benchmarks/planted_tables.py [--tables 20]`.

Each table is a server that is drawn and simulated in full: a dense model or a mixture, 1 to 8 GPUs, prompts and answers of
other lengths, a drafter, passes that grow otherwise than the base has them, host work, a largest captured size, and 3 to 5 %
of noise. Its line without speculation is given, and one drafted point or two; the rest is predicted from a base that is the
same model's roofline on another device. Nothing of the truth is drawn as the fits believe it to be.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from harness.hardware.calibration import Simulated, simulated
from harness.hardware.forecast import crossovers, predictions, winners
from harness.hardware.loops import recorded_of
from harness.hardware.measured import MeasuredPoint
from harness.hardware.posterior import Posterior
from harness.hardware.terms import Base
from simulator.averages import Averages
from simulator.errors import InputError
from simulator.hardware.catalogue import Asked, find_profile
from simulator.hardware.graphs import capturing
from simulator.hardware.profile import Curve, Profile
from simulator.load import Users
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.setup import EngineLimits, Setup
from simulator.simulation import simulate

MODELS: Final = (("qwen3-8b", 1), ("qwen3-14b", 2), ("deepseek-v4-flash", 4), ("deepseek-v4-pro", 8))
DEVICES: Final = ("h100", "h200", "b200", "mi355x")
DRAFTERS: Final = (("eagle3", 3), ("mtp", 1), ("dspark", 7), ("eagle3", 5), ("mtp", 3))
CAPTURED: Final = (256, 512, 1024, 16384)
LOADS: Final = ((1, 8, 32, 64, 128), (4, 8, 16, 32, 64), (2, 16, 64, 256))
GIVEN: Final = {"one point": (0,), "two points": (0, -2)}


@dataclass(frozen=True, slots=True)
class Table:
    """A server's measurements, all given, and the base to fit."""

    name: str
    rows: tuple[MeasuredPoint, ...]
    base: Profile


def planted(seed: int) -> Table:
    """Draw a server and measure it."""
    rng = np.random.default_rng([seed, 20])
    model, gpus = MODELS[seed % len(MODELS)]
    able = [device for device in DEVICES if _fits(device, model, gpus)]
    device, other = rng.choice(able, 2, replace=False).tolist()
    kind, k = DRAFTERS[int(rng.integers(len(DRAFTERS)))]
    captured, loads = CAPTURED[int(rng.integers(len(CAPTURED)))], LOADS[int(rng.integers(len(LOADS)))]
    prompts, answers = int(rng.choice([128, 512, 2048])), int(rng.choice([256, 512, 1024]))
    server = _server(capturing(find_profile(f"{device}/{model}", Asked(gpus=gpus)), captured), rng)
    accepted = Averages.of_conditional((rng.uniform(0.5, 0.85) - 0.01 * np.arange(k)).tolist())
    noise = rng.uniform(0.03, 0.05)
    rows = []
    for line, (users, drafts) in enumerate((users, drafts) for users in loads for drafts in (False, True)):
        point = MeasuredPoint(
            line=line, load=Users(users), kind=kind if drafts else "none", gamma=k if drafts else 0,
            policy=PolicySpec.fixed(k) if drafts else NO_DRAFTER, averages=accepted if drafts else None,
            prompt_tokens=prompts, output_tokens=answers, values={}, given=True,
        )  # fmt: skip
        setup = Setup(
            load=point.load, policy=point.policy, profile=server, seed=seed, seconds=60, ramp=0.25, prompt_tokens=prompts,
            output_tokens=answers, limits=EngineLimits(request_cap=users),
        )  # fmt: skip
        seen = simulate(setup, recorded_of(point)).throughput.value * float(np.exp(noise * rng.standard_normal()))
        rows.append(replace(point, averages=None, values={"output_tok_s": seen}))
    size = "all" if captured > 8192 else f"{captured:,}"
    return Table(f"{model} on {gpus} × {device}, {kind}:{k}, graphs to {size}", tuple(rows), _of(other, model, gpus))


def _fits(device: str, model: str, gpus: int) -> bool:
    """Whether a model fits on so many GPUs of a device."""
    try:
        return bool(_of(device, model, gpus).capacity("none"))
    except InputError:
        return False


def _of(device: str, model: str, gpus: int) -> Profile:
    return find_profile(f"{device}/{model}", Asked(gpus=gpus))


def _server(profile: Profile, rng: np.random.Generator) -> Profile:
    """A roofline as no server is: slower, bent, with host work and drafts of their own."""
    factor, bend = float(np.exp(0.3 * rng.standard_normal())), rng.uniform(-0.02, 0.06)

    def bent(curve: Curve, factor: float) -> Curve:
        return Curve(
            curve.counts,
            tuple(s * factor * (1 + bend * np.log2(n)) for n, s in zip(curve.counts, curve.seconds, strict=True)),
        )

    slower = float(np.exp(0.4 * rng.standard_normal()))
    drafts = {
        name: replace(curve, requests=tuple(bent(own, slower) for own in curve.requests))
        for name, curve in profile.draft.items()
    }
    return replace(
        profile, verify=bent(profile.verify, factor), eager=None if profile.eager is None else bent(profile.eager, factor),
        draft=drafts, overhead_s=rng.uniform(0.2e-3, 3e-3), overhead_s_per_request=rng.uniform(0, 40e-6),
    )  # fmt: skip


def fitted(
    table: Table, loops: Simulated, bases: Sequence[Base], places: Sequence[int]
) -> tuple[list[float], list[bool], float, list[tuple[float | None, float | None]]]:
    """(errors, whether inside their intervals, largest regret, crossovers as predicted and as measured)."""
    loads = sorted({point.load.users or 0 for point in table.rows})
    chosen = {loads[place] for place in places}
    rows = [replace(p, given=not p.gamma or p.load.users in chosen) for p in table.rows]
    found = Posterior.of(rows, bases, loops=loops)
    told = predictions(found, rows)
    regret = max((one.regret or 0.0 for one in winners(found, rows)), default=0.0)
    crossed = [(one.predicted, one.measured) for one in crossovers(found, rows)]
    return [abs(one.error or 0.0) for one in told], [bool(one.inside) for one in told], regret, crossed


def main() -> None:
    """Print a line a table, and what all come to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    asked = parser.parse_args()
    sums: dict[str, list[tuple[float, float, list[bool]]]] = {words: [] for words in GIVEN}
    for seed in range(asked.first, asked.first + asked.tables):
        table = planted(seed)
        print(table.name, flush=True)
        bases = Base.several(table.base, None)
        loops = simulated(table.rows, bases)
        for words, places in GIVEN.items():
            errors, inside, regret, crossed = fitted(table, loops, bases, places)
            sums[words].append((float(np.mean(errors)), regret, inside))
            at = ", ".join("/".join("never" if x is None else f"{x:.0f}" for x in pair) for pair in crossed)
            right = f"mean error {np.mean(errors):.1%}, regret {regret:.1%}, inside {np.mean(inside):.0%}"
            print(f"  {words}: {right}, falls below none at {at} users (predicted/measured)", flush=True)
    for words, some in sums.items():
        means, regrets, held = zip(*some, strict=True)
        worse = f"above 10 % in {sum(m > 0.1 for m in means)} of {len(means)} tables"
        lost = f"regret above 2 % in {sum(r > 0.02 for r in regrets)}"
        all_held = f"{np.mean(np.concatenate(held)):.0%} inside their 95 % intervals"
        print(f"{words}: mean error {np.mean(means):.1%}, {worse}; {lost}; {all_held}")


if __name__ == "__main__":
    main()
