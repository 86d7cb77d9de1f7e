"""`python -m drafters.training`: make the tiny pair from text, on a CPU or a GPU. Every stage resumes where it stopped."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import torch

from drafters.target import Target
from drafters.training import corpus
from drafters.training.card import write_drafter_card, write_target_card
from drafters.training.drafter import TRAINING, drafter_config, train_drafter
from drafters.training.onpolicy import generate, read_examples
from drafters.training.target import train_target
from drafters.training.trainer import Schedule
from simulator.errors import InputError

TAPS, BLOCK, LAYERS, RANK = (0, 2, 4, 6), 7, 2, 64


_TARGET_STEPS, _RESPONSES_A_DOMAIN = 4800, 3000
"""The shipped pair's recipe; drafters' steps are theirs."""


def main() -> None:
    """Parse the command line and run the stages that are not done yet."""
    parser = argparse.ArgumentParser(prog="python -m drafters.training", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of *.jsonl: domain, source, prompt, response")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pair; training state is kept there too")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor on every stage's length (0.5: an hour on two cores)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--only", choices=["target", "responses", *TRAINING, "cards"], help="run this stage alone")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stages = [args.only] if args.only else ["target", "responses", *TRAINING, "cards"]
    try:
        for stage in stages:
            run_stage(stage, args.scale, args.data, args.out, args.seed, args.device)
    except InputError as error:
        parser.error(str(error))
    except KeyboardInterrupt:  # state is written every two minutes, answers a part at a time
        print("stopped; the same command goes on from what was last kept", file=sys.stderr)
        sys.exit(130)


def run_stage(stage: str, scale: float, data: Path, out: Path, seed: int, device: str) -> None:
    """One stage, its length `scale` times the shipped pair's; those before it must be done."""

    def scaled(length: int) -> int:
        return max(1, round(length * scale))

    responses = out / "responses.jsonl"
    if stage == "target":
        if not (out / "target" / "model.safetensors").exists():
            train_target(data, out / "target", scaled(_TARGET_STEPS), seed, device=device)
        return
    # Generation is much faster in bfloat16 where the CPU has it; drafters are trained against the weights in float32.
    dtype = torch.bfloat16 if stage == "responses" else torch.float32
    target = Target.load(str(out / "target"), dtype=dtype, device=device)
    if stage == "responses":
        generate(target, _prompts(data, scaled(_RESPONSES_A_DOMAIN), seed), responses, seed)
    elif stage == "cards":
        documents = corpus.read_documents(data)
        write_target_card(target, out / "target", seed, documents)
        for kind in TRAINING:
            write_drafter_card(kind, target, out / kind, seed, documents)
    elif not (out / stage / "model.safetensors").exists():
        config = drafter_config(stage, target, TAPS, layers=LAYERS, block=BLOCK, rank=RANK)
        schedule = Schedule(scaled(TRAINING[stage].steps))
        train_drafter(stage, target, read_examples(responses), config, out / stage, schedule, seed)


def _prompts(data: Path, count: int, seed: int) -> list[corpus.Document]:
    """`count` training documents of each domain, shuffled."""
    documents = [d for d in corpus.read_documents(data) if not corpus.is_held_out(d)]
    order = random.Random(seed)
    order.shuffle(documents)
    chosen = [d for domain in ("math", "code", "chat") for d in [d for d in documents if d.domain == domain][:count]]
    order.shuffle(chosen)
    return chosen


if __name__ == "__main__":
    main()
