"""Field measurements predicted: what goes in, the laws, the fits, the client, and how far off the predictions may be."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.console import print_json
from harness.published.field.acceptance import (
    alpha_of,
    block_sizes,
    flat_over_load,
    iid_length,
    longer_drafts,
    position_sums,
    single_stream,
    tail_length,
)
from harness.published.field.client import Client, serve, step_s
from harness.published.field.model import (
    LINE_FORMS,
    Drafting,
    captured_to,
    fit_line,
    law_of,
    line_profile,
    line_step_ms,
    mixed_in_graphs,
    request_profile,
    trace_of,
    with_host_work,
)
from harness.published.field.page import (
    Experiment,
    FieldAlternative,
    FieldPoint,
    Fieldwork,
    field_markdown,
    field_point,
    report_lines,
    summarised,
)
from harness.published.field.predict import CAVEATS, UNREPRODUCED, field_tables
from harness.published.field.serving import (
    CLIENT,
    Line,
    PrefillSteps,
    capture_experiment,
    crossover,
    eagle3_experiment,
    mi355x_experiment,
    mi355x_line,
    predict_line,
    v4flash,
)
from harness.published.paper.fit import Tables
from results.published import FIELD
from simulator.hardware.catalogue import find_profile
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.simulation import Prepared
from tests.documented import differences

SHARED = Path(os.environ.get("SPECYARD_GOLDEN", Path(__file__).parents[3] / "shared" / "golden")).parent / "field"
DSPARK = Drafting("dspark", 7, 3, 43, block=True)
FEW = Client(requests=128, prompt_tokens=338)


@cache
def recorded(tau: float = 3.0) -> Prepared:
    return trace_of([law_of(tau, 7)], 7)


@cache
def mi355x() -> Experiment:
    return mi355x_experiment(field_tables())


@cache
def acceptance() -> tuple[Experiment, ...]:
    tables = field_tables()
    return (
        position_sums(tables), block_sizes(tables), longer_drafts(tables), flat_over_load(tables), single_stream(tables),
    )  # fmt: skip


@cache
def pareto() -> Tables:
    """The V4-Flash table with few rows, so that tests are quick."""
    kept = [("none", 1), ("none", 16), ("none", 64), ("k=7", 1), ("k=7", 64), ("adaptive", 64)]
    table = field_tables()["vllm_v4flash_b300_pareto"]
    few = pl.concat([table.filter(arm=arm, concurrency=users) for arm, users in kept])
    return {**field_tables(), "vllm_v4flash_b300_pareto": few}


@cache
def few_points(engine: PrefillSteps) -> list[FieldPoint]:
    return v4flash(pareto(), engine, FEW)


def altered(tables: Tables, points: list[FieldPoint], file: str, column: str, by: float) -> Tables:
    """A table with the published values of some points multiplied."""
    hit = {(p.case, int(p.at.removeprefix("c="))) for p in points}
    here = pl.struct("arm", "concurrency").map_elements(
        lambda r: (r["arm"], r["concurrency"]) in hit, return_dtype=pl.Boolean
    )
    changed = tables[file].with_columns(pl.when(here).then(pl.col(column) * by).otherwise(pl.col(column)).alias(column))
    return {**tables, file: changed}


def predictions(points: tuple[FieldPoint, ...] | list[FieldPoint]) -> list[float]:
    return [p.predicted for p in points]


# --- what goes in ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no field tables in {SHARED} (set SPECYARD_GOLDEN)")
def test_the_tables_that_ship_are_those_that_were_collected() -> None:
    shipped = sorted(FIELD.glob("*.csv"))
    collected = [file for file in shipped if (SHARED / file.name).is_file()]
    assert len(collected) == 12
    assert all(file.read_bytes() == (SHARED / file.name).read_bytes() for file in collected)


def test_every_table_is_predicted_or_said_not_to_be() -> None:
    assert len(field_tables()) == 17
    assert all(not table.is_empty() for table in field_tables().values())
    readme = (FIELD / "README.md").read_text(encoding="utf-8")
    assert all(name in readme or f"…_{name.rpartition('_')[2]}" in readme for name in field_tables())
    if SHARED.is_dir():
        elsewhere = {"vllm_v4flash_b300_verify_cost", "vllm_v4flash_b300_draft_cost"}  # the profile
        left_out = {name for file in SHARED.glob("*.csv") if (name := file.stem) not in {*field_tables(), *elsewhere}}
        assert left_out == {"vllm_52228"}
        assert left_out <= {u.table for u in UNREPRODUCED}


def test_nothing_that_is_predicted_goes_into_a_prediction_of_mi355x() -> None:
    def predicted(line: Line) -> list[float]:
        return predictions(
            predict_line(
                line, DSPARK, {"fixed_k7": PolicySpec.fixed(7), "adaptive_k7": PolicySpec("vllm_adaptive")}, "fixed_k7"
            )[0]
        )

    line = mi355x_line(field_tables())._replace(requests=256)  # few, to be quick
    usual, arms = predicted(line), line.arms
    lowest = np.arange(len(line.users)) == 0
    elsewhere = {"fixed_k7": np.where(lowest, 1.0, 1.3) * arms["fixed_k7"], "adaptive_k7": 0.5 * arms["adaptive_k7"]}
    assert predicted(line._replace(arms={**arms, **elsewhere})) == usual
    for given in ({"none": 1.1 * arms["none"]}, {"fixed_k7": np.where(lowest, 1.1, 1.0) * arms["fixed_k7"]}):
        assert predicted(line._replace(arms={**arms, **given})) != usual


@pytest.mark.parametrize("engine", ["eager", "served"])
def test_nothing_that_is_predicted_goes_into_a_prediction_of_v4flash(engine: PrefillSteps) -> None:
    usual, tables = few_points(engine), pareto()
    predicted = [p for p in usual if p.role == "predicted"]
    for column in ("tps_per_user", "throughput_tok_s_total"):
        tables = altered(tables, predicted, "vllm_v4flash_b300_pareto", column, 1.3)
    elsewhere = v4flash(tables, engine, FEW)
    assert predictions(elsewhere) == predictions(usual)
    assert elsewhere != usual
    assert {(p.case, p.at) for p in usual if p.role == "input"} == {
        ("none", "c=1"), ("none", "c=16"), ("k=7", "c=1"), *([("none", "c=64")] if engine == "served" else []),
    }  # fmt: skip


def test_the_accepted_length_that_is_given_comes_out_again() -> None:
    lone = next(p for p in few_points("eager") if (p.case, p.at, p.quantity) == ("k=7", "c=1", "tps"))
    assert lone.role == "input"
    assert lone.error == pytest.approx(0, abs=0.03)
    first = next(p for p in mi355x().points if (p.case, p.at) == ("fixed_k7", "c=4"))
    assert first.role == "input"
    assert first.error == pytest.approx(0, abs=0.03)


# --- step times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("requests", [None, 880])
def test_a_line_gives_back_the_step_time_it_was_made_of(requests: int | None) -> None:
    users = np.array([4.0, 8, 16, 32, 64, 128, 256])
    truth = 10 + 0.07 * users
    waves = (
        truth
        if requests is None
        else requests // users * truth + np.where(requests % users, 10 + 0.07 * (requests % users), 0)
    )
    throughput = 1e3 * (users if requests is None else requests) / waves
    ms = line_step_ms(users, throughput, requests)
    np.testing.assert_allclose(ms, truth, rtol=1e-9)
    fit = fit_line(users, ms)
    np.testing.assert_allclose(1e3 * fit.seconds([4, 100, 2048]), [10.28, 17, 153.36], rtol=1e-3)
    assert fit.continuation < 1e-3


@pytest.mark.parametrize("form", LINE_FORMS)
def test_the_form_that_made_a_line_continues_it_best(form: str) -> None:
    from harness.published.paper.fit import FORMS

    truth = {"affine": (10, 0.07), "power": (8, 0.5, 0.6), "root": (8, 0.03, 0.6)}[form]
    users = np.array([4.0, 8, 16, 32, 64, 128, 256])
    fit = fit_line(users, FORMS[form].at(users, truth))
    np.testing.assert_allclose(1e3 * fit.seconds([2048]), FORMS[form].at(np.array([2048.0]), truth), rtol=0.03)


def test_growth_is_put_on_tokens_or_on_requests() -> None:
    fit = fit_line(np.array([4.0, 8, 16, 32, 64]), 10 + 0.07 * np.array([4.0, 8, 16, 32, 64]), ["affine"])
    tokens, requests = (make(fit, DSPARK, "test") for make in (line_profile, request_profile))
    for users in (4, 64):
        step = 10e-3 + 0.07e-3 * users
        for profile in (tokens, requests):
            cost = profile.cost("none", 0, users, 1000)
            alone = cost.overhead_s + users * cost.overhead_s_per_request + cost.verify_s[users]
            assert alone == pytest.approx(step, rel=0.01)
        drafted = 3 / 43 * (10e-3 + 0.07e-3 * 7 * users)
        assert step_s(tokens, "dspark", 7, users, 7) == pytest.approx(10e-3 + 0.07e-3 * 8 * users + drafted, rel=0.01)
        assert step_s(requests, "dspark", 7, users, 7) == pytest.approx(step * (1 + 3 / 43), rel=0.01)
        assert step_s(requests, "dspark", 7, users, 0) == step_s(requests, "dspark", 7, users, 7)
    eagle = line_profile(fit, Drafting("eagle3", 3, 1, 61, block=False), "test")
    assert step_s(eagle, "eagle3", 3, 8, 3) == pytest.approx(10e-3 + 0.07e-3 * 32 + 3 / 61 * 10.56e-3, rel=0.01)


def test_prefill_inside_graphs_costs_as_much_as_decoding_and_beyond_them_what_it_did() -> None:
    shipped = find_profile("b300/deepseek-v4-flash")
    graphs = mixed_in_graphs(shipped)
    before, now = (p.cost("none", 0, 256, 8192) for p in (shipped, graphs))
    np.testing.assert_allclose(now.eager_s[list(shipped.captured_tokens)], now.verify_s[list(shipped.captured_tokens)])
    np.testing.assert_array_equal(now.verify_s, np.where(np.arange(8193) <= 1024, before.verify_s, now.eager_s))
    np.testing.assert_allclose(now.eager_s[1025:], before.eager_s[1025:])
    half = mixed_in_graphs(captured_to(shipped, 512)).cost("none", 0, 256, 8192)
    assert half.verify_s[512] == before.verify_s[512]
    assert half.verify_s[513] == half.eager_s[513] == pytest.approx(0.1045, abs=1e-4)
    assert before.verify_s[513] < 0.02


def test_host_work_is_straight_between_one_request_and_all() -> None:
    profile = with_host_work(find_profile("b300/deepseek-v4-flash"), 0.001, 0.009, 9)
    assert profile.overhead_s + profile.overhead_s_per_request == pytest.approx(0.001)
    assert profile.overhead_s + 9 * profile.overhead_s_per_request == pytest.approx(0.009)


# --- the client -----------------------------------------------------------------------------------------------------------


def test_a_client_sees_the_closed_form_of_waves() -> None:
    """Without speculation answers run in lockstep: one step for the prompt and one for each token but the first."""
    shipped = replace(find_profile("b300/deepseek-v4-flash"), captured_tokens=(), eager=None)
    client = Client(requests=40, prompt_tokens=1, output_tokens=100)
    out = serve(shipped, recorded(), NO_DRAFTER, 16, client)
    steps = {n: step_s(shipped, "none", 0, n, 0) for n in (16, 8)}
    assert out.throughput == pytest.approx(4000 / (100 * (2 * steps[16] + steps[8])), rel=1e-9)
    assert out.tps == pytest.approx(1 / steps[16], rel=1e-9)
    assert out.mean_tpot_ms == pytest.approx(1e3 * (32 * steps[16] + 8 * steps[8]) / 40, rel=1e-9)


def test_a_lone_user_is_as_fast_as_the_accepted_length_says() -> None:
    shipped = find_profile("b300/deepseek-v4-flash")
    out = serve(shipped, recorded(), PolicySpec.fixed(7), 1, Client(200, 1))
    assert out.tps == pytest.approx(3.0 / step_s(shipped, "dspark", 7, 1, 7), rel=0.02)


@pytest.mark.parametrize(("tau", "gamma"), [(2.4, 3), (2.9, 7), (5.0, 7)])
def test_a_trace_comes_to_the_accepted_length_that_is_asked_for(tau: float, gamma: int) -> None:
    law = law_of(tau, gamma)
    assert 1 + law.survivals(gamma).mean(0).sum() == pytest.approx(tau, abs=1e-6)
    anchors = trace_of([law], gamma).trace.anchors
    assert 1 + anchors.accepted.mean() == pytest.approx(tau, abs=0.02)
    with pytest.raises(ValueError, match="accepted length"):
        law_of(gamma + 1.5, gamma)


# --- laws of acceptance ---------------------------------------------------------------------------------------------------


def test_accepted_lengths_have_their_closed_forms() -> None:
    assert iid_length(0.8, 7) == pytest.approx((1 - 0.8**8) / (1 - 0.8))
    assert iid_length(0.0, 4) == 1
    assert alpha_of(iid_length(0.63, 3), 3) == pytest.approx(0.63)
    assert tail_length(1.7, 1.7 + 0.49, 6) == pytest.approx(iid_length(0.7, 6))  # alike from the first position on
    assert tail_length(1.8, 2.2, 3) == pytest.approx(1 + 0.8 * (1 + 0.5 + 0.25))


def test_positions_sum_to_the_accepted_length_that_is_reported() -> None:
    found = position_sums(field_tables()).points
    assert len(found) == 9
    for p in found:
        rounding = 0.005 if p.case.startswith("GLM") else 0.005 + 7 * 0.004
        assert abs(p.predicted - p.published) < rounding


def test_a_fixed_policy_accepts_as_much_at_any_load() -> None:
    found = [p for p in flat_over_load(field_tables()).points if p.role == "predicted"]
    assert len(found) == 23
    assert max(abs(p.error) for p in found) < 0.015


def test_one_number_says_too_much_of_long_drafts_and_two_say_more() -> None:
    one, two = ([s for s in block_sizes(field_tables()).summaries if s.case.endswith(end)] for end in ("· k=1", "· k=1,2"))
    assert len(one) == len(two) == 17
    assert all(s.bias > 0 for s in one)
    assert all(b.mae < a.mae for a, b in zip(one, two, strict=True))
    given = [p for p in block_sizes(field_tables()).points if p.role == "input"]
    assert all(abs(p.error) < 1e-9 for p in given)


def test_speed_of_a_stream_follows_its_accepted_length() -> None:
    errors = [abs(p.error) for p in single_stream(field_tables()).points if p.role == "predicted"]
    assert len(errors) == 16
    assert max(errors) < 0.1


# --- decisions and errors -------------------------------------------------------------------------------------------------


def test_a_crossover_lies_where_logarithms_say() -> None:
    assert crossover([16, 64], [2, 0.5]) == pytest.approx(32)
    assert crossover([8, 16, 64], [0.9, 2, 0.5]) == pytest.approx(32)  # for good: an early dip does not count
    assert crossover([8, 16], [2, 1]) is None
    assert crossover([8, 16], [0.9, 0.8]) == 8


def test_errors_are_summed_up_over_what_was_predicted() -> None:
    points = [
        field_point("a", "c=1", "throughput", "input", 100, 900),
        field_point("a", "c=2", "throughput", "predicted", 100, 110),
        field_point("a", "c=4", "throughput", "predicted", 100, 70),
    ]
    (s,) = summarised(points)
    assert s.points == 2
    assert [s.mae, s.bias, s.worst] == pytest.approx([0.2, -0.1, -0.3])


def test_mi355x_comes_out_as_well_as_is_claimed() -> None:
    mae = {s.case: s.mae for s in mi355x().summaries}
    assert mae["fixed_k7"] < 0.25
    assert mae["adaptive_k7"] < 0.15
    crossing, at_first, over_fixed, over_none = mi355x().decisions
    assert at_first.published == pytest.approx(902.37 / 970.33)
    assert crossing.published == pytest.approx(212, abs=1)  # between 128 and 256 in the table
    assert over_fixed.published == pytest.approx(13324.67 / 7852.42)
    assert over_none.published == pytest.approx(13324.67 / 8878.57)
    for decision in (over_fixed, over_none):
        assert decision.predicted is not None
        assert decision.predicted > 1


def test_host_work_by_requests_explains_v4flash_at_load() -> None:
    """Steps that hold prefill alone do not: without host work, no speculation comes out far too fast."""
    engines: tuple[PrefillSteps, PrefillSteps] = ("eager", "served")
    alone, served = (
        {(p.case, p.at): p.error for p in v4flash(pareto(), engine, least_users=16) if p.quantity == "throughput"}
        for engine in engines
    )
    assert alone["none", "c=64"] > 0.5
    assert abs(served["k=7", "c=64"]) < 0.2
    assert abs(served["adaptive", "c=64"]) < 0.1


def test_prefill_alone_explains_no_speculation_or_speculation_but_not_both() -> None:
    staggered = v4flash(pareto(), "eager", replace(CLIENT, staggered=True), least_users=16)
    error = {(p.case, p.at): p.error for p in staggered if p.quantity == "throughput"}
    assert abs(error["none", "c=64"]) < 0.2
    assert error["k=7", "c=64"] < -0.2
    assert error["adaptive", "c=64"] < -0.2
    alternative = FieldAlternative("one after the other", "throughput", {s.case: s.mae for s in summarised(staggered)})
    assert "one after the other: tokens/s off by none" in field_markdown(
        Fieldwork((replace(mi355x(), alternatives=(alternative,)),), (), ())
    )


def test_eagle3_keeps_gaining_at_every_load_of_the_table() -> None:
    found = eagle3_experiment(field_tables(), "MiniMax-M2.5")
    assert found.summaries[0].mae < 0.1
    assert [(d.published, d.predicted) for d in found.decisions] == [(None, None)]


def test_small_graphs_are_a_cliff() -> None:
    for decision in capture_experiment(field_tables(), "graphs").decisions[:2]:
        assert decision.predicted is not None
        assert decision.published is not None
        assert min(decision.predicted, decision.published) > 1.2


# --- what is said ---------------------------------------------------------------------------------------------------------


def test_every_point_is_finite_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    result = Fieldwork((mi355x(), *acceptance()), UNREPRODUCED, CAVEATS)
    points = [p for e in result.experiments for p in e.points]
    assert len(points) > 300
    assert all(math.isfinite(x) for p in points for x in (p.published, p.predicted, p.error))
    page, text = field_markdown(result), "\n".join(report_lines(result))
    for e in result.experiments:
        assert e.name in page
        assert e.name in text
        assert e.inputs
        assert all(decision.what in page for decision in e.decisions)
    assert page.count(" → ") == len(points) + len(result.experiments)  # and the tables' heads
    assert all(u.reason in page and u.reason in text for u in UNREPRODUCED)
    assert all(caveat in page and caveat in text for caveat in CAVEATS)
    print_json("reproduction", {"field": result})
    told = capsys.readouterr().out
    assert differences(told) == []
    raw = json.loads(told)["field"]
    assert sum(len(e["points"]) for e in raw["experiments"]) == len(points)


def test_the_command_names_what_there_is() -> None:
    outcome = CliRunner().invoke(app, ["reproduce", "nonsense"])
    assert outcome.exit_code == 2
    assert "paper" in outcome.output
    assert "field" in outcome.output
