"""vLLM's log: every ten seconds a line of the load and, where something was drafted since, a line of acceptance."""

from __future__ import annotations

import itertools
import re
import statistics
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import ClassVar, Final

from harness.served.observed import CHANGED, LEFT_OUT, NOTHING, Drafts, Interval, Observation, Settings, pooled
from harness.served.sources.log_parts import Part, joined, servers, stamp
from harness.served.sources.vllm_start import UNKNOWN, last_server, starts
from harness.served.text import Text
from simulator.errors import InputError
from simulator.numbers import counted

_NUMBER = r"(-?[\d.]+(?:e[-+]?\d+)?|nan|inf)"
_LOAD: Final = re.compile(
    rf"(?:Engine (\d+)|(\d+) Engines Aggregated)?:?\s*Avg prompt throughput: {_NUMBER} tokens/s, .*?"
    rf"Avg generation throughput: {_NUMBER} tokens/s, Running: (\d+) reqs?, .*?Waiting: (\d+) reqs?"
)
_CACHED: Final = re.compile(r"Prefix cache hit rate: ([\d.]+)%")
_SPEC: Final = re.compile(r"SpecDecoding metrics: (.*)")
_LENGTH: Final = re.compile(rf"Mean acceptance length: {_NUMBER}")
_KV_SIZE: Final = re.compile(r"KV cache size: ([\d,]+) tokens")
_KV_USED: Final = re.compile(r"KV cache usage: (\d+(?:\.\d+)?)%")
_NEWER: Final = re.compile(r"acceptance length|Per-position")
_COUNTS: Final = re.compile(r"Accepted: (\d+) tokens, Drafted: (\d+) tokens")
_POSITIONS: Final = re.compile(r"Per-position acceptance rate: ([\d., ]*\d)(?=, [A-Z]|[\s\"]*$)")
_SAYS: Final = re.compile(
    r"\((?:API|Engine|Api)\w*(?: pid=\d+)?\)|\b(?:DEBUG|INFO|WARNING|ERROR)\b|Engine \d{3}"
    r"|\d{1,5} Engines|SpecDecoding metrics"
)
"""Where what the server itself writes begins; before it stands what a collector puts there."""
_PID: Final = re.compile(r"\(\w+ pid=(\d+)\)")
EVERY_S: Final = 10.0
_AGAIN: Final = 5
"""Lines of one K after which another is a change back, and not another server's line."""
_NEAR: Final = 4
"""Lines after which a logger's copy stands at most."""
_TURNS: Final = 8
"""Gaps that tell whether two servers take turns."""
_V0: Final = "Speculative metrics: "
"""How the line of drafts begins of the engine before this one."""
_APART_S: Final = 2.0
"""By which the two differ at least: stamps are of whole seconds."""
_MOSTLY: Final = 0.9
"""Share of the gaps that are one of the two."""
_GAP: Final = 1.7
"""Stretches that are so many times as long as usual hold some of which nothing was written."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One line that counts."""

    at: datetime | None
    engine: str
    prompt_tok_s: float
    """One engine's, as the three that follow."""
    generated_tok_s: float
    running: float
    waiting: float
    drafts: Drafts | None
    """All its engines'."""
    engines: int = 1
    """How many engines the line is of."""
    cached: float | None = None
    kv_used: float | None = None


class VllmLog:
    """See the module."""

    name: ClassVar[str] = "vLLM's log"
    counts: ClassVar[str] = (
        "Avg generation throughput: |SpecDecoding metrics: |Speculative metrics: |non-default args: |V1 LLM engine "
        "|KV cache size: "
    )

    def recognises(self, text: Text) -> bool:
        """A line of load or of acceptance, or how a server starts."""
        known = ("Avg generation throughput: ", "SpecDecoding metrics: ", "non-default args: {", "a V1 LLM engine (v", _V0)
        return text.whole is None and any(one in text.text for one in known)

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """An observation a server; see `servers`. Of servers that generated nothing, only how one was set, and only where no
        other did."""
        counts = re.compile(self.counts)
        apart = _baselines(texts)
        logs, notes = servers([text for text in texts if text not in apart], counts, _SAYS, starts, stamp)
        if apart:
            more, said = servers(apart, counts, _SAYS, starts, stamp)
            logs, notes = [*logs, *more], [*notes, *said]
        found = [_read(own) for own in logs]
        known = [one for one in found if one.drafts is not None] or [one for one in found if one.settings != UNKNOWN][-1:]
        if not known:
            raise InputError(f"{texts[0].name}: {'; '.join(dict.fromkeys(note for one in found for note in one.notes))}")
        return [replace(known[0], notes=(*known[0].notes, *notes)), *known[1:]]


