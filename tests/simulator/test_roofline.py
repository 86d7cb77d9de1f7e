"""Rooflines: model sizes against their cards, the arithmetic against hand-worked values, the error against measurements."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from simulator.errors import InputError
from simulator.hardware.catalogue import Asked, devices, find_profile, models
from simulator.hardware.cost import Longest, StepLoad
from simulator.hardware.model import FORMAT_BYTES, MARKOV_RANK, Attention, Format
from simulator.hardware.profile import Profile
from simulator.hardware.roofline import (
    TOKENS,
    Assumptions,
    Machine,
    draft_seconds,
    experts_loaded,
    gpus_needed,
    kv_capacity_tokens,
    roofline,
)

B300 = "b300/deepseek-v4-flash"


# --- models against what their makers state -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "total", "active"),
    [
        ("qwen3-4b", 4.0e9, 4.0e9),
        ("qwen3-8b", 8.2e9, 7.6e9),  # 0.6 B of embedding are looked up, not multiplied
        ("qwen3-14b", 14.8e9, 14.0e9),
        ("gemma-4-12b", 11.95e9, 11.95e9),
        ("deepseek-v4-flash", 284e9, 13e9),
        ("deepseek-v4-pro", 1.6e12, 49e9),
    ],
)
def test_parameters_add_up_to_the_model_card(model: str, total: float, active: float) -> None:
    assert models()[model].parameters == pytest.approx(total, rel=0.02)
    assert models()[model].active_parameters == pytest.approx(active, rel=0.02)


def test_projections_follow_the_configuration() -> None:
    """config.json of Qwen3-14B: width 5120, 40 heads and 8 key-value heads of 128, MLP 17408."""
    model = models()["qwen3-14b"]
    assert model.attention[0].projection_parameters == 5120 * (40 + 2 * 8) * 128 + 40 * 128 * 5120
    assert model.mlp_parameters == 3 * 5120 * 17408
    assert model.attention[0].entry_bytes == 2 * 8 * 128 * 2


def test_weights_of_v4_flash_weigh_what_the_checkpoint_weighs() -> None:
    """huggingface.co/fraserprice/DeepSeek-V4-Flash-DSpark: about 167 GB with the DSpark module."""
    model = models()["deepseek-v4-flash"]
    assert model.weight_bytes + model.drafter_bytes("dspark") == pytest.approx(167e9, rel=0.02)


# --- rooflines against hand-worked values ---------------------------------------------------------------------------------


def machine(device: str = "h100", gpus: int = 1) -> Machine:
    return Machine(devices()[device], gpus, Assumptions())


def test_one_token_takes_the_time_to_read_the_weights() -> None:
    """Qwen3-4B in bf16: 4.022e9 parameters of 2 bytes at 80 % of 3.35 TB/s, 36 × 8 launches, 6 passes over 151936 logits."""
    read = 4.022272e9 * 2 / (0.8 * 3.35e12)
    rest = 36 * 8 * 2e-6 + 6 * (2e-6 + 151936 * 4 / (0.8 * 3.35e12))
    assert read == pytest.approx(3.0017e-3, rel=1e-4)
    assert find_profile("h100/qwen3-4b").verify.at(1) == pytest.approx(read + rest, rel=1e-6)


def test_many_tokens_take_the_time_of_their_arithmetic() -> None:
    """Beyond the ridge a token costs 2 · 4.022e9 FLOPs at 60 % of 989 TFLOPS, and its logits."""
    verify = find_profile("h100/qwen3-4b").verify
    slope = 2 * 4.022272e9 / (0.6 * 989e12) + 6 * 151936 * 4 / (0.8 * 3.35e12)
    assert (verify.at(16384) - verify.at(4096)) / (16384 - 4096) == pytest.approx(slope, rel=1e-6)


def test_prompts_have_logits_for_their_last_token_alone() -> None:
    """2,048 tokens of a prompt go through Qwen3-4B's layers, 3.633e9 of 4.022e9 parameters, at 60 % of 989 TFLOPS; the head
    (2,560 × 151,936) is read for one of them, whose logits are passed over six times."""
    cost = find_profile("h100/qwen3-4b").cost("none", 0, 64, 8192)
    head, bandwidth = 2560 * 151_936, 0.8 * 3.35e12
    layers_s = 2048 * 2 * (4.022272e9 - head) / (0.6 * 989e12) + 36 * 8 * 2e-6
    last_s = 2 * head / bandwidth + 6 * (2e-6 + 151_936 * 4 / bandwidth)
    held = StepLoad(0, 1, 1, 2048)
    assert cost.step(held, 0, 0, Longest(0, 0)).target_s == pytest.approx(layers_s + last_s, rel=1e-3)
    assert cost.fixed(held, 0) + cost.target(held, 0) == pytest.approx(cost.step(held, 0, 0, Longest(0, 0)).seconds)
    every = StepLoad(0, 2048, 2048, 2048)  # as many prompts of one token
    assert cost.step(every, 0, 0, Longest(0, 0)).target_s == cost.target(every, 0) == cost.eager_s[2048]


@pytest.mark.parametrize(("name", "share"), [("qwen3-4b", 0.16), ("qwen3-8b", 0.12)])
def test_what_prompts_take_less_without_logits(name: str, share: float) -> None:
    """As CHANGELOG.md says: of 2,048 tokens, beside every one of them emitting a token."""
    cost = find_profile(f"h100/{name}").cost("none", 0, 64, 8192)
    last, every = (cost.step(StepLoad(0, 1, n, 2048), 0, 0, Longest(0, 0)).seconds for n in (1, 2048))
    assert 1 - last / every == pytest.approx(share, abs=0.005)


def test_launching_is_of_what_is_no_logits() -> None:
    """A prompt of 600 tokens: layers are done before their kernels are launched; then the last token's logits."""
    profile = find_profile("h100/qwen3-8b")
    cost, load = profile.cost("none", 0, 64, 8192), StepLoad(0, 1, 1, 600)
    last_s = profile.logits_s_per_token
    assert profile.launches is not None
    assert profile.verify.at(600) - 600 * last_s < profile.launches.seconds
    assert cost.step(load, 0, 0, Longest(0, 0)).target_s == pytest.approx(profile.launches.seconds + last_s)


