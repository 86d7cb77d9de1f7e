"""`harness show`: a run, what was run with what, and its results; or a sweep, as it was printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.simulate import print_sweep
from harness.console import plain_console, print_json, print_table, say, user_errors
from harness.options import AsJson, Out

if TYPE_CHECKING:  # these take seconds
    from rich.console import Console

    from results.store.database import Store


def show(
    name: Annotated[
        str, typer.Argument(metavar="RUN", help="The id of a run or sweep, the start of one, or `latest`, a run.")
    ] = "latest",
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Show a run, what was run with what, and its results; or a sweep, as `harness simulate` printed it."""
    from results.store.commands import typed
    from results.store.database import Store
    from results.store.housekeeping import found
    from results.store.subjects import RUN, SWEEP
    from simulator.errors import InputError

    with user_errors("harness"):
        store = Store(out / "specyard.duckdb")
        subject, key = RUN, name
        if name == "latest":
            key = store.find_run(name)
        else:
            subject, key = (one := found(store, name)).subject, one.id
        if subject is SWEEP:
            print_sweep(store, key, as_json=as_json)
            return
        if subject is not RUN:
            raise InputError(f"{name}: is a study; `{typed('tuner', 'show', key, out=out)}` shows it")
        report_file = out / key / "report.html"
        print_run(store, key, report_file if report_file.exists() else None, as_json=as_json, details=True)


def print_run(store: Store, run_id: str, report: Path | None, *, as_json: bool, details: bool = False) -> None:
    """Accepted length by domain and speed against `none` of a run, and what that comes to, as its report says it.

    `details` adds what was run with what, and what stands on it.
    """
    import polars as pl

    from results.figures.acceptance import lost, lost_in_words
    from results.figures.accepted_length import accepted_length
    from results.figures.speed import speed
    from results.report.headline import of_run
    from results.store.commands import typed
    from results.store.housekeeping import holdings
    from results.store.runs import read_as
    from simulator.records import DRAFTINGS

    row = store.run(run_id)
    with store.reading() as connection:
        either_way = pl.concat([accepted_length(connection, run_id, way) for way in DRAFTINGS])
        lengths = either_way.unique(["drafter", "gamma", "drafting", "domain", "task"], maintain_order=True).to_dicts()
        speeds = speed(connection, run_id).to_dicts()
        shares = lost(connection, run_id)
        answer = None if as_json else of_run(connection, run_id, store.file.parent)
    on_it = [one for one in holdings(store) if one.run_id == run_id and one.id != run_id]
    if answer is None:
        of = {**row, "report": report, "database": store.file}
        beside = [{"kind": one.word, "id": one.id, "created_at": one.created_at} for one in on_it]
        print_json(
            "run", {"run": of, "accepted_length": lengths, "speed": speeds, "lost": shares.to_dicts(), "on_it": beside}
        )
        return
    console = plain_console()
    if details:
        for line in _details(row):
            say(console, line)
        heads = ("drafter", "kind", "γ", "recorded γ", "checkpoint", "hash")
        drafters = [_drafter(*item) for item in row["drafters"].items()]
        print_table(console, heads, drafters, ("hash", "recorded γ"))
        for name, drafter in row["drafters"].items():
            if told := read_as(drafter):
                say(console, f"{name}: {told}")
        for name, told in lost_in_words(shares).items():
            say(console, f"{name}: {told}")
        for one in on_it:
            program = "tuner" if one.word == "study" else "harness"
            shows = typed(program, "show", one.id, out=store.file.parent)
            say(console, f"{one.word} {one.id}, {one.created_at:%Y-%m-%d %H:%M} UTC: `{shows}` shows it")
    if row["finished_at"] is None:
        say(console, "this run is not finished: what follows is what it has so far")
    _print_lengths(console, row["drafters"], lengths, speeds)
    say(console, f"\n{answer.headline}")
    if answer.next:
        say(console, f"next, to see {answer.why_next}:")
        say(console, f"  {answer.next}")
    for file in (store.file, report):
        if file is not None:
            console.print(str(file), soft_wrap=True, markup=False)


