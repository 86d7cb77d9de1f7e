"""A served run in the database: traces whose replay at the served K is what was served, and an estimate below it.

Rounds of a server stand at the anchors that it visited. A trace needs one at every anchor: those that were visited keep
their rounds, in order, so that verifying whole drafts walks them again; the others get rounds of the same request, drawn at
random. Where requests are not told apart, answers are made whose rounds have the averages, as `harness synthesize` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from harness.published.run import SynthesizedRun, keep
from harness.served.acceptance import Acceptance, acceptance_of
from harness.served.observed import ServedRequest
from harness.served.server import Server
from results.store.database import Store
from simulator.drafter_kinds import KINDS
from simulator.errors import InputError
from simulator.numbers import counted
from simulator.records import SERVED, Anchors, Drafting, kept_drafting
from simulator.traces import Trace, TracedResponse

Floats = npt.NDArray[np.float32]
Shares = npt.NDArray[np.float64]
ASSUMPTIONS = (
    "rounds are those of visited anchors under the policy that was served: at its K a replay is exact, below it an estimate",
    "anchors that were not visited have rounds of the same request, drawn at random; longer drafts are not in them at all",
)
"""What a served run's traces hold beside what was logged."""
_MADE = (8, 200)
"""Answers that are made of averages: at least, and at most."""
_SPREAD = 0.2
"""By how much made answers' tokens of a step may differ, as a share: more would be answers that no drafter gets."""
_BLOCK = 20
"""Rounds of a made answer that have its averages together."""
_ROUNDS = 12
"""Corrections of made answers' mean, after which it is what was counted."""
_OUTPUT, _PROMPT = 256, 512
"""Tokens of answers and prompts, where nobody says."""
_MOSTLY = 0.5
"""A few requests of many stand for nobody: what is told apart must be at least this share of the drafts, or `_FEW`."""
_FEW = 20
"""Requests of which fewer leave wide intervals, and small parts of a study."""


@dataclass(frozen=True)
class Steps:
    """The steps of one request after its first token, in order."""

    drafted: npt.NDArray[np.uint8]
    accepted: npt.NDArray[np.uint8]
    confidence: Floats | None = None
    """[steps, γ]; None without."""


def traces_of(server: Server, acceptance: Acceptance, name: str, kind: str, seed: int) -> tuple[Trace, list[str]]:
    """The trace of a served drafter, and how it was made, in sentences."""
    rng = np.random.default_rng([seed, 27])
    gamma = acceptance.gamma
    if requests := _requests(server):
        steps = [_steps_of(one, gamma, rng) for one in requests]
        sizes = [(one.prompt_tokens or round(server.prompt_tokens or _PROMPT), one.output_tokens) for one in requests]
        rounds = any(one.rounds for one in requests)
        told = [f"{counted(len(requests), 'request')} told apart, {'' if rounds else 'in random order '}round by round"]
        if len(requests) < _FEW:
            told.append(f"only {counted(len(requests), 'request')}: intervals over prompts are wide, parts of a study small")
        if any(v < gamma for one in requests for v in one.verified):
            told.append("drafts are as long as they were verified: in a replay no policy verifies more of one")
        undrafted = sum(one.steps - one.drafts.drafts for one in requests)
        if undrafted >= 1:
            told.append(f"{undrafted:,.0f} steps without a draft stand at random places among each request's rounds")
    else:
        output = max(2, round(server.output_tokens or _OUTPUT))
        survivals, coverages = _answers(acceptance)
        steps = [
            _steps_of_averages(own, float(drafting), acceptance.longer, output, rng)
            for own, drafting in zip(survivals, coverages, strict=True)
        ]
        sizes = [(max(1, round(server.prompt_tokens or _PROMPT)), output)] * len(steps)
        told = [
            f"no requests told apart: {len(steps)} answers of {output} tokens made with the averages; they differ so that "
            "intervals over prompts are about as wide as those of what was counted"
        ]
    drafting = kept_drafting(_drafting(server), kind, server.settings.temperature)
    parts = [
        (TracedResponse("served", "served", f"served/{i}", 0, prompt), _anchors(own, output - 1, acceptance, rng))
        for i, (own, (prompt, output)) in enumerate(zip(steps, sizes, strict=True))
    ]
    if any(anchors.confidence is None for _, anchors in parts):
        parts = [(response, replace(anchors, confidence=None)) for response, anchors in parts]
    return Trace.join(name, parts, drafting, kind), told


