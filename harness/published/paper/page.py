"""How well published curves were predicted: the numbers, what they come to, and a page that shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import plotly.graph_objects as go

from results.figures.section import Figure, LegendEntry, Panel, empty_plot
from results.figures.style import STYLES, SYMBOLS
from results.report.page import render_page, write_page

Dataset = Literal["fig8_throughput", "fig8_budget", "fig7_frontier"]
Role = Literal["fitted", "predicted", "unused"]
"""Whether a published point was fitted, is held out (above 50 requests), or is neither: the lowest load, and of Figure 7."""

UNITS: Final[Mapping[Dataset, tuple[str, str]]] = {
    "fig8_throughput": ("concurrent requests per GPU", "tokens per second and GPU"),
    "fig8_budget": ("concurrent requests per GPU", "tokens per request and step"),
    "fig7_frontier": ("tokens per second and user", "tokens per second and GPU"),
}
"""What a data set runs over, and what it shows."""


@dataclass(frozen=True, slots=True)
class PaperPoint:
    """A published point of DSpark and what was predicted for it."""

    dataset: Dataset
    x: float
    """Requests per GPU in Figure 8, tokens per second and user in Figure 7."""
    concurrent_requests: float
    """Per GPU; in Figure 7 published throughput over x."""
    role: Role
    published: float
    predicted: float
    """By the simulator; nan where it was not asked."""
    error: float
    """Predicted less published: tokens of budget, or a share of the published throughput."""
    mean_field: float
    """The limit of infinitely many requests."""
    mean_field_error: float


@dataclass(frozen=True, slots=True)
class PaperSummary:
    """Errors over a data set's points of role `predicted`: tokens of budget, or shares of throughput."""

    dataset: Dataset
    points: int
    mae: float
    """Mean absolute error of the simulator's prediction."""
    bias: float
    worst: float
    mean_field_mae: float
    fitted_mae: float | None
    """The simulator's on the points that were fitted; None where none were."""
    aim: float | None
    """What the mean absolute error was to stay within; None without one."""
    met: bool | None
    """Whether it does; None without an aim."""
    floor: float | None
    """How far the paper's Figure 7 lies from its own Figure 8, where that bounds what can be reached."""


@dataclass(frozen=True, slots=True)
class LabelledPoint:
    """A point that Figure 7 labels: MTP-1 and DSpark at the same speed for a user, or at the same throughput."""

    held: Literal["tps_per_user", "throughput_per_gpu"]
    """What is the same; the values below are of the other."""
    level: float
    concurrent_requests: float
    """Per GPU, of DSpark as published."""
    mtp: float
    """MTP-1's value as published; `dspark` is DSpark's."""
    dspark: float
    predicted: float
    """DSpark's, by the simulator."""
    mtp_by_figure8: float | None
    """On the line fitted to Figure 8's MTP-1; None where that never is so fast, or delivers so much."""
    gain: float
    """Gain of DSpark over MTP-1, both as published: .51 is 51 % more."""
    predicted_gain: float
    """Predicted DSpark over published MTP-1."""


@dataclass(frozen=True, slots=True)
class PredictedCurve:
    """Predictions over a load: the simulator's, and the mean field's beside them."""

    requests: tuple[float, ...]
    """Per GPU."""
    throughput: tuple[float, ...]
    budget: tuple[float, ...]
    half_width: float
    """Largest half of a 95 % interval of throughput, the simulation's own noise, as a share."""
    mean_field_throughput: tuple[float, ...]
    mean_field_budget: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class MtpPoint:
    """MTP-1 as published, which the step time is fitted to, and as fitted: tokens per second and GPU."""

    concurrent_requests: float
    published: float
    fitted: float


@dataclass(frozen=True, slots=True)
class ModelResult:
    """One model's curves."""

    model: str
    """The model's name in the paper."""
    profile: str
    """Its fitted hardware profile."""
    parameters: Mapping[str, float]
    """What was fitted."""
    points: tuple[PaperPoint, ...]
    summaries: tuple[PaperSummary, ...]
    labelled_points: tuple[LabelledPoint, ...]
    curve: PredictedCurve
    mtp: tuple[MtpPoint, ...]


