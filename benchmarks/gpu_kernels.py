"""What a captured pass of a target is made of: `python benchmarks/gpu_kernels.py qwen3-4b` prints kernels and milliseconds.

By kind: matrix products, attention, everything else (norms, rotations, residuals, sampling), beside the time that reading
the weights takes at the bandwidth of a copy on this GPU.
"""

from __future__ import annotations

import sys
from collections import defaultdict

import torch
from torch.profiler import ProfilerActivity, profile

from drafters.random_models import random_target
from harness.hardware.attention import reads_once
from harness.hardware.bench import Bench, BenchPoint, captured

SHAPES = ((1, 1), (1, 8), (8, 8), (64, 8), (512, 8))
"""(requests, tokens of each)."""
CONTEXT, REPEATED = 16, 5


def kind(kernel: str) -> str:
    """Which group a kernel's name puts it into."""
    name = kernel.lower()
    if "flash" in name:  # its name has a product's in it
        return "attention"
    if any(word in name for word in ("gemm", "nvjet", "cutlass", "gemv", "splitkreduce", "cublas")):
        return "products"
    return "others"


def copy_bandwidth() -> float:
    """Bytes read and written a second by a copy of 2 GiB."""
    source = torch.empty(1 << 31, dtype=torch.uint8, device="cuda")
    copied = torch.empty_like(source)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    copied.copy_(source)
    first.record()
    for _ in range(REPEATED):
        copied.copy_(source)
    last.record()
    last.synchronize()
    return REPEATED * 2 * source.nbytes / (1e-3 * float(first.elapsed_time(last)))


def main() -> None:
    """Measure and print."""
    bandwidth = copy_bandwidth()
    target = random_target(sys.argv[1], dtype=torch.bfloat16, device="cuda", seed=0)
    weights = sum(p.nbytes for p in target.model.parameters())
    print(f"{torch.cuda.get_device_name()}: copies {bandwidth / 1e12:.2f} TB/s, weights {1e3 * weights / bandwidth:.2f} ms")
    print(f"{'R × tokens':>10} {'products':>16} {'attention':>16} {'others':>16}   kernels and ms of a pass")
    with torch.inference_mode(), reads_once(target):
        bench = Bench(target, {}, abreast=True)
        for requests, tokens in SHAPES:
            work = captured(bench.work(BenchPoint("target", requests, tokens, CONTEXT)), target.device)
            work()
            with profile(activities=[ProfilerActivity.CUDA]) as seen:
                for _ in range(REPEATED):
                    work()
                torch.cuda.synchronize()
            counts: defaultdict[str, int] = defaultdict(int)
            spent: defaultdict[str, float] = defaultdict(float)
            for event in seen.events() or ():
                counts[kind(event.name)] += 1
                spent[kind(event.name)] += event.device_time_total
            kinds = ("products", "attention", "others")
            cells = (f"{counts[k] // REPEATED:6} {1e-3 * spent[k] / REPEATED:9.2f}" for k in kinds)
            print(f"{requests:4} × {tokens:3} {' '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
