"""The tables of sweeps, studies and validations, against values worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import polars as pl
import pytest

from results.figures import sensitivity, step_time, validation
from results.figures import study as study_figure
from results.figures import sweep as sweep_figure
from results.figures.sweep import Sweep, baseline, capacities, find_sweep, leaders, main_kind, paper_curves, systems
from results.figures.view import View
from results.report.headline import from_sweep
from results.store.database import Store
from results.store.queries import latest_of
from results.store.sensitivities import Deviation, keep_sensitivity, read_sensitivity
from results.store.simulations import Simulation
from results.store.studies import StudySensitivity, read_study
from results.store.validations import read_validation
from simulator.configuration import System
from simulator.load import Arrivals, Load, Users
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.records import NO_RECORDING, Recording
from simulator.sla import Sla
from tests.results.database import (
    LOADS,
    PROFILE,
    RUN,
    add_run,
    add_study,
    add_sweep,
    add_tolerances,
    add_validation,
    empty,
    insert,
    point,
)
from tests.results.test_store import INFO

TPS50 = Sla.parse("mean_tps>=50")


def swept(points: list[dict[str, object]], kinds: Mapping[str, str] | None = None) -> tuple[Sweep, list[Simulation]]:
    con = empty()
    add_run(con, kinds=kinds)
    add_sweep(con, points)
    return sweep_figure.sweep(con, "5eed"), sweep_figure.simulated(con, "5eed")


def test_within_a_bound_is_what_was_simulated_at_a_load_that_keeps_it() -> None:
    """Where between two loads it breaks nobody knows: that load's throughput and noise, and what breaks it beside."""
    _, points = swept([point(0, "dspark", "fixed:7", 10, 1000), point(1, "dspark", "fixed:7", 80, 2000)])
    [capacity] = capacities(points, [TPS50])
    assert capacity.system == System(Recording("dspark", 7), PolicySpec.fixed(7))
    assert (capacity.how, capacity.throughput, capacity.half_width) == ("kept", 1000, 10)
    assert capacity.near.load.size == 10
    assert (capacity.may_be, capacity.between) == (2000, "10 users and 80 users")
    [at_most] = capacities(points, [Sla.parse("mean_tps>=20")])
    assert (at_most.how, at_most.throughput, at_most.may_be, at_most.between) == ("highest", 2000, None, "")
    assert capacities(points, [Sla.parse("mean_tps>=101")]) == []
    # Of several bounds all count at one load, and one that is never kept rules all out.
    both = capacities(points, [Sla.parse("mean_tps>=20"), TPS50])
    assert both[0].throughput == 1000
    assert capacities(points, [TPS50, Sla.parse("mean_ttft<=1ms")]) == []


def test_loads_that_are_close_by_leave_nothing_open() -> None:
    """5 % more at the load that breaks it: that is the bracket."""
    _, points = swept([point(0, "dspark", "fixed:7", 19, 1000), point(1, "dspark", "fixed:7", 22, 1050)])
    [capacity] = capacities(points, [TPS50])
    assert capacity.broken is not None
    assert (capacity.broken.load.size, capacity.may_be, capacity.between) == (22, None, "")


def test_the_most_within_a_bound_may_be_at_a_lower_load() -> None:
    """At 16 users, less than at 8 and still kept: what is told is the most, not the highest load."""
    _, points = swept([point(i, "dspark", "fixed:7", n, t) for i, (n, t) in enumerate({8: 1000, 16: 900, 80: 2000}.items())])
    [capacity] = capacities(points, [TPS50])
    assert (capacity.throughput, capacity.near.load.size, capacity.how) == (1000, 8, "kept")
    assert capacity.broken is not None
    assert capacity.broken.load.size == 80


def test_where_a_share_breaks_between_loads_does_not_rank_drafters() -> None:
    """Shares of 1 and 0 say nothing of where between the loads it breaks: the one simulated to deliver more leads."""
    whole, none = ({"attained": {"tps>=50": share}} for share in (1.0, 0.0))
    _, points = swept([
        point(0, "dspark", "fixed:7", 32, 9000, **whole), point(1, "dspark", "fixed:7", 256, 90_000, **none),
        point(2, "mtp", "fixed:1", 32, 9800, **whole), point(3, "mtp", "fixed:1", 256, 12_000, **none),
    ])  # fmt: skip
    found = capacities(points, [Sla.parse("tps>=50")])
    assert [(c.system.recording.drafter, c.throughput) for c in found] == [("mtp", 9800), ("dspark", 9000)]
    assert [c.may_be for c in found] == [12_000, 90_000]


