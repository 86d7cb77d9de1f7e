"""What the commands print: progress on stderr, results on stdout as tables or as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from harness.watcher import Watcher
from simulator.records import DRAFTINGS

if TYPE_CHECKING:  # torch and ray take seconds
    from harness.profiling import ProfileQuality
    from harness.recording import Estimate
    from harness.replaying import Replayed
    from harness.sensitivity import Tolerance
    from results.comparison import Comparison
    from results.store import Store
    from simulator.hardware import Profile


@contextmanager
def watching() -> Iterator[Watcher]:
    """A progress display on stderr while the block runs; plain lines where stderr is no terminal."""
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}
        last: dict[str, int] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage)
            progress.update(tasks[stage], completed=done, total=total)
            tenth = 10 * done // max(total, 1)
            if not console.is_terminal and last.get(stage) != tenth:
                last[stage] = tenth
                console.print(f"{stage} · {done}/{total}", soft_wrap=True)

        yield Watcher(lambda text: console.print(text, soft_wrap=True, markup=False), advance)


def _console() -> Console:
    """For results: wide where nobody's terminal would break the lines."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def print_runs(store: Store, *, as_json: bool) -> None:
    """All runs of a database, the latest first."""
    with store.reading() as connection:
        rows = connection.execute(
            """
            SELECT run_id, created_at, finished_at IS NOT NULL AS finished, suite, prompt_source, pair, seed,
                   (SELECT count(*) FROM responses s WHERE s.run_id = r.run_id) AS responses
            FROM runs r ORDER BY created_at DESC
            """
        ).fetchall()
    names = ("run", "created", "finished", "suite", "prompts", "pair", "seed", "responses")
    if as_json:
        print(json.dumps([dict(zip(names, row, strict=True)) for row in rows], default=str))
        return
    table = Table(*names, box=None)
    for row in rows:
        table.add_row(*[("yes" if v else "no") if isinstance(v, bool) else str(v)[:19] for v in row])
    _console().print(table)


def print_run(store: Store, run_id: str, report: Path | None, *, as_json: bool, details: bool = False) -> None:
    """Accepted length by domain and speed against `none` of a run; `details` adds what was run with what."""
    from results.figures import accepted_length, speed

    row = store.run(run_id)
    with store.reading() as connection:
        lengths = [row for way in DRAFTINGS for row in accepted_length(connection, run_id, way).to_dicts()]
        speeds = speed(connection, run_id).to_dicts()
    if as_json:
        result = {
            "run": {**row, "report": None if report is None else str(report), "database": str(store.file)},
            "accepted_length": lengths,
            "speed": speeds,
        }
        print(json.dumps(result, default=str))
        return
    console = _console()
    if details:
        for field in ("created_at", "finished_at", "command", "suite", "suite_version", "suite_hash", "prompt_source",
                      "pair", "target", "sampling", "seed", "git_revision", "packages", "host"):  # fmt: skip
            console.print(f"{field}: {row[field]}", soft_wrap=True, markup=False)
        for name, drafter in row["drafters"].items():
            console.print(f"drafter {name}: {drafter}", soft_wrap=True, markup=False)
    if row["finished_at"] is None:
        console.print("this run is not finished: what follows is what it has so far")
    console.print(_table(row["drafters"], lengths, speeds))
    for file in (store.file, report):
        if file is not None:
            console.print(str(file), soft_wrap=True, markup=False)


def _table(drafters: dict[str, dict[str, Any]], lengths: list[dict[str, Any]], speeds: list[dict[str, Any]]) -> Table:
    """A row for every block size; drafters are timed at their own."""
    domains = list(dict.fromkeys(r["domain"] for r in sorted(lengths, key=_domain_order)))
    table = Table("accepted length τ", *domains, "tok/s against none, one request", box=None, header_style="bold")
    taus = {(r["drafter"], r["gamma"], r["drafting"], r["domain"]): r["tau"] for r in lengths if r["task"] is None}
    for name, drafter in drafters.items():
        own = drafter["gamma"]
        recorded = dict.fromkeys((gamma, way) for who, gamma, way, _ in taus if who == name) or {(own, "either"): None}
        several = len({gamma for gamma, _ in recorded}) > 1
        for gamma, way in sorted(recorded, key=lambda key: key[0]):  # sampled ones stay in front
            found = [taus.get((name, gamma, way, domain)) for domain in domains]
            timed = [r for r in speeds if r["drafter"] == name and gamma == own and r["drafting"] == way]
            label = (f"{name} γ={gamma}" if several else name) + (" · greedy drafts" if way == "greedy" else "")
            speed = "" if way == "greedy" and not timed else _speed_cell(timed)
            table.add_row(label, *("–" if tau is None else f"{tau:.2f}" for tau in found), speed)
    return table


