"""From simulated candidates, a promise and an engine: the configuration to run, its gain, and how sure that is.

Candidates are simulated again and again: each draw takes the prompts anew, with replacement, another seed, and a profile
that is off by what its source may be off. All candidates see the same draw, so what moves them alike cancels. Beside the
interval over such draws stands the one over draws with the profile held: what is left is the traffic's and the simulation's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from simulator.configuration import Configuration
from simulator.hardware.profile import Profile
from simulator.load import Load
from simulator.numbers import counted
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.records import Recording, kept_drafting
from simulator.replay import replays_exactly
from simulator.serving.command import cannot_run
from simulator.serving.engine import ServingEngine
from simulator.serving.engines import engine_called, name_of
from simulator.sla import Promise, Sla, canonical, promises

Figure = Literal["throughput", "tps", "goodput"]
FIGURES: Mapping[Figure, str] = {
    "throughput": "tokens/s/GPU", "tps": "tokens/s of a user on average", "goodput": "tokens/s/GPU within the promise"
}  # fmt: skip


GAINS: Mapping[Figure, str] = {
    "throughput": "tokens/s", "tps": "tokens/s of a user", "goodput": "tokens/s within the promise"
}  # fmt: skip
"""What a gain is of."""


DRAWS = 200
"""Draws of a decision, with another profile each."""
MANY_LOADS = 3
_REASONS = 3
"""Why an engine runs nothing, told of so many policies."""


def draws_at(loads: int) -> int:
    """The draws at each of so many loads: half of them where there are many, for which nobody would wait."""
    return DRAWS if loads <= MANY_LOADS else DRAWS // 2


class Simulated(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate, and what one long simulation made of it."""

    candidate: Configuration
    value: float
    """What that simulation gave of the figure that is made large, in the unit of `FIGURES`."""
    kept: bool
    """Whether it kept every promise, and kept up with what arrives."""
    keeps_up: bool = True
    """Whether it kept up with what arrives."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Which candidates a decision is about."""

    run: Configuration
    none: Configuration
    """No speculation, under the request cap that serves it best: that keeps the promise, where any does."""
    default: Configuration | None
    """The same drafter as the engine would run it by default: the whole block, the largest request cap. None where that is
    what is run. Where nothing is drafted it is the best drafter's, unless that was simulated, or cannot be run."""
    runner_up: Configuration | None
    """The next best that the engine runs."""
    better: Configuration | None
    """The best that the engine cannot run, where it beats what is run."""
    most_running: int | None = None
    """Requests that run on a replica at most, at the load that is decided about; None where request caps alone say."""

    @property
    def all(self) -> list[Configuration]:
        """All that have to be simulated."""
        named = (self.run, self.none, self.default, self.runner_up, self.better)
        return list(dict.fromkeys(c for c in named if c is not None))


def choose(
    simulated: Sequence[Simulated],
    engine: ServingEngine | None,
    target: str = "",
    *,
    load: Load | None = None,
    replicas: int = 1,
    promised: bool = True,
) -> Choice | str:
    """What to run, of what the engine (None: any) can run of `target`; or why nothing can be recommended.

    What is the same for as many requests as the load, on so many replicas, ever runs at once is no rival. Whether anything
    is `promised` is for the words alone.
    """
    kept = [s for s in simulated if s.kept]
    runs = [s for s in simulated if engine is None or not refused(engine, s.candidate, target)]
    able = [s for s in kept if s in runs]
    if not any(s.keeps_up for s in simulated):
        return "overload: nothing that was simulated keeps up with what arrives; lower the load, or give more --replicas"
    if engine is not None and not runs:
        most, least = engine.most_requests, min(s.candidate.request_cap for s in simulated)
        fits = most is None or least <= most
        less = (
            "add what it has to --policy, as none and fixed" if fits else f"--request-cap {most} is the most that it takes"
        )
        why = dict.fromkeys(f"{s.candidate.policy}: {refused(engine, s.candidate, target)}" for s in simulated if fits)
        told = f" ({'; '.join(list(why)[:_REASONS])})" if why else ""
        return f"{engine.name} runs nothing of what was simulated{told}; {less}"
    keeps = "keeps the promise" if promised else "keeps up with what arrives"
    if not kept:
        return f"nothing that was simulated {keeps}"
    if not able:
        assert engine is not None
        return f"of what was simulated, nothing that {engine.name} can run {keeps}"
    if len({(s.candidate.recording, s.candidate.policy) for s in simulated}) < 2:
        return "only one configuration was simulated: there is nothing to choose from"
    cap = max(s.candidate.request_cap for s in simulated)
    if engine is not None and engine.most_requests is not None:
        cap = min(cap, engine.most_requests)
    most_running = None if load is None else load.most_running(cap, replicas)
    ordered = sorted(able, key=lambda s: -s.value)
    run, best = ordered[0].candidate, ordered[0].value
    others = [s.candidate for s in ordered[1:] if _differs(s.candidate, run, most_running)]
    beyond = sorted((s for s in kept if s not in able and s.value > best), key=lambda s: -s.value)
    plain = sorted((s for s in runs if s.candidate.policy == NO_DRAFTER), key=lambda s: (not s.kept, -s.value))
    return Choice(
        run=run, none=plain[0].candidate if plain else Configuration.plain(cap),
        default=_default(run, simulated, engine, target, cap),
        runner_up=others[0] if others else None, better=beyond[0].candidate if beyond else None, most_running=most_running,
    )  # fmt: skip


