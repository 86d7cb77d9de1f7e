"""A sweep as its figures share it: who is drawn how, who leads, and the paper's systems behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import polars as pl

from results.figures import sweep as sweep_figure
from results.figures.common import draw_line
from results.figures.section import LegendEntry, entry, note
from results.figures.style import STYLES, Evidence, Series, recorded_evidence
from results.figures.sweep import PAPER_LABEL, Sweep, by_system, capacities, leaders, main_kind, paper_curves
from results.store.runs import Provenance
from results.store.simulations import Simulation
from simulator.configuration import System
from simulator.drafter_kinds import KINDS
from simulator.policies import NO_DRAFTER
from simulator.sla import Sla

if TYPE_CHECKING:  # takes a second, and numbers need none of it
    import plotly.graph_objects as go

AXES: Final = {"users": "users at once", "rate": "requests per second", "arrivals": "recorded arrivals"}


def bound(sla: Sla) -> str:
    """A bound as people read it."""
    return str(sla).replace(">=", " ≥ ").replace("<=", " ≤ ")


def promise(sla: Sla) -> str:
    """A bound in words, for who has not read the manual."""
    whom = "on average" if sla.share is None else f"for {100 * sla.share:.6g} % of requests"
    if sla.measure == "tps":
        return f"at least {sla.bound:g} tokens/s {whom}"
    what = {"ttft": "to the first token", "tpot": "per token after the first", "e2e": "for a whole answer"}[sla.measure]
    time = f"{sla.bound:g} s" if sla.bound >= 1 else f"{1e3 * sla.bound:g} ms"
    return f"at most {time} {what} {whom}"


class View:
    """A sweep with everything its sections share: who is drawn how, and who leads."""

    def __init__(self, sweep: Sweep, points: Sequence[Simulation], runs: Sequence[Provenance]) -> None:
        self.sweep, self.points = sweep, points
        self.slas = sweep.plan.slas
        self.capacities = capacities(points, self.slas)
        self.leaders = leaders(points, self.slas)
        self.kind = main_kind(points)
        self.systems = sweep_figure.systems(points)
        self.every = by_system(points)
        own = [recorded_evidence(run) for run in runs if run.run_id == sweep.run_id]
        self.evidence: list[Evidence] = ["simulated", *(kind for kind in own if kind != "measured")]
        sizes = {(s.recording.drafter, s.recording.gamma) for s in self.systems}
        self._several = {name for name, gamma in sizes if any(n == name and g != gamma for n, g in sizes)}

    def name(self, system: System) -> str:
        """The system as people call it, with γ where its drafter has several."""
        if system.policy == NO_DRAFTER:
            return "none"
        r = system.recording
        estimated = " (estimated)" if r.confidences == "estimated" else ""
        return f"{r.short if r.drafter in self._several else r.drafter} {system.policy}{estimated}"

    def series(self, system: System, colours: Mapping[str, Series]) -> Series:
        """How it is drawn: as its drafter."""
        drafter, gamma, kind = system.recording.drafter, system.recording.gamma, system.recording.kind
        if system.policy == NO_DRAFTER:
            return Series(self.sweep.run_id, "none", 0, "none", "none", *STYLES["none"], "simulated")
        own = colours.get(drafter)
        style = (own.colour, own.symbol) if own else STYLES.get(kind, STYLES["none"])
        return Series(self.sweep.run_id, drafter, gamma, kind, self.name(system), *style, "simulated")

    @property
    def published(self) -> tuple[str, ...]:
        """The paper's served systems that are drawn behind: where theirs is the model that was simulated."""
        served = "deepseek-v4" in self.sweep.profile.model.lower()
        return ("V4-Flash", "V4-Pro") if served else ()

    @property
    def where(self) -> str:
        """The hardware, and how far to trust it."""
        return f"On {self.sweep.profile.name} ({self.sweep.profile.source})"

    @property
    def bounds(self) -> str:
        """The bounds in words."""
        return " and ".join(map(bound, self.slas))

    @property
    def promises(self) -> str:
        """The same for the first sentence."""
        return " and ".join(map(promise, self.slas))

    def rows(self, system: System) -> list[Simulation]:
        """Its points over the load that most points have."""
        return [row for row in self.every[system] if row.load_kind == self.kind]

    def table(self, *columns: str) -> pl.DataFrame:
        """Its points to take away: these columns, or all."""
        whole = sweep_figure.frame(self.points)
        return whole.select(columns) if columns else whole


