"""Writes simulator/hardware/data/b300/deepseek-v4-flash.json from vLLM's published cost tables.

Run once: python tools/published_hardware.py FOLDER, where FOLDER holds vllm_v4flash_b300_verify_cost.csv and
vllm_v4flash_b300_draft_cost.csv, read from the vector figures of the vLLM blog of 2026-08-14.
"""

from __future__ import annotations

import csv
import sys
from itertools import accumulate
from pathlib import Path

from simulator.hardware.catalogue import DATA, devices, models
from simulator.hardware.profile import Curve, DraftCurve, Profile, dump_profile
from simulator.hardware.roofline import Assumptions, kv_capacity_tokens

NAME, GPUS, CAPTURED = "b300/deepseek-v4-flash", 4, 1024
PROVENANCE = {
    "date": "2026-08-14",
    "tables": "vLLM blog of 2026-08-14 on adaptive verification: DeepSeek-V4-Flash, tensor parallel over 4 B300, profiled "
    "at start-up, median of 5; read from its vector figures, error far below 1 %",
    "verify": "the engine's own look-up table, the running maximum of its medians: up to 11 % above the median (at 688 "
    "tokens). Graphs captured for 83 sizes up to 1024; a pass is padded up to the next",
    "eager": "medians at 1536, 2048, 4096, 8192 and 16384 tokens, running maximum. Below 1536 nothing is published: held "
    "at 104.5 ms, because a pass outside of graphs waits for the host's launches. Support: without speculation "
    "the median time per token at 16 users is 9.278 ms; less the captured pass (5.592) and what a step takes "
    "beyond it at one user (0.742), over 512 output tokens and 16 prompts, a step with prefill takes 94 ms more "
    "than one without; the curve says 99",
    "context": "the tables were made at a context of 8192 tokens, which is in them: context_s_per_token is 0, and other "
    "contexts cost the same. Nothing is known of prefill's attention: prefill_s_per_pair is 0",
    "draft": "timed over requests for a whole block, 7 tokens in the engine's tests; the same is taken for 5",
    "overhead": "0.742 ms: median time per token of one user without speculation, 5.851 ms (same blog), less the pass at "
    "one token, 5.109 ms. Host work for each request is not published: 0",
    "kv_capacity_tokens": "not published: the arithmetic of simulator/hardware/roofline.py for 4 × 288 GB beside DSpark, "
    "cache replicated",
}


def published(folder: Path) -> Profile:
    """The profile: vLLM's look-up tables, which are running maxima of medians of five."""
    verify = _table(folder / "vllm_v4flash_b300_verify_cost.csv", "tokens")
    draft = _table(folder / "vllm_v4flash_b300_draft_cost.csv", "requests")
    device, model = devices()["b300"], models()["deepseek-v4-flash"]
    inside = {tokens: s for tokens, s in verify.items() if tokens <= CAPTURED}
    outside = {tokens: s for tokens, s in verify.items() if tokens > CAPTURED}
    drafting = _curve(draft)
    return Profile(
        name=NAME,
        device="4 × NVIDIA B300",
        model=model.name,
        source="published",
        provenance=PROVENANCE,
        kv_capacity_tokens=kv_capacity_tokens(device, model, GPUS, Assumptions(context_tokens=8192), "dspark"),
        verify=_curve(inside),
        eager=_curve(outside),
        captured_tokens=tuple(inside),
        draft={"dspark": DraftCurve((5, 7), (drafting, drafting), block=True)},
        free_drafters=("none", "ngram"),
        gpus=GPUS,
        overhead_s=0.742e-3,
    )


def _table(file: Path, by: str) -> dict[int, float]:
    """Size → seconds, rising."""
    with file.open() as lines:
        medians = [(int(row[by]), float(row["cost_ms"])) for row in csv.DictReader(lines) if row["kind"] == "median"]
    sizes, costs = zip(*sorted(medians), strict=True)
    return {size: round(ms * 1e-3, 9) for size, ms in zip(sizes, accumulate(costs, max), strict=True)}


def _curve(table: dict[int, float]) -> Curve:
    return Curve(tuple(table), tuple(table.values()))


if __name__ == "__main__":
    (DATA / f"{NAME}.json").write_text(dump_profile(published(Path(sys.argv[1]))) + "\n", encoding="utf-8")
