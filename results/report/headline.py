"""What a report opens with: the configuration to run, what it gains, and the facts that decide it. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import polars as pl

from results import baseline as sums
from results.baseline import Baseline
from results.change import SURE
from results.comparison import chance_of_lead
from results.figures import sweep
from results.figures.accepted_length import accepted_length
from results.figures.common import drafted_by_load, listed
from results.figures.intervals import FEWEST_UNITS
from results.figures.speed import FEWEST_PROMPTS, speed
from results.figures.step_time import step_s
from results.figures.study import baseline, choices, configuration
from results.figures.style import PARTS, Series, in_order, longest, series_of
from results.figures.sweep import Capacity
from results.figures.view import View, promise
from results.store.commands import typed
from results.store.runs import Provenance, provenance
from results.store.studies import OVER_NONE, Study, StudyConfirmation
from simulator.capacity import too_few
from simulator.decision import FIGURES, Decision
from simulator.errors import InputError
from simulator.hardware.catalogue import profile_of
from simulator.load import Load
from simulator.numbers import counted
from simulator.policies import NO_DRAFTER
from simulator.records import Recording
from simulator.sentences import beside, sentences
from simulator.serving.command import batch_rows

_WHAT_IT_TAKES: Final = f"it takes {FEWEST_UNITS} prompts of every task or more"


@dataclass(frozen=True, slots=True)
class Gain:
    """How much more than a baseline."""

    value: str
    over: str
    interval: str


@dataclass(frozen=True, slots=True)
class Headline:
    """The first screen of a report."""

    headline: str
    gains: Sequence[Gain] = ()
    facts: Sequence[str] = ()
    remarks: Sequence[str] = ()
    command: str = ""
    """That runs it, for a shell."""
    profile: str = ""
    """The hardware it is about; empty of recordings."""
    load: Load | None = None
    """The load that gains are told at; None of recordings."""
    next: str = ""
    """What to type next, for a shell, and why."""
    why_next: str = ""
    beside: Sequence[tuple[str, str]] = ()
    """What other layouts are served by: words and a command of each."""


# --- of a decision ----------------------------------------------------------------------------------------------------


def from_decision(decision: Decision, others: Sequence[Decision] = ()) -> Headline:
    """What the commands print of it, gains set out; `others` are of the same study, at other loads."""
    first, *facts = sentences(decision, gains=False)
    gains = [
        Gain(
            f"{gain.all.value:+.0%}",
            f"{FIGURES[decision.figure]} over {gain.over}",
            f"95 % {gain.all.low:+.0%} to {gain.all.high:+.0%}; with the profile held "
            f"{gain.held.low:+.0%} to {gain.held.high:+.0%}",
        )
        for gain in decision.gains
    ]
    facts += [sentences(other)[0] for other in others]
    return Headline(
        first, gains, facts, decision.notes, decision.command, decision.profile, decision.load, beside=beside(decision)
    )


# --- of a study -------------------------------------------------------------------------------------------------------


def from_table(
    study: Study, tables: Mapping[Load, StudyConfirmation], decided: Sequence[Decision], command: str
) -> Headline:
    """One table of k by batch size for all loads of a study, its gain at each as it was confirmed; `decided` is what is best
    at each load alone, `command` what serves the table."""
    slas, found = study.plan.slas, next(iter(tables.values())).configuration
    bounds = f", with {' and '.join(map(promise, slas))}" if slas else ""
    rows = batch_rows(found.policy, found.recording.gamma, found.request_cap)
    told = drafted_by_load(rows)
    gains = []
    for load, row in tables.items():
        gain, half = row.of(OVER_NONE)
        assert gain is not None
        interval = "no interval" if half is None else f"95 % with the profile held {gain - half:+.1%} to {gain + half:+.1%}"
        alone = next((g for one in decided if one.load == load for g in one.gains if g.over == "no speculation"), None)
        if alone is not None:  # of what is best at that load by itself: the table's own was not drawn with other profiles
            interval += f"; with the profile's errors, as for its load alone, {alone.all.low:+.0%} to {alone.all.high:+.0%}"
        gains.append(Gain(f"{gain:+.0%}", f"over no speculation at {load.label}", interval))
    facts = [f"Alone it would be, with the profile's errors: {sentences(one)[0]}" for one in decided]
    lost = [load.label for load in study.plan.loads if load not in tables]
    facts += [f"No row for {label}: nothing that a table may hold keeps the promise there." for label in lost]
    return Headline(
        f"On {study.profile.name}{bounds} draft {told}: {found.recording.short}, one table for all loads.",
        gains, facts, ["The table's gains are on held-out prompts, with the profile as it is."], command,
        study.profile.name, list(tables)[-1],
    )  # fmt: skip


def from_study(study: Study) -> Headline | None:
    """By what was confirmed on held-out prompts, gains at the busiest load; None where nothing was."""
    winners = [one for one in study.confirmations if one.place == 0 and one.of("throughput")[0] is not None]
    if not winners:
        return None
    slas = study.plan.slas
    bounds = f", with {' and '.join(map(promise, slas))}" if slas else ""
    where: dict[str, list[str]] = {}
    for confirmation in winners:
        where.setdefault(configuration(confirmation), []).append(confirmation.load.label)
    said = [f"at {listed(loads)}, run {what}" for what, loads in where.items()]
    headline = f"On {study.profile.name}{bounds}: {'; '.join(said)}."
    winner = winners[-1]
    run, at = winner.configuration, winner.load.label
    confirmed = [one for one in study.confirmations if one.load == winner.load]
    figure = {"tps": "speed of a user", "goodput": "goodput"}.get(study.plan.objective, "throughput")
    gains, facts = [], []
    bases = [("MTP-1", baseline(confirmed, "mtp")), ("no speculation", baseline(confirmed, "none"))]
    for name, base in bases:
        if base is not None and base.place != 0 and base.gain is not None:
            half = base.gain_half_width
            held = "" if half is None else f"95 % with the profile held {base.gain - half:+.1%} to {base.gain + half:+.1%}"
            interval = held or "no interval"
            gains.append(Gain(f"{base.gain:+.0%}", f"{figure} over {name} at {at}", interval))
    tokens = [f"{tau:.2f} of {name}" for name, base in bases if base is not None and (tau := base.of("tau")[0]) is not None]
    (tau, _), (budget, _) = winner.of("tau"), winner.of("budget")
    if tau is not None and budget is not None and run.policy != NO_DRAFTER:
        against = f", against {listed(tokens)}" if tokens else ""
        facts.append(f"At {at} it commits {tau:.2f} tokens per round{against}.")
        facts.append(
            f"It verifies {budget:.2f} tokens per request and step, of {run.recording.gamma + 1} that it could; "
            f"{budget - tau:.2f} of them are thrown away."
        )
    others = [(one, one.gain) for one in confirmed if one.role == "next best" and one.gain is not None]
    if others:
        other, gain = others[0]
        clear = "" if abs(gain) > (other.gain_half_width or math.inf) else ", within the interval"
        facts.append(f"The runner-up, {configuration(other)}, is {gain:.1%} behind{clear}.")
    decided = choices(study, winner.load)
    if decided and len(facts) < 3:
        facts.append("What decides: " + listed([one.words for one in decided[:3]]) + ".")
    remarks = [
        f"Simulated at {at}: {winner.of('throughput')[0]:,.0f} tokens/s/GPU, {winner.of('tps')[0]:.1f} of a user. Intervals "
        f"are of traffic and simulation: {winner.prompts} held-out prompts, drawn {winner.draws} times."
    ]
    if winner.feasible is False:
        remarks.append("It breaks a bound on the held-out prompts, and so did every runner-up that was confirmed.")
    if not winner.exact:
        remarks.append("Its policy looks at old confidences: replaying sampled drafts under it is an approximation.")
    return Headline(headline, gains, facts, remarks, "", study.profile.name, winner.load)


# --- of a sweep -------------------------------------------------------------------------------------------------------


def from_sweep(view: View) -> Headline | None:
    """By what every system delivers within the bounds; None where no system has a result that keeps them."""
    if not view.capacities:
        if not view.systems:
            return None
        where = f"On {view.sweep.profile.name} nothing that was simulated"
        if all(row.keeps_up is False for system in view.systems for row in view.rows(system)):
            return Headline(f"{where} keeps up with what arrives: overload.")
        if untold := sweep.untold(view.points, view.slas):
            most = max((row for system in untold for row in view.rows(system)), key=lambda row: row.finished or 0)
            why = too_few(most.finished or 0, view.slas, most.load, view.sweep.plan.seconds)
            return Headline(f"On {view.sweep.profile.name} nothing tells yet what keeps {view.promises}: {why}.")
        return Headline(f"{where} keeps the bound: {view.promises}.")
    best = view.capacities[0]
    bases = {kind: sweep.baseline(view.capacities, kind) for kind in ("mtp", "none")}
    where = f", with {view.promises}," if view.slas else f" at {_load(best)},"
    much = f"{_amount(best)} at {_load(best)}" if view.slas else _amount(best)
    gains, unclear, missing = [], [], []
    for name, base in (("MTP-1", bases["mtp"]), ("no speculation", bases["none"])):
        if base is None:
            missing.append(name)
        if base is None or base.system == best.system:
            continue
        value, half = sweep.gain(best, base)
        interval = "interval unknown" if math.isnan(half) else f"95 % {value - half:+.1%} to {value + half:+.1%}"
        gains.append(
            Gain(
                f"{value:+.0%}",
                f"throughput over {name}",
                f"{interval}; {name} delivers {base.throughput:,.0f} at {_load(base)}",
            )
        )
        unclear += [] if value > half and not _may_pass(base, best) else [name]
    doubt = f", which is not clearly more than {listed(unclear)}" if unclear else ""
    headline = f"On {view.sweep.profile.name}{where} run {view.name(best.system)}: {much}{doubt}."
    facts = [
        fact for fact in (_tokens(view, best, bases["mtp"]), _seconds(view, best, bases["mtp"]), _over_load(view)) if fact
    ]
    remarks = [
        *_runner_up(view),
        *_between(view),
        "Intervals are the simulation's own noise; what another day's traffic would do is not in them.",
    ]
    if missing:
        kept = "was not simulated" + (f", or never keeps {view.bounds}" if view.slas else "")
        remarks.append(f"No gain over {' and '.join(missing)} can be told: it {kept}.")
    if best.how == "highest" and view.slas:
        remarks.append(f"It keeps {view.bounds} up to the highest load simulated ({_load(best)}): there may be more.")
    if not best.near.exact:
        remarks.append("Its policy looks at old confidences: replaying sampled drafts under it is an approximation.")
    return Headline(headline, gains, facts, remarks, "", view.sweep.profile.name, best.near.load)


def _amount(capacity: Capacity) -> str:
    half = "" if math.isnan(capacity.half_width) else f" ± {capacity.half_width:,.0f}"
    more = "" if capacity.how == "reference" else "at least "
    return f"{more}{capacity.throughput:,.0f}{half} tokens/s/GPU"


def _may_pass(other: Capacity, best: Capacity) -> bool:
    """Whether at loads that were not simulated another may deliver more than the best was simulated to."""
    return (other.may_be or 0.0) > best.throughput


def _between(view: View) -> list[str]:
    """What loads that were not simulated leave open: more of the best, or another that is better."""
    best, *others = view.capacities
    found = []
    if best.between:
        found.append(f"There may be more of it between {best.between}, where a bound breaks.")
    passing = [f"{view.name(c.system)} between {c.between}" for c in others if _may_pass(c, best)]
    if passing:
        more = f" and {len(passing) - 3} more" if len(passing) > 3 else ""
        told = ", ".join(passing[:3]) if more else listed(passing)
        found.append(f"Another may deliver more at loads that were not simulated: {told}{more}; simulate them to tell.")
    return found


def _load(capacity: Capacity) -> str:
    return capacity.near.load.label


def _tokens(view: View, best: Capacity, mtp: Capacity | None) -> str:
    near = best.near
    if near.tau is None or near.budget is None or best.system.policy == NO_DRAFTER:
        return ""
    against = "" if mtp is None or mtp.near.tau is None else f" against {mtp.near.tau:.2f} of MTP-1"
    wasted = "" if near.wasted is None else f", {near.wasted:.0%} of its drafts verified in vain"
    return (
        f"At {_load(best)} it commits {near.tau:.2f} tokens per round{against}, verifying {near.budget:.2f} tokens "
        f"per request and step of at most {best.system.recording.gamma + 1}{wasted}."
    )


def _seconds(view: View, best: Capacity, mtp: Capacity | None) -> str:
    mine = step_s(best.near)
    if not mine:
        return ""
    shares = {part: (best.near.step_s.get(part) or 0.0) / mine for part in PARTS}
    said = (
        f"A step takes {1e3 * mine:.1f} ms, {shares['target']:.0%} of it the target's pass, {shares['draft']:.0%} drafting"
    )
    same = [r for r in view.rows(mtp.system) if r.load == best.near.load] if mtp and mtp.system != best.system else []
    if not same or not step_s(same[0]) or not same[0].tau or not best.near.tau:
        return f"{said}."
    longer, more = mine / step_s(same[0]), best.near.tau / same[0].tau
    return f"{said}: {longer:.2f} times MTP-1's step at that load, for {more:.2f} times its tokens per round."


def _over_load(view: View) -> str:
    """How the best choice, and its lead over MTP-1, move from the lowest load to the highest."""
    loads = sorted({size for s in view.leaders for row in view.rows(s) if (size := row.load.size)})
    if len(loads) < 2:
        return ""
    mtp = sweep.baseline(view.capacities, "mtp")
    said = []
    for load in dict.fromkeys((loads[0], loads[len(loads) // 2], loads[-1])):
        rows = [(s, r) for s in sweep.systems(view.points, bounds=False) for r in view.rows(s) if r.load.size == load]
        at, rows = rows[0][1].load.label, [(s, r) for s, r in rows if r.keeps_up is not False]
        if not rows:
            said.append(f"nothing, of what keeps up, at {at}")
            continue
        most = {s: r.throughput or 0.0 for s, r in rows}
        system = max(most, key=lambda s: most[s])
        base = None if mtp is None or mtp.system == system else most.get(mtp.system)
        over = f" ({most[system] / base - 1:+.0%} over MTP-1)" if base else ""
        said.append(f"{view.name(system)} at {at}{over}")
    return f"Most throughput by load: {listed(said)}."


def _runner_up(view: View) -> list[str]:
    others = [c for c in view.capacities if c.system.recording.drafter != view.capacities[0].system.recording.drafter]
    if not others:
        return []
    value, half = sweep.gain(view.capacities[0], others[0])
    clear = ", within the interval: take whichever is easier to run" if not value > half else ""
    clear = clear or (", of what was simulated" if _may_pass(others[0], view.capacities[0]) else "")
    return [f"The best of another drafter is {view.name(others[0].system)}: this delivers {value:.1%} more{clear}."]


# --- of recordings ----------------------------------------------------------------------------------------------------


def of_run(con: duckdb.DuckDBPyConnection, run_id: str, out: Path) -> Headline:
    """The headline of what was recorded in a run, kept in the folder `out`. Raises LookupError for an unknown run."""
    run = provenance(con, run_id)
    tau, speeds = (frame.select(pl.lit(run_id).alias("run"), pl.all()) for frame in
                   (accepted_length(con, run_id), speed(con, run_id)))  # fmt: skip
    return from_recordings(tau, speeds, series_of([run], [tau, speeds]), run, out, sums_of(con, run_id))


def sums_of(con: duckdb.DuckDBPyConnection, run_id: str) -> Baseline | None:
    """What drafters got of each prompt, by which their lead is judged; None of a run without a round."""
    try:
        return sums.baseline(con, run_id)
    except InputError:
        return None


def simulating(run: Provenance, out: Path) -> tuple[str, str]:
    """The command that simulates a run on serving hardware, and in words what has to be filled in: the hardware, where there
    is no profile of the run's own model."""
    profile, fill_in, model = profile_of(run.target), "", list[str]()
    if profile is None:
        profile, fill_in = "DEVICE/MODEL", " (`harness hardware list` shows them)"
        if shapes := run.config or _folder(run.target):
            profile, model = "DEVICE", ["--model", shapes]
    hardware = ("--hardware", profile, *model)
    return typed("harness", "simulate", run.run_id, *hardware, "--concurrency", "1..64", out=out), fill_in


