"""SGLang's log: every so many decoding steps a line of the load, with the average acceptance since the last one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from harness.served.observed import (
    LEFT_OUT,
    MOST_POSITIONS,
    NOTHING,
    Drafts,
    Interval,
    NothingServed,
    Observation,
    Settings,
    pooled,
)
from harness.served.sources.log_parts import Part, joined, servers, stamp
from harness.served.text import Text
from simulator.errors import InputError
from simulator.numbers import counted

_DECODE: Final = re.compile(r"Decode batch(?: \[\d+\])?[,.] ?#running-req: (\d+),")
_PREFILL: Final = re.compile(r"Prefill batch(?: \[\d+\])?[,.] ?#new-seq: \d+, #new-token: (\d+),.*?#running-req: (\d+)")
"""Tokens of prompts that are computed, and how many requests were being answered then."""
_RATE: Final = re.compile(r"gen throughput \(token/s\): ([\d.]+)")
_LENGTH: Final = re.compile(r"accept len: ([\d.]+)")
_SHARE: Final = re.compile(r"accept rate: ([\d.]+)")
_KV_USED: Final = re.compile(r"token usage: (\d\.\d+)")
_ARGUMENT: Final = r"{name}='?([\w./-]+)"
_STARTED: Final = "server_args=ServerArgs("
_SAYS: Final = re.compile(r"\[\d{4}-\d\d-\d\d[T ][\d:.,]+(?: \w+)*\]|Decode batch|" + re.escape(_STARTED))
"""Where what the server itself writes begins; before it stands what a collector puts there."""
_RANK: Final = re.compile(r"\[\d{4}-\d\d-\d\d[T ][\d:.,]+((?: \w+)*)\]")
_ROUNDING: Final = 0.03
"""What averages and rates of a line are off by, rounded as they are, and over a few requests' last, shorter drafts."""
_CONTRADICT: Final = 5
"""Lines that are of another K than the server was started with, beyond which it changes while it runs."""
_EVERY: Final = 40
"""Decoding steps between two lines, unless the server is told otherwise."""
_OUTSIDE: Final = re.compile(r"\b\w+ graph: False")
"""Steps outside of graphs, as devices call theirs."""
_ALIKE: Final = 1.25
"""Times as many that run in lines that are compared."""
_LONGER: Final = 1.5
"""Times what others with as many took, beyond which a line is of an idle time too where there can have been one:
throughput is over all that passed."""
_FEW: Final = 2
"""Requests that may all end between two lines, so that an idle time follows, where nothing says what was computed."""
_FAR: Final = 20.0
"""Times what others with as many took, beyond which no prompts took it."""
_MORE: Final = 1.5
"""Times what passed that the lines of one rank may speak of: each is of the stretch since the one before."""
_LINES, _SECONDS = 10, 30
"""Lines, and the time in which they were written, that show it."""


class SglangLog:
    """See the module. The accepted length holds the bonus token."""

    name: ClassVar[str] = "SGLang's log"
    counts: ClassVar[str] = f"Decode batch|Prefill batch|{re.escape(_STARTED)}"

    def recognises(self, text: Text) -> bool:
        """A line of a decoding batch."""
        return text.whole is None and any(_DECODE.search(line) for line in text.lines if "Decode batch" in line)

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """An observation a server; see `servers`. Its ranks each write their own lines, of their own requests."""
        logs, notes = servers(texts, re.compile(self.counts), _SAYS, _starts, stamp)
        found = [
            _read(own) for own in logs if len(logs) == 1 or any("Decode batch" in line for p in own for line in p.lines)
        ]
        if not found:
            raise NothingServed(f"{texts[0].name}: nothing was generated in what it holds")
        return [replace(found[0], notes=(*found[0].notes, *notes)), *found[1:]]


def _starts(line: str) -> bool:
    return _STARTED in line


@dataclass(frozen=True)
class _Line:
    """A line of the load: of all steps, and prompts, since the one of its rank before."""

    text: str
    rank: str
    running: float
    """On average of the line before and this one."""
    last: int
    """How many ran when it was written."""
    steady: bool
    """Whether about as many ran at both."""
    tokens_s: float
    tokens: float
    """What a request gets in a step."""
    drafting: bool
    prompts: int
    """Tokens of prompts that were computed in between."""
    kv_used: float | None
    idle_beyond: float
    """Times what others with as many took, beyond which an idle time is in it: 0 where at some moment in between nothing
    ran, infinite where something always did."""

    @property
    def each_s(self) -> float:
        """Seconds of a step, prompts and idle times in between included."""
        return self.running * self.tokens / self.tokens_s


