"""The decode loop: propose → verify → commit, over a ragged batch of requests."""

from __future__ import annotations

import copy
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from drafters.cache import Positions
from drafters.kinds.contract import Drafter
from drafters.kinds.learned import LearnedDrafter
from drafters.sampling import Draws, Proposal, finite, not_finite, probabilities, sample, verify, verify_greedy
from drafters.target import Target, TargetPass
from simulator.drafter_kinds import KINDS
from simulator.errors import InputError
from simulator.hardware.cost import StepLoad
from simulator.policies import Policy, StepView, verify_lengths
from simulator.records import Drafting, FinishReason, Round, Sampling

_PREFILL_PADDING = 1.25
"""Prompts up to this many times as long as the shortest are prefilled together."""


ShownConfidences = Callable[[Proposal], Sequence[Sequence[float]]]
"""What a policy is shown of a proposal: c_1..c_γ of each request, or nothing of each."""


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """A context to continue."""

    prompt: tuple[int, ...]
    """Token ids, at least one."""
    max_new_tokens: int
    """Length limit of the response."""
    seed: tuple[int, ...]
    """Names this request's own random stream, so that its response depends on nothing else in the batch."""
    name: str = ""
    """What messages call it."""

    def __post_init__(self) -> None:
        if not self.prompt or self.max_new_tokens < 1:
            raise ValueError("request: at least one prompt token and one new token are needed")


@dataclass(slots=True)
class Decoded:
    """A request on its way, and, once `finish` is set, its response."""

    request: DecodeRequest
    random: np.random.Generator
    token_ids: list[int] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    finish: FinishReason | None = None

    @property
    def anchor_position(self) -> int:
        """Text position of the last committed token."""
        return len(self.request.prompt) + len(self.token_ids) - 1


@dataclass(frozen=True, slots=True)
class Said:
    """What was decoded of a request, as it can be kept: all of `Decoded` but the request and its random stream."""

    number: int
    """Which request, as whoever asked counts them."""
    token_ids: list[int]
    rounds: list[Round]
    finish: FinishReason | None

    @classmethod
    def of(cls, number: int, decoded: Decoded) -> Said:
        """Up to now."""
        return cls(number, list(decoded.token_ids), list(decoded.rounds), decoded.finish)


def decode(
    target: Target,
    drafter: Drafter,
    requests: Sequence[DecodeRequest],
    sampling: Sampling,
    *,
    max_batch: int,
    policy: Policy | None = None,
    drafting: Drafting = "sampled",
) -> Iterator[tuple[int, Decoded]]:
    """Decode all requests, at most `max_batch` at a time; yields (index, response) as each finishes.

    A finished request's place goes to the next in line (continuous batching). The output follows the target's
    distribution exactly, whatever the drafter and however it drafts. `policy` says how much of each draft is verified; None
    verifies it all.

    Raises:
        InputError: a request does not fit the target's context, the policy needs what no engine can know, or logits or
            confidences are not finite; the message then names the request and the position.
    """
    longest = max((len(r.prompt) + r.max_new_tokens for r in requests), default=0)
    batch = Batch(target, drafter, sampling, policy, min(max_batch, len(requests)), longest, drafting=drafting)
    waiting = deque(enumerate(requests))
    while waiting or batch.running:
        with torch.inference_mode():
            batch.admit(waiting)
            done = batch.retire()
            while batch.running and not done:
                batch.round()
                done = batch.retire()
        yield from done