def test_grid_is_fine_enough() -> None:
    """Between the points of a curve the straight line is within 2 % of the formula."""
    counts = np.arange(1, 16385)
    for model in ["qwen3-4b", "deepseek-v4-flash"]:
        exact = machine().verify(models()[model], counts.astype(float))
        line = np.interp(counts, TOKENS, exact[np.array(TOKENS) - 1])
        np.testing.assert_allclose(line, exact, rtol=0.02)


def test_context_is_read_once_for_a_request() -> None:
    """Qwen3-4B keeps 36 · 2 · 8 · 128 · 2 = 147,456 bytes a token."""
    profile = find_profile("h100/qwen3-4b")
    assert profile.context_s_per_token == pytest.approx(147_456 / (0.8 * 3.35e12), rel=1e-6)
    assert profile.prefill_s_per_pair == pytest.approx(36 * 4 * 32 * 128 / (0.5 * 989e12), rel=1e-6)


def test_cache_gets_what_the_weights_leave() -> None:
    device, model = devices()["h100"], models()["qwen3-4b"]
    room = 80e9 * 0.9 - 4.022272e9 * 2 - 3e9
    assert kv_capacity_tokens(device, model, 1, Assumptions()) == int(room / 147_456)
    assert find_profile("h100/qwen3-4b").kv_capacity_tokens == int(room / 147_456)


LAYER, ENTRY = 26_214_400 + 74_711_040, 4096
"""Parameters of a layer of Qwen3-4B, and bytes that it keeps of a token: 2 · 8 · 128 · 2."""


@pytest.mark.parametrize(
    ("kind", "parameters", "entries"),
    [
        ("dspark", 5 * LAYER + 5 * 2560**2 + 2 * MARKOV_RANK * 151_936, 5),
        ("dflash", 5 * LAYER + 5 * 2560**2, 5),
        ("eagle3", 2 * 2560 * (32 + 16) * 128 + 32 * 128 * 2560 + 3 * 2560 * 9728, 1),
        ("mtp", LAYER + 2 * 2560**2, 1),
    ],
)
def test_a_drafter_takes_memory_with_its_weights_and_its_cache(kind: str, parameters: int, entries: int) -> None:
    room = 80e9 * 0.9 - 4.022272e9 * 2 - 3e9 - 2 * parameters
    assert find_profile("h100/qwen3-4b").capacity("mine", kind) == int(room / ((36 + entries) * ENTRY))


