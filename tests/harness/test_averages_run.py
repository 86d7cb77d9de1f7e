"""A run made from one's own averages: what users may write; what is stored has these averages and says where from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.console import Watcher
from harness.published.averages import Stated, averages_of, drafter_of, publish_averages, target_of
from harness.sweeps.plan import points
from results.store.database import Store
from results.store.recordings import Recordings, choose_drafting
from results.store.runs import provenance
from simulator.averages import Averages
from simulator.errors import InputError
from simulator.hardware.catalogue import find_profile
from simulator.hardware.profile import may_be_one_model, same_model
from simulator.load import Arrivals, Load, Users
from simulator.plan import SweepPlan
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.records import Recording
from simulator.sla import Sla

QUIET = Watcher(lambda text: None, lambda stage, done, total: None)
MATH, CHAT = Averages((0.8, 0.6, 0.5)), Averages((0.6, 0.3, 0.2))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    found = Store(tmp_path_factory.mktemp("averages") / "specyard.duckdb")
    stated = Stated(
        averages={"math": MATH, "chat": CHAT}, drafter="mine", kind="eagle3", target="llama-3.1-8b", responses_per_task=40,
        output_tokens=101,
    )  # fmt: skip
    publish_averages(stated, found, QUIET.say)
    return found


def test_three_ways_to_write_one_drafter() -> None:
    """By hand: .8 · .75 = .6 and .6 · 5/6 = .5; 1 + α + α² = 1.75 at α = .5."""
    assert averages_of(["math=.8,.6,.5", "chat=60%,30%,20%"], [], [], None) == {"math": MATH, "chat": CHAT}
    [conditional] = averages_of([], [".8,.75,.8333333333"], [], 3).values()
    assert conditional.survival == pytest.approx(MATH.survival)
    [alike] = averages_of([], [], ["1.75"], 2).values()
    assert alike.survival == pytest.approx((0.5, 0.25))
    [found] = averages_of([], [], ["1.75"], 2, look_up=True).values()
    each = 0.75 + 0.75**2
    assert found.survival == pytest.approx((0.75 * 0.75 / each, 0.75 * 0.75**2 / each))


@pytest.mark.parametrize(
    ("survival", "conditional", "length", "gamma", "message"),
    [
        ([".5,.6"], [], [], None, "--survival .5,.6: position 2"),
        ([".5", "math=.5"], [], [], None, "name all"),
        (["math=.5"], ["math=.5"], [], None, "given twice"),
        (["=.5"], [], [], None, "names no domain"),
        (["math=.5", "chat=.5,.4"], [], [], None, "1 in math, 2 in chat"),
        ([".5,.4"], [], [], 3, "--gamma 3"),
        ([], [], ["3.4"], None, "needs --gamma"),
        ([], [], ["3.4"], 2, "1 to 3 tokens"),
        ([], [], ["3.4,2"], 7, "is one number"),
    ],
)
def test_what_cannot_be_meant(
    survival: list[str], conditional: list[str], length: list[str], gamma: int | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        averages_of(survival, conditional, length, gamma)


def test_names_of_drafters_and_targets(tmp_path: Path) -> None:
    assert drafter_of("eagle3") == ("eagle3", "eagle3")
    assert drafter_of("mine=mtp") == ("mine", "mtp")
    for wrong in ("none", "mine=medusa", "=mtp", "none=mtp", "mine"):
        with pytest.raises(InputError, match="--drafter"):
            drafter_of(wrong)
    for name, content, said in (
        ("llama-3.1-8b.config.json", {"model_type": "llama"}, ("llama-3.1-8b", "llama-3.1-8b.config.json")),
        ("config.json", {"model_type": "llama", "_name_or_path": "org/model"}, ("org/model", "")),
        ("config.json", {"model_type": "llama"}, (tmp_path.name, "config.json")),
    ):
        (tmp_path / name).write_text(json.dumps(content))
        assert target_of(str(tmp_path / name)) == (*said, str(tmp_path / name))
    assert target_of(str(tmp_path)) == target_of(str(tmp_path / "config.json"))
    (tmp_path / "config.json").write_text("[]")
    (tmp_path / "empty").mkdir()
    for wrong in (str(tmp_path / "config.json"), *(str(tmp_path / name) for name in ("none.json", "none.jso", "empty"))):
        with pytest.raises(InputError, match="--target"):
            target_of(wrong)
    assert target_of("org/model") == ("org/model", "", "")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B", True),
        ("meta-llama/Llama-3.1-8B", "llama-3.1-8b", True),
        ("Qwen/Qwen3-4B", "/models/Qwen3-4B", True),
        ("Qwen/Qwen3-4B", "", True),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-4B", False),
        ("Qwen/Qwen3-4B", "llama-3.1-8b", False),
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-14B", False),
        ("llama", "meta-llama/Llama-3.1-70B", False),
        ("qwen3", "Qwen/Qwen3-4B", False),
        ("meta-llama/Llama-3.1-8B-Instruct", "Llama3.1-8B", True),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.2-8B", False),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507-FP8", "qwen3-30b-a3b", True),
        ("deepseek-ai/DeepSeek-V4-Flash", "DeepSeek-V4-Pro", False),
        ("google/gemma-4-12B-it", "gemma-4-12b", True),
        ("openai/gpt-oss-20b", "openai/gpt-oss-120b", False),
        ("GLM-5.2", "GLM-5", False),
    ],
)
def test_two_names_of_one_model(one: str, other: str, same: bool) -> None:
    assert same_model(one, other) == same


@pytest.mark.parametrize(
    ("one", "other", "may"),
    [
        ("llama", "meta-llama/Llama-3.1-70B", True),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-4B", False),
        ("llama", "Qwen/Qwen3-4B", False),
    ],
)
def test_two_names_that_may_be_of_one_model(one: str, other: str, may: bool) -> None:
    assert may_be_one_model(one, other) == may


def test_what_is_stored_has_the_averages_and_is_labelled(store: Store) -> None:
    """To one anchor in the 4,000 of a domain; τ of plain verification as they say, within the noise of a replay."""
    run_id = store.find_run("latest")
    trace = store.trace(run_id, Recording("mine", 3, drafting="greedy"))
    domains = np.repeat([r.domain for r in trace.responses], np.diff(trace.offsets))
    for domain, own in (("math", MATH), ("chat", CHAT)):
        accepted = trace.anchors.accepted[domains == domain]
        assert len(accepted) == 4000
        assert [(accepted >= k).mean() for k in (1, 2, 3)] == pytest.approx(own.survival, abs=1 / 4000)
    assert set(store.draftings(run_id)) == {"sampled", "greedy"}
    with store.reading() as connection:
        told = provenance(connection, run_id)
    assert (told.prompt_source, told.target) == ("synthesised", "llama-3.1-8b")
    assert {d.name: d.kind for d in told.drafters} == {"none": "none", "mine": "eagle3"}
    assert any("no confidences" in line for line in told.sources)
    assert any("0.8, 0.6, 0.5" in line for line in told.sources)


def test_policies_that_read_confidences_are_left_out_and_said(store: Store) -> None:
    """Shorter drafts are compared where nothing could tell Algorithm 1 which to cut."""
    run_id, said = store.find_run("latest"), list[str]()
    drafting = choose_drafting(store, run_id, None, said.append)
    plan = SweepPlan(profile=find_profile("h100/qwen3-4b"), loads=[Users(4)], drafting=drafting, decision_draws=10)
    found = points(plan, Recordings(store, run_id, drafting), said.append)
    assert [(p.configuration.recording.drafter, str(p.setup.policy)) for p in found] == [
        ("none", "none"),
        ("mine", "fixed:3"),
        ("mine", "fixed:2"),
        ("mine", "fixed:1"),
    ]
    assert [line for line in said if "prefix_scheduler" in line and "left out" in line]


def test_drafters_are_compared_on_what_all_were_asked(tmp_path: Path) -> None:
    """Where some responses of one are not there, as after a rescue, the others are left out too, and that is said."""
    command = ["synthesize", "--responses-per-task", "4", "--output-tokens", "40", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "harness", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    store = Store(tmp_path / "specyard.duckdb")
    run_id, said = store.find_run("latest"), list[str]()
    with store.writing() as con:
        for table in ("anchors", "recordings", "rounds"):
            con.execute(f"DELETE FROM {table} WHERE drafter = 'dspark' AND prompt_id LIKE '%0'")
    plan = SweepPlan(profile=find_profile("h100/qwen3-4b"), loads=[Users(4)], drafting="sampled", decision_draws=10,
                     drafters=["dspark", "mtp"], policies=[PolicySpec.parse("fixed:1")])  # fmt: skip
    recordings = Recordings(store, run_id, "sampled")
    found = points(plan, recordings, said.append)
    asked = [{(r.prompt_id, r.turn) for r in recordings.trace(point.recording).responses} for point in found]
    assert asked[0] == asked[1] != set()
    assert not any(prompt.endswith("0") for prompt, _ in asked[0])
    assert any("which not all of these drafters were recorded on" in line for line in said)


def test_bare_numbers_are_refused_with_both_readings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness", "synthesize", ".72,.53,.38", "--out", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--survival .72,.53,.38" in done.stderr
    assert "--conditional .72,.53,.38" in done.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("loads", "options", "searched"),
    [
        ([Users(4), Arrivals(2)], {}, [False, True]),
        ([Users(4), Arrivals(2)], {"users": 100}, [True, True]),
        ([Users(4), Arrivals(2)], {"headroom": True}, [True, True]),
        ([Users(4), Arrivals(2)], {"headroom": False, "users": 100}, [False, False]),
        ([Users(4), Arrivals(2)], {"slas": []}, [False, False]),
        ([Arrivals(n) for n in range(1, 5)], {}, [True] * 4),
        ([Arrivals(n) for n in range(1, 6)], {}, [False] * 5),
    ],
)
def test_whose_headroom_is_searched(store: Store, loads: list[Load], options: dict[str, Any], searched: list[bool]) -> None:
    """Of two policies at each load: as asked, or of open loads with a promise where they come to eight points or fewer."""
    run_id = store.find_run("latest")
    plan = SweepPlan(
        profile=find_profile("h100/qwen3-4b"),
        loads=loads,
        policies=[NO_DRAFTER, PolicySpec.fixed(3)],
        **{"slas": [Sla.parse("tps>=10")], "decision_draws": 0, **options},
    )
    found = points(plan, Recordings(store, run_id, "sampled"), QUIET.say)
    assert [p.headroom for p in found] == searched * 2
