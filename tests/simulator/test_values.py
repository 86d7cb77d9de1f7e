"""Values that are parsed once and printed back: policies, loads, profiles."""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from simulator.arrivals import Window
from simulator.errors import InputError
from simulator.hardware.catalogue import find_profile
from simulator.hardware.cost import StepCost
from simulator.hardware.profile import dump_profile
from simulator.load import Arrivals, Load, RecordedArrivals, SeveralLoads, Users, loads
from simulator.numbers import counted
from simulator.policies import NO_DRAFTER, POLICIES, KByBatch, PolicySpec, policies_of, policy_class
from simulator.policies.lagged_scheduler import VLLM_PROFILED_CONTEXT_TOKENS, LaggedScheduler
from simulator.records import DRAFTINGS
from simulator.replay import EVEN_STEPS, replays_exactly

COST = StepCost(np.ones(9), np.ones(9), np.zeros((4, 9)), np.zeros(4))
EXAMPLES = (
    "fixed:3", "fixed:0", "threshold:0.5", "k_by_batch:8=7/32=3", "cutoff:16", "oracle", "none",
    "prefix_scheduler", "lagged_scheduler", "lagged_scheduler:4", "lagged_scheduler:3/0.5", "vllm_adaptive",
    "batch_adaptive", "batch_adaptive:0.1",
)  # fmt: skip
FACTS = ("reads_confidences", "wants_raw_confidences", "lossless", "replays_exactly", "needs_cost")
rows = st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 255)), min_size=1, max_size=5, unique_by=lambda row: row[0])
parameters: dict[str, st.SearchStrategy[str]] = {
    "fixed": st.integers(0, 10**6).map(str),
    "threshold": st.floats(0, 1).map(repr),
    "k_by_batch": rows.map(lambda rs: "/".join(f"{n}={k}" for n, k in sorted(rs))),
    "cutoff": st.integers(1, 10**6).map(str),
    "lagged_scheduler": st.tuples(st.integers(1, 8), st.floats(0, 1, exclude_max=True)).map(lambda p: f"{p[0]}/{p[1]!r}"),
    "batch_adaptive": st.floats(0, 1, exclude_min=True).map(repr),
}
texts = st.sampled_from(EXAMPLES) | st.one_of([p.map(f"{name}:{{}}".format) for name, p in parameters.items()])


@given(texts)
def test_a_policy_prints_what_it_was_read_from(text: str) -> None:
    spec = PolicySpec.parse(text)
    assert str(spec) == text or text not in EXAMPLES  # other spellings of a number become one
    assert str(PolicySpec.parse(str(spec))) == str(spec)
    assert PolicySpec.parse(str(spec)) == spec == pickle.loads(pickle.dumps(spec))


@given(texts)
@example("lagged_scheduler:1/0.9999999999999999")
def test_the_policy_itself_is_written_so_that_it_reads_back_equal(text: str) -> None:
    made = PolicySpec.parse(text).bind(COST)
    again = PolicySpec.parse(made.name).bind(COST)
    assert type(again) is type(made)
    assert again == made


@pytest.mark.parametrize("text", EXAMPLES)
def test_what_is_known_of_a_policy_without_a_cost_is_what_it_does_with_one(text: str) -> None:
    spec = PolicySpec.parse(text)
    made = spec.bind(COST)
    assert {name: getattr(spec, name) for name in FACTS} == {name: getattr(made, name) for name in FACTS}
    assert type(made) is policy_class(spec.name)
    for drafting in DRAFTINGS:
        assert replays_exactly(spec, drafting) == replays_exactly(made, drafting)
    if spec.needs_cost:
        with pytest.raises(
            InputError, match=f"policy {text}: decides by what a step costs, which a replay does not know; simulate it"
        ):
            spec.bind()
    else:
        assert spec.bind() == made


def test_every_policy_that_can_be_written_is_an_example() -> None:
    assert {PolicySpec.parse(text).name for text in EXAMPLES} == {usage.split(":")[0].split("[")[0] for usage in POLICIES}
    read = {text for text in EXAMPLES if PolicySpec.parse(text).reads_confidences}
    assert {text.split(":")[0] for text in read} == {"threshold", "prefix_scheduler", "lagged_scheduler", "vllm_adaptive"}
    assert [text for text in EXAMPLES if not PolicySpec.parse(text).lossless] == ["oracle"]


