"""The published formats in the order in which they are tried: the first that recognises a checkpoint's files reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from drafters.formats.contract import Declared, TargetFacts
from drafters.formats.deepspec import CORES, DEEPSPEC
from drafters.formats.dflash import DFLASH
from drafters.formats.eagle3 import EAGLE3
from drafters.formats.files import Checkpoint
from drafters.formats.speculators import SPECULATORS
from drafters.formats.unsupported import refuse
from drafters.kinds.block import DSpark
from drafters.kinds.eagle3 import Eagle3
from drafters.kinds.learned import LearnedDrafter
from drafters.kinds.mtp import MTP

FORMATS: Final = (SPECULATORS, DEEPSPEC, DFLASH, EAGLE3)
_CORE: Final[Mapping[str, type[LearnedDrafter]]] = {
    "block": DSpark,
    "eagle3": Eagle3,
    "mtp": MTP,
}


def declare(of: Checkpoint, target: TargetFacts) -> Declared:
    """What a checkpoint declares, by the first format that recognises it.

    Raises InputError, naming the field, the tensor or the format, where none does or something does not fit the target.
    """
    refuse(of)
    for one in FORMATS:
        if one.recognises(of):
            declared = one.read(of, target)
            named = (declared.trained_for or "", target.architecture)
            if named[0] != named[1] and all(name.endswith("ForCausalLM") for name in named):
                raise of.fail(f"was trained for a {named[0]}, as it says, and the target is a {named[1]}")
            return declared
    if of.raw.get("auto_map"):
        raise of.fail("asks for its own code (auto_map), which is not run, and is of no format known here")
    known = [*CORES, "DFlashDraftModel", "DFlash2DraftModel", "DSparkDraftModel", "LlamaForCausalLMEagle3", "speculators'"]
    raise of.fail(f"architecture {of.architecture!r} is not one of {', '.join(known)}")


def make(declared: Declared, gamma: int) -> LearnedDrafter:
    """The drafter, with fresh weights and without tables."""
    made = _CORE[declared.core](declared.settings, gamma)
    made.format, made.assumed = declared.format, declared.assumed
    return made
