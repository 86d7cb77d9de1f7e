"""How things look: one colour and mark a drafter, one manner of line a kind of number, wherever they are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import polars as pl

from results.store.runs import Provenance
from simulator.drafter_kinds import KINDS
from simulator.records import Recording

Evidence = Literal["measured", "simulated", "synthesised", "served", "published"]
"""Where a number comes from: a model that ran, a model of load, traces fitted to published averages, an engine's own logs, a
publication."""

SYMBOLS: Final[Mapping[str, str]] = {
    "circle": "M-6,0a6,6 0 1,0 12,0a6,6 0 1,0 -12,0",
    "square": "M-5.5,-5.5h11v11h-11Z",
    "diamond": "M0,-7.5L7.5,0L0,7.5L-7.5,0Z",
    "triangle-up": "M0,-6.5L7,5.5H-7Z",
    "triangle-down": "M0,6.5L7,-5.5H-7Z",
    "hexagon": "M0,-7L6,-3.5V3.5L0,7L-6,3.5V-3.5Z",
    "cross": "M-2.5,-6.5h5v4h4v5h-4v4h-5v-4h-4v-5h4Z",
    "hourglass": "M-6,-6.5H6L-6,6.5H6Z",
}
"""Plotly's symbol → the same shape as an SVG path for legends."""

STYLES: Final[Mapping[str, tuple[str, str]]] = {
    "dspark": ("#1A80C4", "circle"),
    "dflash": ("#E69F00", "square"),
    "eagle3": ("#009E73", "diamond"),
    "mtp": ("#CC79A7", "triangle-up"),
    "ngram": ("#D55E00", "triangle-down"),
    "none": ("#808890", "hexagon"),
}
"""Kind of drafter → colour and symbol. Okabe and Ito's colours, which colour-blind readers tell apart,
the blue lightened to stand out from a dark page too."""

SPARE_STYLES: Final = [("#56B4E9", "cross"), ("#B8A900", "hourglass"), ("#9A7BD1", "cross"), ("#A6761D", "hourglass")]
"""For a second drafter of a kind, and for kinds not known here."""

PARTS: Final[Mapping[str, str]] = {
    "overhead": "#9AA5B1",
    "draft": "#C58B2A",
    "attention": "#8E7CC3",
    "target": "#4F7F99",
}
"""Part of a step → colour: none of them a drafter's."""

DOMAINS: Final = ["math", "code", "chat"]
"""Report order; other domains follow by name."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How numbers of one kind are drawn."""

    dash: str
    """Dash of lines, as Plotly names it."""
    suffix: str
    """End of the names of marker symbols that makes them hollow or dotted; empty for plain ones."""
    width: float
    """Width of lines, in pixels."""
    pattern: str
    """Hatching of bars, as Plotly names it; empty for none."""
    legend: str
    """SVG path of a line in legends, within ±17."""


MANNERS: Final[Mapping[Evidence, Manner]] = {
    "measured": Manner("solid", "", 2, "", "M-17,0H17"),
    "simulated": Manner("solid", "-open-dot", 2, "", "M-17,0H17"),
    "synthesised": Manner("2px,3px", "", 2, "/", "M-17,0h3M-12,0h3M-7,0h3M-2,0h3M3,0h3M8,0h3M13,0h3"),
    "served": Manner("5px,2px,1px,2px", "-open", 2, "x", "M-17,0h7M-8,0h2M-4,0h7M5,0h2M9,0h7"),
    "published": Manner("7px,5px", "-open", 1.2, "", "M-17,0H-8M8,0H17"),
}


@dataclass(frozen=True, slots=True)
class Series:
    """How one drafter of one run, at one γ, looks wherever it appears."""

    run: str
    drafter: str
    gamma: int
    kind: str
    label: str
    """The drafter's name, with γ where there are several, and the run where there are several."""
    colour: str
    symbol: str
    evidence: Evidence = "measured"

    @property
    def name(self) -> str:
        """The label without the run."""
        return self.label.removesuffix(f" ({self.run})")

    def rows(self, frame: pl.DataFrame) -> list[dict[str, Any]]:
        """Those of its own."""
        return frame.filter(run=self.run, drafter=self.drafter, gamma=self.gamma).to_dicts()


def series_of(runs: Sequence[Provenance], frames: Iterable[pl.DataFrame]) -> list[Series]:
    """Every (run, drafter, γ) with rows, in report order.

    The first of a kind has the kind's colour and symbol; a drafter has the same in every run, at every γ.
    """
    kinds = {(run.run_id, drafter.name): drafter.kind for run in runs for drafter in run.drafters}
    keys = {
        (run, Recording(name, gamma, kind=kinds.get((run, name), "")))
        for frame in frames
        for run, name, gamma in frame.select("run", "drafter", "gamma").rows()
    }
    order, numbers = list(KINDS), {run.run_id: i for i, run in enumerate(runs)}

    def place(key: tuple[str, Recording]) -> tuple[float, bool, str, int, int]:
        run, recording = key
        name, kind, unknown = recording.drafter, recording.kind, order.index("none") - 0.5
        return (order.index(kind) if kind in order else unknown, name != kind, name, numbers[run], -recording.gamma)

    free, spare = dict(STYLES), 0
    styles: dict[str, tuple[str, str]] = {}
    found = []
    for run, recording in sorted(keys, key=place):
        name, gamma, kind = recording.drafter, recording.gamma, recording.kind
        if name not in styles:
            own = free.pop(kind, None)
            styles[name] = own or SPARE_STYLES[spare % len(SPARE_STYLES)]
            spare += own is None
        several = len({r.gamma for _, r in keys if r.drafter == name}) > 1
        label = (recording.short if several else name) + (f" ({run})" if len(runs) > 1 else "")
        colour, symbol = styles[name]
        evidence = recorded_evidence(runs[numbers[run]])
        found.append(Series(run, name, gamma, kind, label, colour, symbol, evidence))
    return found


def recorded_evidence(run: Provenance) -> Evidence:
    """Where a run's own numbers come from."""
    match run.prompt_source:
        case "synthesised" | "served" as made:
            return made
    return "measured"


def longest(series: Sequence[Series]) -> list[Series]:
    """The series with the largest γ of every drafter of every run, for figures that would drown in block sizes."""
    best = {(s.run, s.drafter): max(o.gamma for o in series if (o.run, o.drafter) == (s.run, s.drafter)) for s in series}
    return [s for s in series if s.gamma == best[s.run, s.drafter]]


def in_order(domains: Iterable[str]) -> list[str]:
    """Domains, each once, as reports list them."""
    return sorted(set(domains), key=lambda domain: (DOMAINS.index(domain) if domain in DOMAINS else len(DOMAINS), domain))
