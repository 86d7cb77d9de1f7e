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
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.served.acceptance import acceptance_of, interval
from harness.served.kept import traces_of
from harness.served.observed import Observation, ServedRequest, Settings, of_rounds, pooled
from harness.served.server import Server, together
from results.store.database import Store
from simulator.policies import PolicySpec
from simulator.replay import replay
from simulator.traces import Trace

SOURCES = ("averages", "by request", "by round")
SPLITS = 20


def served(trace: Trace, source: str) -> Server:
    """What a server would have logged that verified whole drafts of these answers."""
    policy, requests = PolicySpec.fixed(trace.gamma).bind(), []
    for response, anchors in trace:
        rounds = replay(anchors, policy)
        accepted, drafted = [r.accepted for r in rounds], [r.drafted for r in rounds]
        drafts = of_rounds(accepted, drafted, trace.gamma)
        kept = tuple(a for a, d in zip(accepted, drafted, strict=True) if d) if source == "by round" else ()
        requests.append(
            ServedRequest(prompt_tokens=response.prompt_tokens, output_tokens=len(anchors) + 1, drafts=drafts, rounds=kept)
        )
    steps = sum(one.steps for one in requests)
    return together([
        Observation(
            source=source, files=(source,), settings=Settings(gamma=trace.gamma, method=trace.kind, speculates=True),
            drafts=pooled([one.drafts for one in requests]), requests=len(requests), request_steps=steps,
            generated=sum(one.output_tokens for one in requests), told_apart=() if source == "averages" else tuple(requests),
        )
    ])  # fmt: skip


def tau(trace: Trace, k: int) -> float:
    """Tokens a round of the dense replay, verifying k."""
    policy = PolicySpec.fixed(k).bind()
    rounds = [r for _, anchors in trace for r in replay(anchors, policy)]
    return sum(r.committed for r in rounds) / len(rounds)


def halves(trace: Trace, rng: np.random.Generator) -> tuple[Trace, Trace]:
    """Two halves of its prompts."""
    prompts = sorted({r.prompt_id for r in trace.responses})
    first = set(rng.permutation(prompts)[: len(prompts) // 2])
    keep = [r.prompt_id in first for r in trace.responses]
    return trace.select(keep), trace.select([not k for k in keep])


def errors(trace: Trace, splits: int) -> Iterator[tuple[str, int, float, float, float, bool]]:
    """(source, k, error of the estimate, of the imported run's replay, error against other prompts, whether those lie inside
    the interval, widened by their own noise)."""
    rng = np.random.default_rng(0)
    for split in range(splits):
        here, other = halves(trace, rng)
        truth = {k: (tau(here, k), tau(other, k)) for k in range(1, trace.gamma + 1)}
        for source in SOURCES:
            server = served(here, source)
            acceptance = acceptance_of(server, split)
            imported, _ = traces_of(server, acceptance, trace.drafter, trace.kind, split)
            for k, (same, elsewhere) in truth.items():
                estimate = acceptance.tokens(k)
                low, high = interval(acceptance.tokens_drawn(k))
                # The other half is as large: what is between two halves is √2 times what is between one and all traffic.
                low, high = estimate - (estimate - low) * 2**0.5, estimate + (high - estimate) * 2**0.5
                yield (
                    source,
                    k,
                    estimate / same - 1,
                    tau(imported, k) / same - 1,
                    estimate / elsewhere - 1,
                    low <= elsewhere <= high,
                )


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
    for recording in store.recordings(run):
        if recording.gamma < 1 or recording.drafting == "greedy":
            continue
        trace = replace(store.trace(run, recording), kind=recording.kind)
        rows = list(errors(trace, given.splits))
        for source in SOURCES:
            for k in sorted({1, 2, (trace.gamma + 1) // 2, trace.gamma} & set(range(1, trace.gamma + 1))):
                own = [row for row in rows if row[:2] == (source, k)]
                print(_row(recording.drafter, source, k, own), flush=True)


def _row(drafter: str, source: str, k: int, own: Sequence[tuple[str, int, float, float, float, bool]]) -> str:
    bias, kept, other = (float(np.mean([row[i] for row in own])) for i in (2, 3, 4))
    spread, apart = float(np.std([row[2] for row in own])), float(np.std([row[4] for row in own]))
    inside = float(np.mean([row[5] for row in own]))
    figures = f"{bias:+7.1%} ±{spread:5.1%} {kept:+12.1%} {other:+7.1%} ±{apart:5.1%} {inside:12.0%}"
    return f"{drafter:10} {source:10} {k:2d} {figures}"


if __name__ == "__main__":
    main()
