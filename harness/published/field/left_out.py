"""Published tables as `harness predict` has them: the line without speculation and a point or two given, the rest left out.

One set of defaults for all tables, those of the command: nothing is set for a table but the profile it begins with.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import polars as pl

from harness.hardware.calibration import simulated
from harness.hardware.forecast import crossovers, predictions, winners
from harness.hardware.measured import MeasuredPoint, base_profile, losing
from harness.hardware.posterior import Posterior
from harness.hardware.table import Metric
from harness.hardware.terms import Base
from harness.published.field.page import Decision, Experiment, FieldPoint, field_point, summarised
from harness.published.paper.fit import Tables
from simulator.hardware.catalogue import Asked
from simulator.hardware.model import Format
from simulator.load import Users
from simulator.policies import NO_DRAFTER, PolicySpec


class LeftOut(NamedTuple):
    """A table of two arms, and what is known beside it."""

    name: str
    file: str
    column: str
    metric: Metric
    where: pl.Expr
    arm: str
    """The one that drafts; the other is `none`."""
    kind: str
    gamma: int
    prompt_tokens: int
    output_tokens: int
    requests: int | None
    base: str
    gpus: int | None
    """GPUs of a modelled base."""
    notes: tuple[str, ...] = ()
    """What else is assumed."""
    share: float = 1.0
    """How much of the column is output."""
    weights: Format | None = None
    """The format of a modelled base's weights."""


def _arms(arm: str) -> pl.Expr:
    return pl.col("arm").is_in(["none", arm])


_B300, _MI355X, _EAGLE3 = "vllm_v4flash_b300_pareto", "vllm_52362", "vllmblog_eagle3_mi355x"
_STAND_IN: Final = "mi355x/deepseek-v4-pro"
"""The base of models of which no profile is here, on four GPUs: the wrong model, which factors move."""
_OTHER: Final = "the base is another model's: of this one none is here"
_LENGTHS: Final = "neither length is published"
_SEEN: Final = "the fits' defaults were chosen with this table in view, and others may come out worse"
BLIND: Final = (
    "typed in, and predicted once, before anything was changed with it in view; since then fits weigh whether all answers "
    "are as long, for which V4-Flash on B300 and the TPU were the reasons, expect other captured sizes and acceptances, and "
    "are less sure of what is accepted, for which the TPU was a reason, of drafters that lose at once, as on the RTX 5090, "
    "of what a token adds and drafts share, for which fifteen tables that are not here were, and of what each request that "
    "drafts adds, for which twenty-seven others were, all with these in view"
)
TABLES: Final = (
    *(
        LeftOut(
            f"V4-Flash on 4 × B300, {arm}", _B300, "throughput_tok_s_total", "output_tok_s", _arms(arm), arm, "dspark", k,
            338, 512, 880, "b300/deepseek-v4-flash", None, (_SEEN,),
        )
        for arm, k in (("k=7", 7), ("k=5", 5))
    ),
    LeftOut(
        "V4-Flash on 8 × MI355X", _MI355X, "output_tok_s_total", "output_tok_s",
        pl.col("run").str.starts_with("A") & _arms("fixed_k7"), "fixed_k7", "dspark", 7, 220, 512, 880,
        "mi355x/deepseek-v4-flash", 8, (_SEEN,),
    ),
    *(
        LeftOut(
            f"{model}, {arm}", _EAGLE3, "output_tok_s_per_gpu", "output_tok_s_per_gpu",
            (pl.col("model") == model) & _arms(arm), arm, "eagle3", 3, 1024, 1024, None, _STAND_IN, 4,
            (_OTHER, _LENGTHS, _SEEN),
        )
        for model, arm in (("Kimi-K2.5-MXFP4", "eagle3_bf16_draft"), ("MiniMax-M2.5", "eagle3_bf16_draft_k3"))
    ),
    LeftOut(
        "Qwen3-8B on TPU v7x-8", "sglang_jax_1632_dspark_tpu", "output_tok_s_total", "output_tok_s",
        (pl.col("parallelism") == "TP8") & _arms("dspark"), "dspark", "dspark", 7, 1024, 4096, None, "b200/qwen3-8b", 4,
        ("the base is another machine's, of about the same bandwidth: four B200", BLIND),
    ),
    LeftOut(
        "MiniMax-M3, ATOM", "atom_1333_minimax_m3_eagle3", "total_tok_s", "output_tok_s", _arms("eagle3"), "eagle3",
        "eagle3", 3, 8192, 1024, None, _STAND_IN, 4, (_OTHER, BLIND), share=1 / 9,
    ),
    LeftOut(
        "Qwen3.5-27B on 4 × H100", "sglang_19952_dflash_qwen35_27b", "output_tok_s_total", "output_tok_s", _arms("dflash"),
        "dflash", "dflash", 15, 200, 512, None, "h100/qwen3-14b", 4,
        (_OTHER, "drafts of 15 tokens, and lengths, are not published", BLIND),
    ),
    LeftOut(
        "Qwen3-8B on H100", "gist_jiangllm_qwen3_8b_h100", "output_tok_s_total", "output_tok_s", _arms("eagle3_k5"),
        "eagle3_k5", "eagle3", 5, 512, 256, None, "h100/qwen3-8b", 1, (_LENGTHS, BLIND),
    ),
    *(
        LeftOut(
            f"an 8B model on RTX 5090, {arm}", "hochelaga_8b_rtx5090_eagle3", "output_tok_s_total", "output_tok_s",
            _arms(arm), arm, "eagle3", k, 512, 256, None, "rtx4090/qwen3-8b", 1,
            ("the base is another card's, with weights in FP8", _LENGTHS, BLIND), weights="fp8",
        )
        for arm, k in (("eagle3_k1", 1), ("eagle3_k4", 4))
    ),
)  # fmt: skip
GIVEN: Final = (("the lowest", (0,)), ("the lowest and the third highest", (0, -3)))
"""Loads at which drafting is given beside the line, in words and by their place."""


