"""The compiled engine against the slow one, number by number, and against what must hold of any engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator import simulation
from simulator.engine.loop import _mix
from simulator.engine.reference import Reference, draw
from simulator.engine.rules import rule_of
from simulator.engine.state import REQUEST, ROW, Limits, Records, bin_of, new_state, with_more_jobs
from simulator.errors import InputError
from simulator.hardware.cost import StepCost, rates
from simulator.policies import PolicySpec
from simulator.prefixes import PrefixBlocks
from simulator.records import Anchors
from simulator.replay import replay
from simulator.setup import EngineLimits
from simulator.simulation import Simulator, prepare
from simulator.traces import Trace, TracedResponse

POLICIES = [
    "none", "fixed:1", "fixed:3", "fixed:9", "k_by_batch:1=4/2=1", "cutoff:2", "oracle", "batch_adaptive",
    "batch_adaptive:0.7", "threshold:0.5", "threshold:1", "prefix_scheduler", "lagged_scheduler", "lagged_scheduler:1",
    "lagged_scheduler:1/0.5", "lagged_scheduler:3/0.8", "vllm_adaptive",
]  # fmt: skip
SURE = [p for p in POLICIES if p.split(":")[0] not in
        ("threshold", "prefix_scheduler", "lagged_scheduler", "vllm_adaptive")]  # fmt: skip
"""Policies that need no confidences."""

quick = settings(deadline=None, derandomize=True, max_examples=600, print_blob=True, suppress_health_check=list(HealthCheck))


@dataclass(frozen=True)
class Case:
    """One small serving problem."""

    trace: Trace
    policy: str
    cost: StepCost
    believed: StepCost
    limits: EngineLimits
    kv_tokens: int
    requests: Records
    users: int
    """0 in an open loop."""
    seed: int
    chunk: int
    """Requests handed to the compiled engine at a time."""
    rows: int
    """Finished requests it hands back at a time."""
    blocks: PrefixBlocks | None = None
    """What prompts have in common."""

    def run(self, cuts: tuple[float, ...] = ()) -> tuple[Records, Simulator]:
        """Compiled; rows by request."""
        *_, (rows, _), simulator = self.runs(cuts)
        return rows[np.argsort(rows["request"])], simulator

    def runs(self, cuts: tuple[float, ...]) -> list[Any]:
        """Compiled: (rows so far, sums so far) at each cut and at the end; and the simulator."""
        parts, seen = list[Records](), list[Any]()
        policy = PolicySpec.parse(self.policy).bind(self.believed)
        with patch.multiple(simulation, CHUNK=self.chunk, ROWS=self.rows):
            simulator = Simulator(
                prepare(self.trace), policy, self.cost, self.limits, self.kv_tokens, self._chunks(),
                users=self.users, seed=self.seed, on_rows=parts.append, blocks=self.blocks,
            )  # fmt: skip
            for until_s in (*cuts, np.inf):
                more = simulator.run_until(until_s)
                simulator.flush()
                seen.append((np.concatenate(parts), {**sums_of(simulator.totals), "bursts": simulator.bursts.tolist()}))
        assert not more
        return [*seen, simulator]

    def reference(self) -> tuple[Records, Reference]:
        """Slow; rows by request."""
        slow = self.slow()
        rows = slow.run()
        slow.check_conservation()
        return rows[np.argsort(rows["request"])], slow

    def slow(self) -> Reference:
        policy = PolicySpec.parse(self.policy).bind(self.believed)
        return Reference(
            self.trace, policy, self.cost, self.limits, self.kv_tokens, iter(self.requests),
            users=self.users, seed=self.seed, blocks=self.blocks,
        )  # fmt: skip

    def _chunks(self) -> Iterator[Records]:
        for at in range(0, len(self.requests), self.chunk):
            yield self.requests[at : at + self.chunk]


def sums_of(totals: Any) -> dict[str, Any]:
    """Sums by name, but for one that is added up in another order."""
    return {name: totals[0][name].item() for name in totals.dtype.names if name != "sojourn_s"}


def some_trace(rng: np.random.Generator, lengths: list[int], gamma: int, *, ragged: bool, sure: bool, fresh: bool) -> Trace:
    """Responses of so many anchors, in one or two domains; `sure` drafters say how sure they are."""

    def confidences(n: int) -> Any:
        c = rng.random((n, gamma)).astype(np.float32)
        plain = rng.choice(np.array([0, 0.5, 0.5, 0.75, 1, 1], np.float32), (n, gamma))
        return np.where(rng.random((n, 1)) < 0.5, c**0.5, plain)

    parts = []
    for i, n in enumerate(lengths):
        drafted = rng.integers(0, gamma + 1, n) if ragged else np.full(n, gamma)
        accepted = np.minimum(rng.integers(0, gamma + 2, n), drafted)
        extra = [confidences(n) if given else None for given in (sure, fresh and sure)]
        anchors = Anchors(drafted.astype(np.uint8), accepted.astype(np.uint8), np.ones((n, gamma), np.float32), *extra)
        parts.append((TracedResponse("t", "ab"[i % 2 if len(lengths) > 3 else 0], f"t/{i}", 0, 5), anchors))
    return Trace.join("drafter", parts)


def some_cost(rng: np.random.Generator, tokens: int, gamma: int, requests: int, assumed: int) -> StepCost:
    """Jagged tables, now rising, now falling, with ties."""

    def table(*shape: int) -> Any:
        smooth = 1 + np.cumsum(rng.random(shape) * rng.choice([0.02, 0.3]), axis=-1)
        jagged = smooth + rng.choice([0, 0, 0, 0.5, 2.0], shape)
        return rng.choice([0.1, 1.0]) * (np.ceil(jagged * 2) / 2 if rng.random() < 0.3 else jagged)

    scales = {
        "context_s_per_token": 0.01,
        "prefill_s_per_pair": 0.001,
        "eager_s_per_token": 0.01,
        "logits_s_per_token": 0.001,
    }
    numbers = {name: float(0.3 * rng.random() * rng.integers(0, 2) * scales.get(name, 1.0)) for name in rates()}
    per_token = 0.003 * rng.random(gamma + 1) * rng.integers(0, 2)
    tables = [table(tokens + 1), table(tokens + 1), table(gamma + 1, requests + 1), per_token]
    widening = 0.01 * rng.random(gamma + 3) if rng.random() < 0.5 else np.zeros(2)
    return StepCost(
        *tables, widening, 0.01 * rng.random() * rng.integers(0, 2), assumed, bool(rng.integers(0, 2)),
        rng.choice([0, tokens // 4, tokens]), **numbers,
    )  # fmt: skip


def some_requests(rng: np.random.Generator, trace: Trace, count: int, *, as_recorded: bool) -> Records:
    asked = np.zeros(count, REQUEST)
    recorded = np.diff(trace.offsets) + 1
    asked["response"] = rng.integers(0, len(recorded), count)
    asked["prompt_tokens"] = rng.integers(1, rng.choice([2, 12, 40]), count)
    exact = recorded[asked["response"]]
    asked["output_tokens"] = exact if as_recorded else np.where(rng.random(count) < 0.3, exact, rng.integers(1, 45, count))
    asked["think_s"] = rng.choice([0, 0, 1, 5]) * rng.choice([0.0, 0.5, 0.5, 1.0, rng.random()], count)
    asked["arrival_s"] = np.cumsum(rng.choice([0, 0, 0.5, rng.random()], count) * rng.choice([0, 0.1, 1, 10]))
    return asked


def some_blocks(rng: np.random.Generator, prompt_tokens: Any, tokens: int) -> PrefixBlocks:
    """Prompts of two families, some of which leave it at a random block for one of their own."""
    numbers = prompt_tokens // tokens - rng.integers(0, 2, len(prompt_tokens)) * (rng.random() < 0.3)
    known: dict[object, int] = {}
    ids: list[int] = []
    for request, n in enumerate(np.maximum(numbers, 0).tolist()):
        family, leaves = rng.integers(0, 2), rng.choice([0, 2, 5, 99])
        names = [(int(family), i) if i < leaves else (request, i, "own") for i in range(n)]
        ids += [known.setdefault(name, len(known)) for name in names]
    offsets = np.concatenate([[0], np.cumsum(np.maximum(numbers, 0))])
    return PrefixBlocks(tokens, np.array(ids, np.int64), offsets.astype(np.int64))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """The structure is drawn piece by piece, the contents of arrays by a seeded generator."""
    gamma, lengths = draw(st.integers(1, 4)), draw(st.lists(st.integers(1, 25), min_size=1, max_size=6))
    sure, ragged, fresh, as_recorded = draw(st.booleans() | st.just(True)), *(draw(st.booleans()) for _ in range(3))
    policy = draw(st.sampled_from(POLICIES if sure else SURE))
    users, count = draw(st.just(0) | st.integers(1, 6)), draw(st.integers(1, 25))
    cap, replicas, spare_kv = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.sampled_from([0, 3, 20, 1000]))
    tokens = cap * (gamma + 1) + draw(st.sampled_from([1, 3, 10, 100]))
    assumed = [draw(st.sampled_from([-1, -1, 0, 7])) for _ in range(2)]
    chunk, rows = draw(st.integers(1, 30)), draw(st.integers(0, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if not as_recorded:
        lengths[:2] = [max(n, gamma + 1) for n in lengths[:2]]  # of each domain one response to go on with
    trace = some_trace(rng, lengths, gamma, ragged=ragged, sure=sure, fresh=fresh)
    requests = some_requests(rng, trace, count, as_recorded=as_recorded)
    kv_tokens = int((requests["prompt_tokens"] + requests["output_tokens"]).max()) + gamma + 1 + spare_kv
    cost = some_cost(rng, tokens, gamma, cap, assumed[0])
    believed = some_cost(rng, tokens, gamma, cap, assumed[1]) if draw(st.booleans()) else cost
    limits = EngineLimits(
        request_cap=cap, step_tokens=tokens, replicas=replicas, router=draw(st.sampled_from(["round_robin", "least_loaded"]))
    )
    blocks = some_blocks(rng, requests["prompt_tokens"], tokens) if (tokens := draw(st.integers(0, 3))) else None
    seed = draw(st.integers(0, 99))
    return Case(trace, policy, cost, believed, limits, kv_tokens, requests, users, seed, chunk, rows, blocks)


def assert_same(case: Case) -> None:
    """Rows and sums of both engines are equal, floats included."""
    fast, simulator = case.run()
    slow, reference = case.reference()
    assert fast.dtype == slow.dtype
    for name in fast.dtype.names or ():
        np.testing.assert_array_equal(fast[name], slow[name], name)
    totals = simulator.state.totals[0]
    sums = {name: totals[name].item() for name in totals.dtype.names or ()}
    expected = {name: reference.totals[name] for name in sums}
    assert sums.pop("sojourn_s") == pytest.approx(expected.pop("sojourn_s"), rel=1e-12)  # added up in another order
    assert sums == expected
    np.testing.assert_array_equal(simulator.bursts, reference.bursts)


class TestAgainstTheReference:
    @given(case=cases())
    @quick
    def test_small_cases(self, case: Case) -> None:
        assert_same(case)

    @given(case=cases(), cuts=st.lists(st.floats(0, 60), min_size=1, max_size=5).map(sorted))
    @settings(quick, max_examples=200)
    def test_both_have_counted_the_same_until_any_time(self, case: Case, cuts: list[float]) -> None:
        """What is measured is made of slices: of other slices, other intervals."""
        *seen, _ = case.runs(tuple(cuts))
        slow = case.slow()
        for until_s, (rows, sums) in zip([*cuts, np.inf], seen, strict=True):
            slow.run_until(until_s)
            slow.check_conservation()
            np.testing.assert_array_equal(rows, np.array(slow.rows, ROW))
            told = {name: slow.totals[name] for name in sums if name != "bursts"}
            assert sums == {**told, "bursts": slow.bursts.tolist()}

    @pytest.mark.parametrize("policy", ["fixed:2", "lagged_scheduler:2/0.5", "prefix_scheduler"])
    def test_more_waiting_than_there_was_room_for(self, policy: str) -> None:
        case = plain_case(policy, count=300, lengths=[39, 52], prompt_tokens=3, users=0, cap=8)
        case.requests["arrival_s"] = np.arange(300) / 4
        assert_same(case)
        assert len(case.run()[1].state.jobs) > 64

    @pytest.mark.parametrize("policy", ["lagged_scheduler:2/0.5", "prefix_scheduler", "batch_adaptive:0.3", "oracle"])
    def test_a_larger_batch(self, policy: str) -> None:
        case = plain_case(
            policy, count=60, lengths=[30, 12, 40], prompt_tokens=9, users=24, gamma=7, cap=20, room=500, step_tokens=200
        )
        assert_same(case)
        assert case.run()[0]["preemptions"].sum() > 0

    @given(st.integers(0, 2**63), st.integers(0, 2**40), st.integers(0, 2**20))
    @settings(deadline=None, max_examples=50)
    def test_both_draw_the_same(self, seed: int, request: int, segment: int) -> None:
        assert int(_mix(np.uint64(seed), np.uint64(request), np.uint64(segment))) == draw(seed, request, segment)


def plain_case(
    policy: str, *, count: int, lengths: list[int], prompt_tokens: int, users: int, gamma: int = 3, cap: int = 2,
    seed: int = 0, cost: StepCost | None = None, accepted: int | None = None, room: int = 10**6, step_tokens: int = 50,
    replicas: int = 1,
) -> Case:  # fmt: skip
    """Requests for whole responses, all at time 0; plenty of room, and jagged times unless given."""
    rng = np.random.default_rng(seed)
    trace = some_trace(rng, lengths, gamma, ragged=False, sure=True, fresh=True)
    if accepted is not None:
        trace.anchors.accepted[:] = accepted
    cost = some_cost(rng, step_tokens, gamma, cap, -1) if cost is None else cost
    asked = np.zeros(count, REQUEST)
    asked["response"] = np.arange(count) % len(lengths)
    asked["prompt_tokens"], asked["output_tokens"] = prompt_tokens, np.array(lengths)[asked["response"]] + 1
    limits = EngineLimits(request_cap=cap, step_tokens=step_tokens, replicas=replicas)
    return Case(trace, policy, cost, cost, limits, room, asked, users, seed, 30, 30)


def by_tokens(gamma: int, *, first_s: float, prefill_s: float = 0.0, cap: int = 2) -> StepCost:
    """A second for each token in the target pass, `first_s` more for any pass and `prefill_s` more with prompts in it."""
    verify_s = first_s + np.arange(200.0)
    return StepCost(verify_s, verify_s + prefill_s, np.zeros((gamma + 1, cap + 1)), np.zeros(gamma + 1))


class TestHandWorked:
    def test_prompts_in_chunks(self) -> None:
        """7 tokens a step. At 0 the first prompt takes all 7, of its 10: 2 + 7 s. At 9 it takes 3, the second prompt 3 of
        its 3: 2 + 6 s. At 17 both have a first token; two rounds of 2 · (1 + 2) tokens follow, 1 + 6 s each."""
        cost = by_tokens(2, first_s=1, prefill_s=1)
        case = plain_case(
            "fixed:2", count=2, lengths=[6], prompt_tokens=3, users=0, gamma=2, cost=cost, accepted=2, step_tokens=7
        )
        case.requests["prompt_tokens"][0] = 10
        rows, simulator = case.run()
        assert rows["first_s"].tolist() == [17, 17]
        assert rows["finish_s"].tolist() == [31, 31]
        assert [rows[name].tolist() for name in ("rounds", "verified", "accepted")] == [[2, 2], [4, 4], [4, 4]]
        assert simulator.state.totals["steps"] == 4
        assert_same(case)

    def test_preemption(self) -> None:
        """A request reserves 2 + emitted + 2 of 11 tokens. At 0 two prompts of 2: 4 s; at 4 both decode: 2 s; at 6 they need
        12, and the second leaves. The first decodes alone, 1 s a token, to 10. Then the second prefills the 4 tokens it
        has in 4 s, which brings its third, and takes 3 s for three more."""
        cost = by_tokens(1, first_s=0)
        case = plain_case("none", count=2, lengths=[5], prompt_tokens=2, users=0, gamma=1, cost=cost, room=11, step_tokens=5)
        rows, simulator = case.run()
        assert rows["first_s"].tolist() == [4, 4]
        assert rows["finish_s"].tolist() == [10, 17]
        assert rows["rounds"].tolist() == [5, 4]
        assert rows["preemptions"].tolist() == [0, 1]
        totals = simulator.state.totals[0]
        assert (totals["prefill_tokens"], totals["prefills"], totals["emitted"], totals["committed"]) == (8, 3, 12, 9)
        # The first sees its second token after 2 s, the others a second apart; the second waits from 6 to 14, then as long.
        waits = Counter(map(bin_of, [2, 1, 1, 1, 1, 2, 8, 1, 1, 1]))
        assert {int(b): int(simulator.bursts[b]) for b in np.flatnonzero(simulator.bursts)} == waits
        assert_same(case)

    def test_the_least_loaded_replica_counts_what_is_in_flight(self) -> None:
        """Prompts of 10 tokens, answers of one: a step of 10 s each. At 1 and at 5 the first is still in flight; at 10 it
        has left."""
        case = plain_case(
            "none", count=4, lengths=[0], prompt_tokens=10, users=0, gamma=1, cost=by_tokens(1, first_s=0), replicas=2
        )
        case.requests["arrival_s"] = [0, 1, 5, 10]
        rows, _ = case.run()
        assert rows["replica"].tolist() == [0, 1, 0, 0]
        assert rows["finish_s"].tolist() == [10, 11, 30, 30]  # the third and fourth start together at 10
        assert_same(case)

    def test_a_closed_loop_waits_and_thinks(self) -> None:
        """One user, prompts of 2 and answers of 2 tokens, 2 + 1 s; pauses of 5 and 0 s."""
        case = plain_case("none", count=3, lengths=[1], prompt_tokens=2, users=1, gamma=1, cost=by_tokens(1, first_s=0))
        case.requests["think_s"] = [5, 0, 9]
        rows, _ = case.run()
        assert rows["arrival_s"].tolist() == [0, 8, 11]
        assert rows["finish_s"].tolist() == [3, 11, 14]
        assert_same(case)

    def test_a_draft_that_brings_what_it_costs_is_not_made(self) -> None:
        """(1 + k) tokens in (1 + k) s for every k: 3 s of prompt, and 9 times 1 s."""
        case = plain_case("batch_adaptive", count=1, lengths=[9], prompt_tokens=3, users=1, cost=by_tokens(3, first_s=0))
        rows, _ = case.run()
        assert (rows["verified"][0], rows["rounds"][0], rows["finish_s"][0]) == (0, 9, 12)
        assert_same(case)


@pytest.mark.parametrize("policy", [p for p in POLICIES if not p.startswith(("batch_adaptive", "oracle"))])
def test_alone_in_its_batch_a_request_goes_as_replayed(policy: str) -> None:
    """Of `batch_adaptive` and `oracle` there is no replay: they learn from one request to the next."""
    lengths = [1, 40, 25, 7, 33]
    case = plain_case(
        policy, count=10, lengths=lengths, prompt_tokens=4, users=1, cap=1, cost=by_tokens(3, first_s=3.5, cap=1)
    )
    rows, simulator = case.run()
    replays = [replay(anchors, PolicySpec.parse(policy).bind(case.cost)) for _, anchors in case.trace]
    for row in rows:
        rounds = replays[row["response"]]
        assert row["rounds"] == len(rounds)
        assert row["verified"] == sum(r.verified for r in rounds)
        assert row["accepted"] == sum(r.accepted for r in rounds)
    assert simulator.state.totals[0]["committed"] == 2 * sum(r.committed for rounds in replays for r in rounds)


def state_of(simulator: Simulator) -> list[list[Any]]:
    """Sums and replicas, to the last bit; the order of the waiting lists aside."""
    return [simulator.state.totals.tolist(), simulator.state.replicas[["clock_s", "in_system_area_s", "alpha"]].tolist()]


class TestInvariants:
    @given(case=cases())
    @settings(quick, max_examples=100)
    def test_nothing_is_lost(self, case: Case) -> None:
        """Tokens are conserved; requests in the system, integrated over time, are the times that requests are in it."""
        rows, simulator = case.run()
        totals = simulator.state.totals[0]
        served = case.requests[: len(rows)] if case.users else case.requests
        assert rows["request"].tolist() == list(range(len(case.requests)))
        for name in ("response", "prompt_tokens", "output_tokens"):
            assert rows[name].tolist() == served[name].tolist()
        assert totals["emitted"] == totals["finished_tokens"] == served["output_tokens"].sum()
        assert totals["emitted"] == totals["committed"] + totals["prefills"]
        assert len(rows) <= totals["prefills"] <= len(rows) + totals["preemptions"]
        area = simulator.state.replicas["in_system_area_s"].sum()
        assert area == pytest.approx((rows["finish_s"] - rows["arrival_s"]).sum(), rel=1e-9)
        assert (simulator.state.replicas["kv_tokens"] == 0).all()
        assert simulator.state.control["free"][0] == len(simulator.state.jobs)
        parts = sum(totals[name] for name in ("overhead_s", "draft_s", "attention_s", "target_s"))
        assert parts <= rows["finish_s"].max() * case.limits.replicas * (1 + 1e-9)

    @given(case=cases(), cuts=st.lists(st.floats(0, 60), max_size=12), chunk=st.integers(1, 30), rows=st.integers(0, 30))
    @settings(quick, max_examples=100)
    def test_how_it_is_cut_up_changes_nothing(self, case: Case, cuts: list[float], chunk: int, rows: int) -> None:
        """Neither slices of time, nor how many requests are handed in and out at a time; and twice the same is the same."""
        once, simulator = case.run()
        again, other = replace(case, chunk=chunk, rows=rows).run(tuple(sorted(cuts)))
        assert once.tobytes() == again.tobytes()
        assert state_of(simulator) == state_of(other)

    def test_a_slice_ends_where_it_should(self) -> None:
        """All that arrives or starts before the end of a slice has, and nothing else."""
        case = plain_case("none", count=20, lengths=[4], prompt_tokens=2, users=0, gamma=1, cost=by_tokens(1, first_s=1))
        case.requests["arrival_s"] = np.arange(20)
        policy = PolicySpec.parse("none").bind()
        simulator = Simulator(
            prepare(case.trace), policy, case.cost, case.limits, 100, iter([case.requests]), users=0, seed=0,
            on_rows=lambda _: None,
        )  # fmt: skip
        steps = []
        for until_s in range(1, 15):
            assert simulator.run_until(float(until_s))
            assert simulator.state.totals["arrived"][0] == until_s
            assert simulator.state.replicas["clock_s"][0] >= until_s
            steps.append(int(simulator.state.totals["steps"][0]))
        assert all(after - before <= 1 for before, after in pairwise(steps))
        assert not simulator.run_until(np.inf)


class TestRefusals:
    """What could never be served is refused at once."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"limits": EngineLimits(request_cap=4, step_tokens=16)}, "must be more than request_cap"),
            ({"kv_tokens": 12}, "needs 13 tokens of context, but the hardware holds 12"),
            ({"output_tokens": 30}, "none longer than γ . 1 = 4 tokens"),
            ({"policy": "threshold:0.5"}, "needs confidences"),
        ],
    )
    def test_refused(self, change: dict[str, Any], message: str) -> None:
        case = plain_case("none", count=2, lengths=[3], prompt_tokens=5, users=0)
        case.requests["output_tokens"] = change.pop("output_tokens", 4)
        if change.get("policy"):
            case = replace(case, trace=some_trace(np.random.default_rng(0), [3], 3, ragged=False, sure=False, fresh=False))
        with pytest.raises(InputError, match=message):
            replace(case, **change).run()


def test_more_requests_than_memory_holds_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users at once, and a queue where it grows beyond; numpy would tell of terabytes, or the machine would end us."""
    limits = Limits(requests=8, step_tokens=64, kv_tokens=10**6, gamma=1, closed=True, least_loaded=True, seed=0)
    rule = rule_of(PolicySpec.parse("none").bind(), 8, by_tokens(1, first_s=1.0, cap=8))
    with pytest.raises(InputError, match=r"99,999,999,999 users would take 35,200 GB of memory, and a simulation has"):
        new_state(limits, rule, 1, 99_999_999_999, 8, 8)
    state = new_state(limits, rule, 1, 0, 8, 8)
    monkeypatch.setattr("simulator.memory.MOST_BYTES", 1.5 * state.jobs.nbytes)
    with pytest.raises(InputError, match="the queue grows: more than 64 requests at once"):
        with_more_jobs(state, 1, rule)
