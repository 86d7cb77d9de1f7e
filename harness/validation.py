"""`harness validate`: a live engine under load, and what the simulator makes of the same load from other prompts' traces.

Live servers, one a point, run in short slices by turns, between the passes that measure the machine: a machine that drifts
drifts for all of them. Each point is then simulated many times over: as many users, as long, prompts of the same
tasks in the same turns, but other prompts, drawn anew each time. The spread of these is what one live run may be off by.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from heapq import heappop, heappush
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from drafters.sampling import Sampling
from drafters.serving import Server
from harness.live import (
    WARM_UP,
    Asked,
    Figures,
    LiveEngine,
    Point,
    first_limits,
    live_figures,
    read_prompts,
    split_prompts,
    step_errors,
    turns,
)  # fmt: skip
from harness.profiling import Effort, Measured, loaded_pair, profile
from harness.provenance import command_line, git_revision, package_versions
from harness.sweeps import Traces, choose_drafting, profile_row
from harness.watcher import Watcher
from results.store import Store
from results.validations import Validations
from simulator.cost import StepCost
from simulator.errors import InputError
from simulator.hardware import Profile
from simulator.policies import parse_policy
from simulator.profiles import find_profile
from simulator.records import Drafting
from simulator.simulation import Engine, Prepared, Simulator, prepare, ready
from simulator.state import REQUEST, Records
from simulator.traces import Trace
from simulator.workload import CHUNK

_LIVE_SHARE, _BELIEVED_SHARE = 0.75, 0.1
"""Of the time: for live slices, and for the profile that schedulers believe in."""
_SLICE_S, _LOOKS = 0.2, 40
"""A live server runs so long at a time; and so often in a sweep over the grid live servers are looked after."""
_CONTEXT = 512
"""Longest context profiled, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to validate. Raises InputError for what makes no sense."""

    concurrency: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Users of closed loops."""
    drafters: tuple[str, ...] | None = None
    """None: all that were recorded, and `none`."""
    policies: tuple[str, ...] | None = None
    """None: fixed at γ, and prefix_scheduler where there are confidences."""
    seconds: float = 420.0
    """Of measuring, profile and live points together, roughly."""
    max_tokens: int = 48
    """Length limit of an answer: short ones give more prompts in the time."""
    drafting: Drafting | None = None
    """How drafts are chosen, live and simulated; None: as the engine does by default, this project's own samples them."""
    replicates: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.concurrency or min(self.concurrency) < 1:
            raise InputError("--concurrency: at least one number of users, 1 or more, is needed")
        if not 0 < self.seconds < float("inf") or self.max_tokens < 2 or self.replicates < 4 or self.seed < 0:
            raise InputError("--seconds above 0, --max-tokens ≥ 2, --replicates ≥ 4 and --seed ≥ 0 are needed")


def validate_run(store: Store, run_id: str, plan: Plan, watcher: Watcher, *, hardware: str | None = None) -> str:
    """Validate on a run's pair and prompts; returns the validation's id. Nothing is stored before all is done.

    `hardware` names a profile to simulate with in place of measuring one. Raises InputError.
    """
    row, traces = store.run(run_id), Traces(store, run_id, choose_drafting(store, run_id, plan.drafting, watcher.say))
    points = choose_points(plan, traces)
    gammas = {p.drafter: p.gamma for p in points if p.gamma}
    responses = traces.raw(*traces.recorded[0]).responses
    live, traced = split_prompts(responses, plan.seed)
    watcher.say(f"live: {len(live)} prompts; simulated from the traces of {len(traced)} others, as many of each task")
    settings = row["sampling"]
    sampling = Sampling(settings["temperature"], settings["top_p"], settings["top_k"])
    pair = row["plan"].get("pair")
    if pair is None:
        raise InputError(f"run {run_id}: was not recorded with a pair; nothing can run live")
    with loaded_pair(pair, drafters=list(gammas), gammas=gammas) as measured:
        tasks = read_prompts(store, run_id, measured.target, live)
        engine = LiveEngine(measured.target, measured.drafters, sampling, tasks, plan.max_tokens, plan.seed, traces.drafting)
        found, believed, servers = _measure(measured, engine, points, traces, plan, watcher, hardware)
    ready(watcher.say)
    rows = []
    for number, (point, server) in enumerate(servers.items(), 1):
        rows.append(compare(point, server, found, believed, traces, (live, traced), plan))
        watcher.advance("simulating", number, len(points))
    common = {
        "run_id": run_id, "command": command_line(), "engine": "specyard", "live_prompts": live, "trace_prompts": traced,
        "drafting": traces.drafting, "git_revision": git_revision(), "packages": package_versions(),
    }  # fmt: skip
    return Validations(store).add([{**common, **row} for row in rows], profile_row(found), profile_row(believed))


