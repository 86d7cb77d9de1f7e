"""One simulation: a trace, a profile, a policy and a load in; what users and the operator would have seen out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.engine.compilation import heard
from simulator.engine.loop import ALL_DONE, NEED_JOBS, NEED_REQUESTS, ROWS_FULL, advance
from simulator.engine.reference import Reference
from simulator.engine.rules import COMPILED, rule_of
from simulator.engine.state import ROW, TOTALS, Ints, Limits, Records, State, Tables, new_state, with_more_jobs
from simulator.errors import InputError
from simulator.hardware.cost import StepCost, StepLoad
from simulator.load import RecordedArrivals, Users
from simulator.metrics import Kind, Ledger, Outcome, outcome
from simulator.mix import Mix
from simulator.plain import capacity_of
from simulator.policies import Fixed, Policy
from simulator.prefixes import PrefixBlocks
from simulator.records import Anchors
from simulator.requests import CHUNK, requests
from simulator.setup import EngineLimits, Setup
from simulator.traces import Trace, TracedResponse, strata, survival

Floats = npt.NDArray[np.float64]

SLICES = 100
"""Stretches of a simulation between which progress is shown and figures are kept."""
LENGTHENING = 1.1
"""Length of each slice after the last recorded arrival, over that of the slice before."""
_MANY, _FINE = 30, 60
"""Prompts of which the bootstrap of n is as good as that of n − 1; and in how many parts a prompt is counted for that."""
ROWS = 8192
"""Finished requests handed over at a time, and as many more as may run."""
COMPILING = "compiling the simulator: once on this machine, about 10 s"
NOT_KEPT = (
    "the compiled simulator cannot be kept on disk, so every process compiles it anew, about 10 s; "
    "NUMBA_CACHE_DIR names a folder for it"
)


class Prepared(NamedTuple):
    """A trace, and the same as the compiled loop reads it."""

    trace: Trace
    tables: Tables
    times: npt.NDArray[np.int64] | None = None
    """How often each response counts, [S]; None counts each once."""


def prepare(trace: Trace) -> Prepared:
    """Make the tables of a trace, once for many simulations."""
    anchors, gamma = trace.anchors, trace.gamma
    first, last = trace.offsets[:-1].copy(), trace.offsets[1:].copy()
    usable = last - gamma
    names = sorted({r.domain for r in trace.responses})
    domain = np.array([names.index(r.domain) for r in trace.responses], np.int64)
    members = [np.flatnonzero((domain == d) & (usable > first)) for d in range(len(names))]
    none = np.zeros((0, gamma), np.float32)
    confidence = none if anchors.confidence is None else np.ascontiguousarray(anchors.confidence, np.float32)
    fresh = none if anchors.fresh_confidence is None else np.ascontiguousarray(anchors.fresh_confidence, np.float32)
    survivals = survival(confidence)
    tables = Tables(
        first, last, usable, np.ascontiguousarray(anchors.drafted), np.ascontiguousarray(anchors.accepted),
        survivals, survivals.view(np.int32), confidence, fresh, domain,
        np.concatenate(members).astype(np.int64), np.cumsum([0, *map(len, members)], dtype=np.int64),
    )  # fmt: skip
    for table in tables:  # as they are when they come from shared memory: the loop is compiled for one kind of array
        table.flags.writeable = False
    return Prepared(trace, tables)


def redrawn(recorded: Prepared, rng: np.random.Generator) -> Prepared:
    """A bootstrap of the traffic: prompts drawn with replacement stratum by stratum, see `strata`.

    Of a stratum of n prompts n − 1 are drawn, each for n / (n − 1), so that the spread of a mean over draws is its standard
    error (Rao and Wu, 1988): n of n would come out too narrow by the root of that. Of many it makes no difference.
    Traces of the same prompts are drawn alike by generators of the same seed. Nothing is copied but who counts how often.
    """
    trace, tables = recorded.trace, recorded.tables
    of_prompt: dict[str, list[int]] = {}
    for i, response in enumerate(trace.responses):
        of_prompt.setdefault(response.prompt_id, []).append(i)
    drawn_from = strata(trace)
    whole = _FINE if any(len(names) < _MANY for names in drawn_from) else 1
    times = np.zeros(len(trace.responses), np.int64)
    for names in drawn_from:
        size = len(names) if len(names) == 1 or len(names) >= _MANY else len(names) - 1
        each = round(whole * len(names) / size)
        counts = np.bincount(rng.integers(len(names), size=size), minlength=len(names))
        for name, count in zip(names, counts.tolist(), strict=True):
            times[of_prompt[name]] = count * each
    parts = [tables.members[a:b] for a, b in itertools.pairwise(tables.member_first)]
    drawn = [np.repeat(part, times[part]) for part in parts]
    # A domain none of whose longer responses was drawn goes on with all of them, as before.
    drawn = [new if len(new) else part for new, part in zip(drawn, parts, strict=True)]
    members = np.concatenate(drawn).astype(np.int64)
    member_first = np.cumsum([0, *map(len, drawn)], dtype=np.int64)
    for table in (members, member_first):
        table.flags.writeable = False
    return Prepared(trace, tables._replace(members=members, member_first=member_first), times)


def ready(say: Callable[[str], None]) -> None:
    """Have the loop as machine code for the simulations to come, of this process and of others on this machine.

    It is loaded if an earlier process has kept it, else compiled and kept; `say` hears of that as it begins. Where nothing
    can be kept, `say` hears so, and the first simulation of every process compiles.
    """
    if advance.kept:
        with heard(lambda: say(COMPILING)):
            _empty().run_until(0.0)
    if not advance.kept:
        say(NOT_KEPT)


def _empty() -> Simulator:
    """Nobody asks for anything."""
    anchors = Anchors(np.ones(1, np.uint8), np.ones(1, np.uint8), np.ones((1, 1), np.float32))
    trace = Trace("none", (TracedResponse("none", "none", "none", 0, 1),), np.array([0, 1]), anchors)
    per_token = np.ones(9)
    cost = StepCost(per_token, per_token, np.ones((2, 2)), np.ones(2))
    limits = EngineLimits(request_cap=1, step_tokens=8)
    return Simulator(prepare(trace), Fixed(0), cost, limits, 8, iter(()), users=0, seed=0, on_rows=lambda rows: None)


def start(setup: Setup, recorded: Prepared, on_rows: Callable[[Records], None]) -> Simulator | SlowSimulator:
    """A simulation at time 0, its first requests at hand. Raises InputError where the setup cannot serve what is asked."""
    trace, limits = recorded.trace, setup.limits
    mix = Mix(trace, setup.weights, setup.prompt_tokens, setup.output_tokens, setup.output_cv, recorded.times)
    cost = setup.cost(trace)
    believed = setup.cost(trace, believed=True) if setup.believed is not None and setup.policy.lossless else cost
    policy = setup.policy.bind(believed)  # a bound knows the truth
    policy = policy.compiled() or policy
    users = setup.load.users or 0
    begin_s = np.sort(np.random.default_rng((setup.seed, users)).random(users) * _beginning_s(setup, trace, mix, cost))
    kv_tokens = limits.kv_capacity_tokens or capacity_of(setup.profile, setup.policy, trace)
    stream = requests(mix, setup.load, np.random.default_rng(setup.seed))
    return simulator_for(policy)(
        recorded, policy, cost, limits, kv_tokens, stream, users=users, seed=setup.seed, on_rows=on_rows, begin_s=begin_s,
        blocks=setup.blocks,
    )  # fmt: skip


def _beginning_s(setup: Setup, trace: Trace, mix: Mix, cost: StepCost) -> float:
    """Seconds within which users of a closed loop begin."""
    if not setup.load.ends:
        return setup.ramp * setup.seconds
    if not isinstance(setup.load, Users) or not setup.load.staggered:
        return 0.0
    return _answer_s(setup, trace, mix, cost)


def _answer_s(setup: Setup, trace: Trace, mix: Mix, cost: StepCost) -> float:
    """About what an answer takes without speculation, with as many requests beside it as the load has."""
    running = setup.load.most_running(setup.limits.request_cap, setup.limits.replicas)
    prompt, output = mix.mean_lengths()
    load = StepLoad(running, context_tokens=round(running * (prompt + output / 2)))
    return output * cost.seconds(load, 0, 0)


def simulator_for(policy: Policy) -> type[Simulator] | type[SlowSimulator]:
    """What simulates it: machine code where the policy has a compiled form, plain Python where not."""
    return Simulator if isinstance(policy, COMPILED) else SlowSimulator


def simulate(
    setup: Setup,
    recorded: Prepared,
    *,
    on_rows: Callable[[Records], None] | None = None,
    progress: Callable[[float], None] | None = None,
    slices: int = SLICES,
) -> Outcome:
    """Run one simulation.

    Args:
        on_rows: takes finished requests, `simulator.engine.state.ROW`, as they finish.
        progress: takes the share that is done, from 0 to 1.
        slices: of simulated time, whose sums are kept; 20 or more.

    Raises:
        InputError: the setup cannot serve what is asked.
        AssertionError: tokens or requests were lost: the simulator is wrong.
    """
    endless, slice_s = not setup.load.ends, _expected_s(setup, recorded) / slices
    ledger, rows = Ledger(setup.slas), list[Records]()
    simulator = start(setup, recorded, rows.append)
    more, done_slices, last_s, until_s, replicas = True, 0, 0.0, 0.0, setup.limits.replicas
    while more and not (endless and done_slices == slices):
        done_slices += 1
        until_s = until_s + slice_s if done_slices > slices else done_slices * slice_s
        if done_slices > slices:  # what is left of a burst may take a thousand times as long as it took to come
            slice_s *= LENGTHENING
        more = simulator.run_until(until_s)
        simulator.flush()
        done = np.concatenate(rows)
        rows.clear()
        end_s = until_s if more else max(simulator.clock_s, last_s)
        ledger.close_slice(simulator.totals, done, (end_s - last_s) * replicas, simulator.bursts)
        last_s = end_s
        if on_rows is not None:
            on_rows(done)
        if progress is not None:
            progress(min(done_slices / slices, 1.0))
    simulator.check_conservation()
    closed = setup.load.users is not None
    kind: Kind = ("closed" if closed else "open") if endless else "finite" if closed else "recorded"
    return outcome(
        ledger, gpus=setup.profile.gpus, replicas=replicas, kv_tokens=simulator.kv_tokens, load=kind,
        arriving=min(done_slices, slices), beginning=math.ceil(setup.ramp * slices) if kind == "closed" else 0,
        cached=setup.blocks is not None,
    )  # fmt: skip


AGAIN = 8
"""How often recorded arrivals are simulated, one after the other, where once is too short to tell whether they pile up:
what goes up and down by chance stays what it is, and what piles up is so often as much."""


def settled(setup: Setup, recorded: Prepared, found: Outcome) -> Outcome:
    """What a simulation found, and where recorded arrivals once were too short to tell whether they pile up, what so many
    times of them tell; what nobody can tell by that, where answers take longer than half of them, stays open."""
    load = setup.load
    if found.keeps_up is not None or not isinstance(load, RecordedArrivals):
        return found
    if not found.means["e2e"] <= float(load.requests.arrival_s[-1]) / 2:
        return found
    return found.settled(setup.slas, simulate(replace(setup, load=load.over_again(AGAIN)), recorded), AGAIN)


def _expected_s(setup: Setup, recorded: Prepared) -> float:
    """What a simulation takes: as asked for, to the last recorded arrival, or about what users' requests take in all."""
    load = setup.load
    if isinstance(load, RecordedArrivals):
        return float(load.requests.arrival_s[-1]) or 1.0
    if not isinstance(load, Users) or load.requests_in_all is None:
        return setup.seconds
    mix = Mix(recorded.trace, setup.weights, setup.prompt_tokens, setup.output_tokens, times=recorded.times)
    waves = max(load.requests_in_all / min(load.users, setup.limits.request_cap * setup.limits.replicas), 1.0)
    return waves * (_answer_s(setup, recorded.trace, mix, setup.cost(recorded.trace)) + load.think_s)


