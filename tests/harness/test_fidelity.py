"""The page of errors: its arithmetic against closed forms, and the published page against what is made today."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from harness.published.fidelity import Check, extended_tau, paper_checks
from harness.published.synthesis import paper_values

PAGE = Path(__file__).parents[2] / "docs" / "fidelity.md"


@cache
def checks() -> list[Check]:
    return paper_checks()


def test_accepted_length_of_equal_positions_is_the_geometric_series() -> None:
    assert extended_tau([0.8] * 7, 7) == pytest.approx((1 - 0.8**8) / 0.2)
    assert extended_tau([0.8], 15) == pytest.approx((1 - 0.8**16) / 0.2)
    assert extended_tau([0.9, 0.5], 1) == pytest.approx(1.9)
    assert extended_tau([0.9, 0.5], 4) == pytest.approx(1 + 0.9 + 0.45 + 0.225 + 0.1125)


@pytest.mark.slow
def test_every_published_number_is_there_once() -> None:
    found = [(c.figure, c.what, c.setting) for c in checks()]
    assert len(set(found)) == len(found)
    count = {figure: sum(c.figure == figure for c in checks()) for figure in ("Table 1", "Figure 2", "Figure 4", "Figure 5")}
    assert count == {"Table 1": 27 + 9, "Figure 2": 63, "Figure 4": 24, "Figure 5": 60}
    values = {c.setting: c.published for c in checks() if c.figure == "Figure 2"}
    assert values["dspark, math, position 1"] == paper_values().acceptance["dspark"][0, 0]


@pytest.mark.slow
def test_what_was_fitted_is_met_and_the_paper_agrees_with_itself() -> None:
    for c in checks():
        if c.basis == "fitted":
            assert abs(c.error) < (0.08 if c.relative else 0.02), c
        elif c.figure == "Table 1":
            assert abs(c.error) < 0.01, c


def test_blocks_never_looked_at_come_out_within_a_tenth() -> None:
    blocks = [c for c in checks() if c.figure == "Figure 4" and c.basis == "predicted"]
    assert len(blocks) == 18
    assert max(abs(c.error) for c in blocks if "γ = 3" in c.setting) < 0.06
    assert sum(abs(c.error) for c in blocks) / len(blocks) < 0.1


def test_the_page_in_docs_is_what_the_command_prints() -> None:
    """Its numbers of synthesised traces; the rest of the page takes too long to make again."""
    text = PAGE.read_text(encoding="utf-8")
    for c in checks():
        row = re.search(
            rf"^\| {re.escape(c.setting)} \| ([\d.]+) \| ([\d.]+) \|",
            text.partition(f"{c.figure}, {c.what} ({c.basis})<")[2],
            re.M,
        )
        assert row, c
        assert [float(x) for x in row.groups()] == pytest.approx([c.published, c.ours], abs=2e-3), c