def _folder(target: str) -> str:
    """A target's folder, where its shapes can be read; empty where it has none here."""
    try:
        return target if (Path(target) / "config.json").is_file() else ""
    except (OSError, ValueError):
        return ""


def from_recordings(
    tau: pl.DataFrame,
    speeds: pl.DataFrame,
    series: Sequence[Series],
    run: Provenance,
    out: Path,
    by_prompt: Baseline | None,
) -> Headline:
    """Who commits most tokens per round in each domain, where that is too close to call, and at what speed.

    `run` is the one that all are of, kept in the folder `out`; `by_prompt` are its sums.
    """
    chosen = longest(series)
    keys = {(s.run, s.drafter, s.gamma): s for s in chosen}
    means = [
        row
        for row in tau.filter(pl.col("task").is_null(), pl.col("gamma") > 0, pl.col("tau").is_not_null()).to_dicts()
        if (row["run"], row["drafter"], row["gamma"]) in keys
    ]
    # A drafter that lacks some of a domain's tasks has a mean of something else.
    full = {domain: max(r["tasks"] for r in means if r["domain"] == domain) for domain in {r["domain"] for r in means}}
    means = [row for row in means if row["tasks"] == full[row["domain"]]]
    if not means:
        return Headline("No drafter has committed a round yet.")
    tokens, winners = _most_tokens(means, keys, by_prompt)
    gains = _token_gains(means, keys, winners[0]) if winners else []
    measured = {s.label: row for s in chosen if s.gamma for row in s.rows(speeds) if row["speedup"] is not None}
    bound = "Tokens per round are an upper bound on the gain: drafting and verifying cost time, and more so under load."
    shows, fill_in = simulating(run, out)
    why = f"what they give under load, on serving hardware{fill_in}"
    if not measured:
        return Headline(tokens, gains, [bound, "How fast that is was not measured."], next=shows, why_next=why)
    headline, gain, *facts = _measured(measured)
    assert isinstance(headline, str)
    assert isinstance(gain, Gain)
    return Headline(headline, [gain, *gains], [*map(str, facts), tokens, bound], next=shows, why_next=why)