def test_what_a_policy_verifies() -> None:
    assert [PolicySpec.parse(t).k for t in ("fixed:3", "none", "cutoff:3", "prefix_scheduler")] == [3, 0, None, None]
    assert PolicySpec.fixed(3) == PolicySpec.parse("fixed:3")
    assert PolicySpec.parse("cutoff:16").k_by_batch == KByBatch.cutoff(16)
    assert PolicySpec.parse("k_by_batch:8=7").k_by_batch == KByBatch(((8, 7),))
    assert NO_DRAFTER.k_by_batch is None
    assert policies_of(None) is None
    assert policies_of(["none", "fixed:3"]) == [NO_DRAFTER, PolicySpec.fixed(3)]


def test_vllm_believes_in_costs_at_one_context() -> None:
    bound = PolicySpec("vllm_adaptive").bind(COST)
    assert isinstance(bound, LaggedScheduler)
    assert bound.cost.assumed_context_tokens == VLLM_PROFILED_CONTEXT_TOKENS
    assert PolicySpec("lagged_scheduler").bind(COST).cost == COST  # type: ignore[attr-defined]


def test_a_policy_that_learns_is_a_new_one_each_time() -> None:
    spec = PolicySpec("batch_adaptive")
    first, second = spec.bind(COST), spec.bind(COST)
    first.learn([2], [0])
    assert (first.alpha, second.alpha) == (0.95, 1.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "policy : no such policy; there are fixed:K"),
        ("fixd:3", "policy fixd:3: no such policy; there are fixed:K, threshold:C, k_by_batch"),
        ("fixed", "policy fixed: is written fixed:K"),
        ("fixed:", "policy fixed:: is written fixed:K"),
        ("none:0", "policy none:0: is written none"),
        ("vllm_adaptive:", "policy vllm_adaptive:: is written vllm_adaptive"),
        ("lagged_scheduler:9", "the lag must be from 1 to 8 rounds, got 9; it is written lagged_scheduler"),
        ("lagged_scheduler:2/1", "the moving average must be from 0 to below 1"),
        ("lagged_scheduler:", r"is written lagged_scheduler\[:LAG"),
        ("batch_adaptive:0", "the weight must be above 0 and at most 1, got 0.0; it is written batch_adaptive"),
        ("batch_adaptive:x", "it is written batch_adaptive"),
        ("threshold:nan", "from 0 to 1"),
        ("cutoff:0", "must rise from 1"),
    ],
)
def test_wrong_policies_are_refused_in_one_sentence_before_any_cost_is_known(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        PolicySpec.parse(text)
    assert "\n" not in str(refused.value)


finite: Callable[..., st.SearchStrategy[float]] = lambda low: st.floats(low, 1e9)  # noqa: E731
paths = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1).map(lambda name: Path("/folder", name))
every_load = (
    st.builds(Users, st.integers(1, 10**6), finite(0))
    | st.builds(Arrivals, finite(1e-6), finite(0))
    | st.builds(RecordedArrivals, paths, finite(1e-6), st.sampled_from(["", "0123456789abcdef"]))
)
weights = finite(1e-6)
several = st.lists(
    st.tuples(st.builds(Users, st.integers(1, 10**6), finite(0)) | st.builds(Arrivals, finite(1e-6), finite(0)), weights),
    min_size=2, max_size=4, unique_by=lambda part: part[0],
).map(lambda parts: SeveralLoads(tuple(parts)))  # fmt: skip


@given(every_load | several)
def test_a_load_prints_itself_and_reads_back_equal(load: Load) -> None:
    assert Load.parse(str(load)) == load
    assert str(Load.parse(str(load))) == str(load)