def _baselines(texts: Sequence[Text]) -> list[Text]:
    """Logs without a draft beside one that drafts. They are of another server where their start says no speculation; without
    their start where such a one is among them, or where their loads are such at which the other drafts: no hours in which
    that was switched off by its load."""
    drafting = [text for text in texts if "SpecDecoding metrics: " in text.text]
    plain = [text for text in texts if text not in drafting] if drafting else []
    begins = {text.name: any(map(starts, text.lines)) for text in plain}
    known = [text for text in plain if begins[text.name] and last_server(text.lines, [])[1].speculates is False]
    loads = [load for text in drafting for load in _loads(text, drafts=True)]

    def is_other(text: Text) -> bool:
        own = _loads(text)
        return bool(own and (known or (loads and min(loads) <= statistics.median(own) <= max(loads))))

    return [text for text in plain if text in known or (not begins[text.name] and is_other(text))]


def _loads(text: Text, *, drafts: bool = False) -> list[int]:
    """What ran by its lines of load; by those alone that a line of acceptance follows."""
    found = list[int]()
    pairs = itertools.zip_longest(text.lines, text.lines[1:], fillvalue="")
    for line, following in pairs:
        load = _LOAD.search(line)
        if load and int(load[5]) and (not drafts or "SpecDecoding metrics: " in following):
            found.append(int(load[5]))
    return found


def _read(parts: Sequence[Part]) -> Observation:
    """Without drafts where nothing was generated."""
    files, notes = tuple(dict.fromkeys(part.file for part in parts)), list[str]()
    lines, settings = last_server(_once(joined(parts, _SAYS, stamp), notes), notes)
    _check_one_server(lines, files[0])
    _check_new_enough(lines, files[0], settings.gamma)
    every = list(_lines(lines, files[0], settings.gamma, notes))
    _check_started_so(every, settings, files)
    found, drafts, gamma = _of_one_k(every, files[0], notes)
    if not any(one.generated_tok_s or one.drafts for one in found):
        silent = (
            "nothing was generated in what it holds" if any(map(_LOAD.search, lines)) else
            "holds no line of load: several API servers write none, nor does one with --disable-log-stats: give two scrapes "
            "of /metrics"
        )  # fmt: skip
        return Observation(source=VllmLog.name, files=files, settings=settings, notes=(silent, *notes))
    size = next((told[1] for line in lines if (told := _KV_SIZE.search(line))), "").replace(",", "")
    whole = _observation(files, settings, drafts, gamma, _intervals(found, notes), notes)
    return replace(whole, context_capacity=int(size or 0) or None)


def _once(lines: Sequence[str], notes: list[str]) -> list[str]:
    """The lines without those that another logger wrote again right after: they say the same, at the same time or without
    one. Ten seconds later a server says it anew, and of another engine after a line of its load."""
    kept, before = list[str](), deque[tuple[int, str, datetime | None]](maxlen=_NEAR)
    for i, line in enumerate(lines):
        load = _LOAD.search(line) if "Avg generation throughput: " in line else None
        found = load or (_SPEC.search(line) if "SpecDecoding" in line else None)
        if found is None:
            kept.append(line)
            continue
        said, at = line[found.start() :].rstrip(), stamp(line)
        if any(
            said == one and i - last <= _NEAR and (at, then) != (None, None) and (at is None or at in (then, None))
            for last, one, then in before
        ):
            continue
        if load:
            before = deque((one for one in before if _LOAD.match(one[1])), _NEAR)
        before.append((i, said, at))
        kept.append(line)
    if again := len(lines) - len(kept):
        notes.append(f"{counted(again, 'line')} that another logger wrote again {'is' if again == 1 else 'are'} {LEFT_OUT}")
    return kept


def _check_one_server(lines: Sequence[str], file: str) -> None:
    """Raise InputError where processes of two servers write side by side, or of one whose lines were not told apart."""
    pids = [pid[1] for line in lines if _LOAD.search(line) and (pid := _PID.search(line))]
    changes = sum(a != b for a, b in itertools.pairwise(pids))
    if changes >= max(len(set(pids)), 1):
        raise InputError(
            f"{file}: {len(set(pids))} processes write their loads in turns ({', '.join(sorted(set(pids)))}): logs of "
            "several servers; give each its own file"
        )
    by_engine = dict[str, list[datetime]]()
    for line in lines:
        if (load := _LOAD.search(line)) and (at := stamp(line)):
            by_engine.setdefault(load[1] or "", []).append(at)
    for times in by_engine.values():
        gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(times)]
        if len(gaps) >= _TURNS and (turns := _in_turns(gaps)) is not None:
            raise InputError(
                f"{file}: lines of load stand {turns[0]:.0f} and {turns[1]:.0f} s apart in turns: logs of two servers "
                "without their names; give each its own file"
            )


