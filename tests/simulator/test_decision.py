"""Decisions: what is chosen of what an engine can run, and how sure its gain is."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from simulator.configuration import Configuration
from simulator.decision import Choice, Decision, Draw, Sampled, Simulated, choose, decide, gain_of, settle
from simulator.load import Users
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.records import Recording
from simulator.sentences import sentences
from simulator.serving.command import Models, batch_rows, cannot_run, serve
from simulator.serving.llama_cpp import LLAMA_CPP
from simulator.serving.vllm import VLLM
from simulator.sla import Promise

DSPARK = Recording("new", 7, "none", "greedy", "dspark")
EAGLE3 = Recording("old", 7, "none", "greedy", "eagle3")
NOTHING = Recording("none", 0)


def candidate(recording: Recording, policy: str, cap: int = 256) -> Configuration:
    return Configuration(recording, PolicySpec.parse(policy), cap)


def simulated(recording: Recording, policy: str, value: float, *, kept: bool = True, cap: int = 256) -> Simulated:
    return Simulated(candidate=candidate(recording, policy, cap), value=value, kept=kept)


@pytest.mark.parametrize(
    ("recording", "policy", "cap", "able"),
    [
        (DSPARK, "fixed:7", 256, True),
        (DSPARK, "fixed:3", 256, False),  # another block, which computes otherwise
        (EAGLE3, "fixed:3", 256, True),
        (DSPARK, "cutoff:16", 256, True),
        (DSPARK, "k_by_batch:16=7/64=3", 256, False),
        (DSPARK, "k_by_batch:16=7/64=3", 16, True),  # the second row is never reached
        (EAGLE3, "k_by_batch:16=7/64=3", 256, True),
        (DSPARK, "vllm_adaptive", 256, True),
        (DSPARK, "prefix_scheduler", 256, False),
        (DSPARK, "oracle", 256, False),
        (NOTHING, "none", 256, True),
        (Recording("mine", 3, "none", "greedy", "draft_model"), "fixed:3", 256, False),
    ],
)
def test_what_an_engine_can_run(recording: Recording, policy: str, cap: int, able: bool) -> None:
    assert (cannot_run(VLLM, recording, PolicySpec.parse(policy), cap) == "") == able


def test_the_best_that_keeps_the_promise_and_can_be_run() -> None:
    found = [
        simulated(NOTHING, "none", 90, cap=32), simulated(NOTHING, "none", 100, kept=False),
        simulated(DSPARK, "fixed:7", 150, cap=32), simulated(DSPARK, "fixed:3", 170), simulated(EAGLE3, "fixed:3", 140),
        simulated(DSPARK, "prefix_scheduler", 180), simulated(EAGLE3, "fixed:7", 999, kept=False),
    ]  # fmt: skip
    choice = choose(found, VLLM)
    assert not isinstance(choice, str)
    assert choice.run == candidate(DSPARK, "fixed:7", 32)
    assert choice.none == candidate(NOTHING, "none", 32)  # who runs nothing runs what keeps the promise
    assert choice.default == candidate(DSPARK, "fixed:7")
    assert choice.runner_up == candidate(EAGLE3, "fixed:3")
    assert choice.better == candidate(DSPARK, "prefix_scheduler")
    anything = choose(found, None)
    assert not isinstance(anything, str)
    assert (anything.run, anything.better) == (candidate(DSPARK, "prefix_scheduler"), None)


def test_nothing_may_be_best() -> None:
    choice = choose([simulated(NOTHING, "none", 100), simulated(DSPARK, "fixed:7", 90)], VLLM)
    assert not isinstance(choice, str)
    assert choice.run == choice.none
    assert choice.default is None
    assert choice.runner_up == candidate(DSPARK, "fixed:7")


@pytest.mark.parametrize(
    "found",
    [
        [simulated(NOTHING, "none", 100)],
        [simulated(DSPARK, "fixed:7", 100)],
        [simulated(NOTHING, "none", 100, kept=False), simulated(DSPARK, "fixed:7", 90, kept=False)],
        [simulated(NOTHING, "none", 100, kept=False), simulated(DSPARK, "prefix_scheduler", 90)],
    ],
)
def test_without_a_choice_there_is_no_recommendation(found: list[Simulated]) -> None:
    assert isinstance(choose(found, VLLM), str)


def test_more_requests_than_an_engine_takes_are_not_chosen() -> None:
    """llama.cpp refuses `-np 512`: neither what runs nor what it is compared with has so many."""
    found = [
        simulated(recording, policy, value + cap, cap=cap)
        for cap in (128, 512)
        for recording, policy, value in ((NOTHING, "none", 100), (EAGLE3, "fixed:3", 200), (EAGLE3, "fixed:2", 150))
    ]
    choice = choose(found, LLAMA_CPP)
    assert not isinstance(choice, str)
    assert choice.run == candidate(EAGLE3, "fixed:3", 128)
    assert choice.none == candidate(NOTHING, "none", 128)
    assert choice.default == candidate(EAGLE3, "fixed:7")  # and not the largest that was simulated
    assert choice.runner_up == candidate(EAGLE3, "fixed:2", 128)
    why = choose([one for one in found if one.candidate.request_cap == 512], LLAMA_CPP)
    assert why == "llama.cpp runs nothing of what was simulated; --request-cap 256 is the most that it takes"


def test_why_an_engine_runs_nothing_is_told_of_each_policy() -> None:
    """A block of seven is not cut to three, though fixed:3 was asked for."""
    why = choose([simulated(DSPARK, policy, 100) for policy in ("fixed:3", "prefix_scheduler")], VLLM)
    assert isinstance(why, str)
    assert "fixed:3: vLLM drafts a block of 3 where 7 were recorded" in why
    assert "prefix_scheduler: vLLM has no prefix_scheduler" in why


def test_what_was_not_simulated_is_not_ruled_out() -> None:
    scheduled = simulated(DSPARK.showing("calibrated"), "prefix_scheduler", 150)  # which vLLM has not
    choice = choose([simulated(NOTHING, "none", 100), scheduled], VLLM)
    assert not isinstance(choice, str)
    assert (choice.run, choice.default) == (candidate(NOTHING, "none"), candidate(DSPARK, "fixed:7"))

    def drawn(by_default: float) -> dict[Configuration, Sampled]:
        values = {choice.run: 100.0, choice.default: by_default, choice.better: 150.0}
        return {c: sampled(np.full(len(DRAWS), value)) for c, value in values.items() if c is not None}

    settled = settle(choice, drawn(140), DRAWS)
    assert (settled.run, settled.default) == (candidate(DSPARK, "fixed:7"), None)
    worse = decide(STUB, choice, drawn(80), DRAWS, VLLM)
    assert (worse.candidate, worse.over_none) == (choice.none, None)
    assert worse.over_default is not None
    assert worse.over_default.all.value == pytest.approx(0.25)
    unable = choose(
        [simulated(NOTHING, "none", 100), simulated(Recording("mine", 3, "none", "greedy", "draft_model"), "fixed:2", 90)],
        VLLM,
    )
    assert not isinstance(unable, str)
    assert unable.default is None


def test_without_a_promise_none_is_said_to_be_broken() -> None:
    scheduled = [simulated(DSPARK.showing(shown), "prefix_scheduler", 150) for shown in ("raw", "calibrated")]
    for kept in (True, False):
        found = [msgspec.structs.replace(one, kept=kept) for one in scheduled]
        assert "promise" not in str(choose(found, VLLM, promised=False))
    beside = [msgspec.structs.replace(simulated(DSPARK, "fixed:7", 90, kept=False), keeps_up=False), *scheduled]
    assert "promise" not in str(choose(beside, VLLM, promised=False))
    assert "promise" in str(choose(beside, VLLM))


STUB = Decision(
    engine=VLLM, profile="h100/toy", source="roofline", load=Users(8), promise=(Promise.parse("tps>=80"),),
    traffic="toys", figure="throughput", errors={"verify": 0.3, "draft": 0.3, "host": 0.3},
)  # fmt: skip


def test_what_tells_two_configurations_apart_is_said() -> None:
    raw, calibrated = (candidate(DSPARK.showing(shown), "prefix_scheduler") for shown in ("raw", "calibrated"))
    assert raw.told_beside(calibrated) == f"{raw} on raw confidences"
    assert calibrated.told_beside(raw) == str(calibrated) != str(raw)
    assert raw.told_beside(candidate(EAGLE3, "fixed:3")) == str(raw)
    fewer = Configuration(raw.recording, raw.policy, raw.request_cap // 2)
    assert fewer.told_beside(raw) == f"{raw} with {fewer.request_cap} requests at a time"


DRAWS = [Draw(i, True) for i in range(2000)] + [Draw(i, False) for i in range(600)]


def sampled(value: np.ndarray[tuple[int], np.dtype[np.float64]], *, kept: bool = True) -> Sampled:
    n = len(value)
    return Sampled(
        value=value.tolist(), attained=[{"tps>=80": 0.97 if kept else 0.5}] * n, kept=[kept] * n,
        also=[{"tps": 90.0, "p95_ttft": 0.2}] * n,
    )  # fmt: skip


def test_intervals_are_of_paired_draws() -> None:
    """Both move by 30 % together, and their ratio by 2 %: the gain of 50 % is as sure as the ratio, the figure is not."""
    rng = np.random.default_rng(0)
    common = np.exp(np.where([d.off for d in DRAWS], 0.3, 0.01) * rng.standard_normal(len(DRAWS)))
    own = np.exp(0.02 * rng.standard_normal(len(DRAWS)))
    choice = choose([simulated(NOTHING, "none", 100), simulated(DSPARK, "fixed:7", 150)], VLLM)
    assert not isinstance(choice, str)
    found = {choice.run: sampled(150 * common * own), choice.none: sampled(100 * common, kept=False)}
    decision = decide(STUB, choice, found, DRAWS, VLLM)
    [gain] = decision.gains
    assert gain.all.value == pytest.approx(0.5, abs=0.005)
    for interval in (gain.all, gain.held):
        assert (interval.low, interval.high) == pytest.approx(
            (1.5 * np.exp(-0.0392) - 1, 1.5 * np.exp(0.0392) - 1), abs=0.01
        )
    assert gain.clear
    assert decision.value is not None
    assert decision.value.high / decision.value.low == pytest.approx(np.exp(2 * 1.96 * 0.3), rel=0.1)
    assert (decision.sure, decision.draws) == (1.0, 2000)
    assert decision.attained["tps>=80"].value == pytest.approx(0.97)


def test_an_interval_that_holds_more_is_no_narrower() -> None:
    draws = [Draw(i, off) for off in (True, False) for i in range(20)]
    rng = np.random.default_rng(0)
    for spread in (0.001, 0.02, 0.2):  # of draws with the profile off; the others have 0.02
        value = np.concatenate([150 + 100 * spread * rng.normal(size=20), 150 + 2 * rng.normal(size=20)])
        found = gain_of("none", sampled(value), sampled(np.full(40, 100.0)), draws)
        assert found is not None
        assert found.all.low <= found.held.low <= found.held.value <= found.held.high <= found.all.high


@pytest.mark.parametrize(("temperature", "exact"), [(0.0, True), (1.0, False), (None, False)])
def test_old_confidences_are_an_approximation_where_drafts_are_drawn(temperature: float | None, exact: bool) -> None:
    """At temperature 0 a draft is settled by what stands before it, however it was asked for."""
    drawn = DSPARK.drafted_by("sampled")
    choice = choose([simulated(NOTHING, "none", 100), simulated(drawn, "lagged_scheduler:2", 150)], None)
    assert not isinstance(choice, str)
    found = {c: sampled(np.full(len(DRAWS), 150.0 if c == choice.run else 100.0)) for c in choice.all}
    notes = decide(STUB, choice, found, DRAWS, None, temperature=temperature).notes
    assert exact == (not any("approximation" in note for note in notes))


def drawn_as(choice: Choice, **found: tuple[float, bool]) -> dict[Configuration, Sampled]:
    """What came of a choice's candidates, by drafter: the same in all draws."""
    return {
        c: sampled(np.full(len(DRAWS), found[c.recording.drafter][0]), kept=found[c.recording.drafter][1])
        for c in choice.all
    }


