"""Conditional acceptance by position, published values beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl

from results.figures.common import IN_PAPER, draw_line, evidence_of, facets, legend_of, overlay, whiskers
from results.figures.intervals import FEWEST_UNITS, Z95
from results.figures.section import Figure, Panel, Section, empty_plot, note
from results.figures.style import Series, in_order, longest
from results.published import join_paper, paper_alpha
from results.store.queries import query
from results.store.runs import Provenance, drafting_of, provenance

if TYPE_CHECKING:  # takes a second, and numbers need none of it
    import plotly.graph_objects as go


def conditional_acceptance(con: duckdb.DuckDBPyConnection, run_id: str) -> pl.DataFrame:
    """Conditional acceptance α_k = P(position k accepted | positions before k accepted), by drafter and domain.

    A round that accepted a of ℓ verified tokens is a success at positions 1..a and, if a < ℓ, a failure at a + 1. No
    such failure is counted where the response ended with an end token inside the accepted draft: what came after the
    end was never judged. That round is told by finish = 'stop' and committed = a: any other commits a + 1 or was cut by
    the length limit. Rounds of all tasks of a domain are pooled. [`low`, `high`] is Wilson's 95 % score interval (JASA
    22, 1927) of as many independent trials as tell the same: rounds of a prompt are alike, so prompts' spread counts;
    null from fewer than `FEWEST_UNITS` of them. Drafters with γ = 0 have no rows, nor have positions never tried. Drafts are
    chosen as `drafting_of` says.

    Columns: drafter, gamma, domain, position (from 1), trials, accepted, alpha, low, high, paper (the paper's Figure 2,
    Qwen3-4B at γ = 7, for the same kind of drafter, domain and position; null where unpublished).
    """
    trials = query(
        con,
        """
        WITH judged AS (
            SELECT r.drafter, r.gamma, s.domain, r.prompt_id, r.accepted, r.verified,
                   s.finish = 'stop' AND r.committed = r.accepted AS ended_inside_draft
            FROM rounds r JOIN recorded_responses s USING (run_id, drafter, gamma, drafting, prompt_id, turn)
            WHERE r.run_id = $run AND r.gamma > 0 AND r.drafting IN ($drafting, 'either')
        )
        SELECT drafter, gamma, domain, p.position, prompt_id, count(*) AS trials,
               count_if(p.position <= accepted)::BIGINT AS accepted
        FROM judged JOIN range(1, 256) AS p(position)
          ON p.position <= least(gamma, accepted + (accepted < verified AND NOT ended_inside_draft)::INTEGER)
        GROUP BY ALL ORDER BY ALL
        """,
        run_id,
        drafting=drafting_of(con, run_id),
    )
    return join_paper(_with_intervals(trials), provenance(con, run_id), paper_alpha())


def _with_intervals(trials: pl.DataFrame) -> pl.DataFrame:
    """Prompts' trials by position, pooled, with shares and intervals.

    The share's variance is that of a ratio of sums over prompts (Cochran, Sampling Techniques, 1977, 6.3), and no less than
    independent trials have.
    """
    n, accepted, alpha = pl.col("trials"), pl.col("accepted"), pl.col("alpha")
    by = ("drafter", "gamma", "domain", "position")
    of_prompts = trials.with_columns(alpha=accepted.sum().over(by) / n.sum().over(by)).group_by(by, maintain_order=True)
    pooled = of_prompts.agg(
        n.sum(), accepted.sum(), alpha.first(), prompts=pl.len(), off=((accepted - alpha * n) ** 2).sum()
    )
    between = pl.col("off") * pl.col("prompts") / (pl.col("prompts") - 1) / n**2
    alike = pl.when(alpha.is_between(0, 1, closed="none")).then(between / (alpha * (1 - alpha) / n)).otherwise(1.0)
    worth = n / alike.clip(1.0)
    centre = (alpha + Z95**2 / (2 * worth)) / (1 + Z95**2 / worth)
    half = Z95 / (1 + Z95**2 / worth) * (alpha * (1 - alpha) / worth + Z95**2 / (4 * worth**2)).sqrt()
    ends = {"low": centre - half, "high": centre + half}
    known = pl.col("prompts") >= FEWEST_UNITS
    return pooled.with_columns(**{name: pl.when(known).then(end) for name, end in ends.items()}).drop("prompts", "off")


def lost(con: duckdb.DuckDBPyConnection, run_id: str) -> pl.DataFrame:
    """What the target gives to tokens that a drafter's reduced vocabulary lacks, by draft position: a mean over anchors.

    So much of the drafts is rejected, whatever is drafted. Drafters with all of the target's tokens have no rows.
    Columns: drafter, gamma, position (from 1), share.
    """
    return query(
        con,
        """
        SELECT drafter, gamma, p.position, avg(outside[p.position]) AS share
        FROM anchors JOIN range(1, 256) AS p(position) ON p.position <= gamma
        WHERE run_id = $run AND outside IS NOT NULL
        GROUP BY ALL HAVING share IS NOT NULL ORDER BY ALL
        """,
        run_id,
    )


def lost_in_words(shares: pl.DataFrame) -> dict[str, str]:
    """The same by drafter, of its longest drafts, in a sentence."""
    longest_first = shares.sort("gamma", descending=True)
    told = {}
    for name in shares["drafter"].unique(maintain_order=True):
        own = longest_first.filter(drafter=name)
        own = own.filter(gamma=own["gamma"][0]).sort("position")
        at = ", ".join(f"{share:.1%}" for share in own["share"])
        where = "at position 1" if len(own) == 1 else f"at positions 1 to {len(own)}"
        told[name] = f"lost to the reduced vocabulary: {at} of the target's probability {where}"
    return told


def section(alpha: pl.DataFrame, runs: Sequence[Provenance], series: Sequence[Series], lost: Sequence[str] = ()) -> Section:
    """α_k by position, one panel per domain; published values dashed with hollow marks. `lost` are sentences on what
    vocabularies lack, which bounds it."""
    return Section(
        "conditional-acceptance",
        "Conditional acceptance by position",
        " ".join(
            [
                "α at position k is how often the target keeps draft position k once it has kept all positions before it.",
                *lost,
            ]
        ),
        _positions(alpha, longest(series), runs),
        (),
        evidence_of(runs, alpha["paper"].drop_nulls().len() > 0),
        alpha,
    )


def _positions(alpha: pl.DataFrame, series: Sequence[Series], runs: Sequence[Provenance]) -> Figure:
    shown = [s for s in series if s.rows(alpha)]
    if not shown:
        return Figure(missing="No drafted position was ever verified: there is no conditional acceptance to draw.")
    last = max(row["position"] for s in shown for row in s.rows(alpha))
    panels = []
    for run, domain, name, title in facets(runs, lambda run: in_order(alpha.filter(run=run)["domain"])):
        plot = empty_plot(height=330)
        of_run = [s for s in shown if s.run == run]
        for slot, s in enumerate(of_run):
            _position_lines(plot, s, s.rows(alpha.filter(domain=domain)), (slot - (len(of_run) - 1) / 2) * 0.09)
        plot.update_xaxes(range=[0.5, last + 0.5], dtick=1, title_text="position in the draft")
        plot.update_yaxes(range=[0, 1.02], dtick=0.2, tickformat=".1f", title_text="α, share kept")
        plot.update_layout(margin={"l": 48, "b": 40})
        panels.append(Panel(f"conditional-acceptance-{name}", title, plot))
    legend = legend_of(shown)
    if alpha["paper"].drop_nulls().len():
        legend.append(note(IN_PAPER, "published"))
    return Figure(
        legend,
        panels,
        "A line that falls to the right belongs to a drafter that loses the thread within its block; whiskers are 95 % "
        "intervals over prompts, wide where few rounds got that far.",
        published=overlay(runs),
    )


def _position_lines(plot: go.Figure, s: Series, rows: Sequence[Mapping[str, Any]], aside: float) -> None:
    """A drafter's line, set aside a little to keep whiskers apart, and the published one."""
    told = [row for row in rows if row["paper"] is not None]
    if told:
        draw_line(
            plot, [row["position"] for row in told], [row["paper"] for row in told],
            [f"{s.label}, {IN_PAPER}: {row['paper']:.3f}" for row in told],
            colour=s.colour, symbol=s.symbol, evidence="published", size=5, opacity=0.7,
        )  # fmt: skip
    if rows:
        draw_line(
            plot, [row["position"] + aside for row in rows], [row["alpha"] for row in rows],
            [f"{s.label}, position {row['position']}: {row['alpha']:.3f}, {_interval(row)} "
             f"({row['accepted']} of {row['trials']})" for row in rows],
            colour=s.colour, symbol=s.symbol, evidence=s.evidence, size=8,
            error_y=whiskers(rows, "alpha") | {"thickness": 1.2, "color": s.colour},
        )  # fmt: skip


def _interval(row: Mapping[str, Any]) -> str:
    return "no interval" if row["low"] is None else f"95 % {row['low']:.3f} to {row['high']:.3f}"