def _check_limits(policy: Policy, trace: Trace, limits: EngineLimits) -> None:
    """Raise InputError where a trace or an engine's limits leave a policy or prompts without what they need."""
    if policy.reads_confidences and trace.anchors.confidence is None:
        raise InputError(f"policy {policy.name}: needs confidences, and {trace.drafter} has none")
    if limits.step_tokens <= limits.request_cap * (trace.gamma + 1):
        raise InputError(
            f"step_tokens {limits.step_tokens}: must be more than request_cap × (γ + 1) = "
            f"{limits.request_cap * (trace.gamma + 1)}, or prompts would never get a turn"
        )


def _check_requests(chunk: Records, tables: Tables, gamma: int, kv_tokens: int) -> None:
    """Whatever could never be admitted, or never end, is refused before it starts."""
    needed = chunk["prompt_tokens"] + chunk["output_tokens"] + gamma + 1
    if longer := int((needed > kv_tokens).sum()):
        few = f" ({longer:,} of the first {len(needed):,} requests need more)" if longer < len(needed) else ""
        raise InputError(
            f"a request needs {int(needed.max())} tokens of context, but the hardware holds {kv_tokens}{few}; "
            "shorten such requests or leave them out, or give --kv-capacity-tokens"
        )
    response = chunk["response"]
    goes_on = chunk["output_tokens"] > tables.last[response] - tables.first[response] + 1
    domains = tables.domain[response[goes_on]]
    if (tables.member_first[domains + 1] == tables.member_first[domains]).any():
        raise InputError(
            f"outputs are longer than the recorded responses, and a domain has none longer than γ + 1 = "
            f"{gamma + 1} tokens to go on with; record longer responses or shorten the outputs"
        )


