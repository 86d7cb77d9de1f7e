"""Simulations of a live run, many times over: from other prompts, and from its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple
from itertools import islice

import numpy as np
import numpy.typing as npt

from harness.validation.plan import LivePoint, ValidationPlan
from harness.validation.points import WARM_UP, LiveFigures, first_limits, turns
from simulator.engine.state import REQUEST, Records
from simulator.hardware.cost import StepCost
from simulator.hardware.profile import Profile
from simulator.plain import cost_of
from simulator.requests import CHUNK
from simulator.setup import EngineLimits
from simulator.simulation import Prepared, prepare, simulator_for
from simulator.traces import Trace


def halves(trace: Trace, prompts: tuple[Sequence[str], Sequence[str]]) -> tuple[Prepared, Prepared]:
    """The first turns of (prompts asked live, others), ready to simulate."""
    own, other = (
        trace.select([r.turn == 0 and r.prompt_id in wanted for r in trace.responses]) for wanted in map(set, prompts)
    )
    return prepare(own), prepare(other)


class Replicas:
    """Simulations of one live run: its users, its seconds, its turns of tasks."""

    def __init__(
        self, point: LivePoint, found: Profile, believed: Profile, seconds: float, longest: int, served: int,
        plan: ValidationPlan, *, pause_s: float = 0.0, slices: int = 1,
    ) -> None:  # fmt: skip
        """Simulations of a live run that began anew `slices` times, for `seconds` each.

        `longest` is the longest prompt, `served` how many requests were answered live; users pause before they ask again.
        """
        self.point, self.found, self.believed, self.seconds, self.plan = point, found, believed, seconds, plan
        self.pause_s, self.slices = pause_s, slices
        self.requests = 4 * (served + point.users) + 64
        self.step_tokens = point.users * (longest + 256)
        self.kv_tokens = point.users * (longest + plan.max_new_tokens + 512)

    def figures(self, own: Prepared, other: Prepared) -> dict[str, dict[str, float]]:
        """Simulated means over replicates, what 95 % of them lie between, and means from the live prompts' own traces."""
        many = self._means(other, self.plan.replicates, redraw=True)
        same = self._means(own, max(self.plan.replicates // 4, 4), redraw=False)
        low, high = np.nanquantile(many, (0.025, 0.975), axis=0)
        found = {"simulated": np.nanmean(many, 0), "low": low, "high": high, "same_prompts": np.nanmean(same, 0)}
        return {name: asdict(LiveFigures(*values.tolist())) for name, values in found.items()}

    def _means(self, recorded: Prepared, count: int, *, redraw: bool) -> npt.NDArray[np.float64]:
        """Figures of `count` replicates, each the mean of as many slices as were live, [count, figures]."""
        runs = [astuple(self.run(recorded, i, redraw=redraw)) for i in range(count * self.slices)]
        return np.asarray(np.nanmean(np.reshape(runs, (count, self.slices, -1)), 1))

    def cost(self, profile: Profile, walked: Trace) -> StepCost:
        """What a profile makes of the point's steps over a trace."""
        return cost_of(profile, self.point.policy, walked, self.point.users, self.step_tokens)

    def run(self, recorded: Prepared, number: int, *, redraw: bool) -> LiveFigures:
        """One of them; `redraw` draws the prompts of each task anew, with replacement."""
        trace, users = recorded.trace, self.point.users
        policy = self.point.policy.bind(self.cost(self.believed, trace))
        policy = policy.compiled() or policy
        limits = EngineLimits(request_cap=users, step_tokens=self.step_tokens, kv_capacity_tokens=self.kv_tokens)
        rows, asked = list[Records](), self._asked(trace, number, redraw=redraw)
        simulator = simulator_for(policy)(
            recorded, policy, self.cost(self.found, trace), limits, self.kv_tokens,
            (asked[i : i + CHUNK] for i in range(0, len(asked), CHUNK)), users=users, seed=number, on_rows=rows.append,
        )  # fmt: skip
        begin_s = WARM_UP * self.seconds
        simulator.run_until(begin_s)
        before, before_s = simulator.totals.copy(), simulator.clock_s
        simulator.run_until(self.seconds)
        simulator.flush()
        totals, done = simulator.totals, np.concatenate(rows)
        done = done[(done["finish_s"] > begin_s) & (done["finish_s"] > done["first_s"])]
        change = {n: float(totals[n][0] - before[n][0]) for n in ("emitted", "committed", "verified", "rounds")}
        seconds = simulator.clock_s - before_s
        speeds = (done["output_tokens"] - 1) / (done["finish_s"] - done["first_s"])
        return LiveFigures.of(seconds=seconds, speeds=speeds, **change)

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
        limits = np.full(self.requests, self.plan.max_new_tokens)
        limits[: self.point.users] = first_limits(self.point.users, self.plan.max_new_tokens, self.plan.seed)
        asked["think_s"] = self.pause_s
        asked["output_tokens"] = np.minimum(np.diff(trace.offsets)[asked["response"]] + 1, limits)
        return asked
