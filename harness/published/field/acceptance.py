"""Accepted lengths that others report, predicted by the laws a replay rests on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import polars as pl

from harness.published.field.page import Decision, Experiment, FieldPoint, Role, field_point, summarised
from harness.published.paper.fit import Tables

BLOCK: Final = 7
"""Tokens drafted a round in llama.cpp's table, which does not say; DSpark's checkpoints for Qwen3 draft 7."""


def iid_length(alpha: float, k: int) -> float:
    """τ of k drafted tokens that are each accepted with probability α: 1 + α + … + α^k."""
    return float(np.sum(alpha ** np.arange(k + 1)))


def alpha_of(accepted_length: float, k: int) -> float:
    """The α that makes k drafted tokens come to an accepted length."""
    from scipy.optimize import brentq

    return float(brentq(lambda a: iid_length(a, k) - accepted_length, 0, 1))


def tail_length(one: float, two: float, k: int) -> float:
    """τ of k drafted tokens from τ at 1 and 2: position 2 tells what every later one accepts, given those before."""
    first, second = one - 1, two - one
    return 1 + first * iid_length(second / first, k - 1)


def position_sums(tables: Tables) -> Experiment:
    """τ is one more than the sum of survivals: two sets of published numbers that must agree."""
    found = []
    summary = tables["vllm_52992_glm52_dspark16_summary"].filter(metric="acceptance_length")
    position = tables["vllm_52992_glm52_dspark16_position"]
    for arm, column in (("fixed16", "fixed16_baseline"), ("adaptive", "adaptive")):
        total = 1 + float(position[f"{arm}_accept_frac"].sum())
        found.append(field_point("GLM-5.2 DSpark-16", arm, "accepted_length", "predicted", summary[column].item(), total))
    for (dataset,), rows in tables["kimi_k3_dspark_acceptance_by_position"].group_by("dataset", maintain_order=True):
        total = 1 + float(rows["survival_prob_digitised"].sum())
        label = rows["labelled_tokens_per_step"][0]
        found.append(field_point("Kimi-K3 DSpark-7", str(dataset), "accepted_length", "predicted", label, total))
    return Experiment(
        "A check, no prediction: accepted length and acceptance by position, as published, are one number",
        "vllm_52992_glm52_dspark16_position, vllm_52992_glm52_dspark16_summary, kimi_k3_dspark_acceptance_by_position",
        ("share of rounds that accept each position",),
        ("τ = 1 + Σ P(a ≥ k), which is so whatever drafts",),
        tuple(found),
        summarised(found),
        identity=True,
    )


def block_sizes(tables: Tables) -> Experiment:
    """τ over k drafted tokens, from k = 1 alone and from k = 1 and 2."""
    found, breaks, steps, rises = list[FieldPoint](), 0, 0, 0
    for name, lengths in _by_k(tables):
        survivals = np.diff([1.0, *lengths])
        steps += len(survivals) - 1
        breaks += int((np.diff(survivals) > 1e-9).sum())
        rises += int((survivals[1:] < -1e-9).sum())
        for k, published in enumerate(lengths, 1):
            one = iid_length(lengths[0] - 1, k)
            found.append(
                field_point(f"{name} · k=1", f"k={k}", "accepted_length", "input" if k == 1 else "predicted", published, one)
            )
        for k, published in enumerate(lengths, 1):
            two = tail_length(lengths[0], lengths[1], k)
            found.append(
                field_point(
                    f"{name} · k=1,2", f"k={k}", "accepted_length", "input" if k <= 2 else "predicted", published, two
                )
            )
    return Experiment(
        "Accepted length over drafted tokens",
        "inferencex_golden_acceptance_length",
        ("the accepted length at k=1 (all positions accept alike), or at k=1 and k=2 (all from the second on do)",),
        ("one recording serves every k: position k is accepted as often however many are drafted after it",),
        tuple(found),
        summarised(found),
        (
            Decision("k that add more than the k before, against one recording for all k", "share", breaks / steps, 0.0),
            Decision("k that accept less than the k before, against one recording for all k", "share", rises / steps, 0.0),
        ),
    )


def _by_k(tables: Tables) -> Iterator[tuple[str, list[float]]]:
    table = tables["inferencex_golden_acceptance_length"]
    for _, rows in table.group_by(["source_yaml", "thinking"], maintain_order=True):
        ordered = rows.sort("num_speculative_tokens")
        file = ordered["source_yaml"][0].partition(".yaml")[0].replace("probabilistic_sample_method_", "")
        name = f"{file.removesuffix('_sample_method')} {ordered['thinking'][0].removeprefix('thinking_')}"
        yield name, ordered["mean_acceptance_length_incl_bonus"].to_list()


def longer_drafts(tables: Tables) -> Experiment:
    """τ at k = 7 from k = 3, every position accepting alike."""
    table, found = tables["vllmblog_acceptance_lengths"].drop_nulls("k"), []
    for (target, drafter, dataset), rows in table.group_by(["target", "drafter", "dataset"], maintain_order=True):
        length = dict(zip(rows["k"].to_list(), rows["acceptance_length_incl_bonus"].to_list(), strict=True))
        guess = iid_length(alpha_of(length[3], 3), 7)
        found.append(field_point(f"{target} {drafter}", str(dataset), "accepted_length", "predicted", length[7], guess))
    return Experiment(
        "Accepted length at k=7 from k=3",
        "vllmblog_acceptance_lengths",
        ("the accepted length at k=3 on each data set",),
        ("every position accepts alike",),
        tuple(found),
        summarised(found),
    )


def flat_over_load(tables: Tables) -> Experiment:
    """A fixed policy's τ does not depend on load or on how many GPUs share the work."""
    table = tables["sglang_16818_dflash_accept_len"]
    first = float(table.filter(tp=1, concurrency=1)["accept_len_tokens_per_verify"].item())
    found = [
        field_point(
            f"DFlash, {row['tp']} GPU", f"c={row['concurrency']}", "accepted_length",
            "input" if row["tp"] == row["concurrency"] == 1 else "predicted", row["accept_len_tokens_per_verify"], first,
        )
        for row in table.iter_rows(named=True)
    ]  # fmt: skip
    return Experiment(
        "Accepted length over load",
        "sglang_16818_dflash_accept_len",
        ("one GPU, one request",),
        ("the replay's: what a fixed policy accepts depends on nothing but the text",),
        tuple(found),
        summarised(found),
    )


