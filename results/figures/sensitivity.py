"""How wrong something may be before another configuration would have won: what `harness sensitivity` found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from results.figures.common import by_drafter, listed, style_of
from results.figures.section import Cell, Figure, LegendEntry, Panel, Section, Table, empty_plot, slug
from results.figures.style import SYMBOLS, Evidence, Series
from results.store.sensitivities import BreakEven, Deviation, Sensitivity
from simulator.configuration import System
from simulator.load import Load


def frame(found: Sensitivity) -> pl.DataFrame:
    """Everything that was taken to be off, in the order it was tried, as a table to take away.

    Columns: run, load (as `users:64`), users, what, winner (where nothing is off), margin (its lead then, a share), down and
    up (break-even, shares; null where the winner holds as far as was looked), instead (who wins first beyond), off (a share:
    0.1 is 10 % more than assumed), best (who wins there), loss (of keeping the winner there, a share of the objective).
    """
    rows: list[dict[str, Any]] = []
    for one in found.break_evens:
        row = one.row()
        row |= {"run": found.run_id, "users": one.load.users}
        rows += [row | looked for looked in row.pop("deviations")]
    return pl.DataFrame(rows, schema=_SCHEMA)


def closest_load(found: Sensitivity, load: Load | None) -> Load:
    """The load that was looked at with about as many users as another; the last where that says nothing."""
    known = {one: one.users for one in found.loads if one.users is not None}
    users = None if load is None else load.users
    if users is None or len(known) < len(found.loads):
        return found.loads[-1]
    return min(known, key=lambda one: abs(math.log(known[one] / users)))


_SCHEMA: Final = pl.Schema(
    {"run": pl.String, "load": pl.String, "users": pl.Int64, "what": pl.String, "winner": pl.String, "margin": pl.Float64}
    | {"down": pl.Float64, "up": pl.Float64, "instead": pl.String, "off": pl.Float64, "best": pl.String}
    | {"loss": pl.Float64}
)

_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "seconds of verification": ("verification takes {} less time", "verification takes {} more time"),
    "seconds of drafting": ("drafting takes {} less time", "drafting takes {} more time"),
    "overhead": ("the host's overhead is {} less", "the host's overhead is {} more"),
    "acceptance": ("acceptance is {} lower", "acceptance is {} higher"),
    "confidences": ("confidences are {} lower", "confidences are {} higher"),
    "length of answers": ("answers are {} shorter", "answers are {} longer"),
}
"""What is off → how that reads below and above what was assumed; anything else reads as its name."""
_MOST: Final = {"throughput": "throughput", "tps": "speed for a user"}
_BAR: Final = "M-15,-5h30v10h-30Z"


def section(found: Sensitivity, series: Sequence[Series], evidence: Sequence[Evidence]) -> Section:
    """How far each thing may be off, by load."""
    styles = by_drafter(series, found.run_id)
    panels = [_panel(found.at(load), found, styles) for load in found.loads]
    winners = dict.fromkeys(one.winner.drafter for one in found.break_evens)
    legend = [LegendEntry(f"the choice, of {name}, holds", _BAR, style_of(name, styles)[0]) for name in winners]
    legend += [_mark(system, styles) for system in _challengers(found.break_evens)]
    reach = found.break_evens[0].reach
    return Section(
        "tolerance", "How wrong may it be?",
        f"On {found.profile.name} ({found.profile.source}): one thing at a time was made up to {reach:.0%} smaller or "
        "larger than assumed, and every configuration simulated again, without bounds. Schedulers go on believing the "
        f"profile as it is. The choice is the configuration with most {_MOST[found.objective]}.",
        Figure(
            legend, panels, "A bar ends where another configuration clearly wins, by at least "
            f"{found.clear:.0%}; marks say which. The shorter a bar, the better that must be known; over a bar of the whole "
            "width the choice stands.",
        ),
        [_table(found)], evidence, frame(found),
    )  # fmt: skip


def sentence(found: Sensitivity, load: Load) -> str:
    """How wrong the profile and the recordings may be at a load, for people in a hurry."""
    every = found.at(load)
    first = every[0]
    said = (
        f"How wrong may it be? On {found.profile.name} at {load.label}, without bounds, {first.winner} has most "
        f"{_MOST[found.objective]}, {_lead(first, found)}."
    )
    sides = [(one.what, end, then) for one in every for end, then in ((one.down, one.beyond(-1)), (one.up, one.beyond(1)))]
    known = sorted(((what, end, then) for what, end, then in sides if end is not None), key=lambda each: abs(each[1]))
    if not known:
        return f"{said} It stays best whatever is up to {first.reach:.0%} off: {listed([one.what for one in every])}."
    limits = [f"{_off(what, end)} (then {then})" for what, end, then in known[:3]]
    return f"{said} Another would win once {', or '.join(limits)}."


def _off(what: str, off: float) -> str:
    """What is off and how far, in words, for instance `verification takes 12% more time`."""
    words = _WORDS.get(what, (f"{what} is {{}} less", f"{what} is {{}} more"))
    return words[off > 0].format(f"{abs(off):.0%}")


def _challenges(every: Sequence[BreakEven]) -> list[tuple[BreakEven, Deviation]]:
    """Where somebody wins in place of a load's winner."""
    return [(one, looked) for one in every for looked in one.deviations if looked.best != one.winner]