def _measured(rows: Mapping[str, Mapping[str, Any]]) -> list[str | Gain]:
    """What was measured of drafters, in a sentence and the fastest's gain, and who is slower beyond doubt."""
    fastest = max(rows, key=lambda label: float(rows[label]["speedup"]))
    best = rows[fastest]
    where = "Measured on this machine, one request at a time"
    if best["low"] is None:
        told = f"no interval from {counted(best['prompts'], 'prompt')}: it takes {FEWEST_PROMPTS} and two passes or more"
    else:
        told = f"95 % {best['low']:.2f} to {best['high']:.2f}"
    much = f"{best['speedup']:.2f} times as fast as decoding without a drafter ({told})"
    if best["low"] is not None and best["low"] > 1:
        headline = f"{where}, {fastest} is {much}."
    elif best["high"] is None or best["high"] >= 1:
        headline = f"{where}, nothing clearly beats decoding without a drafter: the fastest, {fastest}, is {much}."
    else:
        headline = f"{where}, nothing beats decoding without a drafter: the fastest, {fastest}, is {much}."
    slower = [
        f"{label} ({row['speedup']:.2f}×)" for label, row in rows.items() if row["high"] is not None and row["high"] < 1
    ]
    facts = [f"Slower than without a drafter, beyond doubt: {listed(slower)}."] if slower else []
    return [headline, Gain(f"{best['speedup']:.2f}×", f"measured speed of {fastest} over no speculation", told), *facts]


