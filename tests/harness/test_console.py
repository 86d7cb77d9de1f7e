"""Tables in the width there is."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from harness.console import Display, bar_columns, fitting, print_table, say, say_listed, say_markdown
from harness.options import joined, listed, shares
from harness.stops import broken

HEADS = ["policy", "a", "b", "c"]
ROWS = [
    ["dspark γ=7 prefix_scheduler", "1,234 ± 12", "5.67", "kept"],
    ["none", "9 ± 1", "1.00", "missed"],
    ["mtp", "no room"],
]


def lines(width: int) -> list[str]:
    console = Console(width=width, file=None, record=True)
    with console.capture() as captured:
        print_table(console, HEADS, ROWS, ("b", "a"))
    return captured.get().splitlines()


def test_what_matters_less_goes_first_and_nothing_is_cut() -> None:
    for width, heads in ((80, HEADS), (52, ["policy", "a", "c"]), (41, ["policy", "c"])):
        shown = lines(width)
        gone = [head for head in HEADS if head not in heads]
        assert len(shown) == 1 + len(ROWS) + bool(gone)
        assert shown[0].split() == heads
        assert all(head in shown[-1] for head in gone)
        assert all(len(line.rstrip()) <= width for line in shown)
        assert "dspark γ=7 prefix_scheduler" in shown[1]
        assert "kept" in shown[1]


def test_what_is_still_too_wide_is_not_cut() -> None:
    told = io.StringIO()
    rows = [["a policy with a long name", "more than there is room for"]]
    print_table(Console(file=told, width=20, force_terminal=True, no_color=True), ["policy", "why"], rows, ())
    assert "".join(told.getvalue().split()).count("apolicywithalongnamemorethanthereisroomfor") == 1


TABLE_OF_K = "dspark γ=7 k_by_batch:1=7/2=7/4=7/8=6/16=5/32=4/64=3/128=2/256=1"


def on_terminal(width: int, heads: list[str], rows: list[list[str]], expendable: tuple[str, ...]) -> list[str]:
    told = io.StringIO()
    print_table(Console(file=told, width=width, force_terminal=True, color_system=None), heads, rows, expendable)
    return [line.rstrip() for line in told.getvalue().splitlines()]


@given(st.integers(40, 120))
def test_no_line_is_wider_than_the_terminal_and_every_name_is_whole(width: int) -> None:
    """Long names have lines of their own, and the figures of a row stay on one."""
    rows = [["none", "1,234 ± 12", "5.67", "97 % ✓"], [TABLE_OF_K, "12,345 ± 678", "1.00", "100 % ✓"], ["", "1", "2", "3 ✗"]]
    shown = on_terminal(width, ["drafter · policy", "tok/s/GPU", "τ", "promise"], rows, ("τ",))
    assert all(len(line) <= width for line in shown)
    assert TABLE_OF_K.replace(" ", "") in "".join(shown).replace(" ", "")
    [figures] = [line for line in shown if "12,345 ± 678" in line]
    assert "100 % ✓" in figures
    assert sum("1,234 ± 12" in line and line.lstrip().startswith("none") for line in shown) == 1


@pytest.mark.parametrize("stage", ["searching 4 users", f"searching 20 requests of {'a' * 90}.jsonl at 2 × the speed"])
def test_the_times_of_a_bar_fit_beside_any_stage(stage: str) -> None:
    shown = io.StringIO()
    console = Console(width=80, force_terminal=True, file=shown, color_system=None)
    with Progress(*bar_columns(), console=console, auto_refresh=False) as progress:
        Display(progress).advance(stage, 44, 64)
        progress.refresh()
    last = shown.getvalue().split("\x1b[2K")[-1].splitlines()[0].rstrip()
    assert len(last) <= 80
    assert re.search(r"44/64\s+\d:\d\d:\d\d left [-\d]:[-\d]{2}:[-\d]{2}$", last), last


def test_a_long_name_costs_no_columns_while_there_is_room_for_them() -> None:
    shown = on_terminal(80, HEADS, [*ROWS[:2], [TABLE_OF_K, "1", "2", "3"]], ("b", "a"))
    assert shown[0].split() == HEADS
    assert not any("wider terminal" in line for line in shown)


def test_why_a_row_failed_is_told_within_the_terminal() -> None:
    shown = on_terminal(
        40, HEADS, [ROWS[1], ["dspark γ=7 fixed:7", "a reason that is longer than forty characters are"]], ()
    )
    assert all(len(line) <= 40 for line in shown)
    assert "a reason that is longer than forty characters are" in " ".join(" ".join(shown).split())


def test_several_words_take_commas_and_may_be_repeated() -> None:
    for texts in (["a,b,c"], ["a", "b", "c"], ["a, b", "c"]):
        assert listed(texts) == ["a", "b", "c"]
    assert joined(["1..4", "8=1"]) == "1..4,8=1"
    assert shares(["math=0.4", "code=0.6"]) == shares(["math=0.4,code=0.6"]) == {"math": 0.4, "code": 0.6}
    assert listed(None) is joined(None) is shares(None) is None


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 160), st.data())
def test_columns_go_one_by_one_until_the_others_fit(widths: list[int], width: int, data: st.DataObject) -> None:
    needs = {f"c{i}": w for i, w in enumerate(widths)}
    expendable = data.draw(st.permutations(list(needs)))[: data.draw(st.integers(0, len(needs)))]
    shown = fitting(needs, expendable, width)
    gone = [name for name in needs if name not in shown]
    assert gone == [name for name in needs if name in expendable[: len(gone)]]  # in the order in which they may go
    if gone:  # none goes for nothing
        last = expendable[len(gone) - 1]
        assert sum(needs[name] + 2 for name in [*shown, last]) > width
    if len(gone) < len(expendable):
        assert sum(needs[name] + 2 for name in shown) <= width


def test_the_page_of_what_is_published_fits_a_terminal_and_is_left_alone_in_a_file() -> None:
    page = (Path(__file__).parents[2] / "docs" / "fidelity.md").read_text().rstrip()
    told, plain = io.StringIO(), io.StringIO()
    say_markdown(Console(file=told, force_terminal=True, width=80, no_color=True), page)
    assert max(cell_len(line) for line in Text.from_ansi(told.getvalue()).plain.splitlines()) <= 80
    say_markdown(Console(file=plain, force_terminal=False, width=200, highlight=False), page)
    assert plain.getvalue() == page + "\n"


def test_sentences_break_between_words_on_a_terminal_and_commands_do_not() -> None:
    told = io.StringIO()
    console = Console(file=told, force_terminal=True, width=30, no_color=True, highlight=False)
    say(console, "seven words that are longer than thirty characters")
    say(console, "  command --with-an-option-that-is-long 'and its value'")
    assert [len(line.rstrip()) <= 30 for line in told.getvalue().splitlines()] == [True, True, False]
    told = io.StringIO()
    console = Console(file=told, force_terminal=True, width=30, no_color=True, highlight=False)
    say_listed(console, "  an assumption  of more than thirty characters [b] indented")
    assert told.getvalue() == "  an assumption  of more than\n    thirty characters [b]\n    indented\n"
    plain = io.StringIO()
    say_listed(Console(file=plain, force_terminal=False, width=30), "  an assumption of more than thirty characters")
    assert plain.getvalue() == "  an assumption of more than thirty characters\n"
    plain = io.StringIO()
    say(Console(file=plain, force_terminal=False, width=30), "seven words that are longer than thirty characters")
    assert plain.getvalue().count("\n") == 1


@given(st.integers(30, 120))
def test_words_of_errors_are_whole_and_what_is_to_be_copied_stays_on_a_line(width: int) -> None:
    """In every line on a terminal: rich's, and those that end a command."""
    long = f"/a/folder/{'x' * width}/config.json"
    text = f"harness: {long}: needs more words than there is room for; see `harness doctor -h`, or leave the option out"
    lines = broken(text, width)
    assert " ".join(lines) == text
    assert all(len(line) <= width or line == f"{long}:" for line in lines)
    assert any("`harness doctor -h`" in line for line in lines)
    told = io.StringIO()
    say(Console(file=told, force_terminal=True, width=width, color_system=None, highlight=False), text)
    assert told.getvalue().splitlines() == lines
    assert broken("one\n\n  two", width) == ["one", "", "  two"]


def test_a_command_ends_with_whole_words_on_a_terminal() -> None:
    command = [sys.executable, "-c", f"from harness.stops import say; say({'sentence ' * 12!r})"]
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    subprocess.run(command, stderr=writer, check=True, timeout=60)
    os.close(writer)
    assert os.read(reader, 4096).decode().split("\r\n") == [("sentence " * 9).rstrip(), ("sentence " * 3).rstrip(), ""]
    os.close(reader)
