"""Figures 7 and 8 of the DSpark paper, predicted from what lies below 50 requests: the fit, the prediction, what is said."""

from __future__ import annotations

import dataclasses
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from plotly.offline import get_plotlyjs

from harness.console import print_json
from harness.published.paper.fit import (
    SPLIT,
    TARGET_LAYERS,
    Choice,
    Confidence,
    Fit,
    Floats,
    StepTime,
    Tables,
    fit_model,
    line,
    mean_field,
    paper_tables,
    settled,
)
from harness.published.paper.page import ModelResult, PaperSummary, Reproduction, plot_info, verdict, write_reproduction
from harness.published.paper.predict import (
    AIMS,
    CAVEATS,
    PROFILES,
    fitted_profile,
    form_checks,
    independent_rounds,
    other_ways,
    predict,
    report_lines,
    reproduce,
    write_profiles,
)
from simulator.hardware.catalogue import DATA, bundled_profiles, find_profile
from simulator.hardware.profile import Profile
from tests.documented import differences

MODELS = list(TARGET_LAYERS)


@cache
def choice() -> Choice:
    return settled(Choice(), paper_tables())


@cache
def fit(model: str) -> Fit:
    return fit_model(model, paper_tables(), choice())


@cache
def result() -> Reproduction:
    return reproduce()


def of(model: str) -> ModelResult:
    return next(m for m in result().models if m.model == model)


def errors(model: str) -> dict[str, PaperSummary]:
    return {s.dataset: s for s in of(model).summaries}


# --- what is published ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_the_published_figures_agree_with_each_other_and_with_the_text(model: str) -> None:
    tps, frontier = line(paper_tables(), "fig7_frontier", model, "DSpark")
    requests, throughput = line(paper_tables(), "fig8_throughput", model, "DSpark")
    inside = (frontier / tps > SPLIT) & (frontier / tps < requests[-1])
    np.testing.assert_allclose(np.interp(frontier / tps, requests, throughput)[inside], frontier[inside], rtol=0.03)
    gains = {a.level: a.gain for a in of(model).labelled_points if a.held == "tps_per_user"}
    said = {80: 0.51, 120: 6.61} if model == "V4-Flash" else {35: 0.52, 50: 4.06}
    assert gains == pytest.approx(said, abs=0.01)


# --- the fit --------------------------------------------------------------------------------------------------------------


def altered(tables: Tables, method: str, by: float, *, above: float = SPLIT) -> Tables:
    """All that is published of a method above so many requests, times a factor."""
    changed = dict(tables)
    for name, frame in tables.items():
        if "model" in frame.columns:
            if "tps_per_user" in frame.columns:
                load = pl.col("throughput_per_gpu") / pl.col("tps_per_user")
            elif "concurrent_requests" in frame.columns:
                load = pl.col("concurrent_requests")
            else:
                load = (pl.col("concurrent_requests_lo") + pl.col("concurrent_requests_hi")) / 2
            values = [c for c in frame.columns if re.match(r"throughput|verification|value", c)]
            here = (pl.col("method") == method) & (load > above)
            changed[name] = frame.with_columns(
                pl.when(here).then(pl.col(c) * by).otherwise(pl.col(c)).alias(c) for c in values
            )
    return changed


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_nothing_of_dspark_above_fifty_requests_is_fitted(model: str) -> None:
    elsewhere = altered(paper_tables(), "DSpark", 1.7)
    budgets = [line(tables, "fig8_budget", model, "DSpark")[1] for tables in (paper_tables(), elsewhere)]
    assert (budgets[0] != budgets[1]).sum() > 30
    assert fit_model(model, elsewhere, Choice()) == fit(model)
    # Where it is fitted, and where the step time comes from, it does matter.
    assert fit_model(model, altered(paper_tables(), "DSpark", 1.1, above=20), choice()) != fit(model)
    assert fit_model(model, altered(paper_tables(), "MTP", 1.1), choice()) != fit(model)
    with pytest.raises(ValueError, match="above 50 requests"):
        Choice(low=(20, 51))


def as_published(step: StepTime, law: Confidence) -> Tables:
    """Tables of a model that follows the assumptions exactly."""
    requests = np.linspace(5, 350, 60)
    throughput, budget = mean_field(step, law.survivals(), requests)

    def rows(x: Floats, y: Floats, method: str, value: str) -> pl.DataFrame:
        return pl.DataFrame({"model": step.model, "method": method, "concurrent_requests": x, value: y})

    made = dict(paper_tables())
    made["fig8_throughput"] = rows(requests, throughput, "DSpark", "throughput_per_gpu")
    made["fig8_budget"] = rows(requests, budget, "DSpark", "verification_budget")
    mtp = rows(requests, step.mtp_throughput(requests), "MTP", "value")
    made["fig8_line_vertices"] = mtp.with_columns(quantity=pl.lit("throughput_per_gpu"))
    return made


