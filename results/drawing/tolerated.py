"""The section of sensitivities: how wrong something may be before another configuration would have won."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from results.drawing.common import by_drafter, listed, style_of
from results.drawing.studied import load_name
from results.figures.tolerated import Sensitivity, things
from results.look import SYMBOLS, Evidence, Series
from results.page import Cell, Figure, LegendEntry, Panel, Section, Table, empty_plot, slug

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


def section(found: Sensitivity, looks: pl.DataFrame, series: Sequence[Series], evidence: Sequence[Evidence]) -> Section:
    """How far each thing may be off, by load."""
    styles = by_drafter(series, found.run_id)
    loads = list(dict.fromkeys(looks["load"].to_list()))
    panels = [_panel(things(looks, load), looks.filter(load=load), found, styles) for load in loads]
    winners = dict.fromkeys(_drafter(name) for name in looks["winner"].to_list())
    legend = [LegendEntry(f"the choice, of {name}, holds", _BAR, style_of(name, styles)[0]) for name in winners]
    legend += [_mark(name, styles) for name in dict.fromkeys(_challengers(looks))]
    reach = things(looks, loads[0])[0]["reach"]
    return Section(
        "tolerance", "How wrong may it be?",
        f"On {found.profile['name']} ({found.profile['source']}): one thing at a time was made up to {reach:.0%} smaller or "
        "larger than assumed, and every configuration simulated again, without bounds. Schedulers go on believing the "
        f"profile as it is. The choice is the configuration with most {_MOST[found.objective]}.",
        Figure(
            legend, panels, "A bar ends where another configuration clearly wins, by at least "
            f"{found.clear:.0%}; marks say which. The shorter a bar, the better that must be known; over a bar of the whole "
            "width the choice stands.",
        ),
        [_table([things(looks, load) for load in loads], found)], evidence, looks,
    )  # fmt: skip


def sentence(found: Sensitivity, looks: pl.DataFrame, load: str) -> str:
    """How wrong the profile and the recordings may be at a load, for people in a hurry."""
    rows = things(looks, load)
    first = rows[0]
    said = (
        f"How wrong may it be? On {found.profile['name']} at {load_name(load)}, without bounds, {first['winner']} has most "
        f"{_MOST[found.objective]}, {_lead(first, found)}."
    )
    ends = sorted(
        ((row, side) for row in rows for side in ("down", "up") if row[side] is not None),
        key=lambda end: abs(end[0][end[1]]),
    )
    if not ends:
        return f"{said} It stays best whatever is up to {first['reach']:.0%} off: {listed([row['what'] for row in rows])}."
    limits = [f"{_off(row['what'], row[side])} (then {row[f'instead_{side}']})" for row, side in ends[:3]]
    return f"{said} Another would win once {', or '.join(limits)}."


def _off(what: str, off: float) -> str:
    """As `verification takes 12 % more time`."""
    words = _WORDS.get(what, (f"{what} is {{}} less", f"{what} is {{}} more"))
    return words[off > 0].format(f"{abs(off):.0%}")


def _challengers(looks: pl.DataFrame) -> list[str]:
    """Who wins somewhere in place of a load's winner."""
    return [row["best"] for row in looks.to_dicts() if row["best"] != row["winner"]]


def _mark(name: str, styles: Mapping[str, Series]) -> LegendEntry:
    colour, symbol = style_of(_drafter(name), styles)
    return LegendEntry(f"{name} wins", SYMBOLS[symbol], colour, hollow=True)


