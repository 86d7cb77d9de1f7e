"""What is written of kinds of drafters is true of the drafters, and of what vLLM is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from drafters.kinds.contract import Drafter
from drafters.kinds.learned import AutoregressiveDrafter, LearnedDrafter
from drafters.training.losses import TRAINING
from simulator.drafter_kinds import KINDS, LEARNED, WEIGHTLESS, DrafterKind, kind_called, kind_of
from simulator.records import kept_drafting
from simulator.serving.engine import ServedKind, ServingEngine
from simulator.serving.vllm import VLLM
from tests.drafters.conftest import ALL


@pytest.mark.parametrize("name", ALL)
def test_facts_are_those_of_the_drafters(name: str, make: Callable[..., Drafter]) -> None:
    drafter = make(name)
    facts = KINDS[drafter.kind]
    assert facts.learned == isinstance(drafter, LearnedDrafter)
    assert facts.one_pass == (not isinstance(drafter, AutoregressiveDrafter))
    assert facts.one_hot == (drafter.kind in WEIGHTLESS)


def test_every_kind_that_can_be_trained_has_a_row() -> None:
    assert tuple(TRAINING) == LEARNED
    assert set(LEARNED) | set(WEIGHTLESS) == set(KINDS)


def test_kinds_are_looked_up_by_kind_and_not_by_name() -> None:
    assert kind_of("old", {"kind": "mtp"}) == "mtp"
    assert kind_of("dspark", {"kind": "eagle3"}) == "eagle3"
    assert kind_of("dspark", {}) == "dspark"  # as the first versions stored it
    assert kept_drafting("greedy", "mine", 0.7) == "greedy"
    assert kept_drafting("greedy", "ngram", 0.7) == "either"


def test_facts_that_contradict_are_refused() -> None:
    with pytest.raises(ValueError, match="distribution"):
        DrafterKind(name="x", learned=True, one_pass=True, prefix=True, one_hot=True)
    with pytest.raises(ValueError, match="token by token"):
        DrafterKind(name="x", learned=True, one_pass=False, prefix=False)
    with pytest.raises(ValueError, match="no such kinds of drafters: x"):
        ServingEngine(
            name="e", serve="e serve", version="1", kinds={"x": ServedKind(method="x")}, policies=("none",), adaptive="none",
            drafting="greedy", drafting_option={}, flags=VLLM.flags, fields=VLLM.fields,
        )  # fmt: skip
    with pytest.raises(ValueError, match="its own policy"):
        dataclasses.replace(VLLM, adaptive="oracle")


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("EAGLE-3", "eagle3"), ("eagle", "eagle3"), ("MTP", "mtp"), ("NextN", "mtp"), ("Prompt Lookup", "ngram"),
        ("n-gram", "ngram"), ("no_spec", "none"), ("DFlash", "dflash"), ("medusa", ""), ("", ""),
    ],
)  # fmt: skip
def test_kinds_are_known_by_what_people_call_them(word: str, kind: str) -> None:
    assert kind_called(word) == kind