class Simulator:
    """A running simulation. Raises InputError at once for what cannot be served."""

    def __init__(
        self,
        recorded: Prepared,
        policy: Policy,
        cost: StepCost,
        limits: EngineLimits,
        kv_tokens: int,
        stream: Iterator[Records],
        *,
        users: int,
        seed: int,
        on_rows: Callable[[Records], None],
        begin_s: Sequence[float] | Floats = (),
        blocks: PrefixBlocks | None = None,
        logged: int = 0,
    ) -> None:
        """`users` is 0 in an open loop; `on_rows` takes finished requests, `simulator.engine.state.ROW`.

        `begin_s` is when each user begins, rising; by default all begin at once. `blocks` are kept in a prefix cache.
        What so many steps hold is logged; see `log`.
        """
        _check_limits(policy, recorded.trace, limits)
        gamma = recorded.trace.gamma
        self.tables = recorded.tables
        self._cost, self.rule = cost.compiled, rule_of(policy, limits.request_cap, cost)
        for known in (cost, self.rule.believed):  # compiled code does not check
            assert known.draft_s.shape[0] > gamma, "a cost table is too short for γ"
            assert known.draft_s.shape[1] > limits.request_cap, "a cost table is too short for the request cap"
            assert min(len(known.verify_s), len(known.eager_s)) > limits.step_tokens, "a cost table is too short for a step"
        least_loaded = limits.router == "least_loaded"
        kept = blocks.tokens if blocks else 0
        self.limits = Limits(limits.request_cap, limits.step_tokens, kv_tokens, gamma, users > 0, least_loaded, seed, kept)
        self.state: State = new_state(
            self.limits, self.rule, limits.replicas, users, CHUNK, ROWS + limits.request_cap, blocks, logged
        )
        self.state.due_s[: len(begin_s)] = begin_s  # sorted is a heap
        self._stream, self._on_rows = stream, on_rows
        self._refill()

    @property
    def totals(self) -> Records:
        """Sums so far, one of `simulator.engine.state.TOTALS`."""
        return self.state.totals

    @property
    def bursts(self) -> Ints:
        """How often users waited so long between bursts so far; see `simulator.engine.state.State`."""
        return self.state.bursts

    @property
    def clock_s(self) -> float:
        """When the last step that has begun ends."""
        return float(self.state.replicas["clock_s"].max())

    @property
    def kv_tokens(self) -> int:
        """Context tokens that fit on a replica."""
        return self.limits.kv_tokens

    def log(self) -> Records:
        """What the steps since the last call held, `simulator.engine.state.LOGGED`; no more than are logged."""
        control = self.state.control[0]
        held = self.state.log[: control["logged"]].copy()
        control["logged"] = 0
        return held

    def run_until(self, until_s: float) -> bool:
        """Go on to a simulated time; False once nothing is left to do."""
        while True:
            why = advance(self.state, self.tables, self.limits, self.rule, self._cost, float(until_s))
            if why == NEED_REQUESTS:
                self._refill()
            elif why == NEED_JOBS:
                self.state = with_more_jobs(self.state, self.limits.gamma, self.rule)
            elif why == ROWS_FULL:
                self.flush()
            else:
                return bool(why != ALL_DONE)

    def flush(self) -> None:
        """Hand over the requests that have finished so far."""
        control = self.state.control[0]
        self._on_rows(self.state.rows[: control["rows"]].copy())
        control["rows"] = 0

    def _refill(self) -> None:
        control = self.state.control[0]
        chunk = next(self._stream, None)
        if chunk is None:
            control["last"] = 1
            return
        _check_requests(chunk, self.tables, self.limits.gamma, self.limits.kv_tokens)
        self.state.requests[: len(chunk)] = chunk
        control["next"], control["filled"] = 0, len(chunk)

    def check_conservation(self) -> None:
        """Every token and request is somewhere, and Little's law holds: ∫ requests in the system dt = Σ their time in it."""
        state = self.state
        totals, inside = state.totals[0], _jobs_inside(state)
        emitted = totals["finished_tokens"] + sum(int(state.jobs[j]["emitted"]) for _, j in inside)
        assert totals["emitted"] == emitted, f"{totals['emitted']} tokens were emitted, {emitted} are with requests"
        assert totals["arrived"] == totals["finished"] + len(inside), "requests were lost"
        times = sum(float(state.replicas[r]["clock_s"] - state.jobs[j]["arrival_s"]) for r, j in inside)
        area = float(state.replicas["in_system_area_s"].sum())
        assert abs(area - totals["sojourn_s"] - times) <= 1e-6 * max(area, 1e-9), "Little's law does not hold"