def _speed_cell(rows: list[dict[str, Any]]) -> str:
    if not rows or rows[0]["speedup"] is None:
        return "not measured"
    row = rows[0]
    interval = f"  ({row['low']:.2f} to {row['high']:.2f})" if row["low"] is not None else ""
    return f"{row['speedup']:.2f}×{interval}"


def _domain_order(row: dict[str, Any]) -> tuple[int, str]:
    """math, code, chat as the field lists them; others after."""
    known = ("math", "code", "chat")
    domain = str(row["domain"])
    return (known.index(domain) if domain in known else len(known), domain)


def print_replays(rows: list[Replayed], *, as_json: bool) -> None:
    """What came of replaying policies."""
    if as_json:
        print(json.dumps([dataclasses.asdict(r) for r in rows]))
        return
    domains = sorted({r.domain for r in rows}, key=lambda domain: _domain_order({"domain": domain}))
    table = Table("accepted length τ / verified a round", *domains, "accepted", box=None, header_style="bold")
    by_line: dict[str, list[Replayed]] = {}
    for r in rows:
        by_line.setdefault(_replay_label(r), []).append(r)
    for line, of_line in by_line.items():
        cells = {r.domain: f"{r.tau:.2f} / {r.budget:.2f}" for r in of_line}
        verified, accepted = sum(r.verified for r in of_line), sum(r.accepted for r in of_line)
        share = f"{accepted / verified:.1%}" if verified else "–"
        table.add_row(line, *(cells.get(d, "–") for d in domains), share)
    _console().print(table)
    if any(r.change for r in rows):
        _console().print(_drafting_table(rows, domains))


def _replay_label(r: Replayed) -> str:
    """Drafter, policy and what it decides from."""
    basis = f" on {r.confidences} confidences" if r.confidences in ("calibrated", "estimated") else ""
    drafts = " · greedy drafts" if r.drafting == "greedy" else ""
    caveat = "" if r.exact else " (a bound)"
    return f"{r.drafter} γ={r.gamma} {r.policy}{basis}{drafts}{caveat}"


def _drafting_table(rows: list[Replayed], domains: list[str]) -> Table:
    """What greedy drafts are worth: τ of what was drafted both ways, and the change, with 95 % intervals over prompts."""
    table = Table("τ, and what greedy drafts change (95 %)", *domains, box=None, header_style="bold")
    both = {(r.drafter, r.gamma) for r in rows if r.change is not None}
    by_line: dict[str, dict[str, str]] = {}
    for r in (r for r in rows if (r.drafter, r.gamma) in both):
        change = "" if r.change is None else f", {_range(r.change.change, r.change.low, r.change.high, '+.1%')}"
        by_line.setdefault(_replay_label(r), {})[r.domain] = _range(r.tau, r.low, r.high, ".2f") + change
    for line, cells in by_line.items():
        table.add_row(line, *(cells.get(d, "–") for d in domains))
    return table


def _range(value: float, low: float | None, high: float | None, form: str) -> str:
    return f"{value:{form}}" + ("" if low is None or high is None else f" ({low:{form}} to {high:{form}})")


def print_sweep(store: Store, sweep_id: str, *, as_json: bool) -> None:
    """What a sweep of simulations came to."""
    rows = store.simulations(sweep_id)
    if as_json:
        print(json.dumps({"sweep": store.sweep(sweep_id), "simulations": rows}, default=str))
        return
    console = _console()
    first = rows[0]
    head = f"sweep {sweep_id} · run {first['run_id']} · {first['drafting']} drafts"
    console.print(f"{head} · {first['profile']} ({first['profile_source']})", markup=False)
    replicated = len({r["seed"] for r in rows}) > 1
    columns = ("tok/s/GPU", "tok/s of a user", "TTFT p50", "p95 ms", "τ", "budget", *(first["slas"] or ()))
    table = Table("drafter · policy", "load", *columns, box=None, header_style="bold")
    last = None
    for r in rows:
        who = f"{r['drafter']} γ={r['gamma']} {r['policy']}" if r["policy"] != "none" else "none"
        who += " (estimated)" if r["confidences"] == "estimated" else ""
        seed = f" #{r['seed']}" if replicated else ""
        cells = [r["error"]] if r["error"] else _simulation_cells(r)
        table.add_row("" if who == last else who + ("" if r["lossless"] else " (a bound)"), _load_cell(r) + seed, *cells)
        last = who
    console.print(table)
    for text in dict.fromkeys(w for r in rows for w in r["warnings"] or []):
        which = [str(r["point"]) for r in rows if text in (r["warnings"] or [])]
        console.print(f"{len(which)} of {len(rows)}: {text}", markup=False, soft_wrap=True)
    if any(not r["exact"] and r["lossless"] for r in rows):
        console.print("policies that look at old confidences replay sampled drafts approximately; see the README")