def choose_points(plan: Plan, traces: Traces) -> list[Point]:
    """Every setting to run: each drafter at the largest γ recorded. Raises InputError."""
    gammas: dict[str, int] = {}
    for name, gamma in traces.recorded:
        gammas[name] = max(gamma, gammas.get(name, 0))
    if not gammas:
        raise InputError("the run has no dense recording to simulate from")
    if unknown := [d for d in plan.drafters or () if d not in (*gammas, "none")]:
        raise InputError(f"no dense recording of {', '.join(unknown)}; there are: {', '.join(gammas)}")
    points = []
    for name, gamma in {"none": 0, **gammas}.items():
        if plan.drafters is not None and name not in plan.drafters:
            continue
        confidences = "none" if name == "none" else traces.confidences(name, gamma, None)
        for policy in ("none",) if name == "none" else plan.policies or (f"fixed:{gamma}", "prefix_scheduler"):
            parsed = parse_policy(policy, _NOTHING)
            if parsed.reads_confidences and confidences == "none":
                continue
            basis = confidences if parsed.reads_confidences else "none"
            basis = "raw" if parsed.wants_raw_confidences else basis
            points += [Point(name, gamma, policy, basis, users) for users in plan.concurrency]
    return points


_NOTHING = StepCost(np.ones(2), np.ones(2), np.zeros((1, 2)), np.zeros(1), 0.0, 0.0, 0.0, 0.0)
"""Stands in where a policy is only asked what it reads."""


def _measure(
    measured: Measured,
    engine: LiveEngine,
    points: Sequence[Point],
    traces: Traces,
    plan: Plan,
    watcher: Watcher,
    hardware: str | None,
) -> tuple[Profile, Profile, dict[Point, Server]]:
    """(profile to simulate with, profile that schedulers believe in, servers that have run)."""
    most = max(plan.concurrency)

    def effort(share: float) -> Effort:  # no graphs: the live loop has none
        seconds = plan.seconds * share
        return Effort(seconds=seconds, seed=plan.seed, max_requests=most, context_tokens=_CONTEXT, graphs=False)

    if hardware is None:
        watcher.say("measuring what schedulers believe in")
        believed, _ = profile(measured, effort(_BELIEVED_SHARE), watcher)
    else:
        believed = find_profile(hardware)
    servers = {}
    for point in points:
        cost = believed.cost(point.drafter, point.gamma, most, _step_tokens(point, engine.tasks))
        servers[point] = engine.server(point, cost, _weights(traces, point))
    live = _Turns(list(servers.values()))
    if hardware is None:
        watcher.say(f"{len(points)} live points, by turns with the profile")
        found, _ = profile(measured, effort(1 - _BELIEVED_SHARE), watcher, others=[live.catch_up] * _LOOKS)
    else:
        found = believed
        live.run(plan.seconds, watcher)
    # The project's loop pads its passes, whatever is measured of them.
    return replace(found, padded=True), replace(believed, padded=True), servers


class _Turns:
    """Live servers by turns, a slice each: whoever has said the fewest tokens goes next."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = [(0, number, server) for number, server in enumerate(servers)]
        self._started, self._live_s = time.monotonic(), 0.0

    def catch_up(self) -> None:
        """Slices until live servers have had their share of the time so far."""
        while self._live_s < _LIVE_SHARE * (time.monotonic() - self._started):
            self._slice()

    def run(self, seconds: float, watcher: Watcher) -> None:
        """Slices until the time is gone."""
        while self._live_s < seconds:
            self._slice()
            watcher.advance("live points, % of the time", min(round(100 * self._live_s / seconds), 100), 100)

    def _slice(self) -> None:
        started = time.monotonic()
        _, number, server = heappop(self._servers)
        server.run(server.clock_s + _SLICE_S)
        heappush(self._servers, (server.emitted, number, server))
        self._live_s += time.monotonic() - started


def _weights(traces: Traces, point: Point) -> Any:
    """Temperatures or estimates, as the point's confidences ask for."""
    if point.confidences == "calibrated":
        return traces.temperatures[point.drafter, point.gamma]
    return traces.estimates[point.drafter, point.gamma] if point.confidences == "estimated" else None


def _step_tokens(point: Point, tasks: Mapping[str, Sequence[Asked]]) -> int:
    """Room for all users' prompts and drafts at once, with something to spare: other prompts may be longer."""
    longest = max(len(a.ids) for some in tasks.values() for a in some)
    return 4 * point.users * (longest + point.gamma + 2)


def compare(
    point: Point,
    server: Server,
    found: Profile,
    believed: Profile,
    traces: Traces,
    prompts: tuple[Sequence[str], Sequence[str]],
    plan: Plan,
) -> dict[str, Any]:
    """A row of `validations`: what a server has just done, beside its simulations from other prompts and from its own."""
    walked = (point.drafter, point.gamma) if point.gamma else traces.recorded[0]
    whole = traces.trace(*walked, point.confidences)
    if not point.gamma:
        whole = replace(whole, drafter="none")
    own, other = halves(whole, prompts)
    longest = max(r.prompt_tokens for r in whole.responses)
    replicas = Replicas(point, found, believed, server.clock_s, longest, len(server.served), plan)
    return {
        **asdict(point), "seconds": server.clock_s, "steps": len(server.steps), "requests": len(server.served),
        "measured": asdict(live_figures(server)), **replicas.figures(own, other),
        "step_errors": step_errors(server.steps, replicas.cost(found, whole)),
    }  # fmt: skip


