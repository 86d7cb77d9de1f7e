"""Pages of two processors: what may differ, and what may not."""

from __future__ import annotations

import pytest

from tools.same_page import differences


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("c=50: 1,578 → 3,930 (+149.0 %)", "c=50: 1,578 → 3,929 (+149.0 %)", True),
        ("4.1 %", "4.2 %", False),
        ("none 3,930", "k=5 3,930", False),
        ("+2 %", "-2 %", False),
        ("a\nb", "a", False),
    ],
)
def test_numbers_may_differ_by_a_thousandth_and_words_not_at_all(one: str, other: str, same: bool) -> None:
    assert (not list(differences(one, other))) == same