def left_out(tables: Tables, table: LeftOut) -> Experiment:
    """Predict a table twice: from one point beside the line, and from two."""
    rows = _points(tables, table)
    loads = sorted({point.load.users or 0 for point in rows if point.policy != NO_DRAFTER})
    profile = base_profile(table.base, Asked(gpus=table.gpus, weights=table.weights), rows)
    found, decisions = list[FieldPoint](), list[Decision]()
    shown = [(words, places) for words, places in GIVEN if len(loads) > max(-min(places), len(places))]
    given = [_given(rows, {loads[place] for place in places}) for _, places in shown]
    bases = Base.several(profile, None, drafting=[table.kind], losing=losing(given[0]))
    loops = simulated(rows, bases)
    for (words, _), some in zip(shown, given, strict=True):
        posterior = Posterior.of(some, bases, loops=loops)
        told = predictions(posterior, some)
        case = f"given {words}"
        found += [_point(case, p.point, p.metric, p.measured, p.forecast.value) for p in told]
        decisions += _decided(posterior, some, case)
        inside = sum(bool(p.inside) for p in told) / len(told)
        decisions.append(Decision(f"{case}: left out, inside their 95 % intervals", "share", None, inside))
    return Experiment(
        f"`harness predict` · {table.name}",
        table.file,
        (f"the line without speculation, and drafting at the load that is {' or '.join(words for words, _ in shown)}",),
        (
            f"the base is {profile.name} ({profile.source})",
            f"prompts of {table.prompt_tokens:,} tokens, answers of {table.output_tokens:,}",
            "acceptance, and captured sizes where the base does not know them, are unknowns with priors",
            *table.notes,
        ),
        tuple(found),
        summarised(found),
        tuple(decisions),
    )


def _given(rows: Sequence[MeasuredPoint], loads: Collection[int]) -> list[MeasuredPoint]:
    """The line, and drafting at some loads alone."""
    return [replace(p, given=p.policy == NO_DRAFTER or p.load.users in loads) for p in rows]


def _points(tables: Tables, table: LeftOut) -> list[MeasuredPoint]:
    points = []
    for i, row in enumerate(tables[table.file].filter(table.where).sort("concurrency", "arm").iter_rows(named=True)):
        drafts = row["arm"] != "none"
        points.append(
            MeasuredPoint(
                line=i, load=Users(row["concurrency"]), requests=row.get("requests", table.requests),
                kind=table.kind if drafts else "none",
                policy=PolicySpec.fixed(table.gamma) if drafts else NO_DRAFTER, gamma=table.gamma if drafts else 0,
                prompt_tokens=table.prompt_tokens, output_tokens=table.output_tokens,
                values={table.metric: table.share * float(row[table.column])}, given=True,
            )
        )  # fmt: skip
    return points


def _point(case: str, point: MeasuredPoint, metric: Metric, measured: float | None, predicted: float) -> FieldPoint:
    assert measured is not None, "all of a table is published"
    return field_point(case, f"c={point.load.users}", "throughput", "predicted", measured, predicted)


def _decided(posterior: Posterior, points: Sequence[MeasuredPoint], case: str) -> list[Decision]:
    """Where drafting stops paying, and the most that following the predictions would lose."""
    made = [
        Decision(f"{case}: load at which drafting falls below none", "requests", one.measured, one.predicted)
        for one in crossovers(posterior, points)
    ]
    regrets = [best.regret for best in winners(posterior, points) if best.regret is not None]
    return [*made, Decision(f"{case}: most lost at any load by taking what is predicted to win", "share", 0.0, max(regrets))]