@pytest.mark.parametrize(
    ("none", "new", "old", "runs"),
    [
        ((100, True), (150, True), (140, True), "new"),
        ((100, True), (90, True), (95, True), "none"),  # better in the draws than what one simulation picked
        ((100, False), (90, True), (95, True), "old"),  # no speculation would be best, but is overloaded
        ((100, True), (150, False), (95, True), "none"),  # what was picked misses the promise, whatever it gives
        ((100, False), (150, False), (140, False), "new"),  # and where all do, nothing is better than what was picked
    ],
)
def test_what_runs_is_what_most_draws_say(
    none: tuple[float, bool], new: tuple[float, bool], old: tuple[float, bool], runs: str
) -> None:
    found = [simulated(NOTHING, "none", 100), simulated(DSPARK, "fixed:7", 150), simulated(EAGLE3, "fixed:7", 140)]
    choice = choose(found, VLLM)
    assert not isinstance(choice, str)
    assert settle(choice, drawn_as(choice, none=none, new=new, old=old), DRAWS).run.recording.drafter == runs


@pytest.mark.parametrize(
    ("none", "by_default", "picked", "runs"),
    [(100, 150, 152, "fixed:5"), (100, 150, 150.5, "fixed:7"), (149.9, 150, 150.5, "none"), (149, 150, 149.9, "fixed:7")],
)
def test_of_what_gives_as_much_the_plainest_runs(none: float, by_default: float, picked: float, runs: str) -> None:
    """Within half a percent of the best nothing is drafted, else the engine's default is kept."""
    choice = choose([simulated(NOTHING, "none", 100), simulated(DSPARK, "fixed:5", 160)], None)
    assert not isinstance(choice, str)
    gives = {"none": none, "fixed:7": by_default, "fixed:5": picked}
    found = {c: sampled(np.full(len(DRAWS), gives[str(c.policy)])) for c in choice.all}
    assert str(settle(choice, found, DRAWS).run.policy) == runs


