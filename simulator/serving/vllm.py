"""vLLM 0.32, read in its source: `vllm/config/speculative.py`, `vllm/config/compilation.py`, `vllm/engine/arg_utils.py`."""

from __future__ import annotations

from typing import Final

from simulator.hardware.graphs import CAPTURED
from simulator.serving.engine import Fields, Flags, ServedKind, ServingEngine

VLLM: Final = ServingEngine(
    name="vLLM",
    serve="vllm serve",
    version="0.32",
    kinds={
        "dspark": ServedKind(method="dspark", gpu_only=True, note="vLLM reads vanilla heads only, not gated or rnn ones"),
        "dflash": ServedKind(
            method="dspark",
            gpu_only=True,
            note="a checkpoint of DeepSpec's has another layout than vLLM's dflash: `harness convert CHECKPOINT --to vllm "
            "--target MODEL` writes it as a dspark whose head adds nothing",
        ),
        "eagle3": ServedKind(
            method="eagle3",
            note="a checkpoint of DeepSpec's counts taps otherwise and lacks fields that vLLM reads: `harness convert "
            "CHECKPOINT --to vllm --target MODEL` writes it so",
            note_of=r"qwen3",
        ),
        "mtp": ServedKind(
            method="mtp",
            checkpoint=False,
            note="vLLM takes MTP weights from the target's own checkpoint: it must hold some",
            not_for=r"qwen3-\d+(\.\d+)?b",  # plain dense Qwen3 has no such class
        ),
        "ngram": ServedKind(  # as our own n-gram drafter looks
            method="ngram", checkpoint=False, options={"prompt_lookup_max": 4, "prompt_lookup_min": 2}
        ),
    },
    policies=("none", "fixed", "cutoff", "k_by_batch", "vllm_adaptive"),
    adaptive="vllm_adaptive",
    drafting="greedy",
    captured=CAPTURED,
    drafting_option={"sampled": "probabilistic", "greedy": "greedy"},
    flags=Flags(
        request_cap="--max-num-seqs",
        step_tokens="--max-num-batched-tokens",
        gpus="--tensor-parallel-size",
        replicas="--data-parallel-size",
        weights="--quantization",
        cache="--kv-cache-dtype",
        context="--max-model-len",
        captured="--max-cudagraph-capture-size",
        no_prefix_cache="--no-enable-prefix-caching",
        speculative="--speculative-config",
    ),
    fields=Fields(
        method="method",
        checkpoint="model",
        tokens="num_speculative_tokens",
        batch_rows="num_speculative_tokens_per_batch_size",
        adaptive="enable_adaptive_verification",
        drafting="draft_sample_method",
    ),
)
