"""The section of a study: what was tried, what was confirmed on held-out prompts, which knobs matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from results.drawing.common import by_drafter, spread, style_of
from results.drawing.simulated import bound
from results.figures.studied import Study
from results.look import SYMBOLS, Evidence, Series
from results.page import Cell, Figure, LegendEntry, Panel, Section, Table, empty_plot, slug

_NAMES: Final = {
    "throughput": "tokens per second and GPU",
    "tps": "tokens per second of a user",
    "goodput": "tokens per second and GPU within bounds",
}
_ROLES: Final = {
    "bound": "upper bound",
    "refuted": "breaks a bound here",
    "default": "as shipped",
}


def load_name(text: str) -> str:
    """A load for people: `users:64/0` is 64 users."""
    kind, _, rest = text.partition(":")
    number, _, extra = rest.partition("/")
    if kind == "users":
        return f"{number} user{'s' * (number != '1')}" + (f" thinking {extra} s" if extra not in ("", "0") else "")
    return f"{number} requests/s" if kind == "rate" else text


def configuration(row: Mapping[str, Any], *, capped: bool | None = None) -> str:
    """What was run, for people; by default with its request cap where that is below the number of users."""
    if capped is None:
        users = row["load"].removeprefix("users:").partition("/")[0]
        capped = not (users.isdecimal() and row["request_cap"] >= int(users))
    cap = f", at most {row['request_cap']} requests at once" if capped else ""
    if row["policy"] == "none" or row["drafter"] == "none":
        return f"none{cap}"
    basis = f" ({row['confidences']})" if row["confidences"] != "none" else ""
    return f"{row['drafter']} γ={row['gamma']} {row['policy']}{basis}{cap}"


def section(
    study: Study,
    trials: pl.DataFrame,
    confirmed: pl.DataFrame,
    sensitive: pl.DataFrame,
    series: Sequence[Series],
    evidence: Sequence[Evidence],
) -> Section:
    """Everything there is to see of a study."""
    within = f" within {' and '.join(map(bound, study.slas))}" if study.slas else ""
    lede = (
        f"Study {study.study_id} looked for the most {_NAMES[study.figure]}{within}: configurations were tried on half of "
        "the prompts, and the best confirmed on prompts it had not seen."
    )
    tables = [_confirmed(confirmed.filter(load=load), study) for load in dict.fromkeys(confirmed["load"].to_list())]
    asked = sensitive.filter(pl.col("kind") != "importance")
    moved = asked.filter(pl.col("moved") | ~pl.col("keeps"))
    tables += [_sensitive(moved)] if moved.height else []
    return Section(
        "study", "What the tuner found", lede, _figure(study, trials, sensitive, series), tables, evidence, trials,
        [_how_far(asked, moved)] if asked.height else [],
    )  # fmt: skip


def _how_far(asked: pl.DataFrame, moved: pl.DataFrame) -> str:
    """How the advice stands when load, mix or costs are others."""
    worst = max((v for v in asked["loss"].to_list() if v is not None), default=0.0)
    return (
        "With load, mix or the cost of verification off, or at the other loads, another configuration is best or a bound is "
        f"broken in {moved.height} of {asked.height} cases; keeping the winner costs at most {max(worst, 0):.1%}."
    )


def _figure(study: Study, trials: pl.DataFrame, sensitive: pl.DataFrame, series: Sequence[Series]) -> Figure:
    if trials.filter(pl.col("objective").is_not_null()).is_empty():
        errors = trials["error"].drop_nulls().to_list()
        why = f": {errors[0]}" if errors else ""
        return Figure(missing=f"No trial of study {study.study_id} came to a result{why}.")
    looks = by_drafter(series, study.run_id)
    panels = []
    for load in dict.fromkeys(trials["load"].to_list()):
        mine = trials.filter(load=load).to_dicts()
        name = load_name(load)
        panels.append(Panel(f"study-history-{slug(load)}", f"{name}: trials in order", _history(mine, study, looks)))
        panels.append(Panel(f"study-pareto-{slug(load)}", f"{name}: throughput against speed", _pareto(mine, looks)))
        shares = sensitive.filter(pl.col("share").is_not_null(), load=load, kind="importance").to_dicts()
        if shares:
            panels.append(Panel(f"study-importance-{slug(load)}", f"{name}: what decides", _importance(shares)))
    drafters = list(dict.fromkeys(trials["drafter"].to_list()))
    legend = [LegendEntry(d, SYMBOLS[style_of(d, looks)[1]], style_of(d, looks)[0]) for d in drafters]
    legend.append(LegendEntry("best so far; Pareto front", "", None, False, "M-17,0H17"))
    return Figure(
        legend,
        panels,
        "Small, faint marks were cut short or break a bound. The line over trials is the best simulated in full so far: "
        "where it ends flat, more trials bring little. On the Pareto front no trial is better in throughput and in speed.",
    )


def _history(rows: Sequence[Mapping[str, Any]], study: Study, looks: Mapping[str, Series]) -> Any:
    plot = empty_plot(height=300)
    best = [row for row in rows if row["best"] is not None]
    plot.add_scatter(
        x=[row["number"] for row in best], y=[row["best"] for row in best], mode="lines", meta="ink",
        line={"width": 1.2, "shape": "hv"}, hoverinfo="skip",
    )  # fmt: skip
    _marks(plot, rows, "number", "objective", looks)
    plot.update_xaxes(title_text="trial")
    plot.update_yaxes(title_text=_NAMES[study.figure], rangemode="tozero", tickformat=",")
    plot.update_layout(margin={"l": 56, "b": 40})
    return plot


def _pareto(rows: Sequence[Mapping[str, Any]], looks: Mapping[str, Series]) -> Any:
    plot = empty_plot(height=300)
    front = sorted((row for row in rows if row["front"]), key=lambda row: row["tps"])
    plot.add_scatter(
        x=[row["tps"] for row in front], y=[row["throughput"] for row in front], mode="lines", meta="ink",
        line={"width": 1.2}, hoverinfo="skip",
    )  # fmt: skip
    _marks(plot, rows, "tps", "throughput", looks)
    plot.update_xaxes(title_text=_NAMES["tps"])
    plot.update_yaxes(title_text=_NAMES["throughput"], tickformat=",")
    plot.update_layout(margin={"l": 56, "b": 40})
    return plot


def _marks(plot: Any, rows: Sequence[Mapping[str, Any]], x: str, y: str, looks: Mapping[str, Series]) -> None:
    for drafter in dict.fromkeys(row["drafter"] for row in rows):
        mine = [row for row in rows if row["drafter"] == drafter and row[x] is not None and row[y] is not None]
        if not mine:
            continue
        colour, symbol = style_of(drafter, looks)
        full = [row["feasible"] and row["state"] == "complete" for row in mine]
        plot.add_scatter(
            x=[row[x] for row in mine], y=[row[y] for row in mine], mode="markers", hoverinfo="text", meta="simulated",
            marker={"color": colour, "symbol": f"{symbol}-open-dot", "size": [9 if f else 6 for f in full],
                    "opacity": [1 if f else 0.6 for f in full], "line": {"width": 1.3}},
            hovertext=[f"trial {row['number']}: {configuration(row)}<br>{row['throughput'] or 0:,.0f} tok/s/GPU, "
                       f"{row['tps'] or 0:.1f} of a user" + _fate(row) for row in mine],
        )  # fmt: skip


def _fate(row: Mapping[str, Any]) -> str:
    return ("<br>cut short: clearly worse" if row["state"] == "cut" else "") + (
        "" if row["feasible"] is not False else "<br>breaks a bound"
    )


def _importance(shares: Sequence[Mapping[str, Any]]) -> Any:
    rows = sorted(shares, key=lambda row: float(row["share"]))[-8:]
    plot = empty_plot(height=110 + 30 * len(rows))
    plot.add_bar(
        x=[row["share"] for row in rows], y=[row["what"] for row in rows], orientation="h", marker_color="#808890",
        hoverinfo="text", hovertext=[f"{row['what']}: {row['share']:.0%} of the objective's variance" for row in rows],
    )  # fmt: skip
    plot.update_xaxes(range=[0, 1.04], tickvals=[0, 0.5, 1], tickformat=".0%", title_text="share of variance")
    plot.update_layout(margin={"b": 40})
    return plot


def _confirmed(confirmed: pl.DataFrame, study: Study) -> Table:
    """What was confirmed at one load."""
    caps = confirmed["request_cap"].unique().to_list()
    roles: dict[str, list[str]] = {}
    for row in confirmed.to_dicts():
        roles.setdefault(configuration(row, capped=len(caps) > 1), []).append(_ROLES.get(row["role"], row["role"]))
    rows = []
    for row in confirmed.to_dicts():
        name = configuration(row, capped=len(caps) > 1)
        if name not in roles:
            continue  # the same configuration in another role: told above
        role = ", ".join(dict.fromkeys(roles.pop(name)))
        cells = [Cell(name, name), Cell(role, role, hint=row["error"] or "")]
        cells += [_value(row, column, form) for column, form in _SHOWN.items()]
        gain, half = row["gain"], row["gain_half_width"]
        said = "–" if gain is None else f"{gain:+.1%}" + ("" if half is None else f" ± {half:.1%}")
        cells.append(Cell("" if row["role"] == "winner" else said, None if gain is None else round(gain, 5)))
        cells.append(Cell("–" if row["feasible"] is None else "kept" if row["feasible"] else "broken"))
        rows.append((cells, row["role"] == "winner"))
    first = confirmed.row(0, named=True)
    heads = [
        (load_name(first["load"]), ""),
        ("why it is here", ""),
        ("tok/s/GPU", ""),
        ("tok/s", "of a user"),
        ("τ", ""),
        ("budget", ""),
    ]
    cap = f" At most {caps[0]} requests at once." if len(caps) == 1 else ""
    return Table(
        [*heads, ("winner's gain", "over it"), ("bounds", " and ".join(map(bound, study.slas)))], [rows],
        f"On {first['prompts']} prompts that the search has not seen, drawn {first['draws']} times; ± is half of a 95 % "
        f"interval over draws, gains are paired.{cap}",
    )  # fmt: skip


_SHOWN: Final = {"throughput": ",.0f", "tps": ",.1f", "tau": ".2f", "budget": ".2f"}


def _value(row: Mapping[str, Any], column: str, form: str) -> Cell:
    value = row[column]
    shown = spread(row, column, form) if column in ("throughput", "tps") else f"{value:{form}}" if value is not None else "–"
    return Cell(shown, None if value is None else round(value, 4))


def _sensitive(sensitive: pl.DataFrame) -> Table:
    """What if load, mix or verification cost are off: whether another configuration is better then."""
    rows = []
    for row in sensitive.to_dicts():
        what = f"{load_name(row['load'])}, {'at' if row['kind'] == 'elsewhere' else 'with'} {load_name(row['what'])}"
        moved = "–" if row["moved"] is None else row["best"] if row["moved"] else "the winner still"
        loss = Cell("–") if row["loss"] is None else Cell(f"{max(row['loss'], 0):.1%}", round(row["loss"], 5))
        keeps = "–" if row["keeps"] is None else "kept" if row["keeps"] else "broken"
        rows.append(([Cell(what, what), Cell(moved or "–"), loss, Cell(keeps)], False))
    heads = [("what is off", ""), ("best then", ""), ("lost", "by keeping the winner"), ("bounds", "by the winner")]
    return Table(heads, [rows], "How far the advice moves when the question was slightly wrong.")
