"""A study: from a run's recordings, a profile and loads to the configuration to run, stored from the first trial on.

What the store decides is refused here, before anything is imported that simulates or searches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from harness.console import Watcher
from results.store.database import Store
from results.store.lease import leased
from results.store.provenance import command_line, git_revision, package_versions
from results.store.recordings import choose_drafting
from results.store.rows import plan_to_go_on_with, read_plan
from results.store.studies import Studies
from results.store.subjects import STUDY
from results.store.unfinished import begun, keeping
from simulator.load import RecordedArrivals
from simulator.plan import StudyPlan
from simulator.records import Drafting
from tuner.plan import space_of, study_inputs

if TYPE_CHECKING:  # ray takes seconds
    from harness.cluster import Cluster


def start_study(
    store: Store, run_id: str, plan: StudyPlan, watcher: Watcher,
    *, drafting: Drafting | None = None, cluster: Cluster | None, time_limit_s: float | None,
) -> str:  # fmt: skip
    """Search, confirm and store what is planned; returns the study's id. Raises InputError.

    Without `drafting`, drafts are chosen as the engine does that is to run what is found.
    """
    store.prepare()
    drafting = choose_drafting(store, run_id, drafting, watcher.say, engine=plan.served_by.drafting)
    plan = msgspec.structs.replace(plan, drafting=drafting)
    found = study_inputs(store, run_id, plan, watcher)
    for load in plan.loads:  # refuse before anything is stored
        space_of(plan, found, load)
    from tuner.course import carry_out, check_served

    check_served(plan, found)
    study_id = Studies(store).create(run_id, command_line("tuner"), plan, git_revision(), package_versions())
    with begun(store, STUDY, study_id, watcher.began):
        carry_out(store, study_id, plan, found, watcher, cluster=cluster, time_limit_s=time_limit_s)
    return study_id


def resume_study(
    store: Store, name: str, trials: int | None, watcher: Watcher, *, cluster: Cluster | None, time_limit_s: float | None
) -> str:
    """Go on with a study where it stopped, or beyond, to so many trials; returns its id."""
    studies = Studies(store)
    row = studies.find(name)
    plan = read_plan(row["plan"], StudyPlan)
    if row["finished_at"] is not None and (trials is None or trials <= plan.trials):
        watcher.say(f"study {row['study_id']} is finished; --trials of more than {plan.trials} goes on with it")
        return str(row["study_id"])
    plan = plan_to_go_on_with(row["plan"], StudyPlan)
    if trials is not None:
        plan = msgspec.structs.replace(plan, trials=trials)
    for load, _ in (part for asked in plan.loads for part in asked.parts):
        if isinstance(load, RecordedArrivals):  # a file that is gone or has changed is told before anything is
            _ = load.requests
    study_id = str(row["study_id"])
    with leased(store, STUDY, study_id):
        found = study_inputs(store, row["run_id"], plan, watcher)
        from tuner.course import carry_out

        studies.reopen(study_id, plan)
        with keeping(store, STUDY, study_id, watcher.began):
            carry_out(store, study_id, plan, found, watcher, cluster=cluster, time_limit_s=time_limit_s)
    return study_id
