"""llama.cpp's server log: a few lines for every request when it ends, of its drafts only where something was drafted."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Final, NamedTuple

import numpy as np

from harness.served.observed import LEFT_OUT, NOTHING, Drafts, Observation, ServedRequest, Settings, pooled
from harness.served.sources.log_parts import alone
from harness.served.text import Text, by_writer
from simulator.errors import InputError
from simulator.numbers import counted

_SLOT: Final = re.compile(r"id\s+(\d+) \| task (\d+) \|\s*(.*)")
_PROMPT: Final = re.compile(r"prompt eval time =\s*([\d.]+) ms /\s*(\d+) tokens")
_OUTPUT: Final = re.compile(r"(?<!prompt )eval time =\s*([\d.]+) ms /\s*(\d+) tokens")
_DRAFTS: Final = re.compile(
    r"draft acceptance(?: rate)? =\s*([\d.]+) \(\s*(\d+) accepted /\s*(\d+) generated\)"
    r"(?:, mean (?:len|acceptance length) =\s*([\d.]+))?"
)
_SUMS: Final = re.compile(r"statistics +([\w+-]+):.*#gen drafts = *(\d+),.*#gen tokens = *(\d+), #acc tokens = *(\d+)")
"""Sums so far of one way to draft, over a slot's requests or, where slots share what drafts, over all of them."""
_HALF: Final = 0.005
"""By how much a mean length may be off as it is written."""
_SURE: Final = 0.1
"""Where that leaves less than this share of the number of drafts open, it is the mean's."""
_MOSTLY: Final = 0.9
"""Share of the requests whose drafts must be whole before a server's are."""
_POSITIONS: Final = re.compile(r"(?:acc per pos|acceptance rate per position) = \(([\d., ]+)\)")
_TYPE: Final = re.compile(r"adding speculative implementation '([\w-]+)'")
_DRAFTER: Final = re.compile(r"loading draft model '([^']+)'")
_MOST: Final = re.compile(r"- n_max=(\d+)")
_MODEL: Final = re.compile(r"\bload_model: loading model '([^']+)'")
_STARTS: Final = re.compile(r"llama_server: initializing|llama_model_loader: loaded meta data")
_FULL: Final = 3
"""Drafts of a request, at least, that are all as long as the longest: so many tokens a draft may have."""
_ENDS: Final = re.compile(r"print_timings?: id ")
_KNOWN: Final = re.compile(_ENDS.pattern + r"|\b(?:llama_server: initializing|llama_model_loader: loaded meta data)")
_SAYS: Final = re.compile(
    r"(?:\d+\.\d\d\.\d{3}\.\d{3} )?(?:\b[A-Z] )?\s*"
    r"(?:slot |prompt eval time|eval time =|draft acceptance|acc per pos|statistics )"
)
"""Where what the server itself writes of a request begins, with its time since the start."""


class LlamaCppLog:
    """See the module."""

    name: ClassVar[str] = "llama.cpp's log"
    counts: ClassVar[str] = (
        r"print_timing|llama_server: initializing|llama_model_loader: loaded meta data|load_model: loading model|eval time ="
        r"|draft acceptance|acc per pos|statistics |\| task \d+ \||loading draft model|adding spec"
        r"|- n_max="
    )

    def recognises(self, text: Text) -> bool:
        """`print_timing` of a slot, or how a server starts."""
        return text.whole is None and _KNOWN.search(text.text) is not None

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """All requests that ended in the logs of a server that drafts, and in those of one that does not. Raises InputError
        for logs of several models."""
        _check_one_model(texts)
        plain = [text for text in texts if _is_plain(text)]
        drafting = [text for text in texts if text not in plain]
        if not plain or not drafting:
            return [_read(texts)]
        one, other = _read(drafting), _read(plain)
        return [replace(one, remarks=(*one.remarks, *_compared(one, other))), other]


