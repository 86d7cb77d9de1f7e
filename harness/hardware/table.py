"""The table of a file of measurements, as people and load generators write it: its heads in our words, its numbers with
decimal points.

Commas, semicolons or tabs set columns apart; where semicolons or tabs do, a comma in a number is its decimal point.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Literal

from simulator.errors import InputError

Metric = Literal["output_tok_s", "output_tok_s_per_gpu", "tpot_ms", "tpot_mean_ms", "step_ms"]
METRICS: Final[Mapping[Metric, str]] = {
    "output_tok_s": "tokens/s", "output_tok_s_per_gpu": "tokens/s/GPU", "tpot_ms": "ms a token, median",
    "tpot_mean_ms": "ms a token, mean", "step_ms": "ms a step",
}  # fmt: skip
"""What may be measured, and what it is in words."""
_COLUMNS: Final = (
    "concurrency", "rate", "requests", "drafter", "drafted_tokens", "policy", "accepted_length", "acceptance_rate",
    "survival", "prompt_tokens", "output_tokens", *METRICS, "context", "role",
)  # fmt: skip
_ALSO: Final[Mapping[str, str]] = {
    "users": "concurrency", "max_concurrency": "concurrency", "request_rate": "rate", "num_prompts": "requests",
    "method": "drafter", "k": "drafted_tokens", "drafted": "drafted_tokens", "num_speculative_tokens": "drafted_tokens",
    "acceptance_length": "accepted_length", "spec_decode_acceptance_length": "accepted_length",
    "mean_acceptance_length": "accepted_length", "accept_length": "accepted_length",
    "spec_accept_length": "accepted_length", "draft_acceptance_rate": "acceptance_rate",
    "spec_decode_acceptance_rate": "acceptance_rate", "isl": "prompt_tokens", "input_tokens": "prompt_tokens",
    "input_len": "prompt_tokens", "input_length": "prompt_tokens", "random_input_len": "prompt_tokens",
    "osl": "output_tokens", "output_len": "output_tokens", "output_length": "output_tokens",
    "random_output_len": "output_tokens", "output_throughput": "output_tok_s",
    "output_token_throughput": "output_tok_s", "output_tok/s": "output_tok_s", "output_tok/s/gpu": "output_tok_s_per_gpu",
    "output_throughput_per_gpu": "output_tok_s_per_gpu", "output_tok_s/gpu": "output_tok_s_per_gpu",
    "tpot": "tpot_ms", "median_tpot": "tpot_ms", "median_tpot_ms": "tpot_ms", "mean_tpot": "tpot_mean_ms",
    "mean_tpot_ms": "tpot_mean_ms", "step": "step_ms",
}  # fmt: skip
"""Names of columns elsewhere, as heads are compared."""
_OTHERS: Final = re.compile(
    r"total_|p\d+_|std_|max_output|accept_rate$|(request|total_token|input)_throughput|.*_(?:per_)?user$"
)
"""What columns of load generators are called that are not read, and are near to the names of those that are."""
_NOTHING: Final = frozenset({"-", "–", "—", "n/a", "na", "nan", "null", "oom", "#n/a"})
"""What stands in cells of which nobody knows the number."""
_UNITS: Final[Mapping[str, tuple[str, ...]]] = {
    "concurrency": ("users", "requests"), "rate": ("1/s", "req/s", "requests/s"), "requests": ("requests",),
    "drafted_tokens": ("tokens",), "accepted_length": ("tokens",), "acceptance_rate": ("%",), "prompt_tokens": ("tokens",),
    "output_tokens": ("tokens",), "output_tok_s": ("tokens/s", "tok/s"), "context": ("tokens",), "tpot_ms": ("ms",),
    "output_tok_s_per_gpu": ("tokens/s/gpu", "tok/s/gpu"), "tpot_mean_ms": ("ms",), "step_ms": ("ms",),
}  # fmt: skip
"""Units that a head may name."""
_UNIT: Final = re.compile(r"[(\[]([^)\]]*)[)\]]")
_SPEED: Final = re.compile(r"tok|tps|thr|speed|latency", re.IGNORECASE)
"""What heads have in them that may be of what was measured."""
_THOUSANDS: Final = re.compile(r"[1-9]\d{0,2}(?:[.,]\d{3})+")
"""Numbers whose marks may stand between thousands."""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a file."""

    heads: tuple[str, ...]
    """The columns, empty for one that is not read."""
    rows: tuple[tuple[int, Mapping[str, str]], ...]
    """(line, cells that say something by column), each row once."""
    told: tuple[str, ...]
    """Lines for people."""


