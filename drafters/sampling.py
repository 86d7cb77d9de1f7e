"""From logits to distributions, from distributions to tokens, and the acceptance rule that keeps the target's law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from simulator.errors import InputError
from simulator.records import Sampling


def probabilities(sampling: Sampling, logits: Tensor) -> Tensor:
    """Distributions [..., V] in float32 from logits [..., V]: temperature, then top-k, then top-p.

    Temperature 0 gives the one-hot distribution of the first largest logit, so that greedy decoding needs no code
    of its own.
    """
    if sampling.temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    logits = logits.float() / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        kth = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    probs = logits.softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probs.sort(dim=-1, descending=True, stable=True)
        # A token stays while the mass before it is still short of top_p: the first always does.
        dropped = ordered.cumsum(-1) - ordered >= sampling.top_p
        probs = probs.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), 0.0)
        probs = probs / probs.sum(-1, keepdim=True)
    return probs


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a drafter proposes for B requests, γ tokens each."""

    tokens: Tensor
    """Draft tokens, int64 [B, γ]; positions from `drafted` on are padding."""
    drafted: tuple[int, ...]
    """Tokens really proposed of each request: the host knows, and need not read them back."""
    probs: Tensor | None
    """q, float32 [B, γ, V], after temperature, top-k and top-p; None where every draft is one-hot (n-gram, greedy)."""
    confidence: Tensor | None = None
    """c_k, float32 [B, γ]; None without a confidence head."""
    logits: Tensor | None = None
    """What q is made of, [B, γ, V]; None without a model."""

    @property
    def certainty(self) -> Tensor | None:
        """max_v q_k(v) at temperature 1 with nothing cut off, [B, γ]: what confidences are estimated from."""
        return None if self.logits is None else self.logits.float().softmax(-1).amax(-1)

    def first(self, k: int) -> Proposal:
        """Its first k positions."""
        optional = [None if x is None else x[:, :k] for x in (self.probs, self.confidence, self.logits)]
        return Proposal(self.tokens[:, :k], tuple(min(n, k) for n in self.drafted), *optional)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the target makes of a proposal."""

    accepted: Tensor
    """a, int64 [B]."""
    next_token: Tensor
    """The bonus token, or the replacement of the first rejected draft; int64 [B]."""


@dataclass(frozen=True, slots=True)
class Draws:
    """Uniform numbers of one round, float64 in [0, 1); always all of them, whatever the round then uses."""

    draft: Tensor
    """One per drafted position, [B, γ]."""
    accept: Tensor
    """One per drafted position, [B, γ]."""
    final: Tensor
    """For the bonus or replacement token, [B]."""


def finite(logits: Tensor) -> Tensor:
    """Whether logits [..., V] make a distribution, bool [...]. Of −inf, tokens that are never said, they may have some."""
    return logits.amax(-1).isfinite()


def not_finite(whose: str, text: str, position: int, dtype: torch.dtype) -> InputError:
    """What is raised where logits or confidences are not finite.

    `text` names the prompt or response, and `position` counts its tokens from 0, those of the prompt included: the token
    after it is the one that cannot be told.
    """
    kind = str(dtype).removeprefix("torch.")
    return InputError(
        f"{text or 'a request'}: {whose} after position {position} of the text are not finite in {kind}; "
        "give the pair another dtype, or other weights"
    )


def sample(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw an index from unnormalised `weights` [..., V] by inverting their distribution at `uniform` [...]."""
    # float64: over a large vocabulary a float32 running sum is off by more than the probabilities in its tail.
    cumulative = weights.double().cumsum(-1)
    point = uniform.to(cumulative.device).unsqueeze(-1) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, point, right=True).squeeze(-1).clamp(max=weights.shape[-1] - 1)


def verify(proposal: Proposal | None, verified: Tensor, target_probs: Tensor, draws: Draws) -> Verdict:
    """Accept a prefix of the draft so that what is committed follows the target's distribution exactly.

    Speculative sampling (Leviathan et al. 2023, Chen et al. 2023): draft token x at position k is kept with probability
    min(1, p_k(x) / q_k(x)); the first rejected one is replaced by a draw from max(p_k − q_k, 0) normalised; when all
    verified tokens are kept, a bonus token is drawn from p.

    Args:
        proposal: None where nothing was drafted.
        verified: ℓ, int64 [B], draft tokens of each request the target looked at; at most `proposal.drafted`.
        target_probs: p, float32 [B, L + 1, V] with L = max ℓ; entry k is conditioned on the first k draft tokens.
    """
    depth = target_probs.shape[1] - 1
    if proposal is None or depth == 0:
        return Verdict(torch.zeros_like(verified), sample(target_probs[:, 0], draws.final))
    tokens = proposal.tokens[:, :depth]
    p_token = target_probs[:, :depth].gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    if proposal.probs is None:
        q_token = torch.ones_like(p_token)
    else:
        q_token = proposal.probs[:, :depth].gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    offered = torch.arange(depth, device=tokens.device) < verified.unsqueeze(1)
    kept = (draws.accept[:, :depth].to(p_token.device) * q_token < p_token) & offered
    accepted = kept.long().cumprod(1).sum(1)

    rows = torch.arange(len(tokens), device=tokens.device)
    p_final = target_probs[rows, accepted]
    rejected = accepted < verified
    weights = torch.where(rejected.unsqueeze(1), _residual(proposal, p_final, rows, accepted, depth), p_final)
    return Verdict(accepted, sample(weights, draws.final))


def verify_greedy(
    drafts: Sequence[Sequence[int]], verified: Sequence[int], best: Sequence[Sequence[int]]
) -> tuple[list[int], list[int]]:
    """`verify` at temperature 0, where the target is one-hot: a draft is kept if it is `best`, whatever q was.

    Args:
        drafts: at least ℓ tokens of each request.
        verified: ℓ of each request.
        best: argmax p, at least ℓ + 1 of each request.

    Returns:
        (a, the bonus token or the replacement of the first rejected draft) of all requests.
    """
    accepted = []
    for draft, offered, own in zip(drafts, verified, best, strict=True):
        kept = 0
        while kept < offered and draft[kept] == own[kept]:
            kept += 1
        accepted.append(kept)
    return accepted, [own[kept] for kept, own in zip(accepted, best, strict=True)]


def _residual(proposal: Proposal, p_final: Tensor, rows: Tensor, accepted: Tensor, depth: int) -> Tensor:
    """max(p − q, 0) [B, V] at each request's first rejected position (meaningless where nothing was rejected)."""
    position = accepted.clamp(max=depth - 1)
    if proposal.probs is None:
        q_final = F.one_hot(proposal.tokens[rows, position], p_final.shape[-1]).to(p_final.dtype)
    else:
        q_final = proposal.probs[rows, position]
    residual = (p_final - q_final).clamp(min=0)
    # p = q to the last bit leaves nothing to draw from; then p itself is right.
    empty = residual.sum(-1, keepdim=True) <= 0
    return torch.where(empty, p_final, residual)