def _in_turns(gaps: Sequence[float]) -> tuple[float, float] | None:
    """Two lengths that take turns, as where two servers write as often, one a while after the other; None where none do."""
    ends = [statistics.median(gaps[i::2]) for i in (0, 1)]
    near = sum(abs(gap - ends[i % 2]) <= 1 for i, gap in enumerate(gaps))
    differ = min(ends) >= 1 and abs(ends[0] - ends[1]) >= _APART_S
    return (ends[0], ends[1]) if differ and near >= _MOSTLY * len(gaps) else None


def _check_new_enough(lines: Sequence[str], file: str, gamma: int | None) -> None:
    """Raise InputError for lines of versions that do not say what is needed."""
    old = any(("throughput: " in line and "Pending: " in line) or _V0 in line for line in lines)
    if old and not any(map(_LOAD.search, lines)):
        raise InputError(
            f"{file}: is a log of vLLM's V0 engine, whose lines are not read: it was removed in vLLM 0.11; serve with a "
            "later one"
        )
    acceptance = [told[1] for line in lines if (told := _SPEC.search(line))]
    if gamma is None and any(_COUNTS.search(told) and not _NEWER.search(told) for told in acceptance):
        raise InputError(
            f"{file}: its lines of acceptance say neither a mean length nor positions, as before vLLM 0.9.1, and no line "
            "says how many tokens a draft has: give the log from where the server starts"
        )


def _lines(lines: Sequence[str], file: str, gamma: int | None, notes: list[str]) -> Iterator[_Line]:
    """Each line of load with the line of acceptance that belongs to it: the engine writes it right after."""
    cut, old, together = 0, False, 1
    labelled = any((one := _LOAD.search(line)) and (one[1] or one[2]) for line in lines)
    loads, drafts = list[_Line](), list[tuple[datetime | None, Drafts | None]]()
    for line in lines:
        before, load, _ = line.partition("Avg generation throughput: ")
        if load:
            if "SpecDecoding metrics: " in before:  # was cut without an end, and another file's first line follows it
                cut, loads = cut + 1, loads[:-1]
            now = _load(line, labelled=labelled)
            if drafts or now is None or not (loads and loads[-1].at and loads[-1].at == now.at):
                yield from _paired(loads, drafts)
                loads, drafts = [], []
            loads += [now] if now else []
            cut += now is None
            together = max(together, now.engines if now else 1)
        elif "SpecDecoding metrics: " in line:
            drafts.append((stamp(line), found := _drafts(line, file, gamma)))
            cut += found is None  # something was drafted, and nobody knows what
            old = old or (found is not None and not found.accepted_at)
    yield from _paired(loads if drafts or not _ends_between(lines) else loads[:-1], drafts)
    if together > 1:
        notes.append(
            f"lines are of {together} engines together: what ran, what waited and throughputs are divided by that, as a "
            "step is of one engine's requests"
        )
    if old:
        notes.append(
            f"lines of an older vLLM say no positions: there are as many drafts as {gamma} goes into drafted tokens"
        )
    if cut:
        notes.append(
            f"{counted(cut, 'line')} of metrics could not be read whole, and {'is' if cut == 1 else 'are'} {LEFT_OUT}"
        )


def _ends_between(lines: Sequence[str]) -> bool:
    """Whether a log of drafts was copied after a line of load and before the line of acceptance that would follow it."""
    said = [line for line in lines[-2:] if line.strip()]
    last = next((i for i, line in enumerate(reversed(said)) if "Avg generation throughput: " in line), None)
    return last is not None and any("SpecDecoding metrics: " in line for line in lines)


def _paired(loads: Sequence[_Line], drafts: Sequence[tuple[datetime | None, Drafts | None]]) -> Iterator[_Line]:
    """Lines of load of one time with the lines of acceptance that follow them. An engine writes the two one after the other;
    where lines were sorted by time there is one of each for every engine, or nobody knows whose they are."""
    each = len(loads) == len(drafts)
    if not each and len(drafts) > 1 and len(loads) > 1:
        loads = []
    first = 0 if each else max(len(loads) - 1, 0)
    yield from loads[:first]
    for i, (at, own) in enumerate(drafts):
        load = loads[first + i] if first + i < len(loads) else None
        if own is not None:
            yield _Line(at, "", 0.0, 0.0, 0, 0, own) if load is None else replace(load, drafts=own)
    yield from loads[first + len(drafts) :]