def test_where_arrivals_set_the_figure_what_was_picked_stays() -> None:
    """All that keep up give the same tokens a second: no speculation is no better for being plain."""
    choice = choose([simulated(NOTHING, "none", 100), simulated(DSPARK, "fixed:5", 100.1)], None)
    assert not isinstance(choice, str)
    found = {c: sampled(np.full(len(DRAWS), 99.9 if c == choice.run else 100.0)) for c in choice.all}
    assert settle(choice, found, DRAWS).run.policy == NO_DRAFTER
    assert str(settle(choice, found, DRAWS, arrivals_set=True).run.policy) == "fixed:5"


def test_what_misses_the_promise_is_no_rival() -> None:
    found = [simulated(NOTHING, "none", 100), simulated(DSPARK, "fixed:7", 150), simulated(EAGLE3, "fixed:7", 140)]
    choice = choose(found, VLLM)
    assert not isinstance(choice, str)
    assert choice.runner_up is not None
    values = drawn_as(choice, none=(100, True), new=(150, True), old=(170, False))
    assert settle(choice, values, DRAWS).runner_up is None


def test_no_speculation_under_another_cap_is_named_so() -> None:
    choice = choose([simulated(NOTHING, "none", 100, cap=32), simulated(DSPARK, "fixed:7", 150)], VLLM)
    assert not isinstance(choice, str)
    decision = decide(STUB, choice, {c: sampled(np.full(len(DRAWS), 100.0)) for c in choice.all}, DRAWS, VLLM)
    assert decision.over_none is not None
    assert decision.over_none.over == "no speculation with 32 requests at a time"


