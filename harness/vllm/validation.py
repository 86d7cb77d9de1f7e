"""`harness validate --engine vllm`: vLLM under load, and the same load simulated from other prompts' traces.

vLLM serves closed loops of users with each method it can run here. A profile is fitted to the steps of loops of other
numbers of users, who ask the other half of the prompts; acceptance comes from that half's dense traces. What throughput
and speed these make together is predicted.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from drafters.gguf import plain_source
from drafters.target import Target
from harness.console import Watcher
from harness.parts import Parts
from harness.recording.pair import load_pair
from harness.recording.suite import Generation
from harness.validation.plan import LivePoint, ValidationPlan, pair_of
from harness.validation.points import LiveRequest, read_prompts, split_prompts, turns
from harness.validation.replicas import Replicas, halves
from harness.vllm.checkpoints import speculative
from harness.vllm.engine import VllmEngine, on_cpu, require, running, version
from harness.vllm.load import Bystanders, Loop, accepted_at, closed_loop, joined, loop_figures
from harness.vllm.lookup import lookup_trace
from harness.vllm.profile import FittedLoops, fit_profile, mean_step_error
from results.store.database import Store
from results.store.provenance import command_line, git_revision, package_versions
from results.store.recordings import Recordings, choose_drafting
from results.store.rows import profile_row
from results.store.validations import Validations
from simulator.errors import InputError
from simulator.hardware.profile import Profile
from simulator.numbers import counted
from simulator.plain import walked
from simulator.policies import NO_DRAFTER, Fixed, PolicySpec
from simulator.records import NO_RECORDING, Drafting, Recording, Sampling
from simulator.replay import replay
from simulator.serving.vllm import VLLM
from simulator.simulation import Prepared, ready
from simulator.traces import Trace, cut

_WARM_UP_S, _SLICE_S = 3.0, 5.0
"""Seconds that the most users run before anything counts; and, about, of a slice of one loop: answers must fit in."""
_ROOM = 64
"""Tokens beyond prompt and answer, for drafts."""


@dataclass(frozen=True, slots=True)
class Method:
    """A drafter as vLLM runs it."""

    recording: Recording
    """What it drafts as; `NO_RECORDING` decodes plainly."""
    speculative: Mapping[str, Any] | None
    """vLLM's configuration; None decodes plainly."""

    @property
    def drafter(self) -> str:
        """The drafter's name, `none` without one."""
        return self.recording.drafter

    @property
    def gamma(self) -> int:
        """Tokens drafted in a round."""
        return self.recording.gamma

    @property
    def policy(self) -> PolicySpec:
        """What vLLM does with the drafts: it verifies them whole."""
        return NO_DRAFTER if self.recording == NO_RECORDING else PolicySpec.fixed(self.gamma)


def validate_vllm(
    store: Store, name: str, plan: ValidationPlan, watcher: Watcher, *, hardware: Profile | None = None
) -> str:
    """Validate on a run's pair and prompts; returns the validation's id.

    Slices of loops are kept beside the database until all of it is stored. Raises InputError.
    """
    require()
    if plan.policies is not None or hardware is not None:
        raise InputError(
            "--engine vllm: every method verifies all it drafts, on its own profile; leave --policy and --hardware out"
        )
    store.prepare()
    run_id = store.find_run(name)
    drafting = choose_drafting(store, run_id, plan.drafting, watcher.say, engine=VLLM.drafting)
    row, recordings = store.run(run_id), Recordings(store, run_id, drafting)
    if row["plan"].get("pair") is None or not recordings.keys:
        raise InputError(f"run {run_id}: vLLM needs a dense recording of a pair")
    pair, sampling = load_pair(pair_of(row)), msgspec.convert(row["sampling"], Generation).sampling
    pair = msgspec.structs.replace(pair, target=plain_source(pair.target, watcher.say))
    methods = choose_methods(row, plan, pair.target, store.file.parent / "vllm", watcher, drafting)
    responses = recordings.trace(recordings.keys[0]).responses
    live, traced = split_prompts(responses, plan.seed)
    target = Target.outline(pair.target, pair.dtype, pair.chat_template or None)
    halves = {"live": live, "traced": traced}
    asked = {half: read_prompts(store, run_id, target, some) for half, some in halves.items()}
    watcher.say(
        f"{version()}: {counted(len(live), 'prompt')}; profile and traces from {len(traced)} others, as many of each task"
    )
    bench = LoopBench(pair.target, target, sampling, asked, plan)
    settled = [run_id, asdict(plan), [(m.recording, m.speculative) for m in methods], version()]
    parts = Parts(store.file.parent, "validation", settled, watcher)
    loops = asyncio.run(bench.serve(methods, watcher, parts))
    fitted = [FittedLoops(m.drafter, m.gamma, tuple(loops[m.drafter, "traced"])) for m in methods]
    profile = fit_profile(
        fitted, f"vllm/{row['pair']}", "cpu" if on_cpu() else "gpu", str(row["target"]["source"]),
        bench.longest * bench.most, _provenance(plan, fitted),
    )  # fmt: skip
    ready(watcher.say)
    rows = []
    for method, timed in zip(methods, fitted, strict=True):
        trace = _trace(method, recordings, store, run_id, asked, target)
        rows += compare(method, timed, loops[method.drafter, "live"], profile, trace, (live, traced), plan)
        watcher.say(f"simulated {method.drafter}")
    common = {
        "run_id": run_id, "command": command_line(), "engine": "vllm", "live_prompts": live, "trace_prompts": traced,
        "drafting": drafting, "git_revision": git_revision(), "packages": {**package_versions(), "vllm": version()},
    }  # fmt: skip
    validation_id = Validations(store).add([{**common, **r} for r in rows], profile_row(profile), profile_row(profile))
    parts.done()
    return validation_id


