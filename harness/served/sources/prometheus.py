"""Metrics as Prometheus scrapes them: text, a sample a line."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from harness.served.observed import LEFT_OUT, UNSAID
from harness.served.text import Text
from simulator.errors import InputError

_LABELS: Final = r'(?:[^"}]|"(?:[^"\\]|\\.)*")*'
_SAMPLE: Final = re.compile(
    rf"^\s*([a-zA-Z_:][\w:]*)\s*(?:\{{({_LABELS})\}})?\s+([-+]?[\w.+-]+)(?:\s+(-?[\d.]+(?:e[-+]?\d+)?))?\s*(?:#.*)?$"
)
"""Prometheus's text and OpenMetrics' alike: a time in milliseconds or seconds, an example after a `#`."""
_LABEL: Final = re.compile(r'([a-zA-Z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"')
_NAMES: Final = ("engine", "instance", "pod", "ReplicaId")
"""Labels that name a server, or one of its engines."""
_SURE: Final = ("instance", "pod", "ReplicaId")
"""Those that name no engine within a server alone."""
_APART: Final = (*_SURE, "WorkerId")
"""Labels by which a scrape tells the servers, or workers, apart that it holds."""
_FLAT: Final = re.compile(r"^(?:ray_)?(vllm|sglang|llamacpp|trtllm)[_:]")
"""How collectors that know no colons write the names, and TensorRT-LLM itself; Ray Serve puts its own before them."""


Samples = dict[str, list[tuple[Mapping[str, str], float]]]
"""Labels and values by metric."""


@dataclass(frozen=True)
class Scrape:
    """The samples of one scrape."""

    text: Text
    samples: Mapping[str, Sequence[tuple[Mapping[str, str], float]]]

    @classmethod
    def all_of(cls, texts: Sequence[Text], prefix: str) -> list[Scrape]:
        """Those samples of each scrape whose name begins so, and when the process began. A sample that is there again
        begins another scrape: files are appended to. Files that share no metric and have as many scrapes, as answers to
        queries of one metric each, are the same scrapes. Raises InputError for a value that is no number."""
        merged = list[tuple[Text, list[Samples]]]()
        for text in texts:
            found = list(_scrapes(text, prefix))
            like = [
                own for other, own in merged
                if len(own) == len(found) and not _shared(own, found)
                and not cls(other, own[0]).is_another(cls(text, found[0]))
            ]  # fmt: skip
            if like:
                for own, more in zip(like[0], found, strict=True):
                    own.update(more)
            else:
                merged.append((text, found))
        return [cls(text, samples) for text, found in merged for samples in found]

    def total(self, name: str) -> float | None:
        """A counter over all its labels, with or without `_total`; None where it is not there."""
        found = self.samples.get(f"{name}_total", self.samples.get(name))
        return None if found is None else sum(value for _, value in found)

    def mean(self, name: str) -> float | None:
        """A gauge over all its labels; None where it is not there."""
        found = self.samples.get(name)
        return None if not found else sum(value for _, value in found) / len(found)

    def positive(self, name: str) -> float | None:
        """Its mean over the labels under which it is above 0: that is a gauge that was never set, as of an idle rank's."""
        found = [value for _, value in self.samples.get(name, ()) if value > 0]
        return sum(found) / len(found) if found else None

    def without(self, label: str, value: str) -> Scrape:
        """The samples whose label is another one."""
        return self._where(label, lambda own: own != value)

    def of(self, label: str, values: Set[str]) -> Scrape:
        """The samples of those servers, and those of none."""
        return self._where(label, lambda own: own is None or own in values)

    def _where(self, label: str, keeps: Callable[[str | None], bool]) -> Scrape:
        kept = {name: [one for one in own if keeps(one[0].get(label))] for name, own in self.samples.items()}
        return Scrape(self.text, {name: own for name, own in kept.items() if own})

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """A counter by the values of one label, summed over the others."""
        sums: dict[str, float] = {}
        for labels, value in self.samples.get(f"{name}_total", self.samples.get(name, ())):
            if label in labels:
                sums[labels[label]] = sums.get(labels[label], 0.0) + value
        return sums

    def by_server(self, name: str, label: str) -> dict[str, set[str]]:
        """The values that a label of a counter has by the server that they are of, where it names several."""
        found: dict[str, set[str]] = {}
        for labels, _ in self.samples.get(f"{name}_total", self.samples.get(name, ())):
            if label in labels:
                found.setdefault(next((labels[one] for one in _SURE if one in labels), ""), set()).add(labels[label])
        return found

    def labels(self, label: str) -> list[str]:
        """The values that a label has anywhere."""
        return sorted({labels[label] for found in self.samples.values() for labels, _ in found if label in labels})

    @cached_property
    def began(self) -> float | None:
        """When the server began to count, in seconds of its clock; None where it does not say."""
        created = [
            value for name, found in self.samples.items() if name.endswith("_created") for labels, value in found
        ]  # fmt: skip
        start = self.samples.get("process_start_time_seconds")
        return min(created) if created else start[0][1] if start else None

    def is_another(self, other: Scrape) -> bool:
        """Whether the two say that they are of different servers: by when those began, or by names that they are given."""
        names = [(set(self.labels(label)), set(other.labels(label))) for label in _NAMES]
        if any(here and there and not here & there for here, there in names):
            return True
        if any(len(here | there) > 1 for (here, there), label in zip(names, _NAMES, strict=True) if label in _SURE):
            return False  # of several, any may have begun anew
        return self.began is not None and other.began is not None and abs(self.began - other.began) >= 1