def test_none_and_what_has_no_weights_pay_for_no_drafter() -> None:
    profile = find_profile("h100/qwen3-4b")
    for name in ("none", "ngram"):
        assert profile.capacity(name, name) == profile.kv_capacity_tokens
    assert profile.capacity("dspark", "mtp") == profile.capacity("mtp", "mtp")  # a name that is another kind's


def test_a_drafter_that_does_not_fit_is_refused() -> None:
    profile = replace(find_profile("h100/qwen3-4b"), kv_capacity_by_drafter={"dspark": 0})
    with pytest.raises(InputError, match="dspark does not fit beside Qwen/Qwen3-4B on 1 GPU"):
        profile.capacity("dspark", "dspark")


@pytest.mark.parametrize(("tokens", "loaded"), [(0, 0.0), (1, 6.0), (2, 6 + 6 * (1 - 6 / 256)), (10_000, 256.0)])
def test_experts_loaded(tokens: int, loaded: float) -> None:
    assert float(experts_loaded(256, 6, tokens)) == pytest.approx(loaded)


def test_experts_that_are_chosen_unevenly_fill_up_later() -> None:
    """Popularities that are gamma distributed: a large shape is even routing, with a small one more tokens are needed."""
    tokens = np.array([1, 8, 64, 512, 1e6])
    even, uneven = experts_loaded(256, 6, tokens), experts_loaded(256, 6, tokens, 0.7)
    assert uneven[0] == pytest.approx(6)
    assert (uneven[1:4] < even[1:4]).all()
    assert uneven[-1] == pytest.approx(256)
    assert experts_loaded(256, 6, tokens[1:4], 1e6) == pytest.approx(even[1:4], rel=0.02)


def test_experts_loaded_is_the_mean_of_a_draw() -> None:
    rng = np.random.default_rng(0)
    draws = [np.unique(np.concatenate([rng.choice(64, 4, replace=False) for _ in range(10)])).size for _ in range(2000)]
    expected = float(experts_loaded(64, 4, 10))
    assert abs(np.mean(draws) - expected) < 4 * np.std(draws) / np.sqrt(len(draws))


def test_mixture_reads_more_experts_the_more_tokens() -> None:
    """V4-Flash on 4 B300: from 1 to 2 tokens a layer loads so many more experts of 13.4 MB, a quarter on each GPU."""
    model = models()["deepseek-v4-flash"]
    one, two = machine("b300", 4).layers(model, model.attention[0], np.array([1.0, 2.0])) / model.attention[0].layers
    more = float(experts_loaded(256, 6, 2, machine("b300", 4).given.routing_shape)) - 6
    loads = more * 3 * 4096 * 2048 * (0.5 + 1 / 32) / (0.8 * 8e12) / 4
    moves = 2 * 2 * (3 / 4) * 4096 * 2 / 900e9
    assert two - one == pytest.approx(loads + moves, rel=1e-6)


def test_every_token_of_a_mixture_costs_a_share_of_a_pass_over_one() -> None:
    """Beside arithmetic and weights: V4-Flash on 4 B300 comes near to the 20.6 ms that its engine timed at 1,024 tokens."""
    model, own = models()["deepseek-v4-flash"], machine("b300", 4)
    one, many = own.verify(model, np.array([1.0, 1024.0]))
    assert many == pytest.approx(20.6e-3, rel=0.15)
    without = replace(own, given=replace(own.given, mixture_share_per_token=0.0)).verify(model, np.array([1.0, 1024.0]))
    assert without[0] == one
    assert many - without[1] == pytest.approx(1023 / 1024 * one)


def test_fp8_runs_in_bf16_where_there_are_no_fp8_cores() -> None:
    assert devices()["a100"].flops("fp8") == devices()["a100"].flops("fp4") == 312e12
    assert "bf16 rate" in find_profile("a100/deepseek-v4-flash").provenance["weights"]
    assert "bf16 rate" not in find_profile("h100/deepseek-v4-flash").provenance["weights"]