def test_without_bounds_all_are_read_at_the_highest_load_that_all_have() -> None:
    _, points = swept([
        point(0, "none", "none", 8, 400), point(1, "none", "none", 64, 900), point(2, "mtp", "fixed:1", 8, 700),
        point(3, "mtp", "fixed:1", 64, None), point(4, "dspark", "oracle", 8, 9000),
    ])  # fmt: skip
    found = capacities(points, [])
    told = [(c.system.recording.drafter, c.throughput, c.how) for c in found]
    assert told == [
        ("mtp", 700, "reference"),
        ("none", 400, "reference"),
    ]
    gain, half = sweep_figure.gain(found[0], found[1])
    assert gain == pytest.approx(0.75)
    assert half == pytest.approx(1.75 * math.hypot(0.01, 0.01))


OVERLOAD: dict[str, object] = {"keeps_up": False, "stationary": False}


def test_where_the_queue_grows_nothing_is_delivered() -> None:
    """Those who are served have their speed, 99 % of them; of what happens between two loads nobody knows more."""
    shares: dict[str, object] = {"attained": {"tps>=50": 0.99}}
    _, points = swept([
        point(0, "dspark", "fixed:7", 10, 1000, **shares), point(1, "dspark", "fixed:7", 80, 2000, **shares, **OVERLOAD),
        point(2, "none", "none", 10, 900, **shares, **OVERLOAD), point(3, "none", "none", 80, 900, **shares, **OVERLOAD),
    ])  # fmt: skip
    [capacity] = capacities(points, [Sla.parse("tps>=50")])
    assert (capacity.throughput, capacity.near.load.size, capacity.how) == (1000, 10, "kept")
    [plain] = capacities(points, [])
    assert (plain.throughput, plain.near.load.size) == (1000, 10)
    assert [point.kept for point in points].count(True) <= 1
    _, points = swept([point(i, "dspark", "fixed:7", n, 1000, **shares, **OVERLOAD) for i, n in enumerate((10, 80))])
    assert capacities(points, [Sla.parse("tps>=50")]) == capacities(points, []) == []


def test_of_seeds_one_that_overflows_decides() -> None:
    for others in ({"keeps_up": True}, {"keeps_up": None}):
        _, points = swept([
            point(0, "mtp", "fixed:1", 8, 700, **OVERLOAD), point(1, "mtp", "fixed:1", 8, 700, seed=1, **others),
        ])  # fmt: skip
        [one] = points
        assert one.keeps_up is False


def test_seeds_are_averaged_and_their_noise_shrinks() -> None:
    _, points = swept([point(i, "mtp", "fixed:1", 8, t, seed=i) for i, t in enumerate((700, 900))])
    [one] = points
    assert (one.seeds, one.throughput) == (2, 800)
    assert one.throughput_half_width == pytest.approx(math.hypot(7, 9) / 2)


def test_baselines_leaders_and_what_is_the_same() -> None:
    con = empty()
    add_run(con)
    add_sweep(con)
    points = sweep_figure.simulated(con, "5eed")
    found = capacities(points, [TPS50])
    assert baseline(found, "none").system.policy == NO_DRAFTER  # type: ignore[union-attr]
    assert baseline(found, "mtp").system == System(Recording("mtp", 1), PolicySpec.fixed(1))  # type: ignore[union-attr]
    _, called = swept([point(0, "mtp", "fixed:1", 8, 700)], {"mtp": "eagle3"})
    assert baseline(capacities(called, []), "mtp") is None
    assert [(s.recording.drafter, str(s.policy)) for s in leaders(points, [TPS50])] == [
        ("dspark", "prefix_scheduler"), ("mtp", "fixed:1"), ("none", "none"),
    ]  # fmt: skip
    # No engine can be an oracle; fixed:7 of an MTP that drafts one token is fixed:1.
    assert all(c.system.policy.name != "oracle" for c in found)
    insert(con, "simulations", [point(99, "mtp", "fixed:7", 8, 500)])
    assert System(Recording("mtp", 1), PolicySpec.fixed(7)) not in systems(sweep_figure.simulated(con, "5eed"))


