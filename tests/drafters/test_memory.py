"""No cycle holds a tensor: what a decode allocates is given back at once, with Python's collector off."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch

from drafters.decoding import DecodeRequest, decode
from drafters.dense import DenseText, record_anchors
from drafters.kinds.contract import Drafter
from drafters.serving import Server
from drafters.target import Target
from simulator.policies import Fixed, PolicySpec
from simulator.records import Sampling
from tests.drafters.conftest import ALL, END
from tests.selection import few


def tensors_alive() -> int:
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def without_collector(work: Callable[[], object]) -> tuple[int, int]:
    """Tensors alive before and after doing something ten times, once more before to set up what stays."""
    work()
    gc.collect()
    gc.disable()
    try:
        before = tensors_alive()
        for _ in range(10):
            work()
        return before, tensors_alive()
    finally:
        gc.enable()


@pytest.mark.parametrize("name", few(ALL, "dspark", "eagle3", "ngram"))
def test_decoding_leaves_nothing_to_the_collector(name: str, make: Callable[[str], Drafter], target: Target) -> None:
    drafter = make(name)
    requests = [DecodeRequest((1, 3, 4, 1), 6 + i, (i,)) for i in range(5)]
    policy = PolicySpec.parse("threshold:0.5").bind() if getattr(drafter, "confident", False) else None
    before, after = without_collector(
        lambda: list(decode(target, drafter, requests, Sampling(), max_batch=3, policy=policy))
    )  # fmt: skip
    assert after == before


def test_serving_leaves_nothing_to_the_collector(make: Callable[[str], Drafter], target: Target) -> None:
    drafter = make("dspark")

    def serve() -> None:
        requests = (DecodeRequest((1, 3, 4, 1), 4, (i,)) for i in range(4))
        server = Server(target, drafter, Sampling(), Fixed(2), requests, users=2, rows=2, longest=8)
        server.run(60.0)
        assert len(server.served) == 4

    before, after = without_collector(serve)
    assert after == before


def test_dense_recording_leaves_nothing_to_the_collector(make: Callable[[str], Drafter], target: Target) -> None:
    drafters = [make(name) for name in ALL if name != "none"]
    text = DenseText((1, 3, 4, 1), (3, 4, 1, END), (), True, (0,))
    before, after = without_collector(lambda: record_anchors(target, drafters, [text], Sampling()))
    assert after == before