def _shared(one: Sequence[Samples], other: Sequence[Samples]) -> set[str]:
    """The metrics that two files' scrapes both have."""
    here, there = ({name for samples in own for name in samples} for own in (one, other))
    return here & there


def _scrapes(text: Text, prefix: str) -> Iterator[Samples]:
    samples: Samples = {}
    seen = set[tuple[str, str]]()
    whole = text.text.endswith("\n")
    for number, line in enumerate(text.lines, 1):
        match = _SAMPLE.match(line) if whole or number < len(text.lines) else None  # a number may have been cut
        name = "" if match is None else _FLAT.sub(r"\1:", match[1])
        if match is None or not name.startswith((prefix, "process_start_time_seconds")):
            continue
        try:
            value = float(match[3])
        except ValueError:
            raise InputError(f"{text.name}, line {number}: {name} is {match[3]!r}, which is no number") from None
        if (key := (name, match[2] or "")) in seen:
            yield samples
            samples, seen = {}, set()
        seen.add(key)
        samples.setdefault(name, []).append((dict(_LABEL.findall(match[2] or "")), value))
    yield samples


Counts = Mapping[str, float]


@dataclass(frozen=True)
class Window:
    """What counters grew by between scrapes of one server, or since it began."""

    scrapes: tuple[Scrape, ...]
    grown: Counts
    since_start: bool
    left_out: str = ""
    """Which servers of its scrapes do not count, in a sentence; empty where all do."""


def begins(line: str, engine: str) -> bool:
    """Whether a line is a sample of an engine's."""
    return (
        line.startswith(tuple(f"{ray}{engine}{end}" for ray in ("", "ray_") for end in ":_"))
        and _SAMPLE.match(line) is not None
    )


def together(found: Sequence[Window]) -> Counts:
    """What counters of all windows grew by."""
    total: dict[str, float] = {}
    for window in found:
        for name, value in window.grown.items():
            total[name] = total.get(name, 0.0) + value
    return total


def remarks(found: Sequence[Window]) -> list[str]:
    """What to know of when windows began, and of how many there are, in sentences."""
    told = list[str]()
    if any(window.since_start for window in found):
        told.append("scraped once: everything since the server began counts, its warm-up too")
    if len(found) > 1:
        told.append(f"the scrapes are of {len(found)} servers, or of one that began anew: each counts for itself")
    told += [window.left_out for window in found if window.left_out]
    if any(len(window.scrapes) > 1 and window.scrapes[0].began is None for window in found):
        told.append(UNSAID)
    return told


def beside_baseline(scrapes: Sequence[Scrape], counters: Callable[[Scrape], Counts], whole: Set[str]) -> list[list[Scrape]]:
    """The scrapes of servers that draft, and those of servers that do not, where there are both; else all of them.

    One that counts no drafts is a baseline's where it has all counters of `whole`, and says that it is of another server
    than those that count some: when it began, or its name. Else it may have been filtered, which `in_all` refuses.
    """
    drafting = [scrape for scrape in scrapes if "drafts" in counters(scrape)]
    plain = [scrape for scrape in scrapes if "drafts" not in counters(scrape)]
    apart = all(whole <= counters(one).keys() and all(one.is_another(other) for other in drafting) for one in plain)
    return [drafting, plain] if drafting and plain and apart else [list(scrapes)]


def in_all(scrapes: Sequence[Scrape], counters: Callable[[Scrape], Counts]) -> Callable[[Scrape], Counts]:
    """Those of `counters` alone that every scrape has: what one that was filtered leaves out would else count since the
    server began. Positions, `at …`, appear with the first draft. Raises InputError where only some count drafts."""
    counted = [counters(scrape) for scrape in scrapes]
    shared = set.intersection(*(set(one) for one in counted))
    without = [scrape for scrape, one in zip(scrapes, counted, strict=True) if "drafts" not in one]
    if without and len(without) < len(scrapes):
        raise InputError(
            f"{without[0].text.name}: does not count drafts, and other scrapes do: it was filtered, or they are of servers "
            "set otherwise"
        )
    return lambda scrape: {
        name: value for name, value in counters(scrape).items() if name in shared or name.startswith("at ")
    }


_ENOUGH: Final = 100
"""Drafts of which an average is judged."""
_FAR: Final = 0.25
"""Share by which what drafts gave between two scrapes may differ from what they gave up to each."""