def halves(trace: Trace, prompts: tuple[Sequence[str], Sequence[str]]) -> tuple[Prepared, Prepared]:
    """The first turns of (prompts asked live, others), ready to simulate."""
    own, other = (
        trace.select([r.turn == 0 and r.prompt_id in wanted for r in trace.responses]) for wanted in map(set, prompts)
    )
    return prepare(own), prepare(other)


class Replicas:
    """Simulations of one live run: its users, its seconds, its turns of tasks."""

    def __init__(
        self, point: Point, found: Profile, believed: Profile, seconds: float, longest: int, served: int, plan: Plan,
        *, pause_s: float = 0.0, slices: int = 1,
    ) -> None:  # fmt: skip
        """Of a live run that began anew `slices` times, for `seconds` each.

        `longest` is the longest prompt, `served` how many requests were answered live; users pause before they ask again.
        """
        self.point, self.found, self.believed, self.seconds, self.plan = point, found, believed, seconds, plan
        self.pause_s, self.slices = pause_s, slices
        self.requests = 4 * (served + point.users) + 64
        self.step_tokens = point.users * (longest + 256)
        self.kv_tokens = point.users * (longest + plan.max_tokens + 512)

    def figures(self, own: Prepared, other: Prepared) -> dict[str, dict[str, float]]:
        """Simulated means over replicates, what 95 % of them lie between, and means from the live prompts' own traces."""
        many = self._means(other, self.plan.replicates, redraw=True)
        same = self._means(own, max(self.plan.replicates // 4, 4), redraw=False)
        low, high = np.nanquantile(many, (0.025, 0.975), axis=0)
        found = {"simulated": np.nanmean(many, 0), "low": low, "high": high, "same_prompts": np.nanmean(same, 0)}
        return {name: asdict(Figures(*values.tolist())) for name, values in found.items()}

    def _means(self, recorded: Prepared, count: int, *, redraw: bool) -> npt.NDArray[np.float64]:
        """Figures of `count` replicates, each the mean of as many slices as were live, [count, figures]."""
        runs = [astuple(self.run(recorded, i, redraw=redraw)) for i in range(count * self.slices)]
        return np.asarray(np.nanmean(np.reshape(runs, (count, self.slices, -1)), 1))

    def cost(self, profile: Profile, trace: Trace) -> StepCost:
        """Of the point's steps."""
        return profile.cost(trace.drafter, trace.gamma, self.point.users, self.step_tokens)

    def run(self, recorded: Prepared, number: int, *, redraw: bool) -> Figures:
        """One of them; `redraw` draws the prompts of each task anew, with replacement."""
        trace, users = recorded.trace, self.point.users
        policy = parse_policy(self.point.policy, self.cost(self.believed, trace))
        engine = Engine(request_cap=users, step_tokens=self.step_tokens, kv_capacity_tokens=self.kv_tokens)
        rows, asked = list[Records](), self._asked(trace, number, redraw=redraw)
        simulator = Simulator(
            recorded, policy, self.cost(self.found, trace), engine, self.kv_tokens,
            (asked[i : i + CHUNK] for i in range(0, len(asked), CHUNK)), users=users, seed=number, on_rows=rows.append,
        )  # fmt: skip
        begin_s = WARM_UP * self.seconds
        simulator.run_until(begin_s)
        before, before_s = simulator.state.totals.copy(), float(simulator.state.replicas["clock_s"][0])
        simulator.run_until(self.seconds)
        simulator.flush()
        totals, done = simulator.state.totals, np.concatenate(rows)
        done = done[(done["finish_s"] > begin_s) & (done["finish_s"] > done["first_s"])]
        change = {n: float(totals[n][0] - before[n][0]) for n in ("emitted", "committed", "verified", "rounds")}
        seconds = float(simulator.state.replicas["clock_s"][0]) - before_s
        speeds = (done["output_tokens"] - 1) / (done["finish_s"] - done["first_s"])
        return Figures.of(seconds=seconds, speeds=speeds, **change)

    def _asked(self, trace: Trace, number: int, *, redraw: bool) -> Records:
        rng = np.random.default_rng([self.plan.seed, 2, number])
        of_task: dict[str, list[int]] = {}
        for i, response in enumerate(trace.responses):
            of_task.setdefault(response.task, []).append(i)
        if redraw:
            of_task = {task: rng.choice(some, len(some)).tolist() for task, some in of_task.items()}
        asked = np.zeros(self.requests, REQUEST)
        asked["response"] = np.fromiter(islice(turns(of_task, rng), self.requests), np.int64, self.requests)
        asked["prompt_tokens"] = np.array([r.prompt_tokens for r in trace.responses])[asked["response"]]
        limits = np.full(self.requests, self.plan.max_tokens)
        limits[: self.point.users] = first_limits(self.point.users, self.plan.max_tokens, self.plan.seed)
        asked["think_s"] = self.pause_s
        asked["output_tokens"] = np.minimum(np.diff(trace.offsets)[asked["response"]] + 1, limits)
        return asked
