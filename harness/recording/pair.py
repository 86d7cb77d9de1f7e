"""Pairs: a target and its drafters, named in a YAML file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from harness import stops
from simulator.drafter_kinds import WEIGHTLESS
from simulator.errors import InputError, first_paragraph

BUNDLED_PAIRS = Path(__file__).parent / "pairs"


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a recording runs. Sources are folders (relative to the pair's file), hub ids, or `ngram`."""

    target: str
    drafters: dict[str, str]
    """Name in reports → checkpoint."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto` is bfloat16 where the device computes in it by itself, else float32."""
    device: str = "auto"
    """`auto` is the GPU where there is one."""

    def __post_init__(self) -> None:
        if "none" in (*self.drafters, *self.drafters.values()):
            raise ValueError("drafters: 'none' is always there as the baseline; leave it out")


def load_pair(name: str) -> Pair:
    """Read a pair: the path of a YAML file, or the name of a bundled pair. Raises InputError."""
    known = sorted(f.stem for f in BUNDLED_PAIRS.glob("*.yaml"))
    path = BUNDLED_PAIRS / f"{name}.yaml" if name in known else Path(name)
    if not path.is_file():
        raise InputError(f"pair {name}: no such file, and no bundled pair of that name (bundled: {', '.join(known)})")
    try:
        pair = msgspec.yaml.decode(path.read_bytes(), type=Pair)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}") from None
    except (msgspec.DecodeError, OSError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    resolved = {drafter: _resolve(source, path.parent) for drafter, source in pair.drafters.items()}
    target = _resolve(pair.target, path.parent)
    if pair.target in known and not Path(target).exists():  # that of the bundled pair
        target = load_pair(pair.target).target
    return msgspec.structs.replace(pair, target=target, drafters=resolved)


def choose_drafters(pair: Pair, wanted: list[str] | None) -> dict[str, str]:
    """The drafters of `pair` to run, `none` first; `wanted` None takes all. Raises InputError for an unknown name."""
    available = {"none": "none", **pair.drafters}
    for drafter in wanted or []:
        if drafter not in available:
            raise InputError(f"drafter {drafter}: not in this pair, which has {', '.join(available)}")
    return {d: s for d, s in available.items() if wanted is None or d in wanted or d == "none"}


def check_hub(pair: Pair, wanted: list[str] | None = None, say: Callable[[str], None] = stops.say) -> None:
    """Raise InputError within seconds where something is to come from the hub and nothing answers there.

    What downloads would try again and again. What is in the cache needs no network.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    for source in (pair.target, *choose_drafters(pair, wanted).values()):
        if source in WEIGHTLESS or Path(source).exists() or constants.HF_HUB_OFFLINE:
            continue
        try:
            if not isinstance(try_to_load_from_cache(source, "config.json"), str):
                say(f"looking for {source} on the hub")
                HfApi().model_info(source, timeout=_ANSWER_S)
        except (HfHubHTTPError, HFValidationError):  # it answers, or can have no such name: told where it is loaded
            continue
        except Exception as error:  # of whatever library its client asks with
            why = first_paragraph(error)
            raise InputError(
                f"{source}: no such folder, not in the hub's cache, and {constants.ENDPOINT} does not answer ({why})"
            ) from None


_ANSWER_S = 5.0
"""Seconds that the hub has to take a connection, and to answer on it."""


def _resolve(source: str, folder: Path) -> str:
    """A path that starts with a dot is relative to the pair's file; anything else is taken as it stands."""
    return str((folder / source).resolve()) if source.startswith(".") else source
