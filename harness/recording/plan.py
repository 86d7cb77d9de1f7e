"""What a run computes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from harness.recording.pair import Pair
from harness.recording.pair import pair_name as name_of_pair
from harness.recording.suite import Generation
from simulator.records import DRAFTINGS, MAX_GAMMA, Drafting


class RecordingPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that decides what a run computes. Kept with the run; `--resume` starts from it."""

    suite: str
    pair: str | Pair
    """A pair's name or file, or what the command line says of it."""
    data_dir: str | None = None
    source: Literal["bundled", "hub"] = "bundled"
    limit: int | None = None
    drafters: list[str] | None = None
    """Names in the pair; None is all of them."""
    mode: Literal["dense", "live"] = "dense"
    """Record what every drafter would do at every token of the target's own responses, or decode with each drafter."""
    block_sizes: list[int] | None = None
    """γ to record for every drafter; None leaves each its own."""
    responses: str | list[str] | None = None
    """File of responses that another engine produced, or several; None generates them."""
    responses_hash: str | None = None
    """Hash of what the files of responses held when the run began."""
    fresh_tails: bool = False
    """Also record a second, free draft of every anchor, for policies that look at unverified old confidences."""
    drafting: tuple[Drafting, ...] = ("sampled",)
    """Ways to draft that are recorded; drafters are timed drafting the first way."""
    generation: Generation | None = None
    """Overrides the suite's."""
    batch: int = 24
    """Prompts recorded together."""
    seed: int = 0
    speed_passes: int = 2
    """How often one prompt of each task is timed, alone, with every drafter; 0 skips the live pass."""
    skipped: list[str] = []
    """Prompts left out because they do not fit the target's context."""

    @property
    def responses_files(self) -> list[Path]:
        """Files of responses that another engine produced; none where they are generated."""
        named = self.responses if isinstance(self.responses, list) else [self.responses]
        return [Path(name) for name in named if name]

    @property
    def responses_option(self) -> str:
        """The files as sentences name them."""
        return f"--responses {' '.join(map(str, self.responses_files))}"

    @property
    def pair_name(self) -> str:
        """The pair's name in reports."""
        return name_of_pair(self.pair)

    def __post_init__(self) -> None:
        sizes = self.block_sizes or []
        if self.block_sizes is not None and (not sizes or not 1 <= min(sizes) <= max(sizes) <= MAX_GAMMA):
            raise ValueError(f"block sizes must be from 1 to {MAX_GAMMA}, got {','.join(map(str, sizes)) or 'none'}")
        if len(set(sizes)) < len(sizes):
            raise ValueError(f"block sizes must differ, got {','.join(map(str, sizes))}")
        for option, value, least in (
            ("--batch", self.batch, 1), ("--seed", self.seed, 0), ("--speed-passes", self.speed_passes, 0)
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{option} {value}: must be {least} or more")
        if not self.drafting or len(set(self.drafting)) < len(self.drafting) or set(self.drafting) - set(DRAFTINGS):
            raise ValueError(f"--drafting {','.join(self.drafting)}: is written sampled, greedy or sampled,greedy")
        if self.mode == "live" and (self.responses or self.fresh_tails):
            raise ValueError("responses of another engine and fresh tails are for dense recording; leave --mode live out")