@dataclass(frozen=True, slots=True)
class PaperAlternative:
    """Another way to fit, and what it would have come to by the mean field: errors of points held out, or of low load."""

    name: str
    model: str
    throughput: float
    budget: float
    budget_bias: float
    frontier: float
    low_throughput: float
    low_budget: float


@dataclass(frozen=True, slots=True)
class FormCheck:
    """How a form of step time continues the MTP-1 line beyond 50, 60 and 70 % of it: how the form was chosen."""

    form: str
    model: str
    error: float
    """Mean, as a share."""


@dataclass(frozen=True, slots=True)
class Reproduction:
    """Everything there is to say."""

    models: tuple[ModelResult, ...]
    forms: tuple[FormCheck, ...]
    assumptions: tuple[str, ...]
    caveats: tuple[str, ...]
    alternatives: tuple[PaperAlternative, ...]
    """Empty unless asked for."""


def amount(dataset: Dataset, value: float, *, signed: bool = False) -> str:
    """An error as people read it: percent of throughput, tokens of budget."""
    sign = "+" if signed else ""
    return f"{value:{sign}.3f} tokens" if dataset == "fig8_budget" else f"{100 * value:{sign}.2f} %"


def labelled_point_text(point: LabelledPoint) -> str:
    """A labelled point as a line of text."""
    by_speed = point.held == "tps_per_user"
    held, other = ("tokens/s/user", "tokens/s/GPU")[:: 1 if by_speed else -1]
    digits = 0 if by_speed else 1
    beyond = "" if point.concurrent_requests > 50 else " (at most 50 requests)"
    guess, real = (f"{value:,.{digits}f}" for value in (point.predicted, point.dspark))
    return (
        f"at {point.level:,.0f} {held}{beyond}: dspark {guess} {other} (published {real}), over published mtp "
        f"{100 * point.predicted_gain:+.0f} % (published {100 * point.gain:+.0f} %)"
    )


def verdict(result: Reproduction) -> str:
    """What was predicted how well, in a few sentences; a missed aim is one of them."""
    sentences, missed = [], []
    for model in result.models:
        errors = {s.dataset: amount(s.dataset, s.mae) for s in model.summaries}
        sentences.append(
            f"{model.model} above 50 requests per GPU: on average throughput is {errors['fig8_throughput']} off, the "
            f"verification budget {errors['fig8_budget']}, the frontier {errors['fig7_frontier']}."
        )
        missed += [
            f"{model.model}'s {s.dataset.partition('_')[2]} ({amount(s.dataset, s.mae)}, aim {amount(s.dataset, s.aim)})"
            for s in model.summaries
            if s.aim is not None and not s.met
        ]
    return " ".join([*sentences, f"Aim missed: {'; '.join(missed)}." if missed else "All aims are met."])


# --- the page -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlotInfo:
    """One panel, nothing drawn: published and predicted DSpark, published and fitted MTP-1, and what was looked at."""

    model: str
    dataset: Dataset
    published: tuple[tuple[float, float], ...]
    simulated: tuple[tuple[float, float], ...]
    mean_field: tuple[tuple[float, float], ...]
    mtp_published: tuple[tuple[float, float], ...]
    """Empty where MTP-1 is no input: its budget is always 2, and Figure 7's line is not fitted."""
    mtp_fitted: tuple[tuple[float, float], ...]
    window: tuple[float, float]
    """The stretch of x at up to 50 requests."""


def plot_info(result: ModelResult, dataset: Dataset, split: float = 50.0) -> PlotInfo:
    """What a panel shows."""
    mine = [p for p in result.points if p.dataset == dataset]
    c = result.curve
    by_user = dataset == "fig7_frontier"
    high = max(p.concurrent_requests for p in mine) * 1.1
    shown = [
        i for i, n in enumerate(c.requests) if n <= high and (not by_user or n >= min(p.concurrent_requests for p in mine))
    ]

    def line(values: Sequence[float]) -> tuple[tuple[float, float], ...]:
        return tuple((values[i] / c.requests[i] if by_user else c.requests[i], values[i]) for i in shown)

    budget = dataset == "fig8_budget"
    low = [p.x for p in mine if p.concurrent_requests <= split]
    mtp = result.mtp if dataset == "fig8_throughput" else ()
    return PlotInfo(
        result.model,
        dataset,
        tuple((p.x, p.published) for p in mine),
        line(c.budget if budget else c.throughput),
        line(c.mean_field_budget if budget else c.mean_field_throughput),
        tuple((p.concurrent_requests, p.published) for p in mtp),
        tuple((p.concurrent_requests, p.fitted) for p in mtp),
        (min(low), max(p.x for p in mine)) if by_user else (0.0, split),
    )