def _details(row: dict[str, Any]) -> list[str]:
    """What was run with what, a line each; what is empty is left out."""
    from results.store.runs import asked_with

    target = {name: value for name, value in row["target"].items() if name != "chat_template"}
    shown = {
        "run": row["run_id"], "created": f"{row['created_at']:%Y-%m-%d %H:%M:%S} UTC",
        "finished": "" if row["finished_at"] is None else f"{row['finished_at']:%Y-%m-%d %H:%M:%S} UTC",
        "command": row["command"], "suite": f"{row['suite']}, version {row['suite_version']}, {row['suite_hash'][:12]}",
        "prompts": row["prompt_source"], "pair": row["pair"], "seed": row["seed"], "code": (row["git_revision"] or "")[:12],
        "target": _listed(target), **{name: _listed(row[name]) for name in ("sampling", "packages", "host")},
    }  # fmt: skip
    lines = [f"{name}: {value}" for name, value in shown.items() if value not in (None, "")]
    return [*lines, *filter(None, [asked_with(row["target"])])]


def _listed(values: dict[str, Any]) -> str:
    """Names and values in words; hashes by their beginning."""
    known = {name: value for name, value in values.items() if value not in (None, "")}
    return ", ".join(f"{name} {str(value)[:12] if 'hash' in name else value}" for name, value in known.items())


def _drafter(name: str, drafter: dict[str, Any]) -> list[str]:
    gammas = ", ".join(map(str, drafter.get("gammas", [drafter["gamma"]])))
    kind, checkpoint = str(drafter.get("kind", name)), str(drafter.get("checkpoint") or "")
    return [name, kind, str(drafter["gamma"]), gammas, checkpoint, (drafter.get("checkpoint_hash") or "")[:12]]


def _print_lengths(
    console: Console, drafters: dict[str, dict[str, Any]], lengths: list[dict[str, Any]], speeds: list[dict[str, Any]]
) -> None:
    """A row for every block size; drafters are timed at their own."""
    domains = list(dict.fromkeys(r["domain"] for r in sorted(lengths, key=domain_order)))
    lines: list[list[str]] = []
    taus = {(r["drafter"], r["gamma"], r["drafting"], r["domain"]): _tau_cell(r) for r in lengths if r["task"] is None}
    for name, drafter in drafters.items():
        own = drafter["gamma"]
        recorded = dict.fromkeys((gamma, way) for who, gamma, way, _ in taus if who == name) or {(own, "either"): None}
        several = len({gamma for gamma, _ in recorded}) > 1
        for gamma, way in sorted(recorded, key=lambda key: key[0]):  # sampled ones stay in front
            found = [taus.get((name, gamma, way, domain), "–") for domain in domains]
            timed = [r for r in speeds if r["drafter"] == name and gamma == own and r["drafting"] == way]
            label = (f"{name} γ={gamma}" if several else name) + (" · greedy drafts" if way == "greedy" else "")
            speed = "" if way == "greedy" and not timed else _speed_cell(timed)
            lines.append([label, *found, speed])
    heads = ["accepted length τ, ± 95 %", *domains, "speed, one request"]
    unmeasured = all(line[-1] in ("", _UNMEASURED) for line in lines)
    if unmeasured:  # its room is the domains'
        heads, lines = heads[:-1], [line[:-1] for line in lines]
    print_table(console, heads, lines, [domain for domain in reversed(domains) if domain != "all"])
    if unmeasured:
        say(console, f"speed, one request: {_UNMEASURED}")


_UNMEASURED = "not measured"


def _tau_cell(row: dict[str, Any]) -> str:
    """τ, and how far the farther end of its interval is, where it has one."""
    if row["tau"] is None:
        return "–"
    off = 0.0 if row["low"] is None else max(row["tau"] - row["low"], row["high"] - row["tau"])
    return f"{row['tau']:.2f}" + (f" ±{off:.2f}" if off >= 0.005 else "")


def _speed_cell(rows: list[dict[str, Any]]) -> str:
    if not rows or rows[0]["speedup"] is None:
        return _UNMEASURED
    row = rows[0]
    interval = f"  ({row['low']:.2f} to {row['high']:.2f})" if row["low"] is not None else ""
    return f"{row['speedup']:.2f}×{interval}"


def domain_order(row: dict[str, Any]) -> tuple[int, str]:
    """math, code, chat as the field lists them; others after."""
    known = ("math", "code", "chat")
    domain = str(row["domain"])
    return (known.index(domain) if domain in known else len(known), domain)