def test_parts_of_a_step_sum_to_it() -> None:
    sweep, points = swept([point(0, "dspark", "fixed:7", 8, 900)])
    parts = step_time.parts(points, [System(Recording("dspark", 7), PolicySpec.fixed(7))])
    assert parts["part"].to_list() == ["overhead", "draft", "attention", "target"]
    assert parts["ms"].to_list() == pytest.approx([1, 2, 0.5, 4])
    assert parts["share"].sum() == pytest.approx(1)
    assert sweep.profile == PROFILE
    assert sweep.plan.slas == [TPS50]


def test_the_latest_sweep_of_a_run_that_came_to_something() -> None:
    con = empty()
    add_run(con)
    assert find_sweep(con, [RUN]) is None
    add_sweep(con, [point(0, "none", "none", 8, None)])
    assert find_sweep(con, [RUN]) is None
    insert(con, "simulations", [point(1, "none", "none", 64, 900)])
    assert find_sweep(con, [RUN]) == "5eed"
    assert find_sweep(con, ["other"]) is None
    with pytest.raises(LookupError, match="no sweep 'gone'"):
        sweep_figure.sweep(con, "gone")


def test_the_papers_curves_are_at_hand() -> None:
    frontier = paper_curves("fig7_frontier")
    assert set(frontier["kind"]) == {"dspark", "mtp"}
    assert set(frontier["model"]) == {"V4-Flash", "V4-Pro"}
    budget = paper_curves("fig8_budget").filter(kind="mtp")
    assert budget["y"].to_list() == pytest.approx([2.0] * budget.height, abs=0.01)


def test_trials_know_the_best_so_far_and_the_front() -> None:
    con = empty()
    add_run(con)
    add_sweep(con, [])
    add_study(con)
    study = read_study(con, "57ad")
    assert (study.plan.loads, study.plan.slas, study_figure.made_large(study)) == ([Users(64)], [TPS50], "throughput")
    trials = study_figure.frame(study_figure.tried(study))
    # 5,000 breaks the bound, 4,000 was cut short, the last failed.
    assert trials["best"].to_list() == [2000, 3500, 3500, 5200, 5200, 5200]
    assert trials["front"].to_list() == [False, False, False, True, True, False]
    confirmed = study.confirmations
    assert [one.role for one in confirmed] == ["winner", "next best", "default", "default"]
    assert (confirmed[0].of("throughput"), confirmed[0].of("tps")) == ((5200, 50), (75, None))
    assert study_figure.baseline(confirmed, "mtp").gain == 0.5  # type: ignore[union-attr]
    assert study_figure.baseline(confirmed, "none").gain == 1.6  # type: ignore[union-attr]
    assert [one.best and one.best.system.short for one in study.sensitivities] == [None, None, *["mtp γ=1 fixed:1"] * 4]
    assert [(one.what, one.loss, one.value, one.state) for one in study_figure.choices(study, Users(64))] == [
        ("request cap", None, None, "complete"), ("drafter", 0.33, "mtp", "cut"),
    ]  # fmt: skip
    # Where the winner breaks a bound, what it loses is no percentage.
    assert study_figure.HowFar.of(study.sensitivities) == (3, 1, 1, 0.02)
    unknown = StudySensitivity(load=Users(64), kind="load", what="77 users")
    broken = StudySensitivity(load=Users(64), kind="mix", what="+20% code", keeps=False, loss=-0.5, moved=True)
    assert study_figure.HowFar.of([unknown, broken]) == (1, 1, 0, 0.0)