def test_a_table_under_another_cap_is_no_rival() -> None:
    table = "k_by_batch:8=7/32=3"
    tables = [simulated(DSPARK, table, 150), simulated(DSPARK, table, 149, cap=64)]
    choice = choose([simulated(NOTHING, "none", 100), *tables], None)
    assert not isinstance(choice, str)
    assert choice.runner_up is not None
    assert choice.runner_up.policy == NO_DRAFTER


def test_draws_that_come_to_nothing_are_no_decision() -> None:
    """Too few requests finished in one of the draws: a quantile is nan, and nothing is said of it."""
    choice = choose([simulated(NOTHING, "none", 100), simulated(DSPARK, "fixed:7", 150)], VLLM)
    assert not isinstance(choice, str)
    even = np.full(len(DRAWS), 100.0)
    broken = sampled(even)
    broken.also[7]["p95_ttft"] = float("nan")
    decision = decide(STUB, choice, {choice.run: broken, choice.none: sampled(even)}, DRAWS, VLLM)
    assert "too few requests" in decision.reason
    assert (decision.run, decision.value, decision.gains) == ("", None, [])
    assert sentences(decision)[0].startswith("No recommendation for h100/toy")


def test_no_gain_is_told_over_what_gives_nothing() -> None:
    """Goodput without speculation is 0 in some draws: no share of it is a gain, and the figure itself stands."""
    choice = choose([simulated(NOTHING, "none", 0), simulated(DSPARK, "fixed:7", 150)], VLLM)
    assert not isinstance(choice, str)
    nothing, some = np.where(np.arange(len(DRAWS)) % 2, 0.0, 10.0), np.full(len(DRAWS), 150.0)
    found = {choice.run: sampled(some), choice.none: sampled(nothing, kept=False)}
    decision = decide(msgspec.structs.replace(STUB, figure="goodput"), choice, found, DRAWS, VLLM)
    assert decision.gains == []
    assert decision.value is not None
    assert decision.value.value == 150


