"""Golden vectors of the bundled pair: what its models make of fixed texts, `python tools/golden.py` writes anew.

Only for a pair that was trained anew, or a change that is meant to change numbers: a refactoring is not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from drafters.checkpoints import load_drafter
from drafters.decoding import DecodeRequest, decode
from drafters.kinds.contract import Drafter
from drafters.kinds.learned import LearnedDrafter
from drafters.kinds.ngram import NGram
from drafters.target import Target
from simulator.records import Sampling

ROOT = Path(__file__).parents[1]
TINY, FILE = ROOT / "drafters" / "tiny", ROOT / "tests" / "drafters" / "tiny.json"
DRAFTERS = ("dspark", "dflash", "eagle3", "mtp", "ngram")
QUESTIONS = ("What is 12 + 30?", "Write a function that returns the sum of a list.", "Name a colour.")
NEW_TOKENS, SHOWN, DIGITS = 32, 4, 6
"""Tokens of each response, numbers of each row that are kept, and digits of each that count."""


def prompts(target: Target) -> list[list[int]]:
    """The texts that everything is read from."""
    return [target.encode_chat([{"role": "user", "content": question}]) for question in QUESTIONS]


def of_target(target: Target) -> dict[str, Any]:
    """What the target alone makes of the first prompt: a sum of each layer's output, and its likeliest next tokens."""
    texts = prompts(target)
    seen = target.read(torch.tensor([texts[0]]), list(range(-1, target.num_layers)))
    with torch.inference_mode():
        logits = target.head(seen.hidden[:, -1])[0]
    largest = logits.topk(SHOWN)
    taps = torch.split(seen.taps[0].double(), target.hidden_size, -1)
    return {
        "prompts": texts,
        "sums of |taps|": [rounded(tap.abs().sum()) for tap in taps],
        "sums of taps": [rounded(tap.sum()) for tap in taps],
        "likeliest": largest.indices.tolist(),
        "logits": [rounded(value) for value in largest.values],
    }


def drafter_of(target: Target, name: str) -> Drafter:
    """A drafter of the pair."""
    return NGram(7) if name == "ngram" else load_drafter(str(TINY / name), target)


def of_drafter(target: Target, name: str) -> dict[str, Any]:
    """What a drafter makes of the prompts: responses decoded with it, how much of each draft was kept, and one draft."""
    drafter = drafter_of(target, name)
    texts = prompts(target)
    requests = [DecodeRequest(tuple(text), NEW_TOKENS, (7, number)) for number, text in enumerate(texts)]
    found: dict[str, Any] = {}
    for way, sampling in (("greedy", Sampling(temperature=0)), ("sampled", Sampling(temperature=0.8))):
        decoded = dict(decode(target, drafter, requests, sampling, max_batch=len(requests)))
        responses = [decoded[number] for number in range(len(requests))]
        found[way] = {
            "tokens": [response.token_ids for response in responses],
            "accepted": [[r.accepted for r in response.rounds] for response in responses],
        }
    if isinstance(drafter, LearnedDrafter):
        found["draft"] = _draft(target, drafter, [*texts[0], *found["greedy"]["tokens"][0]], len(texts[0]) + 1)
    return found


def _draft(target: Target, drafter: LearnedDrafter, text: Sequence[int], anchor: int) -> dict[str, Any]:
    """The largest logit at each position of a draft of the text's own tokens, and the confidences."""
    ids = torch.tensor([text])
    forced = ids[:, None, anchor + 1 : anchor + 1 + drafter.gamma]
    with torch.inference_mode():
        taps = target.read(ids, drafter.tap_layers).taps
        draft = drafter.teacher_forced(taps, ids, torch.tensor([[anchor]]), forced)
    largest = draft.logits[0, 0].max(-1)
    sure = torch.empty(0) if draft.confidence_logits is None else draft.confidence_logits[0, 0].sigmoid()
    return {
        "likeliest": largest.indices.tolist(),
        "logits": [rounded(value) for value in largest.values],
        "confidences": [rounded(value) for value in sure],
    }


def rounded(value: Any) -> float:
    """A number with the digits that are kept."""
    return float(f"{float(value):.{DIGITS}g}")


def written(value: dict[str, Any]) -> str:
    """JSON with a line for each list of numbers."""
    rows = {key: {name: json.dumps(own) for name, own in part.items()} for key, part in value.items()}
    parts = (
        f'"{key}": {{\n' + ",\n".join(f'  "{name}": {text}' for name, text in part.items()) + "\n}"
        for key, part in rows.items()
    )
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    torch.set_num_threads(1)  # these models are tiny; more threads only wait for each other
    loaded = Target.load(str(TINY / "target"))
    FILE.write_text(written({"target": of_target(loaded)} | {name: of_drafter(loaded, name) for name in DRAFTERS}))
