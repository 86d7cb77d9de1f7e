"""Agreement with the field's reference implementation on tiny trained checkpoints in the published format."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from drafters.checkpoints import load_drafter
from drafters.decoding import DecodeRequest, decode
from drafters.kinds.learned import LearnedDrafter
from drafters.target import Target
from simulator.records import Sampling

GOLDEN = Path(os.environ.get("SPECYARD_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
FOLDERS = sorted(f.parent for f in GOLDEN.glob("*/reference.json"))
pytestmark = pytest.mark.skipif(not FOLDERS, reason=f"no golden vectors in {GOLDEN} (set SPECYARD_GOLDEN)")


@pytest.fixture(scope="module")
def target() -> Target:
    return Target.load(str(GOLDEN / "target"))


def reference(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "reference.json").read_text())
    return result


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_golden_logits_and_confidences(folder: Path, target: Target) -> None:
    drafter = load_drafter(str(folder), target)
    assert isinstance(drafter, LearnedDrafter)
    expected = load_file(folder / "reference.safetensors")
    cases = reference(folder)["cases"]
    texts = [d["output_ids"] for d in reference(folder)["decode_greedy"]]
    assert cases
    for n, case in enumerate(cases):
        text = torch.tensor([texts[case["sequence"]]])
        taps = target.read(text, drafter.tap_layers).taps
        with torch.inference_mode():
            draft = drafter.teacher_forced(taps, text, torch.tensor([[case["anchor"]]]), torch.tensor([[case["forced"]]]))
        torch.testing.assert_close(draft.logits[0, 0], expected[f"case{n}.logits"], atol=1e-4, rtol=0)
        if f"case{n}.confidence" in expected:
            assert draft.confidence_logits is not None
            confidence = draft.confidence_logits[0, 0].sigmoid()
            torch.testing.assert_close(confidence, expected[f"case{n}.confidence"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch", [1, 6])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_golden_greedy_decode(folder: Path, target: Target, batch: int) -> None:
    drafter = load_drafter(str(folder), target)
    cases = reference(folder)["decode_greedy"]
    requests = [DecodeRequest(tuple(c["prompt_ids"]), 97, (0, i)) for i, c in enumerate(cases)]
    decoded = dict(decode(target, drafter, requests, Sampling(temperature=0), max_batch=batch))
    for i, case in enumerate(cases):
        new = case["output_ids"][len(case["prompt_ids"]) :]
        assert decoded[i].token_ids[: len(new)] == new
        assert [r.accepted for r in decoded[i].rounds] == case["accepted_draft_lengths"]
        assert [r.drafted for r in decoded[i].rounds] == case["proposal_lengths"]