def _check_of_one(own: Sequence[Scrape], first: Counts, last: Counts, grown: Counts) -> None:
    """Raise InputError where nothing says that scrapes are of one server, and what lies between is like neither's past."""
    if own[0].began is not None or any(own[0].labels(label) for label in _SURE):
        return
    between, past = _per_draft(grown), [one for one in (_per_draft(first), _per_draft(last)) if one is not None]
    if between is None or not past or any(abs(between / one - 1) <= _FAR for one in past):
        return
    told = " and ".join(f"{one:.2f}" for one in past)
    raise InputError(
        f"{own[0].text.name} and {own[-1].text.name}: neither says which server it is of or when that began; between them a "
        f"draft would have given {between:.2f} tokens, and up to each {told}: two servers' scrapes? Give those of one, or "
        "two of each"
    )


def _lasting(own: Sequence[Scrape], counters: Callable[[Scrape], Counts], clock: str) -> tuple[list[Scrape], str]:
    """(the scrapes in order, of those servers in them that ran all the while, which others are left out): what one had
    counted that is gone, or began anew, would be taken from what the others did since, and what another did before it was
    first scraped would count. Raises InputError where none ran all the while."""
    found, told = list(own), list[str]()

    def counted(scrape: Scrape) -> float:
        return counters(scrape).get(clock, 0.0)

    for label in _APART:
        there = [set(scrape.labels(label)) for scrape in found]
        several, lasting = set.union(*there), set.intersection(*there)
        if len(several) < 2:
            continue
        each = {server: [scrape.of(label, {server}) for scrape in found] for server in sorted(lasting)}
        lasting -= {server for server, mine in each.items() if any(mine[0].is_another(one) for one in mine[1:])}
        # One that began anew counts less later, and so may all together: the order is that of most.
        order = _order_of_most([[counted(one) for one in each[server]] for server in sorted(lasting)])
        found = [found[i].of(label, lasting) for i in order]
        lasting -= {server for pair in itertools.pairwise(found) for server in _anew(*pair, label)}
        if not lasting or not order:
            raise InputError(
                f"{own[0].text.name} and {own[-1].text.name}: of {len(several)} servers ({label}) none is known to have "
                "run from the first scrape to the last; give scrapes between which all did"
            )
        if others := sorted(several - lasting):
            found = [scrape.of(label, lasting) for scrape in found]
            told.append(f"{', '.join(others)} ({label}) did not run all the while: {LEFT_OUT}")
    return sorted(found, key=counted), "; ".join(told)


def _order_of_most(counts: Sequence[Sequence[float]]) -> list[int]:
    """The order of scrapes in which most servers count up, of what each has counted in each; empty where as many say that
    one scrape is before another as after it."""
    if not counts:
        return []
    counted = np.array(counts)
    votes = np.sign(counted[:, :, None] - counted[:, None, :])
    most = np.sign(votes.sum(0))
    if ((most == 0) & (votes != 0).any(0)).any():
        return []
    return [int(i) for i in np.argsort(most.sum(1), kind="stable")]


def _anew(before: Scrape, after: Scrape, label: str) -> set[str]:
    """The servers that counted less later."""
    names = {name.removesuffix("_total") for name in before.samples if name.endswith("_total")}
    counted = [(before.by_label(name, label), after.by_label(name, label)) for name in names]
    return {server for was, now in counted for server, value in was.items() if now.get(server, 0.0) < value - 0.5}


def _per_draft(counts: Counts) -> float | None:
    """Tokens of a draft by counters of drafts, or of verifications and what was generated; None where they are few."""
    drafts = counts.get("drafts", counts.get("steps", 0.0))
    if drafts < _ENOUGH:
        return None
    if "accepted" in counts:
        return 1 + counts["accepted"] / drafts
    if {"generated", "requests"} <= counts.keys():
        return max((counts["generated"] - counts["requests"]) / drafts, 0.01)
    return None


def windows(scrapes: Sequence[Scrape], counters: Callable[[Scrape], Counts], clock: str) -> list[Window]:
    """What counters grew by, server by server: a server's scrapes are told by when it began to count and by its labels, and
    put in order by what they counted. Raises InputError where some rose and others fell: those are not of one server.

    A server that was scraped once counts since it began.

    Args:
        clock: the counter that rises with everything that is served.
    """
    servers: list[list[Scrape]] = []
    for scrape in scrapes:
        own = next((s for s in servers if not s[0].is_another(scrape)), None)
        if own is None:
            servers.append([scrape])
        else:
            own.append(scrape)
    found = []
    for own in servers:
        if len(own) == 1:
            found.append(Window(tuple(own), counters(own[0]), True))
            continue
        own, left_out = _lasting(own, counters, clock)
        first, last = counters(own[0]), counters(own[-1])
        for before, after in itertools.pairwise(own):
            earlier, later = counters(before), counters(after)
            if fell := [name for name, value in earlier.items() if later.get(name, 0.0) < value - 0.5]:
                raise InputError(
                    f"{before.text.name} and {after.text.name}: {clock} rises from one to the other while {fell[0]} falls: "
                    "scrapes of two servers, or of one that began anew; give those of one"
                )
        grown = {name: value - first.get(name, 0.0) for name, value in last.items()}
        _check_of_one(own, first, last, grown)
        found.append(Window(tuple(own), grown, False, left_out))
    return found
