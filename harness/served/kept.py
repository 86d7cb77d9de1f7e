"""A served run in the database: traces whose replay at the served K is what was served, and an estimate below it.

Rounds of a server stand at the anchors that it visited. A trace needs one at every anchor: those that were visited keep
their rounds, in order, so that verifying whole drafts walks them again; the others get rounds of the same request, drawn at
random. Where requests are not told apart, answers are made whose rounds have the averages, as `harness synthesize` does.
"""

from __future__ import annotations

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
ASSUMPTIONS = (
    "rounds are those of visited anchors under the policy that was served: at its K a replay is exact, below it an estimate",
    "anchors that were not visited have rounds of the same request, drawn at random; longer drafts are not in them at all",
)
"""What a served run's traces hold beside what was logged."""
_MADE = 200
"""Answers that are made of averages."""
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
        steps = [_steps_of_averages(acceptance, output, i, rng) for i in range(_MADE)]
        sizes = [(max(1, round(server.prompt_tokens or _PROMPT)), output)] * _MADE
        told = [
            f"no requests told apart: {_MADE} answers of {output} tokens made with the averages; prompts do not differ in "
            "ease, and intervals over prompts are too narrow"
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


def _steps_of_averages(acceptance: Acceptance, output: int, number: int, rng: np.random.Generator) -> Steps:
    """Steps of an answer whose rounds have the averages: evenly spaced shares in random order."""
    count = output - 1
    share = (rng.permutation(count) + rng.random()) / count
    with_draft = (rng.permutation(count) + rng.random()) / count < acceptance.coverage
    accepted, drafted = (
        (share[:, None] < shares).sum(1) * with_draft for shares in (acceptance.survival, acceptance.longer)
    )
    return Steps(drafted.astype(np.uint8), accepted.astype(np.uint8))


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
        plan={
            "synthesised": "served", "label": SERVED, "sources": sources, "assumptions": assumptions,
            "averaged": not _requests(server),
        },
    )  # fmt: skip
    return keep(info, [trace], store, say)


def _conversions(server: Server) -> Sequence[str]:
    return [f"{one.source}: {note}" for one in server.observations for note in one.notes]
