"""Recommendations: what is asked of the evidence in which order, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import pytest

from simulator.configuration import Configuration
from simulator.decision import Choice, Draw, Figure, Range, Sampled, Simulated
from simulator.hardware.catalogue import find_profile
from simulator.load import Load, RecordedArrivals, Users
from simulator.mix import Mix
from simulator.plan import Plan
from simulator.policies import PolicySpec
from simulator.recommendation import Near, Question, averaged_elsewhere, decision_of
from simulator.records import Anchors, Recording
from simulator.serving.command import Models
from simulator.serving.engines import ENGINES
from simulator.serving.vllm import VLLM
from simulator.sla import Sla
from simulator.traces import Trace, TracedResponse

PLAIN = Configuration.plain(8)
ONES = np.ones(60, np.uint8)
TRACE = Trace(
    "mtp",
    (TracedResponse("gsm8k", "math", "p", 0, 10),),
    np.array([0, 60]),
    Anchors(ONES, ONES, np.ones((60, 1), np.float32)),
)
MTP = Configuration(Recording("mtp", 1, kind="mtp"), PolicySpec.fixed(1), 8)


@dataclass
class Made:
    """Evidence made up: MTP-1 gives half as much again as no speculation."""

    too_short: str = ""
    kept: bool = True
    doubt: str = ""
    near: Near | None = None
    counts: Mapping[Configuration, float] = field(default_factory=lambda: {MTP: 1000.0, PLAIN: 200.0})
    values: Mapping[Configuration, float] = field(default_factory=lambda: {MTP: 150.0, PLAIN: 100.0})

    @property
    def simulated(self) -> Sequence[Simulated]:
        return [Simulated(candidate=c, value=value, kept=self.kept) for c, value in {PLAIN: 100.0, MTP: 150.0}.items()]

    def closest(self) -> Near | None:
        return self.near

    def unsure(self, run: Configuration) -> str:
        return self.doubt

    def scheduled(self, run: Configuration) -> None:
        """Nothing."""

    def throughputs(self, compared: Sequence[Configuration]) -> list[float]:
        return [1000.0]

    def drawn(self, choice: Choice, seconds: float, draws: Sequence[Draw]) -> dict[Configuration, Sampled] | str:
        each = [{"tps": 90.0, "p95_ttft": 0.1}] * len(draws)
        shares = [1.0 if self.kept else 0.3 + 0.4 * (i % 2) for i in range(len(draws))]
        attained, kept = [{"tps>=80": share} for share in shares], [self.kept or share > 0.5 for share in shares]
        return {c: Sampled(value=[v] * len(draws), attained=attained, kept=kept, also=each) for c, v in self.values.items()}

    def finished(self, run: Configuration) -> float:
        return self.counts.get(run, 0.0)

    def times_held(self, run: Configuration) -> Range | None:
        return Range(2.0, 1.5, 2.5) if self.kept else Range(0.5, 0.25, 0.8)


def question(figure: Figure = "throughput") -> Question:
    plan = Plan(profile=find_profile("h100/qwen3-4b"), loads=[Users(4)], slas=[Sla.parse("tps>=80")], request_cap=8)
    return Question(
        plan=plan, load=Users(4), figure=figure, mix=Mix(TRACE), models=Models(target="me/target"), seconds=60,
        draws=20, note="a note",
    )  # fmt: skip


def test_a_decision_has_its_command_and_what_is_held() -> None:
    found = decision_of(question(), Made())
    assert (found.run, found.holds) == (str(MTP), Range(2.0, 1.5, 2.5))
    assert "--speculative-config" in found.command
    assert found.notes[-2] == "a note"


@pytest.mark.parametrize(
    ("hashes", "keeps", "told"),
    [([1, 2, 3], False, True), ([1, 2, 3], True, False), ([], False, False), (None, False, False)],
)
def test_a_decision_without_a_prefix_cache_says_so(
    hashes: list[int] | None, keeps: bool, told: bool, tmp_path: Path
) -> None:
    """Of traffic that has something in common alone; of any engine, and of none in particular. None is no log."""
    asked, load = question(), cast(Load, Users(4))
    if hashes is not None:
        rows = [
            {"timestamp": 1e4 * i, "input_length": 2048, "output_length": 4, "hash_ids": hashes and [*hashes, 10 + i]}
            for i in range(4)
        ]
        (tmp_path / "mooncake.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        load = RecordedArrivals.of(tmp_path / "mooncake.jsonl")
    for engine in ENGINES.values():
        plan = msgspec.structs.replace(asked.plan, loads=[load], prefix_cache=keeps, engine=engine)
        found = decision_of(replace(asked, plan=plan, load=load), Made())
        assert ("no prefix cache" in found.traffic) == told
        if engine == VLLM:
            assert ("--no-enable-prefix-caching" in found.command) == told
            assert any("without a prefix cache" in note for note in found.notes) == told


def test_a_log_that_is_gone_leaves_no_doubt_unsaid(tmp_path: Path) -> None:
    """Whether its prompts begin alike cannot be read any more."""
    gone = RecordedArrivals(tmp_path / "gone.jsonl")
    plan = msgspec.structs.replace(question().plan, loads=[gone], prefix_cache=False)
    assert plan.whole_prompts
    assert not msgspec.structs.replace(plan, prefix_cache=True).whole_prompts


def test_caches_averaged_over_another_context_are_told() -> None:
    """TRACE's contexts are short; Gemma's windows are averaged at 2,048 tokens."""
    asked = question()
    uneven = replace(asked, plan=msgspec.structs.replace(asked.plan, profile=find_profile("h100/gemma-4-12b")))
    assert any("--mean-context" in note for note in decision_of(uneven, Made()).notes)
    assert not any("--mean-context" in note for note in decision_of(asked, Made()).notes)
    gemma = uneven.plan.profile
    assert "--mean-context 9100" in averaged_elsewhere(gemma, 9123.4)
    assert averaged_elsewhere(gemma, 2900) == averaged_elsewhere(gemma, 1500) == ""
    assert averaged_elsewhere(replace(gemma, source="fitted"), 9123.4)
    assert "--mean-context" not in averaged_elsewhere(replace(gemma, source="fitted"), 9123.4)


def test_what_runs_without_having_been_asked_for_says_so() -> None:
    whole = Configuration(Recording("mtp", 3, kind="mtp"), PolicySpec.fixed(3), 8)
    fewer = Configuration(whole.recording, PolicySpec.fixed(2), 8)

    @dataclass
    class Unasked(Made):
        @property
        def simulated(self) -> Sequence[Simulated]:
            return [Simulated(candidate=c, value=value, kept=True) for c, value in {PLAIN: 100.0, fewer: 150.0}.items()]

    counts = {PLAIN: 200.0, fewer: 1000.0}
    asked = decision_of(question(), Unasked(counts=counts, values={PLAIN: 100.0, whole: 120.0, fewer: 150.0}))
    unasked = decision_of(question(), Unasked(counts=counts, values={PLAIN: 100.0, whole: 160.0, fewer: 150.0}))
    assert (asked.run, unasked.run) == (str(fewer), str(whole))
    assert [any("not asked for" in note for note in one.notes) for one in (asked, unasked)] == [False, True]


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (Made(too_short="too short", kept=False), "too short"),
        (Made(doubt="in doubt"), "in doubt"),
        (Made(kept=False), "nothing that was simulated keeps the promise"),
        (
            Made(kept=False, near=Near(MTP, {"tps>=80": 0.5}, waits=False, times=0.5)),
            f"nothing that was simulated keeps the promise; closest is {MTP} with 8 requests at a time (tps>=80: 50 %, "
            "95 %: 30 % to 70 %, kept in 50% of the draws); one replica holds 0.5 × (95 %: 0.25 × to 0.8 ×) this load "
            "within the promise: try --replicas 2, 4 to be surer",
        ),
        (
            Made(kept=False, near=Near(MTP, {}, waits=True, times=None)),
            f"nothing that was simulated keeps the promise; closest is {MTP} with 8 requests at a time "
            "(ever more requests wait)",
        ),
    ],
)
def test_why_nothing_is_recommended(evidence: Made, reason: str) -> None:
    assert decision_of(question(), evidence).reason == reason


def test_a_profile_that_leaves_a_promise_open_says_what_would_tell() -> None:
    """It is broken where the profile is right, and kept in half of the draws in which it is off."""

    @dataclass
    class Open(Made):
        def drawn(self, choice: Choice, seconds: float, draws: Sequence[Draw]) -> dict[Configuration, Sampled] | str:
            found = super().drawn(choice, seconds, draws)
            assert not isinstance(found, str)
            held = [own and draw.off for own, draw in zip(found[MTP].kept, draws, strict=True)]
            return {c: msgspec.structs.replace(own, kept=held) for c, own in found.items()}

    near = Near(MTP, {"tps>=80": 0.5}, waits=False, times=0.5)
    assert "kept in 50%" in decision_of(question(), Made(kept=False, near=near, counts={})).reason  # in draws alone
    said = [decision_of(question(), made).reason for made in (Open(kept=False, near=near), Made(kept=False, near=near))]
    assert ["the roofline profile's errors leave it open: speeds of the engine" in one for one in said] == [True, False]


@pytest.mark.parametrize(("counts", "count"), [({MTP: 1000.0, PLAIN: 200.0}, 200), ({MTP: 1000.0}, 1000)])
def test_no_surer_of_a_share_than_the_requests_of_what_is_run(counts: dict[Configuration, float], count: int) -> None:
    """Draws prefer no speculation to what was picked: its own requests count, or, where it has none, those of the other."""
    found = decision_of(question(), Made(counts=counts, values={MTP: 99.0, PLAIN: 100.0}))
    assert found.run == str(PLAIN)
    assert found.attained["tps>=80"].low == pytest.approx(1 / (1 + 1.959964**2 / count))