@pytest.mark.parametrize(("mu", "sigma"), [(1.5, 1.6), (2.0, 0.9)])
def test_a_fit_finds_the_truth_it_was_given(mu: float, sigma: float) -> None:
    shape = choice().shape
    assert shape is not None
    law = dataclasses.replace(shape, mu=mu, sigma=sigma)
    tau = 1 + 0.955 * float(law.survivals()[:, 0].mean())
    step = StepTime("V4-Pro", "power", (12.0, 0.15, 0.85), 1.0, tau)
    found = fit_model("V4-Pro", as_published(step, law), dataclasses.replace(choice(), prior_sd=np.inf))
    assert found.step.parameters == pytest.approx(step.parameters, rel=0.01)
    assert found.step.tau_mtp == pytest.approx(tau, rel=0.002)
    assert (found.confidence.mu, found.confidence.sigma) == pytest.approx((mu, sigma), rel=0.01)


def test_the_form_of_the_step_time_was_chosen_on_the_line_it_is_fitted_to() -> None:
    mean: dict[str, float] = {}
    for check in form_checks(paper_tables(), Choice().least_tokens):
        mean[check.form] = mean.get(check.form, 0) + check.error / len(MODELS)
    assert sorted(mean, key=lambda form: mean[form])[:2] == ["quadratic", Choice().form]
    assert mean[Choice().form] < 0.01
    assert any("quadratic" in caveat for caveat in CAVEATS)  # it was not simply the best


# --- the prediction -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_throughput_above_fifty_requests_is_predicted_within_the_aim(model: str) -> None:
    found = errors(model)["fig8_throughput"]
    assert found.points >= 30
    assert found.mae < AIMS["fig8_throughput"]
    assert found.met
    assert found.worst < 0.035
    assert errors(model)["fig7_frontier"].mae < 0.04


def test_budget_above_fifty_requests_is_within_the_aim_for_flash_and_known_to_miss_it_for_pro() -> None:
    flash, pro = (errors(model)["fig8_budget"] for model in MODELS)
    assert flash.points > 30 < pro.points
    assert flash.mae < AIMS["fig8_budget"]
    assert flash.met
    # A shortfall, stated wherever the numbers are. If it goes away, so must the caveat.
    assert AIMS["fig8_budget"] < pro.mae < 0.28
    assert not pro.met
    assert pro.bias == pytest.approx(pro.mae, abs=0.01)
    assert any("V4-Pro's budget misses its aim" in caveat for caveat in CAVEATS)
    assert "Aim missed: V4-Pro's budget" in verdict(result())
    assert verdict(result()).count("aim") == 1
    assert any("MISSED" in text for text in report_lines(result()))


def test_numbers_in_the_caveats_are_those_of_the_result() -> None:
    pro = errors("V4-Pro")
    assert pro["fig8_throughput"].mae == pytest.approx(0.006, abs=0.001)
    assert pro["fig8_throughput"].fitted_mae == pytest.approx(0.035, abs=0.001)
    by_load = {round(a.concurrent_requests): a for a in of("V4-Pro").labelled_points}
    assert by_load[9].predicted / by_load[9].dspark == pytest.approx(1.24, abs=0.015)
    for requests, below in ((162, 0.11), (84, 0.61)):
        own = by_load[requests].mtp_by_figure8
        assert own is not None
        assert 1 - by_load[requests].mtp / own == pytest.approx(below, abs=0.01)
    for model, (floor, tokens) in {"V4-Flash": (0.007, 700), "V4-Pro": (0.013, 423)}.items():
        assert errors(model)["fig7_frontier"].floor == pytest.approx(floor, abs=0.0006)
        assert of(model).parameters["fitted_tokens_high"] == pytest.approx(tokens, abs=1)
    unbound = fit_model("V4-Pro", paper_tables(), dataclasses.replace(choice(), prior_sd=np.inf))
    load, throughput = line(paper_tables(), "fig8_throughput", "V4-Pro", "DSpark")
    off = np.abs(mean_field(unbound.step, unbound.confidence.survivals(), load)[0] / throughput - 1)
    assert off[(load > 19.5) & (load <= SPLIT)].mean() == pytest.approx(0.004, abs=0.001)
    assert off[load > SPLIT].mean() == pytest.approx(0.027, abs=0.002)


@pytest.mark.parametrize("model", MODELS)
def test_many_users_are_a_mean_field(model: str) -> None:
    """The simulator's noise at 200 users is about .1 %, prefills cost it as much, and Algorithm 1's whole tokens little."""
    curve = predict(fit(model), (200,), seed=3)
    assert curve.throughput[0] == pytest.approx(curve.mean_field_throughput[0], rel=0.005)
    assert curve.budget[0] == pytest.approx(curve.mean_field_budget[0], abs=0.02)
    assert curve.half_width < 0.004
    # Few users see more of the scatter: a greedy stop comes early.
    assert of(model).curve.budget == pytest.approx(of(model).curve.mean_field_budget, abs=0.35)


def test_rounds_of_the_trace_are_accepted_as_often_as_they_say() -> None:
    law = fit("V4-Flash").confidence
    trace = independent_rounds(law, np.random.default_rng(5), responses=400)
    confidence = trace.anchors.confidence
    assert confidence is not None
    expected = law.survivals().mean(0)
    np.testing.assert_allclose(confidence.astype(float).cumprod(1).mean(0), expected, atol=0.004)
    accepted = [(trace.anchors.accepted >= k + 1).mean() for k in range(5)]
    np.testing.assert_allclose(accepted, expected, atol=0.005)


