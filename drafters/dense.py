"""Dense recording: what a drafter would do at every anchor of finished responses, in a few large passes.

The law behind it: given a response y, a draft position is accepted with probability β_k = min(1, q_k(y_k) / p_k(y_k)),
q and p with y in front; a rejected one is drawn from max(q − p, 0) normalised; what follows it is drafted freely. So one
coupling draw at each anchor gives the accepted count and a draft distributed as live, whatever policy later decides how
much of it to verify. Where drafts are greedy, q is one-hot: β_k is 1 where argmax q_k is y_k, else 0, and the draft is the
drafter's own, whatever the response. Both ways are read off the same pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drafters.kinds.contract import Drafter
from drafters.kinds.learned import Choose, Context, Draft, LearnedDrafter
from drafters.kinds.text import TextDrafter
from drafters.sampling import finite, not_finite, probabilities, sample
from drafters.target import Target
from simulator.errors import InputError
from simulator.records import Anchors, Drafting, KeptDrafting, Sampling, kept_drafting

BUDGET_BYTES = 256 << 20
"""Bound on the tensors of one pass, weights and whole-text activations apart."""
_PADDING = 1.2
"""Padded texts of a pass may have this many times the tokens they really have."""


@dataclass(frozen=True, slots=True)
class DenseText:
    """A finished response in its context."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    beyond: tuple[int, ...]
    """What the target said next where the length limit cut the response: γ tokens, or fewer up to an end token."""
    ended: bool
    """Whether the response ended with an end token."""
    seed: tuple[int, ...]
    """Names the random stream of its coupling draws."""
    name: str = ""
    """What messages call it."""

    @property
    def anchors(self) -> int:
        """Every response token but the last is an anchor."""
        return len(self.response) - 1

    @property
    def ids(self) -> list[int]:
        return [*self.prompt, *self.response, *self.beyond]


class Reading(NamedTuple):
    """What a target makes of a text that it reads as a whole, under the sampling settings it was generated with."""

    outside: int
    """Tokens that it cannot say here: a greedy choice, top-k or top-p that rounding decides otherwise than where the text
    was generated. Rare for the target's own texts (some in a thousand in bfloat16), many for those of others."""
    surprise: float
    """Σ (−log p(y) − H(p)) over the other tokens, H the entropy of p: 0 in the mean for what is drawn from p."""
    variance: float
    """Variance of `surprise` for what is drawn from p; both are 0 at temperature 0."""


