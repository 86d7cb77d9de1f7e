"""What to run, from what a server was seen to do: keep K, lower it, K by batch size, or off above so many requests.

From a log alone the answer is to keep or to lower K. Drafting nothing is an answer only where steps without drafts are
known: from the log itself, or from a profile. Longer drafts are never one: nothing of them was served.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from harness.served.acceptance import LABEL, Acceptance
from harness.served.by_batch import AtLoad, rows_of
from harness.served.costs import Costs, priced
from harness.served.expected import (
    Estimate,
    Expected,
    Floats,
    expected,
    expected_of_rows,
    k_at,
    per_draft,
    positions,
    served_step,
)
from harness.served.observed import UNTIMED, finds_lengths
from harness.served.server import Server
from harness.served.timed import drafting_is_short, incomparable
from simulator.drafter_kinds import KINDS
from simulator.errors import InputError
from simulator.numbers import counted
from simulator.serving.engine import ServingEngine
from simulator.serving.engines import DEFAULT_ENGINE, engine_called

Verdict = Literal["keep", "set", "by_batch", "off", "plain"]
_LOADS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_OVER: Final = 2
"""Loads are looked at up to so many times what ran, for where it turns."""
FEWEST: Final = 30
"""Drafts that tell anything."""
_ALL: Final = 0.995
"""Shares above which every draft is as good as accepted."""
WORTH: Final = 0.01
"""A gain that nobody restarts a server for."""
_MATTERS: Final = 0.03
"""A gain that stands by itself; a smaller one that is sure does not where another k likely gives twice as much."""
_DOCTOR: Final = "`harness doctor CHECKPOINT --target TARGET`: whether the drafter fits its target, and how it is to be read"
"""What names what is wrong with a drafter that is never right."""
_NOTHING: Final = 0.1
"""Tokens a draft, at most, where none of those that were seen was accepted, that pay for no drafter."""
_HALF: Final = 0.5
"""A share of a stretch's steps with more than which drafts are more often on than not."""
_ABOUT: Final = 1.25
"""Loads that are about the same."""
_SHARES: Final = 20
"""Loads that stand for all that ran."""
_CURVE: Final = 33
"""Loads at which draws are asked for where they turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfTokens:
    """What k tokens a draft would give, in tokens a second of all requests over the loads that were served."""

    k: int
    gain: Estimate
    """Over what was served, a share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The answer."""

    server: Server
    acceptance: Acceptance
    kind: str
    verdict: Verdict
    k: int
    """To be set; of `by_batch` the largest."""
    rows: tuple[tuple[int, int, int], ...] = ()
    """(first, last, k) by running requests, of `by_batch`."""
    gain: Estimate
    """Over what was served, in tokens a second of all requests over the loads that were served, each as often as it was."""
    at_loads: tuple[tuple[int, Estimate], ...]
    """(running requests, the same) at each load that was served, rising."""
    of_tokens: tuple[OfTokens, ...]
    """What each k that is an answer gives, k rising."""
    loads: tuple[AtLoad, ...]
    off_above: Estimate | None
    """Running requests above which no k pays; None where that is not known, or beyond every load looked at."""
    pays_to: float | None
    """Running requests up to which drafting surely pays; None where that is not known."""
    costs: Costs
    """How long steps take."""
    basis: str
    """Where times come from."""
    knows_off: bool
    useless: bool
    """Whether so little is accepted that no K pays, whatever a step takes."""
    expected: Expected
    cannot: tuple[str, ...]
    """What the files cannot tell, each with what is missing."""
    next: str
    """What to measure."""


def advise(server: Server, acceptance: Acceptance, kind: str, costs: Costs) -> Advice:
    """Weigh k = 0 or 1, …, K at the loads that were served, and beyond them where that is asked for."""
    gamma, most_known = acceptance.gamma, max(acceptance.known, 1)
    useless = per_draft(acceptance, most_known).high - 1 < (WORTH if acceptance.survival[:1].sum() else _NOTHING)
    knows_off = costs.knows_off or useless
    least = 0 if knows_off else 1
    served, looked = _loads(server, costs)
    ran = ran_at(server)
    speeds = {r: _speeds(acceptance, costs, r, least) for r in dict.fromkeys([*served, *looked, *ran])}
    own = {r: min(server.served_k(r), most_known) for r in speeds}
    if max(own.values()) < least:  # it mostly drafted nothing at any load: what is weighed is where it did
        own = dict.fromkeys(own, most_known)
    # From what is believed K may be lowered: that a load carries more than it was served with, no such steps say.
    can_tell = not _untold_lengths(server, acceptance, kind)
    tops = {r: least - 1 if not can_tell else most_known if knows_off else own[r] for r in speeds}
    at = [
        _at(speeds[r], r, own[r], least, tops[r], served=r in served or _inside(server, r))
        for r in sorted({*served, *looked})
        if own[r] >= least
    ]
    weights = {r: ran.count(r) for r in ran if own[r] >= least}

    def mean(k_at: Callable[[int], int]) -> Floats:
        """Tokens a second of all requests over the loads that were served, each as often as it was."""
        return np.asarray(sum(n * r * speeds[r][:, k_at(r) - least] for r, n in weights.items()), np.float64)

    before = mean(own.__getitem__)
    gains = np.stack([mean(lambda _, k=k: k) / before - 1 for k in range(least, most_known + 1)], 1)  # type: ignore[misc]

    def loses(k: int) -> bool:
        """Whether a K for all loads likely gives less than was served at one of them."""
        return any(float(np.median(_gain_of(speeds[r], k - least, own[r] - least))) < -WORTH for r in weights)

    k, _ = _chosen(gains, least, min((tops[r] for r in weights), default=least - 1))
    k, rows = 0 if useless else k, rows_of(at, ran)
    verdict: Verdict = "keep" if k is None else "off" if k == 0 else "set"
    gain = Estimate(0.0, 0.0, 0.0) if k is None else Estimate.of(gains[:, k - least])
    differing = len({k for *_, k in rows}) > 1 and any(k_at(rows, one.running) != one.as_served for one in at)
    if differing and not useless and _takes_rows(server, kind):
        by_batch = mean(lambda r: k_at(rows, r)) / before - 1
        more = Estimate.of(by_batch - (gains[:, k - least] if k is not None else 0.0))
        whole = Estimate.of(by_batch)
        surer = k is not None and whole.low >= gain.low  # a K that was not timed is unsure: no reason to prefer it
        spares = k is not None and loses(k) and more.value > 0 and whole.low > 0
        if spares or (more.value > WORTH and (more.low > -WORTH / 2 or surer)):
            verdict, gain, k = "by_batch", whole, max(k for _, _, k in rows)
    k = gamma if k is None else k
    chosen = {r: own[r] if verdict == "keep" else k_at(rows, r) if verdict == "by_batch" else k for r in sorted(weights)}
    of_rows = expected_of_rows(rows, acceptance, costs, weights) if verdict == "by_batch" else None
    turns = costs.knows_off and not useless and not server.settings.adaptive  # that server verified less than whole drafts
    off_above, pays_to = _turns(acceptance, costs, min(served), max(looked)) if turns else (None, None)
    return Advice(
        server=server, acceptance=acceptance, kind=kind, verdict=verdict, k=k, rows=rows if verdict == "by_batch" else (),
        gain=gain,
        at_loads=tuple((r, Estimate.of(_gain_of(speeds[r], c - least, own[r] - least))) for r, c in chosen.items()),
        of_tokens=tuple(OfTokens(k=i + least, gain=Estimate.of(own)) for i, own in enumerate(gains.T)),
        loads=tuple(at), off_above=off_above, pays_to=pays_to, costs=costs, basis=costs.basis, knows_off=knows_off,
        useless=useless,
        expected=of_rows or expected(server, acceptance, k, kept=verdict == "keep"),
        cannot=tuple(_cannot(server, acceptance, costs, kind, useless=useless)),
        next=_DOCTOR if useless and not finds_lengths(kind) else _next(server, acceptance, costs),
    )  # fmt: skip


def _gain_of(speeds: Floats, chosen: int, own: int) -> Floats:
    return np.asarray(speeds[:, chosen] / speeds[:, own] - 1, np.float64)


def ran_at(server: Server) -> list[int]:
    """Running requests at evenly spaced shares of the time that was served."""
    if server.running:
        return [max(1, round(server.running_at((i + 0.5) / _SHARES))) for i in range(_SHARES)]
    return [max(1, round(point.concurrency)) for point in server.points] or [1]


def _loads(server: Server, costs: Costs) -> tuple[list[int], list[int]]:
    """(those that were served, each as often as it was; those looked at besides)."""
    if server.running:
        served = [max(1, round(server.running_at(share))) for share in (0.05, 0.25, 0.5, 0.75, 0.95)]
        most = max(server.running)
    else:
        served = ran_at(server)
        most = max(served)
    if not costs.knows_off:
        return served, sorted({load for load in _LOADS if load <= most} | {max(1, round(most))})
    return served, [load for load in _LOADS if load <= min(_OVER * max(most, 32), costs.reach)]


def _inside(server: Server, running: int) -> bool:
    ran = server.running
    at = bisect_left(ran, running / _ABOUT)
    return at < len(ran) and bool(ran[at] <= running * _ABOUT)


def _speeds(acceptance: Acceptance, costs: Costs, running: int, least: int) -> Floats:
    """Tokens a second of a request for every k, [draws, K + 1 − least], to a factor of each draw."""
    columns = []
    for k in range(least, max(acceptance.known, 1) + 1):
        tokens, seconds = acceptance.tokens_at(k, running), costs.seconds(k, running)
        size = min(len(tokens), len(seconds))
        columns.append(tokens[:size] / seconds[:size])
    return np.stack(columns, 1)


def _at(speeds: Floats, running: int, own: int, least: int, top: int, *, served: bool) -> AtLoad:
    gains = speeds / speeds[:, own - least, None] - 1
    chosen, surely = _chosen(gains, least, top)
    best = int(np.argmax(np.median(gains, 0))) + least if chosen is None else chosen
    return AtLoad(
        running=running, served=served, as_served=own, best=best, sure=chosen is not None,
        gains=tuple(map(Estimate.of, gains.T)), least=least, surely=surely,
        tokens=running * float(np.median(speeds[:, own - least])),
        over_none=Estimate.of(speeds[:, -1] / speeds[:, 0] - 1) if least == 0 else None,
    )  # fmt: skip


def _chosen(gains: Floats, least: int, top: int) -> tuple[int | None, frozenset[int]]:
    """(the k with most tokens a second by the median, of those up to `top` surely better than what was served, and worth a
    restart, all of those): None where there is none. A small gain is not worth it where it gives up more than it secures:
    no drafts tell nothing of what they would have given."""
    middle, low = np.median(gains, 0), np.quantile(gains, 0.025, axis=0)
    may = np.arange(len(low)) + least <= top
    most = float(middle[may].max()) if may.any() else 0.0
    sure = may & (low > 0) & (middle > WORTH) & (middle >= min(most / 2, _MATTERS))
    best = int(np.argmax(np.where(sure, middle, -np.inf))) + least if sure.any() else None
    return best, frozenset(map(int, np.flatnonzero(sure) + least))


def _turns(acceptance: Acceptance, costs: Costs, fewest: int, most: int) -> tuple[Estimate | None, float]:
    """Running requests above which no k pays, the best of each load taken, None beyond the most; and up to which one surely
    does from the fewest that were served on. A draw that never turns counts as the most."""
    loads = np.unique(np.geomspace(1, most, _CURVE).round().astype(int))
    gains = []
    for running in map(int, loads):
        speeds = _speeds(acceptance, costs, running, 0)
        over = speeds[:, 1:] / speeds[:, :1]
        gains.append(over[:, int(np.argmax(np.median(over, 0)))])
    logs = np.log(np.stack(gains, 1))
    pays = logs >= 0
    last = np.where(pays.any(1), len(loads) - 1 - np.argmax(pays[:, ::-1], 1), -1)
    turns = np.zeros(len(logs))
    for i, j in enumerate(last):
        if j == len(loads) - 1:
            turns[i] = loads[-1]
        elif j >= 0:
            share = logs[i, j] / (logs[i, j] - logs[i, j + 1])
            turns[i] = loads[j] + share * (loads[j + 1] - loads[j])
    first = min(int(np.searchsorted(loads, fewest)), len(loads) - 1)
    unsure = np.quantile(logs[:, first:], 0.025, axis=0) <= 0
    surely = loads[-1] if not unsure.any() else 0 if unsure[0] else loads[first + int(np.argmax(unsure)) - 1]
    return None if float(np.median(turns)) >= loads[-1] else Estimate.of(turns), float(surely)


def rows_told(table: Sequence[tuple[int, int, int]]) -> str:
    """K by batch size, in words."""
    return "; ".join(f"{first} to {last} running: {k}" for first, last, k in table)


def _untold_lengths(server: Server, acceptance: Acceptance, kind: str) -> str:
    """Why nothing is sure of another K where drafts had fewer tokens, in words; empty where it may be."""
    if server.settings.adaptive:
        return (
            "what another K, or none, would give: by its own policy the server verifies less than it drafts, and what is "
            "told is of drafts that are verified whole"
        )
    if "," in kind:
        return f"what another K would give: {kind} draft one after another, each as many tokens as it is set to"
    mean = server.drafts.drafted / max(server.drafts.drafts, 1)
    short = f"drafts had {mean:.1f} tokens on average, {acceptance.gamma} at most"
    if acceptance.shortener == "unknown" and not finds_lengths(kind):
        return (
            f"what another K would give: {short}, and no file says which were short, nor why; give the engine's log, or "
            "answers that tell every draft"
        )
    if acceptance.shortener == "engine" and not server.running and not server.settings.table:
        return f"what another K would give: {short}, and no file says at which load; give the engine's log too"
    return ""


def _cannot(server: Server, acceptance: Acceptance, costs: Costs, kind: str, *, useless: bool) -> list[str]:
    gamma = max(acceptance.known, 1)
    said = [f"more than {gamma} tokens a draft, or another drafter: nothing of them was served"]
    if kind in KINDS and not KINDS[kind].prefix:
        whole = f"it computes a block at once, and what was served is the first k of {gamma}"
        said.append(f"what {kind} drafts in a shorter block: {whole}")
    if not costs.knows_off and not useless:
        said.append(
            f"whether no drafts at all would be faster, and above how many requests: {incomparable(server)}; "
            f"{_to_know_off(server, kind)}"
        )
    said += _of_switched(server, costs, kind)
    if untold := _untold_lengths(server, acceptance, kind):
        said.append(untold)
    elif acceptance.shortener == "drafter" and not any(one.verified for one in server.told_apart):
        said.append("how long drafts were, but for their mean: lengths are taken to be geometric up to K")
    if not server.knows_load:
        said.append(
            "how many requests ran at a time: no file says it, and what is weighed is one at a time; at more a draft costs "
            "more. A log, or scrapes with the gauge of running requests, say it"
        )
    if server.drafts.drafts < FEWEST:
        said.append(f"whether K = {gamma} is right: {counted(round(server.drafts.drafts), 'draft')} tell nothing")
    elif acceptance.survival[:gamma].min() > _ALL:
        said.append("how often drafts are wrong: none was, as where a model drafts for itself, or acceptance is made up")
    if not acceptance.clustered:
        said.append("how requests differ: none are told apart; the intervals assume it")
    if not acceptance.by_position:
        said.append("acceptance by position: only an average is in the files; all positions are taken to be alike")
    if server.coverage is None:
        said.append("in how many steps nothing is proposed: a draft is taken for every step")
    return said


def _of_switched(server: Server, costs: Costs, kind: str) -> list[str]:
    """What is not told where drafts came and went, in words."""
    said, ran = list[str](), ran_at(server)
    off = [running for running in ran if server.served_k(running) == 0]
    if off and len(off) < len(ran) and not costs.knows_off:
        said.append(
            f"what any K would give where nothing was drafted, {len(off) / len(ran):.0%} of the time (at {min(off)} to "
            f"{max(off)} running): gains are of the other loads alone"
        )
    if not kind and server.proposing < 1 and len({one.drafting > _HALF for one in server.intervals}) > 1:
        said.append(
            "whether drafts were switched off at some loads, or the drafter found nothing to propose: no file names the "
            "drafter, and the latter is taken; name it with --drafter"
        )
    return said


def _to_know_off(server: Server, kind: str) -> str:
    """What tells whether no drafts at all would be faster, in words."""
    if server.settings.engine == UNTIMED:
        profile = (
            f"name a profile of the machine (--hardware{'' if kind else ', and --drafter'}), or " if priced(kind) else ""
        )
        both = any(one.drafts is not None and not one.drafts.drafts for one in server.observations)
        return profile + (
            "what requests got is told above" if both else "give a log without speculation too: requests' speeds"
        )
    given = "another log" if server.baseline else "a log"
    missing = "more of its log with drafts" if drafting_is_short(server) else f"{given} of this traffic without speculation"
    log = f"give {missing}"
    if kind and not priced(kind):
        return f"{log}: no profile knows what a pass of {kind} takes"
    return f"name a profile of the machine (--hardware{'' if kind else ', and --drafter'}), or {log}"


def _next(server: Server, acceptance: Acceptance, costs: Costs) -> str:
    if not costs.knows_off and server.settings.engine == UNTIMED and len(server.observations) == 1:
        return "the same questions without speculation, as many at a time, and the log of it beside this one"
    if not costs.knows_off:
        if drafting_is_short(server):
            return "the same traffic with drafts, ten minutes at each load that was served without, and the log of it"
        again = "once more, for what is given does not compare: " if server.baseline else ""
        return (
            f"{again}this traffic without speculation, ten minutes at each load that was served with it, on the same "
            "machine, and the log of it beside these files"
        )
    if not acceptance.clustered and server.settings.engine in ("", "vLLM"):
        return "an hour with --per-request-spec-decode-metrics detailed, and the answers beside these files"
    if not server.intervals:
        return "two scrapes of /metrics ten minutes apart, or the log: step times by load"
    return f"a recording of this drafter (`harness record`): it would answer for every k, beyond {acceptance.gamma} too"


def engine_of(server: Server) -> ServingEngine:
    """The engine that serves; vLLM where no file says. Raises InputError for one that is not known here."""
    if not (name := server.settings.engine):
        return DEFAULT_ENGINE
    try:
        return engine_called(name) or DEFAULT_ENGINE
    except InputError:
        raise InputError(
            f"the files are of {name}, whose settings are not known here; docs/extending.md adds an engine"
        ) from None


def fields_of(advice: Advice) -> dict[str, Any]:
    """The engine's own fields for the advice; none where speculation is to be left out."""
    if advice.verdict == "off":
        return {}
    settings, engine = advice.server.settings, engine_of(advice.server)
    names, kind = engine.fields, engine.kinds.get(advice.kind)
    method = settings.method or (kind.method if kind else advice.kind or "METHOD")
    fields: dict[str, Any] = {names.method: method}
    known = settings.besides is not None and not settings.drafter
    inside = known and advice.kind == "dspark"  # which the target's own checkpoint may hold, as MTP's
    if settings.drafter or advice.kind == "draft_model" or (kind is not None and kind.checkpoint and not inside):
        fields[names.checkpoint] = settings.drafter or "CHECKPOINT"
    fields[names.tokens] = advice.k
    if rows := advice.rows or (settings.table if advice.verdict == "keep" else ()):
        fields[names.batch_rows] = list(rows)
    return fields | {name: value for name, value in settings.besides or () if name not in fields}


