"""Peak memory of recording two texts of the bundled pair's whole context (2,048 tokens) with all its drafters.

python benchmarks/recording_memory.py
"""

from __future__ import annotations

import resource

import numpy as np
import torch

from drafters.checkpoints import load_drafter
from drafters.dense import DenseText, record_anchors
from drafters.target import Target
from harness.recording.pair import choose_drafters, load_pair
from simulator.records import Sampling

PROMPT, GAMMA = 40, 7


def main() -> None:
    """Print gigabytes of resident memory, before and after."""
    torch.set_num_threads(1)
    pair = load_pair("tiny")
    target = Target.load(pair.target)
    drafters = [load_drafter(s, target) for name, s in choose_drafters(pair, None).items() if name != "none"]
    ids = tuple(np.random.default_rng(0).integers(5, target.vocab_size, target.max_positions).tolist())
    cut = target.max_positions - GAMMA
    texts = [DenseText(ids[:PROMPT], ids[PROMPT:cut], ids[cut:], False, (0, i)) for i in range(2)]
    print(f"loaded   {peak_gb():.2f} GB")
    record_anchors(target, drafters, texts, Sampling())
    print(f"recorded {peak_gb():.2f} GB")


def peak_gb() -> float:
    """Highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