def single_stream(tables: Tables, block: int = BLOCK) -> Experiment:
    """Speed is proportional to τ: what a round costs, from one data set, gives all others."""
    found, costs = list[FieldPoint](), list[str]()
    for (target,), rows in tables["llamacpp_25173_dspark_dflash"].group_by("target", maintain_order=True):
        target_name = str(target).partition(" ")[0].replace("target", "unnamed target")
        for drafter in ("dflash", "dspark"):
            speed, share = pl.col(f"{drafter}_tok_s"), pl.col(f"{drafter}_accept_pct_of_drafted") / 100
            seen = rows.select("dataset", "baseline_tok_s", speed=speed, tau=1 + block * share)
            first = seen.filter(dataset="GSM8K").row(0, named=True)
            cost = first["tau"] * first["baseline_tok_s"] / first["speed"]
            costs.append(f"{target_name} {drafter} {cost:.2f}")
            for row in seen.iter_rows(named=True):
                role: Role = "input" if row["dataset"] == "GSM8K" else "predicted"
                guess = row["baseline_tok_s"] * row["tau"] / cost
                found.append(field_point(f"{target_name} · {drafter}", row["dataset"], "speed", role, row["speed"], guess))
    return Experiment(
        "Speed of one stream from accepted length",
        "llamacpp_25173_dspark_dflash",
        (
            "speed without speculation and share of drafted tokens accepted, on each data set",
            f"speed on GSM8K: a round costs so many steps without speculation: {', '.join(costs)}",
        ),
        (f"{block} tokens drafted a round, which the table does not say; a round's cost does not depend on the text",),
        tuple(found),
        summarised(found),
    )
