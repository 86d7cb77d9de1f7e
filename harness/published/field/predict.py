"""Measurements of real engines, made by others, predicted: what `harness reproduce field` says.

Every experiment names the published numbers that went in; all others are compared with, and nothing is tuned on them.
`results/published/field/README.md` says what each table is.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import polars as pl

from harness.published.field.acceptance import block_sizes, flat_over_load, longer_drafts, position_sums, single_stream
from harness.published.field.left_out import TABLES, left_out
from harness.published.field.page import Fieldwork, Unreproduced
from harness.published.field.serving import (
    ENGINES,
    capture_experiment,
    eagle3_experiment,
    mi355x_experiment,
    v4flash_experiment,
)
from harness.published.paper.fit import Tables
from results.published import FIELD

UNREPRODUCED: Final = (
    Unreproduced(
        "vllm_v4flash_b300_pareto, arm k=3",
        "drafts fewer tokens than the drafter's block, so that what it outputs is wrong; its loads are read from positions",
    ),
    Unreproduced(
        "vllm_v4flash_b300_pareto, speed of a user with k=5 and k=7 at c=256",
        "cut off at the figure's edge: at most 25 tokens/s; throughput is predicted",
    ),
    Unreproduced("vllm_52362, run B", "two loads only: too few for a line, and another build than run A"),
    Unreproduced(
        "vllm_52992_glm52_dspark16_summary, throughput and times",
        "one load, no cost curve and no line without speculation; its accepted lengths are checked",
    ),
    Unreproduced(
        "vllm_52228",
        "neither loads nor a cost curve are given, and no arm without speculation: nothing tells what a step costs",
    ),
    Unreproduced(
        "mtp_first_token_acceptance",
        "single acceptances, nothing to predict them from; `harness reproduce paper` takes one ratio of them",
    ),
    Unreproduced(
        "vllmblog_acceptance_lengths, MiniMax-M3", "k is not given; how its categories differ is an input elsewhere"
    ),
)
CAVEATS: Final = (
    "Not blind, but for the tables that say so. Nothing is tuned on a point that is called predicted, but whoever made the "
    "predictions had seen the tables. The third way to predict V4-Flash on B300 was found because the first two fail, and "
    "so was the use of categories.",
    "Profiled costs are not served step times. From them alone, V4-Flash without speculation comes out much too fast: "
    "users that begin together and get answers of equal length stay in lockstep, and few steps hold a prompt. If users "
    "begin one after the other, prefill outside of graphs explains most of it, but k=7 and adaptive verification then "
    "come out far too slow. Something that grows with running requests, and not with tokens, explains all of them. "
    "Whether it is host work, sampling, contexts or traffic between GPUs, the tables do not tell.",
    "The collapse of k=7 at 128 requests needs two things: that any prompt token makes a step of 1024 leave the graphs, "
    "and that requests accept differently. Were they alike, they would finish together, and most steps hold no prompt.",
    "k=5 is published slower than k=7 at 16 to 64 requests, though by the cost tables its steps are shorter, and a lone "
    "user accepts as much: nothing here explains that. At 128 requests 256 tokens are left in the largest graph: prompts "
    "of 338 tokens do not fit, shorter ones do.",
    "With graphs to 512 tokens, a step of vllm#49390 takes nearly 290 ms by its own time per token (98.77 ms) and the "
    "accepted length used here; the cost tables have 104.5 ms for as many tokens outside of graphs. So the cliff is "
    "predicted far too low. At 64 requests it takes prefill to fall off it: 512 tokens are captured.",
    "A line without speculation tells how steps grow when requests and tokens grow together, not which of them is to "
    "blame. What is published of MI355X lies between the two extremes, nearer to tokens.",
    "Adaptive verification at low load is published up to 8 % below fixed verification. Part of it is that vLLM's tables "
    "leave host work out and make verifying look dearer than it is; on MI355X, whose line cannot tell them apart, none "
    "of it comes out.",
    "An accepted length at k=1 says too much of longer drafts, for every model; two lengths say more. Where drafts are "
    "longer than the drafter was trained for, the accepted length falls: one recording cannot stand for all k.",
)
"""What a reader should know before trusting the errors."""


@cache
def field_tables() -> Tables:
    """Files of `results/published/field` by name."""
    return {file.stem: pl.read_csv(file) for file in sorted(FIELD.glob("*.csv"))}


def reproduce_field(tables: Tables | None = None) -> Fieldwork:
    """Predict and compare everything; about a minute."""
    tables = tables or field_tables()
    experiments = (
        *(left_out(tables, table) for table in TABLES),
        *(v4flash_experiment(tables, engine) for engine in ENGINES),
        *(capture_experiment(tables, engine) for engine in ENGINES),
        *(mi355x_experiment(tables, by) for by in ("tokens", "requests")),
        *(eagle3_experiment(tables, model) for model in ("Kimi-K2.5-MXFP4", "MiniMax-M2.5")),
        position_sums(tables),
        block_sizes(tables),
        longer_drafts(tables),
        flat_over_load(tables),
        single_stream(tables),
    )
    return Fieldwork(experiments, UNREPRODUCED, CAVEATS)
