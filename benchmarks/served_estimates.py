"""How far off what a server logs is for shorter drafts, where the dense truth is known: by kind of source.

    harness record suites/math_code_chat
    python benchmarks/served_estimates.py latest [--out runs]

Half of a recording's prompts are served with verifying whole drafts, as an engine would log them: round by round, by
request (how many drafts accepted 0, 1, …, K tokens), or as averages of all. From each, tokens a step are estimated for
every k below K, and held against the dense replay at k: on the same answers, which differ by where rounds begin alone, and
on the other half of the prompts, which differ by traffic too. Requests that are told apart have intervals from between them;
averages have assumed ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.served.acceptance import acceptance_of, interval
from harness.served.kept import traces_of
from harness.served.observed import Observation, ServedRequest, Settings, of_rounds, pooled
from harness.served.server import Server, together
from results.store.database import Store
from simulator.policies import PolicySpec
from simulator.replay import replay
from simulator.traces import Trace

SOURCES = ("averages", "by request", "by round")
SPLITS = 100
IMPORTED = 5
"""Splits of which the imported run is replayed too."""
Floats = npt.NDArray[np.float64]
Chosen = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Replayed:
    """Every answer of a recording, replayed once for each k."""

    requests: tuple[ServedRequest, ...]
    """Requests as a server that verifies whole drafts would have logged them, round by round."""
    tokens: Floats
    """Committed in rounds, [answers, γ]."""
    rounds: Floats
    """[answers, γ]."""

    def tau(self, chosen: Chosen) -> Floats:
        """Tokens a round of the dense replay of some answers, for k = 1, …, γ."""
        return np.asarray(self.tokens[chosen].sum(0) / self.rounds[chosen].sum(0), np.float64)


def replayed(trace: Trace) -> Replayed:
    """All of its answers at every k."""
    requests, sums = list[ServedRequest](), np.zeros((2, len(trace.responses), trace.gamma))
    for i, (response, anchors) in enumerate(trace):
        for k in range(1, trace.gamma + 1):
            rounds = replay(anchors, PolicySpec.fixed(k).bind())
            sums[:, i, k - 1] = sum(r.committed for r in rounds), len(rounds)
        accepted, drafted = [r.accepted for r in rounds], [r.drafted for r in rounds]
        kept = tuple(a for a, d in zip(accepted, drafted, strict=True) if d)
        drafts = of_rounds(accepted, drafted, trace.gamma)
        requests.append(
            ServedRequest(prompt_tokens=response.prompt_tokens, output_tokens=len(anchors) + 1, drafts=drafts, rounds=kept)
        )
    return Replayed(tuple(requests), *sums)


def served(trace: Trace, requests: Sequence[ServedRequest], source: str) -> Server:
    """What a server would have logged of these answers."""
    own = tuple(requests) if source == "by round" else tuple(replace(one, rounds=()) for one in requests)
    return together([
        Observation(
            source=source, files=(source,), settings=Settings(gamma=trace.gamma, method=trace.kind, speculates=True),
            drafts=pooled([one.drafts for one in own]), requests=len(own), request_steps=sum(one.steps for one in own),
            generated=sum(one.output_tokens for one in own), told_apart=() if source == "averages" else own,
        )
    ])  # fmt: skip


def tau(trace: Trace, k: int) -> float:
    """Tokens a round of a replay, verifying k."""
    policy = PolicySpec.fixed(k).bind()
    rounds = [r for _, anchors in trace for r in replay(anchors, policy)]
    return sum(r.committed for r in rounds) / len(rounds)


def halves(trace: Trace, rng: np.random.Generator) -> Chosen:
    """Which answers are of one half of its prompts."""
    prompts = sorted({r.prompt_id for r in trace.responses})
    first = set(rng.permutation(prompts)[: len(prompts) // 2])
    return np.array([r.prompt_id in first for r in trace.responses])


@dataclass(frozen=True)
class Error:
    """What an estimate was off by."""

    source: str
    k: int
    same: float
    """Against the same answers, a share."""
    imported: float
    """The replay of the imported run against those; NaN where it was not made."""
    other: float
    """Against the other prompts."""
    inside: bool
    """Whether those lie inside the interval, widened by their own noise."""


def errors(trace: Trace, splits: int) -> Iterator[Error]:
    """How far off all sources and k are, split by split; the imported run of the first few."""
    rng, every = np.random.default_rng(0), replayed(trace)
    for split in range(splits):
        here = halves(trace, rng)
        same, elsewhere = every.tau(here), every.tau(~here)
        for source in SOURCES:
            server = served(trace, [one for one, is_here in zip(every.requests, here, strict=True) if is_here], source)
            acceptance = acceptance_of(server, split)
            kept = None
            if split < IMPORTED:
                kept, _ = traces_of(server, acceptance, trace.drafter, trace.kind, split)
            for k in range(1, trace.gamma + 1):
                estimate, (low, high) = acceptance.tokens(k), interval(acceptance.tokens_drawn(k))
                # The other half is as large: what is between two halves is √2 times what is between one and all traffic.
                low, high = estimate - (estimate - low) * 2**0.5, estimate + (high - estimate) * 2**0.5
                yield Error(
                    source, k, estimate / same[k - 1] - 1, np.nan if kept is None else tau(kept, k) / same[k - 1] - 1,
                    estimate / elsewhere[k - 1] - 1, bool(low <= elsewhere[k - 1] <= high),
                )  # fmt: skip


def main() -> None:
    """Print a row for each drafter, source and k."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("run", nargs="?", default="latest")
    arguments.add_argument("--out", type=Path, default=Path("runs"))
    arguments.add_argument("--splits", type=int, default=SPLITS)
    given = arguments.parse_args()
    store = Store(given.out / "specyard.duckdb")
    run = store.find_run(given.run)
    heads = f"{'same answers':>14} {'as imported':>12} {'other prompts':>14} {'inside 95 %':>12}"
    print(f"{'drafter':10} {'source':10} {'k':>2} {heads}")
    every = list[Error]()
    for recording in store.recordings(run):
        if recording.gamma < 1 or recording.drafting == "greedy":
            continue
        trace = replace(store.trace(run, recording), kind=recording.kind)
        rows = list(errors(trace, given.splits))
        every += rows
        for source in SOURCES:
            for k in sorted({1, 2, (trace.gamma + 1) // 2, trace.gamma} & set(range(1, trace.gamma + 1))):
                print(
                    _row(recording.drafter, source, k, [row for row in rows if (row.source, row.k) == (source, k)]),
                    flush=True,
                )
    for source in SOURCES:
        own = [row.inside for row in every if row.source == source]
        if own:
            print(f"{'all':10} {source:10} inside 95 %: {np.mean(own):.1%} of {len(own):,} estimates")


def _row(drafter: str, source: str, k: int, own: Sequence[Error]) -> str:
    bias, other = (float(np.mean([getattr(row, name) for row in own])) for name in ("same", "other"))
    kept = float(np.nanmean([row.imported for row in own]))
    spread, apart = float(np.std([row.same for row in own])), float(np.std([row.other for row in own]))
    inside = float(np.mean([row.inside for row in own]))
    figures = f"{bias:+7.1%} ±{spread:5.1%} {kept:+12.1%} {other:+7.1%} ±{apart:5.1%} {inside:12.0%}"
    return f"{drafter:10} {source:10} {k:2d} {figures}"


if __name__ == "__main__":
    main()
