"""SGLang 0.5.23, read in its source: `srt/arg_groups/fields/`, `srt/arg_groups/speculative_hook.py`, `srt/speculative/`;
sizes that it captures as `_generate_decode_cuda_graph_batch_sizes` has them with a drafter, up to what memory allows.

Left out are its n-gram drafts, which grow a trie over all requests, and its DFLASH, whose checkpoints have another layout
than DeepSpec's: what was recorded here says nothing of either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from simulator.serving.engine import Fields, Flags, ServedKind, ServingEngine

_ALGORITHM, _STEPS, _ROWS = "speculative_algorithm", "speculative_num_steps", "speculative_adaptive_config"
_SAMPLED = "speculative_use_rejection_sampling"
_STEPS_FILE = "adaptive_steps.json"


def _spelled(fields: Mapping[str, Any]) -> list[str]:
    """Words of the command. A chain of k drafted tokens is k steps of one candidate each, and k + 1 tokens to verify."""
    others = {name: value for name, value in fields.items() if name not in (_STEPS, _ROWS, _SAMPLED)}
    words = [f"{_flag(name)} {value}" for name, value in others.items()]
    k = fields[_STEPS]
    if fields[_ALGORITHM] == "DSPARK":
        return [*words, f"--speculative-dspark-block-size {k}"]
    words += [f"{_flag(_STEPS)} {k}", "--speculative-eagle-topk 1", f"--speculative-num-draft-tokens {k + 1}"]
    if fields.get(_SAMPLED):
        words.append(_flag(_SAMPLED))
    return [*words, "--speculative-adaptive", f"{_flag(_ROWS)} {_STEPS_FILE}"] if _ROWS in fields else words


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def adaptive_steps(rows: list[tuple[int, int, int]]) -> dict[str, dict[str, list[int]]]:
    """Its file of candidate steps from a batch size on; with one candidate each it is k by batch size, and nothing moves.
    It rounds a batch up to the size of a captured graph before it looks."""
    return {str(first): {"candidate_steps": [k]} for first, _, k in rows}


def _captured(batch: int) -> int:
    """The size of the captured graph that a batch of drafts runs in, of those that it captures unless told."""
    steps = ((8, 1), (32, 2), (40, 40), (64, 4), (256, 8))
    step = next((step for end, step in steps if batch <= end), 16)
    return -(-batch // step) * step


def _rounded(rows: list[tuple[int, int, int]]) -> list[str]:
    """At which numbers of requests another row (first, last, k) than theirs decides, as a batch is rounded up first."""
    told = []
    for (first, last, k), after in pairwise(rows):
        moved = [n for n in range(first, last + 1) if _captured(n) >= after[0]]
        if moved:
            where = f"{moved[0]} to {last}" if len(moved) > 1 else str(last)
            then = next(k for first, _, k in reversed(rows) if first <= _captured(last))
            told.append(
                f"SGLang rounds a batch up to a captured size before it looks: with {where} running it drafts {then} and "
                f"not {k}, unless {last} is among the sizes of --cuda-graph-bs-decode"
            )
    return told


def _files(fields: Mapping[str, Any]) -> dict[str, str]:
    return {_STEPS_FILE: json.dumps(adaptive_steps(fields[_ROWS]))} if _ROWS in fields else {}


SGLANG: Final = ServingEngine(
    name="SGLang",
    serve="python -m sglang.launch_server --model-path",
    version="0.5.23",
    kinds={
        "eagle3": ServedKind(method="EAGLE3"),
        "mtp": ServedKind(
            method="EAGLE",
            checkpoint=False,
            note="SGLang takes MTP weights from the target's own checkpoint: it must hold some",
            not_for=r"qwen3-\d+(\.\d+)?b",  # plain dense Qwen3 has none
        ),
        "dspark": ServedKind(method="DSPARK", gpu_only=True, policies=("none", "fixed"), drafting="sampled"),
    },
    policies=("none", "fixed", "cutoff", "k_by_batch"),
    drafting="greedy",
    drafting_option={"sampled": True, "greedy": False},
    flags=Flags(
        request_cap="--max-running-requests",
        step_tokens="--chunked-prefill-size",  # of a step's prompts alone
        gpus="--tp-size",
        replicas="--dp-size",
        no_prefix_cache="--disable-radix-cache",
    ),
    fields=Fields(
        method=_ALGORITHM, checkpoint="speculative_draft_model_path", tokens=_STEPS, batch_rows=_ROWS, drafting=_SAMPLED
    ),
    spell=_spelled,
    files=_files,
    rows_notes=_rounded,
    longest_row=True,  # its buffers are of the file's steps, and it begins with the command's
)


def sts_json(temperatures: Sequence[float], dataset: str, samples: int) -> str:
    """Its calibration of confidences, a temperature a position: `DSparkStsCalibration` of dspark_sts.py.

    Raises ValueError for temperatures that it refuses.
    """
    if not temperatures or min(temperatures) <= 0:
        raise ValueError("temperatures above 0 are needed")
    return json.dumps({"temperatures": list(temperatures), "dataset": dataset, "num_samples": samples})


def sps_json(seconds: Mapping[int, float]) -> str:
    """Its table of steps a second by tokens of a target pass, from seconds by tokens: `SpsCostTable` of dspark_sps.py.

    It reads the row at or below a number of tokens, and takes a table of one row for none: ValueError.
    """
    if len(seconds) < 2:
        raise ValueError("a table needs two rows")
    tokens = sorted(seconds)
    table = {"sample_batch_tokens": tokens, "sample_steps_per_sec": [1 / seconds[n] for n in tokens]}
    return json.dumps(table | {"max_batch_tokens": tokens[-1]})