# --- the profiles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_the_fitted_profile_that_ships_is_what_the_fit_gives(model: str) -> None:
    name, target = PROFILES[model]
    shipped, now = find_profile(name), fitted_profile(model, fit(model))
    assert name in bundled_profiles()
    assert (shipped.name, shipped.model, shipped.source, shipped.gpus) == (name, target, "fitted", 1)

    def words(profile: Profile) -> dict[str, str]:
        return {key: re.sub(r"\d+", "#", text) for key, text in profile.provenance.items()}

    assert words(shipped) == words(now)
    assert {"verify", "level", "confidences", "draft", "context", "kv_capacity_tokens"} <= shipped.provenance.keys()
    assert "extrapolated beyond" in shipped.provenance["verify"]
    assert shipped.verify.counts == now.verify.counts
    np.testing.assert_allclose(shipped.verify.seconds, now.verify.seconds, rtol=1e-4)
    for drafter in ("dspark", "mtp"):
        assert shipped.draft[drafter].drafted == now.draft[drafter].drafted
        for one, other in zip(shipped.draft[drafter].requests, now.draft[drafter].requests, strict=True):
            np.testing.assert_allclose(one.seconds, other.seconds, rtol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_mtp_on_the_fitted_profile_is_the_line_it_was_fitted_to(model: str) -> None:
    cost = find_profile(PROFILES[model][0]).cost("mtp", 1, 256, 1024)
    requests, throughput = line(paper_tables(), "fig8_throughput", model, "MTP")
    inside = (requests >= 20) & (requests <= 200)
    n = np.rint(requests[inside]).astype(int)
    step_s = cost.verify_s[2 * n] + cost.draft_s[1, n]
    np.testing.assert_allclose(n * fit(model).step.tau_mtp / step_s, np.interp(n, requests, throughput), rtol=0.015)


def test_profiles_are_written_where_they_are_found(tmp_path: Path) -> None:
    files = write_profiles(tmp_path)
    assert [file.relative_to(tmp_path) for file in files] == [Path(f"{name}.json") for name, _ in PROFILES.values()]
    assert all((DATA / file.relative_to(tmp_path)).exists() for file in files)


# --- what is said and shown -----------------------------------------------------------------------------------------------


def test_a_panel_tells_input_from_fitted_from_predicted() -> None:
    flash = of("V4-Flash")
    roles = {p.role for p in flash.points if p.dataset == "fig8_throughput"}
    assert roles == {"unused", "fitted", "predicted"}
    assert all((p.role == "predicted") == (p.concurrent_requests > SPLIT) for p in flash.points)
    throughput, budget, frontier = (plot_info(flash, d) for d in ("fig8_throughput", "fig8_budget", "fig7_frontier"))
    assert throughput.window == budget.window == (0, 50)
    assert throughput.mtp_published
    assert not budget.mtp_published
    assert not frontier.mtp_published
    assert len(throughput.published) == 40
    left, right = frontier.window
    assert all((tps >= left) == (value / tps <= SPLIT) for tps, value in frontier.published)
    assert right == max(tps for tps, _ in frontier.published)


def test_the_page_stands_alone_and_says_what_is_wrong(tmp_path: Path) -> None:
    write_reproduction(result(), tmp_path / "reproduction.html")
    page = (tmp_path / "reproduction.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page.replace(get_plotlyjs(), ""))
    assert all(f'id="fig8-budget-{model.lower()}"' in page for model in MODELS)
    assert "missed" in page
    assert all(caveat[:25].replace("'", "&#39;") in page for caveat in CAVEATS)


def test_the_result_is_json_and_comes_out_the_same_again(capsys: pytest.CaptureFixture[str]) -> None:
    print_json("reproduction", {"paper": result()})
    told = capsys.readouterr().out
    assert differences(told) == []
    raw = json.loads(told)["paper"]
    assert [m["model"] for m in raw["models"]] == MODELS
    assert raw["alternatives"] == []
    assert predict(fit("V4-Pro"), (20, 100)) == predict(fit("V4-Pro"), (20, 100))


@pytest.mark.slow
def test_what_all_assumptions_at_once_come_to_is_told_as_it_is() -> None:
    """The page quotes these four numbers; here they are worked out."""
    together = [
        one for one in other_ways(paper_tables(), choice()) if one.name.startswith("all of them at random, 40 draws")
    ]
    by = {(one.model, one.name.split(": ")[1]): f"{100 * one.throughput:.1f}" for one in together}
    said = " ".join(CAVEATS)
    assert f"{by['V4-Flash', 'median']} % (V4-Flash) and {by['V4-Pro', 'median']} % (V4-Pro) off in the median" in said
    assert f"and {by['V4-Flash', 'worst of 20']} and {by['V4-Pro', 'worst of 20']} % in the worst of 20" in said
