"""Settings of servers that verify trees, or not losslessly, are told from those that verify lossless chains."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.serving.verification import _HINT, _SIGNS, departures

SHOWN: list[tuple[dict[str, Any], str]] = [
    ({"speculative_eagle_topk": 8}, "tree"),
    ({"speculative_ngram_max_bfs_breadth": 10}, "tree"),
    ({"speculative_token_tree": "[(0,), (0, 0), (1,)]"}, "tree"),
    ({"eagle_choices": [[0], [1], [0, 0]]}, "tree"),
    ({"speculative_accept_threshold_single": 0.5}, "lossy"),
    ({"speculative_accept_threshold_acc": 0.9}, "lossy"),
    ({"spec_decoding_acceptance_method": "typical_acceptance_sampler"}, "lossy"),
    ({"typical_acceptance_sampler_posterior_threshold": 0.09}, "lossy"),
    ({"use_relaxed_acceptance_for_thinking": True}, "lossy"),
    ({"rejection_sample_method": "fly"}, "lossy"),
    ({"rejection_sample_method": "of_tomorrow"}, "lossy"),
    ({"rejection_sample_method": "synthetic"}, "synthetic"),
    ({"synthetic_acceptance_rates": [0.9, 0.5]}, "synthetic"),
    ({"synthetic_acceptance_length": 2.51}, "synthetic"),
    ({"SGLANG_SIMULATE_ACC_LEN": "3.5"}, "synthetic"),
]
PLAIN: list[dict[str, Any]] = [
    {},
    {"method": "eagle3", "model": "some/drafter", "num_speculative_tokens": 3, "rejection_sample_method": "standard"},
    {"rejection_sample_method": "block", "draft_sample_method": "greedy"},
    {"speculative_eagle_topk": 1, "speculative_num_steps": 5, "speculative_num_draft_tokens": 6},
    {"speculative_eagle_topk": None, "speculative_accept_threshold_single": 1.0, "speculative_accept_threshold_acc": 1.0},
    {"speculative_token_tree": "[(0,), (0, 0), (0, 0, 0)]", "synthetic_acceptance_rates": None},
    {"acceptance_method": "rejection_sampler", "posterior_threshold": None, "use_dynamic_tree": False},
]


def spellings(settings: dict[str, Any]) -> list[Any]:
    """One configuration as it meets us: nested, as a command, as a log prints it, within JSON within JSON."""
    words = [f"--{k.replace('_', '-')} {json.dumps(v)}" for k, v in settings.items() if not isinstance(v, list)]
    logged = "server_args=ServerArgs(" + ", ".join(f"{k}={v!r}" for k, v in settings.items()) + ")"
    nested = {"args": {"speculative_config": settings}}
    return [settings, nested, " ".join(words), logged, {"speculative_config": json.dumps(settings)}, json.dumps(nested)]


@pytest.mark.parametrize(("settings", "departure"), SHOWN, ids=str)
def test_what_departs_is_told_however_it_is_spelled(settings: dict[str, Any], departure: str) -> None:
    [name] = settings
    for spelled in spellings(settings):
        if spelled:
            [shown] = departures(spelled)
            assert shown.departure == departure, spelled
            assert name.lower().endswith(shown.setting.split()[0])


@pytest.mark.parametrize("settings", PLAIN, ids=str)
def test_a_lossless_chain_shows_nothing(settings: dict[str, Any]) -> None:
    for spelled in spellings(settings):
        assert not departures(spelled), spelled


def test_a_setting_is_found_in_a_long_log() -> None:
    long = "INFO 10:00:00 nothing to see in this line\n" * 40_000
    [shown] = departures(f"{long}server_args=ServerArgs(speculative_eagle_topk=4, speculative_num_steps=5)\n{long}")
    assert shown.setting == "speculative_eagle_topk 4"
    for name, *_ in _SIGNS:  # whatever is a sign is looked for in long texts
        assert _HINT.search(name), name


@given(st.text())
def test_any_text_may_be_asked(text: str) -> None:
    departures(text)
