"""Sweeps begun and gone on with: what the store decides is refused here, before anything is imported that simulates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness.console import Watcher, say_model
from harness.sweeps.plan import SweepPoint, points
from results.store.database import Store, decoded_rows
from results.store.lease import leased
from results.store.recordings import Recordings, choose_drafting
from results.store.rows import plan_to_go_on_with
from results.store.subjects import SWEEP
from simulator.plan import SweepPlan
from simulator.records import Drafting

if TYPE_CHECKING:  # these take seconds
    from harness.sweeps.sensitivity import Objective
    from results.store.sensitivities import Sensitivity


IN_PROCESS = 32
"""Simulations up to which starting Ray takes longer than it saves."""


def drafting_as(plan: SweepPlan, store: Store, run_id: str, asked: Drafting | None, watcher: Watcher) -> SweepPlan:
    """A plan drafting as asked; without, as its engine does where that one's policy is among those to simulate."""
    engine, policies = plan.served_by, plan.policies or []
    way: Drafting = engine.drafting if any(p.name == engine.adaptive for p in policies) else "sampled"
    return msgspec.structs.replace(plan, drafting=choose_drafting(store, run_id, asked, watcher.say, engine=way))


def run_sweep(
    store: Store,
    run_id: str,
    plan: SweepPlan,
    watcher: Watcher,
    *,
    drafting: Drafting | None = None,
    actors: int | None = None,
    ray_address: str | None = None,
    rows: Path | None = None,
) -> str:
    """Simulate a plan; returns the sweep's id. Raises InputError.

    Without `drafting`, drafts are sampled, or chosen as the plan's engine does where its policy is among those asked for.
    """
    plan = drafting_as(plan, store, run_id, drafting, watcher)
    return _every_layout(store, run_id, plan, watcher, None, actors, ray_address, rows)


def resume_sweep(
    store: Store, name: str, watcher: Watcher, *, actors: int | None, ray_address: str | None, rows: Path | None
) -> str:
    """Simulate what an interrupted sweep has left; returns its id.

    Raises InputError, as where another process is at work on it.
    """
    found = _last_layout(store, store.sweep(name))
    plan = plan_to_go_on_with(found["plan"], SweepPlan)
    with leased(store, SWEEP, found["sweep_id"]):
        return _every_layout(store, found["run_id"], plan, watcher, found["sweep_id"], actors, ray_address, rows)


def _last_layout(store: Store, sweep: dict[str, Any]) -> dict[str, Any]:
    """The row of the sweep of the layout that was begun last after that of a sweep; its own where none was."""
    with store.reading() as connection:
        of_run = "SELECT * FROM sweeps WHERE run_id = ? ORDER BY created_at DESC"
        rows = decoded_rows(connection.execute(of_run, [sweep["run_id"]]))
    return next((row for row in rows if sweep["sweep_id"] in row["plan"].get("beside", ())), sweep)


def _every_layout(
    store: Store, run_id: str, plan: SweepPlan, watcher: Watcher, sweep_id: str | None,
    actors: int | None, ray_address: str | None, rows: Path | None,
) -> str:  # fmt: skip
    """Carry out a sweep, and then those of the further layouts of its GPUs; the id of the best, or of the only one."""
    sweep_id = _carry_out(store, run_id, plan, watcher, sweep_id, actors, ray_address, rows)
    if not plan.others and not plan.beside:
        return sweep_id
    from harness.sweeps.layouts import compare_layouts, next_layout

    while plan.others:
        plan = next_layout(plan, sweep_id)
        sweep_id = _carry_out(store, run_id, plan, watcher, None, actors, ray_address, rows)
    return compare_layouts(store, [*plan.beside, sweep_id], watcher)


def _carry_out(
    store: Store, run_id: str, plan: SweepPlan, watcher: Watcher, sweep_id: str | None,
    actors: int | None, ray_address: str | None, rows: Path | None,
) -> str:  # fmt: skip
    """Simulate what is not stored yet, here or on Ray's workers where they are asked for or there is much to do."""
    recordings, every = _fitting(store, run_id, plan, watcher)
    from harness.sweeps.work import sweep

    cluster = None
    if actors is not None or ray_address is not None or len(every) > IN_PROCESS:
        from harness.cluster import Cluster

        cluster = Cluster(ray_address, actors)
    return sweep(run_id, plan, store, watcher, every, recordings, sweep_id=sweep_id, cluster=cluster, rows=rows)


def run_sensitivity(
    store: Store, run_id: str, plan: SweepPlan, objective: Objective, watcher: Watcher, *, drafting: Drafting | None = None
) -> Sensitivity:
    """Break-evens of the configurations and loads that a sweep with this plan simulates; stored too. Raises InputError."""
    plan = drafting_as(plan, store, run_id, drafting, watcher)
    recordings, every = _fitting(store, run_id, plan, watcher)
    from harness.sweeps.sensitivity import sensitivities

    return sensitivities(store, run_id, plan, recordings, every, objective, watcher)


def _fitting(store: Store, run_id: str, plan: SweepPlan, watcher: Watcher) -> tuple[Recordings, list[SweepPoint]]:
    """A run's recordings, and what of a plan is to be simulated with them. Raises InputError where the two do not fit."""
    store.prepare()
    say_model(store, run_id, plan.profile, watcher)
    recordings = Recordings(store, run_id, plan.drafting)
    return recordings, points(plan, recordings, watcher.say)
