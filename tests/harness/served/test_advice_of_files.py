"""Advice from files captured of servers, and from one dump that has everything."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from harness.served.acceptance import acceptance_of
from harness.served.server import together
from harness.served.sources.registry import read_files
from results.store.database import Store
from tests.harness.served.advising import run

SERVED = Path(os.environ.get("SPECYARD_SERVED", Path(__file__).parents[4] / "shared" / "served"))


NGRAM = ("vllm_ngram5/metrics_after_c4.prom", "vllm_ngram5/server.log")


@pytest.mark.skipif(not SERVED.is_dir(), reason="no captured files: SPECYARD_SERVED names their folder")
@pytest.mark.parametrize(
    ("files", "gamma", "tokens"),
    [
        (["vllm_ngram5/metrics_before_c4.prom", *NGRAM], 5, (1.2, 1.5)),
        (["vllm_draft3"], 3, (3.8, 4.0)), (["llamacpp_ngram"], 48, (1.1, 1.4)), (["llamacpp_draft"], 4, (4.7, 5.0)),
        (["aiperf_c4"], 5, (1.1, 1.4)), (["guidellm_c2"], 5, (1.1, 1.4)),
    ],
)  # fmt: skip
def test_captured_files_have_advice(files: Sequence[str], gamma: int, tokens: tuple[float, float]) -> None:
    """What an n-gram server gives in a step is no multiple of what its drafts commit."""
    done = run("advise", *(SERVED / file for file in files), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["served_tokens"] == gamma
    assert tokens[0] <= told["acceptance"]["tokens_per_step"]["value"] <= tokens[1]
    assert told["tokens"] <= gamma


def sglang_dump(steps: int = 60, gamma: int = 4) -> str:
    """SGLang's record of a server with 2 ms of drafting, 8 ms and 0.02 ms a token of a pass, 1 ms of everything else."""
    rng, records = np.random.default_rng(0), []
    for i in range(steps):
        running = int(rng.integers(1, 33))
        reqs = []
        for r in range(running):
            confidence = np.clip(0.8 + 0.1 * rng.standard_normal(gamma), 0.05, 0.99)
            verified = int(rng.integers(1, gamma + 1))
            accepted = int((rng.random(verified) < confidence[:verified]).cumprod().sum())
            reqs.append({
                "rid": f"{i // 10}-{r}", "verify_len": verified + 1, "acc_len": accepted + 1, "correct_drafts": accepted,
                "cap_trim": 0, "confidence": confidence.tolist(),
            })  # fmt: skip
        tokens = sum(int(str(one["verify_len"])) for one in reqs)
        times = {"draft_gpu_ms": 2.0, "target_verify_gpu_ms": 8 + 0.02 * tokens, "step_gpu_ms": 11 + 0.02 * tokens}
        records.append({"forward_ct": i, "bs": running, "num_verify_tokens": tokens, **times, "reqs": reqs})
    state = {"dspark_info_record": {"mode": "compact", "gamma": gamma, "records": records}}
    return json.dumps({"model_path": "Org/M", "max_total_num_tokens": 9000, "internal_states": [state]})


def test_acceptance_of_trimmed_rounds_is_of_those_that_were_verified(tmp_path: Path) -> None:
    """The whole share of position k, though a quarter of the drafts was cut at each: 0.8, 0.8², … as they were drawn."""
    (tmp_path / "a").write_text(sglang_dump(400))
    survival = acceptance_of(together(*read_files([tmp_path / "a"]))).survival
    assert survival == pytest.approx([0.8**k for k in (1, 2, 3, 4)], abs=0.02)


def test_one_dump_gives_times_confidences_and_a_profile(tmp_path: Path) -> None:
    from harness.served.timed import recorded
    from simulator.hardware.profile import load_profile

    (tmp_path / "a").write_text(sglang_dump())
    server = together(*read_files([tmp_path / "a"]))
    costs = recorded(server)
    assert costs is not None
    for k, running, ms in ((4, 10, 2 + 8 + 0.02 * 50 + 1), (0, 10, 8 + 0.02 * 10 + 1)):
        assert float(np.median(costs.seconds(k, running))) == pytest.approx(ms / 1e3, rel=0.01)
    done = run("import", tmp_path / "a", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    store = Store(tmp_path / "specyard.duckdb")
    [recording] = [key for key in store.recordings(store.find_run("latest")) if key.gamma]
    trace = store.trace(store.find_run("latest"), recording)
    assert trace.anchors.confidence is not None
    [file] = (tmp_path / "hardware").glob("*.json")
    profile = load_profile(file)
    assert (profile.kv_capacity_tokens, profile.source) == (9000, "measured")
    assert float(profile.verify.at([100])[0]) == pytest.approx(0.010, rel=0.01)
    assert float(profile.draft["dspark"].at(4, [10])[0]) == pytest.approx(0.002, rel=0.01)