def _read(texts: Sequence[Text]) -> Observation:
    methods, most, drafter, told = list[str](), 0, "", list[str]()
    each = [_requests(text) for text in texts]
    for text, found in zip(texts, each, strict=True):
        told += [f"{text.name}: {alone(found.lost)}"] * bool(found.lost)
        methods += [m[1] for line in text.lines if (m := _TYPE.search(line)) and m[1] not in methods]
        drafter = next((m[1] for line in text.lines if (m := _DRAFTER.search(line))), drafter)
        most = max(most, _most(text))
    ways = {sums[1] for text in texts for line in text.lines if (sums := _SUMS.search(line))}
    method = ",".join(methods or sorted(ways))
    if not any(found.requests for found in each) and not any(_ENDS.search(text.text) for text in texts):
        raise InputError(
            f"{texts[-1].name}: is of a server that has not answered a request yet; give what it wrote later, alone or "
            "beside this"
        )
    counts = [one for found in each for one in found.requests if found.shared or one.drafts is not None]
    without = sum(len(found.requests) for found in each) - len(counts)
    if not counts:
        why = f"what became of the drafts of {counted(without, 'request')}" if without else "the end of a request"
        raise InputError(f"{texts[0].name}: does not say {why}: is it from before the server says `mean len`, or cut?")
    drafts = pooled([found.drafts for found in each])
    notes = ["a draft is a step in which something was proposed, counted by its mean length where nobody says", *told]
    if without:
        notes.append(f"{counted(without, 'request')} {LEFT_OUT}: how many drafts they had is not written")
    if any(found.shared for found in each):
        notes.append("slots share what drafts, and its sums are of all requests: they are not told apart")
    served = [one.served() for one in counts if one.drafts is not None]
    gamma = most or max(len(drafts.accepted_at), max((_longest(one.drafts) for one in served), default=_longest(drafts)))
    generated = sum(one.output_tokens for one in counts)
    return Observation(
        source=LlamaCppLog.name, files=tuple(text.name for text in texts),
        settings=Settings(
            engine="llama.cpp", method=method, drafter=drafter, gamma=gamma or None,
            speculates=True if drafts.drafts else None,
        ),
        drafts=drafts, requests=len(counts), generated=generated,
        prompt_tokens=sum(one.prompt_tokens or 0 for one in counts),
        request_steps=sum(one.steps for one in served) if len(served) == len(counts)
        else max(generated - len(counts) - drafts.accepted, drafts.drafts),
        told_apart=tuple(served) if len(served) == len(counts) else (), notes=tuple(notes),
        remarks=() if most or not drafts.drafts or _is_known(gamma, drafts, served, each) else (
            f"no line says how many tokens a draft may have (-lv 4 does): the longest had {gamma} on average, and where it "
            "is to be kept, leave it as it is set",
        ),
    )  # fmt: skip


def _is_known(gamma: int, drafts: Drafts, served: Sequence[ServedRequest], each: Sequence[_Found]) -> bool:
    """Whether drafts show their most: by positions, or all were as long; where no mean tells that, some request's were."""
    if len(drafts.accepted_at) == gamma or all(found.whole for found in each):
        return True
    own = [one.drafts for one in served if one.drafts.drafts >= _FULL and all(found.whole is None for found in each)]
    return any(one.drafted == gamma * one.drafts for one in own)


def _is_plain(text: Text) -> bool:
    """Whether a log from where a server starts, which has answered, has no word of drafts."""
    words = (_DRAFTS, _SUMS, _TYPE, _DRAFTER)
    return all(pattern.search(text.text) for pattern in (_STARTS, _ENDS)) and not any(w.search(text.text) for w in words)


def _check_one_model(texts: Sequence[Text]) -> None:
    """Raise InputError for logs of several models, and for a router's log of them."""
    models = dict.fromkeys(m[1].rpartition("/")[2] for text in texts for m in _MODEL.finditer(text.text))
    if len(models) > 1:
        raise InputError(
            f"{texts[-1].name}: is of model {[*models][-1]}, other lines of {next(iter(models))}: give those of one server"
        )


def _compared(one: Observation, plain: Observation) -> tuple[str, ...]:
    """What requests got with drafts and without, in words: its log times no steps."""
    speeds = [
        [r.output_tokens / r.output_s for r in own.told_apart if r.output_s and r.output_tokens > 1] for own in (one, plain)
    ]  # fmt: skip
    if not all(speeds):
        return ()
    here, there = (float(np.median(own)) for own in speeds)
    return (
        f"a request got {here:.3g} tokens a second with drafts, {there:.3g} without ({here / there - 1:+.0%}; medians of "
        f"{len(speeds[0])} and {len(speeds[1])}; how many ran at a time is not written)",
    )


def _most(text: Text) -> int:
    """Tokens that a draft may have; 0 where the log does not say."""
    return max([0, *(int(m[1]) for line in text.lines if (m := _MOST.search(line)))])


def _longest(drafts: Drafts) -> int:
    return round(drafts.drafted / drafts.drafts + 0.49) if drafts.drafts else 0