def _takes_rows(server: Server, kind: str) -> bool:
    """Whether the engine can have K by batch size, with this kind of drafter."""
    engine = engine_of(server)
    own = engine.kinds[kind].policies if kind in engine.kinds else ()
    return "k_by_batch" in (own or engine.policies)


def content(advice: Advice) -> dict[str, Any]:
    """The advice as JSON has it, without flags."""
    a, s = advice.acceptance, advice.server
    return {
        "label": LABEL, "engine": s.settings.engine, "model": s.settings.called, "method": s.settings.method,
        "drafter": advice.kind, "checkpoint": s.settings.drafter,
        "served_tokens": a.gamma, "verdict": advice.verdict, "tokens": advice.k,
        "rows": [list(row) for row in advice.rows], "gain": advice.gain.row(),
        "off_above": None if advice.off_above is None else advice.off_above.row(), "pays_to": advice.pays_to,
        "knows_off": advice.knows_off,
        "at_loads": [{"running": running, "gain": one.row()} for running, one in advice.at_loads],
        "by_tokens": [{"tokens": one.k, "gain": one.gain.row()} for one in advice.of_tokens],
        "basis": advice.basis,
        "acceptance": {
            "drafts": s.drafts.drafts, "drafted": s.drafts.drafted, "accepted": s.drafts.accepted,
            "counted_by": s.counted_by, "positions": [e.row() for e in positions(a)], "basis": a.basis,
            "by_position": a.by_position, "tokens_per_draft": per_draft(a, a.gamma).row(),
            "tokens_per_step": served_step(s, a).row(), "coverage": s.coverage,
        },
        "loads": [
            {
                "running": one.running, "served": one.served, "best": one.best, "sure": one.sure, "gain": one.gain.row(),
                "over_none": None if one.over_none is None else one.over_none.row(),
            }
            for one in advice.loads
        ],
        "expected": {
            "tokens": advice.expected.gamma, "tokens_per_draft": advice.expected.length.row(),
            "tokens_per_step": None if advice.expected.tokens_per_step is None else advice.expected.tokens_per_step.row(),
            "positions": [one.row() for one in advice.expected.positions],
        },
        "cannot": list(advice.cannot), "next": advice.next, "notes": list(s.notes),
        "sources": [
            {
                "source": o.source, "files": list(o.files), "drafts": None if o.drafts is None else o.drafts.drafts,
                "tokens_per_draft": o.length if o.drafts is None or not o.drafts.drafts else o.drafts.length,
                "tokens_per_step": o.tokens_per_step, "notes": list(o.notes),
            }
            for o in s.observations
        ],
    }  # fmt: skip