def _jobs_inside(state: State) -> list[tuple[int, int]]:
    """(replica, job) of all that run or wait."""
    inside = []
    for r, replica in enumerate(state.replicas):
        inside += [(r, int(j)) for j in state.order[r, : replica["running"]]]
        j = int(replica["head"])
        for _ in range(int(replica["waiting"])):
            inside.append((r, j))
            j = int(state.jobs[j]["next"])
    return inside


class SlowSimulator:
    """The same by plain Python, for policies that have no compiled form."""

    def __init__(
        self,
        recorded: Prepared,
        policy: Policy,
        cost: StepCost,
        limits: EngineLimits,
        kv_tokens: int,
        stream: Iterator[Records],
        *,
        users: int,
        seed: int,
        on_rows: Callable[[Records], None],
        begin_s: Sequence[float] | Floats = (),
        blocks: PrefixBlocks | None = None,
    ) -> None:
        """See `Simulator`."""
        _check_limits(policy, recorded.trace, limits)
        self.kv_tokens, self._on_rows = kv_tokens, on_rows
        gamma, tables = recorded.trace.gamma, recorded.tables

        def checked() -> Iterator[Records]:
            for chunk in stream:
                _check_requests(chunk, tables, gamma, kv_tokens)
                yield chunk.copy()

        chunks = checked()
        first = list(itertools.islice(chunks, 1))  # what cannot be served is refused at once
        one_by_one = itertools.chain.from_iterable(itertools.chain(first, chunks))

        self._engine = Reference(
            recorded.trace, policy, cost, limits, kv_tokens, one_by_one, users=users, seed=seed, begin_s=begin_s,
            times=None if recorded.times is None else recorded.times.tolist(), blocks=blocks,
        )  # fmt: skip

    @property
    def totals(self) -> Records:
        """See `Simulator`."""
        return np.array([tuple(self._engine.totals.values())], TOTALS)

    @property
    def bursts(self) -> Ints:
        """See `Simulator`."""
        return self._engine.bursts

    @property
    def clock_s(self) -> float:
        """See `Simulator`."""
        return self._engine.ends_s

    def run_until(self, until_s: float) -> bool:
        """See `Simulator`."""
        return self._engine.run_until(until_s)

    def flush(self) -> None:
        """See `Simulator`."""
        self._on_rows(np.array(self._engine.rows, ROW))
        self._engine.rows.clear()

    def check_conservation(self) -> None:
        """See `Simulator`."""
        self._engine.check_conservation()