def test_the_latest_study_is_the_one_that_finished_last() -> None:
    """As an older one that was resumed does."""
    con = empty()
    add_run(con)
    add_sweep(con, [])
    assert study_figure.find_study(con, [RUN]) is None
    add_study(con)
    assert study_figure.find_study(con, [RUN]) == "57ad"
    for table in ("studies", "trials"):
        con.execute(f"INSERT INTO {table} SELECT * REPLACE ('a9e' AS study_id) FROM {table}").fetchall()
    con.execute("UPDATE studies SET created_at = '2026-01-01', finished_at = '2026-02-02' WHERE study_id = 'a9e'").fetchall()
    assert study_figure.find_study(con, [RUN]) == "a9e"
    con.execute("UPDATE studies SET finished_at = NULL, created_at = '2026-03-03' WHERE study_id = 'a9e'").fetchall()
    assert study_figure.find_study(con, [RUN]) == "57ad"  # one that was stopped says less


def test_a_database_without_studies_or_validations_has_none() -> None:
    con = empty()
    add_run(con)
    for table in ("tolerances", "validations", "sensitivities", "confirmations", "trials", "studies"):
        con.execute(f"DROP TABLE IF EXISTS {table}").fetchall()
    assert study_figure.find_study(con, [RUN]) is None
    assert latest_of(con, "validations", "validation_id", [RUN]) is None
    assert latest_of(con, "tolerances", "tolerance_id", [RUN]) is None
    with pytest.raises(LookupError, match="no study 'gone'"):
        read_study(con, "gone")


def test_validated_points_know_their_error_and_interval() -> None:
    con = empty()
    add_run(con)
    add_sweep(con, [])
    add_validation(con)
    assert latest_of(con, "validations", "validation_id", [RUN]) == "a1"
    found = read_validation(con, "a1")
    assert (len(found.points), found.seconds, found.live_prompts, found.trace_prompts) == (2, 180.0, 2, 3)
    assert (found.profile.name, found.believed) == ("h100/toy", "h100/toy")
    points = validation.validated(con, "a1")
    assert points["quantity"].to_list() == ["throughput", "tau", "step"] * 2
    assert points["error"].to_list() == pytest.approx([0.1, 0.05, -0.02] * 2)
    assert points["inside"].to_list() == [False, True, None, True, True, None]
    first = points.row(0, named=True)
    assert (first["error_low"], first["error_high"], first["same_error"]) == pytest.approx((0.05, 0.2, 0.02))
    with pytest.raises(LookupError, match="no validation 'gone'"):
        read_validation(con, "gone")


def test_errors_of_a_validation_are_means_over_its_points() -> None:
    columns = {"quantity": "throughput", "inside": True, "same_error": 0.01}
    rows = [columns | {"error": 0.1, "inside": False}, columns | {"error": -0.04}]
    rows.append({"quantity": "step", "error": -0.02, "inside": None, "same_error": None})
    [throughput, step] = validation.errors(pl.DataFrame(rows)).to_dicts()
    assert throughput == pytest.approx(
        {"quantity": "throughput", "points": 2, "mean_absolute": 0.07, "mean": 0.03, "worst": 0.1, "same_prompts": 0.01}
        | {"known": 2, "inside": 1}
    )
    assert (step["quantity"], step["worst"], step["known"], step["same_prompts"]) == ("step", 0.02, 0, None)


def test_tolerances_know_what_is_closest_and_who_wins_beyond() -> None:
    con = empty()
    add_run(con)
    add_sweep(con, [])
    add_tolerances(con)
    assert latest_of(con, "tolerances", "tolerance_id", [RUN]) == "70"
    found = read_sensitivity(con, "70")
    assert (found.objective, found.clear, found.profile.name) == ("throughput", 0.01, "h100/toy")
    frame = sensitivity.frame(found)
    assert frame.height == 3 * 7
    assert frame["users"].unique().to_list() == [4, 64]
    mtp = System(Recording("mtp", 1), PolicySpec.fixed(1))
    verify, acceptance = found.at(Users(64))
    assert (verify.what, verify.down, verify.up, verify.reach) == ("seconds of verification", None, 0.12, 0.3)
    assert (verify.beyond(-1), verify.beyond(1)) == (None, mtp)
    assert (verify.loss(-0.3), verify.loss(0.3), verify.loss(0.5)) == (0, pytest.approx(0.03), None)
    assert (acceptance.down, acceptance.up, acceptance.beyond(1)) == (None, None, None)
    [length] = found.at(Users(4))
    assert (length.beyond(-1), length.beyond(1)) == (mtp, None)
    with pytest.raises(LookupError, match="no sensitivity 'gone'"):
        read_sensitivity(con, "gone")