def choose_methods(
    row: Mapping[str, Any],
    plan: ValidationPlan,
    target: str,
    folder: Path,
    watcher: Watcher,
    drafting: Drafting = VLLM.drafting,
) -> list[Method]:
    """What vLLM can run of a run's drafters, checkpoints converted; the rest is said, or refused if it was asked for."""
    temperature, drafters = row["sampling"]["temperature"], {k: v for k, v in row["drafters"].items() if k != "none"}
    if unknown := [d for d in plan.drafters or () if d not in (*drafters, "none")]:
        raise InputError(f"no dense recording of {', '.join(unknown)}; there are: {', '.join(drafters)}")
    methods = [Method(NO_RECORDING, None)]
    for name, drafter in drafters.items():
        if plan.drafters is not None and name not in plan.drafters:
            continue
        try:
            found = speculative(drafter, target, folder, temperature, drafting)
            if VLLM.kinds[drafter["kind"]].gpu_only and on_cpu():
                raise InputError(f"{name}: vLLM runs {found[VLLM.fields.method]} on GPUs only")
            methods.append(Method(Recording(name, int(drafter["gamma"]), drafting=drafting, kind=drafter["kind"]), found))
        except InputError as error:
            if plan.drafters is not None:
                raise
            watcher.say(f"left out: {error}")
    if temperature > 0 and len(methods) > 1 and on_cpu():
        raise InputError(
            "vLLM 0.32 on a CPU verifies drafts wrongly above temperature 0 (it divides by uninitialised memory), and this "
            f"run was recorded at {temperature:g}: record one with --temperature 0, or validate with --drafter none"
        )
    return methods


