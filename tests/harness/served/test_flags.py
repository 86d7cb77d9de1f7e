"""The words that advice gives for an engine: all that it was started with, and K alone is another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.harness.served.advising import POOR, advised
from tests.harness.served.writing import vllm_log

LOADS = [8] * 60
BESIDES: dict[str, dict[str, object]] = {
    "a look-up's windows": {"prompt_lookup_max": 5, "prompt_lookup_min": 2},
    "how drafts are drawn and verified": {"draft_sample_method": "probabilistic", "rejection_sample_method": "standard"},
    "a draft's own processes": {"draft_tensor_parallel_size": 1, "max_model_len": 8192},
    "nothing": {},
}


def log_of(besides: dict[str, object]) -> str:
    """vLLM's, of a server that was started with these keys too."""
    return vllm_log(POOR, LOADS).replace("'num_speculative_tokens': 5}", f"'num_speculative_tokens': 5, {str(besides)[1:]}")


def configuration(told: dict[str, object]) -> dict[str, object]:
    found: dict[str, object] = json.loads(str(told["flags"]).split("'")[1])
    return found


@pytest.mark.parametrize("what", BESIDES)
def test_what_else_the_server_was_started_with_stays(what: str, tmp_path: Path) -> None:
    """The option is one value: what it does not have is vLLM's default again, and another drafter than was measured."""
    told = advised(tmp_path, log_of(BESIDES[what]))
    assert told["verdict"] == "set"
    kept = {"method": "eagle3", "model": "Org/Draft", "num_speculative_tokens": told["tokens"]}
    assert configuration(told) == {**kept, **BESIDES[what]}
    assert told["flags_notes"] == []


def test_a_drafter_inside_the_target_is_not_named(tmp_path: Path) -> None:
    """vLLM gives it the target's own quantisation only where nobody names a checkpoint."""
    log = vllm_log(POOR, LOADS, method="qwen3_next_mtp").replace(", 'model': 'Org/Draft'", "")
    first, rest = log.split("\n", 1)
    said = "speculative_config=SpeculativeConfig(method='mtp', model='Org/Model-8B', num_spec_tokens=5), x=1"
    line = (
        f"INFO 11-26 09:59:00 [core.py:1] Initializing a V1 LLM engine (v0.30.0) with config: model='Org/Model-8B', {said}"
    )
    found = configuration(advised(tmp_path, f"{first}\n{line}\n{rest}"))
    assert found.keys() == {"method", "num_speculative_tokens"}


def test_what_is_no_drafting_of_this_server_does_not(tmp_path: Path) -> None:
    """Rates of as many positions as were served, made up acceptance, and what is no value."""
    other = {
        "synthetic_acceptance_rates": [0.5] * 5, "rejection_sample_method": "synthetic", "target_model_config": None,
    }  # fmt: skip
    assert configuration(advised(tmp_path, log_of(other))).keys() == {"method", "model", "num_speculative_tokens"}


@pytest.mark.parametrize("known", ["the configuration's own words", "nothing"])
def test_that_nobody_says_what_else_it_was_started_with_is_told(known: str, tmp_path: Path) -> None:
    lines = vllm_log(POOR, LOADS).splitlines(keepends=True)[1:]
    if known != "nothing":
        said = "speculative_config=SpeculativeConfig(method='eagle3', model='Org/Draft', num_spec_tokens=5), x=1"
        lines.insert(
            0, f"INFO 11-26 09:59:00 [core.py:1] Initializing a V1 LLM engine (v0.30.0) with config: model='M', {said}\n"
        )
    told = advised(tmp_path, "".join(lines))
    assert "add what else the server was started with" in str(told["flags_notes"])
