"""Synthetic traces: replayed as any trace is, they give the published curves they were made from."""

from __future__ import annotations

from functools import cache

import msgspec
import numpy as np
import polars as pl
import pytest

from harness.published import synthesis
from harness.published.fidelity import acceptance, replayed, tau
from harness.published.synthesis import ASSUMPTIONS, DOMAINS, PANELS, POSITIONS, SOURCES, TASKS, paper_values, synthesize
from results.published import FIELD
from simulator.confidence import calibrated, fit_temperatures, quality
from simulator.errors import InputError
from simulator.policies import PolicySpec
from simulator.replay import replay
from simulator.traces import Trace

SEEDS = (0, 1)
DRAFTERS = ("dspark", "dflash", "eagle3", "mtp")


@cache
def traces(seed: int) -> dict[str, Trace]:
    return {trace.drafter: trace for trace in synthesize(seed)}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_replays_to_figure_2_and_table_1(drafter: str, seed: int) -> None:
    trace = traces(seed)[drafter]
    rounds = replayed(trace, PolicySpec.fixed(trace.gamma), list(TASKS))
    for row, domain in enumerate(DOMAINS):
        mine = [task for task, (its, _, _) in TASKS.items() if its == domain]
        alphas = acceptance([r for task in mine for r in rounds[task]], trace.gamma)
        np.testing.assert_allclose(alphas, paper_values().acceptance[drafter][row], atol=0.01)
        if drafter in paper_values().tau:
            paper = dict(zip(TASKS, paper_values().tau[drafter], strict=True))
            got = {task: tau(rounds[task]) for task in mine}
            assert got == pytest.approx({task: paper[task] for task in mine}, rel=0.04)
            assert np.mean(list(got.values())) == pytest.approx(np.mean([paper[task] for task in mine]), rel=0.02)


@pytest.mark.parametrize("panel", range(len(PANELS)), ids=PANELS)
def test_thresholds_sweep_as_in_figure_5(panel: int) -> None:
    for i in range(10):
        [rounds] = replayed(traces(0)["dspark"], PolicySpec("threshold", f"{i / 10}"), PANELS[panel : panel + 1]).values()
        accepted, total = tau(rounds), float(np.mean([r.verified + 1 for r in rounds]))
        paper_accepted, paper_total = paper_values().sweep[panel, i]
        assert accepted / total == pytest.approx(paper_accepted / paper_total, abs=0.03)
        assert (accepted, total) == pytest.approx((paper_accepted, paper_total), rel=0.08)


def test_confidences_are_as_wrong_as_in_figure_6_and_temperatures_mend_them() -> None:
    """At visited anchors of Alpaca. Their number (11 500) alone makes an error of about 1 % of perfect confidences."""
    confidence, accepted = [], []
    for seed in SEEDS:
        for response, anchors in traces(seed)["dspark"]:
            if response.task == "alpaca":
                assert anchors.confidence is not None
                rounds = replay(anchors, PolicySpec.parse("fixed:7").bind())
                at = np.cumsum([0, *(r.committed for r in rounds[:-1])])
                confidence.append(anchors.confidence[at])
                accepted.append(anchors.accepted[at])
    c, a = np.concatenate(confidence), np.concatenate(accepted)
    survival = c.astype(np.float64).cumprod(1)
    before, after = quality(c, a), quality(calibrated(c, fit_temperatures(c, a)), a)
    for i, k in enumerate(POSITIONS):
        weight, predicted, observed = (
            x[i] for x in (paper_values().weight, paper_values().predicted, paper_values().observed)
        )
        assert before[k - 1].observed == pytest.approx(weight @ observed, abs=0.02)
        assert before[k - 1].ece == pytest.approx(weight @ np.abs(predicted - observed), abs=0.015)
        kept, lost = weight * observed, weight * (1 - observed)
        auc = kept @ (np.cumsum(lost) - lost / 2) / kept.sum() / lost.sum()
        assert before[k - 1].auc == pytest.approx(auc, abs=0.025)
        assert after[k - 1].ece < min(0.03, 0.5 * before[k - 1].ece + 0.005)
        places = np.minimum((survival[:, k - 1] * 20).astype(int), 19)
        shares = np.bincount(places, minlength=20) / len(places)
        assert np.abs(shares - weight).sum() / 2 < 0.08
        full = [b for b in range(20) if (places == b).sum() >= 100]
        over = [survival[places == b, k - 1].mean() > np.mean(a[places == b] >= k) for b in full]
        assert np.mean(over) > 0.75