def _panel(
    rows: Sequence[Mapping[str, Any]], looks: pl.DataFrame, found: Sensitivity, styles: Mapping[str, Series]
) -> Panel:
    """A bar a thing, as long as the winner holds, and a mark wherever another was best."""
    first, reach = rows[0], rows[0]["reach"]
    colour, _ = style_of(_drafter(first["winner"]), styles)
    plot = empty_plot(height=100 + 34 * len(rows))
    names = [_broken(row["what"]) for row in reversed(rows)]
    ends = [_ends(row) for row in reversed(rows)]
    plot.add_bar(
        y=names, base=[low for low, _ in ends], x=[high - low for low, high in ends], orientation="h", width=0.5,
        marker={"color": colour, "opacity": 0.55, "line": {"width": 0}}, meta="simulated", hoverinfo="text",
        hovertext=[f"{row['winner']}: {row['what']} {_range(row)}" for row in reversed(rows)],
    )  # fmt: skip
    for name in dict.fromkeys(_challengers(looks)):
        mine = [row for row in looks.to_dicts() if row["best"] == name]
        look, symbol = style_of(_drafter(name), styles)
        plot.add_scatter(
            x=[row["off"] for row in mine], y=[_broken(row["what"]) for row in mine], mode="markers", meta="simulated",
            marker={"color": look, "symbol": f"{symbol}-open-dot", "size": 9, "line": {"width": 1.5}}, hoverinfo="text",
            hovertext=[f"{name} is best with {row['what']} {row['off']:+.0%}; keeping the choice loses {row['loss']:.1%}"
                       for row in mine],
        )  # fmt: skip
    plot.add_vline(x=0, line={"width": 1, "dash": "dot"})
    plot.update_xaxes(
        range=[-1.07 * reach, 1.07 * reach], tickvals=[-reach, 0, reach],
        ticktext=[f"{-reach:+.0%}", "as assumed", f"{reach:+.0%}"], ticklabeloverflow="allow",
    )  # fmt: skip
    plot.update_yaxes(categoryorder="array", categoryarray=names, tickfont_size=11)
    plot.update_layout(margin={"r": 24})
    title = f"{load_name(first['load'])}: {first['winner']}, {_lead(first, found)}"
    return Panel(f"tolerance-{slug(first['load'])}", title, plot)


def _drafter(name: str) -> str:
    """Of a configuration's name."""
    return name.split()[0]


def _broken(what: str) -> str:
    """In two lines where it is long."""
    return what.replace(" of ", "<br>of ")


def _lead(row: Mapping[str, Any], found: Sensitivity) -> str:
    """Of a load's winner over the next."""
    return f"{row['margin']:.1%} ahead" + (": no clear lead" if row["margin"] < found.clear else "")


def _ends(row: Mapping[str, Any]) -> tuple[float, float]:
    """Where the winner holds: up to the break-evens, or as far as was looked."""
    down, up = row["down"], row["up"]
    return (-row["reach"] if down is None else down, row["reach"] if up is None else up)


def _range(row: Mapping[str, Any]) -> str:
    """From where to where, in words."""
    if row["down"] is None and row["up"] is None:
        return f"may be up to {row['reach']:.0%} off"
    low, high = _ends(row)
    return f"may be {low:+.0%} to {high:+.0%} off"


def _table(every: Sequence[Sequence[Mapping[str, Any]]], found: Sensitivity) -> Table:
    """How far each thing may be off, a group of rows a load; what may be off as far as was looked shares a row."""
    groups = []
    for rows in every:
        load, reach = load_name(rows[0]["load"]), rows[0]["reach"]
        ends = [row for row in rows if row["down"] is not None or row["up"] is not None]
        cells = [
            [Cell(f"{load}: {row['what']}", row["what"]), _end(row["down"], -reach, row["instead_down"]),
             _end(row["up"], reach, row["instead_up"]), _lost(row["loss_down"]), _lost(row["loss_up"])]
            for row in ends
        ]  # fmt: skip
        others = [row for row in rows if row not in ends]
        if others:
            losses = [
                _lost(max((row[side] for row in others if row[side] is not None), default=None))
                for side in ("loss_down", "loss_up")
            ]
            name = "anything else" if ends else "anything"
            cells.append([Cell(f"{load}: {name}", name), _end(None, -reach, None), _end(None, reach, None), *losses])
        groups.append([(row, False) for row in cells])
    most = f"{every[0][0]['reach']:.0%}"
    heads = [("what is off", ""), ("choice holds from", "then wins"), ("to", "then wins")]
    return Table(
        [*heads, ("lost", f"at −{most}"), ("lost", f"at +{most}")], groups,
        f"Break-evens are read between the points that were simulated, {found.seconds:g} s each; lost: of "
        f"{_MOST[found.objective]}, by keeping the choice, the most where several things share a row.",
    )  # fmt: skip


def _lost(loss: float | None) -> Cell:
    return Cell("–") if loss is None else Cell(f"{loss:.1%}", round(loss, 5))


def _end(end: float | None, edge: float, instead: str | None) -> Cell:
    """A break-even and who wins beyond; `edge` is as far as was looked."""
    return Cell(f"beyond {edge:+.0%}", edge) if end is None else Cell(f"{end:+.1%}", round(end, 5), instead or "")