def write_reproduction(result: Reproduction, file: Path) -> None:
    """Write the page to `file`, whole or not at all."""
    write_page(render(result), file)


def render(result: Reproduction) -> str:
    """One self-contained HTML page."""
    return render_page(
        Path(__file__).with_name("reproduction.html"),
        {dataset: _figure(result, dataset) for dataset in UNITS},
        title="DeepSeek-V4 from the DSpark paper's low load",
        subtitle="Figures 7 and 8 above 50 requests per GPU, predicted by the simulator from what is published below",
        answer=verdict(result),
        notices=result.caveats,
        result=result,
        amount=amount,
        said=labelled_point_text,
    )


_MEAN_FIELD: Final = "M-16,0h6M-6,0h4M2,0h4M10,0h6"
_CAPTIONS: Final[Mapping[Dataset, str]] = {
    "fig8_throughput": "Hollow circles should lie on the solid line. Hollow triangles are the input: the step time is "
    "fitted to them. Of DSpark, only points between 20 and 50 requests were fitted; the shaded stretch ends at 50.",
    "fig8_budget": "Tokens that the scheduler verifies for a request in a step, its last one included; MTP-1 verifies 2.",
    "fig7_frontier": "Shaded: at most 50 requests. Not fitted anywhere; published from the same telemetry as Figure 8.",
}


def _figure(result: Reproduction, dataset: Dataset) -> Figure:
    (blue, circle), (pink, triangle) = STYLES["dspark"], STYLES["mtp"]
    legend = [
        LegendEntry("dspark, simulated", "M-16,0H16", blue),
        LegendEntry("dspark, mean field", _MEAN_FIELD, blue),
        LegendEntry("published", SYMBOLS[circle], None),
    ]
    if dataset == "fig8_throughput":
        legend += [
            LegendEntry("mtp, step time fitted to it", "M-16,0H16", pink),
            LegendEntry("mtp published: the input", SYMBOLS[triangle], None),
        ]
    panels = [_panel(plot_info(model, dataset)) for model in result.models]
    return Figure(legend, panels, _CAPTIONS[dataset])


def _panel(info: PlotInfo) -> Panel:
    (blue, circle), (pink, triangle) = STYLES["dspark"], STYLES["mtp"]
    plot = empty_plot(height=340)
    plot.add_vrect(*info.window, fillcolor="rgba(128,136,144,.13)", line={"width": 0}, layer="below")
    _draw(plot, info.mtp_fitted, "mtp, fitted", colour=pink)
    _draw(plot, info.mtp_published, "mtp, published: input", colour=pink, symbol=triangle)
    _draw(plot, info.simulated, "dspark, simulated", colour=blue)
    _draw(plot, info.mean_field, "dspark, mean field", colour=blue, dash="dot")
    _draw(plot, info.published, "dspark, published", colour=blue, symbol=circle)
    x, y = UNITS[info.dataset]
    plot.update_xaxes(title_text=x)
    plot.update_yaxes(title_text=y, rangemode="normal" if info.dataset == "fig8_budget" else "tozero")
    plot.update_layout(margin={"l": 52, "b": 40})
    return Panel(f"{info.dataset.replace('_', '-')}-{info.model.lower()}", info.model, plot)


def _draw(
    plot: go.Figure,
    points: Sequence[tuple[float, float]],
    label: str,
    *,
    colour: str,
    symbol: str | None = None,
    dash: str = "solid",
) -> None:
    """A line, or hollow markers where there is a symbol."""
    style = (
        {"mode": "markers", "marker": {"symbol": f"{symbol}-open", "size": 7, "color": colour, "line": {"width": 1.3}}}
        if symbol
        else {"mode": "lines", "line": {"color": colour, "width": 1.2 if dash == "dot" else 2, "dash": dash}}
    )
    plot.add_scatter(
        x=[x for x, _ in points], y=[y for _, y in points], hoverinfo="text",
        hovertext=[f"{label}: {y:,.5g} at {x:.4g}" for x, y in points], **style,
    )  # fmt: skip
