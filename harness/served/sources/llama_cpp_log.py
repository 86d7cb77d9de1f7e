"""llama.cpp's server log: a few lines for every request when it ends, of its drafts only where something was drafted."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import ClassVar, Final

from harness.served.observed import NOTHING, Drafts, Observation, ServedRequest, Settings, pooled
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
"""Sums over a slot's requests so far, of one way to draft."""
_HALF: Final = 0.005
"""By how much a mean length may be off as it is written."""
_SURE: Final = 0.1
"""Where that leaves less than this share of the number of drafts open, it is the mean's."""
_POSITIONS: Final = re.compile(r"acc per pos = \(([\d., ]+)\)")
_TYPE: Final = re.compile(r"adding speculative implementation '([\w-]+)'")
_DRAFTER: Final = re.compile(r"loading draft model '([^']+)'")
_MOST: Final = re.compile(r"- n_max=(\d+)")
_MODEL: Final = re.compile(r"general\.name(?:\s+str)?\s+=\s+(.+)")
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
        r"print_timing|llama_server: initializing|eval time ="
        r"|draft acceptance|acc per pos|statistics |\| task \d+ \||loading draft model|adding spec"
        r"|- n_max="
    )

    def recognises(self, text: Text) -> bool:
        """`print_timing` of a slot, or how a server starts."""
        return text.whole is None and _KNOWN.search(text.text) is not None

    def read(self, texts: Sequence[Text]) -> list[Observation]:
        """All requests that ended in the logs."""
        requests, method, most, drafter = list[ServedRequest](), "", 0, ""
        without, told = 0, list[str]()
        for text in texts:
            found, left, lost = _requests(text)
            told += [f"{text.name}: {alone(lost)}"] * bool(lost)
            requests += found
            without += left
            method = next((m[1] for line in text.lines if (m := _TYPE.search(line))), method)
            drafter = next((m[1] for line in text.lines if (m := _DRAFTER.search(line))), drafter)
            most = max(most, _most(text))
        if not requests and not without and not any(_ENDS.search(text.text) for text in texts):
            raise InputError(
                f"{texts[-1].name}: is of a server that has not answered a request yet; give what it wrote later, alone or "
                "beside this"
            )
        if not requests:
            why = f"what became of the drafts of {counted(without, 'request')}" if without else "the end of a request"
            raise InputError(f"{texts[0].name}: does not say {why}: is it from before the server says `mean len`, or cut?")
        drafts = pooled([one.drafts for one in requests])
        notes = ["a draft is a step in which something was proposed, counted by its mean length where nobody says", *told]
        if without:
            notes.append(
                f"{counted(without, 'request')} whose drafts all failed left out: how many there were is not written"
            )
        gamma = most or max(len(drafts.accepted_at), max((_longest(one.drafts) for one in requests), default=0))
        return [
            Observation(
                source=self.name, files=tuple(text.name for text in texts),
                settings=Settings(
                    engine="llama.cpp", method=method, drafter=drafter, gamma=gamma or None,
                    speculates=True if drafts.drafts else None,
                ),
                drafts=drafts, requests=len(requests), generated=sum(one.output_tokens for one in requests),
                prompt_tokens=sum(one.prompt_tokens or 0 for one in requests),
                request_steps=sum(one.steps for one in requests),
                told_apart=tuple(requests), notes=tuple(notes),
            )
        ]  # fmt: skip


def _most(text: Text) -> int:
    """Tokens that a draft may have; 0 where the log does not say."""
    return max([0, *(int(m[1]) for line in text.lines if (m := _MOST.search(line)))])


def _longest(drafts: Drafts) -> int:
    return round(drafts.drafted / drafts.drafts + 0.49) if drafts.drafts else 0


def _told(lines: Sequence[str]) -> list[dict[str, str]]:
    """What lines of one server say of each request, by slot and task; a server that was started again begins them anew."""
    told, current = list[dict[str, str]](), dict[tuple[str, str], dict[str, str]]()
    sums: dict[tuple[str, str], tuple[int, int, int]] = {}
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
    return told


def _requests(text: Text) -> tuple[list[ServedRequest], int, int]:
    """(requests, those left out, lines left out) of each server that writes; one that was cut is left out."""
    by, lost = by_writer((line for line in text.lines if _SAYS.search(line)), _SAYS)
    writers = list(by.values())
    if not all(any(map(kind.search, own)) for own in writers for kind in (_PROMPT, _OUTPUT)):
        writers, lost = [text.lines], 0  # what stands before lines is no server's name
    found, without, size = list[ServedRequest](), 0, _most(text)
    for own in (one for lines in writers for one in _told(lines)):
        output = _OUTPUT.search(own.get("output", ""))
        if output is None:
            continue
        try:
            drafts = _drafts(own, size)
        except ValueError as error:
            raise InputError(f"{text.name}: {own['drafts'].strip()}: {error}") from None
        if drafts is None:
            without += 1
            continue
        prompt = _PROMPT.search(own.get("prompt", ""))
        found.append(
            ServedRequest(
                prompt_tokens=int(prompt[2]) if prompt else None, output_tokens=int(output[2]), drafts=drafts,
                output_s=float(output[1]) / 1e3,
            )
        )  # fmt: skip
    return found, without, lost


def _drafts(own: dict[str, str], size: int) -> Drafts | None:
    """What became of a request's drafts, of `size` tokens at most (0: nobody says): `NOTHING` without any, None where their
    number cannot be told."""
    line = _DRAFTS.search(own.get("drafts", ""))
    if line is None:
        return NOTHING
    accepted, drafted = int(line[2]), int(line[3])
    if not drafted:
        return NOTHING
    if accepted and line[4] is not None:
        number = _rounded(accepted, drafted, float(line[4]), size, own)
    elif not (number := _counted(own.get("grown", ""), drafted, accepted)):
        return None
    at = _POSITIONS.search(own.get("at", ""))
    none = () if accepted else (0.0,) * max(1, round(drafted / number))
    counts = tuple(round(float(share) * number) for share in at[1].split(",")) if at else none
    return Drafts(drafts=number, drafted=drafted, accepted=accepted, accepted_at=tuple(map(float, counts)))


def _rounded(accepted: int, drafted: int, mean: float, size: int, own: dict[str, str]) -> float:
    """Drafts of which a mean of tokens, written to 0.01, is: of those that it leaves open, as few as their size lets, since
    most drafts are whole where little is accepted."""
    most = accepted / (mean - 1 - _HALF) if mean - 1 > _HALF else math.inf
    least = accepted / (mean - 1 + _HALF)
    if most - least < 1 + _SURE * least:
        return float(max(1, round(accepted / (mean - 1))))
    output = _OUTPUT.search(own.get("output", ""))
    most = min(most, float(output[2]) if output else math.inf, drafted)
    return float(max(1, round(min(max(least, drafted / size if size else least), most))))


def _counted(grown: str, drafted: int, accepted: int) -> float:
    """Drafts of a request by what the sums of its slot grew by, where their tokens are its own; else 0."""
    counts = [int(word) for word in grown.split()]
    if (sum(counts[1::3]), sum(counts[2::3])) != (drafted, accepted) or min(counts, default=-1) < 0:
        return 0.0
    return float(sum(counts[::3]))