@pytest.mark.parametrize(
    ("text", "load", "printed", "label"),
    [
        ("users:64", Users(64), "users:64/0", "64 users"),
        ("users:1/2.5", Users(1, 2.5), "users:1/2.5", "1 user thinking 2.5 s"),
        ("rate:5", Arrivals(5), "rate:5/1", "5 requests/s"),
        ("rate:0.1/0", Arrivals(0.1, 0), "rate:0.1/0", "0.1 requests/s"),
        ("file:/a.csv", RecordedArrivals(Path("/a.csv")), "file:/a.csv@1", "recorded arrivals (a.csv)"),
        ("file:/a@2x.csv", RecordedArrivals(Path("/a@2x.csv")), "file:/a@2x.csv@1", "recorded arrivals (a@2x.csv)"),
        (
            "file:/a.csv@2/600..",
            RecordedArrivals(Path("/a.csv"), 2.0, window=Window(600.0)),
            "file:/a.csv@2/600..",
            "recorded arrivals (a.csv, 600.. s, 2 times as fast)",
        ),
        ("file:/a@b.csv", RecordedArrivals(Path("/a@b.csv")), "file:/a@b.csv@1", "recorded arrivals (a@b.csv)"),
        (
            "several:users:8=1,rate:2=3",
            SeveralLoads(((Users(8), 1), (Arrivals(2), 3))),
            "several:users:8/0=1,rate:2/1=3",
            "8 users (25%) and 2 requests/s (75%)",
        ),
        (
            "file:/a.csv@2.5",
            RecordedArrivals(Path("/a.csv"), 2.5),
            "file:/a.csv@2.5",
            "recorded arrivals (a.csv, 2.5 times as fast)",
        ),
    ],
)
def test_loads_as_they_are_written(text: str, load: Load, printed: str, label: str) -> None:
    found = Load.parse(text)
    assert (found, str(found), found.label) == (load, printed, label)
    assert found.users == (load.users if isinstance(load, Users) else None)
    assert found.rate_per_s == (load.rate_per_s if isinstance(load, Arrivals) else None)


@pytest.mark.parametrize(
    "text",
    [
        "users:0",
        "users:x",
        "users:4/-1",
        "rate:-1",
        "rate:inf",
        "queue:3",
        "file:",
        "file:/a@0",
        "",
        "several:",
        "several:users:8/0=1",
        "several:users:8=1,users:8=2",
        "several:users:8=0,users:4=1",
        "several:file:/a=1,users:4=1",
    ],
)
def test_wrong_loads_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"^load {text}: "):
        Load.parse(text)


def test_a_recorded_load_is_read_once_and_takes_its_requests_along(tmp_path: Path) -> None:
    file = tmp_path / "arrivals.csv"
    file.write_text("arrival_s,prompt_tokens,output_tokens\n10,5,3\n12,1,2\n")
    [load] = loads(None, 0.0, None, 1.0, [file], 2.0)
    assert isinstance(load, RecordedArrivals)
    assert load.name == "arrivals.csv@2"
    file.unlink()
    there = pickle.loads(pickle.dumps(load)).requests
    assert (there.arrival_s.tolist(), there.prompt_tokens.tolist(), there.output_tokens.tolist()) == ([0, 1], [5, 1], [3, 2])
    with pytest.raises(FileNotFoundError):
        _ = Load.parse(str(load)).requests  # type: ignore[attr-defined]


def test_a_plan_knows_the_file_it_was_made_with(tmp_path: Path) -> None:
    """A load that was stored is of the same arrivals when it is read back, or of none."""
    file = tmp_path / "arrivals.csv"
    file.write_text(before := "arrival_s,prompt_tokens,output_tokens\n10,5,3\n12,1,2\n")
    stored = str(RecordedArrivals.of(file, 2.0))
    assert Load.parse(stored).requests.arrival_s.tolist() == [0, 1]  # type: ignore[attr-defined]
    file.write_text(before.replace("12,", "13,"))
    with pytest.raises(InputError, match="has changed since it was planned with"):
        _ = Load.parse(stored).requests  # type: ignore[attr-defined]
    file.write_text(before)
    assert Load.parse(stored).requests.arrival_s.tolist() == [0, 1]  # type: ignore[attr-defined]


def test_a_load_so_many_times(tmp_path: Path) -> None:
    """Twice the users, twice the rate, all in half the time; of several loads each."""
    file = tmp_path / "arrivals.csv"
    file.write_text("arrival_s,prompt_tokens,output_tokens\n10,5,3\n12,1,2\n")
    assert Users(3, 1.5).times(0.1) == Users(1, 1.5)
    assert Users(3, 1.5).times(2) == Users(6, 1.5)
    assert Arrivals(3, 2).times(2) == Arrivals(6, 2)
    both = SeveralLoads(((Users(3), 1), (Arrivals(2), 3)))
    assert both.times(2).parts == ((Users(6), 0.25), (Arrivals(4), 0.75))
    recorded = RecordedArrivals.of(file, 2.0)
    faster = recorded.times(4)
    assert faster.speed == 8
    assert faster.requests.arrival_s.tolist() == [0, 0.25]
    assert recorded.requests.arrival_s.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0 users"), (1, "1 user"), (1.0, "1 user"), (2, "2 users"), (1000, "1,000 users"), (0.5, "0.5 users")],
)
def test_counts_agree_with_their_nouns(number: float, told: str) -> None:
    assert counted(number, "user") == told


