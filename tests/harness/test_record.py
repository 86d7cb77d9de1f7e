"""`harness record`, `replay` and `synthesize` as a user runs them: real processes, the bundled pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.sweeps.replay import replay_run
from results.store.database import Store
from simulator.errors import InputError
from simulator.policies import policies_of
from tests.documented import differences
from tests.harness.processes import called, harness, query

pytestmark = pytest.mark.ray


@pytest.mark.slow
def test_dense_and_live_recording_agree_where_nothing_is_random(tmp_path: Path) -> None:
    """At temperature 0 the replay of a dense recording is the live run, round by round, on the bundled pair."""
    for mode in ("dense", "live"):
        options = [
            "--limit",
            "1",
            "--max-new-tokens",
            "40",
            "--temperature",
            "0",
            "--mode",
            mode,
            "--out",
            str(tmp_path / mode),
        ]
        done = harness("record", "suites/math_code_chat", *options)
        assert done.returncode == 0, done.stderr
    rounds = "SELECT drafter, prompt_id, turn, round, drafted, verified, accepted, committed FROM rounds ORDER BY ALL"
    live = query(tmp_path / "live", rounds)
    assert {row[0] for row in live} == {"none", "dspark", "dflash", "eagle3", "mtp", "ngram"}
    assert query(tmp_path / "dense", rounds) == live
    confidences = "SELECT unnest(confidence) FROM rounds WHERE drafter = 'dspark' ORDER BY prompt_id, turn, round"
    pairs = zip(query(tmp_path / "dense", confidences), query(tmp_path / "live", confidences), strict=True)
    assert max(abs(ours - theirs) for (ours,), (theirs,) in pairs) < 1e-3


@pytest.mark.slow
def test_responses_of_another_engine_are_recorded(tmp_path: Path) -> None:
    """Fed its own responses from a file, a recording comes out the same; what does not fit is refused."""
    options = [
        "suites/math_code_chat",
        "--limit",
        "1",
        "--temperature",
        "0",
        "--drafter",
        "dspark",
    ]
    own = [*options, "--max-new-tokens", "24", "--out", str(tmp_path / "own")]
    assert harness("record", *own).returncode == 0
    rows = query(tmp_path / "own", "SELECT prompt_id, turn, token_ids, finish FROM responses")
    lines = [{"prompt_id": p, "turn": t, "token_ids": list(ids), "finish": f} for p, t, ids, f in rows]
    file = tmp_path / "responses.jsonl"

    def write(header: dict[str, Any], changed: list[dict[str, Any]]) -> None:
        file.write_text("\n".join(json.dumps(line) for line in [header, *changed]))

    given = [*options, "--responses", str(file), "--out", str(tmp_path / "given")]
    write({"temperature": 0}, lines)
    done = harness("record", *given)
    assert done.returncode == 0, done.stderr
    anchors = "SELECT * EXCLUDE (run_id, confidence, accept_prob) FROM anchors ORDER BY ALL"
    assert query(tmp_path / "given", anchors) == query(tmp_path / "own", anchors)

    write({"temperature": 0}, [{**line, "token_ids": [9] * 20, "finish": "length"} for line in lines])
    refused = harness("record", *given)
    assert refused.returncode == 2, refused.stderr
    assert "Traceback" not in refused.stderr
    assert "cannot come from this target with these sampling settings" in refused.stderr
    assert query(tmp_path / "given", "SELECT count(*) FROM runs WHERE finished_at IS NOT NULL") == [(1,)]


@pytest.mark.slow
def test_block_sizes_estimates_and_replays(tmp_path: Path) -> None:
    options = [
        "suites/math_code_chat",
        "--limit",
        "1",
        "--max-new-tokens",
        "24",
        "--drafter",
        "dspark",
        "--drafter",
        "ngram",
    ]
    out = ["--out", str(tmp_path)]
    done = harness("record", *options, "--block-sizes", "2,5", "--dry-run", "--json", *out)
    assert done.returncode == 0, done.stderr
    assert differences(done.stdout) == []
    costs = json.loads(done.stdout)
    assert costs["responses"] == 10
    assert costs["anchors"] == 10 * 23 * 2 * (2 + 1)  # block sizes × (dspark drafting both ways, and ngram)
    assert costs["anchor_bytes"] == 10 * 23 * (4 * (2 + 5) * (2 * 2 + 1) + 4 * 6)
    assert costs["seconds"] > 0
    assert not (tmp_path / "specyard.duckdb").exists()

    done = harness("record", *options, "--block-sizes", "2,5", "--fresh-tails", *out)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.split("\n\n")[0].splitlines() if "γ=" in line] == [
        [name, f"γ={gamma}"] for name, ways in (("dspark", 2), ("ngram", 1)) for gamma in (2, 5) for _ in range(ways)
    ]
    assert done.stdout.count("· greedy drafts") == 2
    assert "confidences stay raw" in done.stderr
    widths = (
        "SELECT DISTINCT drafter, gamma, drafting, len(accept_prob), len(confidence), len(fresh_confidence) FROM anchors "
        "ORDER BY ALL"
    )
    assert query(tmp_path, widths) == [
        ("dspark", 2, "greedy", 2, 2, None), ("dspark", 2, "sampled", 2, 2, 2),  # a greedy draft has no second tail
        ("dspark", 5, "greedy", 5, 5, None), ("dspark", 5, "sampled", 5, 5, 5),
        ("ngram", 2, "either", 2, None, None), ("ngram", 5, "either", 5, None, None),
    ]  # fmt: skip
    counted = "SELECT drafter, gamma, drafting, sum(anchors) FROM recordings GROUP BY ALL"
    assert sorted(query(tmp_path, counted)) == sorted(
        query(tmp_path, counted.replace("sum(anchors) FROM recordings", "count(*) FROM anchors"))
    )
    assert query(
        tmp_path,
        "SELECT DISTINCT beta FROM (SELECT unnest(accept_prob) AS beta FROM anchors WHERE drafting = 'greedy') ORDER BY 1",
    ) == [(0.0,), (1.0,)]
    policies = ["--policy", "fixed:1", "--policy", "threshold:0.5", "--policy", "oracle"]
    done = called("replay", "latest", *policies, "--json", *out)
    assert done.returncode == 0, done.stderr
    assert "ngram γ=2: left out: policy threshold:0.5: needs confidences" in done.stderr
    assert differences(done.stdout) == []
    rows = json.loads(done.stdout)["replays"]
    assert len(rows) == (3 * 2 * 2 + 2 * 2) * 3  # policies × block sizes × ways to draft × domains
    assert all(1 <= r["tau"] <= r["budget"] for r in rows)
    assert {r["policy"] for r in rows if not r["exact"]} == {"oracle"}

    store = Store(tmp_path / "specyard.duckdb")
    for policy, drafters, calibrated, message in (
        ("medusa", None, False, "no such policy; there are fixed:K"),
        ("fixed:1", ["eagle3"], False, "no dense recording of eagle3; there are: dspark, ngram"),
        ("threshold:0.5", ["ngram"], False, "needs confidences, and this drafter has none"),
        ("threshold:0.5", None, True, "nothing to replay with these options: .*no calibration"),
    ):
        with pytest.raises(InputError, match=message):
            replay_run(store, store.find_run("latest"), policies_of([policy]), drafters, calibrated=calibrated, say=print)


def test_published_curves_become_a_run(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path)]
    done = called("synthesize", "paper:qwen3-4b", "--responses-per-task", "4", "--output-tokens", "128", "--json", *out)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["run"]["prompt_source"] == "synthesised"
    assert any("DSpark paper" in source for source in result["run"]["plan"]["sources"])
    assert "Synthesised: no model was run" in Path(result["run"]["report"]).read_text(encoding="utf-8")
    assert query(tmp_path, "SELECT drafter, count(*) FROM anchors GROUP BY ALL ORDER BY 1") == [
        (name, 36 * 127) for name in ("dflash", "dspark", "eagle3", "mtp")
    ]
    replayed = json.loads(
        called("replay", "latest", "--policy", "threshold:0.5", "--drafter", "dspark", "--json", *out).stdout
    )["replays"]
    assert {r["domain"] for r in replayed} == {"math", "code", "chat"}
    refused = called("synthesize", "paper:gpt-7", *out)
    assert refused.returncode == 2
    assert "there are paper:qwen3-4b" in refused.stderr