def test_windowed_and_compressed_attention() -> None:
    """128 tokens one by one, then one entry for 4, of which 512 are read; the index is read whole."""
    layers = Attention(
        layers=2, heads=4, head_dim=8, projection_parameters=0, entry_bytes=10, window=128, ratio=4, selected=512,
        index_bytes=3, index_flops=5,
    )  # fmt: skip
    assert layers.held_bytes(64) == 2 * (64 * 10 + 16 * 13)
    assert layers.held_bytes(8192) == 2 * (128 * 10 + 2048 * 13)
    assert layers.read_bytes(8192) == 2 * ((128 + 512) * 10 + 2048 * 3)
    assert layers.flops(8192) == 2 * (4 * 4 * 8 * (128 + 512) + 2048 * 5)
    plain = Attention(layers=1, heads=1, head_dim=1, projection_parameters=0, entry_bytes=10)
    assert plain.held_bytes(100) == plain.read_bytes(100) == 1000


def test_gemma_grows_by_its_global_layers_only() -> None:
    """16 KiB a token beyond the window (github.com/raullenchai/Rapid-MLX/pull/1423)."""
    held = [sum(a.held_bytes(context) for a in models()["gemma-4-12b"].attention) for context in (4096, 4097)]
    assert held[1] - held[0] == 16 * 1024


def test_windows_are_averaged_at_the_context_that_is_asked() -> None:
    """Gemma keeps 16 KiB of every token, and 320 KiB of each of the last 1,024."""
    usual, long = (find_profile("h100/gemma-4-12b", Asked(mean_context=n)) for n in (None, 8192))
    assert (usual.mean_context_tokens, long.mean_context_tokens) == (2048, 8192)
    for profile, kib in ((usual, 16 + 320 / 2), (long, 16 + 320 / 8)):
        assert profile.context_s_per_token == pytest.approx(kib * 1024 / (0.8 * 3.35e12))
    held = usual.kv_capacity_tokens / long.kv_capacity_tokens
    assert held == pytest.approx((16 + 320 / 8) / (16 + 320 / 2), rel=1e-4)
    even, same = (find_profile("h100/qwen3-8b", Asked(mean_context=n)) for n in (None, 8192))
    assert replace(same, name=even.name, provenance=even.provenance) == even
    assert even.mean_context_tokens == 0


def test_gpus_split_weights_and_pay_for_all_reduces() -> None:
    model = models()["qwen3-4b"]
    one, two = (machine(gpus=n).layers(model, model.attention[0], np.array([1.0]))[0] for n in (1, 2))
    launches = 36 * 8 * 2e-6
    reduces = 36 * 2 * (10e-6 + 1 * 2560 * 2 / 450e9)
    assert two == pytest.approx((one - launches) / 2 + launches + reduces, rel=1e-6)


def test_a_latent_cache_is_not_split() -> None:
    given, device, model = Assumptions(), devices()["h200"], models()["deepseek-v4-flash"]
    two, four = (roofline(device, model, name="x", gpus=n, given=given) for n in (2, 4))
    assert two.context_s_per_token == four.context_s_per_token
    qwen = [roofline(device, models()["qwen3-8b"], name="x", gpus=n).context_s_per_token for n in (1, 2, 8, 16)]
    assert qwen[0] == pytest.approx(2 * qwen[1])
    assert qwen[2] == qwen[3]


def test_as_few_gpus_as_the_recipes_say() -> None:
    """V4-Pro on 8 H200 or 8 B200 and V4-Flash on 2 H20 of 96 GB are what people run; on 80 GB cards it takes 4."""
    needed = {name: gpus_needed(devices()[name.split("/")[0]], models()[name.split("/")[1]], Assumptions()) for name in [
        "h100/qwen3-14b", "rtx4090/qwen3-4b", "rtx4090/qwen3-8b", "h100/deepseek-v4-flash", "h200/deepseek-v4-pro",
        "b200/deepseek-v4-pro",
    ]}  # fmt: skip
    assert list(needed.values()) == [1, 1, 2, 4, 8, 8]


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(InputError, match=r"Qwen/Qwen3-14B does not fit on 1 × NVIDIA GeForce RTX 4090"):
        roofline(devices()["rtx4090"], models()["qwen3-14b"], name="mine", gpus=1)


