"""Whether a change held what was promised of it: acceptance, and tokens a second at the loads that ran before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.served.acceptance import Acceptance, acceptance_of
from harness.served.advice import FEWEST, Advice, ran_at, rows_told
from harness.served.expected import Estimate, expected_of_rows, k_at, per_draft, scaled, survivals_of_rows
from harness.served.server import Server
from harness.served.speeds import Speeds, speeds
from simulator.numbers import counted

_CLOSE: Final = 0.05
"""Tokens per draft that are no further off than this are as promised."""
_APART: Final = 0.03
"""A share by which two runs of one server differ, beside what stretches of one tell."""
_FOUND: Final = 0.15
"""A share by which less steps have a draft where a drafter finds less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What came of a change."""

    held: bool | None
    """None where it is too early to say."""
    why: tuple[str, ...]
    length: Estimate | None
    """Tokens per draft, afterwards."""
    expected_length: Estimate
    gain: Estimate | None
    """In tokens a second of a request at the loads that ran before and after; None without such loads."""
    expected_gain: Estimate

    @property
    def sentences(self) -> list[str]:
        """For people: the answer first."""
        head = {True: "held", False: "not held", None: "too early to say"}[self.held]
        return [f"{head}: {self.why[0]}", *self.why[1:]]


def check(advice: Advice, later: Server) -> Checked:
    """Hold files that were written after a change against the advice."""
    before, length, expected_length, more = advice.server, None, advice.expected.length, 1.0
    if _is_copy(before, later):
        return Checked(
            held=None, why=("the later files hold the same drafts as those of before: nothing was served since",),
            length=None, expected_length=advice.expected.length, gain=None, expected_gain=advice.gain,
        )  # fmt: skip
    bad, unsure, good = list[str](), list[str](), list[str]()
    apart = before.settings.unlike(later.settings)
    methods = before.settings.method, later.settings.method
    if apart is None and all(methods) and methods[0] != methods[1]:
        apart = ("method", *methods)
    if apart is not None:
        bad.append("the later files are of {0} {2}, not {1}: another server".format(*apart))
    _check_k(advice, later, bad, unsure)
    if later.speculates and not bad and advice.k:
        if later.drafts.drafts < FEWEST:
            unsure.append(f"the later files hold {counted(round(later.drafts.drafts), 'draft')}: too few to tell")
        else:
            now = acceptance_of(later, seed=1)
            length, expected_length = _check_length(advice, later, now, bad, unsure, good)
            more = _more_tokens(advice, now, bad)
    found = speeds(advice, later)
    expected = _expected_at(advice, found.weights)
    if not bad:
        loads = found.weights
        changed = [load for load in loads if k_at(advice.rows, load) != before.served_k(load)] if advice.rows else [*loads]
        if loads and not changed:
            unsure.append("no load at which the table has another K than before ran long enough in both")
        else:
            _check_gain(advice, found, expected, more, bad, unsure, good)
    held = False if bad else None if unsure else True
    return Checked(
        held=held, why=(*bad, *unsure, *good), length=length, expected_length=expected_length, gain=found.gain,
        expected_gain=expected,
    )  # fmt: skip


def _is_copy(before: Server, later: Server) -> bool:
    """Whether the later files are among the earlier ones, by their names or by what each says."""
    earlier, now = ({Path(file).resolve() for one in own.observations for file in one.files} for own in (before, later))
    said = [(one.drafts, one.intervals) for one in before.observations]
    told = [(one.drafts, one.intervals) for one in later.observations if one.intervals or (one.drafts and one.drafts.drafts)]
    return now <= earlier or (bool(told) and all(one in said for one in told))


def _check_k(advice: Advice, later: Server, bad: list[str], unsure: list[str]) -> None:
    if advice.verdict == "off":
        if later.speculates:
            bad.append(f"the server still drafts, K = {later.gamma}: speculation was to be turned off")
    elif not later.speculates and later.settings.gamma:
        unsure.append(
            f"K = {later.settings.gamma} is set, and not one draft was proposed in the later files: too few to tell"
        )
    elif not later.speculates:
        bad.append(f"the later files hold no drafts, and K = {advice.k} was to be")
    elif advice.rows and not later.settings.table and (later.gamma != advice.k or _starts_so(advice, later)):
        rows = rows_told(advice.rows)
        bad.append(f"K is {later.gamma} at every load in the later files, and K by batch size was advised ({rows})")
    elif later.gamma != advice.k and advice.verdict == "keep":
        bad.append(f"K is {later.gamma} in the later files, and {advice.k} was to be kept: they are of another setting")
    elif later.gamma != advice.k:
        bad.append(f"K is {later.gamma} in the later files, and was to be {advice.k}: the change was not made")
    elif advice.rows and not later.settings.table and (otherwise := _otherwise(advice.rows, later)):
        bad.append(
            f"at {otherwise[0]} to {otherwise[-1]} running the later files have another K than the table that was advised "
            f"({rows_told(advice.rows)}): the change was not made"
        )
    elif advice.rows and later.settings.table and later.settings.table != advice.rows:
        bad.append(f"the later table of K by batch size is {list(map(list, later.settings.table))}, not what was advised")


def _starts_so(advice: Advice, later: Server) -> bool:
    """Whether files say from their server's start that it has one K at all loads, and at some that ran it is another than
    the table's."""
    ran = ran_at(later)
    said = later.settings.gamma is not None and later.settings.method  # lines alone tell the most that was drafted
    return bool(said) and any(k_at(advice.rows, running) != later.gamma for running in ran)