def _load(line: str, *, labelled: bool) -> _Line | None:
    """A line of load; None where it was cut: at its beginning, if it says no engine and others do."""
    load = _LOAD.search(line)
    if load is None or (labelled and not (load[1] or load[2])):
        return None
    engines = max(int(load[2] or 1), 1)
    prompt, generated = (float(load[i]) / engines for i in (3, 4))
    if not all(0 <= rate < float("inf") for rate in (prompt, generated)):
        return None
    engine = load[1] or ("all" if load[2] else "0")
    cached = float(found[1]) / 100 if (found := _CACHED.search(line)) else None
    kv_used = float(found[1]) / 100 if (found := _KV_USED.search(line)) else None
    running, waiting = int(load[5]) / engines, int(load[6]) / engines
    return _Line(stamp(line), engine, prompt, generated, running, waiting, None, engines, cached, kv_used)


def _drafts(line: str, file: str, gamma: int | None) -> Drafts | None:
    """A line of acceptance, in counts; None where it was cut. Raises InputError for what cannot be right."""
    told = _SPEC.search(line)
    length, counts, at = (pattern.search(told[1]) if told else None for pattern in (_LENGTH, _COUNTS, _POSITIONS))
    if told and counts is not None and gamma and not _NEWER.search(told[1]):
        drafted = int(counts[2])
        return Drafts(drafts=round(drafted / gamma), drafted=drafted, accepted=int(counts[1])) if drafted >= gamma else None
    if length is None or counts is None or at is None:
        return None
    ends = told is not None and not told[1].startswith(", ", at.end())
    try:
        rates = [float(word) for word in at[1].split(",")]
        accepted, drafted = int(counts[1]), int(counts[2])
        if ends and told and ("throughput: " in told[1] or _is_cut(rates, float(length[1]), accepted, drafted, gamma)):
            return None
        drafts = _rounds(accepted, drafted, float(length[1]), rates)
        return None if drafts is None else Drafts(
            drafts=drafts, drafted=drafted, accepted=accepted, accepted_at=_counts_at(rates, drafts, accepted)
        )  # fmt: skip
    except ValueError as error:
        if ends:
            return None
        raise InputError(f"{file}: {line.strip()[:100]}…: {error}") from None


def _is_cut(rates: Sequence[float], length: float, accepted: int, drafted: int, gamma: int | None) -> bool:
    """Whether shares with which a line ends, as it does in the oldest versions alone, are not all of them: there are not K,
    they do not add up to the mean length, or drafts of so few tokens would not be as many."""
    if gamma and len(rates) != gamma:
        return True
    low = length - 1 - 0.006
    return abs(sum(rates) - (length - 1)) > 0.006 + 0.0006 * len(rates) or drafted * low > len(rates) * accepted


def _rounds(accepted: int, drafted: int, length: float, rates: Sequence[float]) -> float | None:
    """How many drafts a line is of, which it does not say: drafted over K where every draft had K tokens, and that is so
    where it agrees with the mean length; else by the length, and finer by the sum of the rates."""
    full = drafted / len(rates)
    if not accepted:
        return float(round(full)) if drafted else None
    if not 1 <= length <= len(rates) + 1.005 or (full * 0.006 < accepted and length == 1):
        raise ValueError(f"a mean length of {length:g} with {accepted} accepted tokens and {len(rates)} positions")
    low, high = accepted / (length - 1 + 0.006), accepted / max(length - 1 - 0.006, 1e-9)
    if full == round(full) and low - 0.5 <= full <= high + 0.5:
        return full
    by_rates = accepted / sum(rates) if sum(rates) else full
    return float(round(min(max(by_rates, low), high)))


def _counts_at(rates: Sequence[float], drafts: float, accepted: int) -> tuple[float, ...]:
    """Whole counts by position, where rounding gives back the sum."""
    counts = [float(round(rate * drafts)) for rate in rates]
    if sum(counts) != accepted:
        counts = [rate * drafts for rate in rates]
    return tuple(min(counts[: k + 1]) for k in range(len(counts)))


