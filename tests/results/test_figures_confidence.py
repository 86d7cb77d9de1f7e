"""What confidences are worth, against the reference replay and values worked out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

from results.figures.block_size import block_sizes
from results.figures.reliability import confidence_quality, reliability
from results.figures.threshold import threshold_sweep
from results.store.recordings import ConfidenceRecord, confidence_records
from simulator.policies import PolicySpec
from simulator.records import Anchors
from simulator.replay import replay, walk
from simulator.traces import split_of
from tests.results.database import RUN, add_anchors, add_run, empty


def recording(rng: np.random.Generator, lengths: list[int], gamma: int = 5, *, short: bool = False) -> ConfidenceRecord:
    """Responses of so many anchors with random acceptances; `short` drafts may be shorter than γ."""
    anchors = sum(lengths)
    drafted = rng.integers(0, gamma + 1, anchors) if short else np.full(anchors, gamma)
    accepted = np.minimum(rng.integers(0, gamma + 1, anchors), drafted)
    names = tuple(f"gsm8k/{i}" for i in range(len(lengths)))
    offsets = np.cumsum([0, *lengths])
    tasks = ("gsm8k",) * len(lengths)
    sure = rng.uniform(0, 1, (anchors, gamma)).astype(np.float32)
    return ConfidenceRecord(
        "dspark", gamma, tasks, ("math",) * len(lengths), names, offsets, drafted, accepted, sure, None, False
    )


@pytest.mark.parametrize("short", [False, True])
def test_the_fast_walk_is_the_reference_replay(short: bool) -> None:
    found = recording(np.random.default_rng(3), [1, 40, 7, 23], short=short)
    thresholds = (0.0, 0.25, 0.5, 0.93, 1.0)
    walked = walk(found.confidence, found.drafted, found.accepted, found.offsets, thresholds)
    for i, threshold in enumerate(thresholds):
        for s in range(4):
            cut = slice(found.offsets[s], found.offsets[s + 1])
            drafted, accepted = (a[cut].astype(np.uint8) for a in (found.drafted, found.accepted))
            anchors = Anchors(drafted, accepted, np.zeros_like(found.confidence[cut]), found.confidence[cut])
            rounds = replay(anchors, PolicySpec.parse(f"threshold:{threshold}").bind())
            assert walked.rounds[i, s] == len(rounds)
            assert walked.committed[i, s] == sum(r.committed for r in rounds)
            assert walked.verified[i, s] == sum(r.verified for r in rounds)
            assert walked.accepted[i, s] == sum(r.accepted for r in rounds)


def test_a_threshold_of_0_verifies_all_and_above_1_nothing() -> None:
    found = recording(np.random.default_rng(4), [60, 60])
    sweep = threshold_sweep([found], RUN)
    first, last = (sweep.filter(threshold=c, task="gsm8k").row(0, named=True) for c in (0.0, 1.0))
    assert first["budget"] == 6
    assert first["tau"] + first["rejected"] == pytest.approx(6, abs=0.2)  # the last round may be cut
    assert (last["tau"], last["rejected"], last["budget"]) == (1, 0, 1)
    assert first["paper_tau"] == pytest.approx(6.1134)
    assert sweep.filter(pl.col("task").is_null(), threshold=0.5)["tau"].item() == pytest.approx(
        sweep.filter(task="gsm8k", threshold=0.5)["tau"].item()
    )
    assert sweep.filter(threshold=0.05)["paper_tau"].null_count() == 2


def test_reliability_bins_survivals_by_hand() -> None:
    found = recording(np.random.default_rng(0), [4], gamma=2)
    sure = np.array([[0.52, 0.5], [0.54, 0.5], [0.9, 0.9], [1.0, 1.0]], np.float32)
    exact = dataclasses.replace(found, accepted=np.array([1, 0, 2, 2]), confidence=sure)
    bins = reliability([exact], RUN)
    first = bins.filter(position=1).sort("predicted").to_dicts()
    assert [(round(b["predicted"], 4), b["observed"], b["anchors"]) for b in first] == [
        (0.53, 0.5, 2), (0.9, 1.0, 1), (1.0, 1.0, 1),
    ]  # fmt: skip
    second = bins.filter(position=2).sort("predicted").to_dicts()
    assert [(round(b["predicted"], 3), b["observed"], b["anchors"]) for b in second] == [
        (0.265, 0.0, 2), (0.81, 1.0, 1), (1.0, 1.0, 1),
    ]  # fmt: skip
    assert set(bins["stage"]) == {"before"}


def test_recordings_come_with_temperatures_or_estimates_and_are_judged_on_other_prompts() -> None:
    con = empty()
    add_run(con)
    assert confidence_records(con, RUN) == []
    add_anchors(con, "dspark", 4)
    add_anchors(con, "mtp", 1, head=False)
    by_name = {r.drafter: r for r in confidence_records(con, RUN)}
    assert set(by_name) == {"dspark", "mtp"}
    assert by_name["mtp"].estimated
    assert not by_name["dspark"].estimated
    assert by_name["dspark"].calibrated is not None
    assert by_name["dspark"].offsets[-1] == 12 * 40
    bins = reliability(list(by_name.values()), RUN)
    assert set(bins.filter(drafter="dspark")["stage"]) == {"before", "after"}
    assert set(bins.filter(drafter="mtp")["stage"]) == {"estimated"}
    others = sum(split_of(f"{task}/{i}") != "calibration" for task in ("gsm8k", "humaneval") for i in range(6))
    assert bins.filter(drafter="dspark", position=1, stage="after")["anchors"].sum() == 40 * others
    assert confidence_quality(con, RUN)["fitted"].to_list() == ["temperature"] * 4 + ["estimate"]


def test_block_sizes_meet_the_papers_where_both_exist() -> None:
    rows = [(RUN, "mine", g, "math", None, t, None, None) for g, t in ((3, 2.0), (5, 2.5))]
    columns = {"run": pl.String, "drafter": pl.String, "gamma": pl.UInt8, "domain": pl.String, "task": pl.String}
    schema: dict[str, type[pl.DataType]] = columns | {"tau": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    sizes = block_sizes(pl.DataFrame(rows, schema=schema, orient="row"), {"mine": "dspark"})
    assert sizes.select("gamma", "tau", "paper").rows() == [
        (3, 2.0, 3.5428), (5, 2.5, None), (7, None, 5.5698), (11, None, 6.6171), (15, None, 7.1905),
    ]  # fmt: skip
    alone = block_sizes(pl.DataFrame(rows, schema=schema, orient="row"), {"mine": "mtp"})
    assert alone["gamma"].to_list() == [3, 5]
