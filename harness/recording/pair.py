"""Pairs: a target and its drafters, named in a YAML file."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

import msgspec

from simulator.errors import InputError

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
    return msgspec.structs.replace(pair, target=_resolve(pair.target, path.parent), drafters=resolved)


def choose_drafters(pair: Pair, wanted: list[str] | None) -> dict[str, str]:
    """The drafters of `pair` to run, `none` first; `wanted` None takes all. Raises InputError for an unknown name."""
    available = {"none": "none", **pair.drafters}
    for drafter in wanted or []:
        if drafter not in available:
            raise InputError(f"drafter {drafter}: not in this pair, which has {', '.join(available)}")
    return {d: s for d, s in available.items() if wanted is None or d in wanted or d == "none"}


def check_hub(pair: Pair, wanted: list[str] | None = None) -> None:
    """Raise InputError within seconds where something is to come from the hub and nothing answers there.

    Its client would try again and again. What is in the cache needs no network; behind a proxy only the client can tell.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if constants.HF_HUB_OFFLINE or getproxies().keys() & {"https", "all"}:
        return
    for source in (pair.target, *choose_drafters(pair, wanted).values()):
        if source in ("none", "ngram") or Path(source).exists():
            continue
        try:
            cached = isinstance(try_to_load_from_cache(source, "config.json"), str)
        except HFValidationError:  # no name that the hub could have: told where it is loaded
            continue
        hub = urlsplit(constants.ENDPOINT)
        port = hub.port or (80 if hub.scheme == "http" else 443)
        try:
            if not cached:
                socket.create_connection((hub.hostname, port), timeout=_ANSWER_S).close()
        except OSError as error:
            raise InputError(
                f"{source}: no such folder, not in the hub's cache, and {constants.ENDPOINT} does not answer "
                f"({error.strerror or error})"
            ) from None


_ANSWER_S = 5.0
"""Seconds that the hub has to take a connection."""


def _resolve(source: str, folder: Path) -> str:
    """A path that starts with a dot is relative to the pair's file; anything else is taken as it stands."""
    return str((folder / source).resolve()) if source.startswith(".") else source
