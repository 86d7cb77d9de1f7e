"""SGLang's log: every so many decoding steps a line of the load, with the average acceptance since the last one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import ClassVar, Final

import numpy as np

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
_RATE: Final = re.compile(r"gen throughput \(token/s\): ([\d.]+)")
_LENGTH: Final = re.compile(r"accept len: ([\d.]+)")
_SHARE: Final = re.compile(r"accept rate: ([\d.]+)")
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
"""Times what others with as many took, beyond which a line is of an idle time too: throughput is over all that passed."""
_MORE: Final = 1.5
"""Times what passed that the lines of one rank may speak of: each is of the stretch since the one before."""
_LINES, _SECONDS = 10, 30
"""Lines, and the time in which they were written, that show it."""


class SglangLog:
    """See the module. The accepted length holds the bonus token."""

    name: ClassVar[str] = "SGLang's log"
    counts: ClassVar[str] = f"Decode batch|{re.escape(_STARTED)}"

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


def _read(parts: Sequence[Part]) -> Observation:
    """Raises InputError."""
    files = tuple(dict.fromkeys(part.file for part in parts))
    lines, restarts = _since_start(joined(parts, _SAYS, stamp))
    settings, every = _settings(files[0], lines)
    intervals, cut, told = list[Interval](), 0, list[str]()
    rates, eager = list[tuple[float, float]](), list[int]()
    for line in (line for line in lines if "Decode batch" in line):
        head, rate, length = _DECODE.search(line), _RATE.search(line), _LENGTH.search(line)
        if head is None or rate is None:
            cut += 1
            continue
        running, tokens_s, tokens = int(head[1]), float(rate[1]), float(length[1]) if length else 1.0
        if running and tokens_s > 0 and tokens >= 1:
            intervals.append(_interval(running, tokens_s, tokens, every, drafting=length is not None))
            eager += [len(intervals) - 1] * bool(_OUTSIDE.search(line))
            told.append(line)
            rates += [(tokens, float(share[1])) for share in [_SHARE.search(line)] if share and length]
    if not intervals:
        raise NothingServed(f"{files[0]}: nothing was generated in what it holds")
    intervals = _at_work(intervals, told, files[0], every)
    drafts = pooled([one.drafts for one in intervals if one.drafts is not None])
    gamma = settings.gamma
    if drafts.drafts and not gamma:
        gamma = drafted_tokens(rates, 0.00501)
    if settings.gamma and sum(not _is_of(settings.gamma, length, rate) for length, rate in rates) >= _CONTRADICT:
        raise k_changes(files[0])
    notes = [f"averages of {every} decoding steps a line, the bonus token included; no positions"]
    intervals = _inside_graphs(intervals, set(eager), notes)
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


def _at_work(intervals: list[Interval], lines: Sequence[str], file: str, every: int) -> list[Interval]:
    """The stretches, each as long as its steps took: a line that follows an idle time, or fewer requests, is of all that
    passed since the one before, and times no step. Raises InputError where lines of one rank speak of more than passed."""
    loads, each = np.array([one.running for one in intervals]), np.array([one.step_s or 0.0 for one in intervals])
    usual = np.array([np.median(each[(loads <= _ALIKE * n) & (loads >= n / _ALIKE)]) for n in loads])
    ranks: dict[str, list[int]] = {}
    for i, line in enumerate(lines):
        rank = _RANK.search(line)
        ranks.setdefault("" if rank is None else rank[1], []).append(i)
    found = list(intervals)
    idle = set[int]()
    for own in ranks.values():
        for before, i in zip([None, *own], own, strict=False):
            if each[i] > _LONGER * usual[i] or before is None:
                idle.add(i)
            if i in idle or (before is not None and abs(loads[i] - loads[before]) > max(1, (1 - 1 / _ALIKE) * loads[i])):
                found[i] = replace(found[i], seconds=every * float(min(usual[i], each[i])), steady=False, step_s=None)
        _check_one_server(lines, own, idle, {i: every * each[i] for i in own}, f"{file}: lines of {every} decoding steps")
    return found


def _check_one_server(
    lines: Sequence[str], own: Sequence[int], idle: Set[int], spoken_s: Mapping[int, float], what: str
) -> None:
    """Raise InputError where lines of one rank speak of more time than passed: several servers wrote them."""
    at = [(i, found) for i in own if (found := stamp(lines[i])) is not None]
    if len(at) < _LINES:
        return
    gaps = [(i, (now - before).total_seconds()) for (_, before), (i, now) in itertools.pairwise(at) if i not in idle]
    passed, spoken = sum(gap for _, gap in gaps), sum(spoken_s[i] for i, _ in gaps)
    if len(gaps) + 1 >= _LINES and passed >= _SECONDS and spoken > _MORE * passed:
        raise InputError(
            f"{what} speak of {spoken:.0f} s, and {passed:.0f} s passed: of several servers, or of one with another "
            "--decode-log-interval; give each its own file, from where it starts"
        )


def _interval(running: int, tokens_s: float, tokens: float, every: int, *, drafting: bool) -> Interval:
    """So many steps of so many requests, each of which gave `tokens`."""
    steps, each_s = every * running, running * tokens / tokens_s
    drafts = Drafts(drafts=steps, drafted=0, accepted=steps * (tokens - 1)) if drafting else None
    return Interval(
        seconds=every * each_s, running=running, steady=True, generated_tok_s=tokens_s, drafts=drafts, plain=not drafting,
        step_s=each_s,
    )  # fmt: skip


def _inside_graphs(intervals: list[Interval], eager: set[int], notes: list[str]) -> list[Interval]:
    """The stretches, of which those outside of CUDA graphs time no step where others are inside: no curve has both."""
    if not 0 < len(eager) < len(intervals):
        return intervals
    least = min(intervals[i].running for i in eager)
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
