"""The server: the law of its responses under every policy, its books, and its order of things."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count

import msgspec
import numpy as np
import pytest
from scipy.stats import chisquare

from drafters.decoding import DecodeRequest, decode
from drafters.kinds.contract import Drafter
from drafters.sampling import Proposal
from drafters.serving import Server, ServerState
from drafters.target import Target
from simulator.errors import InputError
from simulator.hardware.cost import StepCost, StepLoad
from simulator.policies import NO_DRAFTER, Policy, PolicySpec, StepView
from simulator.records import Sampling
from simulator.replay import EVEN_STEPS
from tests.drafters.conftest import ALL, GAMMA
from tests.drafters.test_lossless import NEW_TOKENS, PROMPT, REJECT, law
from tests.selection import few

LOSSLESS = [
    "none", "fixed:2", "threshold:0.5", "prefix_scheduler", "lagged_scheduler:1/0.5", "vllm_adaptive", "k_by_batch:8=3/40=1",
    "cutoff:20", "batch_adaptive:0.3",
]  # fmt: skip


def cost() -> StepCost:
    """A step whose time rises with its tokens, steeply enough that schedulers refuse some."""
    tokens = np.arange(2000)
    table = 4.0 + 0.05 * tokens + 0.5 * (tokens > 90)
    return StepCost(table, table, np.full((GAMMA + 1, 100), 0.5), np.zeros(GAMMA + 1))


def asked(prompt: tuple[int, ...], tokens: int) -> Iterator[DecodeRequest]:
    return (DecodeRequest(prompt, tokens, (11, i)) for i in count())


def serve(target: Target, drafter: Drafter, policy: str, requests: int, users: int = 40) -> Server:
    some = (r for r, _ in zip(asked(PROMPT, NEW_TOKENS), range(requests), strict=False))
    server = Server(
        target,
        drafter,
        Sampling(),
        PolicySpec.parse(policy).bind(cost()),
        some,
        users=users,
        rows=users,
        longest=len(PROMPT) + NEW_TOKENS,
    )
    server.run(np.inf)
    return server


@pytest.fixture(scope="module")
def expected(target: Target) -> dict[tuple[int, ...], float]:
    return law(target, Sampling())


@pytest.mark.parametrize("policy", few(LOSSLESS, "threshold:0.5", "batch_adaptive:0.3"))
def test_responses_follow_the_targets_law_under_every_policy(
    policy: str, make: Callable[[str], Drafter], target: Target, expected: dict[tuple[int, ...], float]
) -> None:
    samples = 1200
    server = serve(target, make("dspark"), policy, samples)
    seen = Counter(tuple(s.decoded.token_ids) for s in server.served)
    common = [r for r, w in expected.items() if w * samples >= 8]
    observed = np.array([*(seen[r] for r in common), samples - sum(seen[r] for r in common)])
    weights = np.array([*(expected[r] for r in common), 1 - sum(expected[r] for r in common)])
    assert chisquare(observed, weights / weights.sum() * samples).pvalue > REJECT
    lengths = {r.verified for s in server.served for r in s.decoded.rounds}
    assert len(lengths) > 1 or policy in ("none", "fixed:2")  # it does decide something


@pytest.mark.parametrize("name", ALL)
def test_responses_are_those_of_the_decode_loop(name: str, make: Callable[[str], Drafter], target: Target) -> None:
    requests = [DecodeRequest(PROMPT[: 1 + i % 5], 3 + i % 9, (3, i)) for i in range(12)]
    policy = PolicySpec.parse("fixed:2").bind()
    alone = {i: d.token_ids for i, d in decode(target, make(name), requests, Sampling(), max_batch=1, policy=policy)}
    server = Server(target, make(name), Sampling(), policy, iter(requests), users=5, rows=4, longest=20)
    server.run(np.inf)
    assert {s.number: s.decoded.token_ids for s in server.served} == alone


@pytest.mark.parametrize("steps", [1, 4, 17])
@pytest.mark.parametrize("policy", ["fixed:2", "batch_adaptive:0.5"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", few(ALL, "dspark", "eagle3", "ngram"))
def test_a_stopped_server_goes_on_to_the_same_end(
    name: str, temperature: float, policy: str, steps: int, make: Callable[[str], Drafter], target: Target
) -> None:
    """By what can be kept in a file: responses, rounds and what a policy that learns decides are those of one never
    stopped."""

    def new() -> Server:
        requests = (DecodeRequest(PROMPT[: 1 + i % 5], 3 + i % 9, (3, i)) for i in range(12))
        bound = PolicySpec.parse(policy).bind(cost())
        return Server(target, make(name), Sampling(temperature), bound, requests, users=5, rows=4, longest=20)

    def outcome(server: Server) -> dict[int, object]:
        rounds = {s.number: [(r.drafted, r.verified, r.accepted) for r in s.decoded.rounds] for s in server.served}
        return {s.number: (s.decoded.token_ids, s.decoded.finish, rounds[s.number]) for s in server.served}

    whole, stopped, resumed = new(), new(), new()
    whole.run(np.inf)
    for _ in range(steps):
        stopped.step()
    kept = msgspec.msgpack.encode(stopped.state)
    resumed.take_up(msgspec.msgpack.decode(kept, type=ServerState))
    assert resumed.state == stopped.state
    resumed.run(np.inf)
    assert outcome(resumed) == outcome(whole)
    assert [s.load for s in resumed.steps] == [s.load for s in whole.steps]
    starts = [s.start_s for s in resumed.steps]
    assert starts == pytest.approx(np.cumsum([0, *(s.seconds for s in resumed.steps[:-1])]).tolist())


def test_the_books_balance(make: Callable[[str], Drafter], target: Target) -> None:
    server = serve(target, make("dspark"), "prefix_scheduler", 30, users=6)
    rounds = [r for s in server.served for r in s.decoded.rounds]
    assert len(server.served) == 30
    for column in ("committed", "verified", "accepted"):
        assert sum(getattr(s, column) for s in server.steps) == sum(getattr(r, column) for r in rounds)
    assert sum(s.emitted for s in server.steps) == sum(len(s.decoded.token_ids) for s in server.served)
    assert sum(s.load.decoding for s in server.steps) == len(rounds)
    assert sum(s.load.prefill_tokens for s in server.steps) == 30 * len(PROMPT)
    assert max(s.load.decoding for s in server.steps) <= 6
    starts = [s.start_s for s in server.steps]
    assert starts == pytest.approx(np.cumsum([0, *(s.seconds for s in server.steps[:-1])]).tolist())
    assert all(s.seconds >= s.overhead_s > -1e-9 for s in server.steps)
    assert all(s.arrival_s < s.first_s <= s.finish_s for s in server.served)


class Spy(Policy):
    """Drafts one token where requests are many, and keeps what it is told."""

    name = "spy"

    def __init__(self) -> None:
        self.loads: list[StepLoad] = []
        self.told: list[tuple[list[int], list[int]]] = []

    def draft(self, load: StepLoad, gamma: int) -> int:
        self.loads.append(load)
        return [gamma, 1, 0][len(self.loads) % 3]

    def admit(self, step: StepView) -> None:
        for i in range(step.running):
            step.admit(i, step.drafted(i))

    def learn(self, verified: list[int], accepted: list[int]) -> None:  # type: ignore[override]
        self.told.append((verified, accepted))


@pytest.mark.parametrize("name", ["dspark", "eagle3", "ngram"])
def test_policies_are_asked_how_much_to_draft_and_told_what_came_of_it(
    name: str, make: Callable[[str], Drafter], target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter, passes = make(name), 0
    if name == "eagle3":
        honest = type(drafter).pair

        def counted(self, feature, embedded):  # type: ignore[no-untyped-def]
            nonlocal passes
            passes += feature.ndim == 3 and feature.shape[1] == 1  # one anchor a request: a step of a draft
            return honest(self, feature, embedded)

        monkeypatch.setattr(type(drafter), "pair", counted)
    policy = Spy()
    server = Server(
        target, drafter, Sampling(), policy, iter([DecodeRequest(PROMPT, 40, (1, 0))]), users=1, rows=1, longest=50
    )
    server.run(np.inf)
    steps = [s for s in server.steps if s.load.decoding]
    assert policy.loads == [s.load for s in steps]
    assert [(sum(v), sum(a)) for v, a in policy.told] == [(s.verified, s.accepted) for s in steps]
    allowed = [[GAMMA, 1, 0][(i + 1) % 3] for i in range(len(steps))]
    assert all(s.drafted <= k for s, k in zip(steps, allowed, strict=True))
    if name != "ngram":
        assert [s.drafted for s in steps] == allowed
    assert gamma_of(drafter) == GAMMA


def gamma_of(drafter: Drafter) -> int:
    return drafter.gamma


def test_an_open_loop_waits_for_arrivals_on_its_own_clock(make: Callable[[str], Drafter], target: Target) -> None:
    arrivals = [0.0, 50.0, 50.0, 900.0]
    requests = (DecodeRequest(PROMPT, 5, (4, i)) for i in range(4))
    server = Server(
        target,
        make("ngram"),
        Sampling(),
        PolicySpec.parse("fixed:2").bind(),
        requests,
        arrivals=iter(arrivals),
        rows=1,
        longest=20,
    )
    server.run(np.inf)
    assert [s.arrival_s for s in server.served] == arrivals
    assert server.served[2].first_s >= server.served[1].finish_s  # one row: the other one waits
    assert 900 < server.clock_s < 930
    assert server.clock_s == server.served[-1].finish_s


def test_policies_see_the_confidences_they_are_shown(make: Callable[[str], Drafter], target: Target) -> None:
    def half(proposal: Proposal) -> list[list[float]]:
        return (proposal.confidence * 0.5).tolist() if proposal.confidence is not None else []

    policy = PolicySpec.parse("threshold:0.51").bind()
    server = Server(target, make("dspark"), Sampling(), policy, asked(PROMPT, 9), users=1, rows=1, longest=20, shown=half)
    server.run(0.05)
    assert sum(s.verified for s in server.steps) == 0
    assert all(max(r.confidence) <= 0.5 for s in server.served for r in s.decoded.rounds)


def test_bounds_and_long_requests_are_refused(make: Callable[[str], Drafter], target: Target) -> None:
    with pytest.raises(InputError, match="is a bound"):
        Server(
            target,
            make("dspark"),
            Sampling(),
            PolicySpec.parse("oracle").bind(EVEN_STEPS),
            asked(PROMPT, 4),
            users=1,
            rows=1,
            longest=9,
        )
    with pytest.raises(InputError, match="context has 256"):
        Server(target, make("none"), Sampling(), NO_DRAFTER.bind(), asked(PROMPT, 4), users=1, rows=1, longest=300)
