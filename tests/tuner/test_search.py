"""Searching: the same whoever computes it and however often it stops, within bounds, and right where the answer is known."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from harness.cluster import Cluster
from harness.console import Watcher
from results.store.database import Store, without_nan
from results.store.decisions import decisions
from results.store.runs import kinds_of
from results.store.studies import Studies, read_study
from simulator.decision import Decision
from simulator.hardware.catalogue import find_profile
from simulator.hardware.profile import Curve, DraftCurve, Profile
from simulator.load import Arrivals, Load, Users
from simulator.plan import StudyPlan
from simulator.policies import NO_DRAFTER
from simulator.recommendation import Question, decision_of
from simulator.records import Recording
from simulator.simulation import prepare, redrawn
from simulator.sla import Sla
from simulator.traces import split_of
from tests.tuner.configurations import configuration, plain
from tests.tuner.conftest import QUIET
from tuner.decision import StudyEvidence
from tuner.display import print_study
from tuner.export import export_content, export_study
from tuner.objective import KEEPS_UP, KNOWN, Scenario, TrialJob, TrialWorker
from tuner.plan import StudyInputs
from tuner.prompts import TraceKey
from tuner.samplers import BATCH, study_of
from tuner.search import Result, Run, Search, search
from tuner.study import resume_study, start_study
from tuner.trial import Trial, TrialRung, front, ranked

Here = Callable[[StudyPlan], tuple[StudyInputs, Scenario, Search, Run]]
OPTIONS: dict[str, Any] = {
    "loads": [Users(8), Users(16)], "objective": "throughput", "seconds": 4.0, "trials": 16, "confirmation_draws": 5,
    "decision_draws": 10,     "request_cap": 32, "slas": [Sla.parse("tps>=100")],
}  # fmt: skip
ONE: dict[str, Any] = {**OPTIONS, "loads": [Users(8)], "trials": 24, "drafters": ["dspark"]}


def stored(store: Store, study_id: str) -> list[dict[str, Any]]:
    """All that a study decides: everything but clocks."""
    studies = Studies(store)
    with store.reading() as connection:
        decided = [{str(load): decision.row() for load, decision in decisions(connection, study_id).items()}]
        found = read_study(connection, study_id)
    rows = [*studies.trials(study_id), *(one.row() for one in (*found.confirmations, *found.sensitivities)), *decided]
    return [{k: v for k, v in row.items() if k != "wall_s"} for row in rows]


def started(store: Store, options: dict[str, Any], watcher: Watcher = QUIET, cluster: Cluster | None = None) -> str:
    """A study of the one run, on a profile that is bundled."""
    plan = StudyPlan(profile=find_profile("h100/qwen3-4b"), **options)
    return start_study(store, store.find_run("latest"), plan, watcher, cluster=cluster, time_limit_s=None)


@pytest.fixture(scope="module")
def study(store: Store) -> str:
    return started(store, OPTIONS)


@pytest.fixture(scope="module")
def small(store: Store) -> list[dict[str, Any]]:
    return stored(store, started(store, ONE))


@pytest.mark.slow
@pytest.mark.ray
def test_the_same_study_on_workers(store: Store, small: list[dict[str, Any]]) -> None:
    there = started(store, ONE, cluster=Cluster(actors=2))
    assert stored(store, there) == small


@pytest.mark.slow
def test_a_killed_study_goes_on_as_if_nothing_had_happened(store: Store, small: list[dict[str, Any]]) -> None:
    class Killed(BaseException):
        pass

    def die(stage: str, done: int, total: int) -> None:
        if done >= 16:
            raise Killed

    with pytest.raises(Killed):
        started(store, ONE, Watcher(lambda text: None, die))
    killed = Studies(store).find("latest")
    assert killed["finished_at"] is None
    assert len(Studies(store).trials(killed["study_id"])) == 16
    assert resume_study(store, killed["study_id"][:5], None, QUIET, cluster=None, time_limit_s=None) == killed["study_id"]
    assert stored(store, killed["study_id"]) == small
    assert Studies(store).find("latest")["finished_at"] is not None


def _exported(store: Store, study_id: str) -> str:
    return " ".join(export_study(store, study_id, "vllm", 4).replace("\n#", "").split())


@pytest.mark.slow
def test_what_was_decided_before_a_stop_is_not_decided_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped at the second load's decision: the first one's is kept and shown, and comes to the same as in one go."""
    options = {**ONE, "loads": [Users(4), Users(16)], "trials": 4}
    whole = started(store, options)
    asked: list[Load] = []

    def once(question: Question, evidence: StudyEvidence) -> Decision:
        asked.append(question.load)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return decision_of(question, evidence)

    monkeypatch.setattr("tuner.course.decision_of", once)
    with pytest.raises(KeyboardInterrupt):
        started(store, options)
    study_id = Studies(store).find("latest")["study_id"]
    capsys.readouterr()
    print_study(store, study_id, as_json=False)
    shown = capsys.readouterr().out
    assert "this study is not finished" in shown
    assert f"NOT FINISHED: it may end otherwise; go on with: tuner search --resume {study_id}" in _exported(store, study_id)
    assert not export_content(store, study_id, 4)["finished"]
    assert re.search(r"16 users:? +not decided yet; 4 of 4 configurations tried", shown)
    assert "nothing keeps" not in shown
    resume_study(store, study_id, None, QUIET, cluster=None, time_limit_s=None)
    assert asked == [Users(4), Users(16), Users(16)]
    assert "NOT FINISHED" not in _exported(store, study_id)

    def found(name: str) -> Any:
        with store.reading() as connection:
            study = read_study(connection, name)
            return study.confirmations, {*study.sensitivities}, decisions(connection, name)

    assert found(study_id) == found(whole)
    resume_study(store, study_id, 5, QUIET, cluster=None, time_limit_s=None)
    assert asked[3:] == [Users(4), Users(16)]


