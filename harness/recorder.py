"""What one worker does: hold a target and a drafter, record units of work, time single responses. No Ray in here."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from drafters.checkpoints import find_folder, folder_hash, load_drafter
from drafters.decoding import Decoded, DecodeRequest, decode
from drafters.drafter import Drafter
from drafters.sampling import Sampling
from drafters.target import Target
from harness.pairs import choose_drafters, load_pair
from harness.suites import Generation, Prompt
from results.store import SpeedSample, response_tables
from simulator.errors import InputError
from simulator.records import Response

_TIMED_TOKENS = 64
"""Length limit of a timed response: long enough for a rate, short enough to be repeated."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Prompts decoded together with one drafter. Fixed by the plan alone, so that results do not depend on workers."""

    drafter: str
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """What a worker found before the work: the identity of what will run, and where."""

    target: dict[str, Any]
    """source, hash, dtype, device."""
    drafters: dict[str, dict[str, Any]]
    """Name → kind, gamma, checkpoint, checkpoint_hash."""
    host: dict[str, Any]
    """The worker's machine."""

    @property
    def identity(self) -> dict[str, Any]:
        """What must not change in the course of a run, wherever its files lie."""
        drafters = {n: [d["kind"], d["gamma"], d["checkpoint_hash"]] for n, d in self.drafters.items()}
        return {"target": self.target["hash"], "dtype": self.target["dtype"], **drafters}