@pytest.mark.parametrize(("device", "model"), [("rtx4090", "qwen3-14b"), ("h100", "deepseek-v4-flash")])
def test_what_is_said_to_fit_does(device: str, model: str) -> None:
    """The fewest GPUs that do, and fp8 where that is enough; half as many do not."""
    with pytest.raises(InputError) as raised:
        find_profile(f"{device}/{model}", Asked(gpus=1))
    found = re.search(r"--tp (\d+)(?: or (--weights fp8))? fits", str(raised.value))
    assert found is not None, raised.value
    gpus = int(found[1])
    find_profile(f"{device}/{model}", Asked(gpus=gpus))
    with pytest.raises(InputError):
        find_profile(f"{device}/{model}", Asked(gpus=gpus // 2))
    if found[2]:
        find_profile(f"{device}/{model}", Asked(gpus=1, weights="fp8"))
    else:
        with pytest.raises(InputError):
            find_profile(f"{device}/{model}", Asked(gpus=1, weights="fp8"))


def test_dflash_is_one_pass_and_dspark_adds_a_walk() -> None:
    """Qwen3-4B, γ = 7, one request: weights are read once; the walk reads [V, 256] and the logits for every token."""
    bandwidth, ones = 0.8 * 3.35e12, np.ones(1)
    dflash, dspark = (draft_seconds(machine(), models()["qwen3-4b"], d, 7, ones)[0] for d in ("dflash", "dspark"))
    weights = 5 * 2560**2 + 5 * (26_214_400 + 74_711_040) + 2560 * 151_936
    draws = 6 * (2e-6 + 7 * 151_936 * 4 / bandwidth)
    assert dflash == pytest.approx(weights * 2 / bandwidth + 5 * 8 * 2e-6 + draws, rel=1e-6)
    walk = (256 * 151_936 * 2 + 151_936 * 8) / bandwidth + 3 * 2e-6 + 6 * (2e-6 + 151_936 * 4 / bandwidth)
    assert dspark - dflash == pytest.approx(7 * walk - draws, rel=1e-6)


@pytest.mark.parametrize(("weights", "mtp"), [("fp8", "fp8"), ("int4", "bf16"), ("fp4", "bf16"), ("bf16", "bf16")])
def test_drafters_keep_bf16_beside_smaller_targets(weights: Format, mtp: Format) -> None:
    """As they are published beside targets in FP8, AWQ and NVFP4; MTP comes with a target in FP8, and is as that is."""
    plain, small = models()["qwen3-8b"], replace(models()["qwen3-8b"], dense_format=weights, expert_format=weights)
    one, bandwidth = np.ones(1), 0.8 * 3.35e12
    for kind in ("dspark", "dflash", "eagle3"):
        assert small.drafter_bytes(kind) == plain.drafter_bytes(kind)
        assert draft_seconds(machine(), small, kind, 7, one) == draft_seconds(machine(), plain, kind, 7, one)
    saved = FORMAT_BYTES["bf16"] - FORMAT_BYTES[mtp]
    parameters = 41_943_040 + 150_994_944 + 2 * 4096**2
    assert plain.drafter_bytes("mtp") - small.drafter_bytes("mtp") == pytest.approx(saved * parameters)
    faster = draft_seconds(machine(), plain, "mtp", 1, one) - draft_seconds(machine(), small, "mtp", 1, one)
    assert faster[0] == pytest.approx(saved * parameters / bandwidth, abs=1e-9)


def test_drafters_within_a_checkpoint_are_in_its_formats() -> None:
    """DeepSeek-V4's come with it."""
    model = models()["deepseek-v4-flash"]
    apart = replace(model, drafters=replace(model.drafters, within=False))
    for kind in ("dspark", "dflash"):
        assert model.drafter_bytes(kind) < 0.5 * apart.drafter_bytes(kind)
    assert model.of_mtp == model
    experts = replace(models()["qwen3-8b"], expert_format="fp4")  # as gpt-oss is published
    assert experts.of_mtp == experts


def test_autoregressive_drafters_read_layer_and_head_for_every_token() -> None:
    bandwidth, ones, model = 0.8 * 3.35e12, np.ones(1), models()["qwen3-4b"]
    layer = 2 * 2560 * (32 + 16) * 128 + 32 * 128 * 2560 + 3 * 2560 * 9728
    token = (layer + 2560 * 151_936) * 2 / bandwidth + 8 * 2e-6 + 6 * (2e-6 + 151_936 * 4 / bandwidth)
    assert draft_seconds(machine(), model, "eagle3", 4, ones)[0] == pytest.approx(4 * token, rel=1e-6)
    mtp = (26_214_400 + 74_711_040 + 2 * 2560**2 + 2560 * 151_936) * 2 / bandwidth
    assert draft_seconds(machine(), model, "mtp", 1, ones)[0] == pytest.approx(
        mtp + 8 * 2e-6 + 6 * (2e-6 + 151_936 * 4 / bandwidth), rel=1e-6
    )


# --- rooflines against published measurements: what docs/hardware.md says of their error ----------------------------------


def step_ms(profile: Profile, requests: int, context: int) -> float:
    cost = profile.cost("none", 0, requests, requests)
    seconds = cost.verify_s[requests] + cost.overhead_s + cost.overhead_s_per_request * requests
    return float(seconds + cost.context_s_per_token * requests * context) * 1e3


QWEN3_8B_H100 = {
    (1, 192): 6.826, (4, 192): 6.922, (16, 192): 7.139, (64, 192): 8.148, (128, 192): 9.339, (256, 192): 12.832,
    (512, 192): 21.602,
    (1, 640): 6.858, (16, 640): 7.530, (64, 640): 9.494, (128, 640): 12.004, (256, 640): 18.084, (384, 640): 24.779,
    (1, 3072): 6.998, (4, 3072): 7.527, (16, 3072): 9.464, (32, 3072): 11.865, (64, 3072): 17.053,
    (1, 8448): 7.301, (4, 8448): 8.617, (7, 8448): 10.182,
}  # fmt: skip
"""(requests, mean context): median inter-token latency in ms; vLLM 0.30.0, bf16, github.com/tgarg01/silybench-data."""


@pytest.mark.parametrize(("requests", "context"), QWEN3_8B_H100)
def test_the_step_the_assumptions_were_set_on(requests: int, context: int) -> None:
    """Within 8 %, which is a fit and no check."""
    assert step_ms(find_profile("h100/qwen3-8b"), requests, context) == pytest.approx(
        QWEN3_8B_H100[requests, context], rel=0.085
    )


def test_cache_of_the_same_run() -> None:
    """376,800 tokens (1472 users of 256, 327 of 1152); ours holds 2 GB of drafter besides."""
    assert find_profile("h100/qwen3-8b").kv_capacity_tokens == pytest.approx(376_800, rel=0.1)


@pytest.mark.parametrize(
    ("name", "requests", "measured", "low", "high"),
    [
        ("h100/qwen3-14b", 8, 12.54, 0.90, 1.0),
        ("h100/qwen3-14b", 32, 15.01, 0.80, 1.0),
        ("h100/qwen3-14b", 128, 26.16, 0.58, 1.0),
        ("b200/qwen3-14b", 8, 7.16, 0.78, 1.0),
        ("b200/qwen3-14b", 16, 7.84, 0.72, 1.0),
    ],
)
def test_served_steps_of_another_engine(name: str, requests: int, measured: float, low: float, high: float) -> None:
    """ML.ENERGY leaderboard, lm-arena-chat, median inter-token latency, an older vLLM; contexts not given, 500 assumed.

    The roofline is the faster, the more so the more requests: host work of that engine is not in it.
    """
    assert low <= step_ms(find_profile(name), requests, 500) / measured <= high


def test_the_sequential_head_against_the_paper() -> None:
    """Figure 4, 128 requests: for each further token DSpark costs 0.177 ms more than DFlash. Engine and GPU not given."""
    many, model = np.array([128.0]), models()["qwen3-4b"]

    def extra(drafted: int) -> float:
        times = [draft_seconds(machine(), model, drafter, drafted, many)[0] for drafter in ("dspark", "dflash")]
        return float(times[0] - times[1])

    assert 0.5 <= (extra(16) - extra(4)) / 12 / 0.177e-3 <= 1.0


@pytest.mark.parametrize(("tokens", "low", "high"), [(1, 0.9, 1.0), (16, 1.0, 1.2), (64, 1.0, 1.25), (256, 0.95, 1.15),
                                                     (1024, 0.8, 1.0)])  # fmt: skip
def test_roofline_of_the_published_device(tokens: int, low: float, high: float) -> None:
    """The kernels a layer were set at one token, what a mixture's tokens add at 1,024; the rest is a check."""
    given = Assumptions(context_tokens=8192)
    profile = roofline(devices()["b300"], models()["deepseek-v4-flash"], name="x", gpus=4, given=given)
    ours = profile.verify.at(tokens) + tokens / 8 * 8192 * profile.context_s_per_token
    assert low <= ours / find_profile(B300).verify.at(tokens) <= high
    assert 0.45 <= profile.draft["dspark"].at(7, 256) / 5.38e-3 <= 1.0