def _default(
    run: Configuration, simulated: Sequence[Simulated], engine: ServingEngine | None, target: str, cap: int
) -> Configuration | None:
    """See `Choice.default`."""

    def whole_block(recording: Recording) -> Configuration:
        return Configuration(recording.showing("none"), PolicySpec.fixed(recording.gamma), cap)

    if run.policy != NO_DRAFTER:
        return None if (usual := whole_block(run.recording)) == run else usual
    known = {s.candidate for s in simulated}
    for one in sorted((s for s in simulated if s.candidate.policy != NO_DRAFTER), key=lambda s: -s.value):
        usual = whole_block(one.candidate.recording)
        if engine is None or not refused(engine, usual, target):
            return None if usual in known else usual
    return None


def refused(engine: ServingEngine, candidate: Configuration, target: str = "") -> str:
    """Why an engine cannot run a candidate as it was simulated; empty where it can."""
    return cannot_run(engine, candidate.recording, candidate.policy, candidate.request_cap, target=target)


def _differs(one: Configuration, other: Configuration, most_running: int | None) -> bool:
    """Whether recordings, or policies at so many requests, differ; request caps alone do not."""
    most = most_running or max(one.request_cap, other.request_cap)
    return one.while_running(most) != other.while_running(most)


class Draw(msgspec.Struct, frozen=True):
    """Which draw: its number, and whether the profile is off in it."""

    number: int
    off: bool