def _loads(lines: Sequence[str]) -> tuple[list[_Line], int]:
    """(the lines that say something, how many were cut)."""
    found, cut, previous = list[_Line](), 0, dict[str, int]()
    prompts, emptied = dict[str, int](), set[str]()
    whole = any("Prefill batch" in line for line in lines)
    for line in lines:
        rank = "" if (own := _RANK.search(line)) is None else own[1]
        if "Prefill batch" in line and (computed := _PREFILL.search(line)):
            prompts[rank] = prompts.get(rank, 0) + int(computed[1])
            emptied |= set() if int(computed[2]) else {rank}
        if "Decode batch" not in line:
            continue
        head, rate, length = _DECODE.search(line), _RATE.search(line), _LENGTH.search(line)
        if head is None or rate is None:
            cut += 1
            continue
        running, tokens_s, tokens = int(head[1]), float(rate[1]), float(length[1]) if length else 1.0
        before = previous.get(rank, 0)
        mean = (before + running) / 2 if before else float(running)
        steady = before > 0 and abs(running - before) <= max(1, (1 - 1 / _ALIKE) * running)
        beyond = _LONGER if min(running, before) <= _FEW else _FAR
        if whole:
            beyond = 0.0 if rank in emptied else np.inf
        if running and tokens_s > 0 and tokens >= 1:
            drafting, used = length is not None, float(known[1]) if (known := _KV_USED.search(line)) else None
            computed_tokens = prompts.pop(rank, 0)
            one = _Line(line, rank, mean, running, steady, tokens_s, tokens, drafting, computed_tokens, used, beyond)
            found.append(one)
            emptied.discard(rank)
        previous[rank] = running
    return found, cut


def _read(parts: Sequence[Part]) -> Observation:
    """Raises InputError."""
    files = tuple(dict.fromkeys(part.file for part in parts))
    lines, restarts = _since_start(joined(parts, _SAYS, stamp))
    settings, every = _settings(files[0], lines)
    loads, cut = _loads(lines)
    if not loads:
        raise NothingServed(f"{files[0]}: nothing was generated in what it holds")
    eager = {i for i, one in enumerate(loads) if _OUTSIDE.search(one.text)}
    rates = [
        (one.tokens, float(share[1])) for one in loads if one.drafting for share in [_SHARE.search(one.text)] if share
    ]  # fmt: skip
    intervals = _at_work(loads, files[0], every)
    drafts = pooled([one.drafts for one in intervals if one.drafts is not None])
    gamma = settings.gamma
    if drafts.drafts and not gamma:
        gamma = drafted_tokens(rates, 0.00501)
    if settings.gamma and sum(not _is_of(settings.gamma, length, rate) for length, rate in rates) >= _CONTRADICT:
        raise k_changes(files[0])
    notes = [f"averages of {every} decoding steps a line, the bonus token included; no positions"]
    intervals = _inside_graphs(intervals, eager, notes)
    if restarts:
        notes.append(f"the server was started {counted(restarts + 1, 'time')}: what came after the last counts")
    if cut:
        notes.append(f"{counted(cut, 'line')} could not be read whole, and {'is' if cut == 1 else 'are'} {LEFT_OUT}")
    known = Settings(engine="SGLang", gamma=gamma, speculates=True if drafts.drafts else None)
    return Observation(
        source=SglangLog.name, files=files, settings=known.beside(settings),
        drafts=drafts if drafts.drafts else NOTHING, intervals=tuple(intervals),
        request_steps=sum(every * one.running for one in intervals), notes=tuple(notes),
    )  # fmt: skip


def _at_work(lines: Sequence[_Line], file: str, every: int) -> list[Interval]:
    """The stretches, each as long as its steps took, and the prompts in between: a line that follows an idle time, or fewer
    requests, is of all that passed since the one before, and times no step. A server that answers is not idle, however long
    a prompt takes. Raises InputError where lines of one rank speak of more than passed."""
    loads, each = np.array([one.running for one in lines]), np.array([one.each_s for one in lines])
    busy = np.array([one.idle_beyond > 0 for one in lines])
    alike = [(loads <= _ALIKE * n) & (loads >= n / _ALIKE) for n in loads]
    usual = np.array([np.median(each[own & busy if (own & busy).any() else own]) for own in alike])
    ranks: dict[str, list[int]] = {}
    for i, line in enumerate(lines):
        ranks.setdefault(line.rank, []).append(i)
    idle = {i for i, one in enumerate(lines) if each[i] > one.idle_beyond * usual[i]}
    texts = [one.text for one in lines]
    spoken = [every * each, every * each * [one.last / one.running for one in lines]]
    for own in ranks.values():
        _check_one_server(texts, own, idle, spoken, f"{file}: lines of {every} decoding steps")
    timed = [one.steady and i not in idle for i, one in enumerate(lines)]
    took_s = np.where(timed, each, np.minimum(usual, each))
    return [_interval(one, every, float(s), steady=t) for one, s, t in zip(lines, took_s, timed, strict=True)]


