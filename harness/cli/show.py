"""`harness show`: a run, what was run with what, and its results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from harness.cli.options import AsJson, Out, RunName
from harness.console import plain_console, user_errors

if TYPE_CHECKING:  # these take seconds
    from results.store.database import Store


def show(name: RunName = "latest", out: Out = Path("runs"), as_json: AsJson = False) -> None:
    """Show a run: what was run, with what, and its results."""
    from results.store.database import Store

    with user_errors("harness"):
        store = Store(out / "specyard.duckdb")
        run_id = store.find_run(name)
        report_file = out / run_id / "report.html"
        print_run(store, run_id, report_file if report_file.exists() else None, as_json=as_json, details=True)


def print_run(store: Store, run_id: str, report: Path | None, *, as_json: bool, details: bool = False) -> None:
    """Accepted length by domain and speed against `none` of a run; `details` adds what was run with what."""
    from results.figures.accepted_length import accepted_length
    from results.figures.speed import speed
    from simulator.records import DRAFTINGS

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
    console = plain_console()
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
    domains = list(dict.fromkeys(r["domain"] for r in sorted(lengths, key=domain_order)))
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


def domain_order(row: dict[str, Any]) -> tuple[int, str]:
    """math, code, chat as the field lists them; others after."""
    known = ("math", "code", "chat")
    domain = str(row["domain"])
    return (known.index(domain) if domain in known else len(known), domain)