def _otherwise(rows: Sequence[tuple[int, int, int]], later: Server) -> list[int]:
    """Loads that ran, rising, of which files have another K than a table, where that is most of the time; else none."""
    ran = ran_at(later)
    found = [running for running in ran if k_at(rows, running) != later.served_k(running)]
    return found if len(found) > len(ran) / 2 else []


def _check_length(
    advice: Advice, later: Server, now: Acceptance, bad: list[str], unsure: list[str], good: list[str]
) -> tuple[Estimate, Estimate]:
    """(tokens per draft, those that were expected at the loads that ran), and where they fall behind."""
    k = min(advice.k, later.gamma, max(now.known, 1))  # no draft says anything of positions that it did not reach
    weights = Counter(ran_at(later if later.running else advice.server))
    rows = advice.rows or ((1, 1, advice.k),)
    survival, survivals = survivals_of_rows(rows, advice.acceptance, weights)
    promised_draws = 1 + survivals[:, :k].sum(1)
    length, promised = per_draft(now, k), float(1 + survival[:k].sum())
    apart = Estimate.of(now.lengths_drawn(k) - promised_draws)
    told = f"{length.value:.2f} ({length.low:.2f} to {length.high:.2f}) tokens per draft, {promised:.2f} were expected"
    shown, expected = length, Estimate.around(promised, promised_draws)
    if advice.rows:  # drafts are as long as their loads have them: what is held against them is what hangs on none
        whole = per_draft(now, later.gamma)
        shown = scaled(later.length, whole.value, now.lengths_drawn(later.gamma))
        of_rows = expected_of_rows(rows, advice.acceptance, advice.costs, weights)
        expected = advice.expected.length if of_rows is None else of_rows.length
        told = (
            f"{shown.value:.2f} tokens per draft as long as the loads had them, about {expected.value:.2f} were expected at "
            f"those loads; of drafts of {counted(k, 'token')}: {told}"
        )
    if apart.high < 0 and length.value < promised * (1 - _CLOSE):
        differences = now.survival[:k] / np.maximum(survival[:k], 1e-9) - 1
        first = int(np.argmax(differences < -_CLOSE)) if (differences < -_CLOSE).any() else k - 1
        position = f"position {first + 1} is accepted in {now.survival[first]:.0%} of drafts, not {survival[first]:.0%}"
        bad.append(f"{told}: {position}; " + _reason(first))
    elif length.value < promised * (1 - _CLOSE):
        unsure.append(f"{told}: that may be chance; a longer log tells")
    else:
        good.append(told)
    return shown, expected