def chances(probs: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
    """(p of the tokens that were said [...], which of them have none) under `probs` [..., V].

    The reading may round otherwise than the generation did, and a token at the edge of what top-k, top-p or greedy choice
    leaves may fall out of it: it is as likely as the least likely token inside.
    """
    p_said = probs.gather(-1, said.unsqueeze(-1)).squeeze(-1)
    outside = p_said == 0
    if bool(outside.any()):
        p_said = torch.where(outside, probs.masked_fill(probs == 0, 2.0).amin(-1), p_said)
    return p_said, outside


def reading_of(probs: Tensor, p_said: Tensor, outside: Tensor, own: Tensor, sampling: Sampling) -> Tensor:
    """A `Reading`'s numbers, float64 [B, 3], of tokens said at anchors [B, A] with `probs` [B, A, V]; only `own` ones
    count."""
    counted, surprise, variance = own & ~outside, torch.zeros_like(p_said), torch.zeros_like(p_said)
    if sampling.temperature > 0:
        log = probs.clamp(min=torch.finfo(probs.dtype).tiny).log()
        entropy = -(probs * log).sum(-1)
        surprise = -p_said.log() - entropy
        variance = (probs * log.square()).sum(-1) - entropy.square()
    columns = (outside & own, torch.where(counted, surprise, 0.0), torch.where(counted, variance, 0.0))
    return torch.stack([column.double().sum(-1) for column in columns], -1)


def record_anchors(
    target: Target,
    drafters: Sequence[Drafter],
    texts: Sequence[DenseText],
    sampling: Sampling,
    *,
    drafting: Sequence[Drafting] = ("sampled",),
    budget_bytes: int = BUDGET_BYTES,
    fresh: bool = False,
    readings: list[Reading] | None = None,
) -> list[dict[KeptDrafting, list[Anchors]]]:
    """Dense records of `texts`, in their order, for each of the drafters. The target reads every text once for all.

    A drafter has a record for each way to draft, or one for either where both ways draft the same.

    Args:
        sampling: the settings the responses were sampled with; a record holds for these alone.
        drafting: the ways to record.
        budget_bytes: how much a pass may hold; longer texts take more passes.
        fresh: also draft a second time, freely, for the confidences of unverified tails; a greedy draft has one tail only.
        readings: is given, for each text, what the target makes of it. Whoever knows where the texts come from judges.

    Raises:
        InputError: a text lacks tokens beyond its end, or logits or confidences are not finite.
        TypeError: a drafter drafts nothing, or in a way not known here.
    """
    learned = [d for d in drafters if isinstance(d, LearnedDrafter)]
    for d in drafters:
        if not isinstance(d, LearnedDrafter | TextDrafter):
            raise TypeError(f"drafter {d.kind}: no dense record of a {type(d).__name__} can be made")
    gamma = max(d.gamma for d in drafters)
    for text in texts:
        end = text.beyond[-1] if text.beyond else text.response[-1]
        if not text.ended and len(text.beyond) < gamma and end not in target.stop_tokens:
            raise InputError(
                f"a response cut by the length limit goes on for {len(text.beyond)} tokens; γ = {gamma} are needed"
            )
    ways = tuple(dict.fromkeys(kept_drafting(way, "learned", sampling.temperature) for way in drafting))
    read: list[dict[KeptDrafting, dict[int, Anchors]]] = [{way: {} for way in ways} for _ in learned]
    made: dict[int, Reading] = {}
    looked_up_alone = not learned and readings is None
    at_once = _anchors_at_once(target, learned, texts, budget_bytes, len(ways))
    for group in [] if looked_up_alone else _groups(texts, at_once, target.max_positions - gamma):
        padded = _Texts([texts[i] for i in group], gamma, target.device)
        recorded, own_readings = _drafted(target, learned, padded, sampling, ways, budget_bytes, fresh)
        made |= zip(group, own_readings, strict=True)
        for own, of_drafter in zip(read, recorded, strict=True):
            for way in ways:
                own[way] |= zip(group, of_drafter[way], strict=True)
    if readings is not None:
        readings += [made[i] for i in range(len(texts))]
    in_turn = ({way: [some[i] for i in range(len(texts))] for way, some in own.items()} for own in read)
    return [
        {"either": [_looked_up(d, t, target.vocab_size) for t in texts]} if isinstance(d, TextDrafter) else next(in_turn)
        for d in drafters
    ]


def _looked_up(drafter: TextDrafter, text: DenseText, vocabulary: int) -> Anchors:
    """A one-hot q: β is 1 where the proposal is what the response says, else 0. Every q is as sure as any other."""
    drafts = drafter.drafts_along([*text.prompt, *text.response[:-1]], len(text.prompt))
    if wrong := [token for draft in drafts for token in draft if not 0 <= token < vocabulary]:
        raise InputError(f"drafter {drafter.kind}: drafts token {wrong[0]}, which the target's {vocabulary:,} do not have")
    said = [*text.response, *text.beyond]
    accept = np.zeros((text.anchors, drafter.gamma), np.float32)
    for i, draft in enumerate(drafts):
        for k, (drafted, actual) in enumerate(zip(draft, said[i + 1 :], strict=False)):
            accept[i, k] = drafted == actual
    accepted = accept.cumprod(1).sum(1).astype(np.uint8)
    return Anchors(np.array([len(d) for d in drafts], np.uint8), accepted, accept)


def _anchors_at_once(
    target: Target, drafters: Sequence[LearnedDrafter], texts: Sequence[DenseText], budget_bytes: int, ways: int
) -> int:
    """Anchors of one pass: logits and distributions of the blocks, and attention scores over the longest context."""
    longest = max(len(t.prompt) + len(t.response) for t in texts)
    logits = [(6 + 2 * ways) * target.vocab_size * (d.gamma + 3) for d in drafters]
    scores = [3 * d.settings.shape.heads * longest * d.gamma for d in drafters]
    alone = 6 * target.vocab_size  # where the target reads for nobody but itself
    return max(1, budget_bytes // int(4 * (max(logits, default=alone) + max(scores, default=0))))


def _groups(texts: Sequence[DenseText], anchors: int, longest: int) -> Iterator[list[int]]:
    """Indices of texts to put into one pass: little padding, at most `longest` tokens of context and response with it, and
    `anchors` in all unless one text alone has more."""
    group: list[int] = []
    shapes = [(text.anchors, len(text.prompt)) for text in texts]
    for i in sorted(range(len(texts)), key=shapes.__getitem__):
        wider = [*group, i]
        width = max(shapes[j][0] for j in wider) + max(shapes[j][1] for j in wider)
        padded = len(wider) * width > _PADDING * sum(sum(shapes[j]) for j in wider)
        if group and (padded or width > longest or len(wider) * shapes[i][0] > anchors):
            yield group
            group = []
        group.append(i)
    if group:
        yield group


class _Texts:
    """Some texts B of one pass, padded to the same number of anchors A."""

    def __init__(self, texts: Sequence[DenseText], gamma: int, device: torch.device) -> None:
        self.texts = texts
        self.anchors = max(1, *(t.anchors for t in texts))  # responses of one token have but padding
        first = torch.tensor([len(t.prompt) for t in texts])
        ids = torch.zeros(len(texts), int(first.max()) + self.anchors + gamma, dtype=torch.int64)
        uniform = torch.zeros(gamma, 3, len(texts), self.anchors, dtype=torch.float64)
        for row, text in enumerate(texts):
            known = text.ids[: ids.shape[1]]
            ids[row, : len(known)] = torch.tensor(known)
            random = np.random.Generator(np.random.Philox(seed=text.seed))
            uniform[:, :, row, : text.anchors] = torch.from_numpy(random.random((gamma, 3, text.anchors)))
        self.ids = ids.to(device)
        self.positions = (first.unsqueeze(1) + torch.arange(self.anchors)).to(device)
        """Positions of the anchors, [B, A]; padding runs on."""
        self.last = torch.tensor([[len(t.ids) - 1] for t in texts], device=device)
        """Position of the last token that can be accepted: an end token, or the last one known; [B, 1]."""
        self.ends = torch.tensor([[len(t.prompt) + len(t.response)] for t in texts], device=device)
        """Position after the response, [B, 1]."""
        self.uniform = uniform.to(device)
        """Draws to accept, to replace and to draft afresh, [γ, 3, B, A]; a smaller γ has the same ones."""


@torch.inference_mode()
def _drafted(
    target: Target,
    drafters: Sequence[LearnedDrafter],
    texts: _Texts,
    sampling: Sampling,
    ways: Sequence[KeptDrafting],
    budget_bytes: int,
    fresh: bool,
) -> tuple[list[dict[KeptDrafting, list[Anchors]]], list[Reading]]:
    """One reading of the texts by the target, then slices of their anchors, each with all blocks of all drafters."""
    taps = sorted({layer for d in drafters for layer in d.tap_layers})
    seen = target.read(texts.ids, taps)
    by_layer = dict(zip(taps, torch.split(seen.taps, target.hidden_size, -1), strict=True)) if taps else {}
    contexts = [d.read(torch.cat([by_layer[i] for i in d.tap_layers], -1), texts.ids, texts.positions) for d in drafters]
    parts: list[dict[KeptDrafting, list[list[Tensor]]]] = [{way: [] for way in ways} for _ in drafters]
    made = torch.zeros(len(texts.texts), 3, dtype=torch.float64, device=texts.ids.device)
    step = max(1, _anchors_at_once(target, drafters, texts.texts, budget_bytes, len(ways)) // len(texts.texts))
    for i in range(0, texts.anchors, step):
        at = slice(i, i + step)
        verdicts = _Verdicts(target, texts, at, seen.hidden, sampling)
        made += verdicts.reading
        for drafter, every_anchor, part in zip(drafters, contexts, parts, strict=True):
            context = Context(every_anchor.layers, every_anchor.feature[:, at], every_anchor.visible[:, at])
            blocks = _Blocks(verdicts)
            chooses = {way: blocks.ways_to_choose(way, fresh=drafter.confident and fresh) for way in ways}
            every = [blocks.follow, *(choose for some in chooses.values() for choose in some)]
            drafts = drafter.drafts(context, texts.ids.gather(1, context.visible), every)
            sure = [_sure(draft) for draft in drafts[1:]]
            lost = [] if drafter.outside is None else [verdicts.outside(drafter.outside, drafter.gamma)]
            fine = torch.stack([finite(d.logits).all(-1) for d in drafts] + [s.isfinite().all(-1) for s in sure]).all(0)
            in_turn = iter(sure)
            for way, some in chooses.items():
                part[way].append([fine, *blocks.judged(way), *islice(in_turn, len(some)), *lost])
    recorded = [
        {way: _cut_up(texts.texts, pieces, drafter, target.dtype) for way, pieces in part.items()}
        for drafter, part in zip(drafters, parts, strict=True)
    ]
    return recorded, [Reading(int(outside), surprise, variance) for outside, surprise, variance in made.tolist()]


def _cut_up(
    texts: Sequence[DenseText], pieces: Sequence[Sequence[Tensor]], drafter: LearnedDrafter, dtype: torch.dtype
) -> list[Anchors]:
    """The texts' records from columns [B, A, …] of slices of their anchors."""
    columns = [torch.cat(column, 1).cpu().numpy() for column in zip(*pieces, strict=True)]
    return [_anchors(t, [c[row, : t.anchors] for c in columns], drafter, dtype) for row, t in enumerate(texts)]


def _sure(draft: Draft) -> Tensor:
    """c_k, [B, A, γ]; without a confidence head the certainty max_v q_k(v).

    The latter at temperature 1 and before top-k and top-p: of what a greedy drafter draws from, it is always 1. It depends
    on q_k as a whole, never on the token drawn from it: admitting by q_k(x_k) would bias what is committed.
    """
    if draft.confidence_logits is not None:
        return draft.confidence_logits.float().sigmoid()
    positions = (logits.float() for logits in draft.logits.unbind(2))  # one at a time: copies would be large
    return torch.stack([(x.amax(-1) - x.logsumexp(-1)).exp() for x in positions], -1)


def _anchors(text: DenseText, columns: Sequence[npt.NDArray[Any]], drafter: LearnedDrafter, dtype: torch.dtype) -> Anchors:
    fine, accepted, accept_prob, *sure = columns
    outside = None if drafter.outside is None else sure.pop().astype(np.float32)
    if not fine.all():
        position = len(text.prompt) + int(fine.argmin())
        raise not_finite(f"logits or confidences of {drafter.kind} for drafts", text.name, position, dtype)
    drafted = np.full(text.anchors, drafter.gamma, np.uint8)
    anchors = Anchors(drafted, accepted.astype(np.uint8), accept_prob.astype(np.float32), outside=outside)
    names = ("confidence", "fresh_confidence") if drafter.confident else ("certainty",)
    return replace(anchors, **dict(zip(names, sure, strict=False)))


class _Verdicts:
    """What the target thinks of the texts' own tokens at draft positions of anchors [B, A]; the same for all drafters."""

    def __init__(self, target: Target, texts: _Texts, at: slice, hidden: Tensor, sampling: Sampling) -> None:
        positions = texts.positions[:, at]
        gamma, anchors = len(texts.uniform), positions.shape[1]
        window = positions[:, :1] + torch.arange(anchors + gamma - 1, device=positions.device)
        rows = torch.arange(len(positions), device=positions.device).unsqueeze(1)
        logits, known = target.head(hidden[rows, window]), window + 1 <= texts.last
        for row, fine in enumerate((finite(logits) | ~known).cpu().numpy()):
            if not fine.all():
                position = int(window[row, int(fine.argmin())])
                raise not_finite("the target's logits", texts.texts[row].name, position, target.dtype)
        probs = probabilities(sampling, logits)
        said = texts.ids.gather(1, window + 1)
        p_said, outside = chances(probs, said)
        outside = outside & known

        def by_position(x: Tensor) -> list[Tensor]:
            return [x[:, k : k + anchors] for k in range(gamma)]

        self.sampling, self.uniform = sampling, texts.uniform[..., at]
        own = window[:, :anchors] + 1 < texts.ends
        self.reading = reading_of(probs[:, :anchors], p_said[:, :anchors], outside[:, :anchors], own, sampling)
        """What a `Reading` holds, of the response tokens after the anchors, float64 [B, 3]."""
        self.probs, self.said, self.p_said = by_position(probs), by_position(said), by_position(p_said)
        """p_k with the response in front [B, A, V], y_k [B, A] and p_k(y_k) [B, A], for each k."""
        self.real = by_position(known)
        """Whether there is a y_k, [B, A] for each k: false beyond the end token."""

    def outside(self, lacking: Tensor, gamma: int) -> Tensor:
        """What the target gives to tokens that a vocabulary is `lacking`, bool [V], at each of γ positions, [B, A, γ]."""
        lost = [
            torch.where(real, probs @ lacking.to(probs.dtype), torch.nan)
            for probs, real in zip(self.probs[:gamma], self.real[:gamma], strict=True)
        ]
        return torch.stack(lost, -1)


class _Blocks:
    """A drafter's blocks at anchors [B, A]: the ways their tokens are chosen, and what becomes of these."""

    def __init__(self, verdicts: _Verdicts) -> None:
        self.verdicts = verdicts
        self.accept_prob: list[Tensor] = []
        """β_k, [B, A] each."""
        self.accepted = torch.zeros_like(verdicts.said[0])
        """a, [B, A]: positions before the first whose draw is not below β."""
        self.agrees: list[Tensor] = []
        """Whether argmax q_k is the response's token, [B, A] each: β_k of a greedy draft."""

    def ways_to_choose(self, way: KeptDrafting, *, fresh: bool) -> list[Choose]:
        """Drafts to make after `follow`: the coupled one, and with `fresh` a second."""
        if way == "greedy":  # a second one would be the same
            return [self.likeliest]
        return [self.couple, self.free] if fresh else [self.couple]

    def judged(self, way: KeptDrafting) -> tuple[Tensor, Tensor]:
        """a [B, A] and β [B, A, γ], after `follow`."""
        if way == "greedy":
            agrees = torch.stack(self.agrees, -1)
            return agrees.cumprod(-1).sum(-1), agrees
        return self.accepted, torch.stack(self.accept_prob, -1)

    def follow(self, k: int, logits: Tensor) -> Tensor:
        """The response's own tokens; takes down how likely each is accepted."""
        v = self.verdicts
        q = probabilities(v.sampling, logits).gather(-1, v.said[k].unsqueeze(-1)).squeeze(-1)
        beta = torch.where(v.real[k], (q / v.p_said[k]).clamp(max=1.0), 0.0)
        self.accept_prob.append(beta)
        self.accepted += (self.accepted == k) & (v.uniform[k, 0] < beta)
        self.agrees.append((logits.argmax(-1) == v.said[k]) & v.real[k])
        return v.said[k]

    def couple(self, k: int, logits: Tensor) -> Tensor:
        """The response's token while accepted, then a draw from the residual, then free draws. After `follow`."""
        v, drawn = self.verdicts, self.accepted <= k
        q = probabilities(v.sampling, logits[drawn])
        residual = (q - v.probs[k][drawn]).clamp(min=0)
        # Beyond the end nothing is judged: the drafter goes on by itself. So where p = q to the last bit.
        rejected = (self.accepted == k)[drawn] & v.real[k][drawn] & (residual.sum(-1) > 0)
        tokens = v.said[k].clone()
        tokens[drawn] = sample(torch.where(rejected.unsqueeze(-1), residual, q), v.uniform[k, 1][drawn])
        return tokens

    def free(self, k: int, logits: Tensor) -> Tensor:
        """The drafter's own draws, whatever the response says."""
        return sample(probabilities(self.verdicts.sampling, logits), self.verdicts.uniform[k, 2])

    def likeliest(self, k: int, logits: Tensor) -> Tensor:
        """What a greedy drafter drafts: while it is accepted, these are the response's own tokens."""
        return logits.argmax(-1)
