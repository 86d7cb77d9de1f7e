"""Responses of the target to the corpus's prompts: what drafters are trained on, since that is what they will draft."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from drafters.decoding import DecodeRequest, decode
from drafters.kinds.none import NoDrafter
from drafters.target import Target
from drafters.training.corpus import Document, chat_text
from simulator.errors import InputError
from simulator.records import Sampling

MAX_PROMPT_TOKENS, MAX_RESPONSE_TOKENS = 256, 160
_SHARD = 512


@dataclass(frozen=True, slots=True)
class Example:
    """A context and the target's own continuation of it."""

    domain: str
    prompt: tuple[int, ...]
    response: tuple[int, ...]


def generate(target: Target, documents: Sequence[Document], file: Path, seed: int, max_batch: int = 64) -> None:
    """Sample one response at temperature 1 to each document's prompt; appends to `file`, resuming after what is there."""
    assert target.tokenizer is not None
    contexts = [(d.domain, target.tokenizer.encode(chat_text(d.turns[:-1]))) for d in documents]
    contexts = [(domain, ids) for domain, ids in contexts if len(ids) <= MAX_PROMPT_TOKENS]
    done = len(read_examples(file)) if file.exists() else 0
    file.parent.mkdir(parents=True, exist_ok=True)
    for first in range(done - done % _SHARD, len(contexts), _SHARD):
        shard = contexts[first : first + _SHARD]
        requests = [DecodeRequest(tuple(ids), MAX_RESPONSE_TOKENS, (seed, first + i)) for i, (_, ids) in enumerate(shard)]
        responses = dict(decode(target, NoDrafter(), requests, Sampling(), max_batch=max_batch))
        rows = [
            json.dumps({"domain": domain, "prompt": ids, "response": responses[i].token_ids})
            for i, (domain, ids) in enumerate(shard)
        ]
        _replace_from(file, first, rows)
        print(f"on-policy responses: {first + len(shard)}/{len(contexts)}", flush=True)


def read_examples(file: Path) -> list[Example]:
    """All examples of a file written by `generate`."""
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [Example(r["domain"], tuple(r["prompt"]), tuple(r["response"])) for r in rows]


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Padded texts and where their responses lie."""

    ids: Tensor
    """[B, N]."""
    prompt_tokens: Tensor
    """Index of each text's first response token, [B]."""
    length: Tensor
    """Real tokens of each text, [B]."""

    def to(self, device: torch.device) -> TextBatch:
        return TextBatch(self.ids.to(device), self.prompt_tokens.to(device), self.length.to(device))


def text_batches(examples: Sequence[Example], rows: int, seed: int, start_step: int = 0) -> Iterator[TextBatch]:
    """Endless batches of texts of similar length; a function of the seed and the step alone."""
    usable = [e for e in examples if len(e.response) >= 3]
    if len(usable) < rows:
        raise InputError(f"training text: {len(usable)} usable responses do not fill one batch of {rows}")
    step, epoch = 0, 0
    while True:
        rng = np.random.default_rng([seed, epoch])
        # Random order, then sorted by length within large groups: little padding, batches still mixed.
        order = rng.permutation(len(usable))
        groups = [order[i : i + 32 * rows] for i in range(0, len(order), 32 * rows)]
        ordered = [sorted(g, key=lambda i: len(usable[i].prompt) + len(usable[i].response)) for g in groups]
        batches = [g[i : i + rows] for g in ordered for i in range(0, len(g) - rows + 1, rows)]
        for index in rng.permutation(len(batches)):
            if step >= start_step:
                yield _collate([usable[i] for i in batches[index]])
            step += 1
        epoch += 1


def _collate(examples: Sequence[Example]) -> TextBatch:
    texts = [[*e.prompt, *e.response] for e in examples]
    width = max(len(t) for t in texts)
    ids = torch.tensor([t + [0] * (width - len(t)) for t in texts])
    return TextBatch(ids, torch.tensor([len(e.prompt) for e in examples]), torch.tensor([len(t) for t in texts]))


def _replace_from(file: Path, first: int, rows: list[str]) -> None:
    """Keep the first `first` lines of `file`, then write `rows`; whole or not at all."""
    kept = file.read_text(encoding="utf-8").splitlines()[:first] if file.exists() else []
    partial = file.with_suffix(".partial")
    partial.write_text("\n".join([*kept, *rows]) + "\n", encoding="utf-8")
    os.replace(partial, file)