def test_a_gain_that_hangs_on_the_profile_says_so() -> None:
    """With the profile held it is 5 ± 1 %, with its errors 5 ± 60 %: nothing is clear, and measuring is what helps."""
    rng = np.random.default_rng(1)
    ratio = np.exp(np.where([d.off for d in DRAWS], 0.3, 0.005) * rng.standard_normal(len(DRAWS)))
    choice = choose([simulated(NOTHING, "none", 100), simulated(DSPARK, "fixed:7", 105)], VLLM)
    assert not isinstance(choice, str)
    even = np.full(len(DRAWS), 100.0)
    decision = decide(STUB, choice, {choice.run: sampled(105 * ratio), choice.none: sampled(even)}, DRAWS, VLLM)
    [gain] = decision.gains
    assert not gain.clear
    assert gain.all.low < 0 < gain.held.low
    assert "profile" in decision.next
    for found in (decision, STUB):
        assert Decision.read(json.loads(json.dumps(found.row()))) == found
    row = decision.row()
    assert (row["load"], STUB.row()["candidate"]) == ("users:8/0", {})
    assert row["candidate"] == {
        "drafter": "new", "gamma": 7, "policy": "fixed:7", "confidences": "none", "request_cap": 256, "kind": "dspark",
        "drafting": "greedy",
    }  # fmt: skip
    assert all(sentences(decision))


def test_the_command_says_what_was_simulated() -> None:
    models = Models(target="me/target", checkpoints={"old": "me/new"}, temperature=1.0)
    options = {"modelled": "target", "request_cap": 64, "step_tokens": 8192, "gpus": 2, "replicas": 1}
    greedy = serve(VLLM, models, EAGLE3, PolicySpec.parse("fixed:3"), drafting="greedy", **options)  # type: ignore[arg-type]
    assert '"num_speculative_tokens": 3' in greedy.command
    assert '"draft_sample_method": "greedy"' in greedy.command
    assert "--max-num-seqs 64" in greedy.command
    assert "--tensor-parallel-size 2" in greedy.command
    sampled_drafts = serve(VLLM, models, EAGLE3, PolicySpec.parse("fixed:3"), drafting="sampled", **options)  # type: ignore[arg-type]
    assert '"draft_sample_method": "probabilistic"' in sampled_drafts.command
    plain = serve(VLLM, models, NOTHING, PolicySpec("none"), drafting="greedy", **options)  # type: ignore[arg-type]
    assert "speculative" not in plain.command


def test_rows_end_at_the_request_cap() -> None:
    assert batch_rows(PolicySpec.parse("k_by_batch:8=7/32=3"), 7, 16) == [(1, 8, 7), (9, 16, 3)]
    assert batch_rows(PolicySpec.parse("cutoff:8"), 7, 16) == [(1, 8, 7), (9, 16, 0)]


def test_a_command_of_replicas_and_of_loads_below_the_cap() -> None:
    """A table ends at what ran; under data parallelism vLLM forgets it, so that replicas are servers of their own."""
    models = Models(target="me/target", checkpoints={"old": "me/new"}, temperature=0.0)
    options = {"modelled": "target", "request_cap": 64, "step_tokens": 8192, "gpus": 1, "drafting": "greedy",
               "replicas": 2, "most_running": 16}  # fmt: skip
    fixed = serve(VLLM, models, EAGLE3, PolicySpec.parse("fixed:3"), **options)  # type: ignore[arg-type]
    assert "--data-parallel-size 2" in fixed.command
    table = serve(VLLM, models, EAGLE3, PolicySpec.parse("k_by_batch:8=3/64=1"), **options)  # type: ignore[arg-type]
    assert '"num_speculative_tokens_per_batch_size": [[1, 8, 3], [9, 16, 1]]' in table.command
    assert "--data-parallel-size" not in table.command
    assert any("start 2 such servers" in note for note in table.notes)
    assert any("no more than 16 requests ran" in note for note in table.notes)