def draw_system(
    plot: go.Figure, view: View, system: System, colours: Mapping[str, Series], x: Literal["load", "tps"], y: str
) -> None:
    """A system's points as a line: full where it leads, thin and faint elsewhere."""
    found = [(row, row.load.size, getattr(row, y)) for row in view.rows(system)]
    if x == "tps":
        found = [(row, row.tps, getattr(row, y)) for row in view.every[system]]
    found = [(row, right, up) for row, right, up in found if right is not None and up is not None]
    s = view.series(system, colours)
    leads = system in view.leaders
    style: dict[str, Any] = {"size": 7} if leads else {"size": 4, "opacity": 0.4, "line": {"color": s.colour, "width": 1}}
    draw_line(
        plot, [right for _, right, _ in found], [up for *_, up in found],
        [f"{view.name(system)}{'' if row.lossless else ' (a bound)'}, {row.load.label}<br>"
         f"{row.told('throughput', ',.0f')} tok/s/GPU · {row.told('tps', '.1f')} tok/s of a user<br>"
         f"τ {row.told('tau', '.2f')} · budget {row.told('budget', '.2f')}"
         f"{'<br>breaks a bound' if row.kept is False and row.tells(view.slas) else ''}" for row, *_ in found],
        colour=s.colour, symbol=s.symbol, evidence="simulated", **style,
    )  # fmt: skip


def draw_published(plot: go.Figure, name: Any, model: str, x: str, y: str) -> None:
    """The paper's served system behind ours, dashed and hollow, its model named at its end."""
    for kind in ("dspark", "mtp"):
        rows = paper_curves(name).filter(model=model, kind=kind).filter(pl.col("x") > 0, pl.col("y") > 0).to_dicts()
        if not rows:
            continue
        colour, symbol = STYLES[kind]
        draw_line(
            plot, [row["x"] for row in rows], [row["y"] for row in rows],
            [f"{model} with {kind}, published: {row['y']:,.4g} {y} at {row['x']:,.4g} {x}" for row in rows],
            colour=colour, symbol=symbol, evidence="published", opacity=0.6,
            marker={"symbol": f"{symbol}-open", "size": 6, "color": colour, "maxdisplayed": 7},
        )  # fmt: skip
    line = paper_curves(name).filter(model=model, kind="dspark")
    tenth = 6 if model == "V4-Flash" or name == "fig7_frontier" else 2
    middle = line.row(line.height * tenth // 10, named=True)
    plot.add_scatter(
        x=[middle["x"]], y=[middle["y"]], mode="text", text=[model], textposition="bottom left", textfont={"size": 10},
        hoverinfo="skip", meta="published",
    )  # fmt: skip


def legend_of_view(view: View, colours: Mapping[str, Series], *, published: bool) -> list[LegendEntry]:
    """The leaders in report order, and what the paper's curves are where they are drawn."""
    places = {kind: place for place, kind in enumerate(KINDS)}
    systems = sorted(view.leaders, key=lambda s: places.get(s.recording.kind, len(KINDS)))
    entries = [entry(view.series(s, colours)) for s in systems]
    return [*entries, *([note(f"{PAPER_LABEL}: dspark and mtp", "published")] if published else [])]


def back_to_front(view: View) -> list[System]:
    """Leaders last, so that they lie on top."""
    return sorted(view.systems, key=lambda s: s in view.leaders)


def full_rows(view: View) -> list[Simulation]:
    """Every point of the systems that have results."""
    return [row for system in view.systems for row in view.every[system]]
