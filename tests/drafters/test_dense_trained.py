"""The law of dense traces on the bundled, trained pair: independent samples, replayed and live, at temperature 1."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import drafters
from drafters.checkpoints import load_drafter
from drafters.decoding import DecodeRequest, decode
from drafters.kinds.contract import Drafter
from drafters.target import Target
from simulator.policies import PolicySpec
from simulator.records import Anchors, Round, Sampling
from simulator.replay import replay
from tests.drafters.test_dense import p_value, plant, record_of, texts
from tests.selection import few

TINY = Path(drafters.__file__).parent / "tiny"
PROMPTS = ("Say hello.", "What is 12 + 7?")
NEW_TOKENS, SAMPLES, BATCH, REJECT = 12, 360, 90, 1e-3
CASES = [("dspark", "fixed:3"), ("dspark", "threshold:0.5"), ("eagle3", "fixed:3")]

Rounds = list[list[Round]]
Record, Live = Callable[[str], list[Anchors]], Callable[[str, str], Rounds]


@pytest.fixture(scope="module")
def target() -> Target:
    return Target.load(str(TINY / "target"))


@pytest.fixture(scope="module")
def make(target: Target) -> Callable[[str], Drafter]:
    return cache(lambda name: load_drafter(str(TINY / name), target))


@pytest.fixture(scope="module")
def contexts(target: Target) -> list[tuple[int, ...]]:
    """Of every sample: the prompts in turn."""
    encoded = [tuple(target.encode_chat([{"role": "user", "content": p}])) for p in PROMPTS]
    return encoded * (SAMPLES // len(encoded))


@pytest.fixture(scope="module")
def record(target: Target, make: Callable[[str], Drafter], contexts: list[tuple[int, ...]]) -> Record:
    """Dense records of the target's own responses by drafter; the same responses and coins each time."""
    finished = texts(target, contexts, NEW_TOKENS, Sampling(), 31, gamma=7)
    return lambda name: record_of(target, make(name), finished, Sampling())


@pytest.fixture(scope="module")
def recorded(record: Record) -> Record:
    """The honest ones, made once."""
    return cache(record)


@pytest.fixture(scope="module")
def live(target: Target, make: Callable[[str], Drafter], contexts: list[tuple[int, ...]]) -> Live:
    """Rounds decoded live by drafter and policy."""

    @cache
    def decoded(name: str, policy: str) -> Rounds:
        requests = [DecodeRequest(c, NEW_TOKENS, (57, i)) for i, c in enumerate(contexts)]
        done = decode(target, make(name), requests, Sampling(), max_batch=BATCH, policy=PolicySpec.parse(policy).bind())
        return [d.rounds for _, d in done]

    return decoded


def smallest_p_value(one: Rounds, other: Rounds) -> float:
    """Of how many rounds there are and of what the first two verify and accept, times the number of tests."""
    tests: list[Callable[[list[Round]], Any]] = [
        len,
        lambda rounds: [(r.verified, r.accepted) for r in rounds[:1]],
        lambda rounds: [(r.verified, r.accepted) for r in rounds[1:2]],
        lambda rounds: [r.accepted for r in rounds[:2]],
    ]
    return len(tests) * min(p_value([str(t(r)) for r in one], [str(t(r)) for r in other]) for t in tests)


@pytest.mark.parametrize(("name", "policy"), few(CASES, ("dspark", "threshold:0.5")))
def test_a_trained_pair_replays_as_live(name: str, policy: str, recorded: Record, live: Live) -> None:
    replayed = [replay(a, PolicySpec.parse(policy).bind()) for a in recorded(name)]
    assert smallest_p_value(replayed, live(name, policy)) > REJECT
    if policy.startswith("threshold"):
        assert len({r.verified for rounds in replayed for r in rounds}) > 3  # the threshold decides something here


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_a_planted_error_is_caught(factor: float, record: Record, live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda beta: (beta * factor).clamp(max=1.0))
    replayed = [replay(a, PolicySpec.parse("fixed:3").bind()) for a in record("eagle3")]
    assert smallest_p_value(replayed, live("eagle3", "fixed:3")) < REJECT