def _check_one_server(
    lines: Sequence[str], own: Sequence[int], idle: Set[int], spoken_s: Sequence[npt.NDArray[np.float64]], what: str
) -> None:
    """Raise InputError where lines of one rank speak of more time than passed: several servers wrote them.

    `spoken_s` is of each line, by as many as ran on average of it and the one before, and by as many as ran at last: where
    the load jumps, nobody knows when.
    """
    at = [(i, found) for i in own if (found := stamp(lines[i])) is not None]
    if len(at) < _LINES:
        return
    gaps = [(i, (now - before).total_seconds()) for (_, before), (i, now) in itertools.pairwise(at) if i not in idle]
    passed, spoken = sum(gap for _, gap in gaps), min(sum(float(one[i]) for i, _ in gaps) for one in spoken_s)
    if len(gaps) + 1 >= _LINES and passed >= _SECONDS and spoken > _MORE * passed:
        raise InputError(
            f"{what} speak of {spoken:.0f} s, and {passed:.0f} s passed: of several servers, or of one with another "
            "--decode-log-interval; give each its own file, from where it starts"
        )


def _interval(line: _Line, every: int, each_s: float, *, steady: bool) -> Interval:
    """So many steps of so many seconds, each of which gave every request `tokens`."""
    steps, seconds = every * line.running, every * each_s
    drafts = Drafts(drafts=steps, drafted=0, accepted=steps * (line.tokens - 1)) if line.drafting else None
    return Interval(
        seconds=seconds, running=line.running, steady=steady, generated_tok_s=steps * line.tokens / seconds,
        prompt_tok_s=line.prompts / seconds, kv_used=line.kv_used, drafts=drafts, plain=not line.drafting,
        step_s=each_s if steady else None,
    )  # fmt: skip


def _inside_graphs(intervals: list[Interval], eager: set[int], notes: list[str]) -> list[Interval]:
    """The stretches, of which those outside of CUDA graphs time no step where others are inside: no curve has both."""
    if not 0 < len(eager) < len(intervals):
        return intervals
    least = min([intervals[i].running for i in eager if intervals[i].steady] or [intervals[i].running for i in eager])
    notes.append(
        f"{counted(len(eager), 'line')} of steps outside of CUDA graphs, from {least:.0f} running on, {LEFT_OUT} of what "
        "steps take: there every K costs more than is told"
    )
    return [replace(one, steady=False, step_s=None) if i in eager else one for i, one in enumerate(intervals)]


def _since_start(lines: list[str]) -> tuple[list[str], int]:
    """(lines that count since the server was last started and served, how often it was before)."""
    starts = [
        i for i, line in enumerate(lines) if _STARTED in line and i + 1 < len(lines) and _STARTED not in lines[i + 1]
    ]  # fmt: skip
    return (lines[starts[-1] :], len(starts) - 1) if len(starts) > 1 else (lines, 0)


def drafted_tokens(seen: Sequence[tuple[float, float]], rounded: float, kinds: Sequence[int] = (0, 1)) -> int | None:
    """K from accepted lengths L and rates, each off by at most `rounded`; None where it does not follow.

    What a rate is of has changed: (L - 1) / K of drafted tokens, kind 0, or L / (K + 1) with anchor and bonus token on both
    sides, kind 1.
    """
    some = [(length, rate) for length, rate in seen if length > 1 and rate > 0]
    found = {
        k
        for k in range(1, MOST_POSITIONS + 1)
        for held in kinds
        if all(abs(length - 1 + held - (k + held) * rate) <= rounded * (1 + k + held) for length, rate in some)
    }
    return next(iter(found)) if some and len(found) == 1 else None


def _is_of(gamma: int, length: float, rate: float) -> bool:
    """Whether a line's average and rate are of K, as either version has the rate; see `drafted_tokens`."""
    return any(abs(length - 1 + held - (gamma + held) * rate) <= _ROUNDING * (1 + gamma + held) for held in (0, 1))


def k_changes(file: str) -> InputError:
    """What to say of a server whose number of steps moves with acceptance: one K can give 5 tokens a draft, another 2."""
    return InputError(
        f"{file}: K changes while it runs (speculative_adaptive), and nothing says what was drafted at which K: give what a "
        "server writes that runs without it"
    )


def _settings(file: str, lines: Sequence[str]) -> tuple[Settings, int]:
    """What the server was started with, as far as it is there; and steps between two lines.

    Raises InputError for drafts that are trees, or of lengths that change.
    """
    line = next((line for line in lines if _STARTED in line), "")

    def told(name: str) -> str:
        match = re.search(r"\b" + _ARGUMENT.format(name=name), line)
        return "" if match is None or match[1] == "None" else match[1]

    tokens, top = told("speculative_num_draft_tokens"), told("speculative_eagle_topk")
    if top.isdigit() and int(top) > 1:
        raise InputError(f"{file}: drafts are trees (speculative_eagle_topk {top}), and chains are what is read here")
    if told("speculative_algorithm") and told("speculative_adaptive") == "True":
        raise k_changes(file)
    every = told("decode_log_interval")
    return Settings(
        engine="SGLang", model=told("served_model_name") or told("model_path"), method=told("speculative_algorithm").upper(),
        drafter=told("speculative_draft_model_path"),
        gamma=int(tokens) - 1 if tokens.isdigit() and int(tokens) > 1 else None,
    ), int(every) if every.isdigit() and int(every) else _EVERY  # fmt: skip
