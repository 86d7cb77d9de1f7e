"""Keys of recordings and systems: equal where they mean the same, and readable."""

from __future__ import annotations

import pytest

from simulator.configuration import System
from simulator.policies import NO_DRAFTER, PolicySpec
from simulator.records import NO_RECORDING, Recording


def test_a_recording_says_what_it_is() -> None:
    recording = Recording("new", 7, "calibrated", "greedy", "dspark")
    assert str(recording) == "new γ=7 (calibrated) (greedy drafts)"
    assert str(recording.showing("none")) == "new γ=7 (greedy drafts)"
    assert str(System(recording, PolicySpec("prefix_scheduler"))) == "new γ=7 prefix_scheduler (calibrated)"
    assert str(System(recording, NO_DRAFTER)) == "none"
    assert System(recording, NO_DRAFTER) == System(NO_RECORDING, NO_DRAFTER)


def test_a_recording_is_its_key() -> None:
    key = Recording("new", 7, "raw", "sampled", "dspark")
    assert key == Recording("new", 7, "raw")  # the kind goes with the name
    assert Recording("mtp", 7).kind == "mtp"  # which is the kind where none is declared
    assert len({key, key.showing("none"), Recording("new", 3, "raw"), Recording("new", 7, "raw", "greedy")}) == 4


@pytest.mark.parametrize("wrong", [("a", -1), ("a", 3, "sure"), ("a", 3, "raw", "guessed")])
def test_what_makes_no_sense_is_refused(wrong: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="recording"):
        Recording(*wrong)  # type: ignore[arg-type]