def read_table(file: Path, say: Callable[[str], None]) -> Table:
    """The table of a file. Raises InputError, naming line, column and fix; `say` hears what is not read."""
    lines = _lines(file)
    told = [line for line in lines if line.lstrip().startswith("#")]
    rows = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")]
    if len(rows) < 2:
        raise InputError(f"{file}: has no rows; a head and a row a point are needed (docs/hardware.md)")
    apart = max(",;\t", key=rows[0][1].count)
    written = _cells(rows[0][1], apart)
    heads = _heads(written, file, say)
    in_seconds = {head for head, own in zip(heads, written, strict=True) if head.endswith("_ms") and _unit(own) == "s"}
    percent = any(head == "acceptance_rate" and _UNIT.search(own) for head, own in zip(heads, written, strict=True))
    table = {number: _cells(line, apart) for number, line in rows[1:]}
    if wide := [number for number, cells in table.items() if len(cells) > len(heads)]:
        raise InputError(f"{file}, line {wide[0]}: has {len(table[wide[0]])} cells under {len(heads)} heads")
    pairs = [(head, cell) for cells in table.values() for head, cell in zip(heads, cells, strict=False)]
    mark = _decimal_mark((number for head, cell in pairs for number in _numbers(head, cell)), apart, file)
    kept, seen = list[tuple[int, Mapping[str, str]]](), dict[tuple[str, ...], int]()
    for number, cells in table.items():
        row = {head: cell for head, cell in zip(heads, cells, strict=False) if cell and head}
        if percent and "acceptance_rate" in row:
            row["acceptance_rate"] = row["acceptance_rate"].removesuffix("%") + "%"
        row = {head: cell for head, cell in row.items() if head not in _UNITS or cell.lower() not in _NOTHING}
        first = seen.setdefault(tuple(cells), number) if row else number
        if first != number:
            say(f"note: line {number} of {file} is line {first} again, and counts once")
        elif row:
            plain = {head: _with_points(head, cell, mark) for head, cell in row.items()}
            kept.append((number, {h: _milliseconds(cell) if h in in_seconds else cell for h, cell in plain.items()}))
    return Table(tuple(heads), tuple(kept), tuple(told))


def _unit(head: str) -> str:
    """The unit that a head names, in small letters; empty without."""
    found = _UNIT.search(head)
    return found[1].strip().lower() if found else ""


def _milliseconds(seconds: str) -> str:
    """A cell of seconds as one of milliseconds; what is no number stays, and is refused where it is read."""
    try:
        return f"{1e3 * float(seconds):.12g}"
    except ValueError:
        return seconds


def _cells(line: str, apart: str) -> list[str]:
    """Without blanks around them, and without empty ones at the end."""
    cells = [cell.strip() for cell in next(csv.reader([line], delimiter=apart, skipinitialspace=True))]
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _numbers(head: str, cell: str) -> list[str]:
    """What of a cell are numbers: a share a drafted token of `survival`, set apart by commas where they have points."""
    if head != "survival":
        return [cell] if head in _UNITS else []
    return re.split(r"[,\s]+", cell) if "." in cell else cell.split()


def _decimal_mark(written: Iterable[str], apart: str, file: Path) -> str:
    """What stands before the decimals of a file's numbers: the last of two marks, or one that sets no thousands apart; where
    semicolons set columns apart, points may. Raises InputError where numbers differ in it, or none tells."""
    found, unclear = set[str](), ""
    for number in written:
        marks = re.findall(r"[.,]", number)
        if not marks:
            continue
        if len(set(marks)) == 1 and _THOUSANDS.fullmatch(number):
            if len(marks) > 1:
                found |= {".", ","} - {marks[-1]}
            elif marks == [","] or apart == ";":
                unclear = number
        else:
            found.add(marks[-1])
    if len(found) > 1:
        raise InputError(f"{file}: some numbers have decimal points, and some decimal commas; write all in one way")
    if unclear and not found:
        raise InputError(f"{file}: {unclear} may be a thousand times as much; write numbers without marks between thousands")
    return found.pop() if found else "."


def _with_points(head: str, cell: str, mark: str) -> str:
    """A cell whose numbers have decimal points, and nothing between thousands."""
    thousands = "," if mark == "." else "."
    numbers = [number.replace(thousands, "").replace(mark, ".") for number in _numbers(head, cell)]
    return " ".join(numbers) if numbers else cell


def _heads(written: Sequence[str], file: Path, say: Callable[[str], None]) -> list[str]:
    """The columns that heads name; empty for what is not read, which is told."""
    if len(written) < 2:
        raise InputError(f"{file}: its head has no commas; columns are set apart by them: {', '.join(_COLUMNS)}")
    heads, others = list[str](), list[str]()
    for head in written:
        plain = re.sub(r"[\s_-]+", "_", _UNIT.sub("", head).strip().lower())
        name = _ALSO.get(plain, plain)
        if name not in _COLUMNS and not _OTHERS.match(name) and (close := get_close_matches(name, _COLUMNS, 1, 0.8)):
            raise InputError(f"{file}: no column {head!r} is read; did you mean {close[0]}? (docs/hardware.md has all)")
        unit, units = _unit(head), _UNITS.get(name, ("no unit",))
        if name in _COLUMNS and unit and unit not in units and not (unit == "s" and units == ("ms",)):
            raise InputError(f"{file}: column {head!r} is in {unit}; {name} is in {units[0]}")
        heads.append(name if name in _COLUMNS else "")
        others += [head] if name not in _COLUMNS else []
    if twice := [head for head in heads if head and heads.count(head) > 1]:
        raise InputError(f"{file}: column {twice[0]!r} is there twice")
    if not {"concurrency", "rate"} & set(heads):
        raise InputError(f"{file}: a column concurrency, or rate, is needed; a line that begins with # is no head")
    if not set(METRICS) & set(heads):
        likely = [head for head in others if _SPEED.search(head)]
        hint = f"; is {likely[0]!r} one of them? Call it so" if likely else ""
        raise InputError(f"{file}: no column of what was measured: {', '.join(METRICS)}{hint} (docs/hardware.md)")
    if others:
        say(f"note: not read of {file}: {', '.join(others)}; what is read: {', '.join(_COLUMNS)}")
    return heads


def _lines(file: Path) -> list[str]:
    """The lines of a file; one that tells spreadsheets what sets columns apart is for them. Raises InputError."""
    try:
        raw = file.read_bytes()
        wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
        lines = raw.decode("utf-16" if wide else "utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{file}: not readable: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: not UTF-8 text; save it as CSV UTF-8") from None
    return ["" if re.fullmatch(r"(?i)sep=.", line.strip()) else line for line in lines]
