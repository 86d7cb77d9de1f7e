"""How wrong something may be before another configuration would have won: what `harness sensitivity` found."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import polars as pl

from results.figures.common import by_drafter, listed, load_name, style_of, users_of
from results.figures.section import Cell, Figure, LegendEntry, Panel, Section, Table, empty_plot, slug
from results.figures.style import SYMBOLS, Evidence, Series
from results.store.queries import Origin, first_row, has_table, origin
from simulator.load import Load


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity(Origin):
    """What the rows of one `harness sensitivity` have in common."""

    tolerance_id: str
    objective: str
    """'throughput' or 'tps': what the winner has most of."""
    seconds: float
    """Seconds of simulated time for each point."""
    seed: int
    clear: float
    """Another configuration wins with so much more of the objective: 0.01 is 1 %."""
    drafting: str
    """How drafts were chosen."""


def find_sensitivity(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> str | None:
    """The latest of one of the runs; None too where the database knows of none."""
    if not has_table(con, "tolerances"):
        return None
    sql = "SELECT tolerance_id FROM tolerances WHERE list_contains(?, run_id) ORDER BY created_at DESC LIMIT 1"
    row = first_row(con, sql, list(run_ids))
    return None if row is None else str(row["tolerance_id"])


def sensitivity(con: duckdb.DuckDBPyConnection, tolerance_id: str) -> Sensitivity:
    """Raises LookupError for one that is not there."""
    row = first_row(con, "SELECT * FROM tolerances JOIN profiles USING (profile_hash) WHERE tolerance_id = ?", tolerance_id)
    if row is None:
        raise LookupError(f"no sensitivity {tolerance_id!r} in this database")
    own = {name: row[name] for name in ("tolerance_id", "objective", "seconds", "seed", "clear", "drafting")}
    return Sensitivity(**own, **origin(row))


def deviations(con: duckdb.DuckDBPyConnection, tolerance_id: str) -> pl.DataFrame:
    """Everything that was taken to be off, in the order it was tried.

    Columns: run, load (as `users:64`), users, what, winner (where nothing is off), margin (its lead then, a share), down and
    up (break-even, shares; null where the winner holds as far as was looked), instead (who wins first beyond), off (a share:
    0.1 is 10 % more than assumed), best (who wins there), loss (of keeping the winner there, a share of the objective).
    """
    sql = """
        SELECT run_id AS run, load, what, winner, margin, down, up, instead, looks
        FROM tolerances WHERE tolerance_id = ? ORDER BY number
    """
    rows: list[dict[str, Any]] = []
    for *plain, each in con.execute(sql, [tolerance_id]).fetchall():
        row = dict(zip(_PLAIN, plain, strict=True))
        users = users_of(row["load"])
        rows += [{**row, "users": users, **{n: one[n] for n in ("off", "best", "loss")}} for one in json.loads(each)]
    return pl.DataFrame(rows, schema=_SCHEMA)


def sensitivity_inputs(frame: pl.DataFrame, load: str) -> list[dict[str, Any]]:
    """What was made wrong at a load, one row each, the closest break-even first.

    As `deviations`, without instead, off, best and loss, and with reach (the largest that anything was off),
    instead_down and instead_up (who wins first on that side; None where the winner holds), loss_down and loss_up (of keeping
    the winner at −reach and at +reach; None where that was not looked at).
    """
    found = []
    for _, some in frame.filter(load=load).group_by("what", maintain_order=True):
        reach = float(some["off"].abs().max())  # type: ignore[arg-type]
        losses = dict(some.select("off", "loss").rows())
        row = {name: some.row(0, named=True)[name] for name in (*_PLAIN, "users") if name != "instead"}
        row |= {"reach": reach, "loss_down": losses.get(-reach), "loss_up": losses.get(reach)}
        lost = some.filter(pl.col("best") != pl.col("winner")).sort(pl.col("off").abs())
        for side, beyond in (("down", lost.filter(pl.col("off") < 0)), ("up", lost.filter(pl.col("off") > 0))):
            row[f"instead_{side}"] = None if beyond.is_empty() else beyond["best"][0]
        found.append(row)
    return sorted(found, key=_slack)


def closest_load(frame: pl.DataFrame, load: Load | None) -> str:
    """The load that was looked at with about as many users as another; the last where that says nothing."""
    known = frame.select("load", "users").unique(maintain_order=True).rows()
    users = None if load is None else load.users
    if users is None or any(n is None for _, n in known):
        return str(known[-1][0])
    return str(min(known, key=lambda pair: abs(math.log(pair[1] / users)))[0])


def _slack(row: Mapping[str, Any]) -> float:
    """How far off the closest break-even is; infinite without one."""
    return min((abs(end) for end in (row["down"], row["up"]) if end is not None), default=math.inf)


_PLAIN: Final = ("run", "load", "what", "winner", "margin", "down", "up", "instead")
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


def section(found: Sensitivity, frame: pl.DataFrame, series: Sequence[Series], evidence: Sequence[Evidence]) -> Section:
    """How far each thing may be off, by load."""
    styles = by_drafter(series, found.run_id)
    loads = list(dict.fromkeys(frame["load"].to_list()))
    panels = [_panel(sensitivity_inputs(frame, load), frame.filter(load=load), found, styles) for load in loads]
    winners = dict.fromkeys(_drafter(name) for name in frame["winner"].to_list())
    legend = [LegendEntry(f"the choice, of {name}, holds", _BAR, style_of(name, styles)[0]) for name in winners]
    legend += [_mark(name, styles) for name in dict.fromkeys(_challengers(frame))]
    reach = sensitivity_inputs(frame, loads[0])[0]["reach"]
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
        [_table([sensitivity_inputs(frame, load) for load in loads], found)], evidence, frame,
    )  # fmt: skip


def sentence(found: Sensitivity, frame: pl.DataFrame, load: str) -> str:
    """How wrong the profile and the recordings may be at a load, for people in a hurry."""
    rows = sensitivity_inputs(frame, load)
    first = rows[0]
    said = (
        f"How wrong may it be? On {found.profile.name} at {load_name(load)}, without bounds, {first['winner']} has most "
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
    """What is off and how far, in words, for instance `verification takes 12% more time`."""
    words = _WORDS.get(what, (f"{what} is {{}} less", f"{what} is {{}} more"))
    return words[off > 0].format(f"{abs(off):.0%}")


def _challengers(frame: pl.DataFrame) -> list[str]:
    """Who wins somewhere in place of a load's winner."""
    return [row["best"] for row in frame.to_dicts() if row["best"] != row["winner"]]


def _mark(name: str, styles: Mapping[str, Series]) -> LegendEntry:
    colour, symbol = style_of(_drafter(name), styles)
    return LegendEntry(f"{name} wins", SYMBOLS[symbol], colour, hollow=True)


def _panel(
    rows: Sequence[Mapping[str, Any]], frame: pl.DataFrame, found: Sensitivity, styles: Mapping[str, Series]
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
    for name in dict.fromkeys(_challengers(frame)):
        mine = [row for row in frame.to_dicts() if row["best"] == name]
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
    """The drafter in a configuration's name."""
    return name.split()[0]


def _broken(what: str) -> str:
    """In two lines where it is long."""
    return what.replace(" of ", "<br>of ")


def _lead(row: Mapping[str, Any], found: Sensitivity) -> str:
    """The lead of a load's winner over the next, in words."""
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
