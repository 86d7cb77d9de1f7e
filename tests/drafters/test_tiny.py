"""Golden vectors of the bundled pair: what its target and drafters made of fixed texts they still make, in any clone."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from drafters.decoding import DecodeRequest, decode
from drafters.target import Target
from simulator.records import Sampling
from tools.golden import DRAFTERS, FILE, TINY, drafter_of, of_drafter, of_target, prompts

GOLDEN: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def target() -> Target:
    return Target.load(str(TINY / "target"))


def assert_as_golden(found: Any, golden: Any) -> None:
    """Tokens and counts are equal, numbers to 1e-3 of themselves or of 1: other processors sum in another order."""
    if isinstance(golden, dict):
        assert found.keys() == golden.keys()
        for key, value in golden.items():
            assert_as_golden(found[key], value)
    elif isinstance(golden, list):
        assert len(found) == len(golden)
        for one, value in zip(found, golden, strict=True):
            assert_as_golden(one, value)
    elif isinstance(golden, float):
        assert found == pytest.approx(golden, rel=1e-3, abs=1e-3)
    else:
        assert found == golden


def test_the_target_reads_as_it_did(target: Target) -> None:
    assert_as_golden(of_target(target), GOLDEN["target"])


@pytest.mark.parametrize("name", DRAFTERS)
def test_a_drafter_drafts_as_it_did(name: str, target: Target) -> None:
    assert_as_golden(of_drafter(target, name), GOLDEN[name])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", DRAFTERS)
def test_greedy_responses_are_what_the_target_says_of_them_as_a_whole(name: str, batch: int, target: Target) -> None:
    """Read at once, without a cache: a trained target looks at its context, where one of random weights hardly does."""
    requests = [DecodeRequest(tuple(text), 64, (0, number)) for number, text in enumerate(prompts(target))]
    for _, done in decode(target, drafter_of(target, name), requests, Sampling(temperature=0), max_batch=batch):
        assert any(r.accepted < r.verified for r in done.rounds) or name == "ngram"
        text = [*done.request.prompt, *done.token_ids]
        with torch.inference_mode():
            logits = target.head(target.read(torch.tensor([text]), []).hidden)
        assert logits[0, len(done.request.prompt) - 1 : -1].argmax(-1).tolist() == done.token_ids
