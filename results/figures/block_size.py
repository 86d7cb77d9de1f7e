"""Accepted length over block size."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import polars as pl

from results.figures.common import draw_line, evidence_of, facets, legend_of, overlay, whiskers
from results.figures.section import Figure, Panel, Section, empty_plot, note
from results.figures.style import Series, in_order, longest
from results.published import PAPER, PAPER_TARGET
from results.store.runs import Provenance


def block_sizes(lengths: pl.DataFrame, kinds: dict[str, str]) -> pl.DataFrame:
    """Accepted length over block size, by domain, from the table of accepted lengths of any runs.

    Columns: run, drafter, gamma, domain, tau, low, high, paper (Qwen3-4B, DSpark with its Markov head or DFlash; also at
    block sizes that were not recorded, whose tau is null).
    """
    mine = lengths.filter(pl.col("task").is_null(), pl.col("gamma") > 0, pl.col("tau").is_not_null())
    mine = mine.select("run", "drafter", pl.col("gamma").cast(pl.Int64), "domain", "tau", "low", "high")
    kind = pl.col("drafter").replace_strict(kinds, default=None, return_dtype=pl.String)
    keys = mine.select("run", "drafter", "domain").unique(maintain_order=True).with_columns(kind=kind)
    grid = keys.join(paper_block_sizes(), on=["kind", "domain"], how="inner", maintain_order="left").drop("kind")
    keys_of = ["run", "drafter", "domain", "gamma"]
    joined = mine.join(grid, on=keys_of, how="full", coalesce=True, maintain_order="left_right")
    return joined.sort("run", "drafter", "domain", "gamma", maintain_order=True)


@cache
def paper_block_sizes() -> pl.DataFrame:
    """Figure 4: kind, domain, gamma, paper. Its draft length counts the anchor."""
    table = pl.read_csv(PAPER / "fig4_draft_length.csv")
    kind = pl.col("method").replace_strict({"DSpark-markov": "dspark", "DFlash": "dflash"}, default=None)
    columns = {"gamma": pl.col("draft_length") - 1, "paper": pl.col("accepted_length")}
    return table.select(kind.alias("kind"), pl.col("domain").str.to_lowercase(), **columns).drop_nulls()


def section(sizes: pl.DataFrame, runs: Sequence[Provenance], series: Sequence[Series]) -> Section:
    """Accepted length over block size."""
    recorded = sizes.filter(pl.col("tau").is_not_null())
    several = recorded.height > 0 and recorded.group_by("run", "drafter").agg(n=pl.col("gamma").n_unique())["n"].max() != 1
    remark = "Only one block size is recorded of each drafter"
    if (command := _with_block_sizes(runs[0].command)) is not None:
        remark += f"; `{command}` records several"
    return Section(
        "block-size",
        "Accepted length over block size",
        "What drafting more tokens in a round brings, before what it costs.",
        _block_size(sizes, longest(series), runs),
        (),
        evidence_of(runs, sizes["paper"].drop_nulls().len() > 0) if recorded.height else [],
        sizes,
        () if several or not recorded.height else (f"{remark}.",),
    )


def _with_block_sizes(command: str) -> str | None:
    """The command that made a run, for several block sizes; None where it has none."""
    words = shlex.split(command)
    recording = words[:2] in (["harness", "run"], ["harness", "record"])
    return shlex.join([*words, "--block-sizes", "3,5,7"]) if recording and "--block-sizes" not in words else None


def _block_size(sizes: pl.DataFrame, series: Sequence[Series], runs: Sequence[Provenance]) -> Figure:
    """τ over every block size recorded; a drafter's name and looks are those of its largest."""
    recorded = sizes.filter(pl.col("tau").is_not_null())
    there = set(recorded.select("run", "drafter").rows())
    shown = [replace(s, label=s.drafter) for s in series if (s.run, s.drafter) in there]
    if not shown:
        return Figure(missing="No rounds of a drafter are recorded: there is no accepted length to draw.")
    top = max(float(sizes.select(pl.max_horizontal("tau", "high", "paper").max()).item()), 2.0) * 1.06
    most = float(sizes["gamma"].max()) + 0.5  # type: ignore[arg-type]
    panels = []
    for run, domain, name, title in facets(runs, lambda run: in_order(recorded.filter(run=run)["domain"])):
        plot = empty_plot(height=310)
        for s in (s for s in shown if s.run == run):
            _block_size_lines(plot, s, sizes.filter(run=run, drafter=s.drafter, domain=domain).sort("gamma").to_dicts())
        plot.update_xaxes(title_text="block size γ, tokens drafted", range=[0, most])
        plot.update_yaxes(title_text="τ, tokens per round", range=[0, top])
        plot.update_layout(margin={"l": 44, "b": 40})
        panels.append(Panel(f"block-size-{name}", title, plot))
    legend = legend_of(shown)
    if sizes["paper"].drop_nulls().len():
        legend.append(note(f"{PAPER_TARGET} in the paper", "published"))
    return Figure(
        legend,
        panels,
        "Where a line flattens, drafting more tokens brings nothing more; whiskers are 95 % intervals over prompts.",
        published=overlay(runs),
    )


def _block_size_lines(plot: Any, s: Series, rows: Sequence[Mapping[str, Any]]) -> None:
    """A drafter's line and the published one."""
    told, mine = ([row for row in rows if row[column] is not None] for column in ("paper", "tau"))
    if told:
        draw_line(
            plot, [row["gamma"] for row in told], [row["paper"] for row in told],
            [f"{s.name}, γ={row['gamma']}, {PAPER_TARGET} in the paper: {row['paper']:.2f}" for row in told],
            colour=s.colour, symbol=s.symbol, evidence="published", size=6, opacity=0.7,
        )  # fmt: skip
    draw_line(
        plot, [row["gamma"] for row in mine], [row["tau"] for row in mine],
        [f"{s.name}, γ={row['gamma']}: {row['tau']:.3f}" + (
            "" if row["low"] is None else f", 95 % {row['low']:.2f} to {row['high']:.2f}") for row in mine],
        colour=s.colour, symbol=s.symbol, evidence=s.evidence, size=8,
        error_y=whiskers(mine, "tau") | {"thickness": 1.2, "color": s.colour},
    )  # fmt: skip
