"""llama.cpp's files as other versions and several servers write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.served.observed import Drafts
from harness.served.sources.registry import read_files
from simulator.errors import InputError
from tests.harness.served.test_sources import (
    LLAMA_LOG,
    LLAMA_METRICS,
    observed,
)
from tests.harness.served.test_variations import interleaved

OLD_LLAMA = """0.10.000.000 I slot print_timing: id  3 | task 0 |
prompt eval time =     648.99 ms /   133 tokens (    4.88 ms per token,   204.94 tokens per second)
       eval time =   30387.12 ms /  2048 tokens (   14.84 ms per token,    67.40 tokens per second)
      total time =   31036.11 ms /  2181 tokens
draft acceptance rate = 0.98260 ( 1186 accepted /  1207 generated)
statistics mtp: #calls(b,g,a) = 1 861 690, #gen drafts = 690, #acc drafts = 690, #gen tokens = 1207, #acc tokens = 1186, dur
slot      release: id  3 | task 0 | stop processing: n_tokens = 2180, truncated = 0
"""


def test_llama_cpp_before_it_said_mean_lengths(tmp_path: Path) -> None:
    """Lines of their own below the slot's, and sums over its requests."""
    one = observed(tmp_path, OLD_LLAMA)
    assert one.drafts is not None
    assert (one.drafts.drafts, one.drafts.drafted, one.drafts.accepted, one.requests) == (690, 1207, 1186, 1)
    more = (
        OLD_LLAMA.replace("task 0", "task 9")
        .replace("690,", "700,")
        .replace("= 1207,", "= 1227,")
        .replace("= 1186,", "= 1199,")
    )
    more = more.replace("( 1186 accepted /  1207 generated)", "( 13 accepted / 20 generated)")
    two = observed(tmp_path, OLD_LLAMA + more)
    assert two.drafts is not None
    assert [request.drafts.drafts for request in two.told_apart] == [690, 10]
    longer = LLAMA_LOG.replace("mean len", "mean acceptance length")
    assert observed(tmp_path, longer).drafts == observed(tmp_path, LLAMA_LOG).drafts
    stamped = "".join(f"2026-05-14 22:40:29.046 | {line}\n" for line in OLD_LLAMA.splitlines())
    assert observed(tmp_path, stamped).drafts == one.drafts
    with pytest.raises(InputError, match="does not say"):
        observed(tmp_path, "".join(line for line in OLD_LLAMA.splitlines(keepends=True) if "statistics" not in line))


def old_llama(slot: int, output: int, own: tuple[int, int], sums: tuple[int, int, int]) -> str:
    """A request's lines as in May 2026: what was accepted of how many drafted, and drafts, drafted and accepted so far."""
    number, drafted, accepted = sums
    return (
        f"slot print_timing: id  {slot} | task {slot} |\nprompt eval time = 100.0 ms / 80 tokens\n"
        f"       eval time = 1000.0 ms / {output} tokens\n"
        f"draft acceptance rate = {own[0] / own[1]:.5f} ( {own[0]} accepted / {own[1]} generated)\n"
        f"statistics mtp: #calls(b,g,a) = 2 9 9, #gen drafts = {number}, #acc drafts = {number}, #gen tokens = {drafted}, "
        f"#acc tokens = {accepted}, dur(b,g,a) = 0.1, 9.7, 0.1 ms\n"
    )


def test_sums_of_llama_cpps_slots_that_share_a_drafter_are_of_all_of_them(tmp_path: Path) -> None:
    """Requests that overlap are known together alone; those that follow each other, each by itself."""
    overlapping = observed(
        tmp_path, old_llama(2, 43, (26, 26), (28, 48, 48)) + old_llama(3, 840, (478, 488), (295, 514, 504))
    )
    assert overlapping.drafts == Drafts(drafts=295, drafted=514, accepted=504)
    assert (overlapping.told_apart, overlapping.requests, overlapping.generated) == ((), 2, 883)
    assert overlapping.request_steps == 883 - 2 - 504
    following = observed(tmp_path, old_llama(0, 60, (25, 30), (15, 30, 25)) + old_llama(1, 500, (114, 570), (300, 600, 139)))
    assert following.drafts == Drafts(drafts=300, drafted=600, accepted=139)
    assert [one.drafts.drafts for one in following.told_apart] == [15, 285]
    own = observed(tmp_path, old_llama(0, 60, (25, 30), (15, 30, 25)) + old_llama(1, 500, (114, 570), (285, 570, 114)))
    assert [one.drafts.drafts for one in own.told_apart] == [15, 285]  # sums of each slot alone


@pytest.mark.parametrize("log", [LLAMA_LOG, OLD_LLAMA], ids=["newer", "older"])
def test_llama_cpp_started_again_and_of_two_pods_numbers_its_requests_anew(log: str, tmp_path: Path) -> None:
    """Slots and tasks are the same ones, and sums over a slot's requests begin anew: all of them count."""
    plain = observed(tmp_path, log)
    for text in (
        log + log,
        interleaved(*("".join(f"pod-{i} | {line}\n" for line in log.splitlines()) for i in range(2))),
        interleaved(*("".join(f"10.0.0.10{i} | {line}\n" for line in log.splitlines()) for i in range(2))),
        "".join(
            json.dumps({"log": line, "kubernetes": {"pod_name": f"p{i}"}}) + "\n" for line in log.splitlines() for i in "01"
        ),
    ):
        one = observed(tmp_path, text)
        assert one.told_apart == (*plain.told_apart, *plain.told_apart)
    assert observed(tmp_path, "".join(f"{i}:{line}\n" for i, line in enumerate(log.splitlines()))).drafts == plain.drafts


def test_sums_that_fall_are_of_a_server_that_was_started_again(tmp_path: Path) -> None:
    again = OLD_LLAMA.replace("task 0", "task 4").replace("690,", "90,").replace("1207", "207").replace("1186", "186")
    found = observed(tmp_path, OLD_LLAMA + again)
    assert [request.drafts.drafts for request in found.told_apart] == [690, 90]


def test_llama_cpp_scrapes_of_two_servers_are_refused(tmp_path: Path) -> None:
    for name, began in (("a", 1), ("b", 900)):
        (tmp_path / name).write_text(f"process_start_time_seconds {began}\n{LLAMA_METRICS}")
    with pytest.raises(InputError, match="2 servers"):
        read_files([tmp_path / "a", tmp_path / "b"])
    assert observed(tmp_path, LLAMA_LOG).drafts is not None
