"""`harness replay`: a dense recording under policies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harness.cli.show import domain_order
from harness.console import plain_console, print_json, print_table, user_errors, watching
from harness.options import AsJson, Drafters, Out, RunName, listed

if TYPE_CHECKING:  # these take seconds
    from rich.console import Console

    from harness.sweeps.replay import Replayed


def replay(
    name: RunName = "latest",
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POLICY", help="fixed:K, threshold:C, oracle, none, FILE.py:CLASS (repeatable); by default all drafted."
        ),
    ] = None,
    drafter: Drafters = None,
    drafting: Annotated[
        Literal["sampled", "greedy"] | None,
        typer.Option(help="Only drafts chosen so; by default all that were recorded, and what greedy ones are worth."),
    ] = None,
    calibrated: Annotated[
        bool,
        typer.Option(
            help="Decide from calibrated confidences, or estimated ones where a drafter gives none, on prompts these were "
            "not fitted on."
        ),
    ] = False,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Walk a dense recording under policies: accepted length, tokens verified, tokens wasted."""
    from harness.sweeps.replay import replay_run
    from results.store.database import Store
    from simulator.policies import policies_of

    with user_errors("harness"):
        store = Store(out / "specyard.duckdb")
        with watching() as watcher:
            run_id = store.find_run(name)
            rows = replay_run(
                store, run_id, policies_of(listed(policy)), listed(drafter), drafting=drafting, calibrated=calibrated,
                say=watcher.say,
            )  # fmt: skip
        print_replays(rows, as_json=as_json)


def print_replays(rows: list[Replayed], *, as_json: bool) -> None:
    """What came of replaying policies."""
    if as_json:
        print_json("replay", {"replays": rows})
        return
    domains = sorted({r.domain for r in rows}, key=lambda domain: domain_order({"domain": domain}))
    heads, lines = ["accepted length τ / budget", *domains, "accepted"], list[list[str]]()
    by_line: dict[str, list[Replayed]] = {}
    for r in rows:
        by_line.setdefault(_label(r), []).append(r)
    for line, of_line in by_line.items():
        cells = {r.domain: f"{r.tau:.2f} / {r.budget:.2f}" for r in of_line}
        verified, accepted = sum(r.verified for r in of_line), sum(r.accepted for r in of_line)
        share = f"{accepted / verified:.1%}" if verified else "–"
        lines.append([line, *(cells.get(d, "–") for d in domains), share])
    console = plain_console()
    print_table(console, heads, lines, ("accepted", *reversed(domains)))
    if any(r.change for r in rows):
        _print_drafting(console, rows, domains)


def _label(r: Replayed) -> str:
    """Drafter, policy and what it decides from."""
    basis = " · held-out prompts" if r.held_out else ""
    if r.confidences in ("calibrated", "estimated"):
        basis = f" on {r.confidences} confidences"
    drafts = " · greedy drafts" if r.drafting == "greedy" else ""
    caveat = "" if r.exact else " (a bound)"
    return f"{r.drafter} γ={r.gamma} {r.policy}{basis}{drafts}{caveat}"


def _print_drafting(console: Console, rows: list[Replayed], domains: list[str]) -> None:
    """What greedy drafts are worth: τ of what was drafted both ways, and the change, with 95 % intervals over prompts."""
    both = {(r.drafter, r.gamma) for r in rows if r.change is not None}
    by_line: dict[str, dict[str, str]] = {}
    for r in (r for r in rows if (r.drafter, r.gamma) in both):
        change = "" if r.change is None else f", {_range(r.change.change, r.change.low, r.change.high, '+.1%')}"
        by_line.setdefault(_label(r), {})[r.domain] = _range(r.tau, r.low, r.high, ".2f") + change
    lines = [[line, *(cells.get(d, "–") for d in domains)] for line, cells in by_line.items()]
    print_table(console, ["τ, and what greedy drafts change (95 %)", *domains], lines, list(reversed(domains)))


def _range(value: float, low: float | None, high: float | None, form: str) -> str:
    return f"{value:{form}}" + ("" if low is None or high is None else f" ({low:{form}} to {high:{form}})")
