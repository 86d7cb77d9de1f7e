"""On a GPU: the law of what is committed, greedy responses, attention without masks, graphs. Skipped where there is none."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from scipy.stats import chi2_contingency
from torch import Tensor
from transformers import Qwen3ForCausalLM

from drafters.cache import Positions
from drafters.decoding import DecodeRequest, decode
from drafters.kinds.ngram import NGram
from drafters.sampling import Verdict
from drafters.target import Target
from harness.hardware.attention import reads_once
from harness.hardware.bench import Bench, BenchPoint, captured
from simulator.records import Sampling
from tests.drafters.conftest import END, GAMMA, Make, build_micro, micro_config, randomise
from tests.drafters.families import check_decoding, check_recording, family_model, prompts
from tests.drafters.test_attention import relative, test_attention_of_a_block_is_as_near_to_the_exact_as_pytorchs
from tests.drafters.test_families import DECODING, STATE, known
from tests.drafters.test_lossless import (
    NEW_TOKENS,
    PROMPT,
    REJECT,
    test_greedy_output_is_the_targets_own,
    test_responses_follow_the_targets_law,
    test_results_do_not_depend_on_the_batch,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
__all__ = [  # run here with the fixtures below
    "test_attention_of_a_block_is_as_near_to_the_exact_as_pytorchs",
    "test_greedy_output_is_the_targets_own",
    "test_responses_follow_the_targets_law",
    "test_results_do_not_depend_on_the_batch",
]
SAMPLES = 12_000


def on_gpu(dtype: torch.dtype) -> Target:
    model = Qwen3ForCausalLM(micro_config())
    randomise(model, 1, 0.35)
    model.generation_config.eos_token_id = END
    return Target(model.to("cuda", dtype))


@pytest.fixture(scope="module")
def target() -> Target:
    return on_gpu(torch.float32)


@pytest.fixture
def device() -> str:
    return "cuda"


@pytest.fixture(scope="module")
def make(target: Target) -> Make:
    return build_micro(target)


@pytest.mark.parametrize("name", ["dspark", "dflash", "eagle3", "mtp", "ngram"])
def test_bfloat16_responses_follow_plain_decoding(name: str) -> None:
    """χ² of two samples: the law itself cannot be had, since passes of different widths round otherwise."""
    target = on_gpu(torch.bfloat16)
    make = build_micro(target)

    def responses(drafter: str, seed: int) -> Counter[tuple[int, ...]]:
        requests = [DecodeRequest(PROMPT, NEW_TOKENS, (seed, i)) for i in range(SAMPLES)]
        return Counter(tuple(d.token_ids) for _, d in decode(target, make(drafter), requests, Sampling(), max_batch=4000))

    plain, drafted = responses("none", 1), responses(name, 2)
    common = [r for r in plain if plain[r] + drafted[r] >= 16]
    table = [[seen[r] for r in common] for seen in (plain, drafted)]
    for row, seen in zip(table, (plain, drafted), strict=True):
        row.append(SAMPLES - sum(row))
        assert sum(seen.values()) == SAMPLES
    assert chi2_contingency(table).pvalue > REJECT


@torch.inference_mode()
def test_a_replayed_pass_says_what_an_eager_one_says() -> None:
    config = micro_config(vocab_size=64, head_dim=64, hidden_size=128)
    target = Target(Qwen3ForCausalLM(config).to("cuda", torch.bfloat16))
    with reads_once(target) as attention:
        assert attention is not None
        bench = Bench(target, {"dspark": {GAMMA: build_micro(target)("dspark")}}, abreast=True)
        for tokens, context in ((1, 12), (GAMMA + 1, 300)):
            point = BenchPoint("target", 3, tokens, context)
            bench.reserve([point])
            work = bench.work(point)
            eager = work()
            assert isinstance(eager, Verdict)
            kept: list[Verdict] = []
            replay = captured(lambda: kept.append(work()), target.device)  # type: ignore[arg-type]  # noqa: B023
            replay()
            torch.cuda.synchronize()
            assert torch.equal(kept[-1].next_token, eager.next_token)
            assert torch.equal(kept[-1].accepted, eager.accepted)
        for point in (BenchPoint("draft", 2, GAMMA, 40, "dspark"), BenchPoint("prefill", 1, 40, 30)):
            assert bench.measure(point, 3) > 0
        assert bench._eager == {}


@torch.inference_mode()
def test_passes_without_masks_are_the_models_own_in_float16() -> None:
    target = on_gpu(torch.float16)
    ids = torch.arange(2 * 40, device="cuda").view(2, 40) % target.vocab_size

    def passes() -> Tensor:
        cache, seen = target.new_cache(2, 40), []
        for start, count in ((0, 20), (20, 8), (28, 1)):
            positions = Positions.of((start, start), count, target.device)
            seen.append(target.forward(ids[:, start : start + count], positions, cache, slice(0, 2), []).hidden)
        return torch.cat(seen, 1).double()

    own = passes()
    with reads_once(target) as attention:
        assert attention is not None
        assert relative(passes(), own) < 5e-3


@pytest.mark.parametrize("family", known(DECODING))
def test_families_decode_as_the_models_own(family: str) -> None:
    target = Target(family_model(family).to("cuda"))
    assert target.cannot_decode is None
    check_decoding(target)


@pytest.mark.parametrize("family", known(STATE))
def test_families_that_keep_a_state_record(family: str) -> None:
    check_recording(Target(family_model(family).to("cuda")))


@pytest.mark.parametrize("family", known(DECODING))
def test_families_are_not_refused_for_rounding_in_bfloat16(family: str) -> None:
    """Passes of other shapes round otherwise on a GPU; the check of a target that is loaded allows for it."""
    target = Target(family_model(family).to("cuda", torch.bfloat16))
    assert target.cannot_decode is None
    requests = [DecodeRequest(prompt, 12, (i,)) for i, prompt in enumerate(prompts())]
    done = dict(decode(target, NGram(3), requests, Sampling(), max_batch=3))
    assert all(done[i].token_ids for i in range(3))