def _check_started_so(found: Sequence[_Line], settings: Settings, files: Sequence[str]) -> None:
    """Raise InputError for lines of another K than that with which the server was started, or of drafts where it was started
    with none: another one's, whose start is not in the files, and nothing that is said of the first is so of it."""
    drafting, gamma = sum(one.drafts is not None for one in found), settings.gamma
    if drafting and settings.speculates is False:
        raise InputError(
            f"{', '.join(files)}: the server was started without speculation, and {counted(drafting, 'line')} of drafts "
            "came after: logs of two servers; give each its own file"
        )
    sizes = Counter(len(one.drafts.accepted_at) for one in found if one.drafts is not None and one.drafts.accepted_at)
    if gamma and (others := {k: n for k, n in sizes.items() if k != gamma}):
        told = ", ".join(f"{counted(n, 'line')} of K = {k}" for k, n in others.items())
        raise InputError(
            f"{', '.join(files)}: the server was started with K = {gamma}, and {told} came after: logs of two servers; give "
            "each by itself"
        )


def _of_one_k(found: Sequence[_Line], file: str, notes: list[str]) -> tuple[Sequence[_Line], Drafts, int | None]:
    """(lines, all their drafts, K): those since K was last changed. Raises InputError where lines of several alternate."""
    some = [one.drafts for one in found if one.drafts is not None]
    if not some:
        return found, NOTHING, None
    sizes = [len(one.accepted_at) for one in some]
    if len(set(sizes)) == 1:
        return found, pooled(some), sizes[0] or None
    stretches = [len(list(own)) for _, own in itertools.groupby(sizes)]
    told = ", ".join(f"K = {k} in {counted(n, 'line')}" for k, n in Counter(sizes).most_common())
    if len(stretches) > len(set(sizes)) and statistics.median(stretches) < _AGAIN:
        raise InputError(f"{file}: lines of several K alternate ({told}): logs of two servers; give each its own file")
    notes.append(f"{CHANGED} ({told}): what it was last counts")
    others = [i for i, one in enumerate(found) if one.drafts is not None and len(one.drafts.accepted_at) != sizes[-1]]
    since = found[others[-1] + 1 :]
    return since, pooled([one.drafts for one in since if one.drafts is not None]), sizes[-1]


def _intervals(found: Sequence[_Line], notes: list[str]) -> list[Interval]:
    """Stretches that end at an engine's lines. An idle engine writes none, and yet begins each stretch anew: after a gap a
    stretch is as long as the others are."""
    intervals, before = list[Interval](), dict[str, _Line]()
    pairs = list[tuple[_Line | None, _Line]]()
    for one in found:
        if one.engine:
            pairs.append((before.get(one.engine), one))
            before[one.engine] = one
    gaps = [gap for last, one in pairs if (gap := _passed(last, one)) is not None]
    usual = statistics.median(gaps) if gaps else EVERY_S
    if not gaps and pairs:
        notes.append(f"lines without a time are taken to be {EVERY_S:.0f} s apart, as vLLM writes them")
    for last, one in pairs:
        gap = _passed(last, one)
        joined = last is not None and (gap is None or gap <= _GAP * usual)
        seconds = (usual if gap is None or not joined else gap) * one.engines  # so many of each of them
        start = last.running if joined and last is not None else 0
        running = (start + one.running) / 2
        steady = start > 0 and one.running > 0 and abs(one.running - start) <= max(1, 0.25 * running)
        intervals.append(
            Interval(
                seconds=seconds, running=running, steady=steady, waiting=one.waiting,
                generated_tok_s=one.generated_tok_s, prompt_tok_s=one.prompt_tok_s, drafts=one.drafts,
                cached=one.cached, kv_used=one.kv_used, plain=one.drafts is None,
            )
        )  # fmt: skip
    return intervals


def _passed(last: _Line | None, one: _Line) -> float | None:
    """Seconds between two lines; None where they have no times."""
    if last is None or one.at is None or last.at is None:
        return None
    passed = one.at - last.at
    if passed < timedelta(0):  # the year has changed
        passed += timedelta(days=366)
    return passed.total_seconds() or None


def _observation(
    files: tuple[str, ...], settings: Settings, drafts: Drafts, gamma: int | None, intervals: Sequence[Interval],
    notes: Sequence[str],
) -> Observation:  # fmt: skip
    generated = sum(one.generated for one in intervals)
    told = [*notes, "a line of acceptance is written only where something was drafted since the last one"]
    return Observation(
        source=VllmLog.name, files=files,
        settings=Settings(gamma=gamma, speculates=True if drafts.drafts else None).beside(settings),
        drafts=drafts, generated=generated or None, prompt_tokens=sum(one.prompt_tok_s * one.seconds for one in intervals),
        request_steps=max(generated - drafts.accepted, drafts.drafts) or None if intervals else None,
        intervals=tuple(intervals), notes=tuple(told),
    )  # fmt: skip
