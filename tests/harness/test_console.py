"""Tables in the width there is."""

from __future__ import annotations

from rich.console import Console

from harness.console import fitted

HEADS = ["policy", "a", "b", "c"]
ROWS = [
    ["dspark γ=7 prefix_scheduler", "1,234 ± 12", "5.67", "kept"],
    ["none", "9 ± 1", "1.00", "missed"],
    ["mtp", "no room"],
]


def lines(width: int) -> list[str]:
    console = Console(width=width, file=None, record=True)
    with console.capture() as captured:
        console.print(fitted(HEADS, ROWS, ("b", "a"), width))
    return captured.get().splitlines()


def test_what_matters_less_goes_first_and_nothing_is_cut() -> None:
    for width, heads in ((80, HEADS), (52, ["policy", "a", "c"]), (40, ["policy", "c"])):
        shown = lines(width)
        assert len(shown) == 1 + len(ROWS)
        assert shown[0].split() == heads
        assert all(len(line.rstrip()) <= width for line in shown)
        assert "dspark γ=7 prefix_scheduler" in shown[1]
        assert "kept" in shown[1]