def _told(lines: Sequence[str]) -> list[dict[str, str]]:
    """What lines of one server say of each request, by slot and task; a server that was started again begins them anew."""
    told, current = list[dict[str, str]](), dict[tuple[str, str], dict[str, str]]()
    sums, in_all = dict[tuple[str, str], tuple[int, int, int]](), dict[str, tuple[int, int, int]]()
    slot_id, key = "", ("", "")
    for line in lines:
        slot = _SLOT.search(line)
        said = slot[3] if slot else line  # older versions go on in lines of their own
        if slot is not None:
            slot_id = slot[1] if "print_timing" in line else ""  # else it is of something else
            key = (slot[1], slot[2])
        if not slot_id:
            continue
        ended = "output" in current.get(key, ())
        if key not in current or (ended and (_OUTPUT if "prompt" not in current[key] else _PROMPT).search(said)):
            if ended:
                sums = {whose: counts for whose, counts in sums.items() if whose[0] != slot_id}
            current[key] = {}
            told.append(current[key])
        own = current[key]
        for name, pattern in (("prompt", _PROMPT), ("output", _OUTPUT), ("drafts", _DRAFTS), ("at", _POSITIONS)):
            if pattern.search(said) and name not in own:
                own[name] = said
        if (counts := _SUMS.search(line)) is not None:
            now, before = (int(counts[2]), int(counts[3]), int(counts[4])), sums.get((slot_id, counts[1]), (0, 0, 0))
            if any(a < b for a, b in zip(now, before, strict=True)):
                before = (0, 0, 0)
            sums[slot_id, counts[1]] = now
            own["grown"] = f"{own.get('grown', '')} {' '.join(str(a - b) for a, b in zip(now, before, strict=True))}"
            before = in_all.get(counts[1], (0, 0, 0))
            own["in all"] = f"{own.get('in all', '')} {' '.join(str(a - b) for a, b in zip(now, before, strict=True))}"
            in_all[counts[1]] = now
    return told


class _Request(NamedTuple):
    """What a log says of one."""

    prompt_tokens: int | None
    output_tokens: int
    output_s: float
    drafts: Drafts | None
    """None where their number cannot be told."""

    def served(self) -> ServedRequest:
        """One whose drafts are known."""
        assert self.drafts is not None
        return ServedRequest(
            prompt_tokens=self.prompt_tokens, output_tokens=self.output_tokens, drafts=self.drafts, output_s=self.output_s
        )


class _Found(NamedTuple):
    """What a log says of its requests."""

    requests: list[_Request]
    lost: int
    """Lines of nobody."""
    shared: Drafts | None
    """All drafts, where slots share what drafts and those of some requests cannot be told."""
    whole: bool | None
    """Whether all drafts may be as long as the longest, but for a request's last; None where nothing tells."""

    @property
    def drafts(self) -> Drafts:
        """All that are known."""
        return self.shared or pooled([one.drafts for one in self.requests if one.drafts is not None])


def _requests(text: Text) -> _Found:
    """The requests of each server that writes; one that was cut is left out."""
    by, lost = by_writer((line for line in text.lines if _SAYS.search(line)), _SAYS)
    writers = list(by.values())
    if not all(any(map(kind.search, own)) for own in writers for kind in (_PROMPT, _OUTPUT)):
        writers, lost = [text.lines], 0  # what stands before lines is no server's name
    found, size, shared, whole = list[_Request](), _most(text), list[Drafts | None](), list[bool]()
    for lines in writers:
        every, drafted = list[_Request](), 0
        ended = [own for own in _told(lines) if _OUTPUT.search(own.get("output", ""))]
        sizes = _sizes(ended, size)
        whole += [] if sizes.whole is None else [sizes.whole]
        for own in ended:
            output, prompt = _OUTPUT.search(own.get("output", "")), _PROMPT.search(own.get("prompt", ""))
            assert output is not None
            try:
                drafts = _drafts(own, sizes)
            except ValueError as error:
                raise InputError(f"{text.name}: {own['drafts'].strip()}: {error}") from None
            every.append(_Request(int(prompt[2]) if prompt else None, int(output[2]), float(output[1]) / 1e3, drafts))
            drafted += int(line[3]) if (line := _DRAFTS.search(own.get("drafts", ""))) else 0
        found += every
        unknown = any(one.drafts is None for one in every)
        shared.append(_shared(lines, drafted) if unknown else pooled([one.drafts for one in every if one.drafts]))
    told = all(one.drafts is not None for one in found)
    in_all = None if told or None in shared else pooled([one for one in shared if one is not None])
    return _Found(found, lost, in_all, all(whole) if whole else None)


class _Sizes(NamedTuple):
    """How long a server's drafts are."""

    most: int
    """Tokens of the longest, or what they must be at least where nobody says; 0 where nothing does."""
    whole: bool | None
    """Whether all drafts may be that long, but for a request's last; None where no mean of theirs is written."""


