"""What a training is made of, as far as files tell it. Needs no model library."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import msgspec

from drafters.training.recipe import Design, Recipe
from harness.recording.pair import Pair
from harness.recording.responses import GivenResponse, every_response
from harness.recording.suite import Generation, Prompt, read_prompts
from simulator.errors import InputError
from simulator.records import Sampling

PLAN = "plan.json"
_NEEDED = ("pandas", "fsspec", "requests", "tensorboardX")
"""What Ray Train imports beside Ray."""


class TrainingPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that decides what comes out."""

    pair: Pair
    """The target, without drafters."""
    design: Design
    recipe: Recipe
    responses: tuple[str, ...]
    """Files."""
    responses_hash: str
    prompts: tuple[str, ...] = ()
    """Files of what was asked, where those of responses do not say."""
    prompts_hash: str = ""
    thinking: bool = False
    start: str | None = None
    """A checkpoint to go on from, in place of a design's sizes."""
    processes: int = 1
    shard: bool = False
    """Whether each process holds a share of the target's layers."""
    to: str = ""
    """The checkpoint's folder; empty for one in `--out`."""

    @property
    def name(self) -> str:
        """By which it is known, and resumed."""
        said = msgspec.to_builtins(self)
        for name in ("shard", "prompts_hash"):  # as plans were named before there were these
            if not said[name]:
                del said[name]
        return hashlib.sha256(msgspec.json.encode(said)).hexdigest()[:8]


class Given(msgspec.Struct, frozen=True):
    """What files hold."""

    sampling: Sampling
    responses: list[GivenResponse]
    prompts: dict[str, Prompt]
    """By id, of responses that do not say what was asked."""


def read_given(responses: Sequence[Path], prompts: Sequence[Path]) -> Given:
    """Responses, and what was asked. Raises InputError where a file is not right, or a response's prompt is not known."""
    sampling, found = every_response(responses)
    known = {p.prompt_id: p for p in read_prompts(prompts)} if prompts else {}
    bare = [r for r in found if is_bare(r)]
    if bare and not prompts:
        raise InputError(
            f"--responses: {bare[0].prompt_id}, turn {bare[0].turn}: does not say what was asked (prompt_token_ids); name "
            "the prompts' file with --prompts"
        )
    if lost := next((r for r in bare if r.prompt_id not in known or r.turn >= len(known[r.prompt_id].turns)), None):
        raise InputError(f"--prompts: have no {lost.prompt_id}, turn {lost.turn}, which --responses answer")
    turns = {(r.prompt_id, r.turn) for r in found}
    if lost := next((r for r in bare if any((r.prompt_id, t) not in turns for t in range(r.turn))), None):
        raise InputError(f"--responses: have turn {lost.turn} of {lost.prompt_id}, and not all before it")
    return Given(sampling, found, known)


def check_asked(plan: TrainingPlan, given: Given) -> None:
    """Raise InputError for what says how answers were asked for, where they all say what stood before them."""
    if any(map(is_bare, given.responses)):
        return
    why = "is of no use beside --responses that say themselves what was asked (prompt_token_ids); leave it out"
    if plan.thinking:
        raise InputError(f"--thinking: {why}")
    if plan.prompts and not any(r.prompt_id in given.prompts and not isinstance(r.domain, str) for r in given.responses):
        raise InputError(f"--prompts: {why}")


def is_bare(response: GivenResponse) -> bool:
    """Whether a response does not say itself what stood before it."""
    return response.prompt_token_ids is msgspec.UNSET


def hash_of(paths: Sequence[Path]) -> str:
    """SHA-256 over files' contents, in their order. Raises InputError."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def generation_of(plan: TrainingPlan, given: Given) -> Generation:
    """How the answers were generated, as far as their contexts depend on it."""
    drawn = given.sampling
    return Generation(temperature=drawn.temperature, top_p=drawn.top_p, top_k=drawn.top_k, thinking=plan.thinking)


def folder_of(out: Path, name: str) -> Path:
    """Where a training keeps what it goes on from."""
    return out / "unfinished" / f"training-{name}"


def keep_plan(plan: TrainingPlan, folder: Path) -> None:
    """Write a plan where `--resume` looks for it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PLAN).write_bytes(msgspec.json.format(msgspec.json.encode(plan)))


def kept_plan(out: Path, name: str) -> TrainingPlan:
    """The plan of a training that was stopped, by its name or the start of one. Raises InputError."""
    base = out / "unfinished"
    found = sorted(f for f in base.glob("training-*") if f.name.removeprefix("training-").startswith(name)) if name else []
    if len(found) != 1:
        known = ", ".join(sorted(f.name.removeprefix("training-") for f in base.glob("training-*"))) or "none"
        raise InputError(f"--resume {name}: is not the start of one training that was stopped in {out} ({known})")
    try:
        plan = msgspec.json.decode((found[0] / PLAN).read_bytes(), type=TrainingPlan)
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise InputError(f"{found[0] / PLAN}: cannot be read ({error})") from None
    if (
        plan.name != found[0].name.removeprefix("training-")
        or hash_of([Path(p) for p in plan.responses]) != plan.responses_hash
    ):
        raise InputError(f"--resume {name}: the answers have changed since it began; begin anew")
    if plan.prompts_hash and hash_of([Path(p) for p in plan.prompts]) != plan.prompts_hash:
        raise InputError(f"--resume {name}: what was asked (--prompts) has changed since it began; begin anew")
    return plan


def check_installed() -> None:
    """Raise InputError where Ray Train cannot be imported; without a look at it, which takes seconds."""
    if lacking := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise InputError(f"--processes: Ray Train needs {', '.join(lacking)}; pip install 'specyard[train]'")


def checkpoint_of(plan: TrainingPlan, out: Path) -> Path:
    """Where the checkpoint will be."""
    return Path(plan.to) if plan.to else out / "drafters" / f"{plan.design.kind}-{plan.name}"