class Batch:
    """The running requests, and the caches of target and drafter: row i of each belongs to `running[i]`."""

    def __init__(
        self,
        target: Target,
        drafter: Drafter,
        sampling: Sampling,
        policy: Policy | None,
        rows: int,
        longest: int,
        *,
        drafting: Drafting = "sampled",
        shown: ShownConfidences | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Room for `rows` requests of up to `longest` tokens, prompt and response.

        Args:
            policy: copied, since one may learn.
            drafting: how draft tokens are chosen.
            shown: confidences as the policy sees them, calibrated or estimated; by default the drafter's own.
            clock: seconds; by default the wall's.

        Raises InputError where the target cannot decode live or its context is shorter, or the policy needs what no engine
        can know.
        """
        if policy is not None and not policy.lossless:
            raise InputError(f"policy {policy.name}: is a bound for replays; a live loop cannot know what it looks at")
        if target.cannot_decode is not None:
            raise InputError(f"target {target.name}: cannot decode live: {target.cannot_decode}")
        if longest + drafter.gamma > target.max_positions:  # a draft at the end of a text is read beyond it
            beyond = f" and {drafter.gamma} drafted after them" if drafter.gamma else ""
            raise InputError(
                f"a prompt and its response need {longest} tokens{beyond}, but the target's context has "
                f"{target.max_positions}; shorten the prompt or lower max_new_tokens"
            )
        self.target, self.drafter, self.sampling, self.rows = target, drafter, sampling, rows
        self._of_drafts, self._stop_tokens = sampling.of_drafts(drafting), target.stop_tokens
        self.policy, self._shown = copy.copy(policy), shown or confidences
        self._now = clock or (_clock_of(target.device) if target.device.type == "cuda" else time.perf_counter)
        self.cache = target.new_cache(rows, longest + drafter.gamma + 1)
        self.state = drafter.start(rows, longest + drafter.gamma + 1)
        self.running: list[tuple[int, Decoded]] = []
        self._shorter: dict[int, Drafter] = {}

    def admit(self, waiting: deque[tuple[int, DecodeRequest]]) -> None:
        """Prefill waiting requests into free rows."""
        new: list[tuple[int, Decoded]] = []
        while waiting and len(self.running) + len(new) < self.rows:
            index, request = waiting.popleft()
            new.append((index, Decoded(request, np.random.Generator(np.random.Philox(seed=request.seed)))))
        # Prompts of similar length together: one long one must not make all the others as long with padding.
        new.sort(key=lambda entry: len(entry[1].request.prompt))
        while new:
            longest = len(new[0][1].request.prompt) * _PREFILL_PADDING
            count = sum(len(d.request.prompt) <= longest for _, d in new)
            self._prefill(new[:count])
            new = new[count:]

    def take_up(self, request: DecodeRequest, said: Said) -> Decoded:
        """Go on with a request where a batch of the same settings was stopped: its text is read anew, nothing is drawn.

        One that is finished takes no row.
        """
        decoded = Decoded(request, np.random.Generator(np.random.Philox(seed=request.seed)), finish=said.finish)
        decoded.token_ids += said.token_ids
        decoded.rounds += said.rounds
        drawn = 2 * self.drafter.gamma + 1 if self.sampling.temperature else 0
        decoded.random.random(1 + drawn * len(said.rounds))
        if said.finish is None:
            self._observe_new([(said.number, decoded)], *self._read([(said.number, decoded)]))
        return decoded

    def _read(self, new: list[tuple[int, Decoded]]) -> tuple[Positions, Tensor, TargetPass]:
        """The target's pass over texts up to their anchors, into the next rows: (positions, lengths, what it saw)."""
        rows = slice(len(self.running), len(self.running) + len(new))
        texts = [[*d.request.prompt, *d.token_ids[:-1]] for _, d in new]
        ids = _padded(texts, self.target.device)
        positions = Positions.of([0] * len(new), ids.shape[1], ids.device)
        seen = self.target.forward(ids, positions, self.cache, rows, self.drafter.tap_layers)
        return positions, self._tensor([len(t) for t in texts]), seen

    def _observe_new(self, new: list[tuple[int, Decoded]], positions: Positions, length: Tensor, seen: TargetPass) -> None:
        """Let the drafter take in texts that were read, whose requests run from now on."""
        rows = slice(len(self.running), len(self.running) + len(new))
        text = _padded([[*d.request.prompt, *d.token_ids] for _, d in new], self.target.device)
        self.drafter.observe(self.state, rows, positions, seen.taps, text, length)
        self.running += new

    def _prefill(self, new: list[tuple[int, Decoded]]) -> None:
        """Fill the next rows, and draw each response's first token from the target alone."""
        positions, length, seen = self._read(new)
        last = seen.hidden[torch.arange(len(new), device=length.device), length - 1]
        uniform = torch.tensor([d.random.random() for _, d in new], dtype=torch.float64)
        logits = self.target.head(last)
        for (_, decoded), fine in zip(new, finite(logits).tolist(), strict=True):
            if not fine:
                raise self._not_finite("the target's logits", decoded, 0)
        first = sample(probabilities(self.sampling, logits), uniform)
        for (_, decoded), token in zip(new, first.tolist(), strict=True):
            self._commit(decoded, [token])
        self._observe_new(new, positions, length, seen)

    def round(self, load: StepLoad | None = None) -> None:
        """One propose → verify → commit of every running request; `load` is what the step holds, by default nothing else."""
        started = self._now()
        decoded = [d for _, d in self.running]
        rows = slice(0, len(decoded))
        if load is None:
            load = StepLoad(len(decoded), context_tokens=sum(d.anchor_position + 1 for d in decoded))
        draws = self._draw(decoded)
        anchor = self._tensor([d.token_ids[-1] for d in decoded])
        positions = Positions.of([d.anchor_position for d in decoded], self.drafter.gamma + 1, anchor.device)
        proposal = self._propose(load, rows, anchor, positions.first(1), draws)
        drafted_at = self._now()
        drafted = [0] * len(decoded) if proposal is None else list(proposal.drafted)
        confidence = [[]] * len(decoded) if proposal is None else self._shown(proposal)
        verified = self._choose_verified(load, drafted, confidence, decoded)
        ids = anchor.unsqueeze(1)
        if proposal is not None and max(verified):
            ids = torch.cat([ids, proposal.tokens[:, : max(verified)]], 1)
        seen = self.target.forward(ids, positions.first(ids.shape[1]), self.cache, rows, self.drafter.tap_layers)
        accepted, said = self._verify(decoded, proposal, verified, self.target.head(seen.hidden), draws)
        verified_at = self._now()

        if self.drafter.gamma:
            self._observe(rows, positions, seen.taps, said, accepted)
        observed_at = self._now()

        # What the drafter does with the verified tokens is part of its price.
        seconds = (drafted_at - started + observed_at - verified_at, verified_at - drafted_at)
        columns = zip(decoded, drafted, verified, accepted, said, confidence, strict=True)
        for one, count, offered, kept, text, c in columns:
            committed, kept = self._commit(one, text[1 : kept + 2])
            one.rounds.append(Round(count, offered, kept, committed, tuple(c), len(decoded), seconds[0], seconds[1]))
        if self.policy is not None:
            self.policy.learn([d.rounds[-1].verified for d in decoded], [d.rounds[-1].accepted for d in decoded])

    def _verify(
        self,
        decoded: list[Decoded],
        proposal: Proposal | None,
        verified: list[int],
        logits: Tensor,
        draws: Draws | None,
    ) -> tuple[list[int], list[list[int]]]:
        """The acceptance rule: a of each request; and N + 1 tokens: its anchor, drafts, and what follows those accepted."""
        depth = logits.shape[1] - 1
        drafts = [[]] * len(decoded) if proposal is None or depth == 0 else proposal.tokens[:, :depth].tolist()
        if draws is None:
            largest, best = logits.max(-1)
            self._check_finite(decoded, proposal, largest, verified)
            accepted, final = verify_greedy(drafts, verified, best.tolist())
        else:
            self._check_finite(decoded, proposal, logits.amax(-1), verified)
            verdict = verify(proposal, self._tensor(verified), probabilities(self.sampling, logits), draws)
            accepted, final = verdict.accepted.tolist(), verdict.next_token.tolist()
        said = [[one.token_ids[-1], *draft, 0] for one, draft in zip(decoded, drafts, strict=True)]
        for text, kept, token in zip(said, accepted, final, strict=True):
            text[kept + 1] = token
        return accepted, said

    def _observe(self, rows: slice, positions: Positions, taps: Tensor, said: list[list[int]], accepted: list[int]) -> None:
        """Let the drafter take in what is committed of the pass, and no more than the longest of that."""
        count = max(accepted) + 1
        text, length = self._tensor([row[: count + 1] for row in said]), self._tensor([kept + 1 for kept in accepted])
        self.drafter.observe(self.state, rows, positions.first(count), taps[:, :count], text, length)

    def _check_finite(self, decoded: list[Decoded], proposal: Proposal | None, largest: Tensor, verified: list[int]) -> None:
        """Raise InputError where a draft, its confidences, or the target's logits on it are not finite.

        From a nan a token is still drawn, so that it would be recorded as if the target had said it. A few numbers are
        looked at on the host, and not by as many kernels on the device: `largest` logits of the target [B, L + 1].
        """
        checks = {"the target's logits": largest}
        if proposal is not None and proposal.logits is not None:
            checks["the drafter's logits"] = proposal.logits.amax(-1)
        if proposal is not None and proposal.confidence is not None:
            checks["the drafter's confidences"] = proposal.confidence
        for whose, values in checks.items():
            for one, row, count in zip(decoded, values.tolist(), verified, strict=True):
                read = row[: count + 1] if values is largest else row  # the rest is padding
                if not all(map(math.isfinite, read)):
                    raise self._not_finite(whose, one, [math.isfinite(number) for number in read].index(False))

    def _not_finite(self, whose: str, decoded: Decoded, k: int) -> InputError:
        """`k` counts from the last token of the text."""
        return not_finite(whose, decoded.request.name, decoded.anchor_position + k, self.target.dtype)

    def retire(self) -> list[tuple[int, Decoded]]:
        """Take finished requests out; the last ones move into the rows they leave, so that the front stays full."""
        done = [pair for pair in self.running if pair[1].finish is not None]
        if not done:
            return done
        left = len(self.running) - len(done)
        holes = [i for i, (_, d) in enumerate(self.running[:left]) if d.finish is not None]
        sources = [i for i in range(left, len(self.running)) if self.running[i][1].finish is None]
        for source, hole in zip(sources, holes, strict=True):
            self.running[hole] = self.running[source]
        del self.running[left:]
        if holes:
            self.cache.move(self._tensor(sources), self._tensor(holes))
            self.state.move(self._tensor(sources), self._tensor(holes))
        return done

    def _propose(
        self, load: StepLoad, rows: slice, anchor: Tensor, position: Positions, draws: Draws | None
    ) -> Proposal | None:
        """A proposal of as many tokens as the policy asks for, None for none; a block is drafted whole and cut."""
        gamma = self.drafter.gamma
        k = gamma if self.policy is None else min(self.policy.draft(load, gamma), gamma)
        if k == 0:
            return None
        if k == gamma:
            return self.drafter.propose(self.state, rows, anchor, position, self._of_drafts, draws)
        drafter = self.drafter
        if isinstance(drafter, LearnedDrafter) and not KINDS[drafter.kind].one_pass:
            drafter = self._shorter.setdefault(k, copy.copy(drafter))  # weights stay shared
            drafter.gamma = k
        return drafter.propose(self.state, rows, anchor, position, self._of_drafts, draws).first(k)

    def _choose_verified(
        self, load: StepLoad, drafted: list[int], confidence: Sequence[Sequence[float]], decoded: list[Decoded]
    ) -> list[int]:
        """ℓ of each request: what the policy admits of the drafts."""
        if self.policy is None:
            return drafted
        step = StepView(self.policy, drafted, confidence, [d.rounds for d in decoded], load=load)
        return verify_lengths(self.policy, step)

    def _commit(self, decoded: Decoded, tokens: list[int]) -> tuple[int, int]:
        """Append accepted drafts and the final token, up to an end token or the limit.

        Returns (tokens committed, drafts accepted); a draft after an end token was not accepted, one cut off by the
        length limit was.
        """
        accepted = len(tokens) - 1
        committed = tokens[: decoded.request.max_new_tokens - len(decoded.token_ids)]
        stop = None
        if not self._stop_tokens.isdisjoint(committed):
            stop = next(i for i, t in enumerate(committed) if t in self._stop_tokens)
            committed = committed[: stop + 1]
            accepted = min(accepted, stop + 1)
            decoded.finish = "stop"
        decoded.token_ids += committed
        if stop is None and len(decoded.token_ids) == decoded.request.max_new_tokens:
            decoded.finish = "length"
        return len(committed), accepted

    def _draw(self, decoded: list[Decoded]) -> Draws | None:
        """2γ + 1 numbers from each request's own stream, used or not: the stream never depends on what was accepted.

        None at temperature 0, where nothing is drawn.
        """
        gamma = self.drafter.gamma
        if self.sampling.temperature == 0:
            return None
        drawn = torch.from_numpy(np.stack([d.random.random(2 * gamma + 1) for d in decoded])).to(self.target.device)
        return Draws(drawn[:, :gamma], drawn[:, gamma : 2 * gamma], drawn[:, -1])

    def _tensor(self, values: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.target.device)


def _clock_of(device: torch.device) -> Callable[[], float]:
    """A clock that waits until a GPU is done."""

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


def confidences(proposal: Proposal) -> list[list[float]]:
    """c_1..c_γ of each request; empty lists without a confidence head."""
    return proposal.confidence.tolist() if proposal.confidence is not None else [[]] * len(proposal.tokens)


def _padded(rows: Sequence[list[int]], device: torch.device) -> Tensor:
    width = max(len(r) for r in rows)
    return torch.tensor([r + [0] * (width - len(r)) for r in rows], dtype=torch.int64, device=device)
