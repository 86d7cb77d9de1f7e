"""Whether a change held what was promised of it: acceptance, and tokens a second at the loads that ran before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.served.acceptance import acceptance_of
from harness.served.advice import FEWEST, Advice, ran_at, rows_told
from harness.served.expected import Estimate, k_at, per_draft, scaled
from harness.served.observed import Interval
from harness.served.server import Server
from simulator.numbers import counted

_CLOSE: Final = 0.05
"""Tokens per draft that are no further off than this are as promised."""
_STRETCHES: Final = 5
"""Stretches of a log at a load that tell anything."""
_DRAWS: Final = 1000
_NEAR: Final = 1.25
"""Loads that are one."""


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
    before = advice.server
    length = None
    bad, unsure, good = list[str](), list[str](), list[str]()
    apart = before.settings.unlike(later.settings)
    methods = before.settings.method, later.settings.method
    if apart is None and all(methods) and methods[0] != methods[1]:
        apart = ("method", *methods)
    if apart is not None:
        bad.append("the later files are of {0} {2}, not {1}: another server".format(*apart))
    _check_k(advice, later, bad, unsure)
    if later.drafts == before.drafts and later.intervals == before.intervals:
        unsure.append("the later files hold the same drafts as those of before: nothing was served since")
    if later.speculates and not bad and advice.k:
        if later.drafts.drafts < FEWEST:
            unsure.append(f"the later files hold {counted(round(later.drafts.drafts), 'draft')}: too few to tell")
        else:
            length = _check_length(advice, later, bad, unsure, good)
    gain, loads = _gain(before, later)
    expected = _expected_at(advice, loads)
    if not bad:
        _check_gain(advice, gain, expected, bad, unsure, good)
        changed = [load for load in loads if k_at(advice.rows, load) != before.served_k(load)] if advice.rows else [*loads]
        if gain is not None and not changed:
            unsure.append("no load at which the table has another K than before ran long enough in both")
    held = False if bad else None if unsure else True
    return Checked(
        held=held, why=(*bad, *unsure, *good), length=length, expected_length=advice.expected.length, gain=gain,
        expected_gain=expected,
    )  # fmt: skip


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
    elif advice.rows and not later.settings.table and later.gamma != advice.k:
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


def _otherwise(rows: Sequence[tuple[int, int, int]], later: Server) -> list[int]:
    """Loads that ran, rising, of which files have another K than a table, where that is most of the time; else none."""
    ran = ran_at(later)
    found = [running for running in ran if k_at(rows, running) != later.served_k(running)]
    return found if len(found) > len(ran) / 2 else []


def _check_length(advice: Advice, later: Server, bad: list[str], unsure: list[str], good: list[str]) -> Estimate:
    """Tokens per draft, and where they fall behind."""
    now, k = acceptance_of(later, seed=1), min(advice.k, later.gamma)
    length, promised = per_draft(now, k), per_draft(advice.acceptance, k)
    apart = Estimate.of(now.lengths_drawn(k) - advice.acceptance.lengths_drawn(k))
    told = f"{length.value:.2f} ({length.low:.2f} to {length.high:.2f}) tokens per draft, {promised.value:.2f} were expected"
    shown = length
    if advice.rows:  # loads differ from those of before: what is held against them is what hangs on none
        whole = per_draft(now, later.gamma)
        shown = scaled(later.length, whole.value, now.lengths_drawn(later.gamma))
        told = (
            f"{shown.value:.2f} tokens per draft as long as the loads had them, {advice.expected.length.value:.2f} were "
            f"expected at the loads of before; of {k} tokens: {told}"
        )
    if apart.high < 0 and length.value < promised.value * (1 - _CLOSE):
        differences = now.survival[:k] / np.maximum(advice.acceptance.survival[:k], 1e-9) - 1
        first = int(np.argmax(differences < -_CLOSE)) if (differences < -_CLOSE).any() else k - 1
        was, is_now = advice.acceptance.survival[first], now.survival[first]
        position = f"position {first + 1} is accepted in {is_now:.0%} of drafts, not {was:.0%}"
        bad.append(f"{told}: {position}; " + _reason(first))
    elif length.value < promised.value * (1 - _CLOSE):
        unsure.append(f"{told}: that may be chance; a longer log tells")
    else:
        good.append(told)
    return shown


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


def _gain(before: Server, later: Server) -> tuple[Estimate | None, dict[int, float]]:
    """(in tokens a second at the loads of before, as far as they ran in both, each by what it had of them, 95 % between
    stretches; those weights by load)."""
    earlier, after = _timed(before), _timed(later)
    rng = np.random.default_rng(0)
    ratios, weights = [], dict[int, float]()
    for load in dict.fromkeys(round(one.running) for one in earlier):
        first, second = (
            [one.generated_tok_s / one.running for one in own if load / _NEAR <= one.running <= load * _NEAR]
            for own in (earlier, after)
        )
        if min(len(first), len(second)) >= _STRETCHES:
            means = [np.array(own)[rng.integers(len(own), size=(_DRAWS, len(own)))].mean(1) for own in (first, second)]
            ratios.append(means[1] / means[0])
            weights[load] = sum(one.generated_tok_s for one in earlier if round(one.running) == load)
    return (Estimate.of(np.average(ratios, axis=0, weights=[*weights.values()]) - 1) if ratios else None), weights


def _timed(server: Server) -> Sequence[Interval]:
    own = server.intervals if not server.gamma else (*server.intervals, *server.plain)
    return [one for one in own if one.steady and one.generated_tok_s > 0 and one.step_s is None]


def _check_gain(
    advice: Advice, gain: Estimate | None, expected: Estimate, bad: list[str], unsure: list[str], good: list[str]
) -> None:
    if gain is None:
        if advice.verdict == "keep":
            good.append("no load ran long enough in both: tokens a second were not compared")
        else:
            unsure.append("no load ran long enough both before and after: what it gave in tokens a second is not known")
        return
    told = f"{gain.signed} tokens a second at the loads of before"
    if advice.verdict == "keep":
        good.append(told)
    elif gain.high < expected.low:
        bad.append(f"{told}, {expected.signed} were expected: {_slow(advice)}")
    elif gain.low <= 0 < expected.low and gain.value < expected.low:
        unsure.append(f"{told}: that may be nothing; {expected.signed} were expected")
    else:
        good.append(f"{told}, {expected.signed} were expected")


def _slow(advice: Advice) -> str:
    return f"steps did not become as much shorter as was taken ({advice.basis})"


def content(checked: Checked) -> dict[str, Any]:
    """The check as JSON has it."""
    length, gain = (None if own is None else own.row() for own in (checked.length, checked.gain))
    return {
        "held": checked.held, "why": list(checked.why), "tokens_per_draft": length,
        "expected_tokens_per_draft": checked.expected_length.row(), "gain": gain,
        "expected_gain": checked.expected_gain.row(),
    }  # fmt: skip