def _more_tokens(advice: Advice, now: Acceptance, bad: list[str]) -> float:
    """Times as many tokens a step gives as with the traffic of before; where a drafter finds less, that is told."""
    was, k = advice.acceptance, min(advice.k, now.gamma, max(now.known, 1))
    apart = Estimate.of(now.coverages - was.coverages)
    if was.covering is None and apart.high < 0 and now.coverage < was.coverage * (1 - _FOUND):
        bad.append(
            f"drafts are made in {now.coverage:.0%} of steps, not {was.coverage:.0%}: the traffic is another, in which less "
            "is found"
        )
    tokens = [1 + one.coverage * float(one.survival[:k].sum()) for one in (now, was)]
    return tokens[0] / tokens[1]


def _reason(first: int) -> str:
    if first == 0:
        return "from the first on: the traffic, the temperature, or the drafter is another"
    return "shares of longer drafts did not carry over so far: rounds begin elsewhere now"


def _expected_at(advice: Advice, loads: Mapping[int, float]) -> Estimate:
    """The gain that was told at loads, each by its weight; over all that were served without any."""
    if not loads or not advice.at_loads:
        return advice.gain
    near = [min(advice.at_loads, key=lambda one: abs(one[0] - load))[1] for load in loads]
    return Estimate.mean(near, [*loads.values()])


def _check_gain(
    advice: Advice, found: Speeds, expected: Estimate, more: float, bad: list[str], unsure: list[str], good: list[str]
) -> None:
    """Hold tokens a second against what was told; `more` times as many tokens come of a step as were expected."""
    gain, promised = found.gain, f"{expected.signed} were expected"
    if found.counted is None:
        if advice.verdict == "keep":
            good.append("no load ran long enough in both: tokens a second were not compared")
        else:
            unsure.append("no load ran long enough both before and after: what it gave in tokens a second is not known")
        return
    if gain is None:
        (good if advice.verdict == "keep" else unsure).append(
            f"{found.traffic}, and these files do not tell what prompts take: {found.counted.value:+.0%} tokens a second at "
            f"the loads of before is not of the change alone; {promised}"
        )
        return
    told = f"{gain.signed} tokens a second at the loads of before"
    if found.traffic:
        told += f", were its prompts as they were ({found.counted.value:+.0%} as counted; {found.traffic})"
    if advice.verdict == "keep":
        good.append(told)
    elif (1 + gain.high) * (1 + _APART) < 1 + expected.low:
        bad.append(f"{told}, {promised}: {_slow(advice, found)}")
    elif found.traffic and (gain.low <= 0 or gain.value < expected.low):
        unsure.append(f"{told}: what the change gave is not told apart from that; {promised}")
    elif more > 1 + _CLOSE and (1 + gain.high) / more - 1 < expected.low:
        unsure.append(
            f"{told}, {promised}: a step gives {more - 1:.0%} more tokens than were expected, and it is of them: the "
            "traffic is another"
        )
    elif gain.low <= 0 < expected.low and gain.value < expected.low:
        unsure.append(f"{told}: that may be nothing; {promised}")
    else:
        good.append(f"{told}, {promised}")


def _slow(advice: Advice, found: Speeds) -> str:
    """Why speeds fell behind where tokens per draft did not: files do not tell a slower machine from drafts that cost."""
    others = ["the machine is slower"]
    if not any(one.prompt_tok_s for one in advice.server.in_order) and not found.traffic:
        others.append("prompts are longer, which these files do not tell")
    return f"steps did not become as much shorter as was taken ({advice.basis}), or {', or '.join(others)}"


def content(checked: Checked) -> dict[str, Any]:
    """The check as JSON has it."""
    length, gain = (None if own is None else own.row() for own in (checked.length, checked.gain))
    return {
        "held": checked.held, "why": list(checked.why), "tokens_per_draft": length,
        "expected_tokens_per_draft": checked.expected_length.row(), "gain": gain,
        "expected_gain": checked.expected_gain.row(),
    }  # fmt: skip
