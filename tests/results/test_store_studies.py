"""Studies as the store keeps them: values in, the same values out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from results.report.notes import of_study
from results.store.database import Store
from results.store.studies import Studies, StudyConfirmation, StudySensitivity, read_study
from simulator.configuration import Configuration
from simulator.decision import Decision
from simulator.load import Arrivals, Load, Users
from simulator.plan import StudyPlan
from simulator.policies import PolicySpec
from simulator.records import Recording
from tests.results.database import PROFILE, add_run, add_study, add_sweep, empty
from tests.results.test_store import INFO

RUN = Configuration(Recording("dspark", 2, "calibrated", "greedy"), PolicySpec("prefix_scheduler"), 64)
PLAN = StudyPlan(profile=PROFILE, loads=[Users(64), Arrivals(2)], objective="throughput", drafting="greedy")


def confirmed(load: Load, place: int, configuration: Configuration = RUN) -> StudyConfirmation:
    return StudyConfirmation(
        load=load, place=place, role="default" if place else "winner", error=None, configuration=configuration, exact=True,
        prompts=9, draws=5, figures={"tps": 50.0, "tau": None}, half_widths={"tps": 1.5}, gain=0.25 if place else None,
        gain_half_width=None, violations={"tps>=50": -0.01}, feasible=True,
    )  # fmt: skip


def test_what_was_found_goes_in_and_comes_out(tmp_path: Path) -> None:
    store = Store(tmp_path / "specyard.duckdb")
    study_id = Studies(store).create(store.create_run(INFO), "tuner search", PLAN, None, {"torch": "2"})
    confirmations = [confirmed(load, place) for load in PLAN.loads for place in (0, 1)]
    confirmations[1] = confirmed(Users(64), 1, Configuration.plain(64))
    sensitivities = [
        StudySensitivity(load=Users(64), kind="choice", what="γ", best=RUN, value=2, state="cut", loss=0.1, keeps=True),
        StudySensitivity(load=Users(64), kind="choice", what="drafter", keeps=False),
        StudySensitivity(
            load=Arrivals(2), kind="elsewhere", what="", elsewhere=Users(64), best=RUN, moved=False, loss=0, keeps=True
        ),
        StudySensitivity(load=Arrivals(2), kind="mix", what="+20% code"),
    ]
    concluded(store, study_id, confirmations, sensitivities)
    Studies(store).finish(study_id, [one for one in sensitivities if one.kind == "elsewhere"])
    with store.reading() as connection:
        found = read_study(connection, study_id)
        with pytest.raises(LookupError, match="no study 'gone'"):
            read_study(connection, "gone")
    assert (found.plan, found.profile, found.packages, found.trials) == (PLAN, PROFILE, {"torch": "2"}, ())
    assert found.confirmations == tuple(confirmations)
    assert {*found.sensitivities} == {*sensitivities}
    assert found.finished_at is not None


def concluded(
    store: Store, study_id: str, confirmations: Sequence[StudyConfirmation], sensitivities: Sequence[StudySensitivity] = (),
    tried: int | None = 0,
) -> None:  # fmt: skip
    """What was found is kept load by load, with a decision for no speculation."""
    for load in dict.fromkeys(one.load for one in confirmations):
        decision = Decision(
            engine=None, profile="toy", source="user", load=load, promise=(), traffic="toys", figure="throughput",
            tried=tried,
        )  # fmt: skip
        here = [one for one in sensitivities if one.load == load and one.kind != "elsewhere"]
        Studies(store).conclude(study_id, decision, [one for one in confirmations if one.load == load], here)


def test_a_load_is_concluded_as_long_as_nothing_more_was_tried(tmp_path: Path) -> None:
    store = Store(tmp_path / "specyard.duckdb")
    studies = Studies(store)
    study_id = studies.create(store.create_run(INFO), "tuner search", PLAN, None, {})
    first, second = PLAN.loads
    concluded(store, study_id, [confirmed(first, place) for place in (0, 1)])
    assert {load: row for load, (_, row) in studies.concluded(study_id).items()} == {first: confirmed(first, 0)}
    concluded(store, study_id, [confirmed(second, 0)], tried=3)
    assert [*studies.concluded(study_id)] == [first]
    again = confirmed(first, 0, Configuration.plain(64))
    concluded(store, study_id, [again])
    with store.reading() as connection:
        assert read_study(connection, study_id).confirmations == (again, confirmed(second, 0))
        assert read_study(connection, study_id).finished_at is None


def test_what_an_older_plan_does_not_say_is_not_told() -> None:
    con = empty()
    add_run(con)
    add_sweep(con, [])
    add_study(con)
    facts = dict(of_study(read_study(con, "57ad")))
    assert facts["plan"] == ["loads 64 users, slas mean_tps>=50, objective throughput"]