class Recorder:
    """Runs a pair. One per worker process."""

    def __init__(self, pair: str, drafters: list[str] | None, gamma: int | None, generation: Generation, seed: int) -> None:
        self.pair, self.gamma, self.generation, self.seed = load_pair(pair), gamma, generation, seed
        self.sources = choose_drafters(self.pair, drafters)
        self.sampling = Sampling(generation.temperature, generation.top_p, generation.top_k)
        self._target: Target | None = None
        self._drafters: dict[str, Drafter] = {}
        self._warm = False

    @property
    def target(self) -> Target:
        """Loaded at first use, so that what is wrong with it can be told to the driver."""
        if self._target is None:
            device = self.pair.device
            if device == "auto":
                device = "cuda" if torch.cuda.is_available() else "cpu"
            if device == "cpu":
                # One thread, always: with more, sums may be split otherwise, and results would depend on their number.
                torch.set_num_threads(1)
            self._target = Target.load(self.pair.target, dtype=getattr(torch, self.pair.dtype), device=device)
        return self._target

    def check(self, prompts: Sequence[Prompt]) -> Checked:
        """Load every drafter and measure every prompt before any work is done.

        Raises:
            InputError: a checkpoint does not fit, or a prompt does not fit the target's context.
        """
        for prompt in prompts:
            needed = self._tokens_needed(prompt)
            if needed > self.target.max_positions:
                raise InputError(
                    f"prompt {prompt.prompt_id}: needs up to {needed} tokens with its replies, but the target's context has "
                    f"{self.target.max_positions}; drop it with --skip-long-prompts or lower --max-new-tokens"
                )
        target = {
            "source": self.pair.target,
            "hash": folder_hash(find_folder(self.pair.target)),
            "dtype": self.pair.dtype,
            "device": self.target.device.type,
        }
        return Checked(target, {name: self._describe(name) for name in self.sources}, self._host())

    def too_long(self, prompts: Sequence[Prompt]) -> list[str]:
        """Ids of the prompts that do not fit the target's context."""
        return [p.prompt_id for p in prompts if self._tokens_needed(p) > self.target.max_positions]

    def record(self, unit: Unit) -> tuple[pa.Table, pa.Table]:
        """Hold the unit's conversations, turn by turn; returns rows for `responses` and `rounds`."""
        drafter = self._drafter(unit.drafter)
        histories: list[list[dict[str, str]]] = [[] for _ in unit.prompts]
        responses: list[Response] = []
        for turn in range(max(len(p.turns) for p in unit.prompts)):
            active = [i for i, p in enumerate(unit.prompts) if turn < len(p.turns)]
            for i in active:
                histories[i].append({"role": "user", "content": unit.prompts[i].turns[turn]})
            requests = [self._request(unit.drafter, unit.prompts[i], turn, histories[i]) for i in active]
            decoded = dict(decode(self.target, drafter, requests, self.sampling, max_batch=len(unit.prompts)))
            for j, i in enumerate(active):
                response = self._response(unit.prompts[i], turn, decoded[j])
                histories[i].append({"role": "assistant", "content": response.text})
                responses.append(response)
        return response_tables(responses)

    def time(self, sample: int, prompt: Prompt) -> list[SpeedSample]:
        """Decode the first turn of `prompt` alone with every drafter in turn, and time the rounds of a short response."""
        names = list(self.sources)
        if not self._warm:  # first kernels, libraries and allocations are nobody's speed
            self._warm = True
            self.time(sample, prompt)
        # Another order for each prompt and pass, so that no drafter always follows the same one.
        first = (sample + int.from_bytes(hashlib.sha256(prompt.prompt_id.encode()).digest()[:4], "big")) % len(names)
        samples = []
        for name in names[first:] + names[:first]:
            drafter = self._drafter(name)
            request = self._request(name, prompt, 0, [{"role": "user", "content": prompt.turns[0]}])
            request = replace(request, max_new_tokens=min(request.max_new_tokens, _TIMED_TOKENS))
            [(_, decoded)] = decode(self.target, drafter, [request], self.sampling, max_batch=1)
            tokens = len(decoded.token_ids) - 1
            if tokens:
                seconds = sum(r.draft_s + r.verify_s for r in decoded.rounds)
                samples.append(SpeedSample(name, drafter.gamma, sample, prompt.prompt_id, 1, tokens, seconds))
        return samples

    def _drafter(self, name: str) -> Drafter:
        if name not in self._drafters:
            source = self.sources[name]
            gamma = None if source == "none" else self.gamma
            self._drafters[name] = load_drafter(source, self.target, gamma=gamma)
        return self._drafters[name]

    def _describe(self, name: str) -> dict[str, Any]:
        drafter, source = self._drafter(name), self.sources[name]
        weightless = source in ("none", "ngram")
        return {
            "kind": drafter.name,
            "gamma": drafter.gamma,
            "checkpoint": source,
            "checkpoint_hash": None if weightless else folder_hash(find_folder(source)),
        }

    def _host(self) -> dict[str, Any]:
        cpu = platform.processor() or platform.machine()
        if Path("/proc/cpuinfo").exists():
            names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
            cpu = names[0].split(":", 1)[1].strip() if names else cpu
        on_gpu = self.target.device.type == "cuda"
        return {
            "cpu": cpu,
            "cores": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "gpu": torch.cuda.get_device_name(self.target.device) if on_gpu else None,
            "python": platform.python_version(),
            "platform": platform.platform(),
        }

    def _tokens_needed(self, prompt: Prompt) -> int:
        """Longest context the conversation can come to, each reply as long as allowed."""
        messages: list[dict[str, str]] = []
        for turn in prompt.turns:
            messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": ""}]
        tokens = len(self.target.encode_chat(messages[:-1], thinking=self.generation.thinking))
        return tokens + len(prompt.turns) * self.generation.max_new_tokens

    def _request(self, drafter: str, prompt: Prompt, turn: int, history: list[dict[str, str]]) -> DecodeRequest:
        ids = tuple(self.target.encode_chat(history, thinking=self.generation.thinking))
        name = hashlib.sha256(f"{drafter}\n{prompt.prompt_id}\n{turn}".encode()).digest()
        return DecodeRequest(ids, self.generation.max_new_tokens, (self.seed, int.from_bytes(name[:8], "big")))

    def _response(self, prompt: Prompt, turn: int, decoded: Decoded) -> Response:
        assert self.target.tokenizer is not None
        assert decoded.finish is not None
        text = str(self.target.tokenizer.decode(decoded.token_ids, skip_special_tokens=True))
        return Response(
            prompt.task, prompt.domain, prompt.prompt_id, turn, len(decoded.request.prompt),
            tuple(decoded.token_ids), text, decoded.finish, tuple(decoded.rounds),
        )  # fmt: skip