def _requests(server: Server) -> list[ServedRequest]:
    """Those told apart, where they are many, or most of what was served; else none."""
    requests = [one for one in server.told_apart if one.output_tokens > 1 and (one.rounds or one.drafts.accepted_at)]
    drafts = sum(one.drafts.drafts for one in requests)
    return requests if drafts and (len(requests) >= _FEW or drafts >= _MOSTLY * server.drafts.drafts) else []


def _drafting(server: Server) -> Drafting:
    """How the engine chose drafts: as it says, or as it does unless told."""
    if server.settings.drafting is not None:
        return server.settings.drafting
    return "sampled" if server.settings.method.lower() == "dspark" and server.settings.engine == "SGLang" else "greedy"


def _steps_of(one: ServedRequest, gamma: int, rng: np.random.Generator) -> Steps:
    """A request's drafts, with its steps without one at random places."""
    if one.rounds:
        accepted = np.array(one.rounds, np.uint8)
        drafted = np.array(one.verified or [gamma] * len(accepted), np.uint8)
    else:
        at = np.array([one.drafts.drafts, *one.drafts.accepted_at, 0.0])
        counts = np.round(at[:-1] - at[1:]).astype(int)
        accepted = rng.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.uint8)
        drafted = np.full(len(accepted), gamma, np.uint8)
    total = max(round(one.steps), len(accepted))
    places = np.sort(rng.choice(total, len(accepted), replace=False)) if len(accepted) else np.empty(0, np.int64)
    steps = Steps(np.zeros(total, np.uint8), np.zeros(total, np.uint8))
    steps.drafted[places], steps.accepted[places] = np.maximum(drafted, accepted), accepted
    if not one.confidences:
        return steps
    confidence = np.ones((total, gamma), np.float32)
    confidence[places] = np.array(one.confidences, np.float32)
    return replace(steps, confidence=confidence)


def _answers(acceptance: Acceptance) -> tuple[Shares, Shares]:
    """(shares accepted by position, [answers, K]; shares of steps with a draft, [answers]) of answers to be made.

    Pooled over the answers' steps they are the averages; and answers drawn with replacement have averages that scatter as
    much as what was counted may be off. So many answers differ by √answers as much, and there are fewer of them where that
    would be answers that no drafter gets.
    """
    lengths = 1 + acceptance.coverages * acceptance.survivals.sum(1)
    off = float(lengths.std() / lengths.mean())
    fewest, most = _MADE
    number = most if off * math.sqrt(most) <= _SPREAD else max(fewest, round((_SPREAD / off) ** 2))
    order = np.argsort(lengths, kind="stable")[((np.arange(number) + 0.5) / number * len(lengths)).astype(int)]
    drawn = np.column_stack([acceptance.survivals, acceptance.coverages])
    centre = np.append(acceptance.survival, acceptance.coverage)
    spread = lengths.std() / max(lengths[order].std(), 1e-12)
    made = centre + math.sqrt(number) * spread * (drawn[order] - drawn.mean(0))
    for _ in range(_ROUNDS):  # what is cut off at nothing and at one, and that easy answers take fewer steps, moves the mean
        made = np.clip(made, 0.0, np.where(centre > 0, 1.0, 0.0))
        made[:, :-1] = np.minimum.accumulate(made[:, :-1], axis=1)
        steps = 1 / (1 + made[:, -1] * made[:, :-1].sum(1))
        drafts = steps * made[:, -1]
        pooled = np.append(drafts @ made[:, :-1] / max(drafts.sum(), 1e-12), drafts.sum() / steps.sum())
        made += centre - pooled
    made = np.clip(made, 0.0, 1.0)
    return np.minimum.accumulate(made[:, :-1], axis=1), made[:, -1]


def _steps_of_averages(survival: Shares, coverage: float, longer: Shares, output: int, rng: np.random.Generator) -> Steps:
    """Steps of an answer whose rounds have the averages, however few of them are walked."""
    count = output - 1
    share, with_draft = _even(count, rng), _even(count, rng) < coverage
    accepted, drafted = ((share[:, None] < shares).sum(1) * with_draft for shares in (survival, longer))
    drafted = np.maximum(drafted, accepted)  # an answer that is easier than the average may accept more than it drafts
    return Steps(drafted.astype(np.uint8), accepted.astype(np.uint8))