def _challengers(every: Sequence[BreakEven]) -> list[System]:
    """Who wins somewhere in place of a load's winner."""
    return list(dict.fromkeys(looked.best for _, looked in _challenges(every)))


def _mark(system: System, styles: Mapping[str, Series]) -> LegendEntry:
    colour, symbol = style_of(system.drafter, styles)
    return LegendEntry(f"{system} wins", SYMBOLS[symbol], colour, hollow=True)


def _panel(every: Sequence[BreakEven], found: Sensitivity, styles: Mapping[str, Series]) -> Panel:
    """A bar a thing, as long as the winner holds, and a mark wherever another was best."""
    first, reach = every[0], every[0].reach
    colour, _ = style_of(first.winner.drafter, styles)
    plot = empty_plot(height=100 + 34 * len(every))
    names = [_broken(one.what) for one in reversed(every)]
    ends = [_ends(one) for one in reversed(every)]
    plot.add_bar(
        y=names, base=[low for low, _ in ends], x=[high - low for low, high in ends], orientation="h", width=0.5,
        marker={"color": colour, "opacity": 0.55, "line": {"width": 0}}, meta="simulated", hoverinfo="text",
        hovertext=[f"{one.winner}: {one.what} {_range(one)}" for one in reversed(every)],
    )  # fmt: skip
    as_tried = [one for one in found.break_evens if one.load == first.load]
    for system in _challengers(as_tried):
        mine = [(one.what, looked) for one, looked in _challenges(as_tried) if looked.best == system]
        look, symbol = style_of(system.drafter, styles)
        plot.add_scatter(
            x=[looked.off for _, looked in mine], y=[_broken(what) for what, _ in mine], mode="markers", meta="simulated",
            marker={"color": look, "symbol": f"{symbol}-open-dot", "size": 9, "line": {"width": 1.5}}, hoverinfo="text",
            hovertext=[f"{system} is best with {what} {looked.off:+.0%}; keeping the choice loses {looked.loss:.1%}"
                       for what, looked in mine],
        )  # fmt: skip
    plot.add_vline(x=0, line={"width": 1, "dash": "dot"})
    plot.update_xaxes(
        range=[-1.07 * reach, 1.07 * reach], tickvals=[-reach, 0, reach],
        ticktext=[f"{-reach:+.0%}", "as assumed", f"{reach:+.0%}"], ticklabeloverflow="allow",
    )  # fmt: skip
    plot.update_yaxes(categoryorder="array", categoryarray=names, tickfont_size=11)
    plot.update_layout(margin={"r": 24})
    title = f"{first.load.label}: {first.winner}, {_lead(first, found)}"
    return Panel(f"tolerance-{slug(first.load_text)}", title, plot)


def _broken(what: str) -> str:
    """In two lines where it is long."""
    return what.replace(" of ", "<br>of ")


def _lead(one: BreakEven, found: Sensitivity) -> str:
    """The lead of a load's winner over the next, in words."""
    return f"{one.margin:.1%} ahead" + (": no clear lead" if one.margin < found.clear else "")


def _ends(one: BreakEven) -> tuple[float, float]:
    """Where the winner holds: up to the break-evens, or as far as was looked."""
    return (-one.reach if one.down is None else one.down, one.reach if one.up is None else one.up)


def _range(one: BreakEven) -> str:
    """From where to where, in words."""
    if one.down is None and one.up is None:
        return f"may be up to {one.reach:.0%} off"
    low, high = _ends(one)
    return f"may be {low:+.0%} to {high:+.0%} off"


def _table(found: Sensitivity) -> Table:
    """How far each thing may be off, a group of rows a load; what may be off as far as was looked shares a row."""
    groups, reach = [], found.break_evens[0].reach
    for load in found.loads:
        every = found.at(load)
        ends = [one for one in every if math.isfinite(one.slack)]
        cells = [
            [Cell(f"{load.label}: {one.what}", one.what), _end(one.down, -reach, one.beyond(-1)),
             _end(one.up, reach, one.beyond(1)), *(Cell.of(one.loss(off), ".1%") for off in (-reach, reach))]
            for one in ends
        ]  # fmt: skip
        others = [one for one in every if one not in ends]
        if others:
            losses = [[loss for one in others if (loss := one.loss(off)) is not None] for off in (-reach, reach)]
            name = "anything else" if ends else "anything"
            worst = [Cell.of(max(some, default=None), ".1%") for some in losses]
            cells.append([Cell(f"{load.label}: {name}", name), _end(None, -reach, None), _end(None, reach, None), *worst])
        groups.append([(row, False) for row in cells])
    heads = [("what is off", ""), ("choice holds from", "then wins"), ("to", "then wins")]
    return Table(
        [*heads, ("lost", f"at −{reach:.0%}"), ("lost", f"at +{reach:.0%}")], groups,
        f"Break-evens are read between the points that were simulated, {found.seconds:g} s each; lost: of "
        f"{_MOST[found.objective]}, by keeping the choice, the most where several things share a row.",
    )  # fmt: skip


def _end(end: float | None, edge: float, instead: System | None) -> Cell:
    """A break-even and who wins beyond; `edge` is as far as was looked."""
    return Cell(f"beyond {edge:+.0%}", edge) if end is None else Cell(f"{end:+.1%}", round(end, 5), str(instead or ""))
