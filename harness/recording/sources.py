"""What the files of a pair tell against it by themselves: looked at before what takes seconds is imported, or Ray starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drafters.chat import without_template
from drafters.configs import another_target, is_drafter, lacks_template, read_config
from drafters.formats.files import read_checkpoint
from drafters.formats.places import check_files
from drafters.formats.unsupported import refuse
from drafters.gguf import is_gguf
from harness.recording.pair import HUB_ID, Pair, choose_drafters
from simulator.drafter_kinds import WEIGHTLESS
from simulator.errors import InputError

_OF_TOKENIZERS = ("tokenizer", "tokenization", "vocab", "tekken", "spiece", "merges")
"""How files of tokenizers begin."""


def check_sources(pair: Pair, wanted: list[str] | None = None, *, asked: bool = True) -> None:
    """Raise InputError where a folder is missing, is not what it stands for, or does not belong to the others.

    What the hub has or a GGUF file holds, and what no configuration tells, is judged where it is loaded.

    Args:
        wanted: names of the pair's drafters; None is all.
        asked: whether the target is asked anything, for which it needs a chat template.
    """
    target = _config_of(pair.target, "target")
    if is_drafter(target):
        raise InputError(f"target {pair.target}: is a drafter's checkpoint; give the model that it drafts for")
    if asked and target and not pair.chat_template and lacks_template(Path(pair.target)):
        raise without_template(pair.target)
    for source in choose_drafters(pair, wanted).values():
        if source in WEIGHTLESS:
            continue
        if target and Path(source).resolve() == Path(pair.target).resolve():
            raise InputError(f"checkpoint {source}: is the target itself, which drafts nothing; give a drafter's")
        check_drafter(source, target)


def check_whole(target: str, *, weights: bool = True) -> None:
    """Raise InputError where the folder of a target lacks its tokenizer's files, or its weights."""
    folder = Path(target)
    if not folder.is_dir():
        return
    files = [file.name for file in folder.iterdir()]
    if not any(name.lower().startswith(_OF_TOKENIZERS) or name.endswith((".model", ".tiktoken")) for name in files):
        raise InputError(
            f"target {target}: has no tokenizer.json, nor another tokenizer's files; put them beside its weights"
        )
    if weights and not any(name.endswith((".safetensors", ".bin", ".index.json")) for name in files):
        raise InputError(f"target {target}: has no weights (*.safetensors); put them beside its config.json")


def check_drafter(source: str, target: Mapping[str, Any]) -> None:
    """Raise InputError where a drafter's folder is missing, of no format that is read, or of another target than that of a
    configuration, which is empty where none is known."""
    if told := another_target(_config_of(source, "checkpoint"), target):
        raise InputError(f"checkpoint {source}: {told}")
    if (folder := Path(source)).is_dir():
        files = read_checkpoint(folder, source)
        refuse(files)
        files.check_types()


def check_conversion(source: str, to: str) -> None:
    """Raise InputError where a drafter's files tell by themselves that a format cannot express it."""
    check_drafter(source, {})
    if (folder := Path(source)).is_dir():
        check_files(read_checkpoint(folder, source), to)


def _config_of(source: str, what: str) -> Mapping[str, Any]:
    """The configuration in a folder; empty where that is not here yet. Raises InputError where it can be nowhere."""
    folder = Path(source)
    if folder.is_dir():
        return read_config(folder)
    if not is_gguf(source) and not HUB_ID.fullmatch(source):
        raise InputError(f"{what} {source}: no such folder")
    return {}