def test_several_files_of_arrivals_are_several_loads(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("arrival_s,prompt_tokens,output_tokens\n0.0,3,4\n1.0,5,6\n")
    files = [tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "a.csv"]
    assert [load.name for load in loads(None, 0.0, None, 1.0, files) if isinstance(load, RecordedArrivals)] == [
        "a.csv@1", "b.csv@1"
    ]  # fmt: skip


def test_weighted_loads_of_a_command_line() -> None:
    [load] = loads("8=0.25, 64=0.75", 0.0, None, 1.0)
    assert load.parts == ((Users(8), 0.25), (Users(64), 0.75))
    [load] = loads(None, 0.0, "2=1,4=1", 0.0)
    assert load.parts == ((Arrivals(2, 0), 0.5), (Arrivals(4, 0), 0.5))
    for wrong in ("8=0.5", "8=0.5,8=0.5", "8=x,64=0.5", "8,64=0.5", "8=0,64=1", "0=1,64=1"):
        with pytest.raises(InputError, match=r"--concurrency|users"):
            loads(wrong, 0.0, None, 1.0)


def test_no_digit_of_a_command_line_is_lost() -> None:
    """Loads are made of the numbers, and not of a text of them."""
    assert loads("8", 1.23456789, None, 1.0) == [Users(8, 1.23456789)]
    assert loads(None, 0.0, "1234567.5,0.123456789", 1.0) == [Arrivals(1234567.5), Arrivals(0.123456789)]
    [load] = loads("8=1,9=3", 1.23456789, None, 1.0)
    assert load.parts[0] == (Users(8, 1.23456789), 0.25)
    for users, think_s, rate, cv, named in (
        ("8", -1.0, None, 1.0, "--think-s"), ("8", math.nan, None, 1.0, "--think-s"), (None, 0.0, "2", math.inf, "--cv"),
        (None, 0.0, "2,-1", 1.0, "--rate"), (None, 0.0, "nan", 1.0, "--rate"),
        (None, 0.0, "1e12", 1.0, "--rate"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=named):
            loads(users, think_s, rate, cv)


def test_a_profile_knows_the_digest_of_its_json() -> None:
    profile = find_profile("h100/qwen3-4b")
    assert profile.digest == hashlib.sha256(dump_profile(profile).encode()).hexdigest()
    other = replace(profile, overhead_s=profile.overhead_s + 1e-6)
    assert other.digest != profile.digest == find_profile("h100/qwen3-4b").digest
    assert profile == find_profile("h100/qwen3-4b")


@pytest.mark.parametrize(
    "ways",
    [
        ("fixed:3", "fixed:03", "fixed:+3"),
        ("threshold:0.5", "threshold:.50"),
        ("lagged_scheduler", "lagged_scheduler:2", "lagged_scheduler:2/0"),
        ("lagged_scheduler:3/0.5", "lagged_scheduler:03/.5"),
        ("batch_adaptive", "batch_adaptive:0.05"),
        ("cutoff:8", "k_by_batch:8=255/2147483647=0"),
        ("k_by_batch:16=3/64=1", "k_by_batch:8=3/16=3/64=1"),
    ],
)
def test_a_policy_has_one_spelling(ways: tuple[str, ...]) -> None:
    """However it is written, and what the bound policy calls itself."""
    first, *others = (PolicySpec.parse(text) for text in ways)
    assert str(first) == ways[0]
    assert set(others) == {first}
    assert first.bind(EVEN_STEPS).name == ways[0]
    assert pickle.loads(pickle.dumps(first)) == first
    assert pickle.loads(pickle.dumps(first)).bind(EVEN_STEPS).name == ways[0]


def test_a_table_is_what_its_rows_say() -> None:
    rows = [(1, 7), (4, 7), (8, 3), (16, 0), (64, 0)]
    made = PolicySpec.table(rows)
    assert str(made) == "k_by_batch:4=7/8=3/64=0"
    table = made.k_by_batch
    assert table is not None
    assert [table.at(n) for n, _ in rows] == [k for _, k in rows]