class Sampled(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one candidate in all draws, in their order."""

    value: list[float]
    attained: list[dict[str, float]]
    """Share of requests that keep each bound, or the mean."""
    kept: list[bool]
    """Whether every promise was kept, and the candidate kept up with what arrived."""
    also: list[dict[str, float]]
    """Mean tokens per second of a user (`tps`) and 95 % quantile of seconds to the first token (`p95_ttft`)."""


_AS_MUCH = 0.005
"""Share by which what gives as much may fall behind: nobody changes a server for less, and no simulation vouches for it."""


def settle(
    choice: Choice, found: Mapping[Configuration, Sampled], draws: Sequence[Draw], *, arrivals_set: bool = False
) -> Choice:
    """The choice once its candidates were drawn: what runs is what gives most there, with the profile held.

    One long simulation, or a search on other prompts, has picked the candidates; that another of them turns out better, no
    speculation among them, is then said and not hidden. Of what gives as much as the best the plainest runs: nothing, before
    the engine's default, before what was picked; not where arrivals set the figure (`arrivals_set`), whoever keeps up: what
    was picked has more to spare. What misses the promise, or does not keep up, in most draws is taken only
    where all do. A runner-up that gives the very same in every draw is the same run by another name, and none.
    """
    held = ~np.array([draw.off for draw in draws])

    def mean(candidate: Configuration) -> float:
        return float(np.array(found[candidate].value)[held].mean())

    plain = (choice.none, choice.default)
    first = (choice.run, *plain) if arrivals_set else (*plain, choice.run)
    named = [c for c in (*first, choice.runner_up) if c is not None]
    able = [c for c in dict.fromkeys(named) if np.array(found[c].kept)[held].mean() >= 0.5]
    enough = (1 - _AS_MUCH) * max(map(mean, able), default=math.inf)
    best = next((c for c in able if mean(c) >= enough), choice.run)

    def rival(candidate: Configuration) -> bool:
        same = candidate == best or found[candidate].value == found[best].value
        return not same and _differs(candidate, best, choice.most_running)

    if best == choice.run:
        other = choice.runner_up
        beaten = other if other is not None and other in able and rival(other) else None
        return msgspec.structs.replace(choice, runner_up=beaten)
    others = [c for c in able if rival(c)]
    alike = choice.default is not None and choice.default.recording == best.recording.showing("none")
    return Choice(
        run=best, none=choice.none, default=choice.default if alike and choice.default != best else None,
        runner_up=max(others, key=mean, default=None), better=choice.better, most_running=choice.most_running,
    )  # fmt: skip


# --- the decision ---------------------------------------------------------------------------------------------------------


class Range(msgspec.Struct, frozen=True):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """How much more of the figure than something else gives, as a share."""

    over: str
    """In words."""
    all: Range
    """With everything that is unsure."""
    held: Range
    """With the profile taken for true."""

    @property
    def clear(self) -> bool:
        """Whether it is more, or less, beyond doubt."""
        return self.all.low > 0 or self.all.high < 0


def layout_of(gpus: int, replicas: int) -> str:
    """How GPUs are shared out, in words: replicas of an engine, on so many each."""
    return f"{counted(replicas, 'replica')} on {counted(gpus, 'GPU')}{' each' if replicas > 1 else ''}"


class Rival(msgspec.Struct, frozen=True, kw_only=True):
    """What another layout, the same GPUs shared out otherwise, says to run, and how what is run does against it."""

    sweep: str
    """The sweep that tells."""
    gpus: int
    """GPUs of a replica."""
    replicas: int
    run: str = ""
    """The configuration in words; empty where nothing is recommended there."""
    reason: str = ""
    """Why nothing is."""
    command: str = ""
    """For a shell."""
    attained: dict[str, Range] = {}
    """What becomes of each bound there."""
    holds: Range | None = None
    """How many times the load is held there; None where nobody searched, or too few requests tell."""
    sure: float | None = None
    """Share of the draws in which the promise is kept there."""
    gain: Gain | None = None
    """What is run over it, in the same draws; None where one of the two gives nothing."""

    @property
    def layout(self) -> str:
        """In words."""
        return layout_of(self.gpus, self.replicas)


class Decision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to run, and how sure that is. The one value that commands, report and exports print.

    Stored and printed as its `row`, for msgspec by itself does not know how configurations and loads are written.
    """

    engine: ServingEngine | None
    """Which runs it; None where all policies were allowed."""
    profile: str
    source: str
    """Where the profile comes from: measured, fitted, published, roofline or user."""
    load: Load
    promise: tuple[Promise, ...]
    """Empty without."""
    traffic: str
    """Lengths, mix and temperature, in words."""
    replicas: int = 1
    """Copies of the engine behind a router, each on the profile's GPUs."""
    gpus: int | None = None
    """GPUs of each; None of decisions that were kept before it was told."""
    figure: Figure
    reason: str = ""
    """Why nothing can be recommended; what follows is then empty."""
    candidate: Configuration | None = None
    """What is run."""
    command: str = ""
    """For a shell."""
    settings: dict[str, Any] = {}
    """The engine's own fields of drafting, as in the command."""
    notes: list[str] = []
    """What has to be done before the command runs, and what is not as simulated."""
    value: Range | None = None
    """The figure, with everything that is unsure."""
    attained: dict[str, Range] = {}
    """What becomes of each bound."""
    tps: Range | None = None
    """Mean tokens per second of a user."""
    p95_ttft: Range | None = None
    """Seconds to the first token that 95 % of requests do not exceed."""
    sure: float | None = None
    """Share of the draws in which the promise is kept."""
    holds: Range | None = None
    """How many times the load is held within the promise; None where nobody searched, or too few requests tell."""
    over_none: Gain | None = None
    """The gain over no speculation; None where that is what is run, or it gives nothing."""
    over_default: Gain | None = None
    """Over what the engine does by default with the same drafter; None where that is what is run, or nothing is drafted."""
    runner_up: Gain | None = None
    better: Gain | None = None
    """What the best that the engine cannot run would add."""
    draws: int = 0
    tried: int | None = None
    """Configurations that its study had tried, at all loads, when this was decided; None of a sweep."""
    errors: dict[str, float] = {}
    """Relative standard errors of the profile's parts that were drawn."""
    next: str = ""
    """What to do to be surer."""
    rivals: list[Rival] = []
    """The same GPUs shared out otherwise, where that was asked."""

    @property
    def run(self) -> str:
        """The configuration in words; empty where nothing is recommended."""
        return "" if self.candidate is None else str(self.candidate)

    @property
    def gains(self) -> list[Gain]:
        """Over what one would run without asking."""
        return [gain for gain in (self.over_none, self.over_default) if gain is not None]

    @classmethod
    def about(
        cls, *, engine: ServingEngine | None, profile: Profile, load: Load, replicas: int, slas: Sequence[Sla],
        figure: Figure, traffic: str, temperature: float | None,
    ) -> Decision:  # fmt: skip
        """What a decision is about, before anything is decided; a temperature that nobody knows, as of averages, is None."""
        heat = "" if temperature is None else f"; temperature {temperature:g}"
        errors = profile.relative_errors
        return cls(
            engine=engine, profile=profile.name, source=profile.source, load=load, replicas=replicas, gpus=profile.gpus,
            promise=tuple(promises(slas)), traffic=traffic + heat, figure=figure,
            errors={"verify": errors.verify, "draft": errors.draft, "host": errors.host},
        )  # fmt: skip

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Decision:
        """From what `row` made. Raises InputError for a policy or a load there is not, else msgspec.ValidationError."""
        told = {name: value for name, value in row.items() if name not in ("at", "run", "gains")}
        none = str(Configuration.plain(1))
        for gain in row["gains"]:
            told["over_none" if gain["over"].startswith(none) else "over_default"] = gain
        told |= {
            "engine": engine_called(row["engine"]), "load": Load.parse(row["load"]),
            "promise": tuple(map(Promise.parse, row["promise"])),
            "attained": {canonical(name): value for name, value in row["attained"].items()},
            "candidate": Configuration.read(row["candidate"]) if row["candidate"] else None,
        }  # fmt: skip
        return msgspec.convert(told, cls)

    def row(self) -> dict[str, Any]:
        """The decision as the database and JSON hold it."""
        plain = {name: value for name, value in msgspec.structs.asdict(self).items() if not name.startswith("over_")}
        values = {
            "engine": self.engine_name, "load": str(self.load), "at": self.load.label, "run": self.run,
            "promise": [promise.name for promise in self.promise],
            "candidate": {} if self.candidate is None else self.candidate.whole_row(), "gains": self.gains,
        }  # fmt: skip
        row: dict[str, Any] = msgspec.to_builtins(plain | values)
        return row

    @property
    def engine_name(self) -> str:
        """The engine as its makers write it; `any` where all policies were allowed."""
        return name_of(None) if self.engine is None else self.engine.name

    def without(self, reason: str) -> Decision:
        """That nothing can be recommended, and why."""
        return msgspec.structs.replace(self, reason=reason)


def decide(
    stub: Decision,
    choice: Choice,
    found: Mapping[Configuration, Sampled],
    draws: Sequence[Draw],
    engine: ServingEngine | None,
    *,
    temperature: float | None = None,
) -> Decision:
    """A decision from the draws of a choice, about what `stub` says; or why there is none, where draws came to nothing.

    `temperature` is what the recorded responses were sampled at, None where nobody knows.
    """
    off = np.array([draw.off for draw in draws])
    value = {candidate: np.array(found[candidate].value) for candidate in choice.all}
    if not all(_finite(found[candidate]) for candidate in choice.all):
        return stub.without("in some draws too few requests finish; simulate longer")

    def gain(over: str, top: Configuration | None, under: Configuration | None) -> Gain | None:
        return None if top is None or under is None or top == under else gain_of(over, found[top], found[under], draws)

    run = choice.run
    name = "the engine" if engine is None else engine.name

    def missing(candidate: Configuration | None) -> str:
        misses = candidate is not None and stub.promise and np.mean(found[candidate].kept) < 0.5
        return ", which misses the promise" if misses else ""

    def words(candidate: Configuration | None) -> str:
        return "" if candidate is None else candidate.told_beside(run)

    drafts = "a drafter" if run.policy == NO_DRAFTER else "it"
    by_default = f"what {name} does with {drafts} by default, {words(choice.default)}"
    over_none = gain(words(choice.none) + missing(choice.none), run, choice.none)
    over_default = gain(by_default + missing(choice.default), run, choice.default)
    own = found[run]

    def also(name: str) -> Range:
        values = np.array([one[name] for one in own.also])
        return range_of(values[off], float(values[~off].mean()))

    attained = {promise.name: np.array([one[promise.name] for one in own.attained]) for promise in stub.promise}
    return msgspec.structs.replace(
        stub,
        candidate=run, over_none=over_none, over_default=over_default, draws=int(off.sum()),
        value=range_of(value[run][off], float(value[run][~off].mean())),
        attained={name: range_of(v[off], float(v[~off].mean())) for name, v in attained.items()},
        tps=also("tps"), p95_ttft=also("p95_ttft"),
        sure=float(np.mean(np.array(own.kept)[off])) if stub.promise else None,
        runner_up=gain(words(choice.runner_up), run, choice.runner_up),
        better=gain(words(choice.better), choice.better, run),
        next=_next(over_none or over_default, stub.source), notes=[*stub.notes, *_notes(run, temperature)],
    )  # fmt: skip


def gain_of(over: str, top: Sampled, under: Sampled, draws: Sequence[Draw]) -> Gain | None:
    """What one candidate gives more than another, called `over`, in the same draws.

    What is unsure with the profile held is so without it too: of few draws the first interval may come out wider by chance,
    and then stands for both. None where the other gives nothing, or one of them no figure, in any draw.
    """
    off, less = np.array([draw.off for draw in draws]), np.array(under.value)
    if not less.all() or not np.isfinite([*less, *top.value]).all():  # what breaks a promise has goodput 0
        return None
    ratio = np.array(top.value) / less - 1
    centre = float(ratio[~off].mean())
    off_too, held = range_of(ratio[off], centre), range_of(ratio[~off], centre)
    return Gain(over=over, all=Range(centre, min(off_too.low, held.low), max(off_too.high, held.high)), held=held)


def _finite(sampled: Sampled) -> bool:
    return bool(
        np.isfinite([*sampled.value, *(v for one in (*sampled.attained, *sampled.also) for v in one.values())]).all()
    )


def range_of(values: np.ndarray[tuple[int], np.dtype[np.float64]], centre: float) -> Range:
    """A centre with the interval that holds 95 % of what it came to in draws."""
    low, high = np.quantile(values, [0.025, 0.975])
    return Range(centre, float(min(low, centre)), float(max(high, centre)))


def _notes(run: Configuration, temperature: float | None) -> list[str]:
    """What is not as it would be live."""
    if replays_exactly(run.policy, kept_drafting(run.recording.drafting, run.recording.kind, temperature)):
        return []
    return ["the policy looks at old confidences: replaying sampled drafts under it is an approximation"]


MEASURE = "speeds of the engine itself at some loads would narrow it (`harness hardware fit`, docs/hardware.md)"
"""What makes a profile surer."""


def _next(gain: Gain | None, source: str) -> str:
    """What would make a gain surer: whichever of profile and prompts makes most of its interval."""
    if gain is None:
        return ""
    width, held = (r.high - r.low for r in (gain.all, gain.held))
    if width > 1.5 * held:
        row = "one more row of what it was fitted to would narrow it, which `harness hardware fit` names last (measure next)"
        return f"most of the interval is the profile's ({source}): {row if source == 'fitted' else MEASURE}"
    return "most of the interval is the traffic's: record more prompts"
