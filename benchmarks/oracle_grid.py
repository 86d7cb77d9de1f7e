"""Whether any policy beats the oracle: `python benchmarks/oracle_grid.py` prints a table over drafters, loads and profiles.

Traces are those of `harness synthesize`. A cell is beaten where the oracle's tokens a second are fewer than those of the
best other policy by more than a 95 % interval over paired seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.published.synthesis import synthesize
from simulator.hardware.catalogue import find_profile
from simulator.hardware.profile import Profile
from simulator.load import Users
from simulator.metrics import student_t
from simulator.mix import Mix
from simulator.policies import PolicySpec
from simulator.setup import EngineLimits, Setup
from simulator.simulation import Prepared, prepare, simulate
from tuner.k_by_batch import k_by_batch

ORACLE = PolicySpec("oracle")
PROFILES = ("h100/qwen3-4b", "l40s/qwen3-8b")
MIXES: tuple[Mapping[str, float] | None, ...] = (None, {"chat": 1.0})
USERS = (1, 8, 32, 64, 256)
CAP = 256


@dataclass(frozen=True, slots=True)
class Cell:
    """The oracle beside the best of the others, for one drafter at one load."""

    profile: str
    domains: str
    users: int
    drafter: str
    best: str
    best_tok_s: float
    oracle_tok_s: float
    gain: float
    """What the oracle gains over the best other policy, mean over seeds."""
    half_width: float
    """Half of its 95 % interval."""

    @property
    def beaten(self) -> bool:
        """Whether the other one is better beyond noise."""
        return self.gain + self.half_width < 0


def others(recorded: Prepared, setup: Setup) -> list[PolicySpec]:
    """Every kind of policy there is, with the parameters that matter at this load."""
    trace, users = recorded.trace, setup.load.users or CAP
    found = [PolicySpec("none"), *(PolicySpec.fixed(k) for k in range(1, trace.gamma + 1)), PolicySpec("batch_adaptive")]
    found += [PolicySpec("cutoff", str(users * n // 4)) for n in (3, 4) if users > 1]
    found.append(k_by_batch(trace, Mix(trace, setup.weights), setup.cost(trace), [2**i for i in range(9)]))
    if trace.anchors.confidence is not None:
        found += [PolicySpec("prefix_scheduler"), PolicySpec("lagged_scheduler", "2"), PolicySpec("threshold", "0.5")]
    return found


def cell(
    recorded: Prepared, profile: Profile, weights: Mapping[str, float] | None, users: int, seeds: int, s: float
) -> Cell:
    """Simulate the oracle and all others, `s` simulated seconds of each seed."""

    def setup(policy: PolicySpec, seed: int) -> Setup:
        limits = EngineLimits(request_cap=CAP)
        return Setup(load=Users(users), policy=policy, profile=profile, limits=limits, weights=weights, seconds=s, seed=seed)

    policies = [ORACLE, *others(recorded, setup(ORACLE, 0))]
    rates = np.array([[simulate(setup(p, seed), recorded).throughput.value for seed in range(seeds)] for p in policies])
    best = 1 + int(rates[1:].mean(1).argmax())
    gains = rates[0] / rates[best] - 1
    half = student_t(seeds - 1) * gains.std(ddof=1) / seeds**0.5
    domains = ", ".join(weights) if weights else "all"
    return Cell(
        profile.name, domains, users, recorded.trace.drafter, str(policies[best]), float(rates[best].mean()),
        float(rates[0].mean()), float(gains.mean()), float(half),
    )  # fmt: skip


def cells(
    drafters: Sequence[str], profiles: Sequence[str], users: Sequence[int], seeds: int, seconds: float
) -> Iterator[Cell]:
    """The whole grid."""
    traces = [prepare(trace) for trace in synthesize(0) if trace.drafter in drafters]
    for name in profiles:
        for weights in MIXES:
            for count in users:
                for recorded in traces:
                    yield cell(recorded, find_profile(name), weights, count, seeds, seconds)


def main() -> None:
    """Print the grid as a Markdown table, and how many of its cells are beaten."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drafter", nargs="*", default=["dspark", "dflash", "eagle3", "mtp"])
    parser.add_argument("--profile", nargs="*", default=list(PROFILES))
    parser.add_argument("--users", nargs="*", type=int, default=list(USERS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="simulated, of each")
    asked = parser.parse_args()
    drafters = [trace.drafter for trace in synthesize(0, responses_per_task=1) if trace.drafter in asked.drafter]
    print("| profile, domains | users |", " | ".join(drafters), "|")
    print("|---" * (2 + len(drafters)), end="|\n")
    done: list[Cell] = []
    for c in cells(drafters, asked.profile, asked.users, asked.seeds, asked.seconds):
        if len(done) % len(drafters) == 0:
            print(f"| {c.profile}, {c.domains} | {c.users} |", end="")
        done.append(c)
        said = f" {c.oracle_tok_s:,.0f}, {c.gain:+.1%} ± {c.half_width:.1%} over `{c.best}` |"
        print(said, end="\n" if len(done) % len(drafters) == 0 else "", flush=True)
    beaten, least = sum(c.beaten for c in done), min(c.gain for c in done)
    print(f"\nbeaten beyond noise: {beaten} of {len(done)}; least gain {least:+.1%}")


if __name__ == "__main__":
    main()
