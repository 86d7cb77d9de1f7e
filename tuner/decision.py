"""What a study has simulated at a load, for the decision: its trials, and draws of the best that the engine can run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from simulator.capacity import crowded, enough, too_few
from simulator.configuration import Configuration
from simulator.decision import Choice, Draw, Range, Sampled, Simulated
from simulator.policies import PolicySpec
from simulator.recommendation import Near
from simulator.sla import promises
from tuner.confirmation import CONTENDERS, PART, Confirmation, Confirmed, headroom_of, times_held
from tuner.objective import KEEPS_UP, WANTED, Figures, TrialJob
from tuner.search import Result, Run
from tuner.space import OfferedRecording
from tuner.trial import Trial, closest

_AT_FIRST, _LIFE_S = 4, 4.0
"""Draws that are simulated before the first sign of life, and seconds between two: as many draws more as take that long."""
_SOME_USERS = 16
"""Users taken for an open loop, to guess how many tokens come in a second: more only make draws shorter."""


class StudyEvidence:
    """What a study has simulated at a load, as `Evidence`."""

    too_short = ""

    def __init__(
        self, what: Confirmation, trials: Sequence[Trial], recorded: Sequence[OfferedRecording],
        able: Callable[[Configuration], bool], run: Run, advance: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:  # fmt: skip
        """`recorded` is what a better scheduler could read, `able` says what the engine can run; `advance` takes the draws
        that are done, and all of them."""
        self.what, self.trials, self.recorded, self._able = what, trials, recorded, able
        self._run, self._advance = run, advance
        self._confirmed: dict[Configuration, Confirmed] = {}
        self.simulated = self._candidates()

    def closest(self) -> Near | None:
        """See `Evidence`."""
        scenario, near = self.what.scenario, closest(self.trials)
        if near is None or near.last.feasible:
            return None
        [one] = self.what.run([("closest", near.configuration)], self._run)
        if not one.draws:
            return None
        waiting = crowded(scenario.load, near.configuration.request_cap, scenario.limits.replicas)
        times = None if waiting else headroom_of(self.what, one, self._run)
        return Near(near.configuration, one.means(), near.last.violations.get(KEEPS_UP, 0.0) > 0, times)

    def unsure(self, run: Configuration) -> str:
        """See `Evidence`."""
        finished, scenario = self.finished(run), self.what.scenario
        if enough(finished, scenario.slas):
            return ""
        return too_few(round(finished), scenario.slas, scenario.load, self.what.seconds)

    def scheduled(self, run: Configuration) -> Configuration | None:
        """What is run, under the paper's scheduler; under a moving average of acceptance where nothing is sure of drafts."""
        own = next((r for r in self.recorded if r.recording == run.recording.showing("none")), None)
        if own is None:
            return None
        if own.confidences:
            recording, policy = run.recording.showing(own.confidences[-1]), PolicySpec("prefix_scheduler")
        else:
            recording, policy = run.recording.showing("none"), PolicySpec("batch_adaptive")
        return Configuration(recording, policy, run.request_cap)

    def throughputs(self, compared: Sequence[Configuration]) -> list[float]:
        """See `Evidence`."""
        scenario = self.what.scenario
        of_users = WANTED[self.what.objective][0] == "tps"
        each = scenario.load.users or _SOME_USERS if of_users else scenario.profile.gpus * scenario.limits.replicas
        return [s.value * each for s in self.simulated if s.candidate in compared and s.value > 0]

    def drawn(self, choice: Choice, seconds: float, draws: Sequence[Draw]) -> dict[Configuration, Sampled] | str:
        """See `Evidence`."""
        scenario, figure, candidates = self.what.scenario, WANTED[self.what.objective][0], choice.all
        results: list[Result] = []
        done, at_once = 0, _AT_FIRST
        while done < len(draws):
            self._advance(done, len(draws))
            some, began = draws[done : done + at_once], time.monotonic()
            results += self._run(
                [TrialJob(c, scenario, seconds, self.what.seed, PART, vary=draw) for draw in some for c in candidates]
            )
            done += len(some)
            at_once *= 2 if time.monotonic() - began < _LIFE_S / 2 else 1
        self._advance(len(draws), len(draws))
        failed = next((r for r, _ in results if isinstance(r, str)), None)
        if failed is not None:
            return f"a draw of the decision failed: {failed}"
        figures: list[Figures] = [r for r, _ in results if not isinstance(r, str)]
        found = {}
        for i, c in enumerate(candidates):
            own = figures[i :: len(candidates)]
            found[c] = Sampled(
                value=[f[figure] for f in own],
                attained=[{promise.name: f[promise.name] for promise in promises(scenario.slas)} for f in own],
                also=[{name: f[name] for name in ("tps", "p95_ttft")} for f in own],
                kept=[all(v <= 0 for v in scenario.violations(f).values()) for f in own],
            )
        return found

    def finished(self, run: Configuration) -> float:
        """See `Evidence`."""
        return next((t.figures["finished"] for t in self.trials if t.figures and t.configuration == run), 0.0)

    def times_held(self, run: Configuration) -> Range | None:
        """See `Evidence`."""
        one = self._confirmed.get(run) or self.what.run([("to run", run)], self._run)[0]
        return times_held(self.what, one, self._run)

    def _candidates(self) -> list[Simulated]:
        """The trials; of those that may be chosen, whether the promise is kept on prompts nobody searched on."""
        found = {
            t.configuration: Simulated(
                candidate=t.configuration,
                value=t.last.values[0],
                kept=t.last.feasible,
                keeps_up=t.last.violations.get(KEEPS_UP, 0.0) <= 0,
            )
            for t in self.trials
            if t.rungs
        }
        if not self.what.scenario.slas:
            return list(found.values())
        ordered = sorted((c for c, s in found.items() if s.kept), key=lambda c: -found[c].value)
        for configuration in list(filter(self._able, ordered))[:CONTENDERS]:
            [one] = self.what.run([("to run", configuration)], self._run)
            self._confirmed[configuration] = one
            if self.what.keeps(one):
                break
            found[configuration] = msgspec.structs.replace(found[configuration], kept=False)
        return list(found.values())
