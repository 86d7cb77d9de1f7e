"""Profiles: the format and its errors, the lookup, the published one against its source."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import InputError
from simulator.hardware.catalogue import bundled_profiles, find_profile
from simulator.hardware.profile import Curve, DraftCurve, Profile, dump_profile, load_profile

FIELD = Path(os.environ.get("SPECYARD_FIELD", Path(__file__).parents[3] / "shared" / "field"))
DOCS = Path(__file__).parents[2] / "docs" / "hardware.md"
B300 = "b300/deepseek-v4-flash"


@pytest.fixture
def small() -> Profile:
    """Hand-made: graphs for 1, 4 and 16 tokens, a cliff beyond."""
    return Profile(
        name="mine",
        device="one",
        model="tiny",
        source="user",
        provenance={"note": "made up [1,  2]"},
        kv_capacity_tokens=1000,
        verify=Curve((1, 16), (0.010, 0.025)),
        eager=Curve((8,), (0.100,)),
        captured_tokens=(1, 4, 16),
        draft={
            "mtp": DraftCurve((1, 3), (Curve((1,), (0.001,)), Curve((1,), (0.005,))), block=False, context_s_per_token=1e-6),
            "dspark": DraftCurve((7,), (Curve((1, 11), (0.002, 0.004)),), block=True, context_s_per_token=1e-6),
        },
        free_drafters=("none", "ngram"),
        overhead_s=0.001,
        overhead_s_per_request=0.0001,
        context_s_per_token=1e-7,
        prefill_s_per_pair=1e-9,
    )


# --- the format -----------------------------------------------------------------------------------------------------------


def test_dumped_profile_loads_equal(small: Profile, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(dump_profile(small))
    assert load_profile(file) == small
    file.write_text(dump_profile(dataclasses.replace(small, eager=None, captured_tokens=(), draft={}, free_drafters=())))
    assert load_profile(file).draft == {}


def test_passes_may_dip_as_measured_ones_do(small: Profile, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    by_hand = dataclasses.replace(small, verify=Curve((1, 16), (0.010, 0.0081)))
    measured = dataclasses.replace(small, source="measured", verify=Curve((1, 16), (0.010, 0.005)))
    for dipping in (by_hand, measured):
        file.write_text(dump_profile(dipping))
        assert load_profile(file) == dipping


DELETE = object()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["schema"], 2, "schema: 1"),
        (["schema"], DELETE, "schema: 1"),
        (["name"], DELETE, "misses name"),
        (["verifi"], {}, "unknown verifi"),
        (["name"], 7, "name: must be a text"),
        (["source"], "guessed", "source: must be one of measured, fitted"),
        (["source"], [], "source: must be one of"),
        (["provenance"], "me", "provenance: must be an object"),
        (["provenance", "note"], 3, "provenance.note: must be a text"),
        (["kv_capacity_tokens"], 0, "kv_capacity_tokens must be 1 or more"),
        (["kv_capacity_tokens"], 1e5, "kv_capacity_tokens: must be a whole number"),
        (["gpus"], "4", "gpus: must be a whole number"),
        (["gpus"], True, "gpus: must be a whole number"),
        (["overhead_s"], "1 ms", "overhead_s: must be a number"),
        (["overhead_s"], -1, "overhead_s must be 0 or more"),
        (["prefill_s_per_pair"], float("nan"), "prefill_s_per_pair must be 0 or more"),
        (["captured_tokens"], [4, 1], "captured_tokens must rise"),
        (["captured_tokens"], 8, "captured_tokens: must be a list"),
        (["captured_tokens", 1], "4", r"captured_tokens\[1\]: must be a whole number"),
        (["free_drafters"], "none", "free_drafters: must be a list"),
        (["verify"], [], "verify: must be an object"),
        (["verify", "seconds"], [0.1], "verify: needs as many seconds"),
        (["verify", "counts"], [0, 4], "verify: counts must rise from 1"),
        (["verify", "seconds", 0], None, r"verify.seconds\[0\]: must be a number"),
        (["verify", "points"], [], "verify: unknown points"),
        (["verify", "seconds", 1], 0.007, "verify: 16 tokens take 0.007 s, 1 take 0.01 s: must not fall so"),
        (["verify", "seconds"], [0, 0], "verify: seconds must be above 0"),
        (["verify", "seconds", 1], 1e300, "verify: seconds must be 0 or more, and no more than 86,400"),
        (["overhead_s"], 1e300, "overhead_s must be 0 or more, and no more than 86,400"),
        (["logits_s_per_token"], 0.02, "logits_s_per_token: is a part of verify and eager"),
        (["eager", "seconds", 0], -1, "eager: seconds must be 0 or more"),
        (["draft"], [], "draft: must be an object"),
        (["draft", "mtp"], 3, "draft.mtp: must be an object"),
        (["draft", "mtp", "block"], 1, "draft.mtp.block: must be true or false"),
        (["draft", "mtp", "block"], DELETE, "draft.mtp: misses block"),
        (["draft", "mtp", "drafted"], [3, 1], "draft.mtp: drafted must rise"),
        (["draft", "mtp", "drafted"], [1], "draft.mtp: needs one curve"),
        (["draft", "mtp", "context_s_per_token"], -1, "draft.mtp: context_s_per_token must be 0 or more"),
        (["draft", "mtp", "requests", 1, "counts"], ["a"], r"draft.mtp.requests\[1\].counts\[0\]: must be a whole number"),
        (["draft", "mtp", "requests", 1, "seconds"], [], r"draft.mtp.requests\[1\]: needs as many seconds"),
    ],
)
def test_error_names_file_and_field(small: Profile, tmp_path: Path, path: list[Any], value: Any, message: str) -> None:
    raw = json.loads(dump_profile(small))
    parent = raw
    for key in path[:-1]:
        parent = parent[key]
    if value is DELETE:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(raw))
    with pytest.raises(InputError, match=message) as error:
        load_profile(file)
    assert str(error.value).startswith(str(file))


@pytest.mark.parametrize(("content", "message"), [(b"{", "not JSON"), (b"[]", "JSON object"), (b"\xff", "codec")])
def test_error_names_file_that_is_no_json(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "mine.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load_profile(file)
    assert str(file) in str(error.value)


def test_error_names_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.json: not readable"):
        load_profile(tmp_path / "gone.json")


def test_target_pass_is_padded_up_to_captured_sizes(small: Profile) -> None:
    """10 ms at 1 token and 1 ms more each: 13 ms at 4, 25 ms at 16; beyond 16, and with prefill, 100 ms."""
    cost = small.cost("none", 0, requests=4, tokens=18)
    milliseconds = [10] * 2 + [13] * 3 + [25] * 12 + [100] * 2
    np.testing.assert_allclose(cost.verify_s, np.array(milliseconds) * 1e-3)
    np.testing.assert_allclose(cost.eager_s, 0.1)


def test_without_captured_sizes_nothing_is_padded(small: Profile) -> None:
    cost = dataclasses.replace(small, captured_tokens=(), eager=None).cost("none", 0, requests=1, tokens=18)
    np.testing.assert_allclose(cost.verify_s[[1, 2, 16, 18]], [0.010, 0.011, 0.025, 0.027])
    np.testing.assert_allclose(cost.eager_s, cost.verify_s)


def test_autoregressive_draft_costs_by_token_and_pass(small: Profile) -> None:
    cost = small.cost("mtp", 3, requests=2, tokens=8)
    np.testing.assert_allclose(cost.draft_s[:, 0], 0)
    for requests in (1, 2):
        np.testing.assert_allclose(cost.draft_s[:, requests], [0, 0.001, 0.003, 0.005])
    assert cost.draft_context_s_per_token == pytest.approx([0, 1e-6, 2e-6, 3e-6])


def test_block_draft_costs_the_whole_block(small: Profile) -> None:
    cost = small.cost("dspark", 7, requests=11, tokens=8)
    np.testing.assert_allclose(cost.draft_s[0], 0)
    np.testing.assert_allclose(cost.draft_s[1], cost.draft_s[7])
    np.testing.assert_allclose(cost.draft_s[7, [1, 6, 11]], [0.002, 0.003, 0.004])
    assert cost.draft_context_s_per_token[1:] == pytest.approx(np.full(len(cost.draft_context_s_per_token) - 1, 1e-6))


def test_unknown_drafter_or_block_is_refused(small: Profile) -> None:
    with pytest.raises(InputError, match="no draft time for eagle3; it knows mtp, dspark, none, ngram"):
        small.cost("eagle3", 7, 1, 8)
    with pytest.raises(InputError, match="γ = 7 only, not at γ = 5"):
        small.cost("dspark", 5, 1, 8)


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1)), min_size=1, max_size=6), st.integers(1, 500))
def test_rising_curve_stays_rising(steps: list[tuple[int, float]], count: int) -> None:
    counts, seconds = np.cumsum([c for c, _ in steps]), np.cumsum([s for _, s in steps])
    curve = Curve(tuple(counts.tolist()), tuple(seconds.tolist()))
    assert curve.at(count) <= curve.at(count + 1) + 1e-12
    np.testing.assert_allclose(curve.at(counts), seconds)


# --- the lookup -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", bundled_profiles())
def test_every_profile_loads_and_never_falls(name: str, tmp_path: Path) -> None:
    profile = find_profile(name)
    assert profile.name == name
    assert profile.kv_capacity_tokens > 10_000
    file = tmp_path / "copy.json"
    file.write_text(dump_profile(profile))
    assert load_profile(file) == profile
    for drafter, gamma in [("dspark", 5), ("dspark", 7), ("none", 0), ("ngram", 4)]:
        cost = profile.cost(drafter, gamma, requests=512, tokens=4096)
        assert np.isfinite(cost.verify_s).all()
        assert (np.diff(cost.verify_s) >= 0).all()
        assert (np.diff(cost.eager_s) >= 0).all()
        assert (np.diff(cost.draft_s, axis=0) >= 0).all()
        assert (np.diff(cost.draft_s, axis=1) >= 0).all()


def test_the_issue_s_devices_and_models_are_there() -> None:
    targets = ["qwen3-4b", "qwen3-8b", "qwen3-14b", "gemma-4-12b", "deepseek-v4-flash", "deepseek-v4-pro"]
    known = [
        "a100",
        "h100",
        "h200",
        "b200",
        "gb200",
        "gb10",
        "l4",
        "l40s",
        "rtx4090",
        "rtx5090",
        "mi300x",
        "mi325x",
        "mi355x",
    ]
    expected = {f"{d}/{m}" for d in known for m in targets}
    assert expected | {B300} <= set(bundled_profiles())
    assert find_profile("h100/qwen3-4b").source == "roofline"
    assert find_profile(B300).source == "published"


def test_roofline_profiles_know_every_drafter() -> None:
    profile = find_profile("h100/qwen3-4b")
    assert set(profile.draft) == {"dspark", "dflash", "eagle3", "mtp"}
    for drafter in profile.draft:
        assert profile.cost(drafter, 16, requests=4096, tokens=8).draft_s[16, 4096] > 0


@pytest.mark.parametrize("name", ["h100/qwen3-5b", "h1000/qwen3-4b", "h100", "no/such/file.json", ""])
def test_unknown_name_lists_what_is_known(name: str) -> None:
    with pytest.raises(InputError, match=r"h100.*qwen3-4b"):
        find_profile(name)


def test_path_of_one_s_own(small: Profile, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(dump_profile(small))
    assert find_profile(str(file)) == small


def test_example_in_the_docs_loads(tmp_path: Path) -> None:
    (example,) = re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)
    file = tmp_path / "example.json"
    file.write_text(example)
    profile = load_profile(file)
    assert profile.source == "user"
    assert profile.cost("dspark", 7, requests=8, tokens=64).verify_s[64] > 0


# --- the published profile ------------------------------------------------------------------------------------------------


def published_table(name: str) -> dict[int, float]:
    file = FIELD / f"vllm_v4flash_b300_{name}_cost.csv"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    with file.open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["kind"] == "table"]
    by = "tokens" if name == "verify" else "requests"
    return {int(row[by]): float(row["cost_ms"]) for row in reversed(rows)}  # of a vertical edge the first: its left side


def test_published_staircase_and_cliff() -> None:
    cost = find_profile(B300).cost("dspark", 7, requests=256, tokens=2048)
    milliseconds = {1: 5.1087, 3: 5.1615, 5: 5.3451, 128: 9.4663, 129: 9.9043, 241: 11.5081, 257: 12.5202, 1023: 20.634,
                    1024: 20.634, 1025: 104.489, 2048: 104.489}  # fmt: skip
    for tokens, expected in milliseconds.items():
        assert cost.verify_s[tokens] * 1e3 == pytest.approx(expected), tokens
    assert cost.eager_s[1024] * 1e3 == pytest.approx(104.489)
    assert cost.draft_s[7, [1, 16, 256]] * 1e3 == pytest.approx([0.8829, 1.3171, 5.38])


def test_published_profile_is_the_engine_s_table() -> None:
    profile = find_profile(B300)
    cost = profile.cost("dspark", 7, requests=256, tokens=16384)
    for tokens, ms in published_table("verify").items():
        assert cost.verify_s[tokens] * 1e3 == pytest.approx(ms, rel=1e-3), tokens
    for requests, ms in published_table("draft").items():
        assert profile.draft["dspark"].at(7, requests) * 1e3 == pytest.approx(ms, rel=1e-3), requests


def test_eager_steps_explain_the_served_time_per_token() -> None:
    """Same blog, no speculation: 9.278 ms at 16 users, who see each other's prompts in eager steps, one in 512 tokens each.

    At 64 users (16.18 ms) prompts share steps: one step for each is an upper bound.
    """
    profile = find_profile(B300)
    cost = profile.cost("none", 0, requests=64, tokens=64)

    def predicted(users: int) -> float:
        captured = cost.verify_s[users] + cost.overhead_s
        return float(captured + users / 512 * (cost.eager_s[users] - cost.verify_s[users])) * 1e3

    assert predicted(16) == pytest.approx(9.278, rel=0.03)
    assert predicted(64) > 16.18


def test_a_drafter_of_any_name_costs_what_its_kind_does(small: Profile) -> None:
    known = small.cost("mtp", 3, requests=2, tokens=8)
    assert small.cost("new", 3, requests=2, tokens=8, kind="mtp").draft_s.tolist() == known.draft_s.tolist()
    assert not small.cost("lookup", 3, requests=2, tokens=8, kind="ngram").draft_s.any()
    own = dataclasses.replace(small, draft={**small.draft, "new": small.draft["dspark"]})
    assert own.cost("new", 7, requests=2, tokens=8, kind="mtp").draft_s[7, 1] == small.cost("dspark", 7, 2, 8).draft_s[7, 1]
    with pytest.raises(InputError, match="no draft time for new"):
        small.cost("new", 3, requests=2, tokens=8, kind="eagle3")
    for name in ("dspark", "ngram", "none-such"):  # whatever the kind is that it is called as
        assert small.cost(name, 3, requests=2, tokens=8, kind="mtp").draft_s.tolist() == known.draft_s.tolist()
    with pytest.raises(InputError, match="no draft time for eagle3"):
        small.cost("dspark", 3, requests=2, tokens=8, kind="eagle3")
    bare = dataclasses.replace(small, free_drafters=())
    assert not bare.cost("none", 3, requests=2, tokens=8, kind="mtp").draft_s.any()


def test_bundled_names_are_known_in_any_case() -> None:
    assert find_profile("H100/Qwen3-4B") == find_profile("h100/qwen3-4b")
