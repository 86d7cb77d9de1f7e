"""How drafters were trained: accepted length on held-out answers, and the loss, over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from results.figures.common import draw_line, legend_of
from results.figures.intervals import half_width
from results.figures.section import Cell, Figure, Panel, Section, Table, empty_plot, slugs
from results.figures.style import Series, in_order
from results.store.trainings import DrafterTraining, HeldOutDrafting
from simulator.numbers import give_or_take


def trainings(found: Mapping[str, Mapping[str, DrafterTraining]]) -> pl.DataFrame:
    """Evaluations by run and drafter, as a table to take away.

    Columns: run, drafter, step, domain, tau (expected, on held-out answers), [low, high] (its 95 % interval over prompts;
    null where a checkpoint does not say, or of one prompt), prompts, loss (mean of a position since the evaluation before).
    """
    rows = [
        (run, name, e.step, d.domain, d.tau, *_ends(d), d.prompts or None, e.loss)
        for run, by_name in found.items()
        for name, training in by_name.items()
        for e in training.evaluated
        for d in e.drafting
    ]
    names, numbers = dict.fromkeys(("run", "drafter"), pl.String), dict.fromkeys(("tau", "low", "high"), pl.Float64)
    schema = {**names, "step": pl.Int64, "domain": pl.String, **numbers, "prompts": pl.Int64, "loss": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _ends(drafting: HeldOutDrafting) -> tuple[float | None, float | None]:
    """Ends of τ's interval."""
    half = half_width(drafting.error, drafting.prompts)
    return (None, None) if half is None else (drafting.tau - half, drafting.tau + half)


def section(found: Mapping[str, Mapping[str, DrafterTraining]], series: Sequence[Series]) -> Section | None:
    """Training, where a checkpoint tells of it."""
    frame = trainings(found)
    if frame.is_empty():
        return None
    there = {(run, name) for run, by_name in found.items() for name in by_name}
    largest = {(s.run, s.drafter): s for s in sorted(series, key=lambda s: s.gamma)}
    shown = [s for key, s in largest.items() if key in there]
    return Section(
        "training",
        "How drafters were trained",
        "Accepted length on held-out answers, and the loss, over the steps of the training: told by the checkpoint.",
        _figure(frame, shown),
        [_table(found)],
        ["measured"],
        frame,
    )


def _figure(frame: pl.DataFrame, shown: Sequence[Series]) -> Figure:
    domains = in_order(frame["domain"])
    names = slugs(domains)
    panels = []
    for what, slug in [*zip(domains, names, strict=True), ("loss", "the-loss")]:
        plot, column = empty_plot(height=260), "loss" if slug == "the-loss" else "tau"
        for s in shown:
            mine = frame.filter(run=s.run, drafter=s.drafter).sort("step")
            mine = mine.unique("step", keep="first", maintain_order=True) if column == "loss" else mine.filter(domain=what)
            rows = [row for row in mine.to_dicts() if row[column] is not None]
            draw_line(
                plot, [row["step"] for row in rows], [row[column] for row in rows],
                [_hover(s.name, row, column) for row in rows],
                colour=s.colour, symbol=s.symbol, evidence="measured", size=6,
            )  # fmt: skip
        plot.update_xaxes(title_text="step")
        plot.update_yaxes(title_text="loss of a position" if column == "loss" else "τ, tokens per round")
        plot.update_layout(margin={"l": 44, "b": 40})
        panels.append(Panel(f"training-{slug}", what, plot))
    return Figure(
        legend_of(shown), panels,
        "Held-out answers are few: where lines flatten says more than their height. The loss is the mean of drafted "
        "positions since the point before.",
    )  # fmt: skip


def _hover(name: str, row: Mapping[str, Any], column: str) -> str:
    """A point in words."""
    ends = f", 95 % {row['low']:.2f} to {row['high']:.2f}" if column == "tau" and row["low"] is not None else ""
    return f"{name}, step {row['step']:,}: {row[column]:.3f}{ends}"


def _table(found: Mapping[str, Mapping[str, DrafterTraining]]) -> Table:
    """What was kept of each training, and what it did on held-out answers of each domain then."""
    groups = []
    for by_name in found.values():
        rows = []
        for name, training in by_name.items():
            tokens = training.facts.get("train_tokens")
            about = [
                Cell(name), Cell.of(training.best_step, ",d"), Cell.of(training.steps, ",d"),
                Cell.of(tokens if isinstance(tokens, int) else None, ",d"),
            ]  # fmt: skip
            best = [d for e in training.evaluated if e.step == training.best_step for d in e.drafting]
            rows += [([*about, *_held_out(d)], False) for d in best]
        groups.append(rows)
    heads = [("drafter", ""), ("kept", "step"), ("taken", "steps"), ("trained on", "tokens of answers")]
    of_domain = [("held out", "domain"), ("of", "prompts"), ("τ", "expected, 95 %"), ("accepted", "by position")]
    return Table(
        [*heads, *of_domain], groups, "The step that is kept was chosen by these answers, which flatters it a little."
    )


def _held_out(drafting: HeldOutDrafting) -> list[Cell]:
    """What a domain comes to."""
    half = half_width(drafting.error, drafting.prompts)
    return [
        Cell(drafting.domain), Cell.of(drafting.prompts or None, ",d"),
        Cell(give_or_take(drafting.tau, half, ".2f"), drafting.tau),
        Cell(" ".join(give_or_take(a, None, ".2f") for a in drafting.acceptance) or "–"),
    ]  # fmt: skip
