"""Changes as people and machines read them: on a terminal, in a pull request, by a CI."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from rich.cells import cell_len

from harness.console import fitting, plain_console, say, say_left_out, say_listed
from simulator.numbers import counted

if TYPE_CHECKING:  # these take seconds
    from results.change import Change
    from results.comparison import Comparison
    from results.gate import Gate, Judged

_COLUMNS = ("where", "before", "after", "change", "95 %", "could see", "verdict", "gate", "prompts needed a task")
_LEAST_FIRST = ("prompts needed a task", "before", "after", "could see")
"""What goes where a terminal is too narrow."""
_NAMED = 3
"""Rows named in a sentence, before "and more"."""

_HOW_TO_READ = (
    "each interval is its row's alone, verdicts hold for all rows together (at most 1 comparison in 20 like this calls "
    "anything changed where nothing is): an interval without 0 may be no clear change"
)

_NOT_JUDGED = (
    "not judged: what a machine does from pass to pass is not known of so few passes; 3 or more in both runs "
    "(`harness record --speed-passes 3`), or 5 in one for two drafters of it, are judged"
)

Row = dict[str, str]
"""A cell by column."""


def print_changes(found: Comparison, gate: Gate | None) -> None:
    """A line a change, how to read them, and the answer last."""
    console = plain_console()
    lines: list[str] = []
    rows = [_row(change, judged) for change, judged in _beside(found, gate)]
    known = [name for name in _COLUMNS if gate is not None or name not in ("gate", "prompts needed a task")]
    needs = {name: max(cell_len(name), *(cell_len(row[name]) for row in rows)) for name in known}
    needs["where"] = max(needs["where"] + 2, *(cell_len(change.quantity) for change in found.changes))
    widths = {name: needs[name] for name in fitting(needs, _LEAST_FIRST, console.width + 2)}
    last: tuple[str, ...] = ()
    for (change, _), row in zip(_beside(found, gate), rows, strict=True):
        if last[:1] != (change.quantity,):
            lines += ["", _line({"where": change.quantity, **{name: name for name in widths if name != "where"}}, widths)]
        if last != (change.quantity, who(change)):
            last = (change.quantity, who(change))
            lines.append(who(change))
        lines.append(_line({**row, "where": f"  {row['where']}"}, widths))
    say(console, _title(found))
    for line in (*found.unfit, *found.differences):
        say_listed(console, f"  {line}")
    for line in [*lines, ""]:
        console.print(line, markup=False, soft_wrap=True)
    say_left_out(console, known, widths)
    for line in (*_how_to_read(found), *sentences(gate)):
        say(console, line)


def markdown(found: Comparison, gate: Gate | None) -> str:
    """GitHub's Markdown, the answer on top, a row a change."""
    answer, notes = sentences(gate)[:1], sentences(gate)[1:]
    names = [name for name in _COLUMNS if gate is not None or name not in ("gate", "prompts needed a task")]
    tolerance = f"; at most {gate.tolerance:.1%} may be lost" if gate else ""
    lines = [*(line for told in answer for line in (f"**{told}**", "")), f"{_title(found)}{tolerance}", ""]
    lines += ["| quantity | drafter | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for change, judged in _beside(found, gate):
        row = _row(change, judged)
        cells = [change.quantity, who(change), *(row[name] for name in names)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    told_too = [*notes, *found.unfit, *found.differences]
    return "\n".join([*lines, "", "  \n".join(_how_to_read(found)), "", *(f"* {line}" for line in told_too)]).rstrip()


def _how_to_read(found: Comparison) -> list[str]:
    return [_HOW_TO_READ, *([_NOT_JUDGED] if any(change.verdict == "not judged" for change in found.changes) else [])]


def junit(found: Comparison, gate: Gate, *, allow_inconclusive: bool) -> str:
    """JUnit's XML: a test case a row; a gate that does not pass has failures, what else is inconclusive is skipped.

    A failure's `type` is the row's outcome.
    """
    failing = gate.failing(allow_inconclusive=allow_inconclusive)
    told = ["failure" if row in failing else "skipped" if row.outcome != "pass" else "" for row in gate.rows]
    counts = {"tests": len(told), "failures": told.count("failure"), "errors": 0, "skipped": told.count("skipped")}
    name = _title(found)
    suite = ElementTree.Element("testsuite", {"name": name, **{key: str(count) for key, count in counts.items()}})
    for row, how in zip(gate.rows, told, strict=True):
        group = f"{row.change.quantity}.{who(row.change)}"
        case = ElementTree.SubElement(
            suite, "testcase", classname=group, name=row.change.where or row.change.quantity, time="0"
        )
        if how:
            said = ElementTree.SubElement(case, how, message=_why(row, gate.tolerance))
            if how == "failure":
                said.set("type", row.outcome)
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _title(found: Comparison) -> str:
    return f"{found.first} → {found.second}" + (f" ({found.about})" if found.about else "")


def content(found: Comparison, gate: Gate | None) -> dict[str, Any]:
    """Everything, ready for JSON."""
    told = dataclasses.asdict(found)
    if gate is not None:
        told["regressions"] = [dataclasses.asdict(change) for change in found.regressions(gate.tolerance)]
        told["gate"] = {**dataclasses.asdict(gate), "sentences": sentences(gate)}
    return told


def sentences(gate: Gate | None) -> list[str]:
    """A gate's answer, and then what it does not rest on; nothing without a gate."""
    if gate is None:
        return []
    tolerance = f"{gate.tolerance:.1%}"
    if gate.outcome == "pass":
        least_sure = min((row.change for row in gate.rows if row.decides), key=lambda c: -1.0 if c.low is None else c.low)
        told_too = f"; the least sure of them {who(least_sure)}{_interval_of(least_sure)}"
        found = [f"pass: no drafter lost {tolerance} of its accepted length or more{told_too}"]
    else:
        gone = _gone(gate)
        rows = sorted((row for row in gate.of(gate.outcome) if who(row.change) not in gone), key=lambda row: not row.decides)
        told = [f"{name} is gone" for name in gone] + [_why(row, gate.tolerance) for row in rows[:_NAMED]]
        more = [f"and {len(rows) - _NAMED} more"] if len(rows) > _NAMED else []
        found = [f"{gate.outcome}: {'; '.join([*told, *more])}"]
    if gate.undecided:
        widest = max(gate.undecided, key=lambda row: 1.0 if row.change.sees is None else row.change.sees)
        undecided = counted(len(gate.undecided), "row")
        alone = "it does not decide" if len(gate.undecided) == 1 else "they do not decide; the least sure of them"
        rest = f"{undecided} may have lost {tolerance} or more, too few prompts tell, and {alone}:"
        found.append(f"{rest} {_named(widest.change)}{_interval_of(widest.change)}")
    return found


def _gone(gate: Gate) -> list[str]:
    """Drafters of which nothing is left: each is named once, however many rows of it there were."""
    here = {who(row.change) for row in gate.rows if row.change.verdict != "only in the first"}
    return list(dict.fromkeys(who(row.change) for row in gate.rows if who(row.change) not in here))


def who(change: Change) -> str:
    """The drafter with its block size."""
    return f"{change.drafter} γ={change.gamma}"


def _beside(found: Comparison, gate: Gate | None) -> Iterator[tuple[Change, Judged | None]]:
    """Changes, beside what a gate says of them."""
    return ((change, gate.rows[i] if gate else None) for i, change in enumerate(found.changes))


def _row(change: Change, judged: Judged | None) -> Row:
    before, after = ("–" if v is None else f"{v:.3f}" if v < 100 else f"{v:,.0f}" for v in (change.first, change.second))
    needed = None if judged is None else judged.prompts_needed
    outcome = "" if judged is None else judged.outcome
    return {
        "where": change.where, "before": before, "after": after,
        "change": "" if change.change is None else f"{change.change:+.1%}", "95 %": _interval(change),
        "could see": "nothing" if change.sees is None else f"{-change.sees + 0.0:.1%}", "verdict": change.verdict,
        "gate": outcome if judged is None or judged.decides or outcome != "inconclusive" else "(inconclusive)",
        "prompts needed a task": "" if needed is None else f"{needed:,}",
    }  # fmt: skip


def _interval(change: Change) -> str:
    return "" if change.low is None or change.high is None else f"{change.low:+.1%} to {change.high:+.1%}"


def _interval_of(change: Change) -> str:
    interval = _interval(change)
    return f" ({interval})" if interval else " (too few prompts to know its noise)"


def _named(change: Change) -> str:
    return " ".join(part for part in (who(change), change.where, change.quantity) if part)


def _why(row: Judged, tolerance: float) -> str:
    """Why a row does not pass."""
    return _worse(row.change) if row.outcome == "worse" else _open(row, tolerance)


def _worse(change: Change) -> str:
    """What is worse, in words."""
    if change.verdict == "only in the first":
        return f"{_named(change)} is gone"
    if change.verdict == "prompts gone":
        return f"{_named(change)}: {counted(change.gone, 'prompt')} gone"
    if change.verdict == "turns gone":
        return f"{_named(change)}: {counted(change.turns_gone, 'turn')} gone"
    return f"{_named(change)} {change.change or 0:+.1%}{_interval_of(change)}"


def _open(row: Judged, tolerance: float) -> str:
    """What is not known of a row, and what it would take."""
    change = row.change
    if change.verdict == "not judged":
        return f"{_named(change)}{_interval_of(change)}: not judged, for want of passes"
    if change.noise is None or change.sees is None:
        return f"{_named(change)}: too few prompts to know its noise"
    if change.sees <= tolerance:  # it could see, and what it sees is close
        said = f"{_named(change)} {change.change or 0:+.1%}{_interval_of(change)}"
        told = f"{said}: whether that is a loss of {tolerance:.1%} is open; to tell"
    else:
        told = f"{_named(change)}{_interval_of(change)} could have shown a loss of {change.sees:.1%}; {tolerance:.1%}"
    now = min(change.noise.units)
    if row.prompts_needed is None or row.prompts_needed <= now:
        return told.rpartition("; ")[0]
    return f"{told} takes {row.prompts_needed:,} prompts a task, {now:,} now"


def _line(cells: Row, widths: dict[str, int]) -> str:
    """Cells side by side; text left, numbers right."""
    padded = []
    for name, width in widths.items():
        space = " " * (width - cell_len(cells[name]))
        padded.append(cells[name] + space if name in ("where", "verdict", "gate") else space + cells[name])
    return "  ".join(padded).rstrip()
