"""`harness synthesize`: traces made from published curves, or from one's own averages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.report import write_report
from harness.cli.show import print_run
from harness.console import Watcher, user_errors, watching
from harness.options import AsJson, WritableOut
from simulator.errors import InputError

if TYPE_CHECKING:  # these take seconds
    from results.store.database import Store
    from simulator.averages import Averages

_DRAFTER = "eagle3"


def synthesize(
    curves: Annotated[
        str | None, typer.Argument(help="Published curves: paper:qwen3-4b is what there is, and the default.")
    ] = None,
    survival: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SHARES",
            help="Share of all drafts accepted at position 1, 2, …, as vLLM logs it: .72,.53,.38 (or math=.8,.6,.5).",
        ),
    ] = None,
    conditional: Annotated[
        list[str] | None,
        typer.Option(metavar="SHARES", help="Share of the drafts accepted so far, by position: .72,.74,.72 (or math=…)."),
    ] = None,
    accepted_length: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOKENS",
            help="Tokens per round, bonus token included, all positions alike: 3.4 (or math=4.1); with --gamma.",
        ),
    ] = None,
    gamma: Annotated[int | None, typer.Option(help="Tokens drafted each round.")] = None,
    drafter: Annotated[
        str | None, typer.Option(help=f"The drafter's kind, {_DRAFTER} unless told; with a name of your own mine=eagle3.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The model it drafts for: a name, or its config.json.")] = None,
    responses_per_task: Annotated[
        int | None, typer.Option(help="Responses to each of the nine tasks, 40; or in each domain of averages, 200.")
    ] = None,
    output_tokens: Annotated[int, typer.Option(help="Tokens of each response.")] = 512,
    prompt_tokens: Annotated[int | None, typer.Option(help="Tokens of each prompt of averages; 512.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same traces.")] = 0,
    out: WritableOut = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Make dense traces from averages, published ones or your own, to study an operating range without running a model."""
    from harness.published.averages import averages_of, drafter_of
    from harness.published.run import PUBLISHED, Size, publish
    from results.store.database import Store
    from simulator.averages import ambiguous
    from simulator.drafter_kinds import KINDS

    with user_errors("harness"):
        if curves is not None and curves not in PUBLISHED and curves[:1] in tuple(".0123456789"):
            raise ambiguous(curves)
        _, kind = drafter_of(drafter or _DRAFTER)
        averages = averages_of(survival or (), conditional or (), accepted_length or (), gamma, look_up=KINDS[kind].looks_up)
        if averages and curves is not None:
            raise InputError(f"{curves}: are curves already; leave them out, or the averages")
        given = {"gamma": gamma, "drafter": drafter, "target": target, "prompt-tokens": prompt_tokens}
        if not averages and (alone := [name for name, value in given.items() if value is not None]):
            raise InputError(f"--{alone[0]}: goes with --survival, --conditional or --accepted-length")
        store = Store(out / "specyard.duckdb")
        with watching() as watcher:
            if averages:
                sizes = {
                    "responses_per_task": responses_per_task,
                    "output_tokens": output_tokens,
                    "prompt_tokens": prompt_tokens,
                }
                run_id = _own(averages, drafter, target, seed, sizes, store, watcher)
            else:
                size = Size(40 if responses_per_task is None else responses_per_task, output_tokens)
                run_id = publish(curves or PUBLISHED[0], seed, size, store, watcher.say)
        print_run(store, run_id, write_report(store, run_id), as_json=as_json)


def _own(
    averages: Mapping[str, Averages], drafter: str | None, target: str | None, seed: int, sizes: Mapping[str, int | None],
    store: Store, watcher: Watcher,
) -> str:  # fmt: skip
    """Store a run of one's own averages; returns its id. Raises InputError, OSError."""
    from harness.published.averages import Stated, Target, drafter_of, publish_averages, target_of

    name, kind = drafter_of(drafter or _DRAFTER)
    known = {size: value for size, value in sizes.items() if value is not None}
    of = target_of(target) if target else Target("")
    if drafter is None:
        watcher.say(f"note: taken for a drafter of the kind {kind}, which decides what drafting costs; see --drafter")
    stated = Stated(
        averages=averages, drafter=name, kind=kind, target=of.name, named_after=of.named_after, config=of.config, seed=seed,
        **known,
    )  # fmt: skip
    return publish_averages(stated, store, watcher.say)