def test_a_sensitivity_goes_in_and_comes_out(tmp_path: Path) -> None:
    """No speculation among who wins, and a load that is written otherwise than from the first."""
    con = empty()
    add_tolerances(con)
    add_sweep(con, [])
    one = read_sensitivity(con, "70").break_evens[0]
    none = System(NO_RECORDING, NO_DRAFTER)
    others = [
        replace(one, winner=none, instead=None, load=Users(4, 2.5)),
        replace(one, load=Arrivals(2.5), deviations=(Deviation(0.1, none, 0.5),)),
    ]
    store = Store(tmp_path / "specyard.duckdb")
    made = replace(read_sensitivity(con, "70"), run_id=store.create_run(INFO), break_evens=(one, *others))
    keep_sensitivity(store, made)
    with store.reading() as connection:
        assert read_sensitivity(connection, "70") == made


@pytest.mark.parametrize(
    ("load", "closest"),
    [("users:64/0", 64), ("users:1", 4), ("users:20/0", 64), ("rate:3/1", 64)],
)
def test_a_load_is_told_by_the_closest_that_was_looked_at(load: str, closest: int) -> None:
    con = empty()
    add_tolerances(con)
    add_sweep(con, [])
    assert sensitivity.closest_load(read_sensitivity(con, "70"), Load.parse(load)) == Users(closest)


def test_loads_of_one_kind_are_compared() -> None:
    rows = [point(i, "none", "none", n, 100.0 * n) for i, n in enumerate(LOADS)]
    rows.append(point(9, "none", "none", 1, 90.0) | {"users": None, "rate_per_s": 3.0, "load": '"rate:3/1"'})
    _, points = swept(rows)
    assert main_kind(points) == "users"
    assert capacities(points, [])[0].near.load.size == 256


def test_a_point_at_which_nothing_was_said_is_no_result() -> None:
    """A second of two requests: nobody was answered in it, and nothing is a gain over nothing."""
    _, points = swept([{**point(0, "mtp", "fixed:1", 1, 9), "throughput": 0}, point(1, "eagle3", "fixed:1", 1, 9)])
    assert [s.recording.drafter for s in systems(points)] == ["eagle3"]
    assert [s.recording.drafter for s in sweep_figure.by_system(points)] == ["eagle3"]


def test_too_few_requests_tell_of_no_promise() -> None:
    """32 answers keep a promise to 95 % of them by chance; a load that seems to break it, on as few, breaks nothing yet."""
    few, some = ({"attained": {"tps>=50": share}, "finished": n} for share, n in ((1.0, 32), (0.9, 32)))
    many = {"attained": {"tps>=50": 1.0}, "finished": 400}
    _, points = swept([
        point(0, "dspark", "fixed:7", 10, 1000, **few), point(1, "dspark", "fixed:7", 80, 2000, **some),
        point(2, "mtp", "fixed:1", 10, 900, **many), point(3, "mtp", "fixed:1", 80, 1800, **some),
    ])  # fmt: skip
    share = [Sla.parse("tps>=50")]
    [capacity] = capacities(points, share)
    assert (capacity.system.recording.drafter, capacity.near.load.size, capacity.broken) == ("mtp", 10, None)
    assert [system.recording.drafter for system in sweep_figure.untold(points, share)] == ["dspark"]


def test_a_report_of_too_few_requests_says_how_many_it_takes() -> None:
    few = {"attained": {"tps>=50": 1.0}, "finished": 32}
    sweep, points = swept([point(0, "dspark", "fixed:7", 10, 1000, **few), point(1, "none", "none", 10, 500, **few)])
    plan = msgspec.structs.replace(sweep.plan, slas=[Sla.parse("tps>=50")])
    headline = from_sweep(View(replace(sweep, plan=plan), points, []))
    assert headline is not None
    assert "takes 100 to tell" in headline.headline
