"""`harness validate`: a live engine under load, and what the simulator makes of the same load from other prompts' traces.

Live servers, one a point, run in short slices by turns, between the passes that measure the machine: a machine that drifts
drifts for all of them. Each point is then simulated many times over: as many users, as long, prompts of the same
tasks in the same turns, but other prompts, drawn anew each time. The spread of these is what one live run may be off by.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from heapq import heapify, heappop, heappush
from typing import Any

import msgspec

from drafters.serving import Server, ServerState, StepRecord
from harness.console import Watcher
from harness.hardware.effort import Effort
from harness.hardware.measure import Measured, loaded_pair, profile
from harness.parts import Parts
from harness.recording.suite import Generation
from harness.validation.plan import LivePoint, ValidationPlan, choose_points, pair_of
from harness.validation.points import (
    LiveEngine,
    LiveFigures,
    LiveRequest,
    live_figures,
    read_prompts,
    split_prompts,
    step_errors,
)
from harness.validation.replicas import Replicas, halves
from results.store.database import Store
from results.store.provenance import command_line, git_revision, package_versions
from results.store.recordings import Recordings, choose_drafting
from results.store.rows import profile_row
from results.store.validations import Validations
from simulator.hardware.profile import Profile, dump_profile, parse_profile
from simulator.numbers import counted
from simulator.plain import cost_of, walked
from simulator.records import NO_RECORDING
from simulator.simulation import ready

_LIVE_SHARE, _BELIEVED_SHARE = 0.75, 0.1
"""Shares of the time: for live slices, and for the profile that schedulers believe in."""
_KEPT_S = 5.0
"""What live servers have done is kept so often."""
_SLICE_S, _LOOKS = 0.2, 40
"""A live server runs so long at a time; and so often in a sweep over the grid live servers are looked after."""
_CONTEXT = 512
"""Longest context profiled, at least."""


def validate_run(
    store: Store, run_id: str, plan: ValidationPlan, watcher: Watcher, *, hardware: Profile | None = None
) -> str:
    """Validate on a run's pair and prompts; returns the validation's id.

    What is found is kept beside the database until all of it is stored. `hardware` is a profile to simulate with in place
    of measuring one. Raises InputError.
    """
    store.prepare()
    row = store.run(run_id)
    drafting = choose_drafting(store, run_id, plan.drafting, watcher.say)
    recordings = Recordings(store, run_id, drafting)
    points = choose_points(plan, recordings, watcher.say)
    gammas = {p.recording.drafter: p.recording.gamma for p in points if p.recording != NO_RECORDING}
    responses = recordings.trace(recordings.keys[0]).responses
    live, traced = split_prompts(responses, plan.seed)
    watcher.say(
        f"live: {counted(len(live), 'prompt')}; simulated from the traces of {len(traced)} others, as many of each task"
    )
    sampling = msgspec.convert(row["sampling"], Generation).sampling
    pair = pair_of(row)

    settled = [run_id, asdict(plan), hardware and hardware.digest]
    parts = Parts(store.file.parent, "validation", settled, watcher)

    def served() -> Served:
        watcher.say(f"live for about {plan.time_limit_s:.0f} s, of which a stop loses {_KEPT_S:.0f} at most")
        with loaded_pair(pair, drafters=list(gammas), gammas=gammas) as measured:
            tasks = read_prompts(store, run_id, measured.target, live)
            engine = LiveEngine(
                measured.target, measured.drafters, sampling, tasks, plan.max_new_tokens, plan.seed, drafting
            )
            found, believed, servers = _measure(measured, engine, points, recordings, plan, watcher, hardware, parts)
        return Served(dump_profile(found), dump_profile(believed), [Ran.of(server) for server in servers.values()])

    lived = parts.part("live", Served, served)
    found, believed = parse_profile(lived.found), parse_profile(lived.believed)
    ready(watcher.say)
    rows = []
    for number, (point, ran) in enumerate(zip(points, lived.ran, strict=True), 1):

        def compared(point: LivePoint = point, ran: Ran = ran) -> dict[str, Any]:
            return compare(point, ran, found, believed, recordings, (live, traced), plan)

        rows.append(parts.part(f"point {number}", dict[str, Any], compared))
        watcher.advance("simulating", number, len(points))
    common = {
        "run_id": run_id, "command": command_line(), "engine": "specyard", "live_prompts": live, "trace_prompts": traced,
        "drafting": drafting, "git_revision": git_revision(), "packages": package_versions(),
    }  # fmt: skip
    validation_id = Validations(store).add([{**common, **row} for row in rows], profile_row(found), profile_row(believed))
    parts.done()
    return validation_id


@dataclass(frozen=True, slots=True)
class Ran:
    """What a live server has done."""

    clock_s: float
    steps: list[StepRecord]
    requests: int
    figures: LiveFigures

    @classmethod
    def of(cls, server: Server) -> Ran:
        """What a server has done up to now."""
        return cls(server.clock_s, list(server.steps), len(server.served), live_figures(server))


@dataclass(frozen=True, slots=True)
class Served:
    """All that was measured live."""

    found: str
    """The profile to simulate with, as the file that is kept has it."""
    believed: str
    """The one that schedulers believe in."""
    ran: list[Ran]
    """In order of points."""


def _measure(
    measured: Measured,
    engine: LiveEngine,
    points: Sequence[LivePoint],
    recordings: Recordings,
    plan: ValidationPlan,
    watcher: Watcher,
    hardware: Profile | None,
    parts: Parts,
) -> tuple[Profile, Profile, dict[LivePoint, Server]]:
    """(profile to simulate with, profile that schedulers believe in, servers that have run)."""
    most = max(plan.concurrency)

    def effort(share: float) -> Effort:  # no graphs: the live loop has none
        seconds = plan.time_limit_s * share
        return Effort(time_limit_s=seconds, seed=plan.seed, max_requests=most, context_tokens=_CONTEXT, graphs=False)

    if hardware is None:
        watcher.say("measuring what schedulers believe in")
        believed, _ = profile(measured, effort(_BELIEVED_SHARE), watcher, keep=parts.under("believed"))
    else:
        believed = hardware
    servers = {}
    for point in points:
        recording = walked(point.recording, recordings.keys)
        cost = cost_of(believed, point.policy, recording, most, _step_tokens(point, engine.tasks))
        servers[point] = engine.server(point, cost, recordings.weights(recording))
    live = _Turns(list(servers.values()), parts)
    if hardware is None:
        watcher.say(f"{len(points)} live points, by turns with the profile")
        others = [live.catch_up] * _LOOKS
        found, _ = profile(measured, effort(1 - _BELIEVED_SHARE), watcher, others=others, keep=parts.under("found"))
    else:
        found = believed
        live.run(plan.time_limit_s, watcher)
    # The project's loop pads its passes, whatever is measured of them.
    return replace(found, padded=True), replace(believed, padded=True), servers


@dataclass(frozen=True, slots=True)
class LiveState:
    """How far live servers have come."""

    gone_s: float
    """Since they began, other work and none of the time between two sittings included."""
    live_s: float
    servers: list[ServerState]


class _Turns:
    """Live servers by turns, a slice each: whoever has said the fewest tokens goes next. They go on with what is kept."""

    def __init__(self, servers: Sequence[Server], parts: Parts) -> None:
        self._all, self._parts = servers, parts
        left = parts.kept("live so far", LiveState) or LiveState(0.0, 0.0, [])
        for server, state in zip(servers, left.servers, strict=False):  # none at first
            server.take_up(state)
        self._servers = [(server.emitted, number, server) for number, server in enumerate(servers)]
        heapify(self._servers)
        self._kept_s = time.monotonic()
        self._started, self._live_s = self._kept_s - left.gone_s, left.live_s

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
        now = time.monotonic()
        self._live_s += now - started
        if now - self._kept_s > _KEPT_S:
            states = [server.state for server in self._all]
            self._parts.keep("live so far", LiveState(now - self._started, self._live_s, states))
            self._kept_s = time.monotonic()


def _step_tokens(point: LivePoint, tasks: Mapping[str, Sequence[LiveRequest]]) -> int:
    """Room for all users' prompts and drafts at once, with something to spare: other prompts may be longer."""
    longest = max(len(a.ids) for some in tasks.values() for a in some)
    return 4 * point.users * (longest + point.recording.gamma + 2)


def compare(
    point: LivePoint,
    ran: Ran,
    found: Profile,
    believed: Profile,
    recordings: Recordings,
    prompts: tuple[Sequence[str], Sequence[str]],
    plan: ValidationPlan,
) -> dict[str, Any]:
    """A row of `validations`: what a live server has done, beside its simulations from other prompts and from its own."""
    whole = recordings.trace(walked(point.recording, recordings.keys))
    own, other = halves(whole, prompts)
    longest = max(r.prompt_tokens for r in whole.responses)
    replicas = Replicas(point, found, believed, ran.clock_s, longest, ran.requests, plan)
    return {
        **point.row(), "seconds": ran.clock_s, "steps": len(ran.steps), "requests": ran.requests,
        "measured": asdict(ran.figures), **replicas.figures(own, other),
        "step_errors": step_errors(ran.steps, replicas.cost(found, whole)),
    }  # fmt: skip