def _even(count: int, rng: np.random.Generator) -> Shares:
    """Shares from 0 to 1, evenly spaced in every few, in random order."""
    blocks = -(-count // _BLOCK)
    order = rng.permuted(np.tile(np.arange(_BLOCK), (blocks, 1)), axis=1)
    return np.asarray(((order + rng.random((blocks, 1))) / _BLOCK).ravel()[:count], np.float64)


def _anchors(steps: Steps, count: int, acceptance: Acceptance, rng: np.random.Generator) -> Anchors:
    """A round at each of `count` anchors: the visited ones in order, the others at random."""
    total = max(len(steps.accepted), 1)
    chosen = rng.integers(total, size=count)
    at = 0
    for i, accepted in enumerate(steps.accepted.tolist()):
        if at >= count:
            break
        chosen[at] = i
        at += accepted + 1
    if not len(steps.accepted):
        nothing = np.zeros(count, np.uint8)
        return Anchors(nothing, nothing, _alpha(acceptance, count))
    confidence = None if steps.confidence is None else np.ascontiguousarray(steps.confidence[chosen])
    return Anchors(steps.drafted[chosen], steps.accepted[chosen], _alpha(acceptance, count), confidence)


def _alpha(acceptance: Acceptance, count: int) -> Floats:
    """Mean conditional acceptance by position, [count, γ]: no file says β."""
    before = np.concatenate([[1.0], acceptance.survival[:-1]])
    alpha = np.where(before > 0, acceptance.survival / np.maximum(before, 1e-9), 0.0)
    return np.ascontiguousarray(np.broadcast_to(alpha.astype(np.float32), (count, acceptance.gamma)))


def keep_served(
    server: Server, name: str, kind: str, target: str, seed: int, store: Store, say: Callable[[str], None]
) -> str:
    """Store what a server was seen to do as a run; returns its id. Raises InputError for what makes no trace."""
    if kind not in KINDS or kind == "none":
        there = ", ".join(known for known in KINDS if known != "none")
        raise InputError(
            f"{server.observations[0].files[0]}: "
            + (f"drafts with {kind}, which is no kind here" if kind else "no file says what drafts")
            + f"; say with --drafter which of {there} it is, or comes closest"
        )
    acceptance = acceptance_of(server, seed)
    trace, told = traces_of(server, acceptance, name, kind, seed)
    survival = ", ".join(f"{share:.4g}" for share in acceptance.survival)
    of = "drafts of so many tokens" if acceptance.shortener == "engine" else "all drafts"
    sources = [
        *(f"{one.source}: {', '.join(one.files)}" for one in server.observations),
        f"{name}: accepted at positions 1 to {acceptance.gamma} in {survival} of {of}, which "
        f"{acceptance.coverage:.1%} of steps have; intervals {acceptance.basis}",
    ]
    assumptions = [*ASSUMPTIONS, *told, *server.notes, *_conversions(server)]
    for line in (*sources[-1:], *told):
        say(f"· {line}")
    settings = server.settings
    sampling = {} if settings.temperature is None else {"temperature": settings.temperature}
    info = SynthesizedRun(
        suite="served", pair=f"{name} as served by {settings.engine or 'an engine'}", target=target or settings.called,
        content=[name, kind, seed, server.drafts.drafts, list(acceptance.survival), acceptance.coverage, sources],
        sampling={**sampling, "max_new_tokens": int(np.diff(trace.offsets).max()) + 1}, seed=seed, prompt_source="served",
        checkpoint=settings.drafter,
        served_with={
            "name": settings.engine, "fields": None if settings.besides is None else dict(settings.besides),
        },
        plan={
            "synthesised": "served", "label": SERVED, "sources": sources, "assumptions": assumptions,
            "averaged": not _requests(server),
        },
    )  # fmt: skip
    return keep(info, [trace], store, say)


def _conversions(server: Server) -> Sequence[str]:
    return [f"{one.source}: {note}" for one in server.observations for note in one.notes]