def test_a_seed_is_its_traces_and_all_drafters_answer_alike() -> None:
    first, again, other = (synthesize(seed, responses_per_task=2, output_tokens=40) for seed in (7, 7, 8))
    assert [t.drafter for t in first] == list(DRAFTERS)
    for one, two, three in zip(first, again, other, strict=True):
        assert one.responses == two.responses == first[0].responses != three.responses
        np.testing.assert_array_equal(one.offsets, np.arange(19) * 39)
        for name in ("drafted", "accepted", "accept_prob", "confidence"):
            np.testing.assert_array_equal(getattr(one.anchors, name), getattr(two.anchors, name))
        assert (one.anchors.accept_prob != three.anchors.accept_prob).any()
        assert (one.anchors.confidence is None) == (one.drafter != "dspark")
        assert (one.anchors.drafted == one.gamma).all()
    assert first[0].responses[2].prompt_id == "math500/synth-0"
    assert len({r.prompt_id for r in first[0].responses}) == 18


def test_acceptances_follow_their_probabilities() -> None:
    """Of the 184 000 first positions of one seed, anchors of a response not being independent."""
    for trace in traces(0).values():
        beta = trace.anchors.accept_prob[:, 0].astype(np.float64)
        assert np.mean(trace.anchors.accepted > 0) == pytest.approx(beta.mean(), abs=0.004)
        assert 0.4 < np.mean((beta == 0) | (beta == 1)) < 0.6
    # Coins and luck are shared: of two drafters, rounds go well together.
    one, two = (traces(0)[drafter].anchors.accepted for drafter in ("dspark", "dflash"))
    assert np.corrcoef(one, two)[0, 1] > 0.3


@pytest.mark.parametrize("sizes", [{"responses_per_task": 0}, {"output_tokens": 1}])
def test_sizes_without_an_anchor_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least one response"):
        synthesize(0, **sizes)


def test_mtp_lies_within_what_was_measured_elsewhere() -> None:
    field = pl.read_csv(FIELD / "mtp_first_token_acceptance.csv").filter(~pl.col("model").str.contains("DSpark"))
    value = pl.col("acceptance_pos1").cast(pl.Float64, strict=False)
    gsm8k, coding = (
        field.filter(pl.col("dataset").str.contains(name), value.is_not_null()).select(value).to_series().to_list()
        for name in ("GSM8K", "coding")
    )
    math, code, chat = paper_values().acceptance["mtp"][:, 0]
    assert min(gsm8k) < math < max(gsm8k)
    assert min(coding) - 0.03 < code < max(coding)
    assert chat < code
    assert any("mtp" in line for line in SOURCES)
    assert any("β" in line for line in ASSUMPTIONS)


def test_the_shipped_parameters_come_from_the_published_values() -> None:
    """As far as that is quick to see; `python -m harness.published.synthesis` derives them all."""
    shipped = msgspec.json.decode(synthesis._FILE.read_bytes(), type=synthesis.Parameters)
    derived = synthesis._first_curve(paper_values())
    for name in ("ease", "confidence", "acceptance"):
        np.testing.assert_allclose(getattr(shipped.first, name), getattr(derived, name), atol=2e-4)
    assert shipped.sources == SOURCES
    assert shipped.errors["figure5_acceptance_rate"] < 0.03
    assert all(shipped.errors[f"levels_{drafter}"] < 0.1 for drafter in DRAFTERS)
