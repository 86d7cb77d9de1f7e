"""The space: finite, conditional, lossless, and the same for everybody who walks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from simulator.errors import InputError
from simulator.hardware.profile import Profile
from simulator.plan import SAMPLERS, StudyPlan
from simulator.policies import PolicyKind, PolicySpec
from simulator.records import Recording
from tests.tuner.configurations import configuration, plain
from tuner.objective import Scenario, TrialJob
from tuner.plan import StudyInputs
from tuner.samplers import propose, study_of
from tuner.search import Run, Search
from tuner.space import COORDINATES, OfferedRecording, PointChooser, Space, SuggestedChooser, leaf, request_caps

DSPARK, EAGLE3 = Recording("dspark", 7), Recording("eagle3", 5)
SPACE = Space(
    recorded=(
        OfferedRecording(DSPARK, ("raw", "calibrated")),
        OfferedRecording(EAGLE3, ()),
        OfferedRecording(Recording("mtp", 1), ("estimated",)),
    ),
    request_caps=(8, 32, 64),
    binding=32,
    tables={DSPARK: PolicySpec("k_by_batch", "8=7/64=3"), EAGLE3: PolicySpec("k_by_batch", "64=2")},
)


def test_every_configuration_is_there_once() -> None:
    found = [one.configuration for one in SPACE.leaves()]
    assert len(found) == len(set(found))
    # caps · (none, dspark: fixed, weights, 2 · (thresholds, prefix, lags · averages), vLLM's; eagle3: fixed, weights;
    # mtp: fixed, weights, thresholds, prefix, lags · averages)
    dspark, eagle3, mtp = 7 + 4 + 2 * (19 + 1 + 12) + 1, 5 + 4, 1 + 4 + 19 + 1 + 12
    # What is no fixed block under another name: cutoffs below 8 and twice below 32; dspark's table where more than 8 run.
    cutoffs, tables = 3 * (3 + 5 + 5), 2
    assert len(found) == 3 * (1 + dspark + eagle3 + mtp) + cutoffs + tables


def test_choices_are_those_of_their_branch() -> None:
    by_configuration = {one.configuration: one.choices for one in SPACE.leaves()}
    assert set(by_configuration[plain(8)]) == {"drafter", "request cap"}
    fixed = by_configuration[configuration("eagle3", 5, "fixed:2", "none", 64)]
    assert fixed == {
        "drafter": "eagle3 γ=5",
        "request cap": 2,
        "policy (no confidences, no k_by_batch)": "fixed",
        "k of 5": 1,
    }
    lagged = by_configuration[configuration("dspark", 7, "lagged_scheduler:2/0.5", "raw", 32)]
    assert {"confidences (raw, calibrated)", "lag", "moving average"} < set(lagged)
    assert not {"threshold", "weight"} & set(lagged)
    assert not any(name.startswith("cutoff") for name in lagged)


def test_nothing_biased_and_nothing_unknown_is_offered(profile: Profile) -> None:
    for one in SPACE.leaves():
        c = one.configuration
        policy = c.policy.bind(profile.cost("none", 0, 1, 2))
        assert policy.lossless
        assert (c.recording.confidences != "none") == policy.reads_confidences
        assert not policy.wants_raw_confidences or c.recording.confidences == "raw"


def test_points_and_optuna_arrive_at_the_same_leaves() -> None:
    leaves = {one.configuration: one for one in SPACE.leaves()}
    rng = np.random.default_rng(0)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(200):
        for reached in (leaf(SPACE, PointChooser(rng.random(COORDINATES))), leaf(SPACE, SuggestedChooser(study.ask()))):
            assert reached == leaves[reached.configuration]


def test_every_suggestion_simulates(
    here: Callable[[StudyPlan], tuple[StudyInputs, Scenario, Search, Run]], plan_of: Callable[..., StudyPlan]
) -> None:
    _, scenario, what, run = here(plan_of())
    by_kind = {(one.configuration.recording, one.configuration.policy.name): one.configuration
               for one in what.space.leaves()}  # fmt: skip
    results = run([TrialJob(c, scenario, 1.0, 0) for c in by_kind.values()])
    assert [r for r, _ in results if isinstance(r, str)] == []
    assert len(by_kind) >= 20


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_proposals_are_new_and_depend_on_the_past_alone(
    sampler: str, here: Callable[[StudyPlan], tuple[StudyInputs, Scenario, Search, Run]], plan_of: Callable[..., StudyPlan]
) -> None:
    from tuner.search import search

    _, _, what, run = here(plan_of(seconds=2.0, drafters=["dspark"], sampler=sampler, trials=18))
    done = search(what, [], [], run, lambda batch: None)
    assert len({t.configuration for t in done}) == len(done) == 18
    again = propose(what.space, done[:16], [], 2, objective="throughput", sampler=sampler, seed=what.seed)
    assert [p.leaf for p in again] == [t.leaf for t in done[16:]]
    assert len(study_of(done, "throughput").trials) == 18


def test_a_search_ends_when_everything_was_tried(
    here: Callable[[StudyPlan], tuple[StudyInputs, Scenario, Search, Run]], plan_of: Callable[..., StudyPlan]
) -> None:
    from tuner.search import search

    plan = plan_of(seconds=2.0, drafters=["mtp"], policies=[PolicyKind("fixed")], trials=50, request_cap=4)
    _, _, what, run = here(plan)
    assert len(search(what, [], [], run, lambda batch: None)) == len(list(what.space.leaves())) < 10


def test_request_caps_bind_or_do_not() -> None:
    assert request_caps(64, 256) == (8, 16, 32, 40, 48, 56, 256)
    assert request_caps(256, 256) == (32, 64, 128, 160, 192, 224, 256)
    assert request_caps(1, 256) == (256,)
    assert request_caps(16, 256) == (2, 4, 8, 10, 12, 14, 256)
    assert request_caps(3, 4) == (1, 2, 4)


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(InputError, match="--policy oracle: cannot be searched; those that can are fixed"):
        Space(recorded=(), request_caps=(1,), binding=1, policies=(PolicyKind("oracle"),))


def test_a_policy_of_one_s_own_is_searched(tmp_path: Path) -> None:
    """With the parameters that it names, on recordings that have what it reads; or with the one that was asked for."""
    file = tmp_path / "mine.py"
    head = (
        "from simulator.policies import Policy\nclass Mine(Policy):\n  searched = ('1', '2')\n  reads_confidences = True\n"
    )
    body = (
        "  def __init__(self, n):\n    pass\n  @classmethod\n  def parameters(cls, text):\n    return (int(text or '1'),)\n"
    )
    file.write_text(f"{head}{body}  def admit(self, step):\n    pass\n", encoding="utf-8")
    mine = str(PolicySpec.asked(f"{file}:Mine"))
    space = replace(SPACE, policies=(PolicyKind.parse(mine), PolicyKind("fixed")))
    every = [one.configuration for one in space.leaves()]
    found = {(c.recording.drafter, str(c.policy)) for c in every if ".py:" in str(c.policy)}
    assert found == {(name, f"{mine}:{n}") for name in ("dspark", "mtp") for n in "12"}
    [only] = {
        str(one.configuration.policy)
        for one in replace(SPACE, policies=(PolicyKind.parse(f"{mine}:2"),)).leaves()
        if one.configuration.recording.drafter == "dspark"
    }
    assert only == f"{mine}:2"
    file.write_text(f"{head}  lossless = False\n{body}  def admit(self, step):\n    pass\n", encoding="utf-8")
    with pytest.raises(InputError, match="is a bound, as it says of itself"):
        replace(SPACE, policies=(PolicyKind.asked(f"{file}:Mine"),))