def _most_tokens(
    means: Sequence[Mapping[str, Any]], keys: Mapping[tuple[str, str, int], Series], by_prompt: Baseline | None
) -> tuple[str, list[str]]:
    """Who leads in which domain, in words, and who leads anywhere: nobody where all commit what decoding alone does, 1."""
    wins: dict[str, list[str]] = {}
    close, idle, unknown = [], list[str](), False
    for domain in in_order(row["domain"] for row in means):
        best, *others = sorted((r for r in means if r["domain"] == domain), key=lambda r: -r["tau"])
        if round(best["tau"], 2) <= 1:
            idle.append(domain)
            continue
        wins.setdefault(_label(best, keys), []).append(f"{domain} ({best['tau']:.2f})")
        if not others:
            continue
        one, other = (Recording(r["drafter"], r["gamma"], drafting=r["drafting"]) for r in (best, others[0]))
        chance = None if by_prompt is None else chance_of_lead(by_prompt, one, other, domain)
        unknown = unknown or chance is None
        if chance is None or chance > SURE:
            close.append(f"{domain} ({_label(others[0], keys)} {others[0]['tau']:.2f})")
    leads = [f"{label} in {listed(domains)}" for label, domains in wins.items()]
    none = f"no drafter commits more tokens per round than decoding without one in {listed(idle)} (1.00)" if idle else ""
    if not leads:
        return f"{none[0].upper()}{none[1:]}.", []
    said = f"Most tokens per round: {'; '.join([*leads, *([none] if none else [])])}."
    if close:
        or_unknown = ", or is of too few prompts to tell" if unknown else ""
        said += f" Not clearly ahead in {listed(close)}: prompt by prompt the difference may be chance{or_unknown}."
    return said, list(wins)