def test_overload_is_not_called_a_broken_promise() -> None:
    drowned = [
        msgspec.structs.replace(simulated(r, policy, 100, kept=False), keeps_up=False)
        for r, policy in ((NOTHING, "none"), (DSPARK, "fixed:7"))
    ]
    assert str(choose(drowned, VLLM)).startswith("overload")
    slow = [simulated(NOTHING, "none", 100, kept=False), simulated(DSPARK, "fixed:7", 90, kept=False)]
    assert "promise" in str(choose(slow, VLLM))


def test_what_was_not_drafted_cannot_be_served() -> None:
    assert "only 7 drafted" in cannot_run(VLLM, EAGLE3, PolicySpec.fixed(8), 256)


def test_a_table_of_one_k_is_no_other_choice() -> None:
    """At 256 requests at most, k_by_batch:256=7 is fixed:7: the runner-up is the drafter behind it."""
    found = [
        simulated(NOTHING, "none", 100), simulated(DSPARK, "fixed:7", 150), simulated(DSPARK, "k_by_batch:256=7", 150),
        simulated(EAGLE3, "fixed:3", 140),
    ]  # fmt: skip
    choice = choose(found, VLLM)
    assert not isinstance(choice, str)
    assert choice.runner_up == candidate(EAGLE3, "fixed:3")


@pytest.mark.parametrize(
    ("users", "replicas", "rival"),
    [(64, 1, "fixed:5"), (65, 1, "k_by_batch:64=3/256=2"), (128, 2, "fixed:5"), (130, 2, "k_by_batch:64=3/256=2")],
)
def test_a_table_is_what_runs_at_the_load(users: int, replicas: int, rival: str) -> None:
    """At 64 users or fewer on a replica k_by_batch:64=3/256=2 is fixed:3, whatever it does with more."""
    found = [
        simulated(NOTHING, "none", 100), simulated(EAGLE3, "fixed:3", 150), simulated(EAGLE3, "k_by_batch:64=3/256=2", 150),
        simulated(EAGLE3, "fixed:5", 140),
    ]  # fmt: skip
    choice = choose(found, VLLM, load=Users(users), replicas=replicas)
    assert not isinstance(choice, str)
    assert choice.runner_up == candidate(EAGLE3, rival)


def test_tables_that_differ_where_nothing_runs_are_one() -> None:
    tables = [candidate(EAGLE3, f"k_by_batch:16=5/64=3{rest}") for rest in ("/96=1/256=2", "/256=1", "/256=2")]
    assert len({table.while_running(64) for table in tables}) == 1
    assert len({table.while_running(table.request_cap) for table in tables}) == 3


def test_what_gives_the_same_in_every_draw_is_no_rival() -> None:
    found = [simulated(NOTHING, "none", 100), simulated(DSPARK, "fixed:7", 150), simulated(EAGLE3, "fixed:7", 140)]
    choice = choose(found, VLLM)
    assert not isinstance(choice, str)
    for old, is_rival in ((150.0, False), (149.99, True)):
        drawn = drawn_as(choice, none=(100, True), new=(150, True), old=(old, True))
        assert (settle(choice, drawn, DRAWS).runner_up is not None) == is_rival
        drawn = drawn_as(choice, none=(150, True), new=(150, True), old=(old, True))  # and nothing is what runs
        assert (settle(choice, drawn, DRAWS).runner_up is not None) == is_rival


def test_what_is_not_better_beyond_doubt_is_not_told() -> None:
    rng = np.random.default_rng(2)
    own, even = np.exp(0.02 * rng.standard_normal(len(DRAWS))), np.full(len(DRAWS), 150.0)
    found = [simulated(NOTHING, "none", 100), simulated(DSPARK, "fixed:7", 150), simulated(DSPARK, "prefix_scheduler", 151)]
    choice = choose(found, VLLM)
    assert not isinstance(choice, str)
    assert choice.better is not None
    for more, told in ((151 / 150, False), (1.2, True)):
        values = {choice.run: sampled(even), choice.none: sampled(even / 1.5), choice.better: sampled(even * own * more)}
        said = " ".join(sentences(decide(STUB, choice, values, DRAWS, VLLM)))
        assert ("cannot run" in said) == told