def _load_cell(r: dict[str, Any]) -> str:
    if r["users"] is not None:
        return f"{r['users']} users"
    return r["arrivals"] or f"{r['rate_per_s']:g}/s"


def _simulation_cells(r: dict[str, Any]) -> list[str]:
    ttft = [r["quantiles"][q] for q in ("p50_ttft", "p95_ttft")]
    cells = [_with_interval(r, "throughput", ",.0f"), _with_interval(r, "tps", ".1f")]
    cells += ["–" if t is None else f"{t * 1e3:.0f}" for t in ttft]
    cells += [f"{r['tau']:.2f}", f"{r['budget']:.2f}"] if r["tau"] is not None else ["–", "–"]
    return cells + ["kept" if kept else "missed" for kept in (r["slas"] or {}).values()]


def _with_interval(r: dict[str, Any], name: str, form: str) -> str:
    value, half = r[name], r[f"{name}_half_width"]
    if value is None:
        return "–"
    return f"{value:{form}}" + ("" if half is None else f" ± {half:{form}}")


def print_comparison(found: Comparison, tolerance: float | None, *, as_json: bool) -> None:
    """What changed between two runs; what is clearly worse by more than `tolerance` comes last and again."""
    failing = [] if tolerance is None else found.regressions(tolerance)
    if as_json:
        print(json.dumps({**dataclasses.asdict(found), "regressions": [dataclasses.asdict(c) for c in failing]}))
        return
    console = _console()
    console.print(f"run {found.first} → run {found.second}")
    for line in found.differences:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    last = None
    for quantity in dict.fromkeys(c.quantity for c in found.changes):
        table = Table(quantity, "where", "before", "after", "change", "95 %", "verdict", box=None, header_style="bold")
        for c in (c for c in found.changes if c.quantity == quantity):
            who = f"{c.drafter} γ={c.gamma}"
            interval = "" if c.low is None or c.high is None else f"{c.low:+.1%} to {c.high:+.1%}"
            before, after = ("–" if v is None else f"{v:.3f}" if v < 100 else f"{v:,.0f}" for v in (c.first, c.second))
            change = "" if c.change is None else f"{c.change:+.1%}"
            table.add_row("" if who == last else who, c.where, before, after, change, interval, c.verdict)
            last = who
        console.print(table)
    if not found.changes:
        console.print("neither run has anything to compare")
    console.print("verdicts hold together: at most 1 comparison in 20 like this calls anything changed where nothing is")
    if tolerance is not None:
        console.print(f"{len(failing)} worse by more than {tolerance:.1%}, or gone")


def print_validation(store: Store, validation_id: str, *, as_json: bool) -> None:
    """Live points beside their simulations."""
    from results.figures.validated import QUANTITIES, validated
    from results.figures.validated import errors as errors_of
    from results.validations import Validations

    rows = Validations(store).rows(validation_id)
    with store.reading() as connection:
        errors = {e.pop("quantity"): e for e in errors_of(validated(connection, validation_id)).to_dicts()}
    if as_json:
        print(json.dumps({"validation": rows, "errors": errors}, default=str))
        return
    console, first = _console(), rows[0]
    console.print(
        f"validation {validation_id} · run {first['run_id']} · {first['drafting']} drafts · {first['profile']} · "
        f"live: {len(first['live_prompts'])} prompts, simulated: {len(first['trace_prompts'])} others",
        markup=False,
    )
    names = {"throughput": "tok/s", "tps": "tok/s of a user", "tau": "τ", "budget": "budget"}
    table = Table("drafter · policy", "users", *names.values(), "step time", box=None, header_style="bold")
    last = None
    for r in rows:
        who = r["drafter"] if r["drafter"] == "none" else f"{r['drafter']} γ={r['gamma']} {r['policy']}"
        cells = [_compared_cell(r, figure) for figure in QUANTITIES]
        table.add_row("" if who == last else who, str(r["users"]), *cells, f"{r['step_errors']['step']:+.1%}")
        last = who
    console.print(table)
    console.print("simulated / measured (error, * outside the 95 % interval); step time: predicted for the steps that ran")
    for figure, label in {**names, "step": "step time"}.items():
        e = errors[figure]
        rest = ""
        if e["known"]:
            rest = f", {e['same_prompts']:.1%} from the live prompts' own traces, {e['inside'] / e['known']:.0%} inside"
        console.print(
            f"{label}: mean absolute error {e['mean_absolute']:.1%} (mean {e['mean']:+.1%}, worst {e['worst']:.1%}){rest}"
        )


