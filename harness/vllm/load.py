"""Closed loops of users on a running vLLM: what they saw, and what each of the engine's steps held."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from harness.validation.points import WARM_UP, LiveFigures, LiveRequest, first_limits
from harness.vllm.engine import EngineAnswer, EngineStep, VllmEngine
from simulator.records import Sampling


@dataclass(frozen=True, slots=True)
class Loop:
    """Some users for some seconds, each asking again once answered; the first share of the time does not count."""

    users: int
    seconds: float
    steps: tuple[EngineStep, ...]
    """After the warm-up and within the time."""
    answers: tuple[EngineAnswer, ...]
    """Finished after the warm-up and within the time."""
    pauses_s: tuple[float, ...]
    """From an answer's last token, by the engine's clock, to the moment its user asks again."""
    prompts_alone: tuple[tuple[int, int, float], ...] = ()
    """(tokens, prompts, seconds) of steps in which nobody decoded, warm-up included: all prompts come at once then."""
    slices: int = 1
    """How often the users began anew."""

    @property
    def counted_s(self) -> float:
        """Seconds that count."""
        return (1 - WARM_UP) * self.seconds


async def closed_loop(
    engine: VllmEngine,
    asked: Iterator[LiveRequest],
    users: int,
    seconds: float,
    max_tokens: int,
    sampling: Sampling,
    seed: int,
) -> Loop:
    """Let `users` ask for `seconds`; users begin somewhere in the middle of an answer."""
    limits, numbers = first_limits(users, max_tokens, seed), count()
    answers: list[EngineAnswer] = []
    pauses: list[float] = []
    began_s, first = time.monotonic(), len(engine.log.steps)

    async def user(limit: int) -> None:
        last_s = None
        while (now_s := time.monotonic()) < began_s + seconds:
            if last_s is not None:
                pauses.append(now_s - last_s)
            answer = await engine.answer(next(asked).ids, sampling, limit, (seed << 20) + next(numbers))
            answers.append(answer)
            last_s, limit = answer.last_s, max_tokens

    await asyncio.gather(*(user(int(limit)) for limit in limits))
    steps = engine.log.steps[first:]
    counted = (began_s + WARM_UP * seconds, began_s + seconds)
    return Loop(
        users, seconds,
        tuple(s for s in steps if counted[0] < s.at_s <= counted[1]),
        tuple(a for a in answers if counted[0] < a.last_s <= counted[1]), tuple(pauses),
        tuple(_prompts_alone(steps, answers)),
    )  # fmt: skip


def _prompts_alone(steps: Sequence[EngineStep], answers: Sequence[EngineAnswer]) -> Iterator[tuple[int, int, float]]:
    """The requests' own time stamps tell how long a step took of which vLLM's statistics do not: nobody decoded in it."""
    known = {(s.prompt_tokens, s.prompts) for s in steps if not s.decoding}
    together: dict[float, list[EngineAnswer]] = {}
    for answer in answers:
        together.setdefault(answer.first_s, []).append(answer)
    for first_s, some in together.items():
        tokens = sum(a.prompt_tokens for a in some)
        if (tokens, len(some)) in known:
            yield tokens, len(some), first_s - max(a.scheduled_s for a in some)


class Bystanders:
    """How busy other processes keep the machine meanwhile."""

    def __init__(self) -> None:
        self._started_s, self._busy_s, self._own_s = time.monotonic(), *self._spent()

    def share(self) -> float:
        """Share of all processors' time since the start that was used by others than this process and its children."""
        busy_s, own_s = self._spent()
        found = (busy_s - self._busy_s) - (own_s - self._own_s)
        return max(found / (time.monotonic() - self._started_s) / (os.cpu_count() or 1), 0.0)

    def _spent(self) -> tuple[float, float]:
        import psutil  # vLLM brings it

        total, me = psutil.cpu_times(), psutil.Process()
        each = [p.cpu_times() for p in (me, *me.children(recursive=True))]
        return sum(total) - total.idle - getattr(total, "iowait", 0.0), sum(t.user + t.system for t in each)


def joined(slices: Sequence[Loop]) -> Loop:
    """Slices of one loop as one."""
    return Loop(
        slices[0].users, sum(s.seconds for s in slices), tuple(step for s in slices for step in s.steps),
        tuple(a for s in slices for a in s.answers), tuple(p for s in slices for p in s.pauses_s),
        tuple(p for s in slices for p in s.prompts_alone), len(slices),
    )  # fmt: skip


def loop_figures(loop: Loop) -> LiveFigures:
    """A loop's figures, as of a simulation: tokens by the engine's statistics, users' speeds by its time stamps."""
    emitted, prompts = (sum(getattr(s, name) for s in loop.steps) for name in ("emitted", "prompts"))
    verified, rounds = (sum(getattr(s, name) for s in loop.steps) for name in ("drafted", "decoding"))
    speeds = [(len(a.token_ids) - 1) / (a.last_s - a.first_s) for a in loop.answers if a.last_s > a.first_s]
    return LiveFigures.of(
        emitted=emitted, seconds=loop.counted_s, committed=emitted - prompts, verified=verified, rounds=rounds, speeds=speeds
    )


def accepted_at(loop: Loop) -> list[float]:
    """Share of the verified drafts that was kept at least up to each position; empty where nothing was drafted."""
    kept = [s.accepted_at for s in loop.steps if s.drafts]
    drafts = sum(s.drafts for s in loop.steps)
    return (np.sum(kept, 0) / drafts).tolist() if kept else []