def test_rows_read_back_as_the_trials_they_were_and_optuna_agrees(store: Store, study: str) -> None:
    rows = Studies(store).trials(study, "users:16/0")
    kinds = kinds_of(store.run(Studies(store).find(study)["run_id"]))
    trials = [Trial.read(row, "sampled", kinds) for row in rows]
    drafting = [t.configuration.recording for t in trials if t.configuration.policy != NO_DRAFTER]
    assert all(recording.kind == kinds[recording.drafter] for recording in drafting)
    assert [without_nan(t.row()) for t in trials] == [{k: v for k, v in row.items() if k != "load"} for row in rows]
    theirs = study_of(trials, "throughput")
    for row, optuna_trial in zip(rows, theirs.trials, strict=True):
        assert optuna_trial.number == row["number"]
        assert optuna_trial.params == row["params"]
        assert optuna_trial.values == row["objectives"]
        assert optuna_trial.constraints == row["violations"]
    best = ranked(trials)[0]
    assert theirs.best_trial.value >= best.last.values[0]
    assert {t.state for t in trials} == {"complete", "cut"}
    assert {t.origin for t in trials} >= {"start", "neighbour"}


def none_of(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next(r for r in rows if r["drafter"] == "none")


def test_the_winner_keeps_the_bounds_on_prompts_the_search_has_not_seen(store: Store, study: str, grounds: Any) -> None:
    with store.reading() as connection:
        found = read_study(connection, study)
    for load in OPTIONS["loads"]:
        rows = [one.row() for one in found.confirmations if one.load == load]
        assert rows[0]["role"] == "winner"
        assert rows[0]["feasible"]
        assert rows[0]["figures"]["tps"] >= 100
        assert rows[0]["half_widths"]["throughput"] > 0
        shown = {(r["role"], r["drafter"], r["policy"]) for r in rows}
        assert {("default", "none", "none"), ("default", "dspark", "fixed:7"), ("scheduler", "dspark", "prefix_scheduler"),
                ("default", "dflash", "fixed:7"), ("default", "eagle3", "fixed:7"),
                ("bound", "dspark", "oracle")} <= shown  # fmt: skip
        assert "mtp" not in {r["drafter"] for r in rows}  # vLLM has none for plain dense Qwen3
        table = next(r for r in rows if r["role"] == "k by batch")
        assert -0.05 < (1 + none_of(rows)["gain"]) / (1 + table["gain"]) - 1 - table["figures"]["over none"] < 0.05
        bound = next(r for r in rows if r["role"] == "bound" and r["drafter"] == rows[0]["drafter"])
        assert bound["gain"] < 0
        none = none_of(rows)
        assert none["gain"] - none["gain_half_width"] > 0.5
    assert {(one.load, one.kind) for one in found.sensitivities} == {
        (load, kind) for load in OPTIONS["loads"] for kind in ("choice", "load", "mix", "verify", "elsewhere")
    }


@pytest.mark.slow
def test_what_decides_is_asked_of_what_is_to_be_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The draws may decide against the search's winner: then it is their choice that a reader sets otherwise."""
    plainest = plain(OPTIONS["request_cap"])

    def against(question: Question, evidence: StudyEvidence) -> Decision:
        return msgspec.structs.replace(decision_of(question, evidence), candidate=plainest)

    monkeypatch.setattr("tuner.course.decision_of", against)
    study_id = started(store, {**ONE, "trials": 8})
    with store.reading() as connection:
        found = read_study(connection, study_id)
    choices = {one.what: one for one in found.sensitivities if one.kind == "choice"}
    assert found.confirmations[0].configuration != plainest
    assert choices["drafter"].value == "dspark"
    assert (choices["drafter"].loss or 0.0) < -0.5
    assert set(choices) <= {"drafter", "request cap"}
    assert all(one.moved for one in found.sensitivities if one.kind == "verify")


def test_parts_share_no_prompt(grounds: Callable[[StudyPlan], StudyInputs], plan_of: Callable[..., StudyPlan]) -> None:
    found = grounds(plan_of())
    parts = {part: {r.prompt_id for r in found.traffic.trace(TraceKey(part, Recording("dspark", 7, "raw"))).responses}
             for part in ("search", "confirmation")}  # fmt: skip
    assert not parts["search"] & parts["confirmation"]
    for part, prompts in parts.items():
        assert {split_of(p) for p in prompts} == {part}
        assert found.traffic.prompts(part) == len(prompts)  # type: ignore[arg-type]
        for drafter, gamma in (("dflash", 7), ("mtp", 1)):
            own = found.traffic.trace(TraceKey(part, Recording(drafter, gamma)))  # type: ignore[arg-type]
            assert {r.prompt_id for r in own.responses} == prompts
    trace = found.traffic.trace(TraceKey("confirmation", Recording("dspark", 7, "raw")))
    again = redrawn(prepare(trace), np.random.default_rng(1)).times
    assert again is not None
    assert 0 in again
    of_domain = np.array([r.domain for r in trace.responses])
    shares = {d: again[of_domain == d].sum() / again.sum() for d in set(of_domain)}
    assert shares == pytest.approx({d: (of_domain == d).mean() for d in set(of_domain)}, abs=0.01)
    mtp = found.traffic.trace(TraceKey("confirmation", Recording("mtp", 1, "none")))
    other = redrawn(prepare(mtp), np.random.default_rng(1)).times
    assert other is not None
    of_prompt = {r.prompt_id: n for r, n in zip(trace.responses, again, strict=True)}
    assert {r.prompt_id: n for r, n in zip(mtp.responses, other, strict=True)} == of_prompt


def curve(seconds_per_token: float, least: float = 0.01) -> Curve:
    return Curve((1, 4096), (least + seconds_per_token, least + 4096 * seconds_per_token))


def simple(profile: Profile, verify: Curve, draft_s: float) -> Profile:
    """Nothing but verification and drafting takes time."""
    one = DraftCurve((1, 7), (Curve((1,), (draft_s,)),) * 2, block=True)
    drafts = dict.fromkeys(("dspark", "dflash", "eagle3", "mtp"), one)
    return Profile(
        name="simple", device="none", model=profile.model, source="user", provenance={},
        kv_capacity_tokens=profile.kv_capacity_tokens, verify=verify, draft=drafts,
    )  # fmt: skip


def test_free_verification_is_used_to_the_full(profile: Profile, here: Here, plan_of: Callable[..., StudyPlan]) -> None:
    """A step takes the same whatever is verified: nothing beats the whole block, and the winner equals it."""
    _, scenario, what, run = here(plan_of(simple(profile, curve(0.0), 0.0), drafters=["dspark"], trials=40))
    trials = search(what, [], [], run, lambda batch: None)
    best = ranked(trials)[0]
    whole, oracle = (
        run([TrialJob(configuration("dspark", 7, p, "none", 32), scenario, what.seconds, seed) for seed in (0, 1)])
        for p in ("fixed:7", "oracle")
    )
    for reference in (whole, oracle):  # verifying more than the oracle costs nothing
        assert best.last.values[0] == pytest.approx(np.mean([r[0]["throughput"] for r in reference]), rel=1e-3)  # type: ignore[index]


def test_dear_verification_is_not_bought(profile: Profile, here: Here, plan_of: Callable[..., StudyPlan]) -> None:
    """A token costs the same alone or in a block, and drafting costs more: expected tokens per second fall with every k."""
    _, scenario, what, run = here(plan_of(simple(profile, curve(0.001, 0.0), 0.01), drafters=["dspark", "mtp"]))
    trials = search(what, [], [(plain(32), "start")], run, lambda batch: None)
    best = ranked(trials)[0]
    none = [run([TrialJob(plain(32), scenario, what.seconds, seed)])[0][0] for seed in (0, 1)]
    assert best.last.values[0] == pytest.approx(np.mean([n["throughput"] for n in none]), rel=0.01)  # type: ignore[index]
    assert best.figures is not None
    assert best.figures["budget"] == 1


def test_bounds_are_constraints(here: Here, plan_of: Callable[..., StudyPlan]) -> None:
    slas = [Sla.parse(text) for text in ("mean_tps>=400", "tps>=350", "ttft<=200ms")]
    _, _, what, run = here(plan_of(slas=slas, trials=32))
    trials = search(what, [], [], run, lambda batch: None)
    together = "tps>=350 and ttft<=200ms"
    for t in trials:
        assert set(t.last.violations) == {"mean_tps>=400", together}
        assert t.figures is not None
        assert (t.last.violations["mean_tps>=400"] <= 0) == (t.figures["mean_tps>=400"] >= 400)
        assert (t.last.violations[together] <= 0) == (t.figures[together] >= 0.95)
    assert all(t.last.feasible for t in ranked(trials))
    assert any(not t.last.feasible and t.last.values[0] > ranked(trials)[0].last.values[0] for t in trials) or ranked(trials)


def test_an_open_loop_must_answer_what_arrives(here: Here, plan_of: Callable[..., StudyPlan]) -> None:
    _, scenario, _, run = here(plan_of(loads=[Arrivals(60)], objective="tps"))
    few, many = run(
        [
            TrialJob(plain(2), scenario, 40.0, 0),
            TrialJob(configuration("dspark", 7, "fixed:5", "none", 32), scenario, 40.0, 0),
        ]
    )
    assert scenario.violations(few[0])["keeps up"] > 0  # type: ignore[arg-type]
    assert "keeps up" not in scenario.violations(many[0])  # type: ignore[arg-type]
    assert many[0][KNOWN] == 1  # type: ignore[index]
    [moment] = run([TrialJob(plain(2), scenario, 0.5, 0)])  # too short to tell
    assert (moment[0][KNOWN], moment[0][KEEPS_UP]) == (0, 1)  # type: ignore[index]


def test_a_front_holds_what_nothing_beats(here: Here, plan_of: Callable[..., StudyPlan]) -> None:
    _, _, what, run = here(plan_of(objective="pareto", trials=40, loads=[Users(32)], seconds=10.0))
    trials = search(what, [], [], run, lambda batch: None)
    found = front(trials)
    assert len(found) > 1
    throughput, tps = zip(*(t.last.values for t in found), strict=True)
    assert list(throughput) == sorted(throughput, reverse=True)
    assert list(tps) == sorted(tps)


def test_a_failed_trial_is_a_row_with_its_error(here: Here, plan_of: Callable[..., StudyPlan]) -> None:
    _, _, what, run = here(plan_of(trials=16, seconds=4.0))

    def broken(jobs: Sequence[TrialJob]) -> list[Result]:
        return [
            ("InputError: no", 0.1) if j.configuration.recording.drafter == "dflash" else r
            for j, r in zip(jobs, run(jobs), strict=True)
        ]

    trials = search(what, [], [], broken, lambda batch: None)
    failed = [t for t in trials if t.state == "failed"]
    assert failed
    assert {t.configuration.recording.drafter for t in failed} == {"dflash"}
    assert all(Trial.read(t.row() | {"rungs": [{}]}, "sampled", {}).error == "InputError: no" for t in failed)
    assert len(study_of(trials, "throughput").get_trials(states=())) == 0
    assert "dflash" not in {t.configuration.recording.drafter for t in ranked(trials)}


def test_a_worker_says_what_went_wrong(here: Here, plan_of: Callable[..., StudyPlan]) -> None:
    found, scenario, _, _ = here(plan_of())
    worker = TrialWorker({}, found.plain)
    said, _ = worker.run(TrialJob(plain(4), scenario, 1.0, 0))
    assert isinstance(said, str)
    assert said.startswith("KeyError")


def test_only_what_noise_cannot_explain_is_cut() -> None:
    def rung(value: float, half: float = 1.0, broken: float = -1.0) -> TrialRung:
        return TrialRung(1.0, (value,), (half,), {"tps>=1": broken})

    best = rung(100.0)
    assert rung(90.0).clearly_worse(best)
    assert not rung(99.0).clearly_worse(best)
    assert not rung(90.0, 10.0).clearly_worse(best)
    assert not rung(90.0, float("nan")).clearly_worse(best)
    assert rung(200.0, broken=0.2).clearly_worse(best)
    assert not rung(200.0, broken=0.01).clearly_worse(rung(100.0, broken=0.5))
    assert not rung(90.0).clearly_worse(rung(100.0, broken=0.1))


@pytest.mark.slow
def test_more_trials_continue_a_search(here: Here, plan_of: Callable[..., StudyPlan]) -> None:
    _, _, what, run = here(plan_of(seconds=4.0))
    first = search(replace(what, trials=16), [], [], run, lambda batch: None)
    whole = [t.row() | {"wall_s": 0} for t in search(what, [], [], run, lambda batch: None)]
    assert [t.row() | {"wall_s": 0} for t in search(what, first, [], run, lambda batch: None)] == whole


def test_nothing_begins_after_the_timeout(here: Here, plan_of: Callable[..., StudyPlan]) -> None:
    _, _, what, run = here(plan_of())
    first = search(what, [], [], run, lambda batch: None, deadline=0.0)
    assert len(first) == BATCH  # nothing at all would be no study
    assert search(what, first, [], run, lambda batch: None, deadline=0.0) == first