def _compared_cell(r: dict[str, Any], figure: str) -> str:
    simulated, measured = r["simulated"][figure], r["measured"][figure]
    if simulated is None or measured is None:
        return "–"
    form = ",.0f" if figure in ("throughput", "tps") else ".2f"
    star = "" if r["low"][figure] <= measured <= r["high"][figure] else "*"
    return f"{simulated:{form}} / {measured:{form}} ({simulated / measured - 1:+.1%}{star})"


def print_tolerances(found: list[Tolerance], *, as_json: bool) -> None:
    """How far things may be off before another configuration wins."""
    if as_json:
        print(json.dumps([dataclasses.asdict(t) for t in found]))
        return
    table = Table(
        "load", "wins (by)", "what is off", "holds from", "to", "then wins", "lost at ±30 %", box=None, header_style="bold"
    )
    last = None
    for t in found:
        shown = "" if t.load == last else f"{t.winner} ({t.margin:.1%})"
        ends = [f"{end:+.0%}" if end is not None else f"beyond {side} 30 %" for end, side in ((t.down, "−"), (t.up, "+"))]
        losses = " / ".join(f"{look.loss:.1%}" for look in (t.looks[0], t.looks[-1]))
        table.add_row("" if t.load == last else t.load, shown, t.what, *ends, t.instead or "–", losses)
        last = t.load
    _console().print(table)


def print_profile(profile: Profile, quality: ProfileQuality, file: Path, *, as_json: bool) -> None:
    """A measured profile, and how far to trust it."""
    if as_json:
        from simulator.hardware import dump_profile

        print(
            json.dumps(
                {"profile": json.loads(dump_profile(profile)), "quality": dataclasses.asdict(quality), "file": str(file)}
            )
        )
        return
    console = _console()
    console.print(
        f"{profile.name} · {profile.device} · room for {profile.kv_capacity_tokens:,} context tokens", markup=False
    )
    table = Table("one request, ms a round", "as profiled", "as decoded", "ratio", box=None, header_style="bold")
    for name, live in quality.live.items():
        ratio = f"{live.predicted_s / live.measured_s:.2f}"
        table.add_row(name, f"{1e3 * live.predicted_s:.2f}", f"{1e3 * live.measured_s:.2f}", ratio)
    console.print(table)
    errors = ", ".join(f"{part} {median:.0%} ({worst:.0%})" for part, (median, worst) in quality.errors.items())
    console.print(f"error against the measured points, median (worst): {errors}", markup=False, soft_wrap=True)
    console.print(f"spread of repetitions {quality.spread[0]:.0%} ({quality.spread[1]:.0%}), {quality.points} points")
    console.print(str(file), soft_wrap=True, markup=False)


def print_estimate(costs: Estimate, *, as_json: bool) -> None:
    """What a recording would cost."""
    if as_json:
        print(json.dumps(dataclasses.asdict(costs)))
        return
    each, probe = costs.anchor_bytes / max(costs.anchors, 1), costs.probe
    basis = "as given" if costs.given else "at most: if every response runs to the limit"
    generation = "" if costs.given else f"{probe.generate_s * 1e3:.2f} ms to generate a token, "
    print(
        f"{costs.responses:,} responses and {costs.anchors:,} anchors ({basis})\n"
        f"{_size(costs.anchor_bytes)} on disk: {each:.0f} bytes an anchor, two numbers a drafted position\n"
        f"({_size(costs.hidden_state_bytes)} the target's hidden states of the same text: recomputed, never kept)\n"
        f"about {costs.seconds / 60:.1f} minutes on {costs.workers} workers: {generation}"
        f"{probe.record_s * 1e3:.2f} ms to record a token with all drafters; timing drafters live comes on top"
    )


def _size(count: float) -> str:
    """Bytes for people."""
    power = min(int(math.log(max(count, 1), 1000)), 4)
    return f"{count / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"