def _sizes(told: Sequence[dict[str, str]], size: int) -> _Sizes:
    """By what lines say of requests; `size` is of the server's start, 0 where that is not there.

    No draft is longer than the longest, so there are as many as tokens by that at least: what a written mean leaves open
    tells the longest from below, never one more than it is.
    """
    means = [found for own in told if (found := _of_a_mean(own)) is not None]
    most = size or max((math.ceil(one.drafted / one.most - 1e-9) for one in means if one.most < math.inf), default=0)
    whole = [one.least - 1 <= math.ceil(one.drafted / most) <= one.most for one in means] if most else []
    return _Sizes(most, sum(whole) >= _MOSTLY * len(whole) if whole else None)


class _Mean(NamedTuple):
    """How many drafts a mean of tokens, written to 0.01, leaves open."""

    drafted: int
    least: float
    most: float

    @property
    def is_sure(self) -> bool:
        """Whether it leaves few enough open."""
        return self.most - self.least < 1 + _SURE * self.least


def _of_a_mean(own: dict[str, str]) -> _Mean | None:
    """None where no mean is written, or nothing was accepted, which tells nothing of their number."""
    line = _DRAFTS.search(own.get("drafts", ""))
    if line is None or line[4] is None or not int(line[2]) or not int(line[3]):
        return None
    accepted, more = int(line[2]), float(line[4]) - 1
    return _Mean(int(line[3]), accepted / (more + _HALF), accepted / (more - _HALF) if more > _HALF else math.inf)


def _drafts(own: dict[str, str], sizes: _Sizes) -> Drafts | None:
    """What became of a request's drafts: `NOTHING` without any, None where their number cannot be told."""
    line = _DRAFTS.search(own.get("drafts", ""))
    if line is None:
        return NOTHING
    accepted, drafted = int(line[2]), int(line[3])
    if not drafted:
        return NOTHING
    if (mean := _of_a_mean(own)) is not None:
        number = _number(mean, sizes, own)
    elif not (number := _counted(own, drafted, accepted)):
        if accepted or not sizes.whole:
            return None
        number = float(math.ceil(drafted / sizes.most))
    at = _POSITIONS.search(own.get("at", ""))
    none = () if accepted else (0.0,) * max(1, round(drafted / number))
    counts = tuple(round(float(share) * number) for share in at[1].split(",")) if at else none
    return Drafts(drafts=number, drafted=drafted, accepted=accepted, accepted_at=tuple(map(float, counts)))


def _number(mean: _Mean, sizes: _Sizes, own: dict[str, str]) -> float:
    """Drafts of a request, of those that its mean leaves open: as many as are whole where a server's are, and else as few as
    their size lets where that is much, since most drafts are whole where little is accepted."""
    fewest = math.ceil(mean.drafted / sizes.most) if sizes.most else 1
    if sizes.whole and mean.least - 1 <= fewest <= mean.most:
        return float(max(fewest, math.ceil(mean.least - 1e-9)))  # its last ones may be short, too
    if mean.is_sure:
        return float(max(1, fewest, round(2 / (1 / mean.least + 1 / mean.most))))
    output = _OUTPUT.search(own.get("output", ""))
    most = min(mean.most, float(output[2]) if output else math.inf, mean.drafted)
    return float(max(1, round(min(max(mean.least, mean.drafted / sizes.most if sizes.most else mean.least), most))))


def _counted(own: dict[str, str], drafted: int, accepted: int) -> float:
    """Drafts of a request by what sums grew by, its slot's or all slots', where their tokens are its own; else 0."""
    for whose in ("grown", "in all"):
        counts = [int(word) for word in own.get(whose, "").split()]
        if (sum(counts[1::3]), sum(counts[2::3])) == (drafted, accepted) and min(counts, default=-1) >= 0:
            return float(sum(counts[::3]))
    return 0.0


def _shared(lines: Sequence[str], drafted: int) -> Drafts | None:
    """All drafts of a server whose slots share what drafts: its sums then go on from slot to slot, and hold all that its
    requests drafted; None where each slot has its own."""
    slots, current, last = set[str](), "", dict[str, tuple[int, int, int]]()
    for line in lines:
        if (slot := _SLOT.search(line)) is not None:
            current = slot[1]
        if (counts := _SUMS.search(line)) is None:
            continue
        now = (int(counts[2]), int(counts[3]), int(counts[4]))
        if any(a < b for a, b in zip(now, last.get(counts[1], (0, 0, 0)), strict=True)):
            return None
        last[counts[1]] = now
        slots.add(current)
    number, tokens, accepted = (sum(one[i] for one in last.values()) for i in range(3))
    if len(slots) < 2 or tokens < drafted:
        return None
    return Drafts(drafts=number, drafted=tokens, accepted=accepted)