def fitted_users(concurrency: Sequence[int]) -> list[int]:
    """Numbers of users between those that are predicted, and one beyond; one user has nothing below."""
    return sorted({1, *(next(m for m in count(n + max(n // 2, 1)) if m not in concurrency) for n in concurrency)})


class LoopBench:
    """Runs loops of all methods by turns, in short slices: a machine that drifts drifts for all of them."""

    def __init__(
        self,
        source: str,
        target: Target,
        sampling: Sampling,
        asked: Mapping[str, Mapping[str, list[LiveRequest]]],
        plan: ValidationPlan,
    ) -> None:
        self.source, self.target, self.sampling, self.asked, self.plan = source, target, sampling, asked, plan
        sizes = fitted_users(plan.concurrency)
        self.loops = [("live", n) for n in plan.concurrency] + [("traced", n) for n in sizes]
        self.most = max(n for _, n in self.loops)
        prompts = [a for tasks in asked.values() for some in tasks.values() for a in some]
        self.longest = max(len(a.ids) for a in prompts) + plan.max_new_tokens + _ROOM

    async def serve(self, methods: Sequence[Method], watcher: Watcher, parts: Parts) -> dict[tuple[str, str], list[Loop]]:
        """Loops by drafter and half of the prompts, each by number of users; all engines are there all the time."""
        loop_s = self.plan.time_limit_s / len(self.loops) / len(methods)
        slices = max(round(loop_s / _SLICE_S), 1)
        found = defaultdict[tuple[str, str, int], list[Loop]](list)
        todo = [(m.drafter, *loop) for m in methods for loop in self.loops]
        async with AsyncExitStack() as stack:
            engines = {}
            for method in methods:
                watcher.say(f"starting {version()} with {method.drafter}: {dict(method.speculative or {})}")
                engines[method.drafter] = await stack.enter_async_context(running(
                    self.source, self.target, requests=self.most, longest=self.longest, seed=self.plan.seed,
                    speculative=method.speculative, share=1 / len(methods),
                ))  # fmt: skip
                await self._slice(engines[method.drafter], "traced", self.most, 0, _WARM_UP_S)
            others = Bystanders()
            for number in range(1, slices + 1):
                for done, key in enumerate(random.Random(number).sample(todo, len(todo)), 1):
                    loop = parts.kept(f"slice {number} of {key}", Loop)
                    if loop is None:
                        loop = await self._slice(engines[key[0]], *key[1:], number, loop_s / slices)
                        parts.keep(f"slice {number} of {key}", loop)
                    found[key].append(loop)
                    watcher.advance("vLLM, slices by turns", (number - 1) * len(todo) + done, slices * len(todo))
            watcher.say(f"meanwhile others took {others.share():.0%} of the processors' time")
        result = defaultdict[tuple[str, str], list[Loop]](list)
        for drafter, which, users in sorted(found):
            result[drafter, which].append(joined(found[drafter, which, users]))
        return result

    async def _slice(self, engine: VllmEngine, which: str, users: int, number: int, seconds: float) -> Loop:
        order = turns(self.asked[which], np.random.default_rng([self.plan.seed, number]))
        return await closed_loop(engine, order, users, seconds, self.plan.max_new_tokens, self.sampling, number)


def compare(
    method: Method, timed: FittedLoops, loops: Sequence[Loop], profile: Profile, trace: Trace,
    prompts: tuple[Sequence[str], Sequence[str]], plan: ValidationPlan,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of `validations`: each loop beside its simulations from other prompts and from its own."""
    own, other = halves(trace, prompts)
    longest = max(r.prompt_tokens for r in trace.responses)
    rows = []
    for loop in loops:
        point = LivePoint(method.recording, method.policy, loop.users)
        replicas = Replicas(
            point, profile, profile, loop.seconds / loop.slices, longest, len(loop.answers), plan,
            pause_s=timed.pause_s(loop.users), slices=loop.slices,
        )  # fmt: skip
        row: dict[str, dict[str, Any]] = {**replicas.figures(own, other)}
        row["measured"] = {**asdict(loop_figures(loop)), "accepted_at": accepted_at(loop)}
        row["simulated"]["accepted_at"] = kept_at(other, method.gamma, plan.max_new_tokens)
        rows.append({
            **point.row(), "seconds": loop.seconds, "steps": len(loop.steps), "requests": len(loop.answers), **row,
            "step_errors": {"step": mean_step_error(profile, method.drafter, method.gamma, loop)},
        })  # fmt: skip
    return rows


def kept_at(recorded: Prepared, gamma: int, max_tokens: int) -> list[float]:
    """Share of a trace's drafts, verified whole, that is kept at least up to each position; empty without a drafter."""
    rounds = [r for _, a in recorded.trace for r in replay(cut(a, slice(0, max_tokens - 1)), Fixed(gamma)) if r.drafted]
    return [sum(r.accepted > k for r in rounds) / len(rounds) for k in range(gamma)] if rounds else []


def closing_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is left of the throughput's error but for steps' time, and accepted drafts by position for each drafter: of the
    traces, and by vLLM's own count over all loops."""
    ratios = [
        r["simulated"]["throughput"] / r["measured"]["throughput"] * (1 + r["step_errors"]["step"])
        for r in rows if r["measured"]["throughput"] and r["step_errors"]["step"] is not None
    ]  # fmt: skip
    lines = [f"tok/s, were every step predicted exactly: mean absolute error {np.abs(np.array(ratios) - 1).mean():.1%}"]
    for drafter in dict.fromkeys(r["drafter"] for r in rows if r["gamma"]):
        some = [r for r in rows if r["drafter"] == drafter and r["measured"].get("accepted_at")]
        if some:
            live = np.average([r["measured"]["accepted_at"] for r in some], 0, [r["steps"] * r["users"] for r in some])
            pairs = zip(some[0]["simulated"]["accepted_at"], live.tolist(), strict=True)
            lines.append(f"{drafter}, kept to position 1, 2, …: " + "  ".join(f"{s:.2f} / {m:.2f}" for s, m in pairs))
    return lines


def _trace(
    method: Method,
    recordings: Recordings,
    store: Store,
    run_id: str,
    asked: Mapping[str, Mapping[str, list[LiveRequest]]],
    target: Target,
) -> Trace:
    """What a method is simulated from: the run's own record; n-gram's is made anew, as vLLM looks at other places."""
    raw = recordings.trace(walked(method.recording, recordings.keys))
    if method.recording.kind == "ngram":
        by_id = {a.prompt.prompt_id: a for tasks in asked.values() for some in tasks.values() for a in some}
        return replace(lookup_trace(store, run_id, raw.responses, by_id, target, method.gamma), drafter=method.drafter)
    return raw


def _provenance(plan: ValidationPlan, fitted: Sequence[FittedLoops]) -> dict[str, str]:
    """What the profile was made of, in words."""
    sizes = ", ".join(map(str, fitted_users(plan.concurrency)))
    pauses = (f"{c.drafter} {', '.join(f'{1e3 * c.pause_s(loop.users):.1f}' for loop in c.loops)}" for c in fitted)
    return {
        "engine": version(),
        "inputs": f"steps of closed loops of {sizes} users asking the traced half of the prompts",
        "pauses": f"ms between an answer and its user's next request, by these users: {'; '.join(pauses)}",
        "command": command_line(),
    }
