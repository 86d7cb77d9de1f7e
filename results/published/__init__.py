"""What others published, the tables beside this file, by our names of drafters, domains and tasks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

import polars as pl

from results.store.runs import Provenance

PAPER: Final = Path(__file__).parent / "paper"
"""The tables of the DSpark paper; its README says what each is."""

FIELD: Final = Path(__file__).parent / "field"
"""Tables of engines that others measured; its README says what each is."""

PAPER_TARGET: Final = "Qwen3-4B"
"""The paper's target closest to a small pair; Figure 2 exists for it alone."""

PAPER_DRAFTERS: Final[Mapping[str, str]] = {"dspark": "DSpark", "dflash": "DFlash", "eagle3": "Eagle3"}
"""Kind of drafter → the paper's name for it."""

PAPER_DATASETS: Final[Mapping[str, str]] = {
    "gsm8k": "GSM8K",
    "math500": "MATH500",
    "aime25": "AIME25",
    "mbpp": "MBPP",
    "humaneval": "HumanEval",
    "livecodebench": "LiveCodeBench",
    "mt-bench": "MT-Bench",
    "alpaca": "Alpaca",
    "arena-hard-v2": "Arena-Hard",
}
"""Task → the paper's name for its dataset. A task not named here has no published value."""

DOMAIN_MEAN: Final = "mean of the domain"


@cache
def paper_tau() -> pl.DataFrame:
    """Published τ, columns kind, domain, dataset (`DOMAIN_MEAN` for the mean of a domain's datasets), paper."""
    table = paper_table("table1_accepted_length.csv").filter(target=PAPER_TARGET)
    sets = table.select("kind", "domain", "dataset", pl.col("tau").alias("paper"))
    means = sets.group_by("kind", "domain").agg(pl.lit(DOMAIN_MEAN).alias("dataset"), pl.col("paper").mean())
    return pl.concat([sets, means])


@cache
def paper_alpha() -> pl.DataFrame:
    """Published α_k, columns kind, domain, position, paper."""
    table = paper_table("fig2_conditional_acceptance.csv")
    return table.select("kind", "domain", "position", pl.col("cond_acceptance").alias("paper"))


def paper_table(name: str) -> pl.DataFrame:
    """One of the paper's tables, its domains and drafters renamed to ours."""
    table = pl.read_csv(PAPER / name)
    return table.with_columns(
        pl.col("domain").str.to_lowercase(),
        pl.col("drafter").replace_strict({paper: kind for kind, paper in PAPER_DRAFTERS.items()}).alias("kind"),
    )


def join_paper(measured: pl.DataFrame, run: Provenance, published: pl.DataFrame) -> pl.DataFrame:
    """`measured` with the column `paper`, null where the paper has nothing of that key for the drafter's kind."""
    kinds = pl.DataFrame(
        [(drafter.name, drafter.kind) for drafter in run.drafters],
        schema={"drafter": pl.String, "kind": pl.String},
        orient="row",
    )
    keys = [column for column in published.columns if column != "paper"]
    keyed = measured.join(kinds, on="drafter", how="left", maintain_order="left")
    return keyed.join(published, on=keys, how="left", maintain_order="left").drop("kind")