def _label(row: Mapping[str, Any], keys: Mapping[tuple[str, str, int], Series]) -> str:
    return keys[row["run"], row["drafter"], row["gamma"]].label


def _token_gains(means: Sequence[Mapping[str, Any]], keys: Mapping[tuple[str, str, int], Series], winner: str) -> list[Gain]:
    """Tokens per round of the winner over MTP's and over 1, means of the domains both have; independent intervals."""

    def of(label: str) -> dict[str, Mapping[str, Any]]:
        return {row["domain"]: row for row in means if _label(row, keys) == label}

    def mean(rows: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
        every = list(rows)
        halves = [math.nan if r["low"] is None else (r["high"] - r["low"]) / 2 for r in every]
        return sum(r["tau"] for r in every) / len(every), math.sqrt(sum(h * h for h in halves)) / len(every)

    mine = of(winner)
    found = []
    others = [
        s for s in keys.values() if s.kind == "mtp" and s.label != winner and s.run == next(iter(mine.values()))["run"]
    ]
    for s in others[:1]:
        theirs = {domain: row for domain, row in of(s.label).items() if domain in mine}
        if theirs:
            (top, half), (under, other) = mean(mine[d] for d in theirs), mean(theirs.values())
            ratio, width = top / under, top / under * math.hypot(half / top, other / under)
            name = "MTP-1" if s.gamma == 1 else f"MTP at γ = {s.gamma}"
            found.append(Gain(f"{ratio:.2f}×", f"tokens per round of {winner} over {name}", _range(ratio, width)))
    top, half = mean(mine.values())
    return [*found, Gain(f"{top:.2f}×", f"tokens per round of {winner} over no speculation", _range(top, half))]


def _range(value: float, half: float) -> str:
    return f"no interval: {_WHAT_IT_TAKES}" if math.isnan(half) else f"95 % {value - half:.2f} to {value + half:.2f}"
