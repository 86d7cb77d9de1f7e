"""What one worker does: hold a target and a drafter, record units of work, time single responses. No Ray in here."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from drafters.checkpoints import GENERATION, TEXT, find_folder, folder_hash, load_drafter
from drafters.conversion import TRAINED
from drafters.decoding import Decoded, DecodeRequest, decode
from drafters.dense import DenseText, Reading, record_anchors
from drafters.generation import respond, rows_at_once, settings_left_out
from drafters.gguf import SMOLLM2, SMOLLM2_FILE
from drafters.kinds.contract import Drafter
from drafters.kinds.learned import LearnedDrafter
from drafters.loading import check_files
from drafters.precision import choose_dtype
from drafters.target import Target
from drafters.training.texts import known_by
from harness.recording.pair import Pair, choose_drafters, load_pair
from harness.recording.responses import GivenResponse
from harness.recording.suite import Generation, Prompt
from results.store.rows import TARGET, dense_tables, readings, response_tables
from results.store.runs import SpeedSample
from simulator.drafter_kinds import WEIGHTLESS
from simulator.errors import InputError
from simulator.memory import MACHINE_BYTES
from simulator.records import Drafting, KeptDrafting, Recording, Response, Round, kept_drafting

_TIMED_TOKENS = 64
"""Length limit of a timed response: long enough for a rate, short enough to be repeated."""


def conversation_tokens(target: Target, prompt: Prompt, generation: Generation) -> int:
    """Longest context a conversation can come to, each reply as long as allowed.

    Replies that tokenise otherwise than they were generated may make it longer: that is seen when they are there. Where the
    chat template refuses an empty reply, a short one stands for it.
    """

    def tokens(reply: str) -> int:
        messages = prompt.opening
        for turn in prompt.turns:
            messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": reply}]
        return len(target.encode_chat(messages[:-1], thinking=generation.thinking, today=generation.today))

    try:
        asked = tokens("")
    except InputError:
        asked = tokens(".")
    return asked + len(prompt.turns) * generation.max_new_tokens


def contexts(
    target: Target, prompt: Prompt, given: Sequence[GivenResponse], generation: Generation
) -> list[tuple[int, ...]]:
    """What stands before each turn's response, the given ones being the replies; in order of turns."""
    history, found = prompt.opening, list[tuple[int, ...]]()
    for asked, response in zip(prompt.turns, given, strict=True):
        history.append({"role": "user", "content": asked})
        found.append(tuple(target.encode_chat(history, thinking=generation.thinking, today=generation.today)))
        history.append({"role": "assistant", "content": target.text(response.token_ids)})
    return found


@dataclass(frozen=True, slots=True)
class Unit:
    """Prompts recorded together. Fixed by the plan alone, so that results do not depend on workers."""

    prompts: tuple[Prompt, ...]
    live: Recording | None = None
    """What to decode with; None records what all drafters would do with the target's own responses."""
    given: tuple[GivenResponse, ...] = ()
    """Responses that another engine produced; where there are any, they cover all turns of the prompts."""

    @property
    def key(self) -> Recording:
        """What its responses are kept as."""
        return self.live or TARGET


@dataclass(frozen=True, slots=True)
class Checked:
    """What a worker found before the work: the identity of what will run, and where."""

    target: dict[str, Any]
    """source, hash, tokenizer_hash, generation_hash, end_tokens, dated, left_out, dtype, device; chat_template, where one is
    given in place of its own."""
    drafters: dict[str, dict[str, Any]]
    """Name → kind, gamma (the largest recorded), gammas, checkpoint, checkpoint_hash."""
    host: dict[str, Any]
    """The worker's machine."""
    cannot_decode: str | None = None
    """Why the target cannot decode live, in a sentence; None where it can."""
    cannot_generate: str | None = None
    """Why it cannot answer by itself at all, in a sentence; None where it can."""

    @property
    def identity(self) -> dict[str, Any]:
        """What must not change in the course of a run, wherever its files lie: all of the pair that decides its results.

        Sampling, thinking and the date told to chat templates are the suite's.
        """
        drafters = {n: [d["kind"], d["gammas"], d["checkpoint_hash"]] for n, d in self.drafters.items()}
        names = {
            "target": "hash", "tokenizer or chat template": "tokenizer_hash", "generation settings": "generation_hash",
            "end tokens": "end_tokens", "dtype": "dtype",
        }  # fmt: skip
        return {name: self.target[field] for name, field in names.items() if field in self.target} | drafters


