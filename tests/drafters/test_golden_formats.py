"""Agreement with the publishers' own code on tiny checkpoints in their formats: logits, live decoding, dense recording."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from drafters.checkpoints import load_drafter
from drafters.decoding import DecodeRequest, decode
from drafters.dense import DenseText, record_anchors
from drafters.kinds.learned import LearnedDrafter
from drafters.target import Target
from simulator.records import Sampling

NAMED = os.environ.get("SPECYARD_GOLDEN_FORMATS")
GOLDEN = Path(NAMED or Path(__file__).parents[3] / "shared" / "golden_formats")
FOLDERS = sorted(f.parent for f in GOLDEN.glob("*/reference.json"))
MUST_BE_THERE = os.environ.get("CI") == "true" and (NAMED is not None or GOLDEN.parent.is_dir())
"""A clone alone, which has no golden vectors beside it, tests the cores on checkpoints of its own."""
of_each = pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
pytestmark = pytest.mark.skipif(
    not FOLDERS and not MUST_BE_THERE, reason=f"no golden vectors in {GOLDEN} (set SPECYARD_GOLDEN_FORMATS)"
)


@cache
def target_of(name: str) -> Target:
    return Target.load(str(GOLDEN / name))


@cache
def reference(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "reference.json").read_text())
    return result


def loaded(folder: Path) -> tuple[Target, LearnedDrafter]:
    target = target_of(reference(folder)["target"])
    drafter = load_drafter(str(folder), target, gamma=reference(folder)["gamma"])
    assert isinstance(drafter, LearnedDrafter)
    return target, drafter


def test_golden_vectors_are_there() -> None:
    assert FOLDERS, f"no golden vectors in {GOLDEN}"


@of_each
def test_golden_conventions(folder: Path) -> None:
    _, drafter = loaded(folder)
    assert [tap + 1 for tap in drafter.tap_layers] == reference(folder)["tap_h_indices"]
    assert drafter.conventions.get("layout", "-") == reference(folder).get("layout", drafter.conventions.get("layout", "-"))
    own = load_drafter(str(folder), target_of(reference(folder)["target"]))
    assert own.gamma == reference(folder)["gamma"]


@of_each
def test_golden_logits_and_confidences(folder: Path) -> None:
    check_logits(folder, *loaded(folder))


def check_logits(folder: Path, target: Target, drafter: LearnedDrafter) -> None:
    """A drafter of `folder` computes what its publisher's code does."""
    expected = load_file(folder / "reference.safetensors")
    cases = reference(folder)["cases"]
    texts = [d["output_ids"] for d in reference(folder)["decode_greedy"]]
    assert cases
    for n, case in enumerate(cases):
        text = torch.tensor([texts[case["sequence"]]])
        taps = target.read(text, drafter.tap_layers).taps
        with torch.inference_mode():
            draft = drafter.teacher_forced(taps, text, torch.tensor([[case["anchor"]]]), torch.tensor([[case["forced"]]]))
        logits = draft.logits[0, 0]
        if drafter.draft_ids is not None:
            assert bool(logits[:, drafter.outside].isneginf().all())
            logits = logits[:, drafter.draft_ids]
        if "outside_candidates" in reference(folder):
            logits = logits.masked_fill(logits.isneginf(), reference(folder)["outside_candidates"])
        torch.testing.assert_close(logits, expected[f"case{n}.logits"], atol=1e-4, rtol=0)
        assert (f"case{n}.confidence" in expected) == drafter.confident
        if draft.confidence_logits is not None:
            confidence = draft.confidence_logits[0, 0].sigmoid()
            torch.testing.assert_close(confidence, expected[f"case{n}.confidence"], atol=1e-5, rtol=0)


@of_each
def test_golden_greedy_decode(folder: Path) -> None:
    target, drafter = loaded(folder)
    cases = reference(folder)["decode_greedy"]
    requests = [DecodeRequest(tuple(c["prompt_ids"]), 97, (0, i)) for i, c in enumerate(cases)]
    decoded = dict(decode(target, drafter, requests, Sampling(temperature=0), max_batch=6))
    for i, case in enumerate(cases):
        new = case["output_ids"][len(case["prompt_ids"]) :]
        assert decoded[i].token_ids[: len(new)] == new
        assert [r.accepted for r in decoded[i].rounds] == case["accepted_draft_lengths"]
        assert [r.drafted for r in decoded[i].rounds] == case["proposal_lengths"]


@of_each
def test_golden_dense_record(folder: Path) -> None:
    """Every round of the live decode is one of the record's anchors, and accepts what the record says."""
    target, drafter = loaded(folder)
    cases = reference(folder)["decode_greedy"]
    requests = [DecodeRequest(tuple(c["prompt_ids"]), 97 + drafter.gamma, (0, i)) for i, c in enumerate(cases)]
    decoded = dict(decode(target, drafter, requests, Sampling(temperature=0), max_batch=6))
    texts = [
        DenseText(r.prompt, tuple(decoded[i].token_ids[:97]), tuple(decoded[i].token_ids[97:]), False, (0, i))
        for i, r in enumerate(requests)
    ]
    [recorded] = record_anchors(target, [drafter], texts, Sampling(temperature=0))
    for case, anchors in zip(cases, recorded["either"], strict=True):
        at = 0
        for accepted in case["accepted_draft_lengths"]:
            assert int(anchors.accepted[at]) == accepted
            at += accepted + 1
    if (right := reference(folder).get("dense_accepted", {}).get("right")) is not None:
        mean = np.mean(np.concatenate([a.accepted[::3] for a in recorded["either"]]))
        assert mean == pytest.approx(right, abs=0.35)
