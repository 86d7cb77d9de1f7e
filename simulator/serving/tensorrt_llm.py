"""TensorRT-LLM 1.4, read in its documentation: `commands/trtllm-serve`, `llm-api/reference/Eagle3DecodingConfig`, and
pull request 10860, which says what `draft_len_schedule` does: before it, keys were batch sizes from which on a length
holds, and 1 had to be among them. The smallest key's length must be `max_draft_len`, and no other may exceed it
(`validate_draft_len_schedule_and_sort` of llm_args.py). Pull request 16888, open in November 2026, drafts 1 token instead
of none above the last key: a drafter that pauses misses what is decoded meanwhile, and is accepted next to never once it
goes on.

Left out are its n-gram drafts, whose look-up was not compared with ours, MTP and DFlash, whose fields were not read, and
`use_rejection_sampling`, off by default, of which it is not known here how drafts are chosen then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from simulator.serving.engine import Fields, Flags, ServedKind, ServingEngine

_ROWS = "draft_len_schedule"
_BESIDE: Final[Mapping[str, Any]] = {"kv_cache_config": {"enable_block_reuse": False}}
"""What stands beside the configuration of drafting, where nothing of prompts is to be kept."""
_KEYS = (
    "TensorRT-LLM reads a draft_len_schedule as lengths up to these batch sizes since its pull request 10860 (2026); older "
    "versions as lengths from these sizes on. Where a schedule drafts nothing, requests of that time are next to never "
    "accepted later; with its pull request 16888 it drafts 1 token there"
)


def draft_len_schedule(rows: list[tuple[int, int, int]]) -> dict[int, int]:
    """Up to which batch size how many tokens; above the last nothing is drafted, which is how it writes 0."""
    return {last: k for _, last, k in rows if k}


def _refuses(rows: list[tuple[int, int, int]]) -> str:
    """Why rows (first, last, k) cannot be written so; empty where they can."""
    drafted = [k > 0 for _, _, k in rows]
    if drafted != sorted(drafted, reverse=True) or not any(drafted):
        return "cannot leave drafting off at few requests and on at more"
    if any(k > rows[0][2] for _, _, k in rows):
        return "cannot draft more tokens at many requests than at the fewest"
    return ""


def _configuration(fields: Mapping[str, Any]) -> str:
    """Its own configuration, as YAML in one line: keys may be numbers there."""
    inner = {name: draft_len_schedule(value) if name == _ROWS else value for name, value in fields.items()}
    outer = {name: inner.pop(name) for name in _BESIDE if name in inner}
    return _flow(({"speculative_config": inner} if inner else {}) | outer)


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


TENSORRT_LLM: Final = ServingEngine(
    name="TensorRT-LLM",
    serve="trtllm-serve",
    version="1.4.0rc4",
    kinds={"eagle3": ServedKind(method="Eagle3", gpu_only=True)},
    policies=("none", "fixed", "cutoff", "k_by_batch"),
    drafting="greedy",
    flags=Flags(
        request_cap="--max_batch_size",
        step_tokens="--max_num_tokens",
        gpus="--tp_size",
        replicas="copies:",
        speculative="--config /dev/stdin <<<",
    ),
    fields=Fields(method="decoding_type", checkpoint="speculative_model", tokens="max_draft_len", batch_rows=_ROWS),
    written=_configuration,
    no_prefix_cache=_BESIDE,
    refuses_rows=_refuses,
    rows_notes=lambda rows: [_KEYS],
    longest_row=True,
    above="drafts nothing",
)
