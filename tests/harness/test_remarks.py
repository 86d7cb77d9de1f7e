"""Lines for people of a file of measurements, against the profile that it is fitted on."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.hardware.remarks import falling, others
from simulator.hardware.catalogue import Asked, find_profile
from tests.harness.test_calibration_of_hardware import points


@pytest.mark.parametrize(
    ("line", "base", "said"),
    [
        (
            "# model: llama-3.1-8b (llama-3.1-8b.config.json), bf16; device: one L40S; vLLM",
            "l40s/qwen3-8b",
            "is of Qwen/Qwen3-8B",
        ),
        ("# model: Qwen/Qwen3-8B; device: one L40S; vLLM, captured sizes to 512", "l40s/qwen3-8b", ""),
        ("# Qwen3-8B on a100", "h100/qwen3-8b", "a100, and h100/qwen3-8b is of NVIDIA H100"),
        ("# H100 80GB HBM3, vLLM 0.33", "h100-measured/qwen3-8b", ""),
        ("# 2 x H200", "h200/qwen3-8b", "2 GPUs, and h200/qwen3-8b has 1 GPU: --gpus"),
        ("# two NVIDIA H200 against one H200", "h200/qwen3-8b", ""),
        ("# MI355X beside B300", "b300/deepseek-v4-flash", ""),
        ("# vLLM, TP8, isl 1024", "h100/qwen3-8b", ""),
        ("# model: deepseek-ai/DeepSeek-V4-Flash, 4x B300", "b300/deepseek-v4-flash", ""),
    ],
)
def test_what_a_file_names_is_held_against_its_base(line: str, base: str, said: str) -> None:
    found = others([line], find_profile(base))
    assert said in " ".join(found) if said else found == []


def test_a_base_on_more_gpus_than_the_file_says() -> None:
    [found] = others(["# one L40S"], find_profile("l40s/qwen3-8b", Asked(gpus=2)))
    assert found.startswith("1 GPU, and l40s/qwen3-8b")


def test_a_server_that_does_less_for_more_is_named(tmp_path: Path) -> None:
    values = ((1, 100), (8, 700), (64, 4000), (128, 2500), (256, 3900))
    rows = "".join(f"{users},none,0,,512,256,{value},given\n" for users, value in values)
    [said] = falling(points(rows + "256,eagle3,3,2.6,512,256,1000,given\n128,none,0,,9,9,1,given\n", tmp_path))
    assert (
        said == "line 5: 2,500 tokens/s at 128 users are fewer than 4,000 at 64 users (line 4): was it measured long enough?"
    )