@dataclass(frozen=True, slots=True)
class Probe:
    """What a short sample of dense recording cost one worker."""

    generate_s: float
    """Seconds a generated token, target alone."""
    record_s: float
    """Seconds a response token, all drafters together."""
    prompt_tokens: float
    """Mean context before a response."""
    variants: list[tuple[int, int]]
    """(γ, numbers kept a drafted position) of everything recorded."""
    taps_bytes: int
    """Bytes of the target's tapped hidden states for one token."""


@dataclass(frozen=True, slots=True)
class RecorderOptions:
    """What decides a recorder's results, beside the prompts."""

    pair: str | Pair
    drafters: list[str] | None
    block_sizes: list[int] | None
    """γ to record; None leaves each drafter its own."""
    generation: Generation
    seed: int
    fresh_tails: bool = False
    """Also record a second, free draft of every anchor."""
    drafting: tuple[Drafting, ...] = ("sampled",)
    """Ways to draft that are recorded."""


class Recorder:
    """Runs a pair. One per worker process."""

    def __init__(self, options: RecorderOptions) -> None:
        self.options, self.generation, self.pair = options, options.generation, load_pair(options.pair)
        self.sources = choose_drafters(self.pair, options.drafters)
        self.sampling = self.generation.sampling
        self._target: Target | None = None
        self._drafters: dict[tuple[str, int | None], Drafter] = {}
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
            self._target = Target.load(
                self.pair.target, dtype=choose_dtype(self.pair.dtype, device), device=device,
                chat_template=self.pair.chat_template or None,
            )  # fmt: skip
        return self._target

    def check(self, prompts: Sequence[Prompt], given: Mapping[str, tuple[GivenResponse, ...]]) -> Checked:
        """Load every drafter and measure every prompt before any work is done; `given` has responses by prompt id.

        Raises:
            InputError: a checkpoint does not fit, a prompt does not fit the target's context, or the target cannot have
                said a response.
        """
        for response in (r for responses in given.values() for r in responses):
            response.check(self.target.stop_tokens, self.target.vocab_size)
        for prompt in prompts:
            needed = self._tokens_needed(prompt, given.get(prompt.prompt_id, ()))
            if needed > self.target.max_positions:
                raise InputError(
                    f"prompt {prompt.prompt_id}: needs up to {needed} tokens with its replies, but the target's context has "
                    f"{self.target.max_positions}; drop it with --skip-long-prompts or lower --max-new-tokens"
                )
        folder = find_folder(self.pair.target)
        check_files(folder, self.pair.target)  # of the hub: where the files are is known only now
        target = {
            "source": self.pair.target,
            **({"named_after": SMOLLM2_FILE} if self.pair.target == SMOLLM2 else {}),  # no engine knows it by its name here
            "hash": folder_hash(folder),
            "tokenizer_hash": folder_hash(folder, TEXT),
            **self._given_template(folder),
            "generation_hash": folder_hash(folder, GENERATION),
            "end_tokens": sorted(self.target.stop_tokens),
            "dated": self.target.dated(thinking=self.generation.thinking),
            "left_out": settings_left_out(self.target),
            "dtype": str(self.target.dtype).removeprefix("torch."),
            "device": self.target.device.type,
        }
        drafters, cannot_decode, cannot_generate = {name: self._describe(name) for name in self.sources}, None, None
        for name, of in drafters.items():
            if "training" in of:
                of["training"]["prompts_seen"] = self._seen(name, prompts)
        if self.target.cannot_decode is not None:
            cannot_decode = f"target {self.target.name}: cannot decode live: {self.target.cannot_decode}"
            try:
                rows_at_once(self.target)
            except InputError as error:
                cannot_generate = str(error)
        return Checked(target, drafters, self._host(), cannot_decode, cannot_generate)

    def _given_template(self, folder: Path) -> dict[str, str]:
        """What the target is asked with in place of its own chat template, and the hash that says so; nothing without."""
        if not (given := self.pair.chat_template):
            return {}
        both = hashlib.sha256(f"{folder_hash(folder, TEXT)}\n{given}".encode())
        return {"chat_template": given, "tokenizer_hash": both.hexdigest()}

    def too_long(self, prompts: Sequence[Prompt], given: Mapping[str, tuple[GivenResponse, ...]]) -> list[str]:
        """Ids of the prompts that do not fit the target's context; `given` has responses by prompt id."""
        needed = {p.prompt_id: self._tokens_needed(p, given.get(p.prompt_id, ())) for p in prompts}
        return [prompt_id for prompt_id, tokens in needed.items() if tokens > self.target.max_positions]

    def record(self, unit: Unit) -> dict[str, pa.Table]:
        """Rows of a unit by table: conversations held turn by turn, live, or densely recorded for every drafter."""
        if unit.live is not None:
            name, way = unit.live.drafter, unit.live.drafting
            drafter, limit = self._drafter(name, unit.live.gamma), self.generation.max_new_tokens
            drafting: Drafting = "greedy" if way == "greedy" else "sampled"
            responses = [r for r, _ in self._converse(unit.prompts, limit, live=(name, drafter), drafting=drafting)]
            return response_tables(unit.live, responses)
        variants = [(name, self._drafter(name, gamma)) for name, gamma in self.variants() if name != "none"]
        beyond = max((d.gamma for _, d in variants), default=0)
        if unit.given:
            spoken = self._read(unit.prompts, unit.given, beyond)
        else:
            spoken = self._converse(unit.prompts, self.generation.max_new_tokens, beyond)
        return self._dense_tables(spoken, variants)

    def answer(self, prompts: Sequence[Prompt]) -> list[GivenResponse]:
        """The target's own responses to every turn, as a file of responses has them."""
        spoken = self._converse(prompts, self.generation.max_new_tokens)
        return [GivenResponse(r.prompt_id, r.token_ids, r.finish, r.turn, r.domain, context) for r, context in spoken]

    def _converse(
        self, prompts: Sequence[Prompt], limit: int, beyond: int = 0, *, live: tuple[str, Drafter] | None = None,
        drafting: Drafting = "sampled",
    ) -> list[tuple[Response, tuple[int, ...]]]:  # fmt: skip
        """Responses of at most `limit` tokens to every turn, each with its context's; cut ones go on for `beyond` tokens.

        They are the target's alone, or decoded with the named drafter of `live`. Tokens of a reply are not always those its
        text is read as in the next prompt. Where these are more, and that prompt with a full response no longer fits the
        target's context, or its chat template refuses an empty reply, the conversation ends before it.
        """
        histories = [prompt.opening for prompt in prompts]
        responses: list[tuple[Response, tuple[int, ...]]] = []
        active = list(range(len(prompts)))
        for turn in range(max(len(p.turns) for p in prompts)):
            active = [i for i in active if turn < len(prompts[i].turns)]
            for i in active:
                histories[i].append({"role": "user", "content": prompts[i].turns[turn]})
            name = live[0] if live else "none"
            asked = {}
            for i in active:
                try:
                    asked[i] = self._request(name, prompts[i], turn, histories[i], limit + beyond)
                except InputError:
                    if turn == 0 or histories[i][-2]["content"].strip():
                        raise
            room = self.target.max_positions - limit - (live[1].gamma if live else beyond)
            active = [i for i, request in asked.items() if turn == 0 or len(request.prompt) <= room]
            requests, size = [asked[i] for i in active], len(prompts)
            if live:
                found = decode(self.target, live[1], requests, self.sampling, max_batch=size, drafting=drafting)
            else:
                found = respond(self.target, requests, self.sampling, max_batch=size)
            decoded = dict(found)
            for j, i in enumerate(active):
                response = self._response(prompts[i], turn, decoded[j], limit)
                histories[i].append({"role": "assistant", "content": response.text})
                responses.append((response, requests[j].prompt))
        return responses

    def _read(
        self, prompts: Sequence[Prompt], given: Sequence[GivenResponse], beyond: int
    ) -> list[tuple[Response, tuple[int, ...]]]:
        """Responses of another engine, each with its context's tokens; what follows a cut one is generated here."""
        by_turn = {(g.prompt_id, g.turn): g for g in given}
        texts: list[tuple[Prompt, int, GivenResponse, tuple[int, ...]]] = []
        for prompt in prompts:
            responses = [by_turn[prompt.prompt_id, turn] for turn in range(len(prompt.turns))]
            for response, context in zip(responses, self._contexts(prompt, responses), strict=True):
                texts.append((prompt, response.turn, response, context))
        cut = [i for i, (_, _, r, _) in enumerate(texts) if r.finish == "length"] if beyond else []
        requests = []
        for i in cut:
            prompt, turn, response, context = texts[i]
            seed = self._seed("none", prompt.prompt_id, turn)
            requests.append(DecodeRequest((*context, *response.token_ids), beyond, seed, _named(prompt.prompt_id, turn)))
        decoded = dict(respond(self.target, requests, self.sampling, max_batch=len(prompts)))
        after = {i: tuple(decoded[j].token_ids) for j, i in enumerate(cut)}
        return [
            (self._told(prompt, turn, len(context), response, after.get(i, ())), context)
            for i, (prompt, turn, response, context) in enumerate(texts)
        ]

    def _dense_tables(
        self, spoken: Sequence[tuple[Response, tuple[int, ...]]], variants: Sequence[tuple[str, Drafter]]
    ) -> dict[str, pa.Table]:
        """The target's responses, every drafter's anchors on them, and the rounds of verifying every draft whole."""
        responses = [r for r, _ in spoken]
        texts = [
            DenseText(
                context, r.token_ids, r.beyond, r.finish == "stop", self._seed("coins", r.prompt_id, r.turn),
                _named(r.prompt_id, r.turn),
            )
            for r, context in spoken
        ]  # fmt: skip
        drafters = [d for _, d in variants]
        options, made = self.options, list[Reading]()
        recorded = record_anchors(
            self.target, drafters, texts, self.sampling,
            drafting=options.drafting, fresh=options.fresh_tails, readings=made,
        ) if drafters else []  # fmt: skip
        tables = response_tables(TARGET, responses)
        dense = [
            dense_tables(
                Recording(name, drafter.gamma, drafting=way),
                [(r.prompt_id, r.turn, a) for r, a in zip(responses, each, strict=True)],
            )
            for (name, drafter), by_way in zip(variants, recorded, strict=True)
            for way, each in by_way.items()
        ]
        tables["rounds"] = pa.concat_tables([tables["rounds"], *(d["rounds"] for d in dense)])
        if dense:
            tables |= {name: pa.concat_tables(d[name] for d in dense) for name in ("recordings", "anchors")}
            tables["readings"] = readings(responses, made)
        return tables

    def probe(self, prompts: Sequence[Prompt], tokens: int) -> Probe:
        """Time generation and dense recording of responses of at most `tokens` to a few prompts."""
        first = [replace(p, turns=p.turns[:1]) for p in prompts]
        variants = [(name, self._drafter(name, gamma)) for name, gamma in self.variants() if name != "none"]
        self._dense_tables(self._converse(first[:1], tokens), [])  # what is slow only the first time
        started = time.perf_counter()
        beyond = max((d.gamma for _, d in variants), default=0)
        spoken = self._converse(first, tokens, beyond)
        generated = time.perf_counter()
        self._dense_tables(spoken, variants)
        finished = time.perf_counter()
        told = sum(len(r.token_ids) + len(r.beyond) for r, _ in spoken)
        kept = [d for _, d in variants]
        return Probe(
            (generated - started) / told,
            (finished - generated) / sum(len(r.token_ids) for r, _ in spoken),
            sum(r.prompt_tokens for r, _ in spoken) / len(spoken),
            [(d.gamma, numbers) for d in kept for numbers in self._kept(d)],
            len({layer for d in kept for layer in d.tap_layers}) * self.target.hidden_size * self.target.dtype.itemsize,
        )

    def _kept(self, drafter: Drafter) -> list[int]:
        """Numbers an anchor keeps for each position, drafting each way: β, how sure it was, in a second draft too."""
        if not isinstance(drafter, LearnedDrafter):
            return [1]
        ways = dict.fromkeys(self._kept_drafting(d, drafter) for d in self.options.drafting)
        second = drafter.confident and self.options.fresh_tails
        return [3 if second and way != "greedy" else 2 for way in ways]

    def _kept_drafting(self, drafting: Drafting, drafter: Drafter) -> KeptDrafting:
        return kept_drafting(drafting, drafter.kind, self.sampling.temperature)

    def time(self, sample: int, prompt: Prompt) -> list[SpeedSample]:
        """Decode the first turn of `prompt` alone with every drafter in turn, and time the rounds of a short response."""
        variants = self.variants()
        if not self._warm:  # first kernels, libraries and allocations are nobody's speed
            self._warm = True
            self.time(sample, prompt)
        # Another order for each prompt and pass, so that no drafter always follows the same one.
        first = (sample + int.from_bytes(hashlib.sha256(prompt.prompt_id.encode()).digest()[:4], "big")) % len(variants)
        samples = []
        for name, gamma in variants[first:] + variants[:first]:
            drafter = self._drafter(name, gamma)
            limit = min(self.generation.max_new_tokens, _TIMED_TOKENS)
            request = self._request(name, prompt, 0, [*prompt.opening, {"role": "user", "content": prompt.turns[0]}], limit)
            room = self.target.max_positions - len(request.prompt) - drafter.gamma  # given responses may be of other lengths
            if room < 1:
                continue
            request = replace(request, max_new_tokens=min(limit, room))
            drafting = self.options.drafting[0]
            [(_, decoded)] = decode(self.target, drafter, [request], self.sampling, max_batch=1, drafting=drafting)
            tokens = len(decoded.token_ids) - 1
            if tokens:
                seconds = sum(r.seconds for r in decoded.rounds)
                way = self._kept_drafting(drafting, drafter)
                samples.append(SpeedSample(name, drafter.gamma, sample, prompt.prompt_id, 1, tokens, seconds, way))
        return samples

    def variants(self) -> list[tuple[str, int | None]]:
        """(name, γ) of everything to record; γ None is the drafter's own."""
        sizes: Sequence[int | None] = self.options.block_sizes or [None]
        return [(name, size) for name, source in self.sources.items() for size in ([None] if source == "none" else sizes)]

    def _drafter(self, name: str, gamma: int | None) -> Drafter:
        if (name, gamma) not in self._drafters:
            self._drafters[name, gamma] = load_drafter(self.sources[name], self.target, gamma=gamma)
        return self._drafters[name, gamma]

    def _describe(self, name: str) -> dict[str, Any]:
        drafters, source = [self._drafter(*v) for v in self.variants() if v[0] == name], self.sources[name]
        weightless = source in WEIGHTLESS
        gammas, first = sorted({d.gamma for d in drafters}), drafters[0]
        told = {} if weightless else _training(find_folder(source))
        read = {"format": first.format, "conventions": first.conventions} if isinstance(first, LearnedDrafter) else {}
        return {
            "kind": first.kind,
            "gamma": gammas[-1],
            "gammas": gammas,
            "checkpoint": source,
            "checkpoint_hash": None if weightless else folder_hash(find_folder(source)),
            **read,
            **told,
        }

    def _seen(self, drafter: str, prompts: Sequence[Prompt]) -> int:
        """How many of some prompts a drafter was trained on, as far as what lies beside it says."""
        learnt = set(_told_of(find_folder(self.sources[drafter])).get("trained_on", ()))
        if not learnt:
            return 0
        asked = ([*p.opening, {"role": "user", "content": p.turns[0]}] for p in prompts)
        return sum(known_by(self._encoded(history)) in learnt for history in asked)

    def _host(self) -> dict[str, Any]:
        cpu = platform.processor() or platform.machine()
        if Path("/proc/cpuinfo").exists():
            names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
            cpu = names[0].split(":", 1)[1].strip() if names else cpu
        on_gpu = self.target.device.type == "cuda"
        return {
            "cpu": cpu,
            "cores": os.cpu_count(),
            "memory_bytes": MACHINE_BYTES,
            "gpu": torch.cuda.get_device_name(self.target.device) if on_gpu else None,
            "python": platform.python_version(),
            "platform": platform.platform(),
        }

    def _tokens_needed(self, prompt: Prompt, given: Sequence[GivenResponse]) -> int:
        """Longest context the conversation can come to, drafts beyond its end included; with given responses, comes to."""
        beyond = max(self._drafter(*v).gamma for v in self.variants())
        if given:
            texts = zip(self._contexts(prompt, given), given, strict=True)
            return max(len(context) + len(r.token_ids) for context, r in texts) + beyond
        return conversation_tokens(self.target, prompt, self.generation) + beyond

    def _contexts(self, prompt: Prompt, given: Sequence[GivenResponse]) -> list[tuple[int, ...]]:
        return contexts(self.target, prompt, given, self.generation)

    def _encoded(self, history: Sequence[dict[str, str]]) -> tuple[int, ...]:
        settings = self.generation
        return tuple(self.target.encode_chat(history, thinking=settings.thinking, today=settings.today))

    def _request(self, drafter: str, prompt: Prompt, turn: int, history: list[dict[str, str]], tokens: int) -> DecodeRequest:
        seed = self._seed(drafter, prompt.prompt_id, turn)
        return DecodeRequest(self._encoded(history), tokens, seed, _named(prompt.prompt_id, turn))

    def _seed(self, purpose: str, prompt_id: str, turn: int) -> tuple[int, int]:
        """A random stream's name: one for each drafter's responses, and one for the coins all drafters share."""
        name = hashlib.sha256(f"{purpose}\n{prompt_id}\n{turn}".encode()).digest()
        return self.options.seed, int.from_bytes(name[:8], "big")

    def _response(self, prompt: Prompt, turn: int, decoded: Decoded, limit: int) -> Response:
        """What was decoded, cut at the length limit where it went on beyond it."""
        assert decoded.finish is not None
        ids, beyond, rounds = tuple(decoded.token_ids[:limit]), tuple(decoded.token_ids[limit:]), decoded.rounds
        if beyond:  # generated by the target alone, a token a round
            rounds = rounds[: limit - 1]
        return Response(
            prompt.task, prompt.domain, prompt.prompt_id, turn, len(decoded.request.prompt), ids, self.target.text(ids),
            "length" if beyond else decoded.finish, tuple(rounds), beyond,
        )  # fmt: skip

    def _told(
        self, prompt: Prompt, turn: int, prompt_tokens: int, given: GivenResponse, beyond: tuple[int, ...]
    ) -> Response:
        """A response of another engine; as plain decoding makes it, a token a round."""
        rounds = tuple(Round(0, 0, 0, 1, (), running=1) for _ in given.token_ids[1:])
        return Response(
            prompt.task, prompt.domain, prompt.prompt_id, turn, prompt_tokens, given.token_ids,
            self.target.text(given.token_ids), given.finish, rounds, beyond,
        )  # fmt: skip


def _training(folder: Path) -> dict[str, Any]:
    """How a drafter was trained, where a file beside its weights says so as `harness train` writes it."""
    told = _told_of(folder)
    kept = ("steps", "best_step", "evaluated", "facts")
    return {"training": {name: told[name] for name in kept}} if told.keys() >= {*kept} else {}


def _told_of(folder: Path) -> dict[str, Any]:
    """What a file beside a drafter's weights says of its training; nothing where there is none."""
    try:
        told = json.loads((folder / TRAINED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _named(prompt_id: str, turn: int) -> str:
    """What messages call a response."""
    return f"prompt {prompt_id}, turn {turn}"
